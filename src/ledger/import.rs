//! What another broker promised, written as if it had been accepted here. Each row is one transaction, and one that is
//! there already is left as it is, so any number of imports may follow each other, whenever they end.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    InstanceId, Ledger, LedgerError, MemberState, PlanId, ServiceId, WebhookTarget, instances, listen, webhooks,
};

/// The request that an import is in the history of an instance.
const CALLER: &str = "cache-broker import";

/// An instance of another broker.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedInstance {
    /// Its OSB id.
    pub id: InstanceId,
    /// The OSB service.
    pub service_id: ServiceId,
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan that it counts as an instance of.
    pub plan_revision: i64,
    /// For which organization; empty if that was not written down.
    pub organization_guid: String,
    /// When it was ordered.
    pub created_at: Timestamp,
    /// Whether it exists, or existed.
    pub standing: Standing,
}

/// Whether an instance of another broker exists.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It was given back.
    Gone {
        /// When.
        at: Timestamp,
    },
    /// It exists, or is being made.
    Present {
        /// The cache's id in the provider.
        provider_id: String,
        /// Namespace of its resource.
        namespace: String,
        /// Name of its resource.
        name: String,
        /// What its platform still waits for.
        awaited: Option<Awaited>,
    },
}

/// The end of a provision that a platform still waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Awaited {
    /// Whether the cache was usable when it was imported.
    pub usable: bool,
    /// Where to tell.
    pub webhook: Option<WebhookTarget>,
    /// How long it may take.
    pub deadline: Duration,
}

/// A cache that another broker made ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedMember {
    /// Its id.
    pub id: Uuid,
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan that it counts as an instance of.
    pub plan_revision: i64,
    /// The cache's id in the provider.
    pub provider_id: String,
    /// Namespace of its resource.
    pub namespace: String,
    /// Name of its resource.
    pub name: String,
}

/// What the ledger holds of instances that an import may meet again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Every instance, by its OSB id.
    pub instances: BTreeMap<String, HeldInstance>,
    /// Every member of a pool that was imported, by the cache's id in the provider.
    pub members: BTreeMap<String, HeldMember>,
    /// How many members each plan's pool has, by the name of the `CachePlan`.
    pub pools: BTreeMap<String, usize>,
    /// The plans' specs by OSB plan id, the newest revision first.
    pub revisions: BTreeMap<String, Vec<(i64, Value)>>,
}

/// An instance that the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldInstance {
    /// The cache that it took over, if it did.
    pub adopt: Option<String>,
    /// Whether it was given back.
    pub gone: bool,
}

/// A member of a pool that the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldMember {
    /// The OSB instance that it was handed out as.
    pub claimed_by: Option<String>,
}

impl Ledger {
    /// What an import may meet again.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn holdings(&self) -> Result<Holdings, LedgerError> {
        let attempt = async {
            let client = self.client().await?;
            let refused = || LedgerError::statement("reading what was imported before");
            let mut holdings = Holdings::default();
            let tables = client.query_one(
                "select count(*) from information_schema.columns
                  where table_schema = current_schema() and table_name = 'pool_members' and column_name = 'adopt'",
                &[],
            );
            if tables.await.map_err(refused())?.get::<_, i64>(0) == 0 {
                // Before the first migration nothing is held.
                return Ok(holdings);
            }
            let rows = client.query("select id, adopt, deleted_at is not null from instances", &[]);
            for row in rows.await.map_err(refused())? {
                let held = HeldInstance {
                    adopt: row.get(1),
                    gone: row.get(2),
                };
                holdings.instances.insert(row.get(0), held);
            }
            let rows = client.query("select adopt, claimed_by, plan_name, state from pool_members", &[]);
            for row in rows.await.map_err(refused())? {
                let (adopt, plan, state): (Option<String>, String, String) = (row.get(0), row.get(2), row.get(3));
                let kept = [MemberState::Retired, MemberState::Claimed].map(MemberState::as_str);
                if !kept.contains(&state.as_str()) {
                    *holdings.pools.entry(plan).or_default() += 1;
                }
                if let Some(adopt) = adopt.filter(|_| state != MemberState::Retired.as_str()) {
                    holdings.members.insert(adopt, HeldMember { claimed_by: row.get(1) });
                }
            }
            let statement = "select plan_id, revision, spec from plan_revisions where spec is not null \
                             order by plan_id, revision desc";
            for row in client.query(statement, &[]).await.map_err(refused())? {
                let revisions = holdings.revisions.entry(row.get(0)).or_default();
                revisions.push((row.get(1), row.get(2)));
            }
            Ok(holdings)
        };
        self.within("reading what was imported before", attempt).await
    }

    /// What was imported and is not taken over yet: its id, and what is known of it.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn not_taken_over(&self) -> Result<Vec<(String, String)>, LedgerError> {
        let attempt = async {
            let client = self.client().await?;
            let statement = "select id, coalesce(message, outbox_error, 'its CacheInstance is not written yet')
                               from instances
                              where adopt is not null and desired = 'present' and deleted_at is null and not ready
                              union all
                             select id::text, 'it is made ahead, and not ready in its pool yet'
                               from pool_members
                              where adopt is not null and state not in ('ready', 'claimed', 'retired')
                              order by 1";
            let rows = client.query(statement, &[]).await;
            let rows = rows.map_err(LedgerError::statement("reading what is taken over"))?;
            Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
        };
        self.within("reading what is taken over", attempt).await
    }

    /// Writes an instance of another broker. `false` if one of that id is there already, which stays as it is.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn import_instance(&self, new: &ImportedInstance) -> Result<bool, LedgerError> {
        let written = self.within("importing an instance", self.write_import(new)).await?;
        if written && matches!(new.standing, Standing::Present { .. }) {
            self.outbox.notify_one();
        }
        Ok(written)
    }

    async fn write_import(&self, new: &ImportedInstance) -> Result<bool, LedgerError> {
        let id = &new.id;
        let refused = || LedgerError::statement(format!("importing instance {id}"));
        let parameters = self.seal_json(&instances::parameters_place(id), &Map::<String, Value>::new())?;
        let name_of_tombstone = super::resource_name(id);
        let (provider_id, namespace, name, awaited, gone_at) = match &new.standing {
            Standing::Gone { at } => (None, "", name_of_tombstone.as_str(), None, Some(*at)),
            Standing::Present {
                provider_id,
                namespace,
                name,
                awaited,
            } => (
                Some(provider_id),
                namespace.as_str(),
                name.as_str(),
                awaited.as_ref(),
                None,
            ),
        };
        let webhook = match awaited.and_then(|awaited| awaited.webhook.as_ref()) {
            Some(target) => Some(self.seal_json(&instances::webhook_place(id), target)?),
            None => None,
        };
        let usable = awaited.is_none_or(|awaited| awaited.usable);
        let (desired, applied, reason, message) = match gone_at {
            Some(_) => ("absent", 1_i64, "Deleted", None),
            None => (
                "present",
                0,
                "Creating",
                Some("being taken over from the broker before"),
            ),
        };
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(refused())?;
        let written = tx
            .query_opt(
                "insert into instances (id, service_id, plan_id, plan_name, plan_revision, organization_guid,
                    space_guid, parameters, webhook, namespace, name, adopt, adopt_plan, adopt_revision, created_at,
                    provisioned_at, deleted_at, desired, applied_revision, reason, message)
                 values ($1, $2, $3, $4, $5, $6, '', $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
                 on conflict do nothing returning desired_revision",
                &[
                    &id.as_str(),
                    &new.service_id.as_str(),
                    &new.plan_id.as_str(),
                    &new.plan_name,
                    &new.plan_revision,
                    &new.organization_guid,
                    &parameters,
                    &webhook,
                    &namespace,
                    &name,
                    &provider_id,
                    &provider_id.map(|_| &new.plan_name),
                    &provider_id.map(|_| new.plan_revision),
                    &new.created_at,
                    &usable.then_some(new.created_at),
                    &gone_at,
                    &desired,
                    &applied,
                    &reason,
                    &message,
                ],
            )
            .await
            .map_err(refused())?;
        let Some(written) = written else {
            return Ok(false);
        };
        let revision: i64 = written.get(0);
        let mut operation = None;
        if let Some(awaited) = awaited {
            let begun = Uuid::new_v4();
            operation = Some(begun);
            tx.execute(
                "insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
                 values ($1, $2, 'provision', $3, clock_timestamp(),
                    clock_timestamp() + make_interval(secs => $4::double precision))",
                &[&begun, &id.as_str(), &revision, &awaited.deadline.as_secs_f64()],
            )
            .await
            .map_err(refused())?;
            if let Some(target) = &awaited.webhook {
                webhooks::arm(self, &tx, id, begun, target).await?;
            }
        }
        tx.execute(
            "insert into audit (instance_id, request, caller, plan_id, parameters, status, operation_id)
             values ($1, 'import', $2, $3, '{}', 200, $4)",
            &[&id.as_str(), &CALLER, &new.plan_id.as_str(), &operation],
        )
        .await
        .map_err(refused())?;
        if provider_id.is_some() {
            listen::notify(&tx, listen::OUTBOX).await?;
        }
        tx.commit().await.map_err(refused())?;
        Ok(true)
    }

    /// Writes a cache that another broker made ahead. `false` if it is there already.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn import_member(&self, new: &ImportedMember) -> Result<bool, LedgerError> {
        let attempt = async {
            let refused = LedgerError::statement(format!("importing {} into a pool", new.provider_id));
            let client = self.client().await?;
            let written = client
                .execute(
                    "insert into pool_members (id, plan_id, plan_name, plan_revision, namespace, name, adopt)
                     values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
                    &[
                        &new.id,
                        &new.plan_id.as_str(),
                        &new.plan_name,
                        &new.plan_revision,
                        &new.namespace,
                        &new.name,
                        &new.provider_id,
                    ],
                )
                .await
                .map_err(refused)?;
            Ok(written > 0)
        };
        self.within("importing a member of a pool", attempt).await
    }
}
