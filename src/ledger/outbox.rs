//! Rows whose desired revision is ahead of the applied one, and the marks that the outbox leaves on them.

use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::operations::{self, Operation, OperationKind, Outcome, Remains};
use super::{InstanceId, Ledger, LedgerError, Originating, PlanId, acceptance, instances};
use crate::ambient;

/// Whether an instance's custom resource is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It is to exist as the row says.
    Present,
    /// It is to be deleted.
    Absent,
}

/// A cache that another broker made and the instance takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Its id in the provider.
    pub provider_id: String,
    /// The name of the `CachePlan` that it counts as an instance of as it was found.
    pub plan_name: String,
    /// The revision of that plan.
    pub plan_revision: i64,
}

/// An instance whose custom resource is to be written.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// The OSB instance.
    pub instance: InstanceId,
    /// The OSB plan.
    pub plan: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// Its revision.
    pub plan_revision: i64,
    /// The platform's organization.
    pub organization: String,
    /// The platform's space.
    pub space: String,
    /// The platform's context object.
    pub context: Value,
    /// The tenant's parameters.
    pub parameters: Map<String, Value>,
    /// The latest restart that was asked for.
    pub restart_at: Option<Timestamp>,
    /// What the cache is to be filled from.
    pub restore: Option<String>,
    /// The cache that exists and is taken over.
    pub adopt: Option<Adoption>,
    /// The backup that is to be made, and the operation that makes it.
    pub backup: Option<(String, Uuid)>,
    /// The operation that was accepted last.
    pub operation: Option<Uuid>,
    /// The platform's id of the request that was accepted last.
    pub request_identity: Option<String>,
    /// The platform's user behind it.
    pub originating: Option<Originating>,
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// Whether it is to exist.
    pub desired: Desired,
    /// The revision that the row is at.
    pub revision: i64,
    /// How often it was tried, this time included.
    pub attempts: i32,
    /// Shared by the rows that were taken together.
    pub claim: Uuid,
}

/// What a resource says that was written from a revision its row does not have yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Later {
    /// The revision.
    pub revision: i64,
    /// The plan, if its OSB id is known.
    pub plan: Option<LaterPlan>,
    /// The tenant's parameters.
    pub parameters: Map<String, Value>,
    /// The latest restart.
    pub restart_at: Option<Timestamp>,
    /// What the cache was filled from.
    pub restore: Option<String>,
}

/// A plan, as a resource names it.
#[derive(Clone, Debug, PartialEq)]
pub struct LaterPlan {
    /// Its OSB id.
    pub id: PlanId,
    /// The name of the `CachePlan`.
    pub name: String,
    /// Its revision.
    pub revision: i64,
}

impl Ledger {
    /// Takes up to `limit` due rows for the length of a lease; a row that is neither marked nor held on to by then is due
    /// again. One that cannot be read is logged, and comes up again.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn claim_outbox(&self, limit: usize, lease: Duration) -> Result<Vec<OutboxItem>, LedgerError> {
        self.within("claiming rows of the outbox", async {
            let (claim, limit) = (ambient::id(), i64::try_from(limit).unwrap_or(i64::MAX));
            let client = self.client().await?;
            let refused = LedgerError::statement("claiming rows of the outbox");
            let rows = async {
                let statement = client
                .prepare_cached(
                    "with due as (select id from instances
                                where applied_revision < desired_revision and outbox_due_at <= now()
                                order by outbox_due_at limit $1 for update skip locked),
                  asked as (select due.id as asked_id, audit.platform, audit.identity, audit.request_identity,
                                   audit.operation_id as asked_operation,
                                   making.backup, making.id as backup_operation
                              from due left join operations making on making.instance_id = due.id
                                   and making.kind = 'backup' and making.state = 'in_progress' left join lateral (
                                  select * from audit
                                   where audit.instance_id = due.id and audit.status < 300
                                     and (audit.request in ('provision', 'update', 'deprovision', 'restart', 'backup', 'restore')
                                          or audit.request in ('bind', 'unbind') and audit.status = 202)
                                   order by audit.id desc limit 1) audit on true)
                 update instances set outbox_attempts = outbox_attempts + 1, outbox_claim = $3,
                        outbox_due_at = now() + make_interval(secs => $2)
                   from asked where asked.asked_id = instances.id
                 returning platform, identity, request_identity, asked_operation, asked.backup, backup_operation, instances.id, plan_id, plan_name, plan_revision, organization_guid, space_guid, context, parameters,
                           restart_at, restore, adopt, adopt_plan, adopt_revision, namespace, name, desired, desired_revision, outbox_attempts",
                )
                .await?;
                client.query(&statement, &[&limit, &lease.as_secs_f64(), &claim]).await
            };
            let rows = rows.await.map_err(refused)?;
            let mut items = Vec::with_capacity(rows.len());
            for row in &rows {
                match self.outbox_item(claim, row) {
                    Ok(item) => items.push(item),
                    // It must not keep the others from being written; a key that is missing may be put back.
                    Err(error) => tracing::error!(%error, "an accepted request cannot be written for now"),
                }
            }
            Ok(items)
        })
        .await
    }

    /// Goes on holding rows that were taken and are not marked, for the length of a lease. A row of which more was asked
    /// meanwhile is left to whoever comes.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn renew_outbox(&self, claims: &[Uuid], lease: Duration) -> Result<(), LedgerError> {
        self.within("holding rows of the outbox", async {
            self.client()
                .await?
                .execute(
                    "update instances set outbox_due_at = now() + make_interval(secs => $2)
                  where outbox_claim = any($1) and outbox_due_at > now()",
                    &[&claims, &lease.as_secs_f64()],
                )
                .await
                .map_err(LedgerError::statement("holding rows of the outbox"))?;
            Ok(())
        })
        .await
    }

    /// In how long the next row is due; `None` if none is.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn next_outbox(&self) -> Result<Option<Duration>, LedgerError> {
        self.within("looking for the next row of the outbox", async {
            let row = self
                .client()
                .await?
                .query_one(
                    "select extract(epoch from min(outbox_due_at) - clock_timestamp())::double precision
                   from instances where applied_revision < desired_revision",
                    &[],
                )
                .await
                .map_err(LedgerError::statement("looking for the next row of the outbox"))?;
            let seconds: Option<f64> = row.get(0);
            Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
        })
        .await
    }

    /// Takes up what a resource says that was written from a later revision than its row has: the ledger was put back to
    /// what it was before. Nothing is written to the cluster for it. What was asked meanwhile was judged by the old row,
    /// so it fails and can be asked again. `false` if the row is not behind.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn catch_up(&self, instance: &InstanceId, later: &Later) -> Result<bool, LedgerError> {
        self.within("taking up a later revision", async {
            let refused = || LedgerError::statement(format!("taking up a later revision of instance {instance}"));
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused())?;
            let caught_up = self.take_up(&tx, instance, later).await?;
            tx.commit().await.map_err(refused())?;
            Ok(caught_up)
        })
        .await
    }

    /// See [`Ledger::catch_up`], in the caller's transaction.
    pub(super) async fn take_up(
        &self,
        tx: &Transaction<'_>,
        instance: &InstanceId,
        later: &Later,
    ) -> Result<bool, LedgerError> {
        let refused =
            || LedgerError::statement(format!("taking up revision {} of instance {instance}", later.revision));
        let behind = tx
            .query_opt(
                "select from instances
                  where id = $1 and desired = 'present' and deleted_at is null and desired_revision < $2 for update",
                &[&instance.as_str(), &later.revision],
            )
            .await
            .map_err(refused())?;
        if behind.is_none() {
            return Ok(false);
        }
        let running = acceptance::latest_operation(tx, instance).await?;
        match running.filter(Operation::is_running) {
            // It is the same instance still: its end is seen as ever.
            Some(running) if running.kind == OperationKind::Provision => {}
            Some(running) => {
                let outcome = Outcome::Failed {
                    description: "the broker's records were put back to an earlier state; ask again".to_owned(),
                    remains: Remains {
                        usable: true,
                        repeatable: true,
                    },
                };
                operations::end(tx, running.id, &outcome).await?;
            }
            None => {}
        }
        let plan = later.plan.as_ref();
        tx.execute(
            "update instances
                set desired_revision = $2, applied_revision = $2, plan_id = coalesce($3, plan_id),
                    plan_name = coalesce($4, plan_name), plan_revision = coalesce($5, plan_revision), parameters = $6,
                    restart_at = $7, restore = $8, outbox_error = null, outbox_claim = null, updated_at = now()
              where id = $1",
            &[
                &instance.as_str(),
                &later.revision,
                &plan.map(|plan| plan.id.as_str()),
                &plan.map(|plan| &plan.name),
                &plan.map(|plan| plan.revision),
                &self.seal_json(&instances::parameters_place(instance), &later.parameters)?,
                &later.restart_at,
                &later.restore,
            ],
        )
        .await
        .map_err(refused())?;
        Ok(true)
    }

    fn outbox_item(&self, claim: Uuid, row: &Row) -> Result<OutboxItem, LedgerError> {
        let id: String = row.get("id");
        let unreadable = |reason: String| LedgerError::Row {
            place: format!("instances/{id}"),
            reason,
        };
        let instance: InstanceId = id.parse().map_err(|error| unreadable(format!("id {error}")))?;
        let desired: String = row.get("desired");
        let parameters = self.open_json(&instances::parameters_place(&instance), row.get("parameters"))?;
        Ok(OutboxItem {
            instance,
            plan: row
                .get::<_, String>("plan_id")
                .parse()
                .map_err(|error| unreadable(format!("plan_id {error}")))?,
            plan_name: row.get("plan_name"),
            plan_revision: row.get("plan_revision"),
            organization: row.get("organization_guid"),
            space: row.get("space_guid"),
            context: row.get("context"),
            parameters,
            restart_at: row.get("restart_at"),
            restore: row.get("restore"),
            adopt: row.get::<_, Option<String>>("adopt").map(|provider_id| Adoption {
                provider_id,
                plan_name: row.get("adopt_plan"),
                plan_revision: row.get("adopt_revision"),
            }),
            backup: row
                .get::<_, Option<String>>("backup")
                .zip(row.get::<_, Option<Uuid>>("backup_operation")),
            operation: row.get("asked_operation"),
            request_identity: row.get("request_identity"),
            originating: row
                .get::<_, Option<String>>("platform")
                .zip(row.get::<_, Option<Json<_>>>("identity"))
                .map(|(platform, Json(identity))| Originating { platform, identity }),
            namespace: row.get("namespace"),
            name: row.get("name"),
            desired: if desired == "absent" {
                Desired::Absent
            } else {
                Desired::Present
            },
            revision: row.get("desired_revision"),
            attempts: row.get("outbox_attempts"),
            claim,
        })
    }

    /// Notes that the resource was written from a revision of the row. A later revision stays due.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn mark_applied(
        &self,
        instance: &InstanceId,
        revision: i64,
        uid: Option<&str>,
    ) -> Result<(), LedgerError> {
        self.within("noting that an instance was applied", async {
            let refused = LedgerError::statement(format!("noting that instance {instance} was applied"));
            let client = self.client().await?;
            let written = async {
                let statement = client
                    .prepare_cached(
                        "update instances set applied_revision = $2, uid = coalesce($3, uid), outbox_attempts = 0,
                            outbox_error = null, outbox_claim = null, updated_at = now(),
                            outbox_due_at = case when desired_revision > $2 then now() else outbox_due_at end
                         where id = $1 and applied_revision < $2 and desired_revision >= $2",
                    )
                    .await?;
                client.execute(&statement, &[&instance.as_str(), &revision, &uid]).await
            };
            written.await.map(drop).map_err(refused)
        })
        .await
    }

    /// Notes why the resource could not be written, and when to try again. What was asked meanwhile is not put off.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn mark_unapplied(&self, item: &OutboxItem, error: &str, again: Duration) -> Result<(), LedgerError> {
        self.within("noting that an instance was not applied", async {
            let instance = &item.instance;
            self.client()
                .await?
                .execute(
                    "update instances set outbox_error = $2, outbox_claim = null,
                        outbox_due_at = now() + make_interval(secs => $3)
                  where id = $1 and applied_revision < desired_revision and desired_revision = $4
                      and outbox_claim = $5",
                    &[
                        &instance.as_str(),
                        &error,
                        &again.as_secs_f64(),
                        &item.revision,
                        &item.claim,
                    ],
                )
                .await
                .map_err(LedgerError::statement(format!(
                    "noting that instance {instance} was not applied"
                )))?;
            Ok(())
        })
        .await
    }
}
