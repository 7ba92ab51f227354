//! The whole life of each cache that ElastiCache makes, beside the replication group of redis: valkey, a bare node of
//! redis, and memcached. What ElastiCache was asked, in which order, and what a client got.

use std::collections::BTreeSet;
use std::time::Duration;

use cache_broker::api::CacheInstance;
use serde_json::{Value, json};

use crate::backups::{back_up, has_no_backups};
use crate::cluster::{Place, provider_id, ready};
use crate::elasticache::{
    approve, ask, changes, fields, gone, host, move_to, operations, patch, pause, plan, resume, settled,
};
use crate::life::FAILOVER;
use crate::steady::{Cache, Steady};
use crate::world::{World, eventually, shared};

/// Ends a client's work, and says for how long it was refused.
async fn met(engine: &str, during: &str, client: Steady, most: Duration) {
    let tally = client.end().await;
    println!("{engine}, {during}: {tally}");
    assert!(tally.refused <= most, "{engine}, {during}: {tally}");
}

/// Restarts an instance, and waits for the end of that.
async fn restart(world: &World, place: &Place) -> CacheInstance {
    let when = jiff::Timestamp::now().to_string();
    patch(world, place, json!({ "restartAt": when })).await;
    eventually("the end of the restart", async || {
        let instance = world.instance(place).await?;
        let status = instance.status.as_ref()?;
        let done = status.restarted_at.is_some() && status.restart.is_none();
        (done && ready(&instance)?.reason == "Available").then_some(instance)
    })
    .await
}

/// The life of a cache that speaks the redis protocol: made, changed where it stands, restarted, backed up, filled from
/// its backup, and given back with a last snapshot.
async fn redis_like(engine: &str, version: &str, spec: Value, change: Value, create: &str, modify: &str) {
    let world = shared().await;
    let name = plan(world, engine, version, spec).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    let running = instance.status.as_ref().unwrap().engine.clone().unwrap();
    assert_eq!(running.type_.as_str(), engine);
    assert!(running.version.starts_with(version), "{running:?}");
    assert_eq!(ask(&address, "SET state before").await.unwrap(), "+OK");

    // Paused, it serves on, and ElastiCache is asked for nothing.
    let user = Cache::open(&address, true).use_steadily();
    pause(world, &place).await;
    let days = json!({ "properties": { "snapshotRetentionDays": { "type": "integer" } } });
    let edited = json!({ "elasticache": change, "parameters": days });
    let revision = world.edit(&name, &edited).await;
    let asked = json!({
        "planRef": { "name": name, "revision": revision }, "parameters": { "snapshotRetentionDays": 2 },
    });
    patch(world, &place, asked).await;
    let paused = ready(&world.until_reason(&place, "Paused").await).unwrap();
    assert_eq!(paused.status, "True");
    assert!(paused.message.contains("cache.akkeris.io/paused"), "{paused:?}");
    assert_eq!(operations(&changes(world, &id)), [create]);
    met(engine, "pause", user, Duration::ZERO).await;

    let user = Cache::open(&address, true).use_steadily();
    resume(world, &place).await;
    let instance = settled(world, &place, revision).await;
    met(engine, "change in place", user, FAILOVER).await;
    assert_eq!((provider_id(&instance), host(&instance)), (id.clone(), address.clone()));
    assert_eq!(ask(&address, "GET state").await.unwrap(), "before");

    let user = Cache::open(&address, true).use_steadily();
    restart(world, &place).await;
    met(engine, "restart", user, FAILOVER).await;
    let calls = changes(world, &id);
    assert_eq!(operations(&calls), [create, modify, modify, "RebootCacheCluster"]);
    let made = &calls[0].parameters;
    for (field, sent) in [
        ("Engine", engine),
        ("EngineVersion", version),
        ("CacheNodeType", "cache.t4g.micro"),
        ("CacheSubnetGroupName", "redis-subnets"),
        ("SecurityGroupIds.SecurityGroupId.1", "sg-0123456789abcdef0"),
    ] {
        assert_eq!(made.get(field).map(String::as_str), Some(sent), "{field}");
    }
    let changed: Vec<_> = calls[1..3].iter().flat_map(fields).collect();
    assert_eq!(changed, ["SnapshotRetentionLimit", "CacheNodeType"]);
    assert_eq!(calls[1].parameters["SnapshotRetentionLimit"], "2");

    // The engine's process began anew with the restart.
    eventually("an answer after the restart", async || {
        (ask(&address, "SET state before").await.ok()? == "+OK").then_some(())
    })
    .await;
    let backup = format!("{}-b", place.name);
    back_up(world, &place, &backup).await;
    assert_eq!(ask(&address, "SET state after").await.unwrap(), "+OK");
    let user = Cache::open(&address, true).use_steadily();
    patch(world, &place, json!({ "restore": { "backup": backup } })).await;
    let restored = eventually("the restored cache", async || {
        let instance = world.instance(&place).await?;
        let done = instance.status.as_ref()?.restored_from.as_ref() == Some(&backup);
        (done && ready(&instance)?.reason == "Available").then_some(instance)
    })
    .await;
    met(engine, "restore, at the old address", user, Duration::ZERO).await;
    assert_ne!(provider_id(&restored), id);
    assert_eq!(
        ask(&address, "GET state").await.unwrap(),
        "after",
        "the old one is kept for a while"
    );
    assert_eq!(ask(&host(&restored), "GET state").await.unwrap(), "before");

    patch(world, &place, json!({ "deletionPolicy": "Snapshot" })).await;
    let last = provider_id(&restored);
    gone(world, &place, &last).await;
    assert!(!world.exists_in_elasticache(&id));
    let snapshots = world.sandbox.elasticache().unwrap().remaining().snapshots;
    assert!(snapshots.contains(&format!("{last}-final")), "{snapshots:?}");
    world
        .kubectl(&["delete", "cbackup", "-n", &place.namespace, &backup, "--timeout=60s"])
        .await;
}

/// `redis-server` stands in for valkey, which has no package for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn valkey_in_a_group() {
    let micro = json!({ "nodeType": "cache.t4g.micro" });
    let large = json!({ "nodeType": "cache.m7g.large" });
    redis_like(
        "valkey",
        "8.0",
        micro,
        large,
        "CreateReplicationGroup",
        "ModifyReplicationGroup",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_node_of_redis() {
    let bare = |node_type: &str| json!({ "nodeType": node_type, "topology": "cacheCluster" });
    redis_like(
        "redis",
        "7.1",
        bare("cache.t4g.micro"),
        bare("cache.m7g.large"),
        "CreateCacheCluster",
        "ModifyCacheCluster",
    )
    .await;
}

/// A window that is not open now nor soon.
fn window_of_another_day() -> String {
    let day = jiff::Zoned::now().weekday().wrapping_add(3);
    let day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][usize::try_from(day.to_monday_zero_offset()).unwrap()];
    format!("{day}:01:00-{day}:02:00")
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_in_a_cluster_of_two() {
    let world = shared().await;
    let spec = json!({ "nodeType": "cache.t4g.micro", "nodes": 2, "maintenanceWindow": window_of_another_day() });
    let name = plan(world, "memcached", "1.6.17", spec).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    crate::caches::use_memcached(&host(&instance)).await;
    let made = &changes(world, &id)[0].parameters;
    for (field, sent) in [
        ("Engine", "memcached"),
        ("EngineVersion", "1.6.17"),
        ("NumCacheNodes", "2"),
        ("CacheSubnetGroupName", "memcached-subnets"),
        ("SecurityGroupIds.SecurityGroupId.1", "sg-0123456789abcdef0"),
    ] {
        assert_eq!(made.get(field).map(String::as_str), Some(sent), "{field}");
    }

    // Nodes may come at any time; another version begins cold.
    let user = Cache::open(&host(&instance), false).use_steadily();
    move_to(world, &place, &name, json!({ "nodes": 3 })).await;
    let grown = settled(world, &place, 2).await;
    assert_eq!(grown.status.as_ref().unwrap().nodes.len(), 3);
    world.edit(&name, &json!({ "engine": { "version": "1.6.22" } })).await;
    move_to(world, &place, &name, json!({ "nodeType": "cache.t4g.small" })).await;
    world.until_reason(&place, "AwaitingMaintenance").await;
    approve(world, &place).await;
    let changed = eventually("the new version", async || {
        let instance = world.instance(&place).await?;
        let version = &instance.status.as_ref()?.engine.as_ref()?.version;
        (version == "1.6.22" && ready(&instance)?.reason == "Available").then_some(instance)
    })
    .await;
    assert_eq!(provider_id(&changed), id);
    met("memcached", "change in place", user, FAILOVER).await;
    crate::caches::use_memcached(&host(&changed)).await;

    let user = Cache::open(&host(&changed), false).use_steadily();
    restart(world, &place).await;
    met("memcached", "restart", user, FAILOVER).await;
    let calls = changes(world, &id);
    assert_eq!(
        operations(&calls),
        [
            "CreateCacheCluster",
            "ModifyCacheCluster",
            "ModifyCacheCluster",
            "ModifyCacheCluster",
            "RebootCacheCluster",
            "RebootCacheCluster",
            "RebootCacheCluster",
        ]
    );
    let sent: Vec<_> = calls[1..4].iter().flat_map(|call| fields(call)).collect();
    assert_eq!(sent, ["NumCacheNodes", "EngineVersion", "CacheNodeType"]);
    let restarted: Vec<_> = calls[4..]
        .iter()
        .map(|call| {
            let named = call
                .parameters
                .iter()
                .find(|(name, _)| name.starts_with("CacheNodeIdsToReboot"));
            named.unwrap().1.as_str()
        })
        .collect();
    assert_eq!(restarted, ["0001", "0002", "0003"], "one after the other");
    crate::caches::use_memcached(&host(&changed)).await;
    has_no_backups(world, &place).await;

    // With a node goes what it holds: that waits for leave.
    let withdrawn = "cache.akkeris.io/approve-disruption-";
    world.annotate(&place, withdrawn).await;
    move_to(world, &place, &name, json!({ "nodes": 1 })).await;
    let waiting = world.until_reason(&place, "AwaitingMaintenance").await;
    let message = ready(&waiting).unwrap().message;
    assert!(message.contains("3 nodes and is asked to have 1"), "{message}");
    assert!(message.contains("approve-disruption"), "{message}");
    assert_eq!(changes(world, &id).len(), calls.len());
    approve(world, &place).await;
    let shrunk = settled(world, &place, 5).await;
    assert_eq!(shrunk.status.as_ref().unwrap().nodes[0].id, "0001");
    let calls = changes(world, &id).split_off(calls.len());
    assert_eq!(operations(&calls), ["ModifyCacheCluster"]);
    let removed: BTreeSet<_> = calls[0]
        .parameters
        .iter()
        .filter(|(name, _)| name.starts_with("CacheNodeIdsToRemove"))
        .map(|(_, id)| id.as_str())
        .collect();
    assert_eq!(removed, BTreeSet::from(["0002", "0003"]));
    gone(world, &place, &id).await;
}
