//! What is answered, and what is accepted: pure functions of the request, what the ledger holds, and the catalog.

pub mod actions;
pub mod bind;
pub mod deprovision;
pub mod fetch;
pub mod last_binding_operation;
pub mod last_operation;
pub mod moves;
pub mod provision;
pub mod quotas;
#[cfg(test)]
mod table;
pub mod unbind;
pub mod update;

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::OsbError;

/// A reply that is no refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// A reply with a body.
    pub fn new(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body,
            retry_after: None,
        }
    }

    /// 200 with `{}`.
    pub fn done() -> Self {
        Self::new(StatusCode::OK, json!({}))
    }

    /// 201 with `{}`: what was asked for is there already.
    pub fn created() -> Self {
        Self::new(StatusCode::CREATED, json!({}))
    }

    /// 202 with the operation to poll.
    pub fn accepted(operation: Uuid) -> Self {
        Self::new(StatusCode::ACCEPTED, json!({ "operation": operation }))
    }
}

/// A reply of either kind.
pub type Reply = Result<Answer, OsbError>;

#[cfg(test)]
pub(crate) mod fixtures {
    use serde_json::Map;

    use super::*;
    use crate::api::{CachePlan, EngineType, ProviderKind};
    use crate::ledger::{
        Binding, BindingState, Connection, Held, Instance, Operation, OperationKind, OperationState, Polled,
        PolledOperation, Remains,
    };
    use crate::osb::catalog::Catalog;
    use crate::osb::credentials;
    use crate::osb::services::Services;

    pub const SERVICE: &str = "8cccbf79-3e08-4607-ad9f-193bd5f7ff83";

    /// An id that is the same in every test.
    pub fn operation_id() -> Uuid {
        Uuid::from_u128(7)
    }

    pub fn plan(changes: Value) -> CachePlan {
        let mut plan = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1",
            "kind": "CachePlan",
            "metadata": { "name": "memcached-small" },
            "spec": {
                "service": "akkeris-memcached", "id": "p", "description": "One node.",
                "engine": { "type": "memcached", "version": "1.6" },
                "parameters": { "properties": { "connectionLimit": { "type": "integer", "maximum": 100 } } },
                "kubernetes": { "memory": "64Mi" },
            },
            "status": {
                "revision": 3,
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Available", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        });
        merge(&mut plan, changes);
        serde_json::from_value(plan).unwrap()
    }

    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (key, value) in changes {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, changes) => *into = changes,
        }
    }

    /// A plan under a name, which is its id.
    pub fn named(id: &str, changes: Value) -> CachePlan {
        let mut plan = plan(changes);
        plan.metadata.name = Some(id.to_owned());
        plan.spec.id = id.to_owned();
        plan
    }

    /// p: what instances run from, revision 3. larger: the same with more. bare, aws: without its parameters.
    pub fn offered() -> Vec<CachePlan> {
        let aws = json!({ "kubernetes": null, "parameters": null, "elasticache": { "nodeType": "cache.t4g.micro" } });
        vec![
            plan(json!({})),
            named(
                "larger",
                json!({ "spec": { "operationDeadline": "10m" }, "status": { "revision": 5 } }),
            ),
            named("bare", json!({ "spec": { "parameters": null } })),
            named("older", json!({ "spec": { "engine": { "version": "1.5" } } })),
            named("aws", json!({ "spec": aws })),
            named(
                "redis",
                json!({ "spec": { "service": "akkeris-redis", "engine": { "type": "redis" } } }),
            ),
            named("deprecated", json!({ "spec": { "state": "deprecated" } })),
        ]
    }

    pub fn catalog(plans: &[CachePlan]) -> Catalog {
        Catalog::new(&Services::read(None).unwrap(), plans, &|_| true)
    }

    pub fn operation(kind: OperationKind, state: OperationState) -> Operation {
        Operation {
            id: operation_id(),
            instance_id: "i".parse().unwrap(),
            kind,
            state,
            description: (state == OperationState::Failed).then(|| "out of capacity".to_owned()),
            desired_revision: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            deadline_at: jiff::Timestamp::UNIX_EPOCH,
            ended_at: None,
        }
    }

    /// An instance that answers, on which nothing goes on.
    pub fn held<S>(opened: S) -> Held<S> {
        Held {
            instance: Instance {
                id: "i".parse().unwrap(),
                service_id: SERVICE.to_owned(),
                plan_id: "p".to_owned(),
                plan_name: "memcached-small".to_owned(),
                plan_revision: 3,
                organization_guid: "o".to_owned(),
                space_guid: "s".to_owned(),
                namespace: "memcached-system".to_owned(),
                name: "osb-1".to_owned(),
                unwanted: false,
                ready: true,
                reason: Some("Available".to_owned()),
                message: Some("answers".to_owned()),
                provisioned_at: Some(jiff::Timestamp::UNIX_EPOCH),
                deleted_at: None,
            },
            latest: Some(operation(OperationKind::Provision, OperationState::Succeeded)),
            opened,
        }
    }

    /// The same, while it is made.
    pub fn provisioning<S>(opened: S) -> Held<S> {
        let mut held = held(opened);
        held.instance.ready = false;
        held.instance.provisioned_at = None;
        held.instance.message = Some("being made".to_owned());
        held.latest = Some(operation(OperationKind::Provision, OperationState::InProgress));
        held
    }

    /// The same, after it could not be made.
    pub fn failed<S>(opened: S) -> Held<S> {
        let mut held = provisioning(opened);
        held.latest = Some(operation(OperationKind::Provision, OperationState::Failed));
        held
    }

    /// The same, while it is given back.
    pub fn deprovisioning<S>(opened: S) -> Held<S> {
        let mut held = held(opened);
        held.instance.unwanted = true;
        held.latest = Some(operation(OperationKind::Deprovision, OperationState::InProgress));
        held
    }

    /// The same, after that failed.
    pub fn undeleted<S>(opened: S) -> Held<S> {
        let mut held = deprovisioning(opened);
        held.latest = Some(operation(OperationKind::Deprovision, OperationState::Failed));
        held
    }

    /// The same, while it is changed.
    pub fn updating<S>(opened: S) -> Held<S> {
        let mut held = held(opened);
        held.latest = Some(operation(OperationKind::Update, OperationState::InProgress));
        held
    }

    /// What is left of it.
    pub fn tombstone<S>(opened: S) -> Held<S> {
        let mut held = deprovisioning(opened);
        held.instance.deleted_at = Some(jiff::Timestamp::UNIX_EPOCH);
        held.latest = Some(operation(OperationKind::Deprovision, OperationState::Succeeded));
        held
    }

    /// An operation as polling finds it, of an instance that is there.
    pub fn polled(kind: OperationKind, state: OperationState) -> Polled {
        Polled {
            deleted: false,
            message: Some("being made".to_owned()),
            operation: Some(PolledOperation {
                kind,
                state,
                description: Some("ended so".to_owned()),
                created_at: jiff::Timestamp::UNIX_EPOCH,
                remains: (kind == OperationKind::Update).then_some(Remains {
                    usable: true,
                    repeatable: false,
                }),
            }),
        }
    }

    /// A binding that was handed what all are.
    pub fn existing_binding() -> Binding {
        Binding {
            service_id: SERVICE.to_owned(),
            plan_id: "p".to_owned(),
            app_guid: Some("app".to_owned()),
            context: Map::new(),
            parameters: Map::new(),
            credentials: credentials::of(&connection()),
            username: None,
            predecessor: None,
            state: BindingState::Bound,
            running: None,
        }
    }

    /// A binding that has a user of its own.
    pub fn binding_with_user(state: BindingState, running: bool) -> Binding {
        Binding {
            username: Some("b-1".to_owned()),
            state,
            running: running.then(operation_id),
            ..existing_binding()
        }
    }

    pub fn connection() -> Connection {
        Connection {
            engine: EngineType::Memcached,
            provider: ProviderKind::Kubernetes,
            host: "cache.example".to_owned(),
            port: 11211,
            tls: false,
            username: None,
            password: None,
            nodes: Vec::new(),
        }
    }

    pub fn members(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }
}
