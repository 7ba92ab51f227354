//! What the tests of this room begin from, and a model of what the API makes of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::super::users::Credentials;
use super::super::{Cluster, Consent, Desired, Existence, Published, Record};
use super::{
    Config, Defaults, Live, LiveNode, Modification, Observed, Ownership, Phase, Tagged, Target, Tls, TokenStrategy,
    provider_id,
};
use crate::api::{Authentication, CachePlanSpec, Endpoint, Node, Owner, Topology};

pub(in super::super) const UID: &str = "11111111-2222-3333-4444-555555555555";

pub(in super::super) fn defaults() -> Defaults {
    Defaults {
        name_prefix: "Test".to_owned(),
        security_group: Some("sg-1".to_owned()),
        redis_subnet_group: Some("redis-subnets".to_owned()),
        memcached_subnet_group: Some("memcached-subnets".to_owned()),
    }
}

pub(in super::super) fn plan(engine: &str, version: &str, elasticache: &Value) -> CachePlanSpec {
    serde_json::from_value(json!({
        "service": "s", "id": "p", "description": "d",
        "engine": { "type": engine, "version": version }, "elasticache": elasticache,
    }))
    .unwrap()
}

pub(in super::super) fn redis() -> CachePlanSpec {
    plan(
        "redis",
        "7.1",
        &json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true, "authentication": "token" }),
    )
}

pub(in super::super) fn memcached() -> CachePlanSpec {
    plan(
        "memcached",
        "1.6.22",
        &json!({ "nodeType": "cache.t4g.micro", "nodes": 2 }),
    )
}

pub(in super::super) fn desired(plan: CachePlanSpec) -> Desired {
    Desired {
        namespace: "n".to_owned(),
        name: "i".to_owned(),
        uid: UID.to_owned(),
        existence: Existence::Present,
        deleted_at: None,
        plan_name: "plan".to_owned(),
        plan,
        owner: Owner {
            organization: Some("org; drop".to_owned()),
            ..Owner::default()
        },
        connection_secret: "i-connection".to_owned(),
        was_ready: false,
        consent: Consent::Withheld,
        ordered: false,
        restart_at: None,
        adopt: None,
        as_found: false,
        restore: None,
        users: Vec::new(),
        seed: None,
        grace: Duration::from_secs(3600),
        release_superseded: false,
        recreate: false,
        published: Published::default(),
        record: Record::default(),
    }
}

pub(in super::super) fn cluster(generation: u32, topology: Topology) -> Cluster {
    Cluster {
        target: Target {
            topology,
            id: provider_id("test", UID, generation),
        },
        arn: None,
        generation,
        tagged: Tagged::default(),
    }
}

pub(in super::super) fn proven(generation: u32, topology: Topology) -> Cluster {
    Cluster {
        arn: Some(format!("arn:{generation}")),
        ..cluster(generation, topology)
    }
}

/// What the API makes of a plan at once.
pub(in super::super) fn made(plan: &CachePlanSpec, generation: u32) -> Live {
    let spec = plan.elasticache.as_ref().unwrap();
    let topology = plan.topology();
    let id = provider_id("test", UID, generation);
    let tls = if spec.transit_encryption == Some(true) {
        Tls::Required
    } else {
        Tls::Off
    };
    let group = topology == Topology::ReplicationGroup;
    let mut live = Live {
        topology,
        arn: Some(format!("arn:{generation}")),
        phase: Phase::Available,
        endpoint: Some(Endpoint::new(
            format!("h{generation}"),
            spec.port.unwrap_or_else(|| plan.engine.type_.default_port()),
            tls != Tls::Off,
        )),
        reader_endpoint: None,
        nodes: Vec::new(),
        config: Config {
            engine: Some(plan.engine.type_),
            version: Some(plan.engine.version.clone()),
            node_type: Some(spec.node_type.clone()),
            nodes: (!group).then(|| usize::from(spec.nodes.unwrap_or(1))),
            sharded: spec.shards.is_some(),
            multi_az: spec.multi_az.unwrap_or(false),
            failover: group && (spec.shards.is_some() || spec.multi_az.unwrap_or(false)),
            parameter_group: Some(spec.parameter_group.clone().unwrap_or_else(|| "default".to_owned())),
            subnet_group: Some(spec.subnet_group.clone().unwrap_or_else(|| "subnets".to_owned())),
            security_groups: Some(if spec.security_group_ids.is_empty() {
                ["sg-1".to_owned()].into()
            } else {
                spec.security_group_ids.iter().cloned().collect()
            }),
            tls,
            at_rest: spec.at_rest_encryption.unwrap_or(false),
            authentication: spec.authentication == Some(Authentication::Token),
            token_changed: None,
            user_groups: BTreeSet::new(),
            maintenance_window: Some(
                spec.maintenance_window
                    .clone()
                    .unwrap_or_else(|| "mon:01:00-mon:02:00".to_owned()),
            ),
            snapshot_window: Some(spec.snapshot_window.clone().unwrap_or_else(|| "03:00-04:00".to_owned())),
            snapshot_retention: Some(spec.snapshot_retention_days.map_or(0, i32::from)),
            pending: false,
        },
        id,
    };
    if group {
        let shards: Vec<_> = (1..=spec.shards.unwrap_or(1)).map(|n| format!("{n:04}")).collect();
        for shard in shards {
            grow(&mut live, &shard, usize::from(spec.replicas.unwrap_or(0)) + 1);
        }
    } else {
        grow_nodes(&mut live, usize::from(spec.nodes.unwrap_or(1)));
    }
    live
}

fn node(live: &Live, id: String, shard: Option<&str>, primary: Option<bool>) -> LiveNode {
    let member = shard.is_some();
    LiveNode {
        cluster: if member { id.clone() } else { live.id.clone() },
        cache_node: if member { "0001".to_owned() } else { id.clone() },
        node: Node {
            host: Some(format!("host-{id}")),
            id,
            port: Some(6379),
        },
        shard: shard.map(str::to_owned),
        primary,
    }
}

fn grow(live: &mut Live, shard: &str, to: usize) {
    for n in 1..=to {
        let id = format!("{}-{shard}-{n:03}", live.id);
        if !live.nodes.iter().any(|node| node.node.id == id) {
            let node = node(live, id, Some(shard), (!live.config.sharded).then_some(n == 1));
            live.nodes.push(node);
        }
    }
}

fn grow_nodes(live: &mut Live, to: usize) {
    let mut next = live
        .nodes
        .iter()
        .filter_map(|node| node.cache_node.parse::<usize>().ok())
        .max()
        .unwrap_or(0);
    while live.nodes.len() < to {
        next += 1;
        let node = node(live, format!("{next:04}"), None, None);
        live.nodes.push(node);
    }
}

/// What a change makes of a cache, as the API's documentation has it. Panics where the API would refuse.
pub(in super::super) fn modified(mut live: Live, modification: &Modification) -> Live {
    assert_eq!(live.phase, Phase::Available, "changes need an available cache");
    let group = live.topology == Topology::ReplicationGroup;
    match modification {
        Modification::Settings(settings) => {
            let config = &mut live.config;
            assert!(**settings != super::Settings::default(), "a change of nothing");
            if let Some(engine) = settings.engine {
                config.engine = Some(engine);
            }
            let set = |live: &mut Option<String>, wanted: &Option<String>| {
                if let Some(wanted) = wanted {
                    assert_ne!(live.as_ref(), Some(wanted), "an unchanged field was sent");
                    *live = Some(wanted.clone());
                }
            };
            if settings.engine.is_some() {
                config.version.clone_from(&settings.version);
            } else {
                set(&mut config.version, &settings.version);
            }
            if let Some(group) = &settings.user_group {
                assert!(
                    config.user_groups.insert(group.clone()),
                    "a group that it has was added"
                );
            }
            set(&mut config.parameter_group, &settings.parameter_group);
            set(&mut config.node_type, &settings.node_type);
            set(&mut config.maintenance_window, &settings.maintenance_window);
            set(&mut config.snapshot_window, &settings.snapshot_window);
            if let Some(groups) = &settings.security_groups {
                assert_ne!(config.security_groups.as_ref(), Some(groups));
                config.security_groups = Some(groups.clone());
            }
            if let Some(days) = settings.snapshot_retention {
                assert_ne!(config.snapshot_retention, Some(days));
                config.snapshot_retention = Some(days);
            }
            if let Some(tls) = settings.tls {
                assert!(group, "only a group changes its encryption");
                assert!(
                    config.tls == Tls::Preferred || tls == Tls::Preferred,
                    "encryption comes and goes in two calls"
                );
                config.tls = tls;
            }
            if let Some(multi_az) = settings.multi_az {
                let (fewest, _) = live.replicas().unwrap();
                assert!(!multi_az || fewest > 0, "failover needs a replica");
                live.config.multi_az = multi_az;
                live.config.failover = multi_az || live.config.sharded;
            }
        }
        Modification::Token(strategy) => {
            let config = &mut live.config;
            assert!(group && config.tls != Tls::Off, "only groups with TLS have a password");
            let changes: u32 = config
                .token_changed
                .as_ref()
                .map_or(0, |changes| changes.parse().unwrap());
            assert!(
                *strategy == TokenStrategy::Rotate || changes > 0,
                "a password is let in before it is set"
            );
            config.authentication = true;
            config.token_changed = Some((changes + 1).to_string());
        }
        Modification::Replicas { count, more } => {
            let count = usize::try_from(*count).unwrap();
            let (fewest, most) = live.replicas().unwrap();
            assert!(if *more { count > fewest } else { count < most }, "no operation");
            assert!(count > 0 || !live.config.multi_az, "a replica must remain");
            let shards: Vec<_> = live.shards().into_iter().map(str::to_owned).collect();
            for shard in shards {
                grow(&mut live, &shard, count + 1);
                let mut left = count + 1;
                live.nodes.retain(|node| {
                    let of_shard = node.shard.as_ref() == Some(&shard);
                    let stays = !of_shard || left > 0;
                    left = left.saturating_sub(usize::from(of_shard));
                    stays
                });
            }
        }
        Modification::Shards { count, remove } => {
            assert!(live.config.sharded);
            let count = usize::try_from(*count).unwrap();
            let (_, most) = live.replicas().unwrap();
            live.nodes.retain(|node| !remove.contains(node.shard.as_ref().unwrap()));
            assert_eq!(
                remove.is_empty(),
                live.shards().len() < count,
                "which shards go must be said"
            );
            for n in 1..=count {
                grow(&mut live, &format!("{n:04}"), most + 1);
            }
            assert_eq!(live.shards().len(), count);
        }
        Modification::Nodes { count, remove } => {
            let count = usize::try_from(*count).unwrap();
            assert_eq!(
                remove.len(),
                live.nodes.len().saturating_sub(count),
                "each node that goes is named"
            );
            assert_eq!(remove.iter().collect::<BTreeSet<_>>().len(), remove.len());
            live.nodes.retain(|node| !remove.contains(&node.cache_node));
            grow_nodes(&mut live, count);
            live.config.nodes = Some(live.nodes.len());
        }
    }
    live
}

pub(in super::super) fn secret(data: BTreeMap<String, ByteString>) -> Arc<Secret> {
    Arc::new(Secret {
        data: Some(data),
        ..Secret::default()
    })
}

pub(in super::super) fn auth() -> Arc<Secret> {
    secret([("password".to_owned(), ByteString(b"hunter2hunter2hunter2".to_vec()))].into())
}

pub(in super::super) fn observed(place: Cluster, live: Option<Live>) -> Observed {
    Observed {
        place,
        live,
        may_appear: None,
        ownership: Ownership::Unreadable,
        tags: None,
        failure: None,
        offered: None,
        secrets: BTreeMap::new(),
        access: None,
        credentials: Credentials::new(),
    }
}

pub(in super::super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
