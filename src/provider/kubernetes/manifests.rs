//! The objects of an in-cluster cache, as pure functions of what is desired.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::super::Desired;
use super::super::objects::metadata;
use super::super::secrets::REDIS_AUTH_CONF;
use super::{Kind, Manifest};
use crate::api::{EngineType, KubernetesSpec, Memory, annotations};

/// Memory that an engine needs beside what it stores: code, libraries, allocator.
const BASE_MEBIBYTES: u32 = 8;
/// What of the rest is for items; the rest of it is for fragmentation and buffers.
const ITEM_SHARE_PERCENT: u32 = 80;
/// What one memcached connection holds in buffers at most, in KiB, when requests are small.
const MEMCACHED_CONNECTION_KIB: u32 = 12;
/// What one redis connection holds in buffers, in KiB, when requests are small.
const REDIS_CONNECTION_KIB: u32 = 20;
/// The least memory for items that an engine is started with.
const LEAST_ITEM_MEBIBYTES: u32 = 4;
/// Connections an engine takes when the plan does not say.
const DEFAULT_CONNECTIONS: u32 = 1024;
/// memcached sets its limit of open files to `-c`, and holds this many itself with [`MEMCACHED_THREADS`] threads (counted
/// on 1.6.18): they are added, so that as many clients get in as the plan says.
const MEMCACHED_OWN_FILES: u32 = 25;
/// Threads of memcached; its own default.
const MEMCACHED_THREADS: u32 = 4;
/// The user and group ids of the official images.
const MEMCACHED_USER: u32 = 11211;
const REDIS_USER: u32 = 999;
/// Where a redis container finds its password.
const REDIS_AUTH_FOLDER: &str = "/etc/redis-auth";

/// A plan whose numbers make no cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The memory is not enough to start the engine.
    #[error(
        "memory {memory} leaves {left} MiB for items beside {connections} connections: give the plan more memory or a lower connectionLimit"
    )]
    TooSmall {
        /// The plan's memory.
        memory: Memory,
        /// What is left of it for items.
        left: u32,
        /// The connection limit.
        connections: u32,
    },
    /// memcached wants room for two of its largest items.
    #[error(
        "maxItemSize {item} is more than half of the {left} MiB for items: give the plan more memory or smaller items"
    )]
    ItemTooLarge {
        /// The largest item.
        item: Memory,
        /// What there is for items.
        left: u32,
    },
    /// Replicas of redis and valkey are not made in the cluster.
    #[error("{0} in the cluster runs as one node: leave replicas out, or use a plan on ElastiCache")]
    NoReplicas(EngineType),
}

/// The names of an instance's nodes, each that of a Deployment and a Service.
pub fn node_names(desired: &Desired, spec: &KubernetesSpec) -> Vec<String> {
    match spec.replicas.unwrap_or(1) {
        0 | 1 => vec![desired.name.clone()],
        nodes => (0..nodes).map(|index| format!("{}-{index}", desired.name)).collect(),
    }
}

/// Every object but the Secrets.
///
/// # Errors
/// When the plan's numbers make no cache.
pub fn manifests(desired: &Desired, spec: &KubernetesSpec) -> Result<Vec<Manifest>, Impossible> {
    let engine = desired.plan.engine.type_;
    if engine.is_redis_like() && spec.replicas.unwrap_or(1) > 1 {
        return Err(Impossible::NoReplicas(engine));
    }
    let item_memory = item_memory(engine, spec)?;
    let mut manifests = vec![manifest(
        desired,
        Kind::NetworkPolicy,
        &desired.name,
        network_policy(desired, spec),
    )];
    for node in node_names(desired, spec) {
        manifests.push(manifest(desired, Kind::Service, &node, service(desired, &node)));
        manifests.push(manifest(
            desired,
            Kind::Deployment,
            &node,
            deployment(desired, spec, &node, item_memory),
        ));
    }
    Ok(manifests)
}

/// Memory for items in MiB: the limit less what the engine needs beside them, so that it evicts before the kernel kills
/// it.
fn item_memory(engine: EngineType, spec: &KubernetesSpec) -> Result<u32, Impossible> {
    let connections = spec.connection_limit.unwrap_or(DEFAULT_CONNECTIONS);
    let each = if engine.is_redis_like() {
        REDIS_CONNECTION_KIB
    } else {
        MEMCACHED_CONNECTION_KIB
    };
    let overhead = BASE_MEBIBYTES + (connections * each).div_ceil(1024);
    let left = spec.memory.mebibytes().saturating_sub(overhead) * ITEM_SHARE_PERCENT / 100;
    if left < LEAST_ITEM_MEBIBYTES {
        return Err(Impossible::TooSmall {
            memory: spec.memory,
            left,
            connections,
        });
    }
    match spec.max_item_size {
        Some(item) if engine == EngineType::Memcached && item.mebibytes() * 2 > left => {
            Err(Impossible::ItemTooLarge { item, left })
        }
        _ => Ok(left),
    }
}

fn manifest(desired: &Desired, kind: Kind, name: &str, spec: Value) -> Manifest {
    let mut body = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": metadata(desired, name),
        "spec": spec,
    });
    // Marks what the object was applied from: a field that is no longer wanted differs in nothing else.
    let mark = hex(digest(&SHA256, body.to_string().as_bytes())
        .as_ref()
        .get(..8)
        .unwrap_or_default());
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".to_owned(), json!({ annotations::APPLIED_DIGEST: mark }));
    }
    Manifest {
        kind,
        name: name.to_owned(),
        body,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn selector(desired: &Desired, node: &str) -> Value {
    let mut labels = instance_selector(desired);
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("cache.akkeris.io/node".to_owned(), json!(node));
    }
    labels
}

fn instance_selector(desired: &Desired) -> Value {
    use crate::api::labels::{INSTANCE, NAME};
    json!({ NAME: desired.plan.engine.type_.as_str(), INSTANCE: desired.name })
}

fn service(desired: &Desired, node: &str) -> Value {
    let port = desired.plan.engine.type_.default_port();
    json!({
        "type": "ClusterIP",
        "selector": selector(desired, node),
        "ports": [{ "name": desired.plan.engine.type_.as_str(), "protocol": "TCP", "port": port, "targetPort": port }],
    })
}

fn network_policy(desired: &Desired, spec: &KubernetesSpec) -> Value {
    let from = match &spec.allowed_from {
        Some(from) => json!([{ "namespaceSelector": from.namespace_selector.clone().unwrap_or_default(),
                               "podSelector": from.pod_selector.clone().unwrap_or_default() }]),
        None => json!([{ "namespaceSelector": {} }]),
    };
    json!({
        "podSelector": { "matchLabels": instance_selector(desired) },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": from,
            "ports": [{ "protocol": "TCP", "port": desired.plan.engine.type_.default_port() }],
        }],
    })
}

fn deployment(desired: &Desired, spec: &KubernetesSpec, node: &str, item_memory: u32) -> Value {
    let mut labels = desired.labels();
    labels.insert("cache.akkeris.io/node".to_owned(), node.to_owned());
    json!({
        "replicas": 1,
        "selector": { "matchLabels": selector(desired, node) },
        // The new Pod answers before the old one goes: the address never refuses while a node is replaced.
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": {
            "metadata": { "labels": labels },
            "spec": pod(desired, spec, item_memory),
        },
    })
}

fn pod(desired: &Desired, spec: &KubernetesSpec, item_memory: u32) -> Value {
    let engine = desired.plan.engine.type_;
    let user = if engine.is_redis_like() {
        REDIS_USER
    } else {
        MEMCACHED_USER
    };
    let volumes = if engine.is_redis_like() {
        json!([{ "name": "auth", "secret": {
            "secretName": desired.auth_secret(),
            "defaultMode": 0o440,
            "items": [{ "key": REDIS_AUTH_CONF, "path": REDIS_AUTH_CONF }],
        } }])
    } else {
        json!([])
    };
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "nodeSelector": spec.node_selector,
        "tolerations": spec.tolerations,
        "affinity": spec.affinity,
        "topologySpreadConstraints": spec.topology_spread,
        "priorityClassName": spec.priority_class,
        "containers": [container(desired, spec, item_memory)],
        "volumes": volumes,
    })
}

fn container(desired: &Desired, spec: &KubernetesSpec, item_memory: u32) -> Value {
    let engine = &desired.plan.engine;
    let port = engine.type_.default_port();
    let connections = spec.connection_limit.unwrap_or(DEFAULT_CONNECTIONS);
    let image = spec.image.clone().unwrap_or_else(|| match engine.type_ {
        EngineType::Valkey => format!("valkey/valkey:{}", engine.version),
        EngineType::Redis | EngineType::Memcached => format!("{}:{}", engine.type_, engine.version),
    });
    let (command, args, mounts) = if engine.type_.is_redis_like() {
        let policy = spec.eviction_policy.unwrap_or_default().as_str();
        (
            if engine.type_ == EngineType::Valkey {
                "valkey-server"
            } else {
                "redis-server"
            },
            vec![
                format!("{REDIS_AUTH_FOLDER}/{REDIS_AUTH_CONF}"),
                "--port".to_owned(),
                port.to_string(),
                "--maxmemory".to_owned(),
                format!("{item_memory}mb"),
                "--maxmemory-policy".to_owned(),
                policy.to_owned(),
                "--maxclients".to_owned(),
                connections.to_string(),
                "--save".to_owned(),
                String::new(),
                "--appendonly".to_owned(),
                "no".to_owned(),
                "--dir".to_owned(),
                "/tmp".to_owned(),
            ],
            json!([{ "name": "auth", "mountPath": REDIS_AUTH_FOLDER, "readOnly": true }]),
        )
    } else {
        let item = spec
            .max_item_size
            .map_or_else(|| "1m".to_owned(), |item| format!("{}m", item.mebibytes()));
        (
            "memcached",
            [
                ("-p", port.to_string()),
                ("-m", item_memory.to_string()),
                ("-c", (connections + MEMCACHED_OWN_FILES).to_string()),
                ("-t", MEMCACHED_THREADS.to_string()),
                ("-I", item),
            ]
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect(),
            json!([]),
        )
    };
    json!({
        "name": engine.type_.as_str(),
        "image": image,
        "command": [command],
        "args": args,
        "ports": [{ "name": engine.type_.as_str(), "containerPort": port, "protocol": "TCP" }],
        "resources": {
            "requests": { "memory": spec.memory, "cpu": canonical_cpu(spec.cpu.as_deref().unwrap_or("100m")) },
            "limits": { "memory": spec.memory },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "startupProbe": { "tcpSocket": { "port": port }, "periodSeconds": 1, "failureThreshold": 60 },
        "readinessProbe": { "tcpSocket": { "port": port }, "periodSeconds": 5, "timeoutSeconds": 2 },
        "livenessProbe": { "tcpSocket": { "port": port }, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "volumeMounts": mounts,
    })
}

/// A CPU quantity as the API server writes it back: whole cores, else millicores.
fn canonical_cpu(text: &str) -> String {
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => {
            let (cores, fraction) = text.split_once('.').unwrap_or((text, ""));
            format!("{fraction:0<3}")
                .parse::<u64>()
                .ok()
                .zip(cores.parse::<u64>().ok())
                .map(|(m, c)| c * 1000 + m)
        }
    };
    match millis {
        Some(millis) if millis % 1000 == 0 => (millis / 1000).to_string(),
        Some(millis) => format!("{millis}m"),
        None => text.to_owned(),
    }
}

impl Kind {
    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Secret => "Secret",
        }
    }

    /// Its API group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Deployment => "apps/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Service | Self::Secret => "v1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_written_as_the_server_writes_it() {
        for (given, canonical) in [
            ("100m", "100m"),
            ("1000m", "1"),
            ("2", "2"),
            ("0.5", "500m"),
            ("1.25", "1250m"),
            ("1.0", "1"),
        ] {
            assert_eq!(canonical_cpu(given), canonical);
        }
    }

    #[test]
    fn items_and_connections_fit_below_the_limit() {
        for (memory, connections, engine) in [
            (64, 1024, EngineType::Memcached),
            (1024, 65_000, EngineType::Memcached),
            (512, 1024, EngineType::Redis),
        ] {
            let spec = KubernetesSpec {
                memory: Memory::from_mebibytes(memory),
                connection_limit: Some(connections),
                ..serde_json::from_value(json!({ "memory": "1Mi" })).unwrap()
            };
            let each = if engine.is_redis_like() {
                REDIS_CONNECTION_KIB
            } else {
                MEMCACHED_CONNECTION_KIB
            };
            let items = item_memory(engine, &spec).unwrap();
            assert!(
                items + BASE_MEBIBYTES + connections * each / 1024 < memory,
                "{items} of {memory}"
            );
        }
    }
}
