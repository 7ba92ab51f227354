//! What happens when somebody else changes things: kubectl, Git, backups. Nothing is destroyed by itself.

use http::StatusCode;
use serde_json::{Value, json};

use crate::cluster::{Place, ready};
use crate::doctor::{examined, kinds};
use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, REDIS, REDIS_ON_AWS};
use crate::steady::Cache;
use crate::world::{World, eventually, shared};

const STANDARD_0: &str = "36120f94-2cd2-3133-8196-c2ef98deffb6";

/// An ordered memcached in the cluster with something in it.
async fn filled(world: &World) -> (Order, Place, Cache) {
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    world.osb().have(&order).await;
    let place = world.place(&order).await;
    let cache = Cache::of(world, &place.namespace, &format!("{}-connection", place.name)).await;
    cache.set("kept", "here").await.unwrap();
    (order, place, cache)
}

/// A resource as somebody would keep it in Git.
async fn exported(world: &World, place: &Place) -> Value {
    let mut object = serde_json::to_value(world.instance(place).await.unwrap()).unwrap();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "annotations" | "labels"));
    object
}

async fn reason(world: &World, order: &Order) -> Option<String> {
    let sql = world.sql().await;
    sql.query_one("select reason from instances where id = $1", &[&order.id])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_instance_that_somebody_deletes_is_held_until_the_platform_gives_it_back() {
    let world = shared().await;
    let osb = world.osb();
    let (order, place, cache) = filled(world).await;
    world.delete(&place).await;
    let held = world.until_reason(&place, "DeletionHeld").await;
    let said = ready(&held).unwrap();
    assert!(said.message.contains(&order.id), "{said:?}");
    assert_eq!(said.status, "True", "it goes on answering");
    assert!(cache.has("kept").await.unwrap());
    let bound = osb.bind(&order, "b").await;
    assert_eq!(bound.status, StatusCode::CREATED, "{bound:?}");
    osb.give_back(&order).await;
    world.until_nothing_is_left(&place, None).await;

    // An admin who means it says so, and the platform is told.
    let (order, place, _) = filled(world).await;
    world.delete(&place).await;
    world.until_reason(&place, "DeletionHeld").await;
    world.annotate(&place, "cache.akkeris.io/approve-deletion=true").await;
    world.until_nothing_is_left(&place, None).await;
    eventually("the ledger's word", async || {
        (reason(world, &order).await.as_deref() == Some("Missing")).then_some(())
    })
    .await;
    osb.give_back(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_would_lose_data_waits_for_consent_until_it_is_ordered() {
    let world = shared().await;
    let osb = world.osb();
    let (mut order, place, cache) = filled(world).await;
    let edit = json!({ "spec": { "planRef": { "name": "memcached-standard-0", "revision": null } } });
    world.patch(&place, &edit).await;
    world.until_reason(&place, "AwaitingMaintenance").await;
    assert!(cache.has("kept").await.unwrap());
    // Over OSB asking is consent.
    let before = exported(world, &place).await;
    let change = json!({ "service_id": MEMCACHED, "plan_id": STANDARD_0 });
    let operation = osb.patch(&order, &change).await.operation();
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    // From Git comes what it was before: what was ordered is written again.
    let mut older = before;
    older["spec"]["planRef"] = json!({ "name": "memcached-hobby-dev", "revision": 1 });
    world.apply(&older).await;
    eventually("the plan that was ordered", async || {
        let instance = world.instance(&place).await?;
        (instance.spec.plan_ref.name == "memcached-standard-0" && instance.ledger_revision() == Some(2)).then_some(())
    })
    .await;
    order.plan = STANDARD_0.to_owned();
    osb.give_back(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_comes_back_from_git_is_what_it_was_or_goes_again() {
    let world = shared().await;
    let osb = world.osb();
    let (order, place, cache) = filled(world).await;
    let kept = exported(world, &place).await;

    // A copy elsewhere is a cache of its own, and takes nothing over from the instance.
    let copy = Place::new("redis-system", &format!("copy-of-{}", place.name));
    let mut object = kept.clone();
    object["metadata"]["name"] = json!(copy.name);
    object["metadata"]["namespace"] = json!(copy.namespace);
    world.apply(&object).await;
    world.until_ready(&copy).await;
    let bound = osb.bind(&order, "b").await;
    let host = bound.body["credentials"]["MEMCACHED_URL"].as_str().unwrap().to_owned();
    assert_eq!(host, cache.address);
    world.annotate(&copy, "cache.akkeris.io/instance-id-").await;
    world.delete(&copy).await;
    world.until_nothing_is_left(&copy, None).await;

    // Lost, and applied again: the instance has a cache again, an empty one.
    world.delete(&place).await;
    world.annotate(&place, "cache.akkeris.io/approve-deletion=true").await;
    world.until_nothing_is_left(&place, None).await;
    world.apply(&kept).await;
    world.until_ready(&place).await;
    eventually("the ledger's word", async || {
        (reason(world, &order).await.as_deref() == Some("Available")).then_some(())
    })
    .await;

    // Given back, and applied again: nobody has ordered it.
    osb.give_back(&order).await;
    world.apply(&kept).await;
    world.until_nothing_is_left(&place, None).await;
}

/// A copy of the ledger's database, or the copy in its place. Nothing else may be connected.
async fn copy_database(world: &World, from: &str, to: &str) {
    let sql = world.sandbox.postgres().connect("postgres").await.unwrap();
    eventually("the end of connections", async || {
        let others: i64 = sql
            .query_one(
                "select count(*) from pg_stat_activity where datname = any($1)",
                &[&[from, to].as_slice()],
            )
            .await
            .unwrap()
            .get(0);
        (others == 0).then_some(())
    })
    .await;
    sql.batch_execute(&format!("drop database if exists {to}"))
        .await
        .unwrap();
    sql.batch_execute(&format!("create database {to} template {from}"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_put_back_and_a_cluster_that_is_rebuilt_destroy_nothing() {
    let mut world = World::start(&[]).await;
    let (changed, changed_at, _) = filled(&world).await;
    let (returned, _, _) = filled(&world).await;
    let on_aws = Order::new(REDIS, REDIS_ON_AWS);
    world.osb().have(&on_aws).await;
    world.broker.terminate().await;
    copy_database(&world, "cache_broker", "backup").await;
    world.start_broker().await;

    // What happens since the backup was taken.
    let osb = world.osb();
    let change = json!({ "service_id": MEMCACHED, "plan_id": STANDARD_0 });
    let operation = osb.patch(&changed, &change).await.operation();
    assert_eq!(osb.ended(&changed, &operation).await.0, "succeeded");
    let cache = Cache::of(
        &world,
        &changed_at.namespace,
        &format!("{}-connection", changed_at.name),
    )
    .await;
    cache.set("kept", "here").await.unwrap();
    osb.give_back(&returned).await;
    let (unknown, unknown_at, unknown_cache) = filled(&world).await;

    world.broker.terminate().await;
    copy_database(&world, "backup", "cache_broker").await;
    world.start_broker().await;
    let osb = world.osb();
    // What was changed is what the cluster says, and stays so.
    eventually("the ledger to take up the plan", async || {
        let row = world
            .sql()
            .await
            .query_one(
                "select plan_id, applied_revision = desired_revision from instances where id = $1",
                &[&changed.id],
            )
            .await
            .unwrap();
        (row.get::<_, &str>(0) == STANDARD_0 && row.get(1)).then_some(())
    })
    .await;
    eventually("what is missing", async || {
        (reason(&world, &returned).await.as_deref() == Some("Missing")).then_some(())
    })
    .await;
    assert!(cache.has("kept").await.unwrap());
    assert!(
        unknown_cache.has("kept").await.unwrap(),
        "nobody knows it, and it is left alone"
    );
    assert_eq!(osb.poll(&unknown, "").await.status, StatusCode::NOT_FOUND);
    let (code, told) = examined(&world, &[]).await;
    assert_eq!((code, kinds(&told)), (3, vec!["Missing", "Unrecorded"]), "{told}");
    assert!(told.contains(&unknown_at.name), "{told}");

    // The cluster is lost, and rebuilt with the custom resource definitions and plans only.
    world.broker.terminate().await;
    let api = "cacheinstances.cache.akkeris.io";
    for namespace in ["memcached-system", "redis-system"] {
        let names = world.kubectl(&["get", api, "-n", namespace, "-o", "name"]).await;
        for name in names.lines() {
            let free = "{\"metadata\":{\"finalizers\":null}}";
            world
                .kubectl(&["patch", name, "-n", namespace, "--type=merge", "-p", free])
                .await;
            world.kubectl(&["delete", name, "-n", namespace]).await;
        }
    }
    world.start_broker().await;
    for order in [&changed, &on_aws] {
        eventually("what is missing", async || {
            (reason(&world, order).await.as_deref() == Some("Missing")).then_some(())
        })
        .await;
    }
    let groups = world.sandbox.elasticache().unwrap().remaining().replication_groups;
    assert_eq!(groups.len(), 1, "what AWS has is left alone");
    // Kubernetes takes its time to collect what the deleted resources owned.
    let told = eventually("what is lost, and nothing besides", async || {
        let (code, told) = examined(&world, &[]).await;
        assert_eq!(code, 3);
        (kinds(&told) == ["Missing", "Missing", "Missing", "Orphan"]).then_some(told)
    })
    .await;
    assert!(told.contains(&groups[0]), "{told}");
    // The platform gives back what it has lost.
    let osb = world.osb();
    for order in [&returned, &on_aws] {
        osb.give_back(order).await;
    }
    let moved = Order {
        plan: STANDARD_0.to_owned(),
        ..changed
    };
    osb.give_back(&moved).await;
    let (_, told) = examined(&world, &["--fix"]).await;
    assert_eq!(kinds(&told), ["Orphan"], "{told}");
    assert_eq!(
        world.sandbox.elasticache().unwrap().remaining().replication_groups,
        groups
    );
    world.stop().await;
}
