//! The objects of all instances, held in memory by watches and found by instance.

use std::collections::{BTreeMap, HashSet};
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
use super::held::{self, Held, Kept, Likeness, Text};
use crate::api::{CacheInstance, labels};
use crate::provider::Fault;

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

/// How many objects are listed at a time: what a list brings is read as a whole.
pub const PAGE: u32 = 100;

/// Objects of one kind, by the namespace and name of their instance.
pub struct Children<K> {
    held: RwLock<Held<K>>,
    likeness: Likeness,
    listed: watch::Sender<usize>,
}

impl<K> Default for Children<K> {
    fn default() -> Self {
        Self {
            held: RwLock::default(),
            likeness: Likeness::default(),
            listed: watch::Sender::new(0),
        }
    }
}

/// A kind of object that is written, and held.
pub trait Stored: Kept {
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
    ///
    /// # Errors
    /// When what is held cannot be read.
    pub fn observe(&self, namespace: &str, instance: &str) -> Result<Observed, Fault> {
        Ok(Observed {
            secrets: self.secrets.of(namespace, instance)?,
            deployments: self.deployments.of(namespace, instance)?,
            services: self.services.of(namespace, instance)?,
            policies: self.policies.of(namespace, instance)?,
            budgets: self.budgets.of(namespace, instance)?,
            claims: self.claims.of(namespace, instance)?,
            pods: self.pods.of(namespace, instance)?,
            ..Observed::default()
        })
    }

    /// Holds an object as the API server answered when it was written, before the watch tells of it: whoever decides
    /// after a write sees what was written.
    pub fn wrote<K: Stored>(&self, object: K) {
        K::children(self).wrote(object);
    }

    /// A Secret of one instance. One that cannot be read is as if it was not there.
    pub fn secret(&self, namespace: &str, instance: &str, name: &str) -> Option<Arc<Secret>> {
        let instance = (namespace.to_owned(), instance.to_owned());
        let text = self.secrets.held.read().one(&instance, name)?;
        held::read(&[text])
            .inspect_err(|error| tracing::error!(%namespace, secret = %name, %error, "a Secret is not read"))
            .ok()?
            .remove(name)
    }

    /// The Secrets of one instance.
    ///
    /// # Errors
    /// When what is held cannot be read.
    pub fn secrets_of(&self, namespace: &str, instance: &str) -> Result<BTreeMap<String, Arc<Secret>>, Fault> {
        self.secrets.of(namespace, instance)
    }
}

impl<K: Kept> Children<K> {
    fn of(&self, namespace: &str, instance: &str) -> Result<BTreeMap<String, Arc<K>>, Fault> {
        let texts = self.held.read().of(&(namespace.to_owned(), instance.to_owned()));
        held::read(&texts).map_err(|error| {
            let kind = K::kind(&());
            Fault::transient(format!(
                "reading the {kind}s that are held of {namespace}/{instance}: {error}"
            ))
        })
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
        let ours = watcher::Config::default()
            .labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER))
            .page_size(PAGE);
        let mut events = pin!(watcher(api, ours).default_backoff());
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
                        self.keep_only(scope, &std::mem::take(&mut seen), nudge).await;
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
        (namespace, instance, _): (String, String, String),
        object: K,
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
    ) {
        let reference = ObjectRef::new(&instance).within(&namespace);
        let Some(text) = self.text(object) else { return };
        // What was held already, since we wrote it, is no news.
        if self.held.write().put((namespace, instance), text) {
            let _ = nudge.send(reference).await;
        }
    }

    /// An object as it is held. What cannot be is as if it was not there, and would be applied anew.
    fn text(&self, object: K) -> Option<Text<K>> {
        let name = object.name_any();
        Text::of(object, &self.likeness)
            .inspect_err(|error| tracing::error!(kind = %K::kind(&()), %name, %error, "not held"))
            .ok()
    }

    fn wrote(&self, object: K) {
        if let Some((namespace, instance, _)) = key(&object) {
            let uid = object.uid();
            let Some(text) = self.text(object) else { return };
            let mut held = self.held.write();
            if uid.is_none_or(|uid| !held.was_deleted(&uid)) {
                held.put((namespace, instance), text);
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
            .all()
            .filter(|((namespace, _), _, _)| scope.as_ref().is_none_or(|scope| scope == namespace))
            .map(|((namespace, instance), name, uid)| {
                let key = (namespace.clone(), instance.clone(), name.to_owned());
                (key, uid.map(str::to_owned))
            })
            .filter(|(key, _)| !seen.contains(key))
            .collect();
        for (key, uid) in gone {
            self.remove(&key, uid, nudge).await;
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
            let secrets = children.of("n", "a").unwrap();
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
            children.of("n", "a").unwrap().keys().collect::<Vec<_>>(),
            ["a-auth", "a-connection"]
        );
        let seen = HashSet::from([("n".to_owned(), "a".to_owned(), "a-auth".to_owned())]);
        children.keep_only(&Some("n".to_owned()), &seen, &nudge).await;
        assert_eq!(children.of("n", "a").unwrap().len(), 1);
        assert!(children.of("n", "b").unwrap().is_empty());
        let mut count = 0;
        while nudged.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 5);
    }
}
