//! The objects of all instances, held in memory by watches and found by instance.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::Observed;
use crate::api::{CacheInstance, labels};

/// The objects of all instances. Clones share them.
#[derive(Clone, Default)]
pub struct Stores {
    deployments: Arc<Children<Deployment>>,
    services: Arc<Children<Service>>,
    policies: Arc<Children<NetworkPolicy>>,
    budgets: Arc<Children<PodDisruptionBudget>>,
    claims: Arc<Children<PersistentVolumeClaim>>,
    pods: Arc<Children<Pod>>,
    secrets: Arc<Children<Secret>>,
}

/// The namespace and name of an instance.
type Instance = (String, String);

/// Objects of one kind, by the namespace and name of their instance and then by their own name.
pub struct Children<K> {
    objects: RwLock<HashMap<Instance, BTreeMap<String, Arc<K>>>>,
    listed: watch::Sender<usize>,
}

impl<K> Default for Children<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            listed: watch::Sender::new(0),
        }
    }
}

/// What a watch covers: one namespace, or all of them.
pub type Scope = Option<String>;

impl Stores {
    /// Watches the objects of all instances, for ever. `nudge` hears of every instance whose objects changed.
    pub async fn run(&self, client: &Client, scopes: &[Scope], nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) {
        let watches = scopes.iter().map(|scope| async move {
            tokio::join!(
                self.deployments.run(client, scope, nudge),
                self.services.run(client, scope, nudge),
                self.policies.run(client, scope, nudge),
                self.budgets.run(client, scope, nudge),
                self.claims.run(client, scope, nudge),
                self.pods.run(client, scope, nudge),
                self.secrets.run(client, scope, nudge),
            )
        });
        join_all(watches).await;
    }

    /// Waits until everything was listed once, in that many scopes.
    pub async fn ready(&self, scopes: usize) {
        tokio::join!(
            self.deployments.ready(scopes),
            self.services.ready(scopes),
            self.policies.ready(scopes),
            self.budgets.ready(scopes),
            self.claims.ready(scopes),
            self.pods.ready(scopes),
            self.secrets.ready(scopes),
        );
    }

    /// What stands in the cluster for one instance.
    pub fn observe(&self, namespace: &str, instance: &str) -> Observed {
        Observed {
            secrets: self.secrets.of(namespace, instance),
            deployments: self.deployments.of(namespace, instance),
            services: self.services.of(namespace, instance),
            policies: self.policies.of(namespace, instance),
            budgets: self.budgets.of(namespace, instance),
            claims: self.claims.of(namespace, instance),
            pods: self.pods.of(namespace, instance),
            ..Observed::default()
        }
    }

    /// The Secrets of one instance.
    pub fn secrets_of(&self, namespace: &str, instance: &str) -> BTreeMap<String, Arc<Secret>> {
        self.secrets.of(namespace, instance)
    }
}

impl<K> Children<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    fn of(&self, namespace: &str, instance: &str) -> BTreeMap<String, Arc<K>> {
        self.objects
            .read()
            .get(&(namespace.to_owned(), instance.to_owned()))
            .cloned()
            .unwrap_or_default()
    }

    async fn ready(&self, scopes: usize) {
        // The sender lives as long as self: waiting cannot fail.
        let _ = self.listed.subscribe().wait_for(|listed| *listed >= scopes).await;
    }

    async fn run(&self, client: &Client, scope: &Scope, nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) {
        let api: Api<K> = match scope {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let mut events = pin!(
            watcher(api, ours)
                .modify(|object| {
                    object.managed_fields_mut().clear();
                })
                .default_backoff()
        );
        let mut seen: HashSet<(String, String, String)> = HashSet::new();
        let mut first = true;
        loop {
            match events.try_next().await {
                Ok(Some(event)) => match event {
                    Event::Init => seen.clear(),
                    Event::InitApply(object) => {
                        if let Some(key) = key(&object) {
                            seen.insert(key.clone());
                            self.put(key, object, nudge).await;
                        }
                    }
                    Event::InitDone => {
                        self.keep_only(scope, &seen, nudge).await;
                        if std::mem::take(&mut first) {
                            self.listed.send_modify(|listed| *listed += 1);
                        }
                    }
                    Event::Apply(object) => {
                        if let Some(key) = key(&object) {
                            self.put(key, object, nudge).await;
                        }
                    }
                    Event::Delete(object) => {
                        if let Some(key) = key(&object) {
                            self.remove(&key, nudge).await;
                        }
                    }
                },
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), scope = scope.as_deref().unwrap_or("*"), %error, "watching");
                }
            }
        }
    }

    async fn put(
        &self,
        (namespace, instance, name): (String, String, String),
        object: K,
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
    ) {
        let reference = ObjectRef::new(&instance).within(&namespace);
        self.objects
            .write()
            .entry((namespace, instance))
            .or_default()
            .insert(name, Arc::new(object));
        let _ = nudge.send(reference).await;
    }

    async fn remove(&self, key: &(String, String, String), nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) {
        let (namespace, instance, name) = key;
        {
            let mut objects = self.objects.write();
            let of = (namespace.clone(), instance.clone());
            if let Some(children) = objects.get_mut(&of) {
                children.remove(name);
                if children.is_empty() {
                    objects.remove(&of);
                }
            }
        }
        let _ = nudge.send(ObjectRef::new(instance).within(namespace)).await;
    }

    /// Removes what a complete list of a scope did not have.
    async fn keep_only(
        &self,
        scope: &Scope,
        seen: &HashSet<(String, String, String)>,
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
    ) {
        let gone: Vec<_> = self
            .objects
            .read()
            .iter()
            .filter(|((namespace, _), _)| scope.as_ref().is_none_or(|scope| scope == namespace))
            .flat_map(|((namespace, instance), children)| {
                children
                    .keys()
                    .map(|name| (namespace.clone(), instance.clone(), name.clone()))
            })
            .filter(|key| !seen.contains(key))
            .collect();
        for key in gone {
            self.remove(&key, nudge).await;
        }
    }
}

fn key<K: ResourceExt>(object: &K) -> Option<(String, String, String)> {
    let instance = object.labels().get(labels::INSTANCE)?.clone();
    Some((object.namespace()?, instance, object.name_any()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(name: &str, instance: &str) -> Secret {
        serde_json::from_value(json!({ "metadata": {
            "name": name, "namespace": "n", "labels": { labels::INSTANCE: instance },
        } }))
        .unwrap()
    }

    #[tokio::test]
    async fn finds_objects_by_instance_and_forgets_what_a_list_does_not_have() {
        let (nudge, mut nudged) = mpsc::channel(16);
        let children = Children::<Secret>::default();
        for (name, instance) in [("a-auth", "a"), ("a-connection", "a"), ("b-auth", "b")] {
            let object = secret(name, instance);
            children.put(key(&object).unwrap(), object, &nudge).await;
        }
        assert_eq!(
            children.of("n", "a").keys().collect::<Vec<_>>(),
            ["a-auth", "a-connection"]
        );
        let seen = HashSet::from([("n".to_owned(), "a".to_owned(), "a-auth".to_owned())]);
        children.keep_only(&Some("n".to_owned()), &seen, &nudge).await;
        assert_eq!(children.of("n", "a").len(), 1);
        assert!(children.of("n", "b").is_empty());
        let mut count = 0;
        while nudged.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 5);
    }
}
