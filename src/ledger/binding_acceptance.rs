//! Accepting bindings and their end. A binding with a user of its own is written into the resource of its instance by
//! the outbox, so both are operations; one that is handed what all are is there at once.

use std::time::Duration;

use deadpool_postgres::Transaction;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::acceptance::{JOIN_PLAN, crowded, lock_row};
use super::bindings::{Binding, Credentials, credentials_place, parameters_place};
use super::instances::COLUMN_COUNT;
use super::{
    Answered, Asked, BindingId, Connection, Held, InstanceId, Judgement, Ledger, LedgerError, OperationKind, Outcome,
    PlanId, Remains, ServiceId, Settled, WebhookTarget, audit, operations, updates, webhooks,
};

/// What is opened of an instance that is to be bound to.
#[derive(Clone, Debug, Default)]
pub struct Bindable {
    /// How it is reached; `None` until it was first ready.
    pub connection: Option<Connection>,
    /// The spec of the plan at the revision it runs from; absent if it was counted before specs were kept.
    pub plan_spec: Option<Value>,
}

/// The bindings that a request is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The one of its id.
    pub existing: Option<Binding>,
    /// The one that it names as its predecessor.
    pub predecessor: Option<Binding>,
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
    /// The binding that it succeeds.
    pub predecessor: Option<BindingId>,
    /// What is handed out.
    pub credentials: Credentials,
    /// The user that is made for it; none where all are handed the same.
    pub username: Option<String>,
    /// Where the event goes, if not where the instance's events go anyway.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
}

/// A binding that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// It is there.
    Made(Box<NewBinding>),
    /// Its user is made by this operation.
    Begun(Uuid),
}

/// The end of a binding to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewUnbinding {
    /// Nothing is to be revoked in the cache.
    Now,
    /// Its user is removed, which may take that long.
    Revoke(Duration),
}

/// The end of a binding that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbound {
    /// It is gone.
    Done,
    /// Its user is removed by this operation.
    Begun(Uuid),
}

/// A user that an instance's cache is to have for a binding.
#[derive(Clone, Debug)]
pub struct BindingUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: SecretString,
}

fn answered(status: u16) -> Answered<'static> {
    Answered {
        status,
        ..Answered::default()
    }
}

impl Ledger {
    /// Accepts a binding, if the judge does. The instance and its bindings cannot change meanwhile.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn bind<A>(
        &self,
        instance: &InstanceId,
        id: &BindingId,
        predecessor: Option<&BindingId>,
        asked: &Asked,
        judge: impl FnOnce(Option<&Held<Bindable>>, &Standing) -> Judgement<A, NewBinding>,
    ) -> Result<Settled<A, Bound>, LedgerError> {
        let accept = async |tx: &Transaction<'_>| {
            let held = self.lock_bindable(tx, instance).await?;
            let standing = Standing {
                existing: self.live_binding(tx, instance, id).await?,
                predecessor: match predecessor {
                    Some(predecessor) => self.live_binding(tx, instance, predecessor).await?,
                    None => None,
                },
            };
            let new = match judge(held.as_ref(), &standing) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => new,
            };
            Ok(Settled::Accepted(
                self.write_binding(tx, instance, id, asked, new).await?,
            ))
        };
        self.settle("accepting a binding", instance, accept, |bound| {
            matches!(bound, Bound::Begun(_))
        })
        .await
    }

    /// Accepts the end of a binding, if the judge does.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn unbind<A>(
        &self,
        instance: &InstanceId,
        id: &BindingId,
        asked: &Asked,
        judge: impl FnOnce(Option<&Held<Bindable>>, Option<&Binding>) -> Judgement<A, NewUnbinding>,
    ) -> Result<Settled<A, Unbound>, LedgerError> {
        let accept = async |tx: &Transaction<'_>| {
            let held = self.lock_bindable(tx, instance).await?;
            let existing = self.live_binding(tx, instance, id).await?;
            let new = match judge(held.as_ref(), existing.as_ref()) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => new,
            };
            let unbound = match new {
                NewUnbinding::Now => {
                    end_binding(tx, instance, id, existing.as_ref()).await?;
                    audit::write(tx, instance, asked, &answered(200)).await?;
                    Unbound::Done
                }
                NewUnbinding::Revoke(deadline) => {
                    Unbound::Begun(revoke(tx, instance, id, asked, existing.as_ref(), deadline).await?)
                }
            };
            Ok(Settled::Accepted(unbound))
        };
        self.settle("accepting the end of a binding", instance, accept, |unbound| {
            matches!(unbound, Unbound::Begun(_))
        })
        .await
    }

    /// The users that an instance's cache is to have for its bindings, by name. It reads what was committed by now,
    /// which is no less than what was when the row's present revision was accepted.
    ///
    /// # Errors
    /// When Postgres cannot be read, or a password cannot be opened.
    pub async fn binding_users(&self, instance: &InstanceId) -> Result<Vec<BindingUser>, LedgerError> {
        self.within("reading the users of bindings", async {
            let refused = || LedgerError::statement(format!("reading the users of bindings of instance {instance}"));
            let rows = self
                .client()
                .await?
                .query(
                    "select id, username, credentials from bindings
                      where instance_id = $1 and username is not null and deleted_at is null and state <> 'unbinding'
                      order by username",
                    &[&instance.as_str()],
                )
                .await
                .map_err(refused())?;
            rows.iter()
                .map(|row| {
                    let text: String = row.try_get(0).map_err(refused())?;
                    let unreadable = |reason: String| LedgerError::Row {
                        place: format!("binding {text} of instance {instance}"),
                        reason,
                    };
                    let id: BindingId = text.parse().map_err(|error| unreadable(format!("id {error}")))?;
                    let sealed: &[u8] = row.try_get(2).map_err(refused())?;
                    let credentials: Map<String, Value> = self.open_json(&credentials_place(instance, &id), sealed)?;
                    let password = credentials.get("password").and_then(Value::as_str);
                    Ok(BindingUser {
                        name: row.try_get(1).map_err(refused())?,
                        password: password
                            .ok_or_else(|| unreadable("its credentials have no password".to_owned()))?
                            .to_owned()
                            .into(),
                    })
                })
                .collect()
        })
        .await
    }

    async fn lock_bindable(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
    ) -> Result<Option<Held<Bindable>>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("locking instance {id}"))(error);
        let others = ", instances.connection, plan_revisions.spec";
        let Some((held, row)) = lock_row(tx, id, others, JOIN_PLAN).await? else {
            return Ok(None);
        };
        Ok(Some(held.opening(Bindable {
            connection: self.open_connection(id, row.try_get(COLUMN_COUNT).map_err(refused)?)?,
            plan_spec: row.try_get(COLUMN_COUNT + 1).map_err(refused)?,
        })))
    }

    async fn write_binding(
        &self,
        tx: &Transaction<'_>,
        instance: &InstanceId,
        id: &BindingId,
        asked: &Asked,
        new: NewBinding,
    ) -> Result<Bound, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording binding {id} of instance {instance}"))(error);
        self.insert_binding(tx, instance, id, &new).await?;
        let statement = tx
            .prepare_cached("select webhook, desired_revision from instances where id = $1")
            .await
            .map_err(refused)?;
        let row = tx.query_one(&statement, &[&instance.as_str()]).await.map_err(refused)?;
        let target = self.target_for(instance, new.webhook.as_ref(), row.try_get(0).map_err(refused)?);
        let revision: i64 = row.try_get(1).map_err(refused)?;
        let waits = new.username.is_some();
        if !waits && target.is_none() {
            audit::write(tx, instance, asked, &answered(201)).await?;
            return Ok(Bound::Made(Box::new(new)));
        }
        let begun = operations::Begun {
            kind: OperationKind::Bind,
            binding: Some(id.clone()),
            answered: if waits { 202 } else { 201 },
            desired_revision: if waits { revision + 1 } else { revision },
            deadline: new.deadline,
        };
        let operation = operations::begin(tx, instance, asked, &begun).await?;
        if let Some(target) = target {
            webhooks::arm(self, tx, instance, operation, &target).await?;
        }
        if waits {
            updates::rewrite(tx, instance).await?;
            return Ok(Bound::Begun(operation));
        }
        operations::end(tx, operation, &Outcome::Succeeded).await?;
        Ok(Bound::Made(Box::new(new)))
    }

    /// The id of a binding that ended may be used again.
    async fn insert_binding(
        &self,
        tx: &Transaction<'_>,
        instance: &InstanceId,
        id: &BindingId,
        new: &NewBinding,
    ) -> Result<(), LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording binding {id} of instance {instance}"))(error);
        let parameters = self.seal_json(&parameters_place(instance, id), &new.parameters)?;
        let credentials = self.seal_json(&credentials_place(instance, id), new.credentials.expose())?;
        let state = if new.username.is_some() { "binding" } else { "bound" };
        let statement = tx
            .prepare_cached(
                "insert into bindings
                    (instance_id, id, service_id, plan_id, app_guid, context, parameters, credentials, state, username,
                     predecessor)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                 on conflict (instance_id, id) do update
                 set service_id = excluded.service_id, plan_id = excluded.plan_id, app_guid = excluded.app_guid,
                     context = excluded.context, parameters = excluded.parameters,
                     credentials = excluded.credentials, state = excluded.state, username = excluded.username,
                     predecessor = excluded.predecessor, created_at = now(), deleted_at = null
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
                    &state,
                    &new.username,
                    &new.predecessor.as_ref().map(BindingId::as_str),
                ],
            )
            .await
            .map_err(refused)?;
        // Whoever writes bindings of an instance holds its row.
        if written == 0 {
            Err(crowded("binding", id))
        } else {
            Ok(())
        }
    }
}

/// Ends what goes on for a binding, as failed.
async fn supersede(tx: &Transaction<'_>, existing: Option<&Binding>) -> Result<(), LedgerError> {
    if let Some(running) = existing.and_then(|existing| existing.running) {
        let outcome = Outcome::Failed {
            description: "superseded by unbind".to_owned(),
            remains: Remains {
                usable: true,
                repeatable: true,
            },
        };
        operations::end(tx, running, &outcome).await?;
    }
    Ok(())
}

async fn end_binding(
    tx: &Transaction<'_>,
    instance: &InstanceId,
    id: &BindingId,
    existing: Option<&Binding>,
) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("ending binding {id} of instance {instance}"));
    supersede(tx, existing).await?;
    let statement = tx
        .prepare_cached(
            "update bindings set deleted_at = now(), credentials = ''
             where instance_id = $1 and id = $2 and deleted_at is null",
        )
        .await
        .map_err(refused())?;
    tx.execute(&statement, &[&instance.as_str(), &id.as_str()])
        .await
        .map_err(refused())?;
    Ok(())
}

/// Has the user of a binding removed.
async fn revoke(
    tx: &Transaction<'_>,
    instance: &InstanceId,
    id: &BindingId,
    asked: &Asked,
    existing: Option<&Binding>,
    deadline: Duration,
) -> Result<Uuid, LedgerError> {
    let refused = || LedgerError::statement(format!("ending binding {id} of instance {instance}"));
    let statement = tx
        .prepare_cached(
            "update bindings set state = 'unbinding' where instance_id = $1 and id = $2 and deleted_at is null",
        )
        .await
        .map_err(refused())?;
    tx.execute(&statement, &[&instance.as_str(), &id.as_str()])
        .await
        .map_err(refused())?;
    supersede(tx, existing).await?;
    let statement = tx
        .prepare_cached("select desired_revision + 1 from instances where id = $1")
        .await
        .map_err(refused())?;
    let row = tx
        .query_one(&statement, &[&instance.as_str()])
        .await
        .map_err(refused())?;
    let begun = operations::Begun {
        kind: OperationKind::Unbind,
        binding: Some(id.clone()),
        answered: 202,
        desired_revision: row.try_get(0).map_err(refused())?,
        deadline,
    };
    let operation = operations::begin(tx, instance, asked, &begun).await?;
    updates::rewrite(tx, instance).await?;
    Ok(operation)
}
