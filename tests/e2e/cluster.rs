//! What stands in the cluster and in the ledger for an instance.

use std::process::Stdio;

use cache_broker::api::CacheInstance;
use cache_broker::api::conditions::{self, READY};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::osb::Order;
use crate::world::{World, eventually, kubectl_command};

/// Every kind of object that an instance is made of.
const CHILDREN: &str =
    "deployments,replicasets,pods,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims";

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

    pub async fn instances(&self, namespace: &str) -> Api<CacheInstance> {
        Api::namespaced(self.sandbox.kube().await.unwrap(), namespace)
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
        let selector = format!("app.kubernetes.io/instance={}", place.name);
        let names = self
            .kubectl(&["get", CHILDREN, "-n", &place.namespace, "-l", &selector, "-o", "name"])
            .await;
        names.lines().map(str::to_owned).collect()
    }

    /// Waits until nothing is left of an instance in the cluster and in ElastiCache.
    pub async fn until_nothing_is_left(&self, place: &Place, provider_id: Option<&str>) {
        eventually(&format!("the end of {place:?}"), async || {
            self.instance(place).await.is_none().then_some(())
        })
        .await;
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
