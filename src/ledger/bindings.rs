//! Bindings: the credentials handed to one application, and how the operations that make and remove them end. They end
//! with their instance.

use deadpool_postgres::Transaction;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::acceptance::lock_row;
use super::instances::COLUMN_COUNT;
use super::{
    BindingId, Connection, Held, InstanceId, Ledger, LedgerError, Observation, Operation, OperationKind,
    OperationState, Outcome, PolledOperation, Remains, Verdict, operations,
};

/// The credentials object of a binding. It shows nothing of itself.
#[derive(Clone, PartialEq)]
pub struct Credentials(Map<String, Value>);

impl Credentials {
    /// Credentials with those members.
    pub fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// The members, to be handed to a platform or sealed.
    pub fn expose(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// How far a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingState {
    /// Its user is being made.
    Binding,
    /// It can be used.
    Bound,
    /// Its user is being removed.
    Unbinding,
}

impl BindingState {
    const ALL: [Self; 3] = [Self::Binding, Self::Bound, Self::Unbinding];

    /// As it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Bound => "bound",
            Self::Unbinding => "unbinding",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The OSB service it was asked for with.
    pub service_id: String,
    /// The OSB plan it was asked for with.
    pub plan_id: String,
    /// The application it is for.
    pub app_guid: Option<String>,
    /// The platform's context object.
    pub context: Map<String, Value>,
    /// Its parameters.
    pub parameters: Map<String, Value>,
    /// What was handed out, or is to be once it is bound.
    pub credentials: Credentials,
    /// Its user in the cache; absent where it was handed what all are.
    pub username: Option<String>,
    /// The binding that it succeeds.
    pub predecessor: Option<String>,
    /// How far it is.
    pub state: BindingState,
    /// The operation in progress.
    pub running: Option<Uuid>,
}

/// A binding and one of its operations, as far as polling needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolledBinding {
    /// Whether the binding is there, however far it is.
    pub live: bool,
    /// The operation asked for, or the latest; `None` if the one asked for is not of this binding.
    pub operation: Option<PolledOperation>,
}

/// The columns that [`Ledger::open_binding`] reads.
const BINDING: &str = "bindings.service_id, bindings.plan_id, bindings.app_guid, bindings.parameters, \
     bindings.credentials, bindings.context, bindings.username, bindings.predecessor, bindings.state, \
     (select operations.id from operations where operations.instance_id = bindings.instance_id \
         and operations.binding_id = bindings.id and operations.state = 'in_progress')";

pub(super) fn parameters_place(instance: &InstanceId, id: &BindingId) -> String {
    format!("bindings.parameters/{instance}/{id}")
}

pub(super) fn credentials_place(instance: &InstanceId, id: &BindingId) -> String {
    format!("bindings.credentials/{instance}/{id}")
}

impl Ledger {
    /// A binding of an instance that exists.
    ///
    /// # Errors
    /// When Postgres cannot be read, or the credentials cannot be opened.
    pub async fn binding(&self, instance: &InstanceId, id: &BindingId) -> Result<Option<Binding>, LedgerError> {
        let attempt = async {
            let refused = |error| LedgerError::statement(format!("reading binding {id} of instance {instance}"))(error);
            let client = self.reader().await?;
            let statement = client
                .prepare_cached(&format!(
                    "select {BINDING} from bindings join instances on instances.id = bindings.instance_id
                     where bindings.instance_id = $1 and bindings.id = $2
                         and bindings.deleted_at is null and instances.deleted_at is null"
                ))
                .await
                .map_err(refused)?;
            client
                .query_opt(&statement, &[&instance.as_str(), &id.as_str()])
                .await
                .map_err(refused)?
                .map(|row| self.open_binding(instance, id, &row))
                .transpose()
        };
        self.within("reading a binding", attempt).await
    }

    /// What polling needs of a binding and the operation named, or else its latest. `None` if there never was one of
    /// this id.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn poll_binding(
        &self,
        instance: &InstanceId,
        id: &BindingId,
        operation: Option<Uuid>,
    ) -> Result<Option<PolledBinding>, LedgerError> {
        let attempt = async {
            let refused = |error| {
                LedgerError::statement(format!("reading the state of binding {id} of instance {instance}"))(error)
            };
            let client = self.reader().await?;
            let statement = client
                .prepare_cached(&format!(
                    "select bindings.deleted_at is null and instances.deleted_at is null, operations.kind,
                            operations.state, operations.description, operations.created_at
                     from bindings join instances on instances.id = bindings.instance_id
                     left join lateral (
                         select * from operations
                         where operations.instance_id = $1 and operations.binding_id = $2
                             and ($3::uuid is null or operations.id = $3)
                         order by {} limit 1) operations on true
                     where bindings.instance_id = $1 and bindings.id = $2",
                    Operation::LATEST_FIRST
                ))
                .await
                .map_err(refused)?;
            let row = client
                .query_opt(&statement, &[&instance.as_str(), &id.as_str(), &operation])
                .await
                .map_err(refused)?;
            let Some(row) = row else { return Ok(None) };
            let unreadable = |reason: String| LedgerError::Row {
                place: format!("the operation of binding {id} of instance {instance}"),
                reason,
            };
            let kind: Option<&str> = row.try_get(1).map_err(refused)?;
            let state: Option<&str> = row.try_get(2).map_err(refused)?;
            let operation = match kind.zip(state) {
                None => None,
                Some((kind, state)) => Some(PolledOperation {
                    kind: OperationKind::parse(kind)
                        .ok_or_else(|| unreadable(format!("kind {kind:?} is not known")))?,
                    state: OperationState::parse(state)
                        .ok_or_else(|| unreadable(format!("state {state:?} is not known")))?,
                    description: row.try_get(3).map_err(refused)?,
                    created_at: row.try_get(4).map_err(refused)?,
                    remains: None,
                }),
            };
            Ok(Some(PolledBinding {
                live: row.try_get(0).map_err(refused)?,
                operation,
            }))
        };
        self.within("reading the operation of a binding", attempt).await
    }

    /// An instance with its latest operation and its connection, locked until the transaction ends.
    pub(super) async fn lock_connected(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
    ) -> Result<Option<Held<Option<Connection>>>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("locking instance {id}"))(error);
        let Some((held, row)) = lock_row(tx, id, ", instances.connection", "").await? else {
            return Ok(None);
        };
        let connection = self.open_connection(id, row.try_get(COLUMN_COUNT).map_err(refused)?)?;
        Ok(Some(held.opening(connection)))
    }

    pub(super) async fn live_binding(
        &self,
        tx: &Transaction<'_>,
        instance: &InstanceId,
        id: &BindingId,
    ) -> Result<Option<Binding>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("reading binding {id} of instance {instance}"))(error);
        let statement = tx
            .prepare_cached(&format!(
                "select {BINDING} from bindings where instance_id = $1 and id = $2 and deleted_at is null"
            ))
            .await
            .map_err(refused)?;
        tx.query_opt(&statement, &[&instance.as_str(), &id.as_str()])
            .await
            .map_err(refused)?
            .map(|row| self.open_binding(instance, id, &row))
            .transpose()
    }

    fn open_binding(&self, instance: &InstanceId, id: &BindingId, row: &Row) -> Result<Binding, LedgerError> {
        let unreadable = |reason: String| LedgerError::Row {
            place: format!("binding {id} of instance {instance}"),
            reason,
        };
        let refused = |error: tokio_postgres::Error| unreadable(error.to_string());
        let parameters: &[u8] = row.try_get(3).map_err(refused)?;
        let credentials: &[u8] = row.try_get(4).map_err(refused)?;
        let credentials: Map<String, Value> = self.open_json(&credentials_place(instance, id), credentials)?;
        let tokio_postgres::types::Json(context) = row.try_get(5).map_err(refused)?;
        let state: &str = row.try_get(8).map_err(refused)?;
        Ok(Binding {
            service_id: row.try_get(0).map_err(refused)?,
            plan_id: row.try_get(1).map_err(refused)?,
            app_guid: row.try_get(2).map_err(refused)?,
            context,
            parameters: self.open_json(&parameters_place(instance, id), parameters)?,
            credentials: Credentials::new(credentials),
            username: row.try_get(6).map_err(refused)?,
            predecessor: row.try_get(7).map_err(refused)?,
            state: BindingState::parse(state).ok_or_else(|| unreadable(format!("state {state:?} is not known")))?,
            running: row.try_get(9).map_err(refused)?,
        })
    }
}

/// An operation of a binding that is in progress.
struct Running {
    id: Uuid,
    kind: OperationKind,
    desired_revision: i64,
    username: Option<String>,
}

async fn running(tx: &Transaction<'_>, instance: &InstanceId) -> Result<Vec<Running>, LedgerError> {
    let refused = || LedgerError::statement(format!("reading the operations of bindings of instance {instance}"));
    let statement = tx
        .prepare_cached(
            "select operations.id, operations.kind, operations.desired_revision, bindings.username
             from operations left join bindings on bindings.instance_id = operations.instance_id
                 and bindings.id = operations.binding_id
             where operations.instance_id = $1 and operations.state = 'in_progress'
                 and operations.binding_id is not null",
        )
        .await
        .map_err(refused())?;
    let rows = tx.query(&statement, &[&instance.as_str()]).await.map_err(refused())?;
    rows.iter()
        .map(|row| {
            let kind: &str = row.try_get(1).map_err(refused())?;
            Ok(Running {
                id: row.try_get(0).map_err(refused())?,
                kind: OperationKind::parse(kind).ok_or_else(|| LedgerError::Row {
                    place: format!("an operation of a binding of instance {instance}"),
                    reason: format!("kind {kind:?} is not known"),
                })?,
                desired_revision: row.try_get(2).map_err(refused())?,
                username: row.try_get(3).map_err(refused())?,
            })
        })
        .collect()
}

fn failed(description: &str) -> Outcome {
    Outcome::Failed {
        description: description.to_owned(),
        remains: Remains {
            usable: true,
            repeatable: true,
        },
    }
}

/// What an observation of the cache means for an operation of a binding; `None` while it goes on.
fn outcome(running: &Running, observation: &Observation) -> Option<Outcome> {
    if observation.later.revision < running.desired_revision {
        return None;
    }
    let username = running.username.as_deref()?;
    let user = observation.users.iter().find(|user| user.name == username);
    match (running.kind, user) {
        (OperationKind::Bind, Some(user)) if user.ready => Some(Outcome::Succeeded),
        // Stalled: nothing changes until somebody changes something.
        (OperationKind::Bind, _) => match &observation.verdict {
            Verdict::Failed(why) => Some(failed(why)),
            Verdict::No | Verdict::Ready => None,
        },
        // A status of an earlier spec does not know yet of what was about to be made then.
        (_, None) if observation.current => Some(Outcome::Succeeded),
        _ => None,
    }
}

/// Ends the operations of bindings that an observation decides. Returns whether the resource is to be written again.
pub(super) async fn settle(tx: &Transaction<'_>, observation: &Observation) -> Result<bool, LedgerError> {
    let mut again = false;
    for running in running(tx, &observation.instance).await? {
        if let Some(outcome) = outcome(&running, observation) {
            operations::end(tx, running.id, &outcome).await?;
            again |= outcome != Outcome::Succeeded && running.kind.is_put_back();
        }
    }
    Ok(again)
}

/// Ends the bindings that are being made.
pub(super) async fn halt(tx: &Transaction<'_>, instance: &InstanceId, why: &str) -> Result<(), LedgerError> {
    for running in running(tx, instance).await? {
        if running.kind == OperationKind::Bind {
            operations::end(tx, running.id, &failed(why)).await?;
        }
    }
    Ok(())
}

/// Ends all operations of bindings: the cache is gone, and its users with it.
pub(super) async fn lost(tx: &Transaction<'_>, instance: &InstanceId, why: &str) -> Result<(), LedgerError> {
    for running in running(tx, instance).await? {
        let outcome = match running.kind {
            OperationKind::Unbind => Outcome::Succeeded,
            _ => failed(why),
        };
        operations::end(tx, running.id, &outcome).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Later, SeenUser};

    fn observation(revision: i64, users: &[(&str, bool)], verdict: Verdict, current: bool) -> Observation {
        let user = |(name, ready): &(&str, bool)| SeenUser {
            name: (*name).to_owned(),
            ready: *ready,
        };
        Observation {
            instance: "i".parse().unwrap(),
            namespace: "n".to_owned(),
            name: "osb-1".to_owned(),
            uid: "u".to_owned(),
            resource_version: "1".to_owned(),
            later: Later {
                revision,
                ..Later::default()
            },
            adopts: false,
            deleting: false,
            verdict,
            ready: true,
            reason: String::new(),
            message: String::new(),
            connection: None,
            encrypted_at_rest: None,
            users: users.iter().map(user).collect(),
            current,
        }
    }

    #[test]
    fn a_binding_waits_for_its_user_and_an_unbinding_for_the_end_of_it() {
        use OperationKind::{Bind, Unbind};
        let stalled = || Verdict::Failed("no".to_owned());
        let done = Some(Outcome::Succeeded);
        for (kind, revision, users, verdict, current, expected) in [
            (Bind, 7, &[("a", true)][..], Verdict::No, true, done.clone()),
            // What is there is there, whatever else goes on.
            (Bind, 8, &[("a", true)], stalled(), false, done.clone()),
            (Bind, 7, &[("a", false)], Verdict::Ready, true, None),
            (Bind, 7, &[("b", true)], Verdict::Ready, true, None),
            (Bind, 6, &[("a", true)], Verdict::Ready, true, None),
            (Bind, 7, &[], stalled(), true, Some(failed("no"))),
            (Bind, 6, &[], stalled(), true, None),
            (Unbind, 7, &[("b", true)], Verdict::Ready, true, done.clone()),
            (Unbind, 7, &[], stalled(), true, done.clone()),
            (Unbind, 7, &[], Verdict::Ready, false, None),
            (Unbind, 7, &[("a", false)], Verdict::Ready, true, None),
            (Unbind, 6, &[], Verdict::Ready, true, None),
        ] {
            let running = Running {
                id: Uuid::nil(),
                kind,
                desired_revision: 7,
                username: Some("a".to_owned()),
            };
            let observation = observation(revision, users, verdict, current);
            assert_eq!(outcome(&running, &observation), expected, "{kind:?} {observation:?}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in BindingState::ALL {
            assert_eq!(BindingState::parse(state.as_str()), Some(state));
        }
        assert_eq!(BindingState::parse("gone"), None);
    }
}
