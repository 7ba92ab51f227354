//! What ElastiCache refuses and the states it refuses in, each once; and input that can never work. An instance that
//! served goes on serving, says what is wrong and what to change, and tells it in an Event.

use std::time::Duration;

use sandbox::elasticache::{Fault, FaultKind};
use serde_json::json;

use crate::backups::back_up;
use crate::cluster::{Place, provider_id};
use crate::elasticache::{
    ask, changes, creations, gone, host, move_to, move_to_revision, operations, patch, paused, plan, redis_plan,
    resume, settled, stalled, strike,
};
use crate::steady::Cache;
use crate::world::{World, eventually, shared};

const CREATE: &str = "CreateReplicationGroup";
const DELETE: &str = "DeleteReplicationGroup";

fn refusal(code: &str) -> Fault {
    Fault::new(FaultKind::Refuse {
        code: code.to_owned(),
        message: format!("Not now, says {code}."),
        status: None,
    })
}

fn outcomes(world: &World, operation: &str, id: &str) -> Vec<String> {
    let calls = world.calls(operation, id);
    calls.into_iter().map(|call| call.outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_through_every_state_that_refuses_it_and_through_refusals() {
    let world = shared().await;
    let aws = world.sandbox.elasticache().unwrap();
    let name = redis_plan(world, json!({})).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let id = provider_id(&world.until_ready(&place).await);
    assert!(aws.force_status(&id, "snapshotting"));
    world.delete(&place).await;
    for (status, says) in [
        ("snapshotting", "is busy"),
        ("hibernating", "the status \"hibernating\""),
        ("modifying", "is busy"),
        ("defrosting", "the status \"defrosting\""),
        ("rebooting cluster nodes", "is busy"),
        ("thinking", "the status \"thinking\""),
        ("creating", "is busy"),
    ] {
        assert!(aws.force_status(&id, status));
        world
            .until(&place, status, |ready| {
                ready.reason == "Deleting" && ready.message.contains(says)
            })
            .await;
    }
    // When it was asked to go, the broker had last seen it at rest.
    let early = outcomes(world, DELETE, &id);
    assert!(early.len() <= 1 && !early.contains(&"ok".to_owned()), "{early:?}");
    // The API may know better than what it shows, and have no room for what is asked.
    for code in ["InvalidReplicationGroupState", "SnapshotQuotaExceededFault"] {
        strike(world, refusal(code).times(1), DELETE, &id);
    }
    assert!(aws.force_status(&id, "available"));
    world.until_nothing_is_left(&place, Some(&id)).await;
    assert_eq!(
        outcomes(world, DELETE, &id)[early.len()..],
        ["InvalidReplicationGroupState", "SnapshotQuotaExceededFault", "ok"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_refuses_to_go_is_asked_again() {
    let world = shared().await;
    let name = plan(world, "memcached", "1.6.22", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let id = provider_id(&world.until_ready(&place).await);
    strike(
        world,
        refusal("InvalidCacheClusterState").times(2),
        "DeleteCacheCluster",
        &id,
    );
    // The states that a cluster has and a group has not; the last one heals by nothing, and refuses no deletion.
    let aws = world.sandbox.elasticache().unwrap();
    assert!(aws.force_status(&id, "modifying"));
    world.delete(&place).await;
    for status in ["rebooting cluster nodes", "snapshotting", "creating"] {
        assert!(aws.force_status(&id, status));
        world
            .until(&place, status, |ready| {
                ready.reason == "Deleting" && ready.message.contains("is busy")
            })
            .await;
    }
    assert!(aws.force_status(&id, "incompatible-network"));
    world.until_nothing_is_left(&place, Some(&id)).await;
    assert_eq!(
        outcomes(world, "DeleteCacheCluster", &id),
        ["InvalidCacheClusterState", "InvalidCacheClusterState", "ok"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_answer_404_are_no_sign_that_a_cache_is_gone() {
    let world = shared().await;
    let name = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &name).await;
    let arn = format!("arn:aws:elasticache:us-west-2:000000000000:replicationgroup:{id}");
    let hidden = || Fault::new(FaultKind::TagsNotFound);
    strike(world, hidden(), "ListTagsForResource", &arn);
    strike(world, hidden(), "AddTagsToResource", &arn);
    resume(world, &place).await;
    let instance = world.until_ready(&place).await;
    assert_eq!(instance.status.unwrap().provider_arn, None, "nothing was proven");
    assert_eq!(outcomes(world, "ListTagsForResource", &arn)[0], "CacheClusterNotFound");
    // Its id follows from the instance: that is proof enough to delete it.
    gone(world, &place, &id).await;
    assert_eq!(outcomes(world, DELETE, &id), ["ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_turns_out_to_be_none_is_no_error() {
    let world = shared().await;
    let name = redis_plan(world, json!({})).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let id = provider_id(&world.until_ready(&place).await);
    strike(world, refusal("NoOperationFault").times(1), "IncreaseReplicaCount", &id);
    move_to(world, &place, &name, json!({ "replicas": 1 })).await;
    let instance = settled(world, &place, 2).await;
    assert_eq!(instance.status.as_ref().unwrap().nodes.len(), 2);
    assert_eq!(outcomes(world, "IncreaseReplicaCount", &id), ["NoOperationFault", "ok"]);
    // A group shows available before its members do: no call came too early.
    let calls = world.sandbox.elasticache().unwrap().calls();
    let early = calls
        .iter()
        .filter(|call| call.parameters.values().any(|value| *value == id))
        .filter(|call| call.outcome == "InvalidReplicationGroupState");
    assert_eq!(early.count(), 0);
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_whose_answer_is_lost_leaves_one_snapshot() {
    let world = shared().await;
    let name = redis_plan(world, json!({})).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let id = provider_id(&world.until_ready(&place).await);
    patch(world, &place, json!({ "deletionPolicy": "Snapshot" })).await;
    let lost = Fault::new(FaultKind::LostAnswer).times(1);
    strike(world, lost, DELETE, &id);
    strike(world, refusal("SnapshotAlreadyExistsFault").times(1), DELETE, &id);
    gone(world, &place, &id).await;
    let snapshots = world.sandbox.elasticache().unwrap().remaining().snapshots;
    let left: Vec<_> = snapshots.iter().filter(|name| name.starts_with(&id)).collect();
    assert_eq!(left, [&format!("{id}-final")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_waited_for() {
    let world = shared().await;
    let name = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &name).await;
    // Each quota that a create may meet with, one after the other.
    let quotas = [
        "NodeQuotaForCustomerExceeded",
        "ClusterQuotaForCustomerExceeded",
        "NodeGroupsPerReplicationGroupQuotaExceeded",
    ];
    for quota in quotas {
        strike(world, refusal(quota).times(1), CREATE, &id);
    }
    resume(world, &place).await;
    world.until_ready(&place).await;
    assert_eq!(outcomes(world, CREATE, &id), [&quotas[..], &["ok"]].concat());
    let told = world.events(&place, "ProviderUnavailable").await;
    let warned = |(kind, note): &(String, String)| kind == "Warning" && quotas.iter().any(|quota| note.contains(quota));
    assert!(told.iter().any(warned), "{told:?}");
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_call_may_be_throttled_all_through_a_life() {
    let world = shared().await;
    let name = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &name).await;
    let aws = world.sandbox.elasticache().unwrap();
    aws.faults().add(Fault::new(FaultKind::Throttle).of(&id).fraction(0.5));
    resume(world, &place).await;
    world.until_ready(&place).await;
    move_to(
        world,
        &place,
        &name,
        json!({ "replicas": 1, "nodeType": "cache.m7g.large" }),
    )
    .await;
    settled(world, &place, 2).await;
    gone(world, &place, &id).await;
    assert_eq!(
        creations(world, &id).iter().filter(|outcome| *outcome == "ok").count(),
        1
    );
    assert!(creations(world, &id).len() + outcomes(world, DELETE, &id).len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_says_what_to_change_before_anything_is_made() {
    let world = shared().await;
    let micro = || json!({ "nodeType": "cache.t4g.micro" });
    let family = json!({ "nodeType": "cache.t4g.micro", "parameterGroup": "default.redis6.x" });
    for (plan, parameters, reason, says) in [
        (
            plan(world, "redis", "7.1", family).await,
            json!({}),
            "ProviderRefused",
            "parameter group of family redis7",
        ),
        (
            plan(world, "redis", "99.9", micro()).await,
            json!({}),
            "ProviderRefused",
            "Cannot find version 99.9",
        ),
        (
            plan(world, "redis", "7.1", micro()).await,
            json!({ "colour": "red" }),
            "ParametersInvalid",
            "correct spec.parameters",
        ),
    ] {
        let place = Place::new("redis-system", &format!("e2e-{}", uuid::Uuid::new_v4().simple()));
        world
            .apply(&json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                "metadata": { "name": place.name, "namespace": place.namespace },
                "spec": { "planRef": { "name": plan }, "parameters": parameters },
            }))
            .await;
        let message = stalled(world, &place, reason).await;
        assert!(message.contains(says), "{message}");
        world.delete(&place).await;
        world.until_nothing_is_left(&place, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_asked_to_become_what_cannot_be_goes_on_serving() {
    let world = shared().await;
    let base = json!({ "nodeType": "cache.t4g.micro" });
    let name = plan(world, "redis", "7.0", base.clone()).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    assert_eq!(ask(&address, "SET kept yes").await.unwrap(), "+OK");
    let serves = async || {
        let instance = world.instance(&place).await.unwrap();
        assert_eq!(host(&instance), address);
        assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    };
    let user = Cache::open(&address, true).use_steadily();
    for (change, says) in [
        (
            json!({ "elasticache": { "nodeType": "cache.t9.huge" } }),
            "cache.t9.huge",
        ),
        (
            json!({ "elasticache": { "parameterGroup": "default.redis6.x" } }),
            "family",
        ),
        (json!({ "engine": { "version": "99.9" } }), "Cannot find version 99.9"),
    ] {
        move_to_revision(world, &place, world.edit(&name, &change).await).await;
        let message = stalled(world, &place, "ProviderRefused").await;
        assert!(
            message.contains(says) && message.contains("change the plan or the instance"),
            "{message}"
        );
        warned(world, &place, "ProviderRefused", says).await;
        serves().await;
        let back = json!({
            "engine": { "version": "7.0" },
            "elasticache": { "nodeType": "cache.t4g.micro", "parameterGroup": null },
        });
        move_to_revision(world, &place, world.edit(&name, &back).await).await;
        world.until_reason(&place, "Available").await;
    }
    for mistake in ["colour", "shape"] {
        patch(world, &place, json!({ "parameters": null })).await;
        patch(world, &place, json!({ "parameters": { mistake: "red" } })).await;
        warned(world, &place, "ParametersInvalid", mistake).await;
    }
    stalled(world, &place, "ParametersInvalid").await;
    serves().await;
    patch(world, &place, json!({ "parameters": null })).await;
    world.until_reason(&place, "Available").await;

    // In the cluster it would begin empty.
    let engine = json!({ "type": "redis", "version": "8.2" });
    let elsewhere = world.plan(engine, "kubernetes", json!({ "memory": "64Mi" })).await;
    patch(world, &place, json!({ "planRef": { "name": elsewhere } })).await;
    let message = stalled(world, &place, "PlanMismatch").await;
    assert!(
        message.contains("which is by kubernetes, without losing its data: put spec.planRef back"),
        "{message}"
    );
    serves().await;
    patch(world, &place, json!({ "planRef": { "name": name } })).await;
    world.until_reason(&place, "Available").await;
    assert_eq!(operations(&changes(world, &id)), ["CreateReplicationGroup"]);
    let met = user.end().await;
    assert_eq!(met.refused, Duration::ZERO, "{met}");

    // A snapshot of another engine.
    let valkey = plan(world, "valkey", "8.0", base).await;
    let other = world.order_by_yaml(&valkey, json!({})).await;
    let other_id = provider_id(&world.until_ready(&other).await);
    let backup = format!("{}-v", other.name);
    back_up(world, &other, &backup).await;
    patch(world, &place, json!({ "restore": { "backup": backup } })).await;
    let message = stalled(world, &place, "BackupMismatch").await;
    assert!(
        message.contains("valkey") && message.contains("spec.restore"),
        "{message}"
    );
    serves().await;
    patch(world, &place, json!({ "restore": null })).await;
    world.until_reason(&place, "Available").await;
    world
        .kubectl(&["delete", "cbackup", "-n", &place.namespace, &backup, "--timeout=60s"])
        .await;
    gone(world, &other, &other_id).await;
    gone(world, &place, &id).await;
}

/// Waits for a warning of this reason that says this: also if it is not the first of its reason.
async fn warned(world: &World, place: &Place, reason: &str, says: &str) {
    eventually(&format!("the warning of {says}"), async || {
        let told = world.events(place, reason).await;
        let is_it = |(kind, note): &(String, String)| kind == "Warning" && note.contains(says);
        told.iter().any(is_it).then_some(())
    })
    .await;
}

/// A cache that is wanted with a status nobody knows: said, with a Warning, and got over.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_not_known_is_waited_out() {
    let world = shared().await;
    let aws = world.sandbox.elasticache().unwrap();
    let name = redis_plan(world, json!({})).await;
    world.edit(&name, &json!({ "operationDeadline": "4s" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let id = provider_id(&world.until_ready(&place).await);
    // Something is in flight, so it is looked at: calls that add replicas are refused meanwhile.
    strike(
        world,
        refusal("InsufficientCacheClusterCapacity").times(4),
        "IncreaseReplicaCount",
        &id,
    );
    move_to(world, &place, &name, json!({ "replicas": 1 })).await;
    world.until_reason(&place, "ProviderUnavailable").await;
    assert!(aws.force_status(&id, "pondering"));
    // Longer than an operation may take is too long: somebody is to look, and it is looked at on.
    let message = stalled(world, &place, "ProviderStateOverdue").await;
    assert!(world.instance(&place).await.unwrap().status.unwrap().endpoint.is_some());
    let told = world.events(&place, "ProviderStateUnknown").await;
    let warned = |(kind, note): &(String, String)| kind == "Warning" && note.contains("pondering");
    assert!(told.iter().any(warned), "{told:?}");
    assert!(
        message.contains("pondering") && message.contains("AWS console"),
        "{message}"
    );
    assert!(aws.force_status(&id, "available"));
    let instance = settled(world, &place, 3).await;
    assert_eq!(instance.status.unwrap().unknown_since, None);
    gone(world, &place, &id).await;
}
