//! What the rules of the custom resources refuse, and what stands just on the other side of each.
//!
//! One table for two judges: the rules as the types carry them, and the API server.

use serde_json::{Value, json};

/// One object to judge, new or in the place of an old one.
pub struct Case {
    pub what: &'static str,
    pub old: Option<Value>,
    pub new: Value,
    /// Part of the message it is refused with; `None` if it is accepted.
    pub refused: Option<&'static str>,
}

fn case(what: &'static str, new: Value, refused: &'static str) -> Case {
    Case {
        what,
        old: None,
        new,
        refused: Some(refused),
    }
}

fn accepted(what: &'static str, new: Value) -> Case {
    Case {
        what,
        old: None,
        new,
        refused: None,
    }
}

fn change(what: &'static str, old: &Value, new: Value, refused: Option<&'static str>) -> Case {
    Case {
        what,
        old: Some(old.clone()),
        new,
        refused,
    }
}

/// An object with another value at a JSON pointer; `null` takes the member away.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => parent.remove(name),
        value => parent.insert(name.to_owned(), value),
    };
    object
}

fn plan(engine: &str, provider: &str, spec: Value) -> Value {
    let mut plan = json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan",
        "metadata": { "name": "case" },
        "spec": {
            "service": "a-service", "id": "an-id", "description": "A plan.",
            "engine": { "type": engine, "version": "7.1" },
        },
    });
    plan["spec"][provider] = spec;
    plan
}

fn aws(engine: &str, members: Value) -> Value {
    let mut spec = json!({ "nodeType": "cache.t4g.micro" });
    spec.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    plan(engine, "elasticache", spec)
}

fn in_cluster(engine: &str) -> Value {
    plan(engine, "kubernetes", json!({ "memory": "64Mi" }))
}

/// The rules of a CachePlan.
pub fn plans() -> Vec<Case> {
    let base = in_cluster("memcached");
    let redis = aws("redis", json!({}));
    let memcached = aws("memcached", json!({}));
    let both = with(&base, "/spec/elasticache", json!({ "nodeType": "cache.t4g.micro" }));
    let neither = with(&base, "/spec/kubernetes", Value::Null);
    let schema = |parameters: Value| with(&base, "/spec/parameters", parameters);
    let integer = json!({ "type": "integer" });
    let policy = |plan: &Value, policy: &str| with(plan, "/spec/deletionPolicy", json!(policy));
    let no_memcached = "memcached has no replicas, shards, snapshots, authentication or encryption at rest";
    let mut cases = vec![
        accepted("memcached in the cluster", base.clone()),
        accepted("memcached on ElastiCache", memcached.clone()),
        accepted("redis on ElastiCache", redis.clone()),
        accepted(
            "a name of 63 characters",
            with(&base, "/metadata/name", json!("a".repeat(63))),
        ),
        case(
            "a name of 64 characters",
            with(&base, "/metadata/name", json!("a".repeat(64))),
            "metadata.name becomes a label value: use 63 characters or fewer",
        ),
        case("two providers", both.clone(), "name one provider"),
        case("no provider", neither.clone(), "name one provider"),
        change("a second provider", &base, both, Some("name one provider")),
        change("the loss of the provider", &base, neither, Some("name one provider")),
        change(
            "another id",
            &base,
            with(&base, "/spec/id", json!("b")),
            Some("id is what platforms know"),
        ),
        change(
            "another service",
            &base,
            with(&base, "/spec/service", json!("b")),
            Some("service cannot change"),
        ),
        change(
            "another engine",
            &base,
            with(&base, "/spec/engine/type", json!("redis")),
            Some("engine.type cannot change"),
        ),
        change(
            "another version",
            &base,
            with(&base, "/spec/engine/version", json!("1.6.46")),
            None,
        ),
        change(
            "another size",
            &base,
            with(&base, "/spec/kubernetes/memory", json!("1Gi")),
            None,
        ),
        case(
            "memcached as a replication group",
            aws("memcached", json!({ "topology": "replicationGroup" })),
            "memcached on ElastiCache is always a cache cluster",
        ),
        accepted(
            "memcached as a cache cluster",
            aws("memcached", json!({ "topology": "cacheCluster" })),
        ),
        accepted(
            "memcached of three nodes",
            aws("memcached", json!({ "nodes": 3, "multiAz": true })),
        ),
        case(
            "redis of two nodes",
            aws("redis", json!({ "nodes": 2 })),
            "redis and valkey grow by replicas and shards",
        ),
        accepted("redis of one node", aws("redis", json!({ "nodes": 1 }))),
        accepted(
            "redis as a cache cluster",
            aws("redis", json!({ "topology": "cacheCluster" })),
        ),
        case(
            "a password without TLS",
            aws("redis", json!({ "authentication": "token" })),
            "ElastiCache takes a password only over TLS",
        ),
        case(
            "a password with TLS off",
            aws(
                "redis",
                json!({ "authentication": "token", "transitEncryption": false }),
            ),
            "ElastiCache takes a password only over TLS",
        ),
        accepted(
            "a password over TLS",
            aws("redis", json!({ "authentication": "token", "transitEncryption": true })),
        ),
        accepted(
            "no password without TLS",
            aws("redis", json!({ "authentication": "none" })),
        ),
        case(
            "one node in several zones",
            aws("redis", json!({ "multiAz": true })),
            "multiAz needs a second node",
        ),
        case(
            "no replica in several zones",
            aws("redis", json!({ "multiAz": true, "replicas": 0 })),
            "multiAz needs a second node",
        ),
        case(
            "one node of memcached in several zones",
            aws("memcached", json!({ "multiAz": true, "nodes": 1 })),
            "multiAz needs a second node",
        ),
        accepted(
            "a replica in another zone",
            aws("valkey", json!({ "multiAz": true, "replicas": 1 })),
        ),
        case(
            "snapshots of memcached",
            policy(&memcached, "Snapshot"),
            "only redis and valkey on ElastiCache can be snapshotted",
        ),
        case(
            "snapshots in the cluster",
            policy(&in_cluster("redis"), "Snapshot"),
            "only redis and valkey on ElastiCache can be snapshotted",
        ),
        accepted("snapshots of redis", policy(&redis, "Snapshot")),
        case(
            "a volume for memcached",
            with(&base, "/spec/kubernetes/persistence", json!({ "size": "1Gi" })),
            "memcached keeps nothing on disk",
        ),
        accepted(
            "a volume for redis",
            with(
                &in_cluster("redis"),
                "/spec/kubernetes/persistence",
                json!({ "size": "1Gi", "storageClass": "fast" }),
            ),
        ),
        accepted(
            "a maintenance window in the cluster",
            with(
                &base,
                "/spec/kubernetes/maintenanceWindow",
                json!("sun:05:00-sun:06:00"),
            ),
        ),
        accepted("memcached that is kept", policy(&memcached, "Retain")),
        case(
            "an unknown parameter",
            schema(json!({ "properties": { "memory": integer } })),
            "unknown parameter: offer some of",
        ),
        case(
            "a parameter required that is not offered",
            schema(json!({ "properties": { "replicas": integer }, "required": ["nodes"] })),
            "required names a parameter that properties does not have",
        ),
        case(
            "a parameter required of none",
            schema(json!({ "required": ["replicas"] })),
            "required names a parameter that properties does not have",
        ),
        accepted(
            "any name for what is sent along with a binding",
            with(
                &base,
                "/spec/bindingParameters",
                json!({ "properties": { "team name": { "type": "string" } }, "required": ["team name"] }),
            ),
        ),
        case(
            "a name that is none",
            with(
                &base,
                "/spec/bindingParameters",
                json!({ "properties": { "": integer } }),
            ),
            "a name has 1 to 64 characters",
        ),
        case(
            "something required along with a binding that is not offered",
            with(&base, "/spec/bindingParameters", json!({ "required": ["team"] })),
            "required names a parameter that properties does not have",
        ),
        accepted(
            "a parameter required",
            schema(json!({ "properties": { "replicas": integer }, "required": ["replicas"] })),
        ),
    ];
    for (member, value) in [
        ("replicas", json!(0)),
        ("shards", json!(1)),
        ("snapshotWindow", json!("03:00-04:00")),
        ("snapshotRetentionDays", json!(1)),
        ("authentication", json!("none")),
        ("atRestEncryption", json!(true)),
    ] {
        cases.push(case(
            "memcached with what only redis has",
            aws("memcached", json!({ member: value })),
            no_memcached,
        ));
    }
    for (member, value) in [
        ("replicas", json!(1)),
        ("shards", json!(1)),
        ("authentication", json!("none")),
    ] {
        let members = json!({ "topology": "cacheCluster", member: value });
        cases.push(case(
            "a cache cluster of redis with what only groups have",
            aws("redis", members),
            "a cache cluster has no replicas, shards or authentication",
        ));
    }
    for name in [
        "nodes",
        "replicas",
        "shards",
        "multiAz",
        "maintenanceWindow",
        "snapshotWindow",
        "snapshotRetentionDays",
        "connectionLimit",
        "maxItemSize",
        "evictionPolicy",
    ] {
        cases.push(accepted(
            "a known parameter",
            schema(json!({ "properties": { name: integer } })),
        ));
    }
    cases
}

/// The rules of a CacheInstance.
pub fn instances() -> Vec<Case> {
    let base = json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
        "metadata": { "name": "case", "namespace": "default" },
        "spec": { "planRef": { "name": "a-plan" } },
    });
    let named = |name: &str| with(&base, "/metadata/name", json!(name));
    let adopt = |id: &str| with(&base, "/spec/adopt", json!({ "providerId": id }));
    let secret = |name: &str| with(&base, "/spec/connectionSecret", json!({ "name": name }));
    let restore = with(&base, "/spec/restore", json!({ "backup": "b" }));
    let mut cases = vec![
        accepted("an instance", base.clone()),
        accepted("an adopted one", adopt("a")),
        accepted("a restored one", restore.clone()),
        case(
            "one adopted and restored",
            with(&adopt("a"), "/spec/restore", json!({ "backup": "b" })),
            "adopt and restore exclude each other",
        ),
        change("another to adopt", &adopt("a"), adopt("b"), Some("adopt is fixed")),
        change("an adoption later", &base, adopt("a"), Some("adopt is fixed")),
        change(
            "the end of an adoption",
            &adopt("a"),
            base.clone(),
            Some("adopt is fixed"),
        ),
        change("the same adoption", &adopt("a"), adopt("a"), None),
        change(
            "another Secret",
            &secret("a"),
            secret("b"),
            Some("connectionSecret is fixed"),
        ),
        change("a Secret later", &base, secret("a"), Some("connectionSecret is fixed")),
        change(
            "no Secret any more",
            &secret("a"),
            base.clone(),
            Some("connectionSecret is fixed"),
        ),
        change("the same Secret", &secret("a"), secret("a"), None),
        change(
            "another plan",
            &base,
            with(&base, "/spec/planRef/name", json!("another")),
            None,
        ),
        accepted("a name of 52 characters", named(&"a".repeat(52))),
        accepted("a name with digits and hyphens", named("a-1")),
        accepted("a name of one letter", named("a")),
    ];
    for name in ["1a", "a.b", &"a".repeat(53)] {
        cases.push(case(
            "a name that is no host name",
            named(name),
            "metadata.name becomes a host name",
        ));
    }
    cases
}
