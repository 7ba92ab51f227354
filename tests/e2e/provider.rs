//! What ElastiCache refuses, does late, or does without saying so; and what the conditions make of it.

use cache_broker::provider::elasticache::OWNER_TAG;
use sandbox::elasticache::{Fault, FaultKind};
use serde_json::json;

use crate::cluster::{provider_id, ready};
use crate::elasticache::{client, creations, gone, move_to, paused, redis_plan, resume, strike};
use crate::world::{eventually, shared};

const CREATE: &str = "CreateReplicationGroup";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_type_that_does_not_exist_is_refused_for_good() {
    let world = shared().await;
    let plan = redis_plan(world, json!({ "nodeType": "cache.t9.huge" })).await;
    let place = world.order_by_yaml(&plan, json!({})).await;
    let instance = world.until_reason(&place, "ProviderRefused").await;
    let condition = ready(&instance).unwrap();
    assert!(
        condition.message.contains("creating replication group"),
        "{condition:?}"
    );
    let stalled = &instance.status.as_ref().unwrap().conditions;
    assert!(
        stalled
            .iter()
            .any(|condition| condition.type_ == "Stalled" && condition.status == "True")
    );
    gone(world, &place, &provider_id(&instance)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_group_that_is_missing_is_waited_for() {
    let world = shared().await;
    let plan = redis_plan(world, json!({ "subnetGroup": "late-subnets" })).await;
    let place = world.order_by_yaml(&plan, json!({})).await;
    let instance = world.until_reason(&place, "ProviderUnavailable").await;
    let message = ready(&instance).unwrap().message;
    assert!(message.to_lowercase().contains("subnet"), "{message}");
    client(world)
        .create_cache_subnet_group()
        .cache_subnet_group_name("late-subnets")
        .cache_subnet_group_description("late")
        .subnet_ids("subnet-00000000000000001")
        .send()
        .await
        .unwrap();
    let instance = world.until_ready(&place).await;
    gone(world, &place, &provider_id(&instance)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_and_errors_of_the_service_pass() {
    let world = shared().await;
    let plan = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &plan).await;
    for kind in [
        FaultKind::Throttle,
        FaultKind::ServerError,
        FaultKind::Unavailable,
        FaultKind::Capacity,
    ] {
        strike(world, Fault::new(kind).times(3), CREATE, &id);
    }
    resume(world, &place).await;
    world.until_reason(&place, "ProviderUnavailable").await;
    world.until_ready(&place).await;
    assert_eq!(
        creations(world, &id).iter().filter(|outcome| *outcome == "ok").count(),
        1
    );
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_makes_no_second_group() {
    let world = shared().await;
    let plan = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &plan).await;
    strike(world, Fault::new(FaultKind::LostAnswer).times(1), CREATE, &id);
    resume(world, &place).await;
    let instance = world.until_ready(&place).await;
    assert_eq!(provider_id(&instance), id);
    let calls = world.calls("CreateReplicationGroup", &id);
    assert!(calls[0].lost && calls[0].outcome == "ok", "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.outcome == "ok").count(), 1, "{calls:?}");
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_later_says_why() {
    let world = shared().await;
    let plan = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &plan).await;
    let fault = FaultKind::CreateFailed {
        status: None,
        message: Some("The moon stood in the way.".to_owned()),
    };
    strike(world, Fault::new(fault).times(1), CREATE, &id);
    resume(world, &place).await;
    let instance = world.until_reason(&place, "Failed").await;
    let condition = ready(&instance).unwrap();
    assert!(
        condition.message.contains("The moon stood in the way."),
        "{condition:?}"
    );
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_cache_is_told_once_as_an_event_of_its_instance() {
    let world = shared().await;
    let plan = redis_plan(world, json!({})).await;
    let place = world.order_by_yaml(&plan, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    let told = async |what: &str| {
        let note = format!("{id}: {what}");
        let events = world.events(&place, "ProviderEvent").await;
        events
            .iter()
            .filter(|event| **event == ("Normal".to_owned(), note.clone()))
            .count()
    };
    eventually("the event of its creation", async || {
        (told("Replication group created").await > 0).then_some(())
    })
    .await;
    // Other looks read it again, and do not tell it again.
    move_to(world, &place, &plan, json!({ "replicas": 1 })).await;
    eventually("the event of its change", async || {
        (told("Replication group modified").await > 0).then_some(())
    })
    .await;
    assert_eq!(told("Replication group created").await, 1);
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_support_ended_says_until_when_it_is_paid_for() {
    let world = shared().await;
    let plan = async |version: &str| {
        let engine = json!({ "type": "redis", "version": version });
        let spec = json!({ "nodeType": "cache.t4g.micro" });
        world.plan(engine, "elasticache", spec).await
    };
    for (version, status, reason) in [("5.0.6", "False", "ExtendedSupport"), ("7.1", "True", "Supported")] {
        let place = world.order_by_yaml(&plan(version).await, json!({})).await;
        let instance = world.until_ready(&place).await;
        let conditions = &instance.status.as_ref().unwrap().conditions;
        let said = conditions
            .iter()
            .find(|condition| condition.type_ == "EngineSupported")
            .unwrap();
        assert_eq!(
            (said.status.as_str(), said.reason.as_str()),
            (status, reason),
            "{said:?}"
        );
        if status == "False" {
            assert!(said.message.contains("2029-01-31"), "{said:?}");
        }
        let running = instance.status.as_ref().unwrap().engine.clone().unwrap();
        assert!(running.version.starts_with(version), "{running:?}");
        gone(world, &place, &provider_id(&instance)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_somebody_else_is_left_alone() {
    let world = shared().await;
    let plan = redis_plan(world, json!({})).await;
    let (place, id) = paused(world, &plan).await;
    let elasticache = client(world);
    elasticache
        .create_replication_group()
        .replication_group_id(&id)
        .replication_group_description("somebody else's")
        .engine("redis")
        .cache_node_type("cache.t4g.micro")
        .num_cache_clusters(1)
        .tags(
            aws_sdk_elasticache::types::Tag::builder()
                .key(OWNER_TAG)
                .value("of-another")
                .build(),
        )
        .send()
        .await
        .unwrap();
    resume(world, &place).await;
    let instance = world.until_reason(&place, "NameConflict").await;
    assert!(ready(&instance).unwrap().message.contains(&id));
    world.delete(&place).await;
    world.until_nothing_is_left(&place, None).await;
    assert!(world.exists_in_elasticache(&id), "somebody else's group was deleted");
    let delete = || elasticache.delete_replication_group().replication_group_id(&id).send();
    eventually("the end of the other group", async || {
        let _ = delete().await;
        (!world.exists_in_elasticache(&id)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_in_a_secret_before_elasticache_is_asked() {
    let world = shared().await;
    let plan = redis_plan(world, json!({ "transitEncryption": true, "authentication": "token" })).await;
    let (place, id) = paused(world, &plan).await;
    strike(world, Fault::new(FaultKind::AccessDenied).times(3), CREATE, &id);
    resume(world, &place).await;
    eventually("the first call", async || {
        (!world.calls(CREATE, &id).is_empty()).then_some(())
    })
    .await;
    let jsonpath = "jsonpath={.data.password}";
    let secret = format!("{}-auth", place.name);
    let password = world
        .kubectl(&["get", "secret", "-n", &place.namespace, &secret, "-o", jsonpath])
        .await;
    let password = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, password).unwrap();
    let password = String::from_utf8(password).unwrap();
    world.until_ready(&place).await;
    let calls = world.calls(CREATE, &id);
    assert!(calls.len() > 1, "{}", calls.len());
    assert!(
        calls.iter().all(|call| call.parameters["AuthToken"] == password),
        "one password for all tries"
    );
    gone(world, &place, &id).await;
}
