//! Rows whose desired revision is ahead of the applied one, and the marks that the outbox leaves on them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::{InstanceId, Ledger, LedgerError, Originating, PlanId, instances};

/// Whether an instance's custom resource is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It is to exist as the row says.
    Present,
    /// It is to be deleted.
    Absent,
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
    /// The backup that is to be made, and the operation that makes it.
    pub backup: Option<(String, Uuid)>,
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
}

impl Ledger {
    /// Takes up to `limit` due rows for the length of a lease; a row that is not marked by then is due again.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn claim_outbox(&self, limit: i64, lease: Duration) -> Result<Vec<OutboxItem>, LedgerError> {
        self.within("claiming rows of the outbox", async {
            let rows = self
                .client()
                .await?
                .query(
                    "with due as (select id from instances
                                where applied_revision < desired_revision and outbox_due_at <= now()
                                order by outbox_due_at limit $1 for update skip locked),
                  asked as (select due.id as asked_id, audit.platform, audit.identity, audit.request_identity,
                                   making.backup, making.id as backup_operation
                              from due left join operations making on making.instance_id = due.id
                                   and making.kind = 'backup' and making.state = 'in_progress' left join lateral (
                                  select * from audit
                                   where audit.instance_id = due.id and audit.status < 300
                                     and (audit.request in ('provision', 'update', 'deprovision', 'restart', 'backup', 'restore')
                                          or audit.request in ('bind', 'unbind') and audit.status = 202)
                                   order by audit.id desc limit 1) audit on true)
                 update instances set outbox_attempts = outbox_attempts + 1,
                        outbox_due_at = now() + make_interval(secs => $2)
                   from asked where asked.asked_id = instances.id
                 returning platform, identity, request_identity, asked.backup, backup_operation, instances.id, plan_id, plan_name, plan_revision, organization_guid, space_guid, context, parameters,
                           restart_at, restore, namespace, name, desired, desired_revision, outbox_attempts",
                    &[&limit, &lease.as_secs_f64()],
                )
                .await
                .map_err(LedgerError::statement("claiming rows of the outbox"))?;
            rows.iter().map(|row| self.outbox_item(row)).collect()
        })
        .await
    }

    fn outbox_item(&self, row: &Row) -> Result<OutboxItem, LedgerError> {
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
            backup: row
                .get::<_, Option<String>>("backup")
                .zip(row.get::<_, Option<Uuid>>("backup_operation")),
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
            self.client()
                .await?
                .execute(
                    "update instances set applied_revision = $2, uid = coalesce($3, uid), outbox_attempts = 0,
                        outbox_error = null, updated_at = now(),
                        outbox_due_at = case when desired_revision > $2 then now() else outbox_due_at end
                  where id = $1 and applied_revision < $2 and desired_revision >= $2",
                    &[&instance.as_str(), &revision, &uid],
                )
                .await
                .map_err(LedgerError::statement(format!(
                    "noting that instance {instance} was applied"
                )))?;
            Ok(())
        })
        .await
    }

    /// Notes why the resource could not be written, and when to try again.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn mark_unapplied(&self, instance: &InstanceId, error: &str, again: Duration) -> Result<(), LedgerError> {
        self.within("noting that an instance was not applied", async {
            self.client()
                .await?
                .execute(
                    "update instances set outbox_error = $2, outbox_due_at = now() + make_interval(secs => $3)
                  where id = $1 and applied_revision < desired_revision",
                    &[&instance.as_str(), &error, &again.as_secs_f64()],
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
