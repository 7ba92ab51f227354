//! Caches on ElastiCache for tests: ordered, moved, struck by faults, asked as a client asks; and what ElastiCache saw of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::config::{BehaviorVersion, Credentials, Region};
use cache_broker::api::CacheInstance;
use cache_broker::provider::elasticache::provider_id as derived_id;
use sandbox::elasticache::{Call, Fault};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::cluster::{Place, ready};
use crate::world::{World, eventually};

/// ElastiCache, as somebody else uses it.
pub fn client(world: &World) -> Client {
    let config = aws_sdk_elasticache::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-west-2"))
        .endpoint_url(world.sandbox.elasticache().unwrap().url())
        .credentials_provider(Credentials::new("AKIASANDBOXSANDBOX00", "sandbox", None, None, "test"))
        .build();
    Client::from_conf(config)
}

pub async fn redis_plan(world: &World, members: Value) -> String {
    let mut spec = json!({ "nodeType": "cache.t4g.micro" });
    spec.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    world
        .plan(json!({ "type": "redis", "version": "7.1" }), "elasticache", spec)
        .await
}

pub async fn plan(world: &World, engine: &str, version: &str, spec: Value) -> String {
    let engine = json!({ "type": engine, "version": version });
    world.plan(engine, "elasticache", spec).await
}

/// An instance that waits for [`resume`], and the id that it will have.
pub async fn paused(world: &World, plan: &str) -> (Place, String) {
    let place = world
        .order_by_yaml(plan, json!({ "cache.akkeris.io/paused": "true" }))
        .await;
    let instance = world.until_reason(&place, "Paused").await;
    let id = derived_id("sandbox", instance.metadata.uid.as_deref().unwrap(), 0);
    assert!(!world.exists_in_elasticache(&id));
    (place, id)
}

/// Stops all changes to an instance, and waits until it says so.
pub async fn pause(world: &World, place: &Place) {
    let annotation = "cache.akkeris.io/paused=true";
    world.annotate(place, annotation).await;
    world.until_reason(place, "Paused").await;
}

pub async fn resume(world: &World, place: &Place) {
    let annotation = "cache.akkeris.io/paused-";
    world.annotate(place, annotation).await;
}

/// Puts other members into the spec of a plan, and moves an instance to that revision.
pub async fn move_to(world: &World, place: &Place, plan: &str, spec: Value) {
    let revision = world.edit(plan, &json!({ "elasticache": spec })).await;
    move_to_revision(world, place, revision).await;
}

pub async fn move_to_revision(world: &World, place: &Place, revision: i64) {
    let annotation = format!("cache.akkeris.io/update-to-revision={revision}");
    world.annotate(place, &annotation).await;
}

/// Waits until an instance runs from its newest revision and rests.
pub async fn settled(world: &World, place: &Place, revision: i64) -> CacheInstance {
    let api = world.instances(&place.namespace).await;
    eventually(&format!("{place:?} at revision {revision}"), async || {
        let instance = api.get(&place.name).await.unwrap();
        let ready = ready(&instance)?;
        let status = instance.status.as_ref()?;
        let reached = status.plan.as_ref()?.revision == revision;
        (reached && ready.status == "True" && ready.reason == "Available").then_some(instance)
    })
    .await
}

pub async fn approve(world: &World, place: &Place) {
    let annotation = "cache.akkeris.io/approve-disruption=true";
    world.annotate(place, annotation).await;
}

/// Changes the spec of an instance.
pub async fn patch(world: &World, place: &Place, spec: Value) {
    world.patch(place, &json!({ "spec": spec })).await;
}

pub async fn gone(world: &World, place: &Place, id: &str) {
    world.delete(place).await;
    world.until_nothing_is_left(place, Some(id)).await;
}

pub fn strike(world: &World, fault: Fault, operation: &str, id: &str) {
    world
        .sandbox
        .elasticache()
        .unwrap()
        .faults()
        .add(fault.on(operation).of(id));
}

/// Calls that change something, in order, about an id or its members.
pub fn changes(world: &World, id: &str) -> Vec<Call> {
    let reading = ["Describe", "List"];
    let calls = world.sandbox.elasticache().unwrap().calls();
    calls
        .into_iter()
        .filter(|call| !reading.iter().any(|prefix| call.operation.starts_with(prefix)))
        .filter(|call| call.parameters.values().any(|value| value.contains(id)))
        .filter(|call| call.outcome == "ok")
        .collect()
}

pub fn operations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.operation.as_str()).collect()
}

/// The fields of a call beside the id and what every call has.
pub fn fields(call: &Call) -> BTreeSet<&str> {
    let always = [
        "ReplicationGroupId",
        "CacheClusterId",
        "ApplyImmediately",
        "Action",
        "Version",
    ];
    call.parameters
        .keys()
        .map(String::as_str)
        .filter(|name| !always.contains(name))
        .collect()
}

/// The outcomes of the calls that asked for a group to be made.
pub fn creations(world: &World, id: &str) -> Vec<String> {
    world
        .calls("CreateReplicationGroup", id)
        .into_iter()
        .map(|call| call.outcome)
        .collect()
}

/// The tags that a call sends.
pub fn tags(call: &Call) -> BTreeMap<&str, &str> {
    let sent = |name: &str| call.parameters.get(name).map(String::as_str);
    let pairs = (1..).map_while(|number| {
        let tag = |part: &str| format!("Tags.Tag.{number}.{part}");
        sent(&tag("Key")).zip(sent(&tag("Value")))
    });
    pairs.collect()
}

pub fn host(instance: &CacheInstance) -> String {
    instance
        .status
        .as_ref()
        .unwrap()
        .endpoint
        .as_ref()
        .unwrap()
        .address
        .clone()
}

/// One command of the redis protocol, sent as one line, and the first line of its answer.
pub async fn ask(address: &str, line: &str) -> std::io::Result<String> {
    let call = async {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        if answer.starts_with('$') && !answer.starts_with("$-1") {
            answer.clear();
            stream.read_line(&mut answer).await?;
        }
        Ok(answer.trim_end().to_owned())
    };
    tokio::time::timeout(Duration::from_secs(2), call).await?
}

/// Waits until an instance is stalled with a reason, and an Event says so too.
pub async fn stalled(world: &World, place: &Place, reason: &str) -> String {
    let instance = world.until_reason(place, reason).await;
    let conditions = &instance.status.as_ref().unwrap().conditions;
    let stalled = conditions
        .iter()
        .find(|condition| condition.type_ == "Stalled")
        .unwrap();
    assert_eq!(stalled.status, "True", "{conditions:?}");
    let message = ready(&instance).unwrap().message;
    eventually(&format!("an Event of {reason}"), async || {
        let told = world.events(place, reason).await;
        told.iter().any(|(kind, _)| kind == "Warning").then_some(())
    })
    .await;
    message
}
