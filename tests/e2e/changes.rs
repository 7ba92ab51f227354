//! What a client of a cache in the cluster notices when its plan changes, it is restarted, or a change fails.

use std::collections::BTreeMap;
use std::time::Duration;

use cache_broker::api::CacheInstance;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::backups::has_no_backups;
use crate::cluster::{Place, ready};
use crate::elasticache::{pause, plan, resume, stalled};
use crate::old_broker::deployed;
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
        Self::at(world, place, engine, base).await
    }

    /// One that is being made.
    async fn at(world: &'a World, place: Place, engine: Value, base: Value) -> Self {
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

    /// The specs of what stands for it, by kind and name, and their uids. What Kubernetes chose is left out.
    async fn standing(&self) -> BTreeMap<String, (String, Value)> {
        let (client, namespace) = (self.world.kube().await, &self.place.namespace);
        let labelled = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.place.name));
        let mut standing = BTreeMap::new();
        for kind in [
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
        ] {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
            for object in api.list(&labelled).await.unwrap() {
                let mut spec = object.data["spec"].clone();
                spec.as_object_mut()
                    .unwrap()
                    .retain(|name, _| !name.starts_with("clusterIP"));
                let name = format!("{}/{}", kind.plural, object.name_any());
                standing.insert(name, (object.uid().unwrap(), spec));
            }
        }
        standing
    }

    /// Has somebody edit all that stands for it, then delete all of it: it is put back each time.
    async fn is_put_back(&mut self) {
        let (world, namespace) = (self.world, self.place.namespace.clone());
        let before = self.standing().await;
        assert_eq!(before.len(), 3, "{before:?}");
        let other = json!({ "name": self.engine["type"], "image": "example.org/other:1" });
        for name in before.keys() {
            let spec = match name.split_once('/').unwrap().0 {
                "deployments" => json!({ "template": { "spec": { "containers": [other] } } }),
                "services" => json!({ "selector": { "app.kubernetes.io/instance": "another" } }),
                _ => json!({ "ingress": [] }),
            };
            let patch = json!({ "spec": spec }).to_string();
            let told = world.kubectl(&["patch", "-n", &namespace, name, "-p", &patch]).await;
            assert!(!told.contains("no change"), "{told}");
        }
        eventually("what was edited as it was", async || {
            (self.standing().await == before).then_some(())
        })
        .await;
        self.answers_again().await;
        let names = before.keys().map(String::as_str);
        let delete = ["delete", "--wait=false", "-n", &namespace].into_iter();
        world.kubectl(&delete.chain(names).collect::<Vec<_>>()).await;
        eventually("what was deleted as it was", async || {
            let after = self.standing().await;
            let anew = |(name, (uid, spec)): (&String, &(String, Value))| {
                after.get(name).is_some_and(|(now, is)| now != uid && is == spec)
            };
            (after.len() == before.len() && before.iter().all(anew)).then_some(())
        })
        .await;
        // A Service that is made anew has another address here.
        self.answers_again().await;
    }

    /// Waits until it answers at the address that is told.
    async fn answers_again(&mut self) {
        let secret = format!("{}-connection", self.place.name);
        self.cache = eventually("an answer at the address that is told", async || {
            self.until_available().await;
            let cache = Cache::of(self.world, &self.place.namespace, &secret).await;
            cache.set("mark", "here").await.ok().map(|()| cache)
        })
        .await;
    }

    /// Moves the instance to a plan with these members more, while it is paused and all is allowed: nothing is done.
    async fn is_left_alone_while_paused(&self, members: Value) {
        pause(self.world, &self.place).await;
        let before = self.deployments().await;
        self.approve(1).await;
        self.change(members).await;
        let paused = ready(&self.world.until_reason(&self.place, "Paused").await).unwrap();
        assert_eq!(paused.status, "True", "{paused:?}");
        assert!(paused.message.contains("cache.akkeris.io/paused"), "{paused:?}");
        assert!(self.is_marked().await);
        assert_eq!(self.deployments().await, before);
        let annotation = "cache.akkeris.io/approve-disruption-";
        self.world.annotate(&self.place, annotation).await;
        resume(self.world, &self.place).await;
    }

    /// Moves the instance to a plan with these members more.
    async fn change(&self, members: Value) {
        self.change_to(&self.engine, members).await;
    }

    async fn change_to(&self, engine: &Value, members: Value) {
        let mut spec = self.base.clone();
        spec.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        let plan = self.world.plan(engine.clone(), "kubernetes", spec).await;
        self.patch(json!({ "spec": { "planRef": { "name": plan } } })).await;
    }

    async fn patch(&self, patch: Value) {
        self.world.patch(&self.place, &patch).await;
    }

    /// Allows the change of the generation that comes so many after the present one, and no other.
    async fn approve(&self, later: i64) {
        let instance = self.world.instance(&self.place).await.unwrap();
        let generation = instance.metadata.generation.unwrap() + later;
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
    let mut cache = Used::new(world, engine, json!({ "memory": "64Mi", "connectionLimit": 100 })).await;
    let address = cache.cache.address.clone();
    cache.mark().await;
    let client = cache.cache.use_steadily();

    cache.is_left_alone_while_paused(json!({ "memory": "96Mi" })).await;
    let waiting = world.until_reason(&cache.place, "AwaitingMaintenance").await;
    let condition = ready(&waiting).unwrap();
    assert_eq!(condition.status, "True");
    assert!(condition.message.contains("approve-disruption"), "{condition:?}");
    assert!(cache.is_marked().await);
    let before = cache.deployments().await;
    cache.approve(0).await;
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
    let unknown = json!({ "type": engine, "version": "99.9" });
    cache
        .change_to(&unknown, json!({ "memory": "96Mi", "image": "example.org/unknown:1" }))
        .await;
    cache.approve(0).await;
    let failing = world.until_reason(&cache.place, "WorkloadFailing").await;
    let condition = ready(&failing).unwrap();
    assert_eq!(condition.status, "True");
    assert!(
        condition.message.contains("example.org/unknown:1 cannot be pulled"),
        "{condition:?}"
    );
    assert!(cache.is_marked().await);
    cache.change(json!({ "memory": "10Mi" })).await;
    let message = stalled(world, &cache.place, "ProviderRefused").await;
    assert!(message.contains("give the plan more memory"), "{message}");
    if engine != "memcached" {
        // On ElastiCache it would begin empty.
        let micro = json!({ "nodeType": "cache.t4g.micro" });
        let elsewhere = plan(world, engine, "8.0", micro).await;
        cache
            .patch(json!({ "spec": { "planRef": { "name": elsewhere } } }))
            .await;
        let message = stalled(world, &cache.place, "PlanMismatch").await;
        let says = "which is by elasticache, without losing its data: put spec.planRef back";
        assert!(message.contains(says), "{message}");
    }
    cache.change(json!({ "memory": "96Mi" })).await;
    cache.until_available().await;
    assert!(cache.is_marked().await);
    assert_eq!(cache.deployments().await, before);
    cache.met("failing changes", client, UNNOTICED).await;
    has_no_backups(world, &cache.place).await;
    let reasons = cache.reasons().await;
    for reason in [
        "Paused",
        "AwaitingMaintenance",
        "Updating",
        "Restarting",
        "WorkloadFailing",
        "ProviderRefused",
    ] {
        assert!(reasons.contains(reason), "{reasons}");
    }
    cache.is_put_back().await;
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

/// What somebody made by hand serves on as it stands until another plan is asked for, at the same address then.
/// `redis-server` stands in for valkey, which has no package for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_valkey_in_the_cluster_is_taken_over_changed_and_given_back() {
    let world = shared().await;
    let place = Place::new("redis-system", &format!("made-{}", uuid::Uuid::new_v4().simple()));
    let container = json!({
        "name": "valkey", "image": "valkey/valkey:8.0", "ports": [{ "containerPort": 6379 }],
        "resources": { "limits": { "memory": "64Mi" } },
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 999, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let address = deployed(world, &place.namespace, &place.name, container, 6379).await;
    let by_hand = Cache::open(&address, true);
    by_hand.set("mark", "here").await.unwrap();
    let client = by_hand.use_steadily();

    let base = json!({ "memory": "96Mi", "connectionLimit": 100 });
    let redis = json!({ "type": "redis", "version": "8.2" });
    let valkey = json!({ "type": "valkey", "version": "8.2" });
    let wrong = world.plan(redis, "kubernetes", base.clone()).await;
    let plan = world.plan(valkey.clone(), "kubernetes", base.clone()).await;
    let adopt = async |plan: &str| {
        world
            .apply(&json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                "metadata": { "name": place.name, "namespace": place.namespace },
                "spec": {
                    "planRef": { "name": plan }, "adopt": { "providerId": place.name, "asOf": { "name": plan } },
                    "deletionPolicy": "Retain",
                },
            }))
            .await;
    };
    adopt(&wrong).await;
    let message = stalled(world, &place, "PlanMismatch").await;
    assert!(message.contains("does not look like redis"), "{message}");
    world.delete(&place).await;
    world.until_gone(&place).await;
    assert!(by_hand.has("mark").await.unwrap());

    adopt(&plan).await;
    let cache = Used::at(world, place, valkey, base).await;
    let told = cache.cache.address.clone();
    assert!(cache.is_marked().await);
    cache.met("take-over", client, Duration::ZERO).await;

    let client = by_hand.use_steadily();
    cache
        .patch(json!({ "spec": { "adopt": { "asOf": null }, "deletionPolicy": "Delete" } }))
        .await;
    world.until_reason(&cache.place, "AwaitingMaintenance").await;
    assert!(cache.is_marked().await);
    cache.approve(0).await;
    let changed = cache.until_available().await;
    assert_eq!(changed.status.unwrap().endpoint.unwrap().address, told);
    assert!(!cache.is_marked().await, "it was replaced");
    cache.met("change of what was taken over", client, UNNOTICED).await;
    cache.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_a_volume_keeps_its_data() {
    let world = shared().await;
    let class = format!("late-{}", uuid::Uuid::new_v4().simple());
    let base = |size: &str| {
        let persistence = json!({ "size": size, "storageClass": class });
        json!({ "memory": "64Mi", "connectionLimit": 100, "persistence": persistence })
    };
    let engine = json!({ "type": "redis", "version": "8.2" });
    let small = world.plan(engine.clone(), "kubernetes", base("1Gi")).await;
    let large = world.plan(engine.clone(), "kubernetes", base("2Gi")).await;
    let place = world.order_by_yaml(&small, json!({})).await;
    let claimed = format!("{}-data", place.name);
    let of_claim = async |path: &str| {
        let path = format!("jsonpath={{{path}}}");
        world
            .kubectl(&["get", "pvc", "-n", &place.namespace, &claimed, "-o", &path])
            .await
    };
    // Kubernetes lets no claim grow that has no volume: it is said what is lacking, and it grows once it has one.
    world.until_reason(&place, "WorkloadFailing").await;
    world
        .patch(&place, &json!({ "spec": { "planRef": { "name": large } } }))
        .await;
    let waiting = world.until_reason(&place, "WorkloadFailing").await;
    let message = ready(&waiting).unwrap().message;
    assert!(message.contains("no machine takes its Pod"), "{message}");
    assert_eq!(of_claim(".spec.resources.requests.storage").await, "1Gi");
    world
        .apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": class },
            "provisioner": "example.org/none", "allowVolumeExpansion": true,
        }))
        .await;
    world
        .kubectl(&[
            "annotate",
            "pvc",
            "-n",
            &place.namespace,
            &claimed,
            "example.org/seen=true",
        ])
        .await;
    let cache = Used::at(world, place.clone(), engine, base("2Gi")).await;
    eventually("a larger volume", async || {
        (of_claim(".spec.resources.requests.storage").await == "2Gi").then_some(())
    })
    .await;
    let claim = async || of_claim(".metadata.uid").await;
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
    world.kubectl(&["delete", "storageclass", &class]).await;
}
