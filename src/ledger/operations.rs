//! Operations: what a platform was told is going on. An instance has at most one in progress.

use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::events::Event;
use super::{Answered, Asked, BindingId, InstanceId, LedgerError, audit, webhooks};
use crate::ambient;
use crate::telemetry::metrics::record;

/// The longest description that is kept; the rest is cut off.
const MAX_DESCRIPTION: usize = 2048;

/// The words of an instance that was made.
pub(super) const READY: &str = "the instance is ready";

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Makes the instance.
    Provision,
    /// Changes it.
    Update,
    /// Gives it back.
    Deprovision,
    /// Restarts its nodes.
    Restart,
    /// Takes a snapshot of it.
    Backup,
    /// Fills it from one.
    Restore,
    /// Makes a binding of it.
    Bind,
    /// Removes one.
    Unbind,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Provision,
        Self::Update,
        Self::Deprovision,
        Self::Restart,
        Self::Backup,
        Self::Restore,
        Self::Bind,
        Self::Unbind,
    ];

    /// As it stands in the ledger and in webhook bodies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Update => "update",
            Self::Deprovision => "deprovision",
            Self::Restart => "restart",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Bind => "bind",
            Self::Unbind => "unbind",
        }
    }

    /// Whether the resource is put back when it fails.
    pub(super) fn is_put_back(self) -> bool {
        matches!(self, Self::Update | Self::Restore | Self::Bind)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationState {
    /// It is going on.
    InProgress,
    /// It ended well.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

impl OperationState {
    /// As it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::InProgress, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id, which platforms get as the `operation` string.
    pub id: Uuid,
    /// The instance it works on.
    pub instance_id: InstanceId,
    /// What it does.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// How it ended, for people. Never empty.
    pub description: Option<String>,
    /// The instance's desired revision that it brings about.
    pub desired_revision: i64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it counts as failed.
    pub deadline_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl Operation {
    /// The columns that [`Operation::from_row`] reads, in its order, of a table or alias `operations`.
    pub(super) const COLUMNS: &'static str = "operations.id, operations.instance_id, operations.kind, \
         operations.state, operations.description, operations.desired_revision, operations.created_at, \
         operations.deadline_at, operations.ended_at";

    /// How many those are.
    pub(super) const COLUMN_COUNT: usize = 9;

    /// The order of a table or alias `operations`, of one instance or binding, in which the latest comes first. Each
    /// counts the instance's desired revision up; the clock may be set back between two of them. Only bindings that
    /// were made at once share a revision.
    pub(super) const LATEST_FIRST: &'static str =
        "operations.desired_revision desc, operations.created_at desc, operations.id";

    /// Reads the [columns](Operation::COLUMNS) that begin at a position of a row.
    pub(super) fn from_row(row: &Row, first: usize) -> Result<Self, LedgerError> {
        let unreadable = |reason: String| LedgerError::Row {
            place: "a row of operations".to_owned(),
            reason,
        };
        let refused = |error: tokio_postgres::Error| unreadable(error.to_string());
        let instance: String = row.try_get(first + 1).map_err(refused)?;
        let kind: &str = row.try_get(first + 2).map_err(refused)?;
        let state: &str = row.try_get(first + 3).map_err(refused)?;
        Ok(Self {
            id: row.try_get(first).map_err(refused)?,
            instance_id: InstanceId::try_from(instance).map_err(|error| unreadable(error.to_string()))?,
            kind: OperationKind::parse(kind).ok_or_else(|| unreadable(format!("kind {kind:?} is not known")))?,
            state: OperationState::parse(state).ok_or_else(|| unreadable(format!("state {state:?} is not known")))?,
            description: row.try_get(first + 4).map_err(refused)?,
            desired_revision: row.try_get(first + 5).map_err(refused)?,
            created_at: row.try_get(first + 6).map_err(refused)?,
            deadline_at: row.try_get(first + 7).map_err(refused)?,
            ended_at: row.try_get(first + 8).map_err(refused)?,
        })
    }

    /// Whether it is going on.
    pub fn is_running(&self) -> bool {
        self.state == OperationState::InProgress
    }
}

/// How an operation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Succeeded,
    /// Otherwise.
    Failed {
        /// Why, for people.
        description: String,
        /// What is left of the instance, and whether trying again may help.
        remains: Remains,
    },
}

/// What a failure leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whether the instance can still be used, as it was before.
    pub usable: bool,
    /// Whether the same update may succeed when it is tried again.
    pub repeatable: bool,
}

impl Outcome {
    fn state(&self) -> OperationState {
        match self {
            Self::Succeeded => OperationState::Succeeded,
            Self::Failed { .. } => OperationState::Failed,
        }
    }

    /// The reason of a failure; `None` stands for the words of a success, which depend on the operation.
    fn reason(&self) -> Option<String> {
        let Self::Failed { description, .. } = self else {
            return None;
        };
        let description = description.trim();
        if description.is_empty() {
            return Some("failed without a reason given".to_owned());
        }
        Some(description.chars().take(MAX_DESCRIPTION).collect())
    }

    fn remains(&self) -> Option<Remains> {
        match self {
            Self::Succeeded => None,
            Self::Failed { remains, .. } => Some(*remains),
        }
    }
}

/// An operation to be.
pub(super) struct Begun {
    /// What it does.
    pub kind: OperationKind,
    /// The binding that it makes or removes.
    pub binding: Option<BindingId>,
    /// The HTTP status that the request for it is answered with.
    pub answered: u16,
    /// The instance's desired revision that it brings about.
    pub desired_revision: i64,
    /// How long it may take.
    pub deadline: Duration,
}

/// Begins an operation in the caller's transaction, records who asked for it, and returns its id.
pub(super) async fn begin(
    tx: &Transaction<'_>,
    instance: &InstanceId,
    asked: &Asked,
    begun: &Begun,
) -> Result<Uuid, LedgerError> {
    let refused = || LedgerError::statement(format!("beginning an operation of instance {instance}"));
    let statement = tx
        .prepare_cached(
            "insert into operations
                (id, instance_id, kind, desired_revision, request_identity, created_at, deadline_at, binding_id)
             values ($1, $2, $3, $4, $5, clock_timestamp(),
                clock_timestamp() + make_interval(secs => $6::double precision), $7)",
        )
        .await
        .map_err(refused())?;
    let operation = ambient::id();
    tx.execute(
        &statement,
        &[
            &operation,
            &instance.as_str(),
            &begun.kind.as_str(),
            &begun.desired_revision,
            &asked.asker.request_identity,
            &begun.deadline.as_secs_f64(),
            &begun.binding.as_ref().map(BindingId::as_str),
        ],
    )
    .await
    .map_err(refused())?;
    let answered = Answered {
        status: begun.answered,
        refusal: None,
        operation: Some(operation),
    };
    audit::write(tx, instance, asked, &answered).await?;
    Ok(operation)
}

/// Ends an operation that is in progress and makes its webhook due, in the caller's transaction. `false` if it was not
/// in progress, and then nothing was changed. The row of an instance whose update failed has its old plan, revision and
/// parameters again, and a binding that failed is gone; the resource says so once the row is
/// [written anew](super::updates::rewrite).
pub(super) async fn end(tx: &Transaction<'_>, operation: Uuid, outcome: &Outcome) -> Result<bool, LedgerError> {
    let refused = || LedgerError::statement(format!("ending operation {operation}"));
    let statement = tx
        .prepare_cached(
            "with ended as (
                update operations
                set state = $2, ended_at = now(), description = coalesce($3, case kind
                    when 'provision' then $6::text
                    when 'update' then 'the instance was updated'
                    when 'restart' then 'the instance was restarted'
                    when 'backup' then 'the backup is complete'
                    when 'restore' then 'the instance was restored'
                    when 'bind' then 'the binding is ready'
                    when 'unbind' then 'the binding was removed'
                    else 'the instance was deleted' end),
                    instance_usable = case when kind = 'update' then $4::boolean end,
                    update_repeatable = case when kind = 'update' then $5::boolean end
                where id = $1 and state = 'in_progress'
                returning id, instance_id, kind, state, description, created_at, ended_at, backup, binding_id,
                    previous_plan_id, previous_plan_name, previous_plan_revision, previous_parameters
            ), put_back as (
                update instances
                set plan_id = previous_plan_id, plan_name = previous_plan_name,
                    plan_revision = previous_plan_revision, parameters = previous_parameters
                from ended
                where instances.id = ended.instance_id and ended.state = 'failed' and previous_plan_id is not null
            ), not_restored as (
                update instances set restore = (
                    select filled.backup from operations filled
                    where filled.instance_id = ended.instance_id and filled.kind = 'restore'
                        and filled.state = 'succeeded'
                    order by filled.created_at desc limit 1)
                from ended
                where instances.id = ended.instance_id and ended.state = 'failed' and ended.kind = 'restore'
            ), of_binding as (
                update bindings
                set state = case when ended.kind = 'bind' and ended.state = 'succeeded' then 'bound'
                        else bindings.state end,
                    deleted_at = case when ended.kind = 'bind' and ended.state = 'succeeded' then null else now() end,
                    credentials = case when ended.kind = 'bind' and ended.state = 'succeeded'
                        then bindings.credentials else '' end
                from ended
                where bindings.instance_id = ended.instance_id and bindings.id = ended.binding_id
                    and bindings.deleted_at is null
                    and (ended.kind = 'bind' and (ended.state = 'succeeded' or bindings.state = 'binding')
                        or ended.kind = 'unbind' and ended.state = 'succeeded')
            )
            select instance_id, kind, state, description, ended_at, (
                select array_agg(id) from webhooks where operation_id = ended.id and state = 'armed'),
                extract(epoch from ended_at - created_at)::double precision, binding_id
            from ended",
        )
        .await
        .map_err(refused())?;
    let remains = outcome.remains();
    let row = tx
        .query_opt(
            &statement,
            &[
                &operation,
                &outcome.state().as_str(),
                &outcome.reason(),
                &remains.map(|remains| remains.usable),
                &remains.map(|remains| remains.repeatable),
                &READY,
            ],
        )
        .await
        .map_err(refused())?;
    let Some(row) = row else {
        return Ok(false);
    };
    let armed: Option<Vec<Uuid>> = row.try_get(5).map_err(refused())?;
    let unreadable = |reason: String| LedgerError::Row {
        place: format!("operation {operation}"),
        reason,
    };
    let (instance, kind): (String, &str) = (row.try_get(0).map_err(refused())?, row.try_get(1).map_err(refused())?);
    let kind = OperationKind::parse(kind).ok_or_else(|| unreadable(format!("kind {kind:?} is not known")))?;
    let binding: Option<String> = row.try_get(7).map_err(refused())?;
    let binding = binding.map(BindingId::try_from).transpose();
    let binding = binding.map_err(|error| unreadable(error.to_string()))?;
    for id in armed.into_iter().flatten() {
        let event = Event {
            id,
            state: outcome.state(),
            description: row.try_get(3).map_err(refused())?,
            instance_id: InstanceId::try_from(instance.clone()).map_err(|error| unreadable(error.to_string()))?,
            binding_id: binding.clone(),
            operation,
            kind,
            time: row.try_get(4).map_err(refused())?,
        };
        webhooks::fire(tx, &event).await?;
    }
    // A transaction that does not commit ends it once more, and it is counted once more.
    let seconds: f64 = row.try_get(6).map_err(refused())?;
    let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    record::operation_ended(kind.as_str(), outcome.state().as_str(), took);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_always_says_something_and_never_too_much() {
        let reason = |description: &str| {
            Outcome::Failed {
                description: description.to_owned(),
                remains: Remains {
                    usable: true,
                    repeatable: true,
                },
            }
            .reason()
            .unwrap()
        };
        assert_eq!(reason(" out of capacity "), "out of capacity");
        assert_eq!(reason(" "), "failed without a reason given");
        assert_eq!(reason(&"ü".repeat(5000)).chars().count(), MAX_DESCRIPTION);
        assert_eq!(Outcome::Succeeded.reason(), None);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in OperationKind::ALL {
            assert_eq!(OperationKind::parse(kind.as_str()), Some(kind));
        }
        for state in [
            OperationState::InProgress,
            OperationState::Succeeded,
            OperationState::Failed,
        ] {
            assert_eq!(OperationState::parse(state.as_str()), Some(state));
        }
        assert_eq!(OperationKind::parse("flush"), None);
    }
}
