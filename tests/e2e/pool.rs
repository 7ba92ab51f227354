//! Instances made ahead of their orders.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cache_broker::api::{CacheInstance, CachePlan, annotations, conditions, labels};
use futures::future::join_all;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::caches::use_credentials;
use crate::cluster::{Place, provider_id};
use crate::osb::{MEMCACHED, Order, REDIS};
use crate::receiver::Receiver;
use crate::secured::offered;
use crate::world::{World, eventually, shared};

async fn in_cluster(world: &World, count: u16) -> String {
    let engine = json!({ "type": "memcached", "version": "1.6.45" });
    let name = world.plan(engine, "kubernetes", json!({ "memory": "64Mi" })).await;
    set(world, &name, &json!({ "preprovision": count })).await;
    name
}

async fn set(world: &World, plan: &str, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    world
        .kubectl(&["patch", "cplan", plan, "--type=merge", "-p", &patch])
        .await;
}

async fn plan(world: &World, name: &str) -> CachePlan {
    Api::all(world.kube().await).get(name).await.unwrap()
}

/// The members of a plan's pool.
async fn members(world: &World, plan: &str) -> Vec<CacheInstance> {
    let list = kube::api::ListParams::default().labels(&format!("{}={plan}", labels::POOL));
    let instances: Api<CacheInstance> = Api::all(world.kube().await);
    instances.list(&list).await.unwrap().items
}

/// Waits until a plan's pool is full; returns the names of the members.
async fn full(world: &World, name: &str, count: u32) -> BTreeSet<String> {
    eventually(&format!("a pool of {count}"), async || {
        let status = plan(world, name).await.status?;
        let pool = status.pool?;
        let generation = status.observed_generation?;
        let is_full = count == 0 || conditions::is_true(&status.conditions, "PoolReady", generation);
        if (pool.ready, pool.wanted) != (count, count) || !is_full {
            return None;
        }
        let members = members(world, name).await;
        // Outdated ones may be on their way out.
        let kept = members
            .iter()
            .filter(|member| member.metadata.deletion_timestamp.is_none());
        let names: BTreeSet<_> = kept.map(ResourceExt::name_any).collect();
        (names.len() == usize::try_from(count).unwrap()).then_some(names)
    })
    .await
}

/// Binds to an instance and uses its cache.
async fn use_bound(world: &World, order: &Order) {
    let bound = world.osb().bind(order, "b").await;
    assert_eq!(bound.status.as_u16(), 201, "{bound:?}");
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    use_credentials(&bound.body["credentials"], ca_file).await;
}

async fn empty(world: &World, name: &str) {
    eventually("an empty pool", async || {
        members(world, name).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_serves_from_its_order_on_and_another_one_is_made() {
    let world = shared().await;
    let osb = world.osb();
    let name = in_cluster(world, 2).await;
    let first = full(world, &name, 2).await;
    assert_eq!(plan(world, &name).await.status.unwrap().instances, Some(0));
    let mut hook = Receiver::start([]).await;
    let order = Order::new(MEMCACHED, &name).webhook(&hook.url, "secret");
    let start = Instant::now();
    let made = osb.provision(&order).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let bound = osb.bind(&order, "b").await;
    let elapsed = start.elapsed();
    assert_eq!(bound.status.as_u16(), 201, "{bound:?}");
    println!("ordered and bound in {} ms", elapsed.as_millis());
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    use_credentials(&bound.body["credentials"], ca_file).await;
    let last = format!("/v2/service_instances/{}/last_operation", order.id);
    assert_eq!(osb.get(&last).await.body["state"], json!("succeeded"));
    let mut told = async || {
        let event = hook.next().await.body();
        assert_eq!(event["state"], json!("succeeded"));
        event["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!([told().await, told().await], ["provision", "bind"]);

    // Its resource tells whose it is, and it is one of the plan's instances.
    let place = world.place(&order).await;
    assert!(first.contains(&place.name), "{}", place.name);
    let instance = eventually("the owner in the resource", async || {
        world
            .instance(&place)
            .await
            .filter(|instance| instance.spec.owner.is_some())
    })
    .await;
    assert_eq!(instance.annotation(annotations::INSTANCE_ID), Some(order.id.as_str()));
    assert_eq!(instance.spec.deletion_policy, None);
    assert!(!instance.labels().contains_key(labels::POOL));
    let second = full(world, &name, 2).await;
    assert!(!second.contains(&place.name));
    assert_eq!(first.intersection(&second).count(), 1);
    eventually("the count of instances", async || {
        (plan(world, &name).await.status?.instances == Some(1)).then_some(())
    })
    .await;

    // Another revision: all members are made anew, the instance stays as it is.
    set(world, &name, &json!({ "kubernetes": { "memory": "96Mi" } })).await;
    eventually("members of the second revision", async || {
        let members = members(world, &name).await;
        let revisions: BTreeSet<_> = members.iter().map(|member| member.spec.plan_ref.revision).collect();
        (revisions == BTreeSet::from([Some(2)])).then_some(())
    })
    .await;
    let third = full(world, &name, 2).await;
    assert!(third.is_disjoint(&second), "{third:?} {second:?}");
    let kept = world.until_ready(&place).await;
    assert_eq!(kept.spec.plan_ref.revision, Some(1));
    use_credentials(&bound.body["credentials"], ca_file).await;

    // More orders than members, at once.
    let orders: Vec<_> = (0..6).map(|_| Order::new(MEMCACHED, &name)).collect();
    let replies = join_all(orders.iter().map(|order| osb.provision(order))).await;
    let made = replies.iter().filter(|reply| reply.status.as_u16() == 201).count();
    assert!((2..6).contains(&made), "{replies:?}");
    let places = join_all(orders.iter().zip(&replies).map(|(order, reply)| async {
        let place = world.place(order).await;
        if reply.status.as_u16() == 202 {
            assert_eq!(osb.ended(order, &reply.operation()).await.0, "succeeded");
        }
        use_bound(world, order).await;
        place.name
    }))
    .await;
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), orders.len());
    full(world, &name, 2).await;

    // A claimed one is given back like any other.
    assert_eq!(osb.unbind(&order, "b").await.status.as_u16(), 200);
    osb.give_back(&order).await;
    assert_eq!(told().await, "deprovision", "unbinding tells nothing");
    world.until_nothing_is_left(&place, None).await;
    join_all(orders.iter().map(|order| async {
        osb.unbind(order, "b").await;
        osb.give_back(order).await;
    }))
    .await;

    // No pool any more, and no plan.
    set(world, &name, &json!({ "preprovision": 1 })).await;
    full(world, &name, 1).await;
    eventually("a plan without instances", async || {
        (plan(world, &name).await.status?.instances == Some(0)).then_some(())
    })
    .await;
    world.kubectl(&["delete", "cplan", &name]).await;
    empty(world, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_on_elasticache_has_its_password() {
    let world = shared().await;
    let osb = world.osb();
    let engine = json!({ "type": "redis", "version": "7.1" });
    let spec = json!({
        "nodeType": "cache.t4g.micro", "authentication": "token", "transitEncryption": true,
    });
    let name = world.plan(engine, "elasticache", spec).await;
    set(world, &name, &json!({ "preprovision": 1, "deletionPolicy": "Retain" })).await;
    full(world, &name, 1).await;
    let order = Order::new(REDIS, &name);
    assert_eq!(osb.provision(&order).await.status.as_u16(), 201);
    use_bound(world, &order).await;
    let place = world.place(&order).await;
    let claimed = provider_id(&world.instance(&place).await.unwrap());
    // AWS is told for whom it is now.
    let aws = crate::elasticache::client(world);
    eventually("the owner in the tags", async || {
        let arn = world.instance(&place).await?.status?.provider_arn?;
        // They are not told while it is busy.
        let tags = aws.list_tags_for_resource().resource_name(arn).send().await.ok()?;
        let of = |key: &str| {
            let tag = tags.tag_list().iter().find(|tag| tag.key() == Some(key))?;
            tag.value().map(str::to_owned)
        };
        (of("cache.akkeris.io/organization").as_deref() == Some("org")).then_some(())
    })
    .await;
    full(world, &name, 1).await;
    // The pool may be said to be full a moment longer than it is.
    let unclaimed = eventually("the id of the next one", async || {
        members(world, &name)
            .await
            .first()?
            .status
            .as_ref()?
            .provider_id
            .clone()
    })
    .await;
    assert_ne!(claimed, unclaimed);
    set(world, &name, &json!({ "preprovision": 0 })).await;
    empty(world, &name).await;
    // What the plan says of instances holds for none that nobody had.
    eventually("the end of the unclaimed group", async || {
        (!world.exists_in_elasticache(&unclaimed)).then_some(())
    })
    .await;
    assert!(world.exists_in_elasticache(&claimed));
    osb.unbind(&order, "b").await;
    osb.give_back(&order).await;
    assert!(world.exists_in_elasticache(&claimed), "the plan says Retain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_members_fail_or_are_deleted_says_so_and_is_filled_again() {
    let world = shared().await;
    let condition = async |name: &str, reason: &str| {
        eventually(reason, async || {
            let status = plan(world, name).await.status?;
            let condition = conditions::find(&status.conditions, "PoolReady")?;
            (condition.reason == reason).then(|| condition.clone())
        })
        .await
    };
    // ElastiCache knows no such node type.
    let engine = json!({ "type": "redis", "version": "7.1" });
    let spec = json!({ "nodeType": "cache.t9.huge" });
    let name = world.plan(engine, "elasticache", spec).await;
    set(world, &name, &json!({ "preprovision": 2 })).await;
    let failing = condition(&name, "MemberFailed").await;
    assert_eq!(failing.status, "False");
    assert!(
        failing
            .message
            .starts_with("0 of 2 ready; CacheInstance redis-system/pool-"),
        "{failing:?}"
    );
    assert_eq!(members(world, &name).await.len(), 2);
    // An order waits for its own cache rather than for one of those.
    offered(world, &[&name]).await;
    let order = Order::new(REDIS, &name);
    let operation = world.osb().provision(&order).await.operation();
    assert_eq!(world.osb().ended(&order, &operation).await.0, "failed");
    world.osb().give_back(&order).await;
    set(
        world,
        &name,
        &json!({ "elasticache": { "nodeType": "cache.t4g.micro" } }),
    )
    .await;
    full(world, &name, 2).await;
    set(world, &name, &json!({ "preprovision": 0 })).await;
    empty(world, &name).await;

    // Deleted by hand, and one that somebody made by hand.
    let name = in_cluster(world, 1).await;
    let before = full(world, &name, 1).await;
    let lost = Place::new("memcached-system", before.first().unwrap());
    world.delete(&lost).await;
    eventually("another member", async || {
        let names: BTreeSet<_> = members(world, &name).await.iter().map(ResourceExt::name_any).collect();
        (names.len() == 1 && names != before).then_some(())
    })
    .await;
    full(world, &name, 1).await;
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": {
                "name": format!("by-hand-{}", &name[4..20]), "namespace": "memcached-system",
                "labels": { labels::POOL: &name },
            },
            "spec": { "planRef": { "name": &name } },
        }))
        .await;
    let unknown = condition(&name, "UnknownMember").await;
    assert!(unknown.message.contains("by-hand-"), "{unknown:?}");
    assert_eq!(members(world, &name).await.len(), 2, "it is left alone");
    let by_hand = Place::new("memcached-system", &format!("by-hand-{}", &name[4..20]));
    world.delete(&by_hand).await;
    condition(&name, "Full").await;
    set(
        world,
        &name,
        &json!({ "parameters": {
        "properties": { "connectionLimit": { "type": "integer" } }, "required": ["connectionLimit"],
    } }),
    )
    .await;
    let impossible = condition(&name, "Impossible").await;
    assert!(
        impossible.message.contains("remove spec.preprovision"),
        "{impossible:?}"
    );
    empty(world, &name).await;
    world.kubectl(&["delete", "cplan", &name]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_finished_by_whoever_comes_after_a_crash() {
    let mut world = World::start(&[]).await;
    let name = in_cluster(&world, 2).await;
    full(&world, &name, 2).await;
    world.sandbox.control_plane().unwrap().stop_api_server().await.unwrap();
    let (kept, returned) = (Order::new(MEMCACHED, &name), Order::new(MEMCACHED, &name));
    let osb = world.osb();
    for order in [&kept, &returned] {
        assert_eq!(osb.provision(order).await.status.as_u16(), 201);
    }
    use_bound(&world, &kept).await;
    let operation = osb.deprovision(&returned).await.operation();
    // What a process that was killed had taken from the outbox is left to it for a minute.
    let tried = "select count(*) from instances where id = $1 and outbox_error is not null";
    eventually("an attempt to write it", async || {
        (world.count(tried, &returned).await == 1).then_some(())
    })
    .await;
    world.kill_broker().await;
    world.sandbox.control_plane().unwrap().start_api_server().await.unwrap();
    // The member that is given back says how unclaimed ones are deleted until it is taken over.
    set(&world, &name, &json!({ "preprovision": 1 })).await;
    world.start_broker().await;
    let osb = world.osb();
    assert_eq!(osb.ended(&returned, &operation).await.0, "gone");
    let place = world.place(&kept).await;
    let instance = eventually("the owner in the resource", async || {
        world
            .instance(&place)
            .await
            .filter(|instance| instance.spec.owner.is_some())
    })
    .await;
    assert_eq!(instance.annotation(annotations::INSTANCE_ID), Some(kept.id.as_str()));
    world.until_ready(&place).await;
    let names = full(&world, &name, 1).await;
    assert!(!names.contains(&place.name));
    let deployments = world
        .kubectl(&["get", "deployments", "--all-namespaces", "-o", "name"])
        .await;
    assert_eq!(deployments.lines().count(), 2, "{deployments}");

    // Killed while it fills the pool: what is on record is made, and nothing twice.
    set(&world, &name, &json!({ "preprovision": 8 })).await;
    eventually("the first of more members", async || {
        (members(&world, &name).await.len() > 1).then_some(())
    })
    .await;
    world.kill_broker().await;
    let killed_at = members(&world, &name).await.len();
    world.start_broker().await;
    full(&world, &name, 8).await;
    println!("killed when {killed_at} of 8 stood");
    assert_eq!(members(&world, &name).await.len(), 8);
    let deployments = world
        .kubectl(&["get", "deployments", "--all-namespaces", "-o", "name"])
        .await;
    assert_eq!(deployments.lines().count(), 9, "{deployments}");
    // Settled: nothing is written any more.
    let version = async || plan(&world, &name).await.resource_version();
    let before = version().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(version().await, before);
    world.stop().await;
}
