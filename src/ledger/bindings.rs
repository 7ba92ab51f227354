//! Bindings: the credentials handed to one application. They end with their instance.

use deadpool_postgres::Transaction;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::acceptance::{crowded, latest_operation};
use super::instances::{self, COLUMN_COUNT, COLUMNS};
use super::{
    Answered, Asked, BindingId, Connection, Held, InstanceId, Judgement, Ledger, LedgerError, PlanId, ServiceId,
    Settled, audit,
};

/// How often a binding is judged again because another request was faster.
const ATTEMPTS: usize = 5;

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

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The OSB service it was asked for with.
    pub service_id: String,
    /// The OSB plan it was asked for with.
    pub plan_id: String,
    /// The application it is for.
    pub app_guid: Option<String>,
    /// Its parameters.
    pub parameters: Map<String, Value>,
    /// What was handed out.
    pub credentials: Credentials,
}

/// A binding to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBinding {
    /// The OSB service.
    pub service_id: ServiceId,
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The application it is for.
    pub app_guid: Option<String>,
    /// The platform's context object.
    pub context: Map<String, Value>,
    /// Its parameters.
    pub parameters: Map<String, Value>,
    /// What is handed out.
    pub credentials: Credentials,
}

/// How a row is locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// Nobody changes it meanwhile.
    Share,
    /// Nobody else is about to change it.
    Update,
}

/// The columns that [`Ledger::open_binding`] reads.
const BINDING: &str = "bindings.service_id, bindings.plan_id, bindings.app_guid, bindings.parameters, \
     bindings.credentials";

fn answered(status: u16) -> Answered<'static> {
    Answered {
        status,
        ..Answered::default()
    }
}

fn parameters_place(instance: &InstanceId, id: &BindingId) -> String {
    format!("bindings.parameters/{instance}/{id}")
}

fn credentials_place(instance: &InstanceId, id: &BindingId) -> String {
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

    /// Accepts a binding, if the judge does, and returns it as it was written. The instance cannot change meanwhile.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn bind<A>(
        &self,
        instance: &InstanceId,
        id: &BindingId,
        asked: &Asked,
        judge: impl Fn(Option<&Held<Option<Connection>>>, Option<&Binding>) -> Judgement<A, NewBinding>,
    ) -> Result<Settled<A, NewBinding>, LedgerError> {
        let attempt = async {
            let refused =
                |error| LedgerError::statement(format!("recording binding {id} of instance {instance}"))(error);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused)?;
            let held = self.lock_connected(&tx, instance, Lock::Share).await?;
            for _ in 0..ATTEMPTS {
                let binding = self.live_binding(&tx, instance, id).await?;
                match judge(held.as_ref(), binding.as_ref()) {
                    Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                    Judgement::Accept(new) => {
                        if self.insert_binding(&tx, instance, id, &new).await? {
                            audit::write(&tx, instance, asked, &answered(201)).await?;
                            tx.commit().await.map_err(refused)?;
                            return Ok(Settled::Accepted(new));
                        }
                    }
                }
            }
            Err(crowded("binding", id))
        };
        self.within("accepting a binding", attempt).await
    }

    /// Ends a binding and forgets its credentials. `false` if there is none.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn unbind(&self, instance: &InstanceId, id: &BindingId, asked: &Asked) -> Result<bool, LedgerError> {
        let attempt = async {
            let refused = |error| LedgerError::statement(format!("ending binding {id} of instance {instance}"))(error);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused)?;
            let statement = tx
                .prepare_cached(
                    "update bindings set deleted_at = now(), credentials = ''
                     where instance_id = $1 and id = $2 and deleted_at is null
                         and exists (select from instances where instances.id = $1 and instances.deleted_at is null)",
                )
                .await
                .map_err(refused)?;
            let ended = tx
                .execute(&statement, &[&instance.as_str(), &id.as_str()])
                .await
                .map_err(refused)?;
            if ended > 0 {
                audit::write(&tx, instance, asked, &answered(200)).await?;
                tx.commit().await.map_err(refused)?;
            }
            Ok(ended > 0)
        };
        self.within("ending a binding", attempt).await
    }

    /// An instance with its latest operation and its connection, locked until the transaction ends.
    pub(super) async fn lock_connected(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
        lock: Lock,
    ) -> Result<Option<Held<Option<Connection>>>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("locking instance {id}"))(error);
        let lock = match lock {
            Lock::Share => "share",
            Lock::Update => "update",
        };
        let statement = tx
            .prepare_cached(&format!(
                "select {COLUMNS}, instances.connection from instances where id = $1 for {lock}"
            ))
            .await
            .map_err(refused)?;
        let Some(row) = tx.query_opt(&statement, &[&id.as_str()]).await.map_err(refused)? else {
            return Ok(None);
        };
        Ok(Some(Held {
            instance: instances::instance(&row)?,
            latest: latest_operation(tx, id).await?,
            opened: self.open_connection(id, row.try_get(COLUMN_COUNT).map_err(refused)?)?,
        }))
    }

    async fn live_binding(
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

    /// `false` if the id was taken meanwhile. The id of a binding that ended may be used again.
    async fn insert_binding(
        &self,
        tx: &Transaction<'_>,
        instance: &InstanceId,
        id: &BindingId,
        new: &NewBinding,
    ) -> Result<bool, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording binding {id} of instance {instance}"))(error);
        let parameters = self.seal_json(&parameters_place(instance, id), &new.parameters)?;
        let credentials = self.seal_json(&credentials_place(instance, id), new.credentials.expose())?;
        let statement = tx
            .prepare_cached(
                "insert into bindings
                    (instance_id, id, service_id, plan_id, app_guid, context, parameters, credentials)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)
                 on conflict (instance_id, id) do update
                 set service_id = excluded.service_id, plan_id = excluded.plan_id, app_guid = excluded.app_guid,
                     context = excluded.context, parameters = excluded.parameters,
                     credentials = excluded.credentials, created_at = now(), deleted_at = null
                 where bindings.deleted_at is not null",
            )
            .await
            .map_err(refused)?;
        let written = tx
            .execute(
                &statement,
                &[
                    &instance.as_str(),
                    &id.as_str(),
                    &new.service_id.as_str(),
                    &new.plan_id.as_str(),
                    &new.app_guid,
                    &Json(&new.context),
                    &parameters,
                    &credentials,
                ],
            )
            .await
            .map_err(refused)?;
        Ok(written > 0)
    }

    fn open_binding(&self, instance: &InstanceId, id: &BindingId, row: &Row) -> Result<Binding, LedgerError> {
        let unreadable = |error: tokio_postgres::Error| LedgerError::Row {
            place: format!("binding {id} of instance {instance}"),
            reason: error.to_string(),
        };
        let parameters: &[u8] = row.try_get(3).map_err(unreadable)?;
        let credentials: &[u8] = row.try_get(4).map_err(unreadable)?;
        let credentials: Map<String, Value> = self.open_json(&credentials_place(instance, id), credentials)?;
        Ok(Binding {
            service_id: row.try_get(0).map_err(unreadable)?,
            plan_id: row.try_get(1).map_err(unreadable)?,
            app_guid: row.try_get(2).map_err(unreadable)?,
            parameters: self.open_json(&parameters_place(instance, id), parameters)?,
            credentials: Credentials::new(credentials),
        })
    }
}
