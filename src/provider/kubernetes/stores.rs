//! The objects of all instances, held in memory by watches and found by instance.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::Observed;
use crate::api::{CacheInstance, is_later, labels};
use crate::provider::objects::Child;

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

/// How many deletions are remembered: more than a watch tells of while one answer is on its way.
const DELETIONS: usize = 1024;

/// Objects of one kind, by the namespace and name of their instance and then by their own name.
pub struct Children<K> {
    held: RwLock<Held<K>>,
    listed: watch::Sender<usize>,
}

struct Held<K> {
    objects: HashMap<Instance, BTreeMap<String, Arc<K>>>,
    /// The uids of the last that were deleted: the answer to a write may come after the watch told of its end.
    deleted: VecDeque<String>,
}

impl<K> Default for Children<K> {
    fn default() -> Self {
        Self {
            held: RwLock::new(Held {
                objects: HashMap::new(),
                deleted: VecDeque::new(),
            }),
            listed: watch::Sender::new(0),
        }
    }
}

/// A kind of object that is held.
pub trait Stored: Child {
    /// Where.
    fn children(stores: &Stores) -> &Children<Self>;
}

macro_rules! stored {
    ($($kind:ty => $field:ident),*) => { $(
        impl Stored for $kind {
            fn children(stores: &Stores) -> &Children<Self> {
                &stores.$field
            }
        }
    )* };
}

stored! {
    Deployment => deployments,
    Service => services,
    NetworkPolicy => policies,
    PodDisruptionBudget => budgets,
    PersistentVolumeClaim => claims,
    Secret => secrets
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

    /// Holds an object as the API server answered when it was written, before the watch tells of it: whoever decides
    /// after a write sees what was written.
    pub fn wrote<K: Stored>(&self, object: K) {
        K::children(self).wrote(object);
    }

    /// The Secrets of one instance.
    pub fn secrets_of(&self, namespace: &str, instance: &str) -> BTreeMap<String, Arc<Secret>> {
        self.secrets.of(namespace, instance)
    }
}

impl<K: Child> Children<K> {
    fn of(&self, namespace: &str, instance: &str) -> BTreeMap<String, Arc<K>> {
        self.held
            .read()
            .objects
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
                            self.remove(&key, object.uid(), nudge).await;
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
        // What was held already, since we wrote it, is no news.
        if self.held.write().put((namespace, instance), name, object) {
            let _ = nudge.send(reference).await;
        }
    }

    fn wrote(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        if let Some((namespace, instance, name)) = key(&object) {
            let mut held = self.held.write();
            if object.uid().is_none_or(|uid| !held.deleted.contains(&uid)) {
                held.put((namespace, instance), name, object);
            }
        }
    }

    /// Removes an object, if it is that one and not another of its name.
    async fn remove(
        &self,
        key: &(String, String, String),
        uid: Option<String>,
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
    ) {
        let (namespace, instance, name) = key;
        self.held
            .write()
            .remove(&(namespace.clone(), instance.clone()), name, uid);
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
            .held
            .read()
            .objects
            .iter()
            .filter(|((namespace, _), _)| scope.as_ref().is_none_or(|scope| scope == namespace))
            .flat_map(|((namespace, instance), children)| {
                let key = |name: &String| (namespace.clone(), instance.clone(), name.clone());
                children.iter().map(move |(name, object)| (key(name), object.uid()))
            })
            .filter(|(key, _)| !seen.contains(key))
            .collect();
        for (key, uid) in gone {
            self.remove(&key, uid, nudge).await;
        }
    }
}

impl<K: ResourceExt> Held<K> {
    /// Returns whether it is news: neither what is held nor earlier than that.
    fn put(&mut self, instance: Instance, name: String, object: K) -> bool {
        let children = self.objects.entry(instance).or_default();
        let is_news = children.get(&name).is_none_or(|held| {
            let versions = object.resource_version().zip(held.resource_version());
            held.uid() != object.uid() || versions.is_none_or(|(version, held)| is_later(&version, &held))
        });
        if is_news {
            children.insert(name, Arc::new(object));
        }
        is_news
    }

    fn remove(&mut self, instance: &Instance, name: &str, uid: Option<String>) {
        if let Some(children) = self.objects.get_mut(instance) {
            if children.get(name).is_some_and(|held| held.uid() == uid) {
                children.remove(name);
            }
            if children.is_empty() {
                self.objects.remove(instance);
            }
        }
        if self.deleted.len() >= DELETIONS {
            self.deleted.pop_front();
        }
        self.deleted.extend(uid);
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

    fn version(uid: &str, version: &str) -> Secret {
        let mut secret = secret("a-auth", "a");
        secret.metadata.uid = Some(uid.to_owned());
        secret.metadata.resource_version = Some(version.to_owned());
        secret
    }

    #[tokio::test]
    async fn what_was_written_is_seen_at_once_and_nothing_older_takes_its_place() {
        let (nudge, mut nudged) = mpsc::channel(16);
        let children = Children::<Secret>::default();
        let held = || {
            let secrets = children.of("n", "a");
            secrets.get("a-auth").and_then(|secret| secret.resource_version())
        };
        let place = key(&version("u", "1")).unwrap();
        children.wrote(version("u", "10"));
        assert_eq!(held().as_deref(), Some("10"));
        for told in ["9", "10"] {
            children.put(place.clone(), version("u", told), &nudge).await;
            assert_eq!(held().as_deref(), Some("10"));
        }
        assert!(nudged.try_recv().is_err(), "neither was news");
        children.put(place.clone(), version("u", "11"), &nudge).await;
        assert_eq!(held().as_deref(), Some("11"));
        assert!(nudged.try_recv().is_ok());
        // The end of one that had the name before is not the end of this one.
        children.remove(&place, Some("before".to_owned()), &nudge).await;
        assert_eq!(held().as_deref(), Some("11"));
        children.remove(&place, Some("u".to_owned()), &nudge).await;
        assert_eq!(held(), None);
        // The answer to the write came after the watch told of all of its life.
        children.wrote(version("u", "10"));
        assert_eq!(held(), None);
        children.wrote(version("next", "12"));
        assert_eq!(held().as_deref(), Some("12"));
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
