use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn spec(engine: &str, version: &str, provider: &str, members: &Value) -> CachePlanSpec {
    let mut part = match provider {
        "elasticache" => json!({ "nodeType": "cache.t4g.micro" }),
        _ => json!({ "memory": "64Mi" }),
    };
    part.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    let mut spec = json!({
        "service": "s", "id": "p", "description": "d", "engine": { "type": engine, "version": version },
    });
    spec[provider] = part;
    serde_json::from_value(spec).unwrap()
}

fn aws(engine: &str, version: &str, members: &Value) -> CachePlanSpec {
    spec(engine, version, "elasticache", members)
}

fn cluster(engine: &str, version: &str, members: &Value) -> CachePlanSpec {
    spec(engine, version, "kubernetes", members)
}

/// Each field alone, from what stands to what is asked for.
#[test]
fn every_field_has_its_effect() {
    let none = json!({});
    let redis = |members: Value| aws("redis", "7.1", &members);
    let memcached = |members: Value| aws("memcached", "1.6.22", &members);
    let volume = json!({ "persistence": { "size": "1Gi" } });
    for (from, to, expected) in [
        (redis(none.clone()), redis(none.clone()), vec![]),
        // What a plan leaves open is the provider's to choose.
        (
            redis(
                json!({ "subnetGroup": "a", "parameterGroup": "b", "maintenanceWindow": "c", "atRestEncryption": true,
                "securityGroupIds": ["sg-1"], "snapshotRetentionDays": 3, "transitEncryption": true }),
            ),
            redis(none.clone()),
            vec![],
        ),
        (
            redis(none.clone()),
            redis(json!({ "nodeType": "cache.r7g.large", "replicas": 2, "multiAz": true, "transitEncryption": true })),
            vec![
                ("TLS from off to on", Effect::InPlace),
                ("the node type from cache.t4g.micro to cache.r7g.large", Effect::InPlace),
                ("the replicas from 0 to 2", Effect::InPlace),
                ("multiAz from off to on", Effect::InPlace),
            ],
        ),
        (
            redis(json!({ "subnetGroup": "a" })),
            redis(
                json!({ "subnetGroup": "b", "port": 6380, "atRestEncryption": true, "authentication": "token", "shards": 2 }),
            ),
            vec![
                ("the subnet group from a to b", Effect::Replace),
                ("the port from 6379 to 6380", Effect::Replace),
                ("encryption at rest from off to on", Effect::Replace),
                (
                    "the password from off to on: who shows none is let in until replaceGracePeriod is over",
                    Effect::InPlace,
                ),
                ("cluster mode from off to on", Effect::Replace),
            ],
        ),
        (
            redis(json!({ "shards": 1 })),
            redis(
                json!({ "shards": 3, "tags": { "a": "b" }, "securityGroupIds": ["sg-1"], "snapshotRetentionDays": 1 }),
            ),
            vec![
                ("the shards from 1 to 3", Effect::InPlace),
                ("the security groups to sg-1", Effect::InPlace),
                ("the days that snapshots are kept from 0 to 1", Effect::InPlace),
                ("the tags differ", Effect::InPlace),
            ],
        ),
        (
            redis(none.clone()),
            aws("redis", "7.2", &none),
            vec![("the engine's version from 7.1 to 7.2", Effect::InPlace)],
        ),
        (
            redis(none.clone()),
            aws("redis", "6.2", &none),
            vec![("the engine's version from 7.1 to 6.2, which is older", Effect::Never)],
        ),
        (
            redis(none.clone()),
            aws("valkey", "8.0", &none),
            vec![("the engine from redis 7.1 to valkey 8.0", Effect::InPlace)],
        ),
        // AWS encrypts valkey unless it is told not to.
        (
            aws("valkey", "8.0", &none),
            aws("valkey", "8.0", &json!({ "atRestEncryption": true })),
            vec![],
        ),
        (
            redis(json!({ "topology": "cacheCluster" })),
            redis(none.clone()),
            vec![("the topology differs", Effect::Replace)],
        ),
        (
            redis(json!({ "topology": "cacheCluster" })),
            redis(json!({ "topology": "cacheCluster", "transitEncryption": true })),
            vec![("TLS from off to on", Effect::Replace)],
        ),
        (
            memcached(json!({ "nodes": 3 })),
            memcached(json!({ "nodes": 2, "nodeType": "cache.r7g.large" })),
            vec![
                ("the node type from cache.t4g.micro to cache.r7g.large", Effect::Cold),
                ("the nodes from 3 to 2", Effect::Cold),
            ],
        ),
        (
            memcached(none.clone()),
            memcached(json!({ "nodes": 2 })),
            vec![("the nodes from 1 to 2", Effect::InPlace)],
        ),
        (
            memcached(json!({ "nodes": 2 })),
            memcached(json!({ "nodes": 2, "multiAz": true })),
            vec![("multiAz from off to on", Effect::Replace)],
        ),
        (
            memcached(none.clone()),
            aws("memcached", "1.6.30", &none),
            vec![("the engine's version from 1.6.22 to 1.6.30", Effect::Cold)],
        ),
        (
            memcached(none.clone()),
            aws("memcached", "1.5.16", &none),
            vec![("the engine's version from 1.6.22 to 1.5.16", Effect::Replace)],
        ),
        (
            memcached(none.clone()),
            cluster("memcached", "1.6.45", &none),
            vec![("the provider from elasticache to kubernetes", Effect::Replace)],
        ),
        (
            redis(none.clone()),
            cluster("redis", "8.0", &none),
            vec![(
                "the provider from elasticache to kubernetes: redis cannot take its data there",
                Effect::Never,
            )],
        ),
        (
            cluster("redis", "8.0", &none),
            cluster(
                "redis",
                "8.2",
                &json!({ "memory": "1Gi", "connectionLimit": 5, "maxItemSize": "2Mi" }),
            ),
            vec![
                ("the image from redis:8.0 to redis:8.2", Effect::Cold),
                ("the memory from 64Mi to 1Gi", Effect::Cold),
                ("the connection limit differs", Effect::Cold),
            ],
        ),
        (
            cluster("redis", "8.0", &volume),
            cluster(
                "redis",
                "8.0",
                &json!({ "memory": "96Mi", "persistence": { "size": "2Gi" } }),
            ),
            vec![
                ("the memory from 64Mi to 96Mi", Effect::InPlace),
                ("the volume from 1Gi to 2Gi", Effect::InPlace),
            ],
        ),
        // Volumes do not shrink: it stays as it is.
        (
            cluster("redis", "8.0", &json!({ "persistence": { "size": "2Gi" } })),
            cluster("redis", "8.0", &volume),
            vec![],
        ),
        (
            cluster("redis", "8.0", &none),
            cluster("redis", "8.0", &volume),
            vec![("the volume is added", Effect::Cold)],
        ),
        (
            cluster(
                "redis",
                "8.0",
                &json!({ "persistence": { "size": "1Gi", "storageClass": "a" } }),
            ),
            cluster(
                "redis",
                "8.0",
                &json!({ "persistence": { "size": "1Gi", "storageClass": "b" } }),
            ),
            vec![("the volume's storage class from a to b", Effect::Never)],
        ),
        (
            cluster("redis", "8.0", &none),
            cluster("redis", "8.0", &json!({ "replicas": 2 })),
            vec![("the nodes from 1 to 2", Effect::Never)],
        ),
        (
            cluster("memcached", "1.6", &json!({ "replicas": 3 })),
            cluster(
                "memcached",
                "1.6",
                &json!({ "replicas": 2, "allowedFrom": {}, "maintenanceWindow": "sun:05:00-sun:06:00", "port": 11311 }),
            ),
            vec![
                ("the nodes from 3 to 2", Effect::Cold),
                ("which pods are let in differs", Effect::InPlace),
                (
                    "the port from 11211 to 11311, and a cache keeps the one that it was made with",
                    Effect::None,
                ),
                ("the maintenance window differs", Effect::None),
            ],
        ),
        (
            cluster("redis", "8.0", &none),
            cluster("valkey", "8.0", &none),
            vec![
                (
                    "the engine from redis to valkey: one does not become the other",
                    Effect::Never,
                ),
                ("the image from redis:8.0 to valkey:8.0", Effect::Cold),
            ],
        ),
    ] {
        let found: Vec<_> = forecast(&from, &to)
            .into_iter()
            .map(|difference| (difference.to_string(), difference.effect))
            .filter(|(text, _)| !text.starts_with("what the catalog"))
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(text, effect)| (text.to_owned(), effect))
            .collect();
        assert_eq!(found, expected);
    }
}

/// A valkey is encrypted at rest unless it is said otherwise, but not one that was a redis.
#[test]
fn what_the_provider_says_of_a_cache_counts_more_than_what_it_does_by_itself() {
    let from = aws("valkey", "8.0", &json!({}));
    let to = |at_rest: bool| aws("valkey", "8.0", &json!({ "atRestEncryption": at_rest }));
    for (said, at_rest, effect) in [
        (None, true, Effect::None),
        (None, false, Effect::Replace),
        (Some(true), true, Effect::None),
        (Some(true), false, Effect::Replace),
        (Some(false), true, Effect::Replace),
        (Some(false), false, Effect::None),
    ] {
        let differences = forecast(&as_it_runs(&from, said), &to(at_rest));
        assert_eq!(worst(&differences), effect, "{said:?} {at_rest}");
    }
    let cluster = cluster("redis", "8.0", &json!({}));
    assert_eq!(as_it_runs(&cluster, Some(true)), cluster);
}

#[test]
fn what_only_the_catalog_says_does_nothing_to_a_cache() {
    let from = aws("redis", "7.1", &json!({}));
    let mut to = from.clone();
    to.description = "other".to_owned();
    to.preprovision = 5;
    let differences = forecast(&from, &to);
    assert_eq!(differences.len(), 1);
    assert_eq!(worst(&differences), Effect::None);
    to.description.clone_from(&from.description);
    assert_eq!(forecast(&from, &to), []);
}

#[test]
fn versions_are_compared_as_loosely_as_they_are_spelled() {
    for (running, wanted, order) in [
        ("7.1.0", "7.1", Order::Same),
        ("7.1", "7.1.0", Order::Same),
        ("6.2.6", "6.x", Order::Same),
        ("7.1.5", "7.1.2", Order::Same),
        ("7.0.7", "7.1", Order::Older),
        ("7.1", "7.0", Order::Newer),
        ("1.6.22", "1.6.30", Order::Older),
        ("8.0", "7.2", Order::Newer),
        ("8-alpine", "8.2", Order::Same),
        ("8-alpine", "7.4", Order::Newer),
        ("latest", "7.2", Order::Same),
        ("", "7.2", Order::Same),
    ] {
        assert_eq!(compare_versions(running, wanted), order, "{running} {wanted}");
    }
}

proptest! {
    #[test]
    fn any_text_is_compared(running in ".{0,12}", wanted in ".{0,12}") {
        let _ = compare_versions(&running, &wanted);
        prop_assert_eq!(compare_versions(&running, &running), Order::Same);
    }
}
