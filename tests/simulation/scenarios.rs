//! What is asked of the broker in a run: what comes before, and what faults may strike.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};

use crate::platform::{End, Platform, condition};

/// Something that is done.
pub type Doing = Pin<Box<dyn Future<Output = Vec<End>> + Send>>;

/// An operation, and what has to be there for it.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// The plans it needs.
    pub plans: &'static [&'static str],
    /// Done before, without faults.
    pub before: fn(Platform) -> Doing,
    /// Done while faults strike. How it ends must be the same in each run.
    pub operation: fn(Platform) -> Doing,
}

const REDIS: &str = "redis-system";

fn plan(service: &str, id: &str, engine: &Value, provider: (&str, &Value)) -> Value {
    json!({
        "service": service, "id": id, "description": "One.", "engine": engine, (provider.0): provider.1,
        "replaceGracePeriod": "1m",
        "parameters": { "properties": {
            "connectionLimit": { "type": "integer" }, "snapshotRetentionDays": { "type": "integer" },
        } },
    })
}

/// The plans of every run.
pub fn plans() -> Vec<(&'static str, Value)> {
    let memcached = json!({ "type": "memcached", "version": "1.6.22" });
    let redis = json!({ "type": "redis", "version": "7.1" });
    let valkey = json!({ "type": "valkey", "version": "8.0" });
    let (m, r) = ("akkeris-memcached", "akkeris-redis");
    let cluster = |service, id: &'static str, engine: &Value, spec: Value| {
        let mut plan = plan(service, id, engine, ("kubernetes", &spec));
        plan["parameters"] = json!({ "properties": { "connectionLimit": { "type": "integer" } } });
        if id.ends_with("broken") {
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

/// A plan whose instances are made ahead.
pub fn pooled() -> Value {
    let memcached = json!({ "type": "memcached", "version": "1.6.22" });
    let mut plan = plan(
        "akkeris-memcached",
        "memcached-pooled",
        &memcached,
        ("kubernetes", &json!({ "memory": "64Mi" })),
    );
    plan["preprovision"] = json!(1);
    plan["parameters"] = json!(null);
    plan
}

macro_rules! doing {
    (|$platform:ident| $body:expr) => {
        |$platform: Platform| -> Doing { Box::pin(async move { $body }) }
    };
}

macro_rules! ordered {
    ($plan:literal) => {
        doing!(|p| vec![p.provision("one", $plan, &json!({})).await])
    };
}

const NOTHING: fn(Platform) -> Doing = doing!(|_p| Vec::new());

async fn by_hand(p: &Platform, plan: &str, policy: &str) {
    p.apply(
        REDIS,
        "mine",
        &json!({ "planRef": { "name": plan }, "deletionPolicy": policy }),
    );
    p.settled(REDIS, "mine").await;
}

async fn given_back(p: &Platform) -> Vec<End> {
    p.delete("cacheinstances", REDIS, "mine");
    p.gone("cacheinstances", REDIS, "mine").await;
    Vec::new()
}

/// Caches of every kind at rest, and ten minutes in which nothing happens. At most one resync falls into them, which lists
/// groups and clusters and reads events, a page each.
pub const IDLE: Scenario = Scenario {
    name: "ten idle minutes",
    plans: &[
        "memcached-small",
        "redis-small",
        "aws-redis-small",
        "aws-valkey-small",
        "aws-memcached-small",
    ],
    before: doing!(|p| {
        let mut ends = Vec::new();
        for (id, plan) in [
            ("one", "memcached-small"),
            ("two", "redis-small"),
            ("three", "aws-redis-small"),
            ("four", "aws-valkey-small"),
            ("five", "aws-memcached-small"),
        ] {
            ends.push(p.provision(id, plan, &json!({})).await);
        }
        ends
    }),
    operation: doing!(|p| vec![p.idle(Duration::from_secs(600), 3).await]),
};

/// Every operation.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "provision memcached in the cluster",
        plans: &["memcached-small"],
        before: NOTHING,
        operation: ordered!("memcached-small"),
    },
    Scenario {
        name: "provision redis in the cluster",
        plans: &["redis-small"],
        before: NOTHING,
        operation: ordered!("redis-small"),
    },
    Scenario {
        name: "provision redis with a volume",
        plans: &["redis-kept"],
        before: NOTHING,
        operation: ordered!("redis-kept"),
    },
    Scenario {
        name: "provision valkey in the cluster",
        plans: &["valkey-small"],
        before: NOTHING,
        operation: ordered!("valkey-small"),
    },
    Scenario {
        name: "provision redis on ElastiCache",
        plans: &["aws-redis-small"],
        before: NOTHING,
        operation: ordered!("aws-redis-small"),
    },
    Scenario {
        name: "provision valkey on ElastiCache",
        plans: &["aws-valkey-small"],
        before: NOTHING,
        operation: ordered!("aws-valkey-small"),
    },
    Scenario {
        name: "provision memcached on ElastiCache",
        plans: &["aws-memcached-small"],
        before: NOTHING,
        operation: ordered!("aws-memcached-small"),
    },
    Scenario {
        name: "deprovision in the cluster",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| vec![p.deprovision("one", "redis-small").await]),
    },
    Scenario {
        name: "deprovision on ElastiCache",
        plans: &["aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![p.deprovision("one", "aws-redis-small").await]),
    },
    Scenario {
        name: "deprovision memcached on ElastiCache",
        plans: &["aws-memcached-small"],
        before: ordered!("aws-memcached-small"),
        operation: doing!(|p| vec![p.deprovision("one", "aws-memcached-small").await]),
    },
    Scenario {
        name: "update in the cluster",
        plans: &["memcached-large", "memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| vec![p.update("one", "memcached-large", &json!({})).await]),
    },
    Scenario {
        name: "update to more nodes in the cluster",
        plans: &["memcached-small", "memcached-two"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| vec![p.update("one", "memcached-two", &json!({})).await]),
    },
    Scenario {
        name: "update with a volume",
        plans: &["redis-kept", "redis-kept-large"],
        before: ordered!("redis-kept"),
        operation: doing!(|p| vec![p.update("one", "redis-kept-large", &json!({})).await]),
    },
    Scenario {
        name: "update that fails in the cluster",
        plans: &["memcached-broken", "memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| {
            let end = p.update("one", "memcached-broken", &json!({})).await;
            assert!(matches!(end, End::Failed(_)), "{end:?}");
            vec![End::Failed(String::new())]
        }),
    },
    Scenario {
        name: "parameters in the cluster",
        plans: &["memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| vec![
            p.update("one", "memcached-small", &json!({ "connectionLimit": 77 }))
                .await
        ]),
    },
    Scenario {
        name: "update in place on ElastiCache",
        plans: &["aws-redis-large", "aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![p.update("one", "aws-redis-large", &json!({})).await]),
    },
    Scenario {
        name: "update to replicas on ElastiCache",
        plans: &["aws-redis-replicas", "aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![p.update("one", "aws-redis-replicas", &json!({})).await]),
    },
    Scenario {
        name: "update to more nodes on ElastiCache",
        plans: &["aws-memcached-small", "aws-memcached-two"],
        before: ordered!("aws-memcached-small"),
        operation: doing!(|p| vec![p.update("one", "aws-memcached-two", &json!({})).await]),
    },
    Scenario {
        name: "parameters on ElastiCache",
        plans: &["aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![
            p.update("one", "aws-redis-small", &json!({ "snapshotRetentionDays": 3 }))
                .await
        ]),
    },
    Scenario {
        name: "update by replacement on ElastiCache",
        plans: &["aws-redis-encrypted", "aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| {
            vec![
                p.update("one", "aws-redis-encrypted", &json!({ "allow_replace": true }))
                    .await,
            ]
        }),
    },
    Scenario {
        name: "update from redis to valkey on ElastiCache",
        plans: &["aws-redis-small", "aws-valkey-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![p.update("one", "aws-valkey-small", &json!({})).await]),
    },
    Scenario {
        name: "update of memcached from the cluster to ElastiCache",
        plans: &["aws-memcached-small", "memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| {
            vec![
                p.update("one", "aws-memcached-small", &json!({ "allow_replace": true }))
                    .await,
            ]
        }),
    },
    Scenario {
        name: "update of memcached from ElastiCache to the cluster",
        plans: &["aws-memcached-small", "memcached-small"],
        before: ordered!("aws-memcached-small"),
        operation: doing!(|p| {
            vec![
                p.update("one", "memcached-small", &json!({ "allow_replace": true }))
                    .await,
            ]
        }),
    },
    Scenario {
        name: "restart in the cluster",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| vec![p.restart("one").await]),
    },
    Scenario {
        name: "restart on ElastiCache",
        plans: &["aws-redis-replicas"],
        before: ordered!("aws-redis-replicas"),
        operation: doing!(|p| vec![p.restart("one").await]),
    },
    Scenario {
        name: "backup",
        plans: &["aws-redis-small"],
        before: ordered!("aws-redis-small"),
        operation: doing!(|p| vec![p.backup("one").await]),
    },
    Scenario {
        name: "restore",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            p.provision("one", "aws-redis-small", &json!({})).await;
            vec![p.backup("one").await]
        }),
        operation: doing!(|p| {
            let backups = p.backups("one").await;
            vec![p.restore("one", &backups[0]).await]
        }),
    },
    Scenario {
        name: "bind and unbind",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| {
            let bound = p.bind("one", "b1", "redis-small").await;
            let bound_too = p.bind("one", "b2", "redis-small").await;
            let unbound = p.unbind("one", "b1", "redis-small").await;
            assert!(bound.is_success() && bound_too.is_success(), "{bound} {bound_too}");
            assert!(unbound.as_u16() == 200 || unbound.as_u16() == 410, "{unbound}");
            Vec::new()
        }),
    },
    Scenario {
        name: "claim of a member of a pool",
        plans: &[],
        before: doing!(|p| {
            p.apply_plan("memcached-pooled", &pooled());
            p.until("the pool is full", |world| {
                world
                    .object("cacheplans", "", "memcached-pooled")
                    .is_some_and(|plan| plan["status"]["pool"]["ready"] == 1)
            })
            .await;
            Vec::new()
        }),
        operation: doing!(|p| vec![p.provision("one", "memcached-pooled", &json!({})).await]),
    },
    Scenario {
        name: "order while it is being made is given back",
        plans: &["aws-redis-small"],
        before: NOTHING,
        operation: doing!(|p| {
            let making = tokio::spawn({
                let p = p.clone();
                async move { p.provision("one", "aws-redis-small", &json!({})).await }
            });
            tokio::time::sleep(Duration::from_secs(15)).await;
            let gone = p.deprovision("one", "aws-redis-small").await;
            drop(making.await);
            assert!(matches!(gone, End::Gone | End::Succeeded), "{gone:?}");
            Vec::new()
        }),
    },
    Scenario {
        name: "apply of YAML in the cluster",
        plans: &["redis-small"],
        before: NOTHING,
        operation: doing!(|p| {
            by_hand(&p, "redis-small", "Delete").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "apply of YAML on ElastiCache",
        plans: &["aws-redis-small"],
        before: NOTHING,
        operation: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Delete").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "delete of YAML, retained, in the cluster",
        plans: &["redis-small"],
        before: doing!(|p| {
            by_hand(&p, "redis-small", "Retain").await;
            Vec::new()
        }),
        operation: doing!(|p| given_back(&p).await),
    },
    Scenario {
        name: "delete of YAML, retained, on ElastiCache",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Retain").await;
            Vec::new()
        }),
        operation: doing!(|p| given_back(&p).await),
    },
    Scenario {
        name: "delete of YAML with a final snapshot",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Snapshot").await;
            Vec::new()
        }),
        operation: doing!(|p| given_back(&p).await),
    },
    Scenario {
        name: "adoption",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Retain").await;
            given_back(&p).await
        }),
        operation: doing!(|p| {
            let kept = p.world.state().elasticache.remaining().replication_groups;
            let spec = json!({ "planRef": { "name": "aws-redis-small" }, "adopt": { "providerId": kept[0] } });
            p.apply(REDIS, "theirs", &spec);
            p.settled(REDIS, "theirs").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "backup by YAML, and its deletion",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Delete").await;
            Vec::new()
        }),
        operation: doing!(|p| {
            p.apply_backup(REDIS, "copy", "mine");
            p.until("the backup is ready", |world| {
                world
                    .object("cachebackups", REDIS, "copy")
                    .is_some_and(|backup| condition(&backup, "Ready") == Some("True"))
            })
            .await;
            p.delete("cachebackups", REDIS, "copy");
            p.gone("cachebackups", REDIS, "copy").await;
            Vec::new()
        }),
    },
];
