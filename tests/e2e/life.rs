//! The life of a cache on ElastiCache: changed, restarted, backed up, restored, taken over, let go. What ElastiCache was
//! asked, and what a client saw meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use cache_broker::api::{CacheBackup, CacheInstance};
use cache_broker::provider::elasticache::OWNER_TAG;
use kube::Api;
use sandbox::elasticache::Call;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::cluster::{Place, provider_id, ready};
use crate::provider::{elasticache, gone};
use crate::world::{World, eventually, shared};

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

pub async fn plan(world: &World, engine: &str, version: &str, spec: Value) -> String {
    let engine = json!({ "type": engine, "version": version });
    world.plan(engine, "elasticache", spec).await
}

/// Puts other members into the spec of a plan, and moves an instance to that revision.
pub async fn move_to(world: &World, place: &Place, plan: &str, spec: Value) {
    let patch = json!({ "spec": { "elasticache": spec } }).to_string();
    let revision = |text: String| text.parse::<i64>().unwrap();
    let path = ["get", "cplan", plan, "-o", "jsonpath={.status.revision}"];
    let before = revision(world.kubectl(&path).await);
    world
        .kubectl(&["patch", "cplan", plan, "--type=merge", "-p", &patch])
        .await;
    let revision = eventually("the next revision of the plan", async || {
        Some(revision(world.kubectl(&path).await)).filter(|now| *now > before)
    })
    .await;
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

pub async fn patch(world: &World, place: &Place, spec: Value) {
    let patch = json!({ "spec": spec }).to_string();
    world
        .kubectl(&[
            "patch",
            "cinst",
            "-n",
            &place.namespace,
            &place.name,
            "--type=merge",
            "-p",
            &patch,
        ])
        .await;
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

/// A client that goes on using a cache, and counts what it is refused.
struct Client {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Client {
    fn start(address: String, command: &'static str) -> Self {
        let (stop, refused, asked) = (Arc::default(), Arc::default(), Arc::default());
        let (stopping, refusals, questions): (Arc<AtomicBool>, Arc<AtomicU32>, Arc<AtomicU32>) =
            (Arc::clone(&stop), Arc::clone(&refused), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while !stopping.load(Ordering::Relaxed) {
                questions.fetch_add(1, Ordering::Relaxed);
                if ask(&address, command).await.is_ok_and(|answer| !answer.is_empty()) {
                    // A pause between two questions: the client is one of many.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                } else {
                    refusals.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        Self {
            stop,
            refused,
            asked,
            task,
        }
    }

    /// How often it asked, and how often it was refused.
    async fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        (self.asked.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_changed_in_place_call_by_call_and_keeps_its_data() {
    let world = shared().await;
    let name = plan(world, "redis", "7.0", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    assert_eq!(ask(&address, "SET kept yes").await.unwrap(), "+OK");

    let before = changes(world, &id).len();
    let target = json!({
        "nodeType": "cache.m7g.large", "replicas": 2, "multiAz": true, "snapshotRetentionDays": 3,
        "maintenanceWindow": "sat:02:00-sat:03:00",
    });
    let client = Client::start(address.clone(), "GET kept");
    move_to(world, &place, &name, target).await;
    let instance = settled(world, &place, 2).await;
    let (asked, refused) = client.end().await;
    println!("a change in place: {refused} of {asked} questions refused");
    assert!(refused < asked, "it answers before, and after");
    assert_eq!(provider_id(&instance), id);
    assert_eq!(host(&instance), address, "the address is kept");
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    assert_eq!(instance.status.as_ref().unwrap().nodes.len(), 3);

    let calls = &changes(world, &id)[before..];
    assert_eq!(
        operations(calls),
        [
            "ModifyReplicationGroup",
            "IncreaseReplicaCount",
            "ModifyReplicationGroup",
            "ModifyReplicationGroup"
        ]
    );
    assert_eq!(
        calls.iter().map(fields).collect::<Vec<_>>(),
        [
            BTreeSet::from(["PreferredMaintenanceWindow", "SnapshotRetentionLimit"]),
            BTreeSet::from(["NewReplicaCount"]),
            BTreeSet::from(["CacheNodeType"]),
            BTreeSet::from(["AutomaticFailoverEnabled", "MultiAZEnabled"]),
        ]
    );
    // And back: failover goes before the replicas it needs.
    let before = changes(world, &id).len();
    move_to(
        world,
        &place,
        &name,
        json!({ "nodeType": "cache.t4g.micro", "replicas": null, "multiAz": null }),
    )
    .await;
    settled(world, &place, 3).await;
    let calls = &changes(world, &id)[before..];
    assert_eq!(
        operations(calls),
        [
            "ModifyReplicationGroup",
            "ModifyReplicationGroup",
            "DecreaseReplicaCount"
        ]
    );
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_becomes_valkey_in_place() {
    let world = shared().await;
    let redis = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let valkey = plan(world, "valkey", "8.0", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&redis, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET kept yes").await.unwrap();
    patch(world, &place, json!({ "planRef": { "name": valkey } })).await;
    world
        .until(&place, "valkey", |ready| ready.message.starts_with("valkey answers"))
        .await;
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    let calls = changes(world, &id);
    // The name of the plan stands in its tags.
    assert_eq!(
        operations(&calls),
        ["CreateReplicationGroup", "ModifyReplicationGroup", "AddTagsToResource"]
    );
    assert_eq!(fields(&calls[1]), BTreeSet::from(["Engine", "EngineVersion"]));
    // The way back is refused, and it goes on serving.
    patch(world, &place, json!({ "planRef": { "name": redis } })).await;
    let instance = world.until_reason(&place, "PlanMismatch").await;
    assert_eq!(host(&instance), address);
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_waits_for_leave_before_it_loses_its_data_and_names_the_nodes_that_go() {
    let world = shared().await;
    let small = json!({ "nodeType": "cache.t4g.micro", "nodes": 3, "maintenanceWindow": window_of_another_day() });
    let name = plan(world, "memcached", "1.6.22", small).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    move_to(world, &place, &name, json!({ "nodes": 1 })).await;
    let instance = world.until_reason(&place, "AwaitingMaintenance").await;
    let message = ready(&instance).unwrap().message;
    assert!(message.contains("3 nodes and is asked to have 1"), "{message}");
    assert!(message.contains("approve-disruption"), "{message}");
    assert_eq!(operations(&changes(world, &id)), ["CreateCacheCluster"]);
    approve(world, &place).await;
    let instance = settled(world, &place, 2).await;
    assert_eq!(instance.status.as_ref().unwrap().nodes[0].id, "0001");
    let calls = changes(world, &id);
    assert_eq!(operations(&calls), ["CreateCacheCluster", "ModifyCacheCluster"]);
    let removed: BTreeSet<_> = calls[1]
        .parameters
        .iter()
        .filter(|(name, _)| name.starts_with("CacheNodeIdsToRemove"))
        .map(|(_, id)| id.as_str())
        .collect();
    assert_eq!(removed, BTreeSet::from(["0002", "0003"]));
    gone(world, &place, &id).await;
}

/// A window that is not open now nor soon.
fn window_of_another_day() -> String {
    let day = jiff::Zoned::now().weekday().wrapping_add(3);
    let day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][usize::try_from(day.to_monday_zero_offset()).unwrap()];
    format!("{day}:01:00-{day}:02:00")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_one_by_one_while_the_others_answer() {
    let world = shared().await;
    let name = plan(
        world,
        "redis",
        "7.1",
        json!({ "nodeType": "cache.t4g.micro", "replicas": 1 }),
    )
    .await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    let client = Client::start(host(&instance), "PING");
    let when = jiff::Timestamp::now().to_string();
    patch(world, &place, json!({ "restartAt": when })).await;
    let api = world.instances(&place.namespace).await;
    eventually("the end of the restart", async || {
        let instance = api.get(&place.name).await.unwrap();
        let status = instance.status.as_ref()?;
        let done = status.restarted_at.is_some() && status.restart.is_none();
        (done && ready(&instance)?.reason == "Available").then_some(())
    })
    .await;
    let (asked, refused) = client.end().await;
    println!("restart of two nodes: {refused} of {asked} questions refused");
    assert!(refused < asked, "it answers before, and after");
    let reboots: Vec<_> = changes(world, &id)
        .into_iter()
        .filter(|call| call.operation == "RebootCacheCluster")
        .map(|call| call.parameters["CacheClusterId"].clone())
        .collect();
    assert_eq!(
        reboots,
        [format!("{id}-002"), format!("{id}-001")],
        "the primary comes last"
    );
    gone(world, &place, &id).await;
}

fn backups(world: &World, client: kube::Client, place: &Place) -> Api<CacheBackup> {
    let _ = world;
    Api::namespaced(client, &place.namespace)
}

pub async fn back_up(world: &World, place: &Place, name: &str) -> CacheBackup {
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheBackup",
            "metadata": { "name": name, "namespace": place.namespace },
            "spec": { "instanceRef": { "name": place.name } },
        }))
        .await;
    let api = backups(world, world.sandbox.kube().await.unwrap(), place);
    eventually("a backup", async || {
        let backup = api.get(name).await.unwrap();
        let conditions = &backup.status.as_ref()?.conditions;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "True").then_some(backup)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_fills_the_same_instance_again_and_another_one() {
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

    let client = Client::start(address.clone(), "PING");
    patch(world, &place, json!({ "restore": { "backup": backup_name } })).await;
    world.until_reason(&place, "Restoring").await;
    assert_eq!(
        ask(&address, "GET state").await.unwrap(),
        "after",
        "the live one serves until then"
    );
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
    let (asked, refused) = client.end().await;
    println!("a restore: {refused} of {asked} questions at the old address refused");
    assert!(asked > 0 && refused == 0, "the old cache serves on");
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
async fn a_restore_that_fails_leaves_the_old_cache_serving() {
    let world = shared().await;
    let name = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET state live").await.unwrap();
    let backup = format!("{}-bad", place.name);
    back_up(world, &place, &backup).await;
    let next =
        cache_broker::provider::elasticache::provider_id("sandbox", instance.metadata.uid.as_deref().unwrap(), 1);
    let fault = sandbox::elasticache::FaultKind::CreateFailed {
        status: None,
        message: Some("The snapshot is damaged.".to_owned()),
    };
    world.sandbox.elasticache().unwrap().faults().add(
        sandbox::elasticache::Fault::new(fault)
            .on("CreateReplicationGroup")
            .of(&next)
            .times(1),
    );
    patch(world, &place, json!({ "restore": { "backup": backup } })).await;
    let failed = world
        .until(&place, "the failure", |ready| {
            ready.message.contains("The snapshot is damaged.")
        })
        .await;
    assert_eq!(host(&failed), address);
    assert_eq!(ask(&address, "GET state").await.unwrap(), "live");
    patch(world, &place, json!({ "restore": null })).await;
    let instance = world.until_reason(&place, "Available").await;
    assert_eq!(provider_id(&instance), id);
    assert!(!world.exists_in_elasticache(&next), "the failed one is left behind");
    assert_eq!(ask(&address, "GET state").await.unwrap(), "live");
    gone(world, &place, &id).await;
    world
        .kubectl(&["delete", "cbackup", "-n", &place.namespace, &backup])
        .await;
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
    let api = backups(world, world.sandbox.kube().await.unwrap(), &place);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_before_is_taken_over_as_it_is_by_one_instance_only_and_let_go() {
    let world = shared().await;
    let old = format!("old-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let aws = elasticache(world);
    aws.create_cache_cluster()
        .cache_cluster_id(&old)
        .engine("redis")
        .engine_version("7.1")
        .cache_node_type("cache.t4g.micro")
        .num_cache_nodes(1)
        .send()
        .await
        .unwrap();
    let bare = json!({ "nodeType": "cache.t4g.micro", "topology": "cacheCluster" });
    let name = plan(world, "redis", "7.1", bare).await;
    let adopt = async |suffix: &str| {
        let place = Place::new("redis-system", &format!("{old}-{suffix}"));
        world
            .apply(&json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                "metadata": { "name": place.name, "namespace": place.namespace },
                "spec": { "planRef": { "name": name }, "adopt": { "providerId": old }, "deletionPolicy": "Retain" },
            }))
            .await;
        place
    };
    let first = adopt("a").await;
    let instance = world.until_ready(&first).await;
    assert_eq!(provider_id(&instance), old);
    let second = adopt("b").await;
    world.until_reason(&second, "NameConflict").await;
    world.delete(&second).await;
    eventually("the end of the second", async || {
        world.instance(&second).await.is_none().then_some(())
    })
    .await;
    assert_eq!(
        operations(&changes(world, &old)),
        ["CreateCacheCluster", "AddTagsToResource"],
        "nothing is restarted, changed or renamed"
    );
    assert_eq!(ask(&host(&instance), "PING").await.unwrap(), "+PONG");

    world.delete(&first).await;
    eventually("the end of the first", async || {
        world.instance(&first).await.is_none().then_some(())
    })
    .await;
    assert!(world.exists_in_elasticache(&old));
    let arn = instance.status.unwrap().provider_arn.unwrap();
    // A cache is busy for a moment after its tags were changed, and then tells none.
    let owner = eventually("the tags of what was let go", async || {
        let tags = aws.list_tags_for_resource().resource_name(&arn).send().await.ok()?;
        let owner = tags.tag_list().iter().find(|tag| tag.key() == Some(OWNER_TAG))?;
        owner.value().map(str::to_owned)
    })
    .await;
    assert_eq!(owner, "released");

    // Whoever comes next may take it, and delete it.
    let third = adopt("c").await;
    world.until_ready(&third).await;
    patch(world, &third, json!({ "deletionPolicy": "Delete" })).await;
    gone(world, &third, &old).await;
    // Once it is gone there is nothing to take over.
    let late = adopt("d").await;
    world.until_reason(&late, "ProviderResourceMissing").await;
    world.delete(&late).await;
    eventually("the end of the last", async || {
        world.instance(&late).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subnet_takes_another_cache_and_the_old_one_has_its_grace() {
    let world = shared().await;
    let aws = elasticache(world);
    let _ = aws
        .create_cache_subnet_group()
        .cache_subnet_group_name("moved-subnets")
        .cache_subnet_group_description("of a test")
        .subnet_ids("subnet-00000000000000001")
        .send()
        .await;
    let name = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET kept yes").await.unwrap();
    let client = Client::start(address.clone(), "PING");
    move_to(world, &place, &name, json!({ "subnetGroup": "moved-subnets" })).await;
    let waiting = world.until_reason(&place, "AwaitingMaintenance").await;
    let message = ready(&waiting).unwrap().message;
    assert!(message.contains("filled from a snapshot of this one"), "{message}");
    approve(world, &place).await;
    let api = world.instances(&place.namespace).await;
    let moved = eventually("the new cache", async || {
        let instance = api.get(&place.name).await.unwrap();
        let ready = ready(&instance)?;
        let kept = ready.reason == "Available" && ready.message.contains("is kept until");
        kept.then_some(instance)
    })
    .await;
    assert_ne!(host(&moved), address);
    assert_eq!(
        ask(&host(&moved), "GET kept").await.unwrap(),
        "yes",
        "it begins with what the old one held"
    );
    let (asked, refused) = client.end().await;
    println!("a move to another subnet: {refused} of {asked} questions at the old address refused");
    assert_eq!(refused, 0, "the old cache serves on");
    gone(world, &place, &provider_id(&moved)).await;
    assert!(!world.exists_in_elasticache(&id), "the old one goes with the instance");
    let snapshots = world.sandbox.elasticache().unwrap().remaining().snapshots;
    let seed = format!("{}-seed", provider_id(&moved));
    assert!(!snapshots.contains(&seed), "and what the new one was filled from");
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_moves_from_elasticache_into_the_cluster_and_back() {
    let world = shared().await;
    let aws = plan(world, "memcached", "1.6.22", json!({ "nodeType": "cache.t4g.micro" })).await;
    let engine = json!({ "type": "memcached", "version": "1.6.45" });
    let cluster = world.plan(engine, "kubernetes", json!({ "memory": "64Mi" })).await;
    let place = world.order_by_yaml(&aws, json!({})).await;
    let instance = world.until_ready(&place).await;
    let first = provider_id(&instance);
    patch(world, &place, json!({ "planRef": { "name": cluster } })).await;
    world.until_reason(&place, "AwaitingMaintenance").await;
    approve(world, &place).await;
    let moved = world
        .until(&place, "the cluster", |ready| ready.message.contains("is kept until"))
        .await;
    let status = moved.status.as_ref().unwrap();
    assert_eq!(status.provider.unwrap().as_str(), "kubernetes");
    crate::caches::use_memcached(&host(&moved)).await;
    assert!(world.exists_in_elasticache(&first));

    patch(world, &place, json!({ "planRef": { "name": aws } })).await;
    let api = world.instances(&place.namespace).await;
    let back = eventually("ElastiCache again", async || {
        let instance = api.get(&place.name).await.unwrap();
        let status = instance.status.as_ref()?;
        let there = status.provider?.as_str() == "elasticache" && status.provider_id.as_ref()? != &first;
        (there && ready(&instance)?.status == "True").then_some(instance)
    })
    .await;
    crate::caches::use_memcached(&host(&back)).await;
    gone(world, &place, &provider_id(&back)).await;
    assert!(!world.exists_in_elasticache(&first));
}
