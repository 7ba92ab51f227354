//! Instances as the facade reads them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Connection, InstanceId, Ledger, LedgerError, Operation, OperationKind, OperationState, Remains};

/// An instance, without what is sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its OSB id.
    pub id: InstanceId,
    /// The OSB service it was ordered from.
    pub service_id: String,
    /// The OSB plan it is on.
    pub plan_id: String,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan that it runs from.
    pub plan_revision: i64,
    /// For which organization.
    pub organization_guid: String,
    /// For which space.
    pub space_guid: String,
    /// Namespace of its resource.
    pub namespace: String,
    /// Name of its resource.
    pub name: String,
    /// Whether its resource is to be deleted.
    pub unwanted: bool,
    /// Whether it answered when it was last seen.
    pub ready: bool,
    /// The word on its state.
    pub reason: Option<String>,
    /// The sentence on its state.
    pub message: Option<String>,
    /// When it was first usable.
    pub provisioned_at: Option<Timestamp>,
    /// Since when it is gone.
    pub deleted_at: Option<Timestamp>,
}

/// What the ledger holds of an instance when a request about it is judged; `S` is what of its sealed part was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Held<S = ()> {
    /// The instance.
    pub instance: Instance,
    /// Its latest operation.
    pub latest: Option<Operation>,
    /// What was opened.
    pub opened: S,
}

impl Held {
    /// The same, with what was opened.
    pub(super) fn opening<S>(self, opened: S) -> Held<S> {
        let Self { instance, latest, .. } = self;
        Held {
            instance,
            latest,
            opened,
        }
    }
}

impl<S> Held<S> {
    /// The operation in progress. Only the latest one can be.
    pub fn running(&self) -> Option<&Operation> {
        self.latest.as_ref().filter(|operation| operation.is_running())
    }
}

/// An instance and one of its operations, as far as polling needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Whether the instance is gone.
    pub deleted: bool,
    /// The sentence on its state.
    pub message: Option<String>,
    /// The operation asked for, or the latest; `None` if the one asked for is not of this instance.
    pub operation: Option<PolledOperation>,
}

/// An operation, as far as polling needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolledOperation {
    /// What it does.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// How it ended.
    pub description: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// What a failed update left.
    pub remains: Option<Remains>,
}

/// The columns that [`instance`] reads, in its order, of a table or alias `instances`.
pub(super) const COLUMNS: &str = "instances.id, instances.service_id, instances.plan_id, instances.plan_name, \
     instances.plan_revision, instances.organization_guid, instances.space_guid, instances.namespace, instances.name, \
     instances.desired = 'absent', instances.ready, instances.reason, instances.message, instances.provisioned_at, \
     instances.deleted_at";
/// How many those are.
pub(super) const COLUMN_COUNT: usize = 15;

/// Reads the [columns](COLUMNS) at the beginning of a row.
pub(super) fn instance(row: &Row) -> Result<Instance, LedgerError> {
    let unreadable = |reason: String| LedgerError::Row {
        place: "a row of instances".to_owned(),
        reason,
    };
    let refused = |error: tokio_postgres::Error| unreadable(error.to_string());
    let id: String = row.try_get(0).map_err(refused)?;
    Ok(Instance {
        id: InstanceId::try_from(id).map_err(|error| unreadable(error.to_string()))?,
        service_id: row.try_get(1).map_err(refused)?,
        plan_id: row.try_get(2).map_err(refused)?,
        plan_name: row.try_get(3).map_err(refused)?,
        plan_revision: row.try_get(4).map_err(refused)?,
        organization_guid: row.try_get(5).map_err(refused)?,
        space_guid: row.try_get(6).map_err(refused)?,
        namespace: row.try_get(7).map_err(refused)?,
        name: row.try_get(8).map_err(refused)?,
        unwanted: row.try_get(9).map_err(refused)?,
        ready: row.try_get(10).map_err(refused)?,
        reason: row.try_get(11).map_err(refused)?,
        message: row.try_get(12).map_err(refused)?,
        provisioned_at: row.try_get(13).map_err(refused)?,
        deleted_at: row.try_get(14).map_err(refused)?,
    })
}

/// The row of an instance with its latest operation and one column more.
async fn read_held(client: &impl GenericClient, id: &InstanceId, more: &str) -> Result<Option<Row>, LedgerError> {
    let refused = |error| LedgerError::statement(format!("reading instance {id}"))(error);
    let statement = client
        .prepare_cached(&format!(
            "select {COLUMNS}, {}, {more} from instances
             left join lateral (
                 select * from operations where instance_id = instances.id and binding_id is null
                 order by {} limit 1
             ) operations on true
             where instances.id = $1",
            Operation::COLUMNS,
            Operation::LATEST_FIRST
        ))
        .await
        .map_err(refused)?;
    client.query_opt(&statement, &[&id.as_str()]).await.map_err(refused)
}

/// Reads a row of [`read_held`].
fn held<S>(row: &Row, opened: S) -> Result<Held<S>, LedgerError> {
    let operation: Option<Uuid> = row
        .try_get(COLUMN_COUNT)
        .map_err(LedgerError::statement("reading an operation"))?;
    Ok(Held {
        instance: instance(row)?,
        latest: operation.map(|_| Operation::from_row(row, COLUMN_COUNT)).transpose()?,
        opened,
    })
}

/// Where an instance's parameters are sealed.
pub(super) fn parameters_place(id: &InstanceId) -> String {
    format!("instances.parameters/{id}")
}

/// Where an instance's connection is sealed.
pub(super) fn connection_place(id: &InstanceId) -> String {
    format!("instances.connection/{id}")
}

/// Where an instance's webhook is sealed.
pub(super) fn webhook_place(id: &InstanceId) -> String {
    format!("instances.webhook/{id}")
}

impl Ledger {
    /// An instance with its latest operation and its parameters.
    ///
    /// # Errors
    /// When Postgres cannot be read, or the parameters cannot be opened.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Held<Map<String, Value>>>, LedgerError> {
        let attempt = async { self.read_instance(&*self.reader().await?, id).await };
        self.within("reading an instance", attempt).await
    }

    pub(super) async fn read_instance(
        &self,
        client: &impl GenericClient,
        id: &InstanceId,
    ) -> Result<Option<Held<Map<String, Value>>>, LedgerError> {
        let Some(row) = read_held(client, id, "instances.parameters").await? else {
            return Ok(None);
        };
        let sealed = row.try_get(COLUMN_COUNT + Operation::COLUMN_COUNT);
        let sealed = sealed.map_err(LedgerError::statement(format!("reading instance {id}")))?;
        held(&row, self.open_json(&parameters_place(id), sealed)?).map(Some)
    }

    /// An instance with its latest operation and its connection.
    ///
    /// # Errors
    /// When Postgres cannot be read, or the connection cannot be opened.
    pub async fn reach(&self, id: &InstanceId) -> Result<Option<Held<Option<Connection>>>, LedgerError> {
        let attempt = async {
            let Some(row) = read_held(&*self.reader().await?, id, "instances.connection").await? else {
                return Ok(None);
            };
            let sealed = row.try_get(COLUMN_COUNT + Operation::COLUMN_COUNT);
            let sealed = sealed.map_err(LedgerError::statement(format!("reading instance {id}")))?;
            held(&row, self.open_connection(id, sealed)?).map(Some)
        };
        self.within("reading an instance", attempt).await
    }

    /// What polling needs of an instance and the operation named, or else its latest of those that the specification
    /// knows.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn poll(&self, id: &InstanceId, operation: Option<Uuid>) -> Result<Option<Polled>, LedgerError> {
        self.within("reading an operation", self.read_poll(id, operation)).await
    }

    async fn read_poll(&self, id: &InstanceId, operation: Option<Uuid>) -> Result<Option<Polled>, LedgerError> {
        const NAMED: &str = "select deleted_at is not null, message, kind, state, description, \
             operations.created_at, instance_usable, update_repeatable from instances \
             left join operations on operations.id = $2 and instance_id = instances.id and binding_id is null \
             where instances.id = $1";
        let latest = format!(
            "select deleted_at is not null, message, kind, state, description, operations.created_at, instance_usable,
                 update_repeatable
             from instances left join lateral (
                 select * from operations where instance_id = instances.id and binding_id is null
                 and kind in ('provision', 'update', 'deprovision') order by {} limit 1) operations on true
             where instances.id = $1",
            Operation::LATEST_FIRST
        );
        let refused = |error| LedgerError::statement(format!("reading the state of instance {id}"))(error);
        let unreadable = |reason: String| LedgerError::Row {
            place: format!("the operation of instance {id}"),
            reason,
        };
        let client = self.reader().await?;
        let row = match operation {
            Some(operation) => {
                let statement = client.prepare_cached(NAMED).await.map_err(refused)?;
                client.query_opt(&statement, &[&id.as_str(), &operation]).await
            }
            None => {
                let statement = client.prepare_cached(&latest).await.map_err(refused)?;
                client.query_opt(&statement, &[&id.as_str()]).await
            }
        };
        let Some(row) = row.map_err(refused)? else {
            return Ok(None);
        };
        let kind: Option<&str> = row.try_get(2).map_err(refused)?;
        let state: Option<&str> = row.try_get(3).map_err(refused)?;
        let usable: Option<bool> = row.try_get(6).map_err(refused)?;
        let repeatable: Option<bool> = row.try_get(7).map_err(refused)?;
        let operation = match kind.zip(state) {
            None => None,
            Some((kind, state)) => Some(PolledOperation {
                kind: OperationKind::parse(kind).ok_or_else(|| unreadable(format!("kind {kind:?} is not known")))?,
                state: OperationState::parse(state)
                    .ok_or_else(|| unreadable(format!("state {state:?} is not known")))?,
                description: row.try_get(4).map_err(refused)?,
                created_at: row.try_get(5).map_err(refused)?,
                remains: usable
                    .zip(repeatable)
                    .map(|(usable, repeatable)| Remains { usable, repeatable }),
            }),
        };
        Ok(Some(Polled {
            deleted: row.try_get(0).map_err(refused)?,
            message: row.try_get(1).map_err(refused)?,
            operation,
        }))
    }

    /// Opens the connection of an instance, which is `None` until the instance was first ready.
    pub(super) fn open_connection(
        &self,
        id: &InstanceId,
        sealed: Option<&[u8]>,
    ) -> Result<Option<Connection>, LedgerError> {
        sealed
            .map(|sealed| self.open_json(&connection_place(id), sealed))
            .transpose()
    }
}
