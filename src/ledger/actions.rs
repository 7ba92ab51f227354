//! What platforms ask of an instance beside the specification: restarts.

use std::time::Duration;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::acceptance::lock_instance;
use super::{
    Asked, Held, InstanceId, Judgement, Ledger, LedgerError, OperationKind, Settled, WebhookTarget, operations,
    updates, webhooks,
};

/// A restart to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRestart {
    /// Where the event goes, if not where the instance's events go anyway.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
}

impl Ledger {
    /// Accepts a restart, if the judge does, and returns its operation's id.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn restart<A>(
        &self,
        id: &InstanceId,
        asked: &Asked,
        judge: impl FnOnce(Option<&Held>) -> Judgement<A, NewRestart>,
    ) -> Result<Settled<A, Uuid>, LedgerError> {
        let attempt = async {
            let refused = |error| LedgerError::statement(format!("recording a restart of instance {id}"))(error);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused)?;
            let held = lock_instance(&tx, id).await?;
            let new = match judge(held.as_ref()) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => new,
            };
            let operation = self.write_restart(&tx, id, asked, &new).await?;
            tx.commit().await.map_err(refused)?;
            Ok(Settled::Accepted(operation))
        };
        let settled = self.within("accepting a restart of an instance", attempt).await?;
        if let Settled::Accepted(_) = settled {
            self.outbox.notify_one();
        }
        Ok(settled)
    }

    async fn write_restart(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
        asked: &Asked,
        new: &NewRestart,
    ) -> Result<Uuid, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording a restart of instance {id}"))(error);
        // Resources hold whole seconds, and a restart is one only if the time moves forward.
        let statement = tx
            .prepare_cached(
                "update instances
                 set restart_at = greatest(date_trunc('second', clock_timestamp()), restart_at + interval '1 second')
                 where id = $1
                 returning desired_revision + 1, webhook",
            )
            .await
            .map_err(refused)?;
        let row = tx.query_one(&statement, &[&id.as_str()]).await.map_err(refused)?;
        let standing: Option<&[u8]> = row.try_get(1).map_err(refused)?;
        let begun = operations::Begun {
            kind: OperationKind::Restart,
            answered: 202,
            desired_revision: row.try_get(0).map_err(refused)?,
            deadline: new.deadline,
        };
        let operation = operations::begin(tx, id, asked, &begun).await?;
        updates::rewrite(tx, id).await?;
        if let Some(target) = self.target_for(id, new.webhook.as_ref(), standing) {
            webhooks::arm(self, tx, id, operation, &target).await?;
        }
        Ok(operation)
    }
}
