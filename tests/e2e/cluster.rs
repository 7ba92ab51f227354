//! What stands in the cluster and in the ledger for an instance.

use std::process::Stdio;

use cache_broker::api::conditions::{self, READY};
use cache_broker::api::{CacheInstance, CachePlan};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::osb::Order;
use crate::world::{World, eventually, kubectl_command};

/// Every kind of object that an instance is made of.
fn kinds() -> [ApiResource; 8] {
    [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
    ]
}

/// Where the resource of an ordered instance is: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

impl Place {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl World {
    /// Where an ordered instance stands.
    pub async fn place(&self, order: &Order) -> Place {
        let row = self
            .sql()
            .await
            .query_one("select namespace, name from instances where id = $1", &[&order.id])
            .await
            .unwrap();
        Place::new(row.get(0), row.get(1))
    }

    /// Annotates an instance, or takes the annotation off it that ends in a hyphen.
    pub async fn annotate(&self, place: &Place, annotation: &str) {
        let arguments = [
            "annotate",
            "--overwrite",
            "cinst",
            "-n",
            &place.namespace,
            &place.name,
            annotation,
        ];
        self.kubectl(&arguments).await;
    }

    /// Changes an instance by a merge patch.
    pub async fn patch(&self, place: &Place, change: &Value) {
        let (namespace, change) = (&place.namespace, change.to_string());
        let arguments = [
            "patch",
            "cinst",
            "-n",
            namespace,
            &place.name,
            "--type=merge",
            "-p",
            &change,
        ];
        self.kubectl(&arguments).await;
    }

    pub async fn instances(&self, namespace: &str) -> Api<CacheInstance> {
        Api::namespaced(self.kube().await, namespace)
    }

    pub async fn instance(&self, place: &Place) -> Option<CacheInstance> {
        self.instances(&place.namespace)
            .await
            .get_opt(&place.name)
            .await
            .unwrap()
    }

    /// Waits until the condition `Ready` of an instance satisfies a test, and returns the instance.
    pub async fn until(&self, place: &Place, what: &str, test: impl Fn(&Condition) -> bool) -> CacheInstance {
        let api = self.instances(&place.namespace).await;
        let mut last = None;
        eventually(&format!("{what} of {place:?}"), async || {
            let instance = api.get(&place.name).await.unwrap();
            let found = ready(&instance);
            if found.is_some() && found != last {
                println!("{}: {found:?}", place.name);
                last.clone_from(&found);
            }
            found.filter(|condition| test(condition)).map(|_| instance)
        })
        .await
    }

    /// Waits until the condition `Ready` has a reason, and returns the instance.
    pub async fn until_reason(&self, place: &Place, reason: &str) -> CacheInstance {
        self.until(place, reason, |condition| condition.reason == reason).await
    }

    pub async fn until_ready(&self, place: &Place) -> CacheInstance {
        self.until(place, "readiness", |condition| condition.status == "True")
            .await
    }

    /// The names of what stands in the cluster for an instance, such as `pod/a`.
    pub async fn children(&self, place: &Place) -> Vec<String> {
        let client = self.kube().await;
        let labelled = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", place.name));
        let kinds = kinds();
        let lists = kinds.iter().map(async |kind| {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &place.namespace, kind);
            let found = api.list_metadata(&labelled).await.unwrap().items;
            let kind = kind.kind.to_lowercase();
            let names: Vec<_> = found
                .iter()
                .map(|object| format!("{kind}/{}", object.name_any()))
                .collect();
            names
        });
        join_all(lists).await.concat()
    }

    /// The Events of an instance with a reason: their types and notes.
    pub async fn events(&self, place: &Place, reason: &str) -> Vec<(String, String)> {
        let api: Api<Event> = Api::namespaced(self.kube().await, &place.namespace);
        let told = ListParams::default().fields(&format!("reason={reason},regarding.name={}", place.name));
        let events = api.list(&told).await.unwrap().items.into_iter();
        events
            .map(|event| (event.type_.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// The newest revision of a plan that is recorded.
    pub async fn revision(&self, plan: &str) -> Option<i64> {
        let plans: Api<CachePlan> = Api::all(self.kube().await);
        plans.get(plan).await.unwrap().status?.revision
    }

    /// Waits until the resource of an instance is gone.
    pub async fn until_gone(&self, place: &Place) {
        eventually(&format!("the end of {place:?}"), async || {
            self.instance(place).await.is_none().then_some(())
        })
        .await;
    }

    /// Waits until nothing is left of an instance in the cluster and in ElastiCache.
    pub async fn until_nothing_is_left(&self, place: &Place, provider_id: Option<&str>) {
        self.until_gone(place).await;
        if let Some(id) = provider_id {
            assert!(!self.exists_in_elasticache(id), "{id} is left in ElastiCache");
        }
        // What it owned is collected a moment later.
        eventually(&format!("the end of what {place:?} owned"), async || {
            self.children(place).await.is_empty().then_some(())
        })
        .await;
    }

    pub fn exists_in_elasticache(&self, id: &str) -> bool {
        let left = self.sandbox.elasticache().unwrap().remaining();
        let member = format!("{id}-");
        left.replication_groups.iter().any(|group| group == id)
            || left
                .cache_clusters
                .iter()
                .any(|cluster| cluster == id || cluster.starts_with(&member))
    }

    /// How often ElastiCache was asked for something about an id, and answered so.
    pub fn calls(&self, operation: &str, id: &str) -> Vec<sandbox::elasticache::Call> {
        let calls = self.sandbox.elasticache().unwrap().calls();
        let about = |call: &sandbox::elasticache::Call| call.parameters.values().any(|value| value == id);
        calls
            .into_iter()
            .filter(|call| call.operation == operation && about(call))
            .collect()
    }

    pub async fn apply(&self, object: &Value) {
        let mut child = kubectl_command(&self.sandbox)
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(object.to_string().as_bytes()).await.unwrap();
        drop(input);
        assert!(child.wait().await.unwrap().success(), "{object}");
    }

    /// A plan with a name and id of its own; returns the name.
    pub async fn plan(&self, engine: Value, provider: &str, spec: Value) -> String {
        let name = format!("e2e-{}", uuid::Uuid::new_v4().simple());
        let service = if engine["type"] == "memcached" {
            "akkeris-memcached"
        } else {
            "akkeris-redis"
        };
        let mut plan = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": name },
            "spec": { "service": service, "id": name, "description": "Of a test.", "engine": engine },
        });
        plan["spec"][provider] = spec;
        self.apply(&plan).await;
        name
    }

    /// Puts other members into the spec of a plan; returns the revision that it has then.
    pub async fn edit(&self, plan: &str, spec: &Value) -> i64 {
        let before = eventually("a revision of the plan", async || self.revision(plan).await).await;
        let change = json!({ "spec": spec }).to_string();
        self.kubectl(&["patch", "cplan", plan, "--type=merge", "-p", &change])
            .await;
        eventually("the next revision of the plan", async || {
            self.revision(plan).await.filter(|now| *now > before)
        })
        .await
    }

    /// An instance of a plan, with annotations, in the namespace of redis.
    pub async fn order_by_yaml(&self, plan: &str, annotations: Value) -> Place {
        let place = Place::new("redis-system", &format!("e2e-{}", uuid::Uuid::new_v4().simple()));
        self.apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": place.name, "namespace": place.namespace, "annotations": annotations },
            "spec": { "planRef": { "name": plan } },
        }))
        .await;
        place
    }

    pub async fn delete(&self, place: &Place) {
        self.kubectl(&["delete", "cinst", "-n", &place.namespace, &place.name, "--wait=false"])
            .await;
    }

    pub async fn count(&self, query: &str, order: &Order) -> i64 {
        self.sql().await.query_one(query, &[&order.id]).await.unwrap().get(0)
    }
}

/// The condition `Ready`, if it speaks of the present generation.
pub fn ready(instance: &CacheInstance) -> Option<Condition> {
    let status = instance.status.as_ref()?;
    let condition = conditions::find(&status.conditions, READY)?;
    (condition.observed_generation == instance.metadata.generation).then(|| condition.clone())
}

pub fn provider_id(instance: &CacheInstance) -> String {
    instance.status.as_ref().unwrap().provider_id.clone().unwrap()
}
