//! What platforms ask of an instance beside the specification, and have to wait for: restarts, backups, restores.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Asked, Connection, Held, InstanceId, Judgement, Ledger, LedgerError, OperationKind, OperationState, Settled,
    WebhookTarget, operations, updates, webhooks,
};
use crate::digest::sha256_hex;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The nodes are restarted.
    Restart,
    /// A backup is made.
    Backup,
    /// The cache is filled from a backup.
    Restore(String),
}

impl Deed {
    fn kind(&self) -> OperationKind {
        match self {
            Self::Restart => OperationKind::Restart,
            Self::Backup => OperationKind::Backup,
            Self::Restore(_) => OperationKind::Restore,
        }
    }
}

/// An operation beside the specification.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAction {
    /// What it does.
    pub deed: Deed,
    /// Where the event goes, if not where the instance's events go anyway.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
}

/// A backup that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The name of its `CacheBackup`.
    pub name: String,
    /// How far it is.
    pub state: OperationState,
    /// Why it failed.
    pub description: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// The name of the `CacheBackup` that an operation makes.
fn backup_name(operation: Uuid) -> String {
    format!("osb-{}", sha256_hex(operation, 10))
}

impl Ledger {
    /// Accepts an action, if the judge does, and returns its operation's id. The judge is told the backups that there
    /// are, and the one that the cache was filled from last.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn act<A>(
        &self,
        id: &InstanceId,
        asked: &Asked,
        judge: impl FnOnce(Option<&Held<Option<Connection>>>, &[Backup], Option<&str>) -> Judgement<A, NewAction>,
    ) -> Result<Settled<A, Uuid>, LedgerError> {
        let accept = async |tx: &Transaction<'_>| {
            let refused = |error| LedgerError::statement(format!("recording an action on instance {id}"))(error);
            let held = self.lock_connected(tx, id).await?;
            let backups = read_backups(tx, id).await?;
            let filled = tx
                .query_opt("select restore from instances where id = $1", &[&id.as_str()])
                .await
                .map_err(refused)?
                .and_then(|row| row.get::<_, Option<String>>(0));
            let new = match judge(held.as_ref(), &backups, filled.as_deref()) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => new,
            };
            Ok(Settled::Accepted(self.write_action(tx, id, asked, &new).await?))
        };
        self.settle("accepting an action on an instance", id, accept, |_| true)
            .await
    }

    async fn write_action(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
        asked: &Asked,
        new: &NewAction,
    ) -> Result<Uuid, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording an action on instance {id}"))(error);
        let restore = match &new.deed {
            Deed::Restore(backup) => Some(backup),
            Deed::Restart | Deed::Backup => None,
        };
        // Resources hold whole seconds, and a restart is one only if the time moves forward.
        let statement = tx
            .prepare_cached(
                "update instances
                 set restart_at = case when $2 then greatest(date_trunc('second', clock_timestamp()),
                         restart_at + interval '1 second') else restart_at end,
                     restore = coalesce($3, restore)
                 where id = $1
                 returning desired_revision + 1, webhook",
            )
            .await
            .map_err(refused)?;
        let row = tx
            .query_one(&statement, &[&id.as_str(), &(new.deed == Deed::Restart), &restore])
            .await
            .map_err(refused)?;
        let standing: Option<&[u8]> = row.try_get(1).map_err(refused)?;
        let begun = operations::Begun {
            kind: new.deed.kind(),
            binding: None,
            answered: 202,
            desired_revision: row.try_get(0).map_err(refused)?,
            deadline: new.deadline,
        };
        let operation = operations::begin(tx, id, asked, &begun).await?;
        let backup = match &new.deed {
            Deed::Restart => None,
            Deed::Backup => Some(backup_name(operation)),
            Deed::Restore(backup) => Some(backup.clone()),
        };
        if let Some(backup) = backup {
            tx.execute(
                "update operations set backup = $2 where id = $1",
                &[&operation, &backup],
            )
            .await
            .map_err(refused)?;
        }
        updates::rewrite(tx, id).await?;
        if let Some(target) = self.target_for(id, new.webhook.as_ref(), standing) {
            webhooks::arm(self, tx, id, operation, &target).await?;
        }
        Ok(operation)
    }

    /// The backups that were asked for of an instance, the latest first.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn backups(&self, id: &InstanceId) -> Result<Vec<Backup>, LedgerError> {
        let attempt = async { read_backups(&*self.reader().await?, id).await };
        self.within("reading backups", attempt).await
    }
}

async fn read_backups(client: &impl GenericClient, id: &InstanceId) -> Result<Vec<Backup>, LedgerError> {
    let refused = |error| LedgerError::statement(format!("reading the backups of instance {id}"))(error);
    let statement = client
        .prepare_cached(
            "select backup, state, description, created_at from operations
             where instance_id = $1 and kind = 'backup' and backup is not null
             order by created_at desc limit 1000",
        )
        .await
        .map_err(refused)?;
    let rows = client.query(&statement, &[&id.as_str()]).await.map_err(refused)?;
    rows.iter()
        .map(|row| {
            let state: &str = row.try_get(1).map_err(refused)?;
            Ok(Backup {
                name: row.try_get(0).map_err(refused)?,
                state: OperationState::parse(state).ok_or_else(|| LedgerError::Row {
                    place: format!("a backup of instance {id}"),
                    reason: format!("state {state:?} is not known"),
                })?,
                description: row.try_get(2).map_err(refused)?,
                created_at: row.try_get(3).map_err(refused)?,
            })
        })
        .collect()
}
