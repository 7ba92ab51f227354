//! Objects as they are held in memory. There are thousands of each kind, and an object that was read takes five times as
//! much as its text: so the text is held, without what nobody here reads, and read again for whoever asks. The objects of
//! one kind are nearly alike: of each text is held what tells it from the first one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use serde::Serialize;

use crate::api::is_later;
use crate::provider::objects::Child;

/// How many deletions are remembered: more than a watch tells of while one answer is on its way.
const DELETIONS: usize = 1024;

/// The namespace and name of an instance.
pub type Instance = (String, String);

/// A kind of object that is held.
pub trait Kept: Child + Serialize {
    /// Leaves out what nobody here reads.
    fn trim(&mut self) {
        self.meta_mut().managed_fields = None;
    }
}

impl Kept for Deployment {}
impl Kept for NetworkPolicy {}
impl Kept for PersistentVolumeClaim {}
impl Kept for PodDisruptionBudget {}
impl Kept for Secret {}
impl Kept for Service {}

impl Kept for Pod {
    /// Of what it was made from, only the claims that it mounts are looked at: the rest stands in its Deployment.
    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(spec) = &mut self.spec {
            let volumes = spec.volumes.take().into_iter().flatten();
            *spec = PodSpec {
                volumes: Some(
                    volumes
                        .filter(|volume| volume.persistent_volume_claim.is_some())
                        .collect(),
                ),
                ..PodSpec::default()
            };
        }
    }
}

/// Objects of one kind, by their instance.
pub struct Held<K> {
    objects: HashMap<Instance, Vec<Text<K>>>,
    /// The uids of the last that were deleted: the answer to a write may come after the watch told of its end.
    deleted: VecDeque<String>,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            deleted: VecDeque::new(),
        }
    }
}

/// The text that all others of a kind are held against: the first one's.
#[derive(Debug, Default)]
pub struct Likeness(OnceLock<Arc<[u8]>>);

/// One object, as it is held.
#[derive(Clone)]
pub struct Text<K> {
    name: Box<str>,
    uid: Option<Box<str>>,
    version: Option<Box<str>>,
    /// The JSON, compressed as an LZ4 block that may point into `likeness`.
    packed: Arc<[u8]>,
    /// The length of the JSON in bytes.
    length: usize,
    likeness: Arc<[u8]>,
    kind: PhantomData<fn() -> K>,
}

/// Why an object cannot be held, or not be read again: a defect in either case.
#[derive(Debug, thiserror::Error)]
pub enum Unheld {
    /// It is no JSON of its kind.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// What is held is damaged.
    #[error("unpacking it: {0}")]
    Packed(#[from] lz4_flex::block::DecompressError),
}

impl<K: Kept> Text<K> {
    /// Trims an object, and writes it.
    ///
    /// # Errors
    /// When that fails, which only a defect brings about.
    pub fn of(mut object: K, likeness: &Likeness) -> Result<Self, Unheld> {
        object.trim();
        let json = serde_json::to_vec(&object)?;
        let likeness = likeness.0.get_or_init(|| json.as_slice().into()).clone();
        Ok(Self {
            name: object.name_any().into(),
            uid: object.uid().map(Into::into),
            version: object.resource_version().map(Into::into),
            packed: lz4_flex::block::compress_with_dict(&json, &likeness).into(),
            length: json.len(),
            likeness,
            kind: PhantomData,
        })
    }

    fn read(&self) -> Result<K, Unheld> {
        let json = lz4_flex::block::decompress_with_dict(&self.packed, self.length, &self.likeness)?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// Whether it says what this one does not: it is of another object, or of a later version.
    fn is_news_to(&self, held: &Self) -> bool {
        let versions = self.version.as_deref().zip(held.version.as_deref());
        self.uid != held.uid || versions.is_none_or(|(version, held)| is_later(version, held))
    }
}

/// The objects that were written so, by name.
///
/// # Errors
/// When one cannot be read, which only a defect brings about.
pub fn read<K: Kept>(texts: &[Text<K>]) -> Result<BTreeMap<String, Arc<K>>, Unheld> {
    let read = |text: &Text<K>| Ok((text.name.to_string(), Arc::new(text.read()?)));
    texts.iter().map(read).collect()
}

impl<K: Kept> Held<K> {
    /// The objects of an instance, to be read once no lock is held.
    pub fn of(&self, instance: &Instance) -> Vec<Text<K>> {
        self.objects.get(instance).cloned().unwrap_or_default()
    }

    /// One of them.
    pub fn one(&self, instance: &Instance, name: &str) -> Option<Text<K>> {
        let children = self.objects.get(instance)?;
        children.iter().find(|held| *held.name == *name).cloned()
    }

    /// Holds an object, unless what is held is as new. Returns whether it was news.
    pub fn put(&mut self, instance: Instance, text: Text<K>) -> bool {
        let children = self.objects.entry(instance).or_default();
        match children.iter_mut().find(|held| held.name == text.name) {
            Some(held) if text.is_news_to(held) => *held = text,
            Some(_) => return false,
            None => {
                children.reserve_exact(1);
                children.push(text);
            }
        }
        true
    }

    /// Whether an object was deleted not long ago.
    pub fn was_deleted(&self, uid: &str) -> bool {
        self.deleted.iter().any(|deleted| deleted == uid)
    }

    /// Lets an object go, if it is that one and not another of its name.
    pub fn remove(&mut self, instance: &Instance, name: &str, uid: Option<String>) {
        if let Some(children) = self.objects.get_mut(instance) {
            children.retain(|held| *held.name != *name || held.uid.as_deref() != uid.as_deref());
            if children.is_empty() {
                self.objects.remove(instance);
            }
        }
        if self.deleted.len() >= DELETIONS {
            self.deleted.pop_front();
        }
        self.deleted.extend(uid);
    }

    /// All that is held: of which instance, under which name, with which uid.
    pub fn all(&self) -> impl Iterator<Item = (&Instance, &str, Option<&str>)> {
        self.objects.iter().flat_map(|(instance, children)| {
            children
                .iter()
                .map(move |text| (instance, &*text.name, text.uid.as_deref()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn back<K: Kept>(object: &Value) -> Value {
        let object: K = serde_json::from_value(object.clone()).unwrap();
        let mut held = Held::default();
        let instance = ("n".to_owned(), "a".to_owned());
        assert!(held.put(instance.clone(), Text::of(object, &Likeness::default()).unwrap()));
        let read = read::<K>(&held.of(&instance)).unwrap();
        serde_json::to_value(&*read["a"]).unwrap()
    }

    #[test]
    fn an_object_comes_back_as_it_was_without_who_wrote_it() {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": { "app": "a" },
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": 6379, "targetPort": "cache" }] },
            "status": { "loadBalancer": {} },
        });
        let mut managed = object.clone();
        managed["metadata"]["managedFields"] = json!([{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }]);
        assert_eq!(back::<Service>(&managed), object);
    }

    #[test]
    fn of_what_a_pod_was_made_from_its_claims_are_held() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "namespace": "n", "deletionTimestamp": "2026-01-02T03:04:05Z" },
            "spec": {
                "containers": [{ "name": "redis", "image": "redis:8" }], "nodeName": "node",
                "volumes": [
                    { "name": "data", "persistentVolumeClaim": { "claimName": "a-data" } },
                    { "name": "token", "emptyDir": {} },
                ],
            },
            "status": { "phase": "Running", "podIP": "10.0.0.2" },
        });
        let held = back::<Pod>(&pod);
        assert_eq!((&held["metadata"], &held["status"]), (&pod["metadata"], &pod["status"]));
        assert_eq!(
            held["spec"],
            json!({ "containers": [], "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "a-data" } }] })
        );
    }

    #[test]
    fn what_is_like_the_first_takes_little_and_what_is_not_comes_back_too() {
        let service = |name: &str, spec: &Value| -> Service {
            serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "n", "uid": format!("uid-of-{name}"), "labels": {
                    "app.kubernetes.io/managed-by": "cache-broker", "app.kubernetes.io/instance": name,
                } },
                "spec": spec,
            }))
            .unwrap()
        };
        let usual = json!({
            "clusterIP": "10.0.0.1", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "sessionAffinity": "None",
            "ports": [{ "name": "redis", "port": 6379, "protocol": "TCP", "targetPort": "redis" }],
        });
        let likeness = Likeness::default();
        let texts: Vec<_> = [
            service("first", &usual),
            service("second", &usual),
            service("third", &json!({ "externalName": "é".repeat(5_000) })),
            service("fourth", &json!({})),
        ]
        .into_iter()
        .map(|service| (service.clone(), Text::of(service, &likeness).unwrap()))
        .collect();
        for (service, text) in &texts {
            assert_eq!(text.read().unwrap(), *service);
        }
        let like = &texts[1].1;
        assert!(
            like.packed.len() * 4 < like.length,
            "{} of {}",
            like.packed.len(),
            like.length
        );
    }

    #[test]
    fn what_is_damaged_is_told_and_nothing_breaks() {
        let secret: Secret = serde_json::from_value(json!({ "metadata": { "name": "a", "namespace": "n" } })).unwrap();
        let text = Text::of(secret, &Likeness::default()).unwrap();
        for cut in 0..text.packed.len() {
            let damaged = Text {
                packed: text.packed[..cut].into(),
                ..text.clone()
            };
            assert!(damaged.read().is_err(), "{cut}");
        }
    }
}
