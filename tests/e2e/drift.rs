//! What somebody else does to caches on ElastiCache is seen at the resync: put back, or reported where it cannot be.

use cache_broker::api::CacheInstance;
use sandbox::elasticache::Call;
use serde_json::json;

use crate::cluster::{Place, provider_id, ready};
use crate::elasticache::{ask, changes, client, gone, host, plan};
use crate::world::{World, eventually};

async fn made(world: &World, engine: &str, version: &str, spec: serde_json::Value) -> (Place, CacheInstance) {
    let name = plan(world, engine, version, spec).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    (place, instance)
}

fn last(calls: &[Call], operation: &str) -> Option<Call> {
    calls.iter().rev().find(|call| call.operation == operation).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_is_put_back_or_reported() {
    let own = World::start(&[("RESYNC_SECONDS", "10")]).await;
    let world = &own;
    let aws = client(world);
    let redis = json!({ "nodeType": "cache.t4g.micro", "snapshotRetentionDays": 3 });
    let memcached = json!({ "nodeType": "cache.t4g.micro", "nodes": 2 });
    let (kept, upgraded, pending, lost, unknown) = tokio::join!(
        made(world, "redis", "7.0", redis.clone()),
        made(world, "redis", "7.0", redis.clone()),
        made(world, "memcached", "1.6.22", memcached),
        made(world, "redis", "7.0", redis.clone()),
        made(world, "redis", "7.0", redis),
    );

    // All at once, so that one resync sees it all.
    let id = |made: &(Place, CacheInstance)| provider_id(&made.1);
    let modify = |id: String| {
        aws.modify_replication_group()
            .replication_group_id(id)
            .apply_immediately(true)
    };
    let outside = |id: String| {
        changes(world, &id)
            .into_iter()
            .filter(|call| call.operation.starts_with("Modify"))
            .count()
    };
    modify(id(&kept)).snapshot_retention_limit(9).send().await.unwrap();
    modify(id(&upgraded)).engine_version("7.1").send().await.unwrap();
    aws.modify_cache_cluster()
        .cache_cluster_id(id(&pending))
        .num_cache_nodes(3)
        .apply_immediately(false)
        .send()
        .await
        .unwrap();
    aws.delete_replication_group()
        .replication_group_id(id(&lost))
        .send()
        .await
        .unwrap();
    assert!(
        world
            .sandbox
            .elasticache()
            .unwrap()
            .force_status(&id(&unknown), "pondering")
    );

    eventually("the setting that is put back", async || {
        let call = last(&changes(world, &id(&kept)), "ModifyReplicationGroup")?;
        (call.parameters.get("SnapshotRetentionLimit")? == "3").then_some(())
    })
    .await;
    // What waits for ElastiCache's own window counts as done, and is taken back without losing a node.
    eventually("the nodes that are taken back", async || {
        let call = last(&changes(world, &id(&pending)), "ModifyCacheCluster")?;
        let none = !call
            .parameters
            .keys()
            .any(|name| name.starts_with("CacheNodeIdsToRemove"));
        (none && call.parameters.get("NumCacheNodes")? == "2").then_some(())
    })
    .await;
    let reported = world.until_reason(&upgraded.0, "PlanMismatch").await;
    assert!(ready(&reported).unwrap().message.contains("7.1"), "{reported:?}");
    assert_eq!(ask(&host(&upgraded.1), "PING").await.unwrap(), "+PONG");
    assert_eq!(outside(id(&upgraded)), 1, "there is no way back");

    let missing = world.until_reason(&lost.0, "ProviderResourceMissing").await;
    let message = ready(&missing).unwrap().message;
    assert!(message.contains("cache.akkeris.io/recreate"), "{message}");
    assert!(!world.events(&lost.0, "ProviderResourceMissing").await.is_empty());
    assert!(
        !world.exists_in_elasticache(&id(&lost)),
        "it is not made again by itself"
    );
    let annotation = "cache.akkeris.io/recreate=true";
    world.annotate(&lost.0, annotation).await;
    let anew = world.until_ready(&lost.0).await;
    assert_ne!(provider_id(&anew), id(&lost));
    assert_eq!(ask(&host(&anew), "PING").await.unwrap(), "+PONG");

    let pondering = world.until_reason(&unknown.0, "ProviderStateUnknown").await;
    assert!(ready(&pondering).unwrap().message.contains("pondering"));
    assert!(
        world
            .sandbox
            .elasticache()
            .unwrap()
            .force_status(&id(&unknown), "available")
    );
    world.until_ready(&unknown.0).await;
    for each in [&kept.0, &pending.0] {
        world.until_reason(each, "Available").await;
    }
    tokio::join!(
        gone(world, &lost.0, ""),
        gone(world, &upgraded.0, ""),
        gone(world, &pending.0, "")
    );
    assert!(!world.exists_in_elasticache(&provider_id(&anew)));
    own.stop().await;
}
