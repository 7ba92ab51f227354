//! What is asked of the broker in a run: what comes before, and what faults may strike.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plans;
use crate::platform::{End, MEMCACHED, Platform, REDIS, condition};
use crate::world::World;

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

/// Plans with a pool of one.
pub const POOLED: &str = "memcached-pooled";
pub const AWS_POOLED: &str = "aws-memcached-pooled";

/// Applies such a plan, and waits until a member of its present revision is there.
pub async fn pool(p: &Platform, name: &str, memory: &str) {
    let spec = if name == POOLED {
        plans::pooled(name, ("kubernetes", &json!({ "memory": memory })))
    } else {
        plans::pooled(name, ("elasticache", &json!({ "nodeType": "cache.t4g.micro" })))
    };
    p.apply_plan(name, &spec);
    p.until("the pool is full", |world| {
        let plan = world.object("cacheplans", "", name).unwrap_or_default();
        plan["status"]["pool"]["ready"] == 1 && plan["status"]["observedGeneration"] == plan["metadata"]["generation"]
    })
    .await;
}

/// A Deployment and a Service as somebody made them by hand.
fn by_somebody(p: &Platform) {
    let labels = json!({ "app": "theirs" });
    let named = json!({ "name": "theirs", "labels": labels });
    p.create(
        "/apis/apps/v1/namespaces/memcached-system/deployments",
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
            "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{
                    "name": "memcached", "image": "memcached:1.6", "args": ["-m 51", "-I 1M"],
                    "ports": [{ "containerPort": 11211 }], "resources": { "limits": { "memory": "64Mi" } },
                }] },
            } },
        }),
    );
    p.create(
        "/api/v1/namespaces/memcached-system/services",
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named,
            "spec": { "selector": labels, "ports": [{ "port": 11211, "targetPort": 11211, "protocol": "TCP" }] },
        }),
    );
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

/// Whoever asks again after a lost answer hears that it is gone.
fn ended(end: End) -> End {
    if end == End::Gone { End::Succeeded } else { end }
}

async fn given_back(p: &Platform) -> Vec<End> {
    p.delete("cacheinstances", REDIS, "mine");
    p.gone("cacheinstances", REDIS, "mine").await;
    Vec::new()
}

/// Orders, and gives back what was accepted while it is still being made.
async fn given_back_meanwhile(p: &Platform, plan: &str, after: impl Future<Output = ()>) -> Vec<End> {
    p.order("one", plan, &json!({})).await;
    after.await;
    vec![ended(p.deprovision("one", plan).await)]
}

/// Asks for a backup, and deletes it once it says something.
async fn deleted_once(p: &Platform, says: impl Fn(&Value) -> bool) -> Vec<End> {
    p.apply_backup(REDIS, "copy", "mine");
    p.until("the backup says it", |world| {
        let backup = world.object("cachebackups", REDIS, "copy");
        backup.is_some_and(|backup| says(&backup))
    })
    .await;
    p.delete("cachebackups", REDIS, "copy");
    p.gone("cachebackups", REDIS, "copy").await;
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
        name: "update whose volume cannot grow",
        plans: &["redis-fixed", "redis-fixed-large"],
        before: ordered!("redis-fixed"),
        operation: doing!(|p| {
            let end = p.update("one", "redis-fixed-large", &json!({})).await;
            assert!(matches!(end, End::Failed(_)), "{end:?}");
            let counted = p.stats("one").await;
            assert!(counted.is_success(), "what served serves still: {counted}");
            vec![End::Failed(String::new())]
        }),
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
        name: "update of memcached to ElastiCache and back",
        plans: &["memcached-small", "aws-memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| {
            let leave = json!({ "allow_replace": true });
            let there = p.update("one", "aws-memcached-small", &leave).await;
            vec![there, p.update("one", "memcached-small", &leave).await]
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
            pool(&p, POOLED, "64Mi").await;
            Vec::new()
        }),
        operation: doing!(|p| vec![p.provision("one", POOLED, &json!({})).await]),
    },
    Scenario {
        name: "claim of a member of a pool on ElastiCache",
        plans: &[],
        before: doing!(|p| {
            pool(&p, AWS_POOLED, "").await;
            Vec::new()
        }),
        operation: doing!(|p| vec![p.provision("one", AWS_POOLED, &json!({})).await]),
    },
    Scenario {
        name: "a pool whose plan is edited",
        plans: &[],
        before: doing!(|p| {
            pool(&p, POOLED, "64Mi").await;
            Vec::new()
        }),
        // Whether an order meets a member of the new revision is a matter of moments: none is placed here.
        operation: doing!(|p| {
            pool(&p, POOLED, "128Mi").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "flush and stats",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| {
            let (flushed, counted) = (p.flush("one").await, p.stats("one").await);
            assert!(flushed.is_success() && counted.is_success(), "{flushed} {counted}");
            let emptied = p.world.state().caches.values().map(|cache| cache.emptied).sum::<u64>();
            assert!(emptied > 0, "it was emptied");
            Vec::new()
        }),
    },
    Scenario {
        name: "bind with a user in the cluster",
        plans: &["redis-users"],
        before: ordered!("redis-users"),
        operation: doing!(|p| vec![p.bind_user("one", "b1", "redis-users", None).await]),
    },
    Scenario {
        name: "rotation of a user in the cluster",
        plans: &["redis-users"],
        before: doing!(|p| vec![
            p.provision("one", "redis-users", &json!({})).await,
            p.bind_user("one", "b1", "redis-users", None).await,
        ]),
        operation: doing!(|p| vec![
            p.bind_user("one", "b2", "redis-users", Some("b1")).await,
            ended(p.unbind_user("one", "b1", "redis-users").await),
        ]),
    },
    Scenario {
        name: "restart with users in the cluster",
        plans: &["redis-users"],
        before: doing!(|p| vec![
            p.provision("one", "redis-users", &json!({})).await,
            p.bind_user("one", "b1", "redis-users", None).await,
        ]),
        operation: doing!(|p| vec![p.restart("one").await]),
    },
    Scenario {
        name: "bind with a user on ElastiCache",
        plans: &["aws-redis-users"],
        before: ordered!("aws-redis-users"),
        operation: doing!(|p| vec![p.bind_user("one", "b1", "aws-redis-users", None).await]),
    },
    Scenario {
        name: "rotation of a user on ElastiCache",
        plans: &["aws-redis-users"],
        before: doing!(|p| vec![
            p.provision("one", "aws-redis-users", &json!({})).await,
            p.bind_user("one", "b1", "aws-redis-users", None).await,
        ]),
        operation: doing!(|p| vec![
            p.bind_user("one", "b2", "aws-redis-users", Some("b1")).await,
            ended(p.unbind_user("one", "b1", "aws-redis-users").await),
        ]),
    },
    Scenario {
        name: "deprovision with users on ElastiCache",
        plans: &["aws-redis-users"],
        before: doing!(|p| vec![
            p.provision("one", "aws-redis-users", &json!({})).await,
            p.bind_user("one", "b1", "aws-redis-users", None).await,
        ]),
        operation: doing!(|p| vec![
            ended(p.unbind_user("one", "b1", "aws-redis-users").await),
            p.deprovision("one", "aws-redis-users").await,
        ]),
    },
    Scenario {
        name: "provision that fails, and its deprovision",
        plans: &["memcached-broken"],
        before: NOTHING,
        operation: doing!(|p| {
            let end = p.provision("one", "memcached-broken", &json!({})).await;
            assert!(matches!(end, End::Failed(_)), "{end:?}");
            vec![ended(p.deprovision("one", "memcached-broken").await)]
        }),
    },
    Scenario {
        name: "update to a later revision of the plan",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| {
            let mut plans = plans::all().into_iter();
            let (_, mut plan) = plans.find(|(name, _)| *name == "redis-small").unwrap();
            plan["kubernetes"]["memory"] = json!("96Mi");
            p.apply_plan("redis-small", &plan);
            vec![p.maintain("one", "redis-small", 2).await]
        }),
    },
    Scenario {
        name: "update to fewer nodes in the cluster",
        plans: &["memcached-small", "memcached-two"],
        before: ordered!("memcached-two"),
        operation: doing!(|p| vec![p.update("one", "memcached-small", &json!({})).await]),
    },
    Scenario {
        name: "update to fewer nodes on ElastiCache",
        plans: &["aws-memcached-small", "aws-memcached-two"],
        before: ordered!("aws-memcached-two"),
        operation: doing!(|p| vec![p.update("one", "aws-memcached-small", &json!({})).await]),
    },
    Scenario {
        name: "update from replicas on ElastiCache",
        plans: &["aws-redis-replicas", "aws-redis-small"],
        before: ordered!("aws-redis-replicas"),
        operation: doing!(|p| vec![p.update("one", "aws-redis-small", &json!({})).await]),
    },
    Scenario {
        name: "restart with a volume",
        plans: &["redis-kept"],
        before: ordered!("redis-kept"),
        operation: doing!(|p| vec![p.restart("one").await]),
    },
    Scenario {
        name: "restart of memcached on ElastiCache",
        plans: &["aws-memcached-two"],
        before: ordered!("aws-memcached-two"),
        operation: doing!(|p| vec![p.restart("one").await]),
    },
    Scenario {
        name: "deletion by hand that is held, and the deprovision",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| {
            let (namespace, name) = p.place("one");
            p.delete("cacheinstances", &namespace, &name);
            p.until_reason("one", "DeletionHeld").await;
            vec![ended(p.deprovision("one", "redis-small").await)]
        }),
    },
    Scenario {
        name: "edit by hand that waits, and the same as an order",
        plans: &["memcached-large", "memcached-small"],
        before: ordered!("memcached-small"),
        operation: doing!(|p| {
            p.patch_ordered("one", &json!({ "spec": { "planRef": { "name": "memcached-large" } } }));
            vec![p.update("one", "memcached-large", &json!({})).await]
        }),
    },
    Scenario {
        name: "adoption in the cluster",
        plans: &["memcached-small"],
        before: doing!(|p| {
            by_somebody(&p);
            Vec::new()
        }),
        operation: doing!(|p| {
            let spec = json!({
                "planRef": { "name": "memcached-small" },
                "adopt": { "providerId": "theirs", "asOf": { "name": "memcached-small", "revision": 1 } },
                "deletionPolicy": "Retain",
            });
            p.apply(MEMCACHED, "theirs", &spec);
            p.settled(MEMCACHED, "theirs").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "restore of YAML into another instance",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Delete").await;
            p.apply_backup(REDIS, "copy", "mine");
            p.until("the backup is ready", |world| {
                world
                    .object("cachebackups", REDIS, "copy")
                    .is_some_and(|backup| condition(&backup, "Ready") == Some("True"))
            })
            .await;
            Vec::new()
        }),
        operation: doing!(|p| {
            let spec = json!({ "planRef": { "name": "aws-redis-small" }, "restore": { "backup": "copy" } });
            p.apply(REDIS, "other", &spec);
            p.settled(REDIS, "other").await;
            Vec::new()
        }),
    },
    Scenario {
        name: "a plan that is deleted while it is in use",
        plans: &["redis-small"],
        before: ordered!("redis-small"),
        operation: doing!(|p| {
            p.delete_plan("redis-small");
            let end = ended(p.deprovision("one", "redis-small").await);
            p.gone("cacheplans", "", "redis-small").await;
            vec![end]
        }),
    },
    Scenario {
        name: "order while it is being made is given back",
        plans: &["aws-redis-small"],
        before: NOTHING,
        operation: doing!(|p| {
            given_back_meanwhile(&p, "aws-redis-small", tokio::time::sleep(Duration::from_secs(15))).await
        }),
    },
    Scenario {
        name: "order that is given back at once",
        plans: &["aws-memcached-small"],
        before: NOTHING,
        operation: doing!(|p| {
            let ordered = p.until("it is ordered", |world| !world.objects("cacheinstances").is_empty());
            given_back_meanwhile(&p, "aws-memcached-small", ordered).await
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
        name: "replacement that is taken back",
        plans: &["aws-redis-encrypted", "aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Delete").await;
            p.annotate(REDIS, "mine", "cache.akkeris.io/approve-disruption", "true");
            Vec::new()
        }),
        operation: doing!(|p| {
            let apply = |plan: &str| {
                let spec = json!({ "planRef": { "name": plan }, "deletionPolicy": "Delete" });
                p.apply(REDIS, "mine", &spec);
            };
            let is_replaced = |world: &World| {
                let instance = world.object("cacheinstances", REDIS, "mine").unwrap_or_default();
                instance["status"]["replacement"].is_object()
            };
            apply("aws-redis-encrypted");
            p.until("another one is to take its place", is_replaced).await;
            // What fills it is a snapshot that takes 15 s; then it is asked for, and takes 40 s.
            tokio::time::sleep(Duration::from_secs(24)).await;
            apply("aws-redis-small");
            p.until("the other one is given up", |world| !is_replaced(world)).await;
            p.settled(REDIS, "mine").await;
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
        operation: doing!(|p| deleted_once(&p, |backup| condition(backup, "Ready") == Some("True")).await),
    },
    Scenario {
        name: "backup by YAML that is deleted at once",
        plans: &["aws-redis-small"],
        before: doing!(|p| {
            by_hand(&p, "aws-redis-small", "Delete").await;
            Vec::new()
        }),
        operation: doing!(|p| deleted_once(&p, |backup| backup["status"]["snapshot"].is_string()).await),
    },
];
