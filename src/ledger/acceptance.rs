//! Accepting what platforms ask for. The caller judges by a pure function what the ledger holds; each acceptance is one
//! transaction.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::events::Event;
use super::instances::{self, COLUMNS};
use super::operations::READY;
use super::pool::{Claim, MadeAhead};
use super::{
    Asked, Held, InstanceId, Ledger, LedgerError, Operation, OperationKind, OperationState, Outcome, PlanId, Remains,
    Scope, ServiceId, Usage, WebhookTarget, bindings, listen, operations, webhooks,
};
use crate::ambient;
use crate::digest::sha256_hex;

/// How often an acceptance is judged again because another request was faster.
const ATTEMPTS: usize = 5;

/// What a judge makes of a request: an answer that changes nothing, or something to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement<A, N> {
    /// Nothing is written.
    Answer(A),
    /// This is written.
    Accept(N),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled<A, T> {
    /// It was answered and nothing was written.
    Answered(A),
    /// It was written.
    Accepted(T),
}

/// An instance to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    /// The OSB service.
    pub service_id: ServiceId,
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan to run from.
    pub plan_revision: i64,
    /// For which organization.
    pub organization_guid: String,
    /// For which space.
    pub space_guid: String,
    /// The platform's context object.
    pub context: Map<String, Value>,
    /// The tenant's parameters.
    pub parameters: Map<String, Value>,
    /// Where its resource goes.
    pub namespace: String,
    /// Where events of the instance go.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
    /// Whether one of the plan's pool will do.
    pub preprovisioned: bool,
}

/// An instance that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provisioned {
    /// It is being made by this operation.
    Begun(Uuid),
    /// It was made ahead, and is usable.
    Claimed,
}

/// The end of an instance to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDeprovision {
    /// Where the event goes, if not where the instance's events go anyway.
    pub webhook: Option<WebhookTarget>,
    /// How long the operation may take.
    pub deadline: Duration,
}

/// The name of an ordered instance's resource. It is derived, so that the same order always means the same resource,
/// and hashed, since OSB ids may have any characters (OSB 2.17, "URL Properties").
pub fn resource_name(id: &InstanceId) -> String {
    format!("osb-{}", sha256_hex(id.as_str(), 10))
}

impl Ledger {
    /// Accepts a new instance, if the judge does: one of the plan's pool where that will do, else one that is to be made.
    /// The judge is asked again when another request for the same id was faster. It is told how much there is of what is
    /// in the scope.
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn provision<A>(
        &self,
        id: &InstanceId,
        asked: &Asked,
        scope: &Scope,
        judge: impl Fn(Option<&Held<Map<String, Value>>>, &Usage) -> Judgement<A, NewInstance>,
    ) -> Result<Settled<A, Provisioned>, LedgerError> {
        let attempt = async {
            let mut client = self.client().await?;
            if scope.is_empty() {
                return self
                    .order(&mut client, id, asked, |held| judge(held, &Usage::default()))
                    .await;
            }
            let refused = || LedgerError::statement(format!("recording instance {id}"));
            let mut tx = client.transaction().await.map_err(refused())?;
            let usage = Self::usage(&tx, scope).await?;
            let settled = self.order(&mut tx, id, asked, |held| judge(held, &usage)).await?;
            tx.commit().await.map_err(refused())?;
            Ok(settled)
        };
        let settled = self.within("accepting an instance", attempt).await?;
        if let Settled::Accepted(provisioned) = settled {
            self.announce_outbox();
            if provisioned == Provisioned::Claimed {
                self.announce(listen::WEBHOOKS);
            }
        }
        Ok(settled)
    }

    /// All of it on one connection: whoever holds a lock must not wait for another.
    async fn order<A>(
        &self,
        client: &mut impl GenericClient,
        id: &InstanceId,
        asked: &Asked,
        judge: impl Fn(Option<&Held<Map<String, Value>>>) -> Judgement<A, NewInstance>,
    ) -> Result<Settled<A, Provisioned>, LedgerError> {
        for _ in 0..ATTEMPTS {
            let held = self.read_instance(client, id).await?;
            match judge(held.as_ref()) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => {
                    if new.preprovisioned {
                        match self.claim_member(client, id, asked, &new).await {
                            Ok(Claim::Taken) => return Ok(Settled::Accepted(Provisioned::Claimed)),
                            Ok(Claim::IdTaken) => continue,
                            Ok(Claim::Empty) => {}
                            Err(error) if error.is_transient() => return Err(error),
                            // A member that cannot be handed out keeps nobody from having one made.
                            Err(error) => tracing::error!(instance = %id, %error, "no member of the pool"),
                        }
                    }
                    if let Some(operation) = self.insert_instance(client, id, asked, &new, None).await? {
                        return Ok(Settled::Accepted(Provisioned::Begun(operation)));
                    }
                }
            }
        }
        Err(crowded("provisioning", id))
    }

    /// Records an instance that is to be made, or one that was made ahead: then its operation has ended, and its webhook is
    /// due. One statement is one transaction. `None` if the id was taken meanwhile. Conflicts of every unique index count:
    /// two inserts that both found the id free may meet first in the index of resource names.
    pub(super) async fn insert_instance(
        &self,
        client: &impl GenericClient,
        id: &InstanceId,
        asked: &Asked,
        new: &NewInstance,
        ahead: Option<&MadeAhead>,
    ) -> Result<Option<Uuid>, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording instance {id}"))(error);
        let (operation, event) = (ambient::id(), ambient::id());
        let parameters = self.seal_json(&instances::parameters_place(id), &new.parameters)?;
        let (webhook, target, receiver) = match &new.webhook {
            None => (None, None, None),
            Some(target) => (
                Some(self.seal_json(&instances::webhook_place(id), target)?),
                Some(self.seal_json(&webhooks::target_place(event), target)?),
                webhooks::receiver(target),
            ),
        };
        let originating = asked.asker.originating.as_ref();
        let described = ahead.map(|_| READY);
        let body = ahead.filter(|_| target.is_some()).map(|ahead| {
            let event = Event {
                id: event,
                state: OperationState::Succeeded,
                description: READY.to_owned(),
                instance_id: id.clone(),
                binding_id: None,
                operation,
                kind: OperationKind::Provision,
                time: ahead.at,
            };
            event.body()
        });
        let name = ahead.map_or_else(|| resource_name(id), |ahead| ahead.name.clone());
        let statement = client
            .prepare_cached(
                "with instance as (
                    insert into instances (id, service_id, plan_id, plan_name, plan_revision, organization_guid,
                        space_guid, context, parameters, webhook, namespace, name, uid, connection, ready, reason, message,
                        provisioned_at)
                    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $26, $27, $25::uuid is not null,
                        case when $25::uuid is not null then 'Available' end,
                        case when $25::uuid is not null then 'made ahead and handed out' end, $28::timestamptz)
                    on conflict do nothing
                    returning id, desired_revision
                ), operation as (
                    insert into operations (id, instance_id, kind, state, description, desired_revision,
                        request_identity, created_at, deadline_at, ended_at)
                    select $13::uuid, id, 'provision',
                        case when $25::uuid is null then 'in_progress' else 'succeeded' end, $29::text,
                        desired_revision, $14::text, coalesce($28::timestamptz, clock_timestamp()),
                        clock_timestamp() + make_interval(secs => $15::double precision), $28::timestamptz
                    from instance
                ), webhook as (
                    insert into webhooks (id, instance_id, operation_id, target, receiver, state, body, due_at)
                    select $16::uuid, id, $13::uuid, $17::bytea, $24::bytea,
                        case when $30::text is null then 'armed' else 'due' end, $30::text, $28::timestamptz
                    from instance where $17::bytea is not null
                ), audit as (
                    insert into audit (instance_id, request, caller, platform, identity, request_identity, plan_id,
                        parameters, status, operation_id)
                    select id, $18::text, $19::text, $20::text, $21::jsonb, $14::text, $22::text, $23::text[],
                        case when $25::uuid is null then 202 else 201 end, $13::uuid
                    from instance
                ), handed_out as (
                    update pool_members
                    set state = 'claimed', claimed_by = $1, since = now(), connection = null
                    from instance where pool_members.id = $25::uuid
                )
                select from instance",
            )
            .await
            .map_err(refused)?;
        let written = client
            .query_opt(
                &statement,
                &[
                    &id.as_str(),
                    &new.service_id.as_str(),
                    &new.plan_id.as_str(),
                    &new.plan_name,
                    &new.plan_revision,
                    &new.organization_guid,
                    &new.space_guid,
                    &tokio_postgres::types::Json(&new.context),
                    &parameters,
                    &webhook,
                    &ahead.map_or(&new.namespace, |ahead| &ahead.namespace),
                    &name,
                    &operation,
                    &asked.asker.request_identity,
                    &new.deadline.as_secs_f64(),
                    &event,
                    &target,
                    &asked.request.as_str(),
                    &asked.asker.caller,
                    &originating.map(|originating| &originating.platform),
                    &originating.map(|originating| tokio_postgres::types::Json(&originating.identity)),
                    &asked.plan,
                    &asked.parameters,
                    &receiver,
                    &ahead.map(|ahead| ahead.member),
                    &ahead.map(|ahead| &ahead.uid),
                    &ahead.map(|ahead| &ahead.connection),
                    &ahead.map(|ahead| ahead.at),
                    &described,
                    &body,
                ],
            )
            .await
            .map_err(refused)?;
        Ok(written.map(|_| operation))
    }

    /// Accepts the end of an instance, if the judge does, and returns its operation's id. It takes the place of an
    /// operation in progress, which ends as failed (OSB 2.17, "Deprovisioning": a delete during provisioning halts it).
    ///
    /// # Errors
    /// When Postgres is away or refuses; then nothing was written, unless only the confirmation was lost.
    pub async fn deprovision<A>(
        &self,
        id: &InstanceId,
        asked: &Asked,
        judge: impl FnOnce(Option<&Held>) -> Judgement<A, NewDeprovision>,
    ) -> Result<Settled<A, Uuid>, LedgerError> {
        let accept = async |tx: &Transaction<'_>| {
            let held = lock_instance(tx, id).await?;
            let new = match judge(held.as_ref()) {
                Judgement::Answer(answer) => return Ok(Settled::Answered(answer)),
                Judgement::Accept(new) => new,
            };
            if let Some(running) = held.as_ref().and_then(Held::running) {
                let outcome = Outcome::Failed {
                    description: "superseded by deprovision".to_owned(),
                    remains: Remains {
                        usable: false,
                        repeatable: false,
                    },
                };
                operations::end(tx, running.id, &outcome).await?;
            }
            bindings::halt(tx, id, "superseded by deprovision").await?;
            Ok(Settled::Accepted(self.write_deprovision(tx, id, asked, &new).await?))
        };
        self.settle("accepting the end of an instance", id, accept, |_| true)
            .await
    }

    /// Accepts in one transaction, which does not commit where nothing is accepted; and wakes the outbox for what is to be
    /// written to the cluster.
    pub(super) async fn settle<A, T>(
        &self,
        attempt: &'static str,
        id: &InstanceId,
        accept: impl AsyncFnOnce(&Transaction<'_>) -> Result<Settled<A, T>, LedgerError>,
        is_to_be_written: impl FnOnce(&T) -> bool,
    ) -> Result<Settled<A, T>, LedgerError> {
        let transaction = async {
            let refused = |error| LedgerError::statement(format!("{attempt}: {id}"))(error);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused)?;
            let settled = accept(&tx).await?;
            if let Settled::Accepted(_) = settled {
                tx.commit().await.map_err(refused)?;
            }
            Ok(settled)
        };
        let settled = self.within(attempt, transaction).await?;
        if let Settled::Accepted(accepted) = &settled
            && is_to_be_written(accepted)
        {
            self.announce_outbox();
        }
        Ok(settled)
    }

    async fn write_deprovision(
        &self,
        tx: &Transaction<'_>,
        id: &InstanceId,
        asked: &Asked,
        new: &NewDeprovision,
    ) -> Result<Uuid, LedgerError> {
        let refused = |error| LedgerError::statement(format!("recording the end of instance {id}"))(error);
        let statement = tx
            .prepare_cached(
                "update instances
                 set desired = 'absent', desired_revision = desired_revision + 1, outbox_due_at = now(),
                     outbox_attempts = 0, outbox_error = null, updated_at = now()
                 where id = $1
                 returning desired_revision, webhook",
            )
            .await
            .map_err(refused)?;
        let row = tx.query_one(&statement, &[&id.as_str()]).await.map_err(refused)?;
        let revision: i64 = row.try_get(0).map_err(refused)?;
        let standing: Option<&[u8]> = row.try_get(1).map_err(refused)?;
        let begun = operations::Begun {
            kind: OperationKind::Deprovision,
            binding: None,
            answered: 202,
            desired_revision: revision,
            deadline: new.deadline,
        };
        let operation = operations::begin(tx, id, asked, &begun).await?;
        if let Some(target) = self.target_for(id, new.webhook.as_ref(), standing) {
            webhooks::arm(self, tx, id, operation, &target).await?;
        }
        Ok(operation)
    }

    /// Where an event goes: where the request says, else where the instance's events go.
    pub(super) fn target_for(
        &self,
        id: &InstanceId,
        requested: Option<&WebhookTarget>,
        standing: Option<&[u8]>,
    ) -> Option<WebhookTarget> {
        if requested.is_some() {
            return requested.cloned();
        }
        // A lost key must not keep an instance from being given back.
        self.open_json(&instances::webhook_place(id), standing?)
            .inspect_err(|error| tracing::error!(instance = %id, %error, "no webhook for this operation"))
            .ok()
    }
}

/// An instance with its latest operation, locked until the transaction ends.
pub(super) async fn lock_instance(tx: &Transaction<'_>, id: &InstanceId) -> Result<Option<Held>, LedgerError> {
    Ok(lock_row(tx, id, "", "").await?.map(|(held, _)| held))
}

/// What is joined to the row of an instance for its plan at the revision that it runs from.
pub(super) const JOIN_PLAN: &str = "left join plan_revisions on plan_revisions.plan_id = instances.plan_id
    and plan_revisions.revision = instances.plan_revision";

/// The same, and its row: the [`COLUMNS`] of the instance, and then others of it or of what is joined.
pub(super) async fn lock_row(
    tx: &Transaction<'_>,
    id: &InstanceId,
    others: &str,
    joined: &str,
) -> Result<Option<(Held, Row)>, LedgerError> {
    let refused = |error| LedgerError::statement(format!("locking instance {id}"))(error);
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} {others} from instances {joined} where instances.id = $1 for update of instances"
        ))
        .await
        .map_err(refused)?;
    let Some(row) = tx.query_opt(&statement, &[&id.as_str()]).await.map_err(refused)? else {
        return Ok(None);
    };
    let held = Held {
        instance: instances::instance(&row)?,
        latest: latest_operation(tx, id).await?,
        opened: (),
    };
    Ok(Some((held, row)))
}

/// The latest operation of the instance itself as it is now: a statement of its own sees what was committed while the lock was
/// waited for.
pub(super) async fn latest_operation(tx: &Transaction<'_>, id: &InstanceId) -> Result<Option<Operation>, LedgerError> {
    let refused = |error| LedgerError::statement(format!("reading the latest operation of instance {id}"))(error);
    let statement = tx
        .prepare_cached(&format!(
            "select {} from operations where instance_id = $1 and binding_id is null order by {} limit 1",
            Operation::COLUMNS,
            Operation::LATEST_FIRST
        ))
        .await
        .map_err(refused)?;
    tx.query_opt(&statement, &[&id.as_str()])
        .await
        .map_err(refused)?
        .map(|row| Operation::from_row(&row, 0))
        .transpose()
}

/// Too many requests for one id at a time.
pub(super) fn crowded(attempt: &str, id: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::Unavailable(format!("{attempt} {id}: other requests for it were faster each time"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_resource_name_fits_the_rule_of_its_definition(id in "[^\\p{C}]{1,60}") {
            let name = resource_name(&id.parse().unwrap());
            prop_assert_eq!(name.len(), 24);
            prop_assert!(name.starts_with("osb-"));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
        }
    }

    #[test]
    fn a_resource_name_never_changes() {
        assert_eq!(resource_name(&"a".parse().unwrap()), "osb-ca978112ca1bbdcafac2");
    }
}
