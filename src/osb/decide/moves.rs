//! From one plan to another, or to a later revision of the same one: what is possible, and at what price.

use crate::api::{CachePlanSpec, ElastiCacheSpec, Engine, EngineType, ProviderSpec, Topology};

/// How a cache gets from one plan to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// It keeps its address.
    InPlace,
    /// A new one is made beside it, at another address; this differs.
    Replacement(&'static str),
    /// It does not; this is why.
    Never(String),
}

/// How a cache gets from one plan to another, with the tenant's parameters in both.
///
/// What ElastiCache changes in place: `ModifyReplicationGroup`, `ModifyCacheCluster`; what only their `Create` calls
/// take needs a new cluster.
pub fn judge(from: &CachePlanSpec, to: &CachePlanSpec) -> Move {
    let (Some(old), Some(new)) = (from.provider(), to.provider()) else {
        return Move::Never("a plan names no provider, or two".to_owned());
    };
    let (old_engine, new_engine) = (from.engine.type_, to.engine.type_);
    let becomes_valkey = old_engine == EngineType::Redis
        && new_engine == EngineType::Valkey
        && [(old, from), (new, to)].into_iter().all(|(provider, plan)| {
            matches!(provider, ProviderSpec::ElastiCache(_)) && plan.topology() == Topology::ReplicationGroup
        });
    if old_engine != new_engine && !becomes_valkey {
        return Move::Never(format!("{old_engine} does not become {new_engine}"));
    }
    if let Some(why) = credentials(from, to) {
        return Move::Never(why.to_owned());
    }
    match (old, new) {
        (ProviderSpec::ElastiCache(_), ProviderSpec::Kubernetes(_))
        | (ProviderSpec::Kubernetes(_), ProviderSpec::ElastiCache(_)) => {
            if new_engine == EngineType::Memcached {
                Move::Replacement("the provider")
            } else {
                Move::Never(format!("{new_engine} cannot take its data to another provider"))
            }
        }
        _ if is_older(&to.engine, &from.engine) => Move::Never(format!(
            "{} {} is older than {}, and caches are not downgraded",
            to.engine.type_, to.engine.version, from.engine.version
        )),
        (ProviderSpec::Kubernetes(_), ProviderSpec::Kubernetes(_)) => Move::InPlace,
        (ProviderSpec::ElastiCache(old), ProviderSpec::ElastiCache(new)) => {
            match replaced((old, from.topology()), (new, to.topology()), new_engine) {
                Some(what) => Move::Replacement(what),
                None => Move::InPlace,
            }
        }
    }
}

/// Why bindings that exist would break.
fn credentials(from: &CachePlanSpec, to: &CachePlanSpec) -> Option<&'static str> {
    match (from.has_users(), to.has_users()) {
        (true, false) => Some("bindings have users of their own, and the other plan has none for them"),
        // In the cluster the shared password goes on holding beside the users.
        (false, true) if to.elasticache.is_some() => {
            Some("ElastiCache would ask bindings that exist for users that they do not have")
        }
        _ => None,
    }
}

/// Whether a plan lets its instances move to another by name.
pub fn is_listed(from: &CachePlanSpec, plan_name: &str) -> bool {
    from.updatable_to
        .as_ref()
        .is_none_or(|names| names.iter().any(|name| name == plan_name))
}

/// What of a cluster cannot be modified.
fn replaced(
    (old, old_topology): (&ElastiCacheSpec, Topology),
    (new, new_topology): (&ElastiCacheSpec, Topology),
    engine: EngineType,
) -> Option<&'static str> {
    let encrypted = |spec: &ElastiCacheSpec| spec.at_rest_encryption.unwrap_or_default();
    let tls = |spec: &ElastiCacheSpec| spec.transit_encryption.unwrap_or_default();
    [
        ("the topology", old_topology != new_topology),
        ("the subnet group", old.subnet_group != new.subnet_group),
        ("encryption at rest", encrypted(old) != encrypted(new)),
        ("cluster mode", old.shards.is_some() != new.shards.is_some()),
        // A replication group's can be changed.
        ("TLS", engine == EngineType::Memcached && tls(old) != tls(new)),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

/// Whether an engine's version is older than another, as far as both say: `7` is no older than `7.1`.
fn is_older(engine: &Engine, than: &Engine) -> bool {
    let numbers = |engine: &Engine| -> Vec<u32> {
        engine
            .version
            .split('.')
            .map_while(|part| {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok()
            })
            .collect()
    };
    let (ours, theirs) = (numbers(engine), numbers(than));
    ours.iter()
        .zip(&theirs)
        .find(|(ours, theirs)| ours != theirs)
        .is_some_and(|(ours, theirs)| ours < theirs)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::BindingCredentials;

    fn spec(engine: &str, version: &str, provider: Value) -> CachePlanSpec {
        let mut spec = json!({
            "service": "s", "id": "p", "description": "d", "engine": { "type": engine, "version": version },
        });
        let spec_members = spec.as_object_mut().unwrap();
        spec_members.extend(provider.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn elasticache(members: Value) -> Value {
        let mut spec = json!({ "nodeType": "cache.t4g.micro" });
        spec.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        json!({ "elasticache": spec })
    }

    fn with_users(spec: CachePlanSpec) -> CachePlanSpec {
        CachePlanSpec {
            binding_credentials: BindingCredentials::PerBinding,
            ..spec
        }
    }

    fn cluster() -> Value {
        json!({ "kubernetes": { "memory": "64Mi" } })
    }

    #[test]
    fn what_changes_in_place_and_what_does_not() {
        let aws = || elasticache(json!({}));
        let bare = || elasticache(json!({ "topology": "cacheCluster" }));
        for (from, to, expected) in [
            (
                spec("redis", "7.1", aws()),
                spec("redis", "7.1", aws()),
                Some(Move::InPlace),
            ),
            (
                spec("redis", "7.1", aws()),
                spec(
                    "redis",
                    "7.1",
                    elasticache(json!({ "nodeType": "cache.r7g.large", "replicas": 2, "transitEncryption": true })),
                ),
                Some(Move::InPlace),
            ),
            (
                spec("redis", "7.1", cluster()),
                spec("redis", "8.0", json!({ "kubernetes": { "memory": "1Gi" } })),
                Some(Move::InPlace),
            ),
            // Engines.
            (
                spec("redis", "7.1", aws()),
                spec("valkey", "7.2", aws()),
                Some(Move::InPlace),
            ),
            (spec("redis", "7.1", bare()), spec("valkey", "7.2", aws()), None),
            (spec("redis", "7.1", cluster()), spec("valkey", "8.0", cluster()), None),
            (spec("valkey", "7.2", aws()), spec("redis", "7.2", aws()), None),
            (
                spec("memcached", "1.6", cluster()),
                spec("redis", "7.1", cluster()),
                None,
            ),
            // Providers.
            (
                spec("memcached", "1.6.45", cluster()),
                spec("memcached", "1.6.22", aws()),
                Some(Move::Replacement("the provider")),
            ),
            (
                spec("memcached", "1.6.22", aws()),
                spec("memcached", "1.6.45", cluster()),
                Some(Move::Replacement("the provider")),
            ),
            (spec("redis", "7.1", aws()), spec("redis", "7.1", cluster()), None),
            // Credentials.
            (
                spec("redis", "7.1", cluster()),
                with_users(spec("redis", "7.1", cluster())),
                Some(Move::InPlace),
            ),
            (
                with_users(spec("redis", "7.1", cluster())),
                spec("redis", "7.1", cluster()),
                None,
            ),
            (
                spec("redis", "7.1", aws()),
                with_users(spec("redis", "7.1", aws())),
                None,
            ),
            (
                with_users(spec("redis", "7.1", aws())),
                spec("redis", "7.1", aws()),
                None,
            ),
            (
                with_users(spec("redis", "7.1", aws())),
                with_users(spec("valkey", "7.2", aws())),
                Some(Move::InPlace),
            ),
            // Versions.
            (spec("redis", "7.1", aws()), spec("redis", "7.0", aws()), None),
            (spec("redis", "7.1", aws()), spec("redis", "6.2", aws()), None),
            (
                spec("redis", "9.9", cluster()),
                spec("redis", "10.0", cluster()),
                Some(Move::InPlace),
            ),
            (
                spec("redis", "8-alpine", cluster()),
                spec("redis", "8.0", cluster()),
                Some(Move::InPlace),
            ),
            (
                spec("redis", "latest", cluster()),
                spec("redis", "1", cluster()),
                Some(Move::InPlace),
            ),
            // What ElastiCache takes only when it makes a cluster.
            (
                spec("redis", "7.1", bare()),
                spec("redis", "7.1", aws()),
                Some(Move::Replacement("the topology")),
            ),
            (
                spec("redis", "7.1", aws()),
                spec("redis", "7.1", elasticache(json!({ "subnetGroup": "other" }))),
                Some(Move::Replacement("the subnet group")),
            ),
            (
                spec("redis", "7.1", aws()),
                spec("redis", "7.1", elasticache(json!({ "atRestEncryption": true }))),
                Some(Move::Replacement("encryption at rest")),
            ),
            (
                spec("redis", "7.1", elasticache(json!({ "atRestEncryption": false }))),
                spec("redis", "7.1", aws()),
                Some(Move::InPlace),
            ),
            (
                spec("redis", "7.1", aws()),
                spec("redis", "7.1", elasticache(json!({ "shards": 2 }))),
                Some(Move::Replacement("cluster mode")),
            ),
            (
                spec("redis", "7.1", elasticache(json!({ "shards": 1 }))),
                spec("redis", "7.1", elasticache(json!({ "shards": 3 }))),
                Some(Move::InPlace),
            ),
            (
                spec("memcached", "1.6", aws()),
                spec("memcached", "1.6", elasticache(json!({ "transitEncryption": true }))),
                Some(Move::Replacement("TLS")),
            ),
        ] {
            let judged = judge(&from, &to);
            match expected {
                Some(expected) => assert_eq!(judged, expected, "{from:?} {to:?}"),
                None => assert!(matches!(judged, Move::Never(_)), "{from:?} {to:?}"),
            }
        }
    }
}
