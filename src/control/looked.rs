//! Which version of each object was looked at last: what waits to be reconciled is what changed since. The queue of
//! kube-runtime itself cannot be seen.

use std::collections::HashMap;
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

/// The versions at which reconciles of a kind began.
#[derive(Debug)]
pub struct Looked<K: Resource<DynamicType = ()>>(Mutex<HashMap<ObjectRef<K>, Option<String>>>);

impl<K: Resource<DynamicType = ()>> Default for Looked<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource<DynamicType = ()>> Looked<K> {
    /// Notes that a reconcile of an object begins.
    pub fn begin(&self, object: &K) {
        let version = object.resource_version();
        self.0.lock().insert(ObjectRef::from_obj(object), version);
    }

    /// How many of these changed since, or were never looked at. Those that are gone are forgotten.
    pub fn behind(&self, objects: impl IntoIterator<Item = Arc<K>>) -> usize {
        let standing: HashMap<_, _> = objects
            .into_iter()
            .map(|object| (ObjectRef::from_obj(&*object), object.resource_version()))
            .collect();
        let mut looked = self.0.lock();
        looked.retain(|object, _| standing.contains_key(object));
        standing
            .iter()
            .filter(|(object, version)| looked.get(*object) != Some(*version))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CacheBackup;

    fn backup(name: &str, version: &str) -> Arc<CacheBackup> {
        let backup = serde_json::json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheBackup",
            "metadata": { "name": name, "namespace": "n", "resourceVersion": version },
            "spec": { "instanceRef": { "name": "i" } },
        });
        Arc::new(serde_json::from_value(backup).unwrap())
    }

    #[test]
    fn what_changed_since_the_last_look_waits_and_what_is_gone_is_forgotten() {
        let looked = Looked::default();
        assert_eq!(looked.behind([backup("a", "1"), backup("b", "2")]), 2);
        looked.begin(&backup("a", "1"));
        assert_eq!(looked.behind([backup("a", "1"), backup("b", "2")]), 1);
        assert_eq!(looked.behind([backup("a", "3"), backup("b", "2")]), 2);
        looked.begin(&backup("a", "3"));
        assert_eq!(looked.behind([backup("b", "2")]), 1);
        assert_eq!(looked.behind([backup("a", "3")]), 1, "it was forgotten");
    }
}
