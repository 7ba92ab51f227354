//! Deployments that version 0.1 made: named like their node, with `cache.akkeris.io/node` in the place of a digest. One
//! that runs what is wanted goes on running.
//!
//! What stands here is what 0.1 wrote, and does not follow what is written now.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::compare::stands_in;
use super::template::canonical_cpu;
use crate::api::{Engine, EngineType, KubernetesSpec};

const DEFAULT_CONNECTIONS: u32 = 1024;
const MEMCACHED_OWN_FILES: u32 = 25;

/// Whether a Deployment of 0.1 runs what a plan says.
pub fn runs(live: &Deployment, engine: &Engine, spec: &KubernetesSpec) -> bool {
    let Ok(found) = serde_json::to_value(live) else {
        return false;
    };
    let args = found.pointer("/spec/template/spec/containers/0/args");
    let args: Vec<_> = args
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let has = |(option, value): (&str, String)| {
        args.windows(2)
            .any(|pair| matches!(pair, [name, given] if *name == option && *given == value))
    };
    spec.persistence.is_none() && stands_in(&facts(engine, spec), &found) && options(engine, spec).into_iter().all(has)
}

fn facts(engine: &Engine, spec: &KubernetesSpec) -> Value {
    let image = spec.image.clone().unwrap_or_else(|| match engine.type_ {
        EngineType::Valkey => format!("valkey/valkey:{}", engine.version),
        EngineType::Redis | EngineType::Memcached => format!("{}:{}", engine.type_, engine.version),
    });
    json!({ "spec": { "template": { "spec": {
        "nodeSelector": spec.node_selector,
        "tolerations": spec.tolerations,
        "affinity": spec.affinity,
        "topologySpreadConstraints": spec.topology_spread,
        "priorityClassName": spec.priority_class,
        "containers": [{
            "image": image,
            "resources": {
                "requests": { "memory": spec.memory, "cpu": canonical_cpu(spec.cpu.as_deref().unwrap_or("100m")) },
                "limits": { "memory": spec.memory },
            },
        }],
    } } } })
}

fn options(engine: &Engine, spec: &KubernetesSpec) -> Vec<(&'static str, String)> {
    let connections = spec.connection_limit.unwrap_or(DEFAULT_CONNECTIONS);
    if engine.type_.is_redis_like() {
        let policy = spec.eviction_policy.unwrap_or_default().as_str();
        vec![
            ("--maxclients", connections.to_string()),
            ("--maxmemory-policy", policy.to_owned()),
        ]
    } else {
        let item = spec.max_item_size.map_or(1, |item| item.mebibytes());
        vec![
            ("-c", (connections + MEMCACHED_OWN_FILES).to_string()),
            ("-I", format!("{item}m")),
        ]
    }
}
