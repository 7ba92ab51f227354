//! Backups of caches on ElastiCache: taken, restored beside what serves, and left behind at the end.

use std::time::Duration;

use cache_broker::api::{CacheBackup, conditions};
use cache_broker::provider::elasticache::provider_id as derived_id;
use kube::Api;
use sandbox::elasticache::{Fault, FaultKind};
use serde_json::json;

use crate::cluster::{Place, provider_id, ready};
use crate::elasticache::{ask, gone, host, patch, plan, strike};
use crate::steady::Cache;
use crate::world::{World, eventually, shared};

async fn backups(world: &World, place: &Place) -> Api<CacheBackup> {
    Api::namespaced(world.kube().await, &place.namespace)
}

async fn ask_for_backup(world: &World, place: &Place, name: &str) {
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheBackup",
            "metadata": { "name": name, "namespace": place.namespace },
            "spec": { "instanceRef": { "name": place.name } },
        }))
        .await;
}

/// Asks for a backup of an instance that can have none, and is told so.
pub async fn has_no_backups(world: &World, place: &Place) {
    let name = format!("{}-none", place.name);
    ask_for_backup(world, place, &name).await;
    let api = backups(world, place).await;
    let message = eventually("a refusal of the backup", async || {
        let conditions = api.get(&name).await.unwrap().status?.conditions;
        let stalled = conditions::find(&conditions, "Stalled")?;
        let refused = stalled.status == "True" && stalled.reason == "Unsupported";
        refused.then(|| stalled.message.clone())
    })
    .await;
    assert!(
        message.contains("only redis and valkey on ElastiCache have; delete this backup"),
        "{message}"
    );
    let warning = ("Warning".to_owned(), message);
    eventually("an Event of that", async || {
        let told = world.events(&Place::new(&place.namespace, &name), "Unsupported").await;
        told.contains(&warning).then_some(())
    })
    .await;
    world
        .kubectl(&["delete", "cbackup", "-n", &place.namespace, &name, "--timeout=60s"])
        .await;
}

pub async fn back_up(world: &World, place: &Place, name: &str) -> CacheBackup {
    ask_for_backup(world, place, name).await;
    let api = backups(world, place).await;
    eventually("a backup", async || {
        let backup = api.get(name).await.unwrap();
        let conditions = &backup.status.as_ref()?.conditions;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "True").then_some(backup)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_fills_the_same_instance_again_and_another_one_while_the_old_cache_serves() {
    let world = shared().await;
    let name = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET state before").await.unwrap();
    let backup_name = format!("{}-noon", place.name);
    let backup = back_up(world, &place, &backup_name).await;
    let status = backup.status.unwrap();
    assert_eq!(
        (status.source.as_deref(), status.version.as_deref()),
        (Some(id.as_str()), Some("7.1.0"))
    );
    assert!(status.size.is_some() && status.completed_at.is_some());
    eventually("the latest backup in the instance's status", async || {
        let instance = world.instance(&place).await?;
        (instance.status?.last_backup?.name == backup_name).then_some(())
    })
    .await;
    ask(&address, "SET state after").await.unwrap();

    // One that fails leaves the live one serving.
    let client = Cache::open(&address, true).use_steadily();
    let next = derived_id("sandbox", instance.metadata.uid.as_deref().unwrap(), 1);
    let fault = FaultKind::CreateFailed {
        status: None,
        message: Some("The snapshot is damaged.".to_owned()),
    };
    strike(world, Fault::new(fault).times(1), "CreateReplicationGroup", &next);
    patch(world, &place, json!({ "restore": { "backup": backup_name } })).await;
    let failed = world
        .until(&place, "the failure", |ready| {
            ready.message.contains("The snapshot is damaged.")
        })
        .await;
    assert_eq!(host(&failed), address);
    assert!(!world.events(&place, "Restoring").await.is_empty());
    patch(world, &place, json!({ "restore": null })).await;
    let instance = world.until_reason(&place, "Available").await;
    assert_eq!(provider_id(&instance), id);
    assert!(!world.exists_in_elasticache(&next), "the failed one is left behind");
    assert_eq!(ask(&address, "GET state").await.unwrap(), "after");

    patch(world, &place, json!({ "restore": { "backup": backup_name } })).await;
    let api = world.instances(&place.namespace).await;
    let restored = eventually("the restored cache", async || {
        let instance = api.get(&place.name).await.unwrap();
        let status = instance.status.as_ref()?;
        let done = status.restored_from.as_ref() == Some(&backup_name) && !status.superseded.is_empty();
        (done && ready(&instance)?.reason == "Available").then_some(instance)
    })
    .await;
    assert_ne!(provider_id(&restored), id);
    assert_eq!(ask(&host(&restored), "GET state").await.unwrap(), "before");
    assert!(world.exists_in_elasticache(&id), "kept for those who still use it");
    let met = client.end().await;
    println!("a restore, at the old address: {met}");
    assert_eq!(met.refused, Duration::ZERO, "the old cache serves on");
    let secret = format!("{}-connection", place.name);
    let port = world
        .kubectl(&[
            "get",
            "secret",
            "-n",
            &place.namespace,
            &secret,
            "-o",
            "jsonpath={.data.uri}",
        ])
        .await;
    let uri = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, port).unwrap();
    assert!(String::from_utf8(uri).unwrap().ends_with(&host(&restored)));
    let annotation = "cache.akkeris.io/release-superseded=true";
    world.annotate(&place, annotation).await;
    eventually("the end of the old cache", async || {
        (!world.exists_in_elasticache(&id)).then_some(())
    })
    .await;

    // Another instance begins with the same data.
    let other = Place::new(
        &place.namespace,
        &format!("{}-b", &place.name[..40.min(place.name.len())]),
    );
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": other.name, "namespace": other.namespace },
            "spec": { "planRef": { "name": name }, "restore": { "backup": backup_name } },
        }))
        .await;
    let copy = world.until_ready(&other).await;
    assert_eq!(ask(&host(&copy), "GET state").await.unwrap(), "before");
    gone(world, &other, &provider_id(&copy)).await;
    gone(world, &place, &provider_id(&restored)).await;
    world
        .kubectl(&[
            "delete",
            "cbackup",
            "-n",
            &place.namespace,
            &backup_name,
            "--timeout=60s",
        ])
        .await;
    let snapshot = status.snapshot.unwrap();
    assert!(
        !world
            .sandbox
            .elasticache()
            .unwrap()
            .remaining()
            .snapshots
            .contains(&snapshot)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_snapshot_is_left_with_a_record_of_it() {
    let world = shared().await;
    let name = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    patch(world, &place, json!({ "deletionPolicy": "Snapshot" })).await;
    gone(world, &place, &id).await;
    let api = backups(world, &place).await;
    let found = eventually("the record of the final snapshot", async || {
        let all = api.list(&kube::api::ListParams::default()).await.unwrap();
        all.items.into_iter().find(|backup| {
            backup.spec.instance_ref.name == place.name
                && backup.status.as_ref().is_some_and(|status| {
                    status
                        .conditions
                        .iter()
                        .any(|c| c.type_ == "Ready" && c.status == "True")
                })
        })
    })
    .await;
    assert_eq!(found.spec.snapshot, Some(format!("{id}-final")));
    let left = || world.sandbox.elasticache().unwrap().remaining().snapshots;
    assert!(left().contains(&format!("{id}-final")));
    let backup = found.metadata.name.unwrap();
    world
        .kubectl(&["delete", "cbackup", "-n", &place.namespace, &backup, "--timeout=60s"])
        .await;
    assert!(
        left().contains(&format!("{id}-final")),
        "a final snapshot outlives its record"
    );
}
