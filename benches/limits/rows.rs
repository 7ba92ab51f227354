//! Rows of the ledger, made by the broker's own code, as many as a measure needs.

use std::collections::BTreeMap;

use cache_broker::api::{Connection, EngineType, ProviderKind};
use cache_broker::ledger::{
    Asked, Asker, InstanceId, Judgement, Later, Ledger, NewInstance, Observation, Request, Scope, Verdict,
    WebhookTarget, resource_name,
};
use futures::{StreamExt, TryStreamExt};
use serde_json::Map;

use crate::stage::{NAMESPACE, PLAN, SERVICE};

/// How many are written at one time.
const AT_ONCE: usize = 24;

/// The id of a plan and its newest revision, by the plan's name, as the ledger counts revisions.
pub struct Plan {
    pub id: String,
    pub revision: i64,
}

pub fn asked(request: Request) -> Asked {
    Asked {
        asker: Asker {
            caller: "bench".to_owned(),
            originating: None,
            request_identity: None,
        },
        request,
        binding: None,
        plan: None,
        parameters: Vec::new(),
    }
}

pub fn connection() -> Connection {
    Connection {
        engine: EngineType::Memcached,
        provider: ProviderKind::Kubernetes,
        host: "bench.memcached-system.svc.cluster.local".to_owned(),
        port: 11211,
        tls: false,
        username: None,
        password: None,
        nodes: Vec::new(),
    }
}

fn id(prefix: &str, number: u64) -> Result<InstanceId, String> {
    format!("{prefix}-{number}").parse().map_err(|error| format!("{error}"))
}

/// Accepts that many instances, `PREFIX-0` and on.
///
/// # Errors
/// When the ledger refuses.
pub async fn accept(ledger: &Ledger, plan: &Plan, prefix: &str, count: u64) -> Result<(), String> {
    accept_with(ledger, plan, prefix, count, |_| None).await
}

/// The same, each with the webhook that it is given.
///
/// # Errors
/// When the ledger refuses.
pub async fn accept_with(
    ledger: &Ledger,
    plan: &Plan,
    prefix: &str,
    count: u64,
    webhook: impl Fn(u64) -> Option<WebhookTarget>,
) -> Result<(), String> {
    let parse = |text: &str| text.parse().map_err(|error| format!("{error}"));
    let new = NewInstance {
        service_id: SERVICE.parse().map_err(|error| format!("{error}"))?,
        plan_id: parse(&plan.id)?,
        plan_name: PLAN.to_owned(),
        plan_revision: plan.revision,
        organization_guid: "bench-organization".to_owned(),
        space_guid: "bench-space".to_owned(),
        context: Map::new(),
        parameters: Map::new(),
        namespace: NAMESPACE.to_owned(),
        webhook: None,
        deadline: std::time::Duration::from_secs(3600),
        preprovisioned: false,
    };
    futures::stream::iter(0..count)
        .map(|number| {
            let new = NewInstance {
                webhook: webhook(number),
                ..new.clone()
            };
            async move {
                ledger
                    .provision(
                        &id(prefix, number)?,
                        &asked(Request::Provision),
                        &Scope::default(),
                        |_, _| Judgement::<(), _>::Accept(new.clone()),
                    )
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Has the ledger see that many instances as ready, as if their resources had been written and seen.
///
/// # Errors
/// When the ledger refuses.
pub async fn settle(ledger: &Ledger, sql: &tokio_postgres::Client, prefix: &str, count: u64) -> Result<(), String> {
    sql.batch_execute("update instances set applied_revision = desired_revision")
        .await
        .map_err(|error| error.to_string())?;
    let epoch = ledger.next_epoch().await.map_err(|error| error.to_string())?;
    futures::stream::iter(0..count)
        .map(|number| async move {
            let instance = id(prefix, number)?;
            let observation = Observation {
                namespace: NAMESPACE.to_owned(),
                name: resource_name(&instance),
                instance,
                uid: format!("uid-{number}"),
                resource_version: "1".to_owned(),
                later: Later {
                    revision: 1,
                    ..Later::default()
                },
                adopts: false,
                deleting: false,
                verdict: Verdict::Ready,
                ready: true,
                reason: "Available".to_owned(),
                message: "the cache answers".to_owned(),
                connection: Some(connection()),
                encrypted_at_rest: None,
                users: Vec::new(),
                current: true,
            };
            ledger
                .project(epoch, &observation)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// The ids of the ready plans of the catalog, by their names in the cluster.
pub fn plans(list: &serde_json::Value) -> BTreeMap<String, Plan> {
    let items = list.get("items").and_then(|items| items.as_array());
    items
        .into_iter()
        .flatten()
        .filter_map(|plan| {
            let name = plan.pointer("/metadata/name")?.as_str()?;
            let id = plan.pointer("/spec/id")?.as_str()?;
            let revision = plan.pointer("/status/revision")?.as_i64()?;
            Some((
                name.to_owned(),
                Plan {
                    id: id.to_owned(),
                    revision,
                },
            ))
        })
        .collect()
}
