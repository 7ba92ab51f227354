//! From one plan to another, or to a later revision of the same one: what is possible, and at what price.

use crate::api::{CachePlanSpec, Effect, Order, compare_versions, forecast};

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
pub fn judge(from: &CachePlanSpec, to: &CachePlanSpec) -> Move {
    let (old, new) = (&from.engine, &to.engine);
    let provider = |plan: &CachePlanSpec| plan.provider().map(|provider| provider.kind());
    // Platforms are not offered to go back, also where a cache that keeps nothing could be made anew.
    if old.type_ == new.type_
        && provider(from) == provider(to)
        && compare_versions(&old.version, &new.version) == Order::Newer
    {
        return Move::Never(format!(
            "{} {} is older than {}, and caches are not downgraded",
            new.type_, new.version, old.version
        ));
    }
    let differences = forecast(from, to);
    let never = differences
        .iter()
        .filter(|difference| difference.effect == Effect::Never);
    let never: Vec<_> = never.map(ToString::to_string).collect();
    if !never.is_empty() {
        return Move::Never(never.join("; "));
    }
    let replaced = differences
        .iter()
        .find(|difference| difference.effect == Effect::Replace);
    replaced.map_or(Move::InPlace, |replaced| Move::Replacement(replaced.field))
}

/// Whether a plan lets its instances move to another by name.
pub fn is_listed(from: &CachePlanSpec, plan_name: &str) -> bool {
    from.updatable_to
        .as_ref()
        .is_none_or(|names| names.iter().any(|name| name == plan_name))
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
            (spec("redis", "7.1", cluster()), spec("redis", "7.1", aws()), None),
            (spec("valkey", "8.0", aws()), spec("valkey", "8.0", cluster()), None),
            (spec("valkey", "8.0", cluster()), spec("valkey", "8.0", aws()), None),
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
