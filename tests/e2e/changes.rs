//! What a client of a cache in the cluster notices when its plan changes, it is restarted, or a change fails.

use std::time::Duration;

use cache_broker::api::CacheInstance;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::{Place, ready};
use crate::steady::{Cache, Steady};
use crate::world::{World, eventually, shared};

/// What a client may be refused while one Pod takes the place of another.
const UNNOTICED: Duration = Duration::from_millis(500);
/// What a client may be refused while a volume goes from one Pod to another: the end of the old one with its grace, and
/// the start of the new one, on a busy machine.
const GAP: Duration = Duration::from_secs(45);

/// A cache that is used all the time.
struct Used<'a> {
    world: &'a World,
    place: Place,
    engine: Value,
    base: Value,
    cache: Cache,
}

impl<'a> Used<'a> {
    async fn new(world: &'a World, engine: &str, base: Value) -> Self {
        let engine = json!({ "type": engine, "version": if engine == "memcached" { "1.6.45" } else { "8.2" } });
        let plan = world.plan(engine.clone(), "kubernetes", base.clone()).await;
        let place = world.order_by_yaml(&plan, json!({})).await;
        world.until_ready(&place).await;
        let secret = format!("{}-connection", place.name);
        let cache = Cache::of(world, &place.namespace, &secret).await;
        Self {
            world,
            place,
            engine,
            base,
            cache,
        }
    }

    /// Sets a key that shows whether the data is still there.
    async fn mark(&self) {
        eventually("an answer", async || self.cache.set("mark", "here").await.ok()).await;
    }

    async fn is_marked(&self) -> bool {
        self.cache.has("mark").await.unwrap()
    }

    /// Moves the instance to a plan with these members more.
    async fn change(&self, members: Value) {
        let mut spec = self.base.clone();
        spec.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        let plan = self.world.plan(self.engine.clone(), "kubernetes", spec).await;
        self.patch(json!({ "spec": { "planRef": { "name": plan } } })).await;
    }

    async fn patch(&self, patch: Value) {
        self.world.patch(&self.place, &patch).await;
    }

    /// Allows the change of the present generation, and no other.
    async fn approve(&self) {
        let generation = self
            .world
            .instance(&self.place)
            .await
            .unwrap()
            .metadata
            .generation
            .unwrap();
        let approval = format!("cache.akkeris.io/approve-disruption={generation}");
        self.world.annotate(&self.place, &approval).await;
    }

    async fn until_available(&self) -> CacheInstance {
        self.world
            .until(&self.place, "the end of the change", |condition| {
                condition.status == "True" && condition.reason == "Available"
            })
            .await
    }

    async fn restart(&self) -> CacheInstance {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        self.patch(json!({ "spec": { "restartAt": now.to_string() } })).await;
        eventually("the end of the restart", async || {
            let instance = self.world.instance(&self.place).await.unwrap();
            let done = instance.status.as_ref()?.restarted_at.as_ref()?.0 == now;
            done.then_some(instance)
        })
        .await
    }

    async fn deployments(&self) -> Vec<String> {
        let children = self.world.children(&self.place).await;
        children
            .into_iter()
            .filter(|child| child.starts_with("deployment"))
            .collect()
    }

    async fn reasons(&self) -> String {
        let selector = format!(
            "--field-selector=involvedObject.kind=CacheInstance,involvedObject.name={}",
            self.place.name
        );
        let path = "jsonpath={.items[*].reason}";
        self.world
            .kubectl(&["get", "events", "-n", &self.place.namespace, &selector, "-o", path])
            .await
    }

    /// Ends a client's work and says what it met with.
    async fn met(&self, during: &str, client: Steady, most: Duration) {
        let tally = client.end().await;
        println!("{} {during}: {tally}", self.engine["type"]);
        assert!(tally.refused <= most, "{during}: {tally:?}");
    }

    async fn end(&self) {
        self.world.delete(&self.place).await;
        self.world.until_nothing_is_left(&self.place, None).await;
    }
}

/// The life of a cache that keeps nothing on disk.
async fn goes_through_changes(engine: &str) {
    let world = shared().await;
    let cache = Used::new(world, engine, json!({ "memory": "64Mi", "connectionLimit": 100 })).await;
    let address = cache.cache.address.clone();
    cache.mark().await;
    let client = cache.cache.use_steadily();

    cache.change(json!({ "memory": "96Mi" })).await;
    let waiting = world.until_reason(&cache.place, "AwaitingMaintenance").await;
    let condition = ready(&waiting).unwrap();
    assert_eq!(condition.status, "True");
    assert!(condition.message.contains("approve-disruption"), "{condition:?}");
    assert!(cache.is_marked().await);
    let before = cache.deployments().await;
    cache.approve().await;
    let changed = cache.until_available().await;
    assert_eq!(changed.status.unwrap().endpoint.unwrap().address, address);
    assert!(!cache.is_marked().await, "it was replaced");
    let after = cache.deployments().await;
    assert!(after.len() == 1 && after != before, "{after:?}");
    cache.met("change of plan", client, UNNOTICED).await;

    cache.mark().await;
    let client = cache.cache.use_steadily();
    cache.restart().await;
    assert!(!cache.is_marked().await, "it was restarted");
    cache.met("restart", client, UNNOTICED).await;

    // What cannot start takes nobody's place, and goes when it is taken back.
    cache.mark().await;
    let (client, before) = (cache.cache.use_steadily(), cache.deployments().await);
    cache
        .change(json!({ "memory": "96Mi", "image": "example.org/unknown:1" }))
        .await;
    cache.approve().await;
    let failing = world.until_reason(&cache.place, "WorkloadFailing").await;
    let condition = ready(&failing).unwrap();
    assert_eq!(condition.status, "True");
    assert!(
        condition.message.contains("example.org/unknown:1 cannot be pulled"),
        "{condition:?}"
    );
    assert!(cache.is_marked().await);
    cache.change(json!({ "memory": "10Mi" })).await;
    let stalled = world.until_reason(&cache.place, "ProviderRefused").await;
    assert!(ready(&stalled).unwrap().message.contains("give the plan more memory"));
    cache.change(json!({ "memory": "96Mi" })).await;
    cache.until_available().await;
    assert!(cache.is_marked().await);
    assert_eq!(cache.deployments().await, before);
    cache.met("failing changes", client, UNNOTICED).await;
    let reasons = cache.reasons().await;
    for reason in [
        "AwaitingMaintenance",
        "Updating",
        "Restarting",
        "WorkloadFailing",
        "ProviderRefused",
    ] {
        assert!(reasons.contains(reason), "{reasons}");
    }
    cache.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_memcached_do_not_notice_changes() {
    goes_through_changes("memcached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_redis_do_not_notice_changes() {
    goes_through_changes("redis").await;
}

/// `redis-server` stands in for valkey, which has no package for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_valkey_do_not_notice_changes() {
    goes_through_changes("valkey").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_a_volume_keeps_its_data() {
    let world = shared().await;
    let base = json!({ "memory": "64Mi", "connectionLimit": 100, "persistence": { "size": "1Gi" } });
    let cache = Used::new(world, "redis", base).await;
    let claim = async || {
        let name = format!("{}-data", cache.place.name);
        let arguments = [
            "get",
            "pvc",
            "-n",
            &cache.place.namespace,
            &name,
            "-o",
            "jsonpath={.metadata.uid}",
        ];
        world.kubectl(&arguments).await
    };
    let before = claim().await;
    cache.mark().await;
    let client = cache.cache.use_steadily();
    cache
        .change(json!({ "connectionLimit": 120, "image": "example.org/unknown:1" }))
        .await;
    world.until_reason(&cache.place, "WorkloadFailing").await;
    cache.met("change that fails", client, UNNOTICED).await;

    let client = cache.cache.use_steadily();
    cache.change(json!({ "connectionLimit": 120 })).await;
    cache.until_available().await;
    cache.met("change of plan with a volume", client, GAP).await;
    assert!(cache.is_marked().await);
    let client = cache.cache.use_steadily();
    cache.restart().await;
    cache.met("restart with a volume", client, GAP).await;
    assert!(cache.is_marked().await);
    assert_eq!(claim().await, before);

    // Kept without the instance, the volume is still there.
    cache.patch(json!({ "spec": { "deletionPolicy": "Retain" } })).await;
    world.delete(&cache.place).await;
    eventually("the end of the instance", async || {
        world.instance(&cache.place).await.is_none().then_some(())
    })
    .await;
    assert_eq!(claim().await, before);
    assert!(cache.is_marked().await);
    let (namespace, selector) = (
        &cache.place.namespace,
        format!("app.kubernetes.io/instance={}", cache.place.name),
    );
    let kinds = "deployments,services,secrets,networkpolicies,persistentvolumeclaims";
    world
        .kubectl(&["delete", kinds, "-n", namespace, "-l", &selector])
        .await;
    world.until_nothing_is_left(&cache.place, None).await;
}
