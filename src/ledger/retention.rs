//! Forgetting what ended long ago, some of it each time.

use std::time::Duration;

use super::{Ledger, LedgerError};

/// How many rows of a kind are forgotten at one time.
const BATCH: i64 = 1000;

/// For how long what ended is kept; what is absent is kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Instances that were given back, with all that belongs to them, and ended operations of the others. Platforms ask
    /// for those for as long as they have not heard the answer.
    pub instances: Option<Duration>,
    /// Webhooks that were delivered or given up.
    pub webhooks: Option<Duration>,
}

/// How much was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Webhooks.
    pub webhooks: u64,
    /// Operations of instances that live.
    pub operations: u64,
    /// Instances.
    pub instances: u64,
}

impl Forgotten {
    /// Whether it was nothing.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Ledger {
    /// Forgets some of what ended longer ago than that. Of an instance that lives, its provision, its backups and its
    /// latest operation stay, since they are asked for; and nothing goes of which somebody is still to be told.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn forget(&self, kept: Kept) -> Result<Forgotten, LedgerError> {
        let mut forgotten = Forgotten::default();
        if let Some(age) = kept.webhooks {
            forgotten.webhooks = self
                .forgetting(
                    "forgetting webhooks",
                    "delete from webhooks where id in (
                         select id from webhooks
                         where ended_at < now() - make_interval(secs => $1) and state in ('delivered', 'dead')
                         order by ended_at limit $2)",
                    age,
                )
                .await?;
        }
        if let Some(age) = kept.instances {
            forgotten.operations = self.forget_operations(age).await?;
            forgotten.instances = self.forget_instances(age).await?;
        }
        Ok(forgotten)
    }

    async fn forgetting(&self, attempt: &str, statement: &str, age: Duration) -> Result<u64, LedgerError> {
        self.within(attempt, async {
            self.client()
                .await?
                .execute(statement, &[&age.as_secs_f64(), &BATCH])
                .await
                .map_err(LedgerError::statement(attempt))
        })
        .await
    }

    async fn forget_operations(&self, age: Duration) -> Result<u64, LedgerError> {
        self.forgetting(
            "forgetting operations",
            "with old as (
                 select id from operations
                 where ended_at < now() - make_interval(secs => $1) and kind not in ('provision', 'backup', 'deprovision')
                     and exists (select from operations later
                         where later.instance_id = operations.instance_id
                             and (later.binding_id is null or operations.binding_id is not null)
                             and (later.desired_revision, later.created_at)
                                 > (operations.desired_revision, operations.created_at))
                     and not exists (select from webhooks
                         where webhooks.operation_id = operations.id and webhooks.state in ('armed', 'due'))
                 order by ended_at limit $2
             ), told as (
                 delete from webhooks where operation_id in (select id from old)
             )
             delete from operations where id in (select id from old)",
            age,
        )
        .await
    }

    /// All that belongs to an instance goes with it, in one transaction.
    async fn forget_instances(&self, age: Duration) -> Result<u64, LedgerError> {
        let attempt = "forgetting instances that were given back";
        self.within(attempt, async {
            let refused = || LedgerError::statement(attempt);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused())?;
            let rows = tx
                .query(
                    "select id from instances
                     where deleted_at < now() - make_interval(secs => $1) and applied_revision = desired_revision
                         and not exists (select from webhooks
                             where webhooks.instance_id = instances.id and webhooks.state in ('armed', 'due'))
                     order by deleted_at limit $2 for update skip locked",
                    &[&age.as_secs_f64(), &BATCH],
                )
                .await
                .map_err(refused())?;
            let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if ids.is_empty() {
                return Ok(0);
            }
            for statement in [
                "delete from webhooks where instance_id = any($1)",
                "delete from pool_members where claimed_by = any($1)",
                "delete from bindings where instance_id = any($1)",
                "delete from operations where instance_id = any($1)",
                "delete from instances where id = any($1)",
            ] {
                tx.execute(statement, &[&ids]).await.map_err(refused())?;
            }
            tx.commit().await.map_err(refused())?;
            Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
        })
        .await
    }
}
