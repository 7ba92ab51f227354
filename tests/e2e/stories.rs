//! What a platform does, from the order to the end, for each engine and place.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::future::join_all;
use http::StatusCode;
use sandbox::elasticache::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::caches::{redis_without_password, use_credentials};
use crate::cluster::provider_id;
use crate::elasticache::tags;
use crate::osb::{
    MEMCACHED, MEMCACHED_IN_CLUSTER, MEMCACHED_ON_AWS, Order, REDIS, REDIS_IN_CLUSTER, REDIS_ON_AWS, Reply,
};
use crate::receiver::{Received, Receiver};
use crate::secured::offered;
use crate::world::{World, shared};

const SECRET: &str = "a-secret-of-the-platform";

/// Checks a webhook's signature and what it says.
fn verify(received: &Received, order: &Order, kind: &str, operation: &str) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = BASE64_STANDARD.decode(&received.headers["x-osb-signature"]).unwrap();
    hmac::verify(&key, received.text.as_bytes(), &signature).unwrap();
    let body = received.body();
    assert_eq!(
        (&body["state"], &body["kind"], &body["instance_id"], &body["operation"]),
        (&json!("succeeded"), &json!(kind), &json!(order.id), &json!(operation)),
        "{body}"
    );
    assert!(!body["description"].as_str().unwrap().is_empty());
    assert!(body["id"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
}

/// Orders, uses and gives back a cache; returns the credentials that were handed out.
async fn live(world: &World, service: &'static str, plan: &str) -> Value {
    let osb = world.osb();
    let mut hook = Receiver::start([]).await;
    let order = Order::new(service, plan).webhook(&hook.url, SECRET);

    let catalog = osb.get("/v2/catalog").await;
    let offered = catalog.body["services"].as_array().unwrap().iter().any(|offered| {
        let mut plans = offered["plans"].as_array().unwrap().iter();
        offered["id"] == json!(service) && plans.any(|offered| offered["id"] == json!(plan))
    });
    assert!(offered, "{catalog:?}");

    let operation = osb.provision(&order).await.operation();
    assert_eq!(osb.bind(&order, "early").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(osb.ended(&order, &operation).await.0, "succeeded");
    verify(&hook.next().await, &order, "provision", &operation);
    assert_eq!(osb.provision(&order).await.status, StatusCode::OK);
    let place = world.place(&order).await;
    let instance = world.instance(&place).await.unwrap();
    let provider_id = provider_id(&instance);

    let bound = osb.bind(&order, "binding").await;
    assert_eq!(bound.status, StatusCode::CREATED, "{bound:?}");
    let told = hook.next().await.body();
    assert_eq!((&told["kind"], &told["state"]), (&json!("bind"), &json!("succeeded")));
    let credentials = bound.body["credentials"].clone();
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    use_credentials(&credentials, ca_file).await;
    if credentials["password"].is_string() {
        let uri = credentials["REDIS_URL"].as_str().unwrap();
        let refusal = redis_without_password(uri, ca_file).await;
        assert!(refusal.starts_with("NOAUTH"), "{refusal}");
    }
    for action in ["stats", "flush"] {
        let done = osb.act(&order, action).await;
        assert_eq!(done.status, StatusCode::OK, "{action}: {done:?}");
    }
    let fetched = osb.fetch_binding(&order, "binding").await;
    assert_eq!(
        (fetched.status, &fetched.body["credentials"]),
        (StatusCode::OK, &credentials)
    );
    if plan != REDIS_ON_AWS {
        let refused = osb.act(&order, "backups").await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        let description = refused.body["description"].as_str().unwrap();
        let says = "has no backups: only redis and valkey on ElastiCache have";
        assert!(description.contains(says), "{description}");
    }

    assert_eq!(osb.unbind(&order, "binding").await.status, StatusCode::OK);
    assert_eq!(osb.fetch_binding(&order, "binding").await.status, StatusCode::NOT_FOUND);
    let operation = osb.deprovision(&order).await.operation();
    assert_eq!(osb.ended(&order, &operation).await.0, "gone");
    verify(&hook.next().await, &order, "deprovision", &operation);

    world.until_nothing_is_left(&place, Some(&provider_id)).await;
    let tombstones = "select count(*) from instances where id = $1 and deleted_at is not null";
    assert_eq!(world.count(tombstones, &order).await, 1);
    let open = "select count(*) from operations where instance_id = $1 and state = 'in_progress'";
    assert_eq!(world.count(open, &order).await, 0);
    hook.silent(Duration::ZERO).await;
    credentials
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_in_the_cluster() {
    let credentials = live(shared().await, MEMCACHED, MEMCACHED_IN_CLUSTER).await;
    assert_eq!(credentials["port"], json!(11211));
    assert!(credentials.get("password").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_in_the_cluster() {
    let credentials = live(shared().await, REDIS, REDIS_IN_CLUSTER).await;
    assert!(credentials["password"].as_str().unwrap().len() >= 16);
    assert!(credentials["REDIS_URL"].as_str().unwrap().starts_with("redis://"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_on_elasticache() {
    let world = shared().await;
    let credentials = live(world, REDIS, REDIS_ON_AWS).await;
    assert!(credentials["REDIS_URL"].as_str().unwrap().starts_with("rediss://"));
    let password = credentials["password"].as_str().unwrap();
    // The password is as good as an id: it tells which group this was.
    let created = world.calls("CreateReplicationGroup", password);
    assert_eq!(created.len(), 1, "asked for once");
    assert_eq!(created[0].parameters["AuthToken"], password);
    assert_eq!(created[0].parameters["TransitEncryptionEnabled"], "true");
    let id = &created[0].parameters["ReplicationGroupId"];
    assert_eq!(world.calls("DeleteReplicationGroup", id).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_on_elasticache() {
    let credentials = live(shared().await, MEMCACHED, MEMCACHED_ON_AWS).await;
    assert!(credentials["MEMCACHED_URL"].as_str().unwrap().ends_with(":11211"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_orders_of_one_id_make_one_cache() {
    let world = shared().await;
    let osb = world.osb();
    let order = Order::new(MEMCACHED, MEMCACHED_ON_AWS);
    let replies = join_all((0..32).map(|_| osb.provision(&order))).await;
    let operations: BTreeSet<_> = replies.iter().map(Reply::operation).collect();
    assert_eq!(operations.len(), 1, "{operations:?}");
    assert_eq!(osb.ended(&order, operations.first().unwrap()).await.0, "succeeded");

    let all = world
        .instances("memcached-system")
        .await
        .list(&kube::api::ListParams::default())
        .await
        .unwrap();
    let of_order = all
        .items
        .iter()
        .filter(|instance| instance.annotation(cache_broker::api::annotations::INSTANCE_ID) == Some(order.id.as_str()));
    let ids: Vec<_> = of_order.map(provider_id).collect();
    assert_eq!(ids.len(), 1);
    let created = world.calls("CreateCacheCluster", &ids[0]);
    assert_eq!(created.len(), 1);
    let tags = tags(&created[0]);
    for (key, value) in [("organization", "org"), ("space", "space"), ("instance-name", "cache")] {
        let tag = format!("cache.akkeris.io/{key}");
        assert_eq!(tags.get(tag.as_str()), Some(&value), "{tags:?}");
    }
    assert_eq!(
        world
            .count("select count(*) from operations where instance_id = $1", &order)
            .await,
        1
    );

    let place = world.place(&order).await;
    osb.give_back(&order).await;
    world.until_nothing_is_left(&place, Some(&ids[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_back_what_is_still_being_made_leaves_nothing() {
    let world = shared().await;
    let osb = world.osb();
    for (service, plan) in [
        (MEMCACHED, MEMCACHED_IN_CLUSTER),
        (REDIS, REDIS_IN_CLUSTER),
        (MEMCACHED, MEMCACHED_ON_AWS),
        (REDIS, REDIS_ON_AWS),
    ] {
        let mut hook = Receiver::start([]).await;
        let order = Order::new(service, plan).webhook(&hook.url, SECRET);
        let provision = osb.provision(&order).await.operation();
        let deprovision = osb.deprovision(&order).await.operation();
        assert_eq!(osb.ended(&order, &deprovision).await.0, "gone");
        assert_eq!(osb.ended(&order, &provision).await.0, "failed");
        let told = [hook.next().await.body(), hook.next().await.body()]
            .map(|body| (body["kind"].clone(), body["state"].clone()));
        assert_eq!(
            told,
            [
                (json!("provision"), json!("failed")),
                (json!("deprovision"), json!("succeeded"))
            ]
        );
        let place = world.place(&order).await;
        world.until_nothing_is_left(&place, None).await;
    }
}

/// An operation ends before the platform gives up polling it, and what the provider goes on with is not left behind.
#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_its_deadline_fails_and_leaves_nothing_once_it_is_given_back() {
    let world = shared().await;
    let osb = world.osb();
    // No other plan has this window: by it ElastiCache knows whom it has no room for.
    let window = "03:17-04:17";
    let name = format!("late-{}", uuid::Uuid::new_v4().simple());
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": name },
            "spec": {
                "service": "akkeris-redis", "id": name, "description": "Of a test.", "operationDeadline": "4s",
                "engine": { "type": "redis", "version": "7.1" },
                "elasticache": { "nodeType": "cache.t4g.micro", "snapshotRetentionDays": 1, "snapshotWindow": window },
            },
        }))
        .await;
    offered(world, &[&name]).await;
    let crowded = Fault::new(FaultKind::Capacity).on("CreateReplicationGroup").of(window);
    world.sandbox.elasticache().unwrap().faults().add(crowded);
    let order = Order::new(REDIS, &name);
    let operation = osb.provision(&order).await.operation();
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "failed");
    assert!(!description.is_empty());
    let place = world.place(&order).await;
    let id = provider_id(&world.instance(&place).await.unwrap());
    assert!(!world.calls("CreateReplicationGroup", &id).is_empty());
    let refused = osb.bind(&order, "b").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!refused.body["description"].as_str().unwrap().is_empty());
    let operation = osb.deprovision(&order).await.operation();
    assert_eq!(osb.ended(&order, &operation).await.0, "gone");
    world.until_nothing_is_left(&place, Some(&id)).await;
}
