//! The plans that runs order from.

use serde_json::{Value, json};

fn plan(service: &str, id: &str, engine: &Value, provider: (&str, &Value)) -> Value {
    json!({
        "service": service, "id": id, "description": "One.", "engine": engine, (provider.0): provider.1,
        "replaceGracePeriod": "1m",
        "parameters": { "properties": {
            "connectionLimit": { "type": "integer" }, "snapshotRetentionDays": { "type": "integer" },
        } },
    })
}

/// The plans of every run, by name.
pub fn all() -> Vec<(&'static str, Value)> {
    let memcached = json!({ "type": "memcached", "version": "1.6.22" });
    let redis = json!({ "type": "redis", "version": "7.1" });
    let valkey = json!({ "type": "valkey", "version": "8.0" });
    let (m, r) = ("akkeris-memcached", "akkeris-redis");
    let cluster = |service, id: &'static str, engine: &Value, spec: Value| {
        let mut plan = plan(service, id, engine, ("kubernetes", &spec));
        plan["parameters"] = json!({ "properties": { "connectionLimit": { "type": "integer" } } });
        if ["memcached-broken", "redis-fixed-large"].contains(&id) {
            plan["operationDeadline"] = json!("3m");
        }
        (id, plan)
    };
    let aws = |service, id: &'static str, engine: &Value, spec: Value| {
        let mut plan = plan(service, id, engine, ("elasticache", &spec));
        plan["parameters"] = if service == "akkeris-redis" {
            json!({ "properties": { "snapshotRetentionDays": { "type": "integer" } } })
        } else {
            json!(null)
        };
        (id, plan)
    };
    vec![
        cluster(m, "memcached-small", &memcached, json!({ "memory": "64Mi" })),
        cluster(m, "memcached-large", &memcached, json!({ "memory": "128Mi" })),
        cluster(
            m,
            "memcached-two",
            &memcached,
            json!({ "memory": "64Mi", "replicas": 2 }),
        ),
        cluster(
            m,
            "memcached-broken",
            &memcached,
            json!({ "memory": "64Mi", "image": "example.org/broken:1" }),
        ),
        cluster(r, "redis-small", &redis, json!({ "memory": "64Mi" })),
        cluster(r, "redis-large", &redis, json!({ "memory": "128Mi" })),
        cluster(
            r,
            "redis-kept",
            &redis,
            json!({ "memory": "64Mi", "persistence": { "size": "1Gi" } }),
        ),
        cluster(
            r,
            "redis-kept-large",
            &redis,
            json!({ "memory": "128Mi", "persistence": { "size": "2Gi" } }),
        ),
        cluster(
            r,
            "redis-fixed",
            &redis,
            json!({ "memory": "64Mi", "persistence": { "size": "1Gi", "storageClass": "fixed" } }),
        ),
        cluster(
            r,
            "redis-fixed-large",
            &redis,
            json!({ "memory": "128Mi", "persistence": { "size": "2Gi", "storageClass": "fixed" } }),
        ),
        cluster(r, "valkey-small", &valkey, json!({ "memory": "64Mi" })),
        aws(r, "aws-redis-small", &redis, json!({ "nodeType": "cache.t4g.micro" })),
        aws(r, "aws-redis-large", &redis, json!({ "nodeType": "cache.t4g.small" })),
        aws(
            r,
            "aws-redis-replicas",
            &redis,
            json!({ "nodeType": "cache.t4g.micro", "replicas": 1 }),
        ),
        aws(
            r,
            "aws-redis-encrypted",
            &redis,
            json!({ "nodeType": "cache.t4g.micro", "atRestEncryption": true }),
        ),
        with_users(cluster(
            r,
            "redis-users",
            &redis,
            json!({ "memory": "64Mi", "connectionLimit": 50 }),
        )),
        with_users(aws(
            r,
            "aws-redis-users",
            &redis,
            json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true }),
        )),
        aws(r, "aws-valkey-small", &valkey, json!({ "nodeType": "cache.t4g.micro" })),
        aws(
            m,
            "aws-memcached-small",
            &memcached,
            json!({ "nodeType": "cache.t4g.micro" }),
        ),
        aws(
            m,
            "aws-memcached-two",
            &memcached,
            json!({ "nodeType": "cache.t4g.micro", "nodes": 2 }),
        ),
    ]
}

/// The same, whose bindings have users of their own.
fn with_users((name, mut plan): (&'static str, Value)) -> (&'static str, Value) {
    plan["bindingCredentials"] = json!("perBinding");
    (name, plan)
}

/// A plan whose instances are made ahead.
pub fn pooled(name: &str, provider: (&str, &Value)) -> Value {
    let memcached = json!({ "type": "memcached", "version": "1.6.22" });
    let mut plan = plan("akkeris-memcached", name, &memcached, provider);
    plan["preprovision"] = json!(1);
    plan["parameters"] = json!(null);
    plan
}
