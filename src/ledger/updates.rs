//! Changing an instance: another plan, a newer revision of it, other parameters. The row changes when the change is
//! accepted; what it had before is kept with the operation, and stands again when the operation fails.

use std::time::Duration;

use deadpool_postgres::Transaction;
use serde_json::{Map, Value};
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::acceptance::{JOIN_PLAN, lock_row};
use super::instances::{self, COLUMN_COUNT};
use super::{
    Answered, Asked, Held, InstanceId, Judgement, Ledger, LedgerError, Operation, OperationKind, PlanId, Scope,
    Settled, Usage, WebhookTarget, audit, listen, operations, webhooks,
};

/// What is opened of an instance that is asked to change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changeable {
    /// The tenant's parameters.
    pub parameters: Map<String, Value>,
    /// The platform's context object.
    pub context: Map<String, Value>,
    /// The spec of the plan at the revision it runs from; absent if it was counted before specs were kept.
    pub plan_spec: Option<Value>,
    /// What the operation in progress was asked for, if it is an update.
    pub asked: Option<Value>,
    /// Whether its cache asks nobody for a password.
    pub open: bool,
    /// Whether its cache is encrypted at rest, if its provider says so.
    pub encrypted_at_rest: Option<bool>,
}

/// A change to an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// What the platform says of the instance. The cache stays as it is, so there is nothing to wait for.
    Context(Map<String, Value>),
    /// What the cache is to be.
    Update(Box<NewUpdate>),
}

/// An update to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewUpdate {
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan to run from.
    pub plan_revision: i64,
    /// All the tenant's parameters.
    pub parameters: Map<String, Value>,
    /// The platform's context object, if it sent one.
    pub context: Option<Map<String, Value>>,
    /// What was asked for, to know the same request by.
    pub asked: Value,
    /// Where the event goes, if not where the instance's events go anyway.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
}

/// Where what an operation was asked for is sealed.
fn request_place(operation: Uuid) -> String {
    format!("operations.request/{operation}")
}

impl Ledger {
    /// Accepts a change, if the judge does, and returns its operation's id if there is something to wait for. The judge is
    /// told how much there is of what is in the scope.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn update<A>(
        &self,
        id: &InstanceId,
        asked: &Asked,
        scope: &Scope,
        judge: impl FnOnce(Option<&Held<Changeable>>, &Usage) -> Judgement<A, Change>,
    ) -> Result<Settled<A, Option<Uuid>>, LedgerError> {
        let accept = async |tx: &Transaction<'_>| {
            let held = self.lock_changeable(tx, id).await?;
            let usage = Self::usage(tx, scope).await?;
            let change = match judge(held.as_ref(), &usage) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(change) => change,
            };
            let operation = match change {
                Change::Context(context) => {
                    write_context(tx, id, &context).await?;
                    rewrite(tx, id).await?;
                    let answered = Answered {
                        status: 200,
                        ..Answered::default()
                    };
                    audit::write(tx, id, asked, &answered).await?;
                    None
                }
                Change::Update(new) => Some(self.write_update(tx, id, asked, &new).await?),
            };
            Ok(Settled::Accepted(operation))
        };
        self.settle("accepting a change of an instance", id, accept, |_| true)
            .await
    }

    async fn lock_changeable(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
    ) -> Result<Option<Held<Changeable>>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("locking instance {id}"))(error);
        let others = ", instances.parameters, instances.context, plan_revisions.spec, instances.connection, \
                      instances.encrypted_at_rest";
        let Some((held, row)) = lock_row(tx, id, others, JOIN_PLAN).await? else {
            return Ok(None);
        };
        let asked = match held.latest.as_ref().filter(|latest| latest.is_running()) {
            Some(running) => self.asked(tx, running).await?,
            None => None,
        };
        let parameters: &[u8] = row.try_get(COLUMN_COUNT).map_err(refused)?;
        let Json(context) = row.try_get(COLUMN_COUNT + 1).map_err(refused)?;
        let connection = self.open_connection(id, row.try_get(COLUMN_COUNT + 3).map_err(refused)?)?;
        Ok(Some(held.opening(Changeable {
            parameters: self.open_json(&instances::parameters_place(id), parameters)?,
            context,
            plan_spec: row.try_get(COLUMN_COUNT + 2).map_err(refused)?,
            asked,
            open: connection.is_some_and(|connection| connection.password.is_none()),
            encrypted_at_rest: row.try_get(COLUMN_COUNT + 4).map_err(refused)?,
        })))
    }

    async fn asked(&self, tx: &Transaction<'_>, operation: &Operation) -> Result<Option<Value>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("reading operation {}", operation.id))(error);
        let statement = tx
            .prepare_cached("select request from operations where id = $1")
            .await
            .map_err(refused)?;
        let row = tx.query_one(&statement, &[&operation.id]).await.map_err(refused)?;
        let sealed: Option<&[u8]> = row.try_get(0).map_err(refused)?;
        sealed
            .map(|sealed| self.open_json(&request_place(operation.id), sealed))
            .transpose()
    }

    async fn write_update(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
        asked: &Asked,
        new: &NewUpdate,
    ) -> Result<Uuid, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording a change of instance {id}"))(error);
        let parameters = self.seal_json(&instances::parameters_place(id), &new.parameters)?;
        if let Some(context) = &new.context {
            write_context(tx, id, context).await?;
        }
        let statement = tx
            .prepare_cached(
                "select webhook, desired_revision + 1, plan_id, plan_name, plan_revision, parameters
                 from instances where id = $1",
            )
            .await
            .map_err(refused)?;
        let before = tx.query_one(&statement, &[&id.as_str()]).await.map_err(refused)?;
        let standing: Option<&[u8]> = before.try_get(0).map_err(refused)?;
        let begun = operations::Begun {
            kind: OperationKind::Update,
            binding: None,
            answered: 202,
            desired_revision: before.try_get(1).map_err(refused)?,
            deadline: new.deadline,
        };
        let operation = operations::begin(tx, id, asked, &begun).await?;
        let statement = tx
            .prepare_cached(
                "update operations
                 set request = $2, previous_plan_id = $3, previous_plan_name = $4, previous_plan_revision = $5,
                     previous_parameters = $6
                 where id = $1",
            )
            .await
            .map_err(refused)?;
        tx.execute(
            &statement,
            &[
                &operation,
                &self.seal_json(&request_place(operation), &new.asked)?,
                &before.try_get::<_, String>(2).map_err(refused)?,
                &before.try_get::<_, String>(3).map_err(refused)?,
                &before.try_get::<_, i64>(4).map_err(refused)?,
                &before.try_get::<_, &[u8]>(5).map_err(refused)?,
            ],
        )
        .await
        .map_err(refused)?;
        let statement = tx
            .prepare_cached(
                "update instances set plan_id = $2, plan_name = $3, plan_revision = $4, parameters = $5 where id = $1",
            )
            .await
            .map_err(refused)?;
        tx.execute(
            &statement,
            &[
                &id.as_str(),
                &new.plan_id.as_str(),
                &new.plan_name,
                &new.plan_revision,
                &parameters,
            ],
        )
        .await
        .map_err(refused)?;
        rewrite(tx, id).await?;
        if let Some(target) = self.target_for(id, new.webhook.as_ref(), standing) {
            webhooks::arm(self, tx, id, operation, &target).await?;
        }
        Ok(operation)
    }
}

async fn write_context(tx: &Transaction<'_>, id: &InstanceId, context: &Map<String, Value>) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("recording the context of instance {id}"));
    let statement = tx
        .prepare_cached("update instances set context = $2 where id = $1")
        .await
        .map_err(refused())?;
    tx.execute(&statement, &[&id.as_str(), &Json(context)])
        .await
        .map_err(refused())?;
    Ok(())
}

/// Has the outbox write an instance's resource from its row again.
pub(super) async fn rewrite(tx: &Transaction<'_>, id: &InstanceId) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("having the resource of instance {id} written again"));
    let statement = tx
        .prepare_cached(
            "update instances set desired_revision = desired_revision + 1, outbox_due_at = now(), outbox_attempts = 0,
                 outbox_error = null, updated_at = now()
             where id = $1",
        )
        .await
        .map_err(refused())?;
    tx.execute(&statement, &[&id.as_str()]).await.map_err(refused())?;
    listen::notify(tx, listen::OUTBOX).await
}
