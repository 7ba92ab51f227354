//! What was seen of custom resources and is not in the ledger yet: in order for each instance, side by side for different
//! ones.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::api::CacheInstance;
use crate::ledger::{Gone, InstanceId};

/// What was seen of a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    /// It is there, and so.
    Present(Box<CacheInstance>),
    /// It is gone.
    Absent(Gone),
}

/// Sightings that wait, at most two of a resource for every time that it was made: of what is seen of it while an earlier
/// sighting waits, only the last counts.
#[derive(Debug, Default)]
pub struct Sightings {
    waiting: HashMap<InstanceId, VecDeque<Sighting>>,
    /// Instances whose turn it is, once each.
    turns: VecDeque<InstanceId>,
    /// Those that are being written.
    busy: HashSet<InstanceId>,
}

impl Sightings {
    /// Notes what was seen of the resource of an instance.
    pub fn note(&mut self, instance: InstanceId, sighting: Sighting) {
        let of_instance = self.waiting.entry(instance.clone()).or_default();
        match (of_instance.back_mut(), &sighting) {
            (Some(Sighting::Present(earlier)), Sighting::Present(later)) if is_same(earlier, later) => {
                earlier.clone_from(later);
                return;
            }
            _ => of_instance.push_back(sighting),
        }
        if of_instance.len() == 1 && !self.busy.contains(&instance) {
            self.turns.push_back(instance);
        }
    }

    /// The next to be written, of an instance of which nothing is being written.
    pub fn next(&mut self) -> Option<(InstanceId, Sighting)> {
        let instance = self.turns.pop_front()?;
        let of_instance = self.waiting.get_mut(&instance)?;
        let sighting = of_instance.pop_front()?;
        if of_instance.is_empty() {
            self.waiting.remove(&instance);
        }
        self.busy.insert(instance.clone());
        Some((instance, sighting))
    }

    /// Notes that one was written.
    pub fn written(&mut self, instance: InstanceId) {
        self.busy.remove(&instance);
        if self.waiting.contains_key(&instance) {
            self.turns.push_back(instance);
        }
    }
}

/// Whether both are of one resource, and not of one that took the other's name.
fn is_same(one: &CacheInstance, other: &CacheInstance) -> bool {
    let of = |instance: &CacheInstance| {
        let metadata = &instance.metadata;
        (metadata.uid.clone(), metadata.namespace.clone(), metadata.name.clone())
    };
    of(one) == of(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(uid: &str, version: &str) -> Sighting {
        let instance = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "osb-1", "namespace": "n", "uid": uid, "resourceVersion": version },
            "spec": { "planRef": { "name": "p" } },
        });
        Sighting::Present(serde_json::from_value(instance).unwrap())
    }

    fn gone() -> Sighting {
        Sighting::Absent(Gone {
            namespace: "n".to_owned(),
            name: "osb-1".to_owned(),
            uid: Some("u".to_owned()),
        })
    }

    fn id(id: &str) -> InstanceId {
        id.parse().unwrap()
    }

    #[test]
    fn of_what_waits_only_the_last_counts_and_nothing_overtakes() {
        let mut sightings = Sightings::default();
        sightings.note(id("a"), seen("u", "1"));
        sightings.note(id("a"), seen("u", "2"));
        sightings.note(id("b"), seen("v", "3"));
        sightings.note(id("a"), gone());
        sightings.note(id("a"), seen("w", "5"));
        sightings.note(id("a"), seen("w", "6"));
        assert_eq!(sightings.next(), Some((id("a"), seen("u", "2"))));
        assert_eq!(sightings.next(), Some((id("b"), seen("v", "3"))));
        assert_eq!(sightings.next(), None, "both are being written");
        sightings.note(id("b"), seen("v", "7"));
        sightings.written(id("b"));
        sightings.written(id("a"));
        assert_eq!(sightings.next(), Some((id("b"), seen("v", "7"))));
        assert_eq!(sightings.next(), Some((id("a"), gone())));
        sightings.written(id("a"));
        assert_eq!(sightings.next(), Some((id("a"), seen("w", "6"))));
        sightings.written(id("a"));
        sightings.written(id("b"));
        assert_eq!(sightings.next(), None);
    }

    #[test]
    fn one_whose_resource_was_made_again_is_seen_as_both() {
        let mut sightings = Sightings::default();
        sightings.note(id("a"), seen("u", "1"));
        sightings.note(id("a"), seen("w", "2"));
        assert_eq!(sightings.next(), Some((id("a"), seen("u", "1"))));
        sightings.written(id("a"));
        assert_eq!(sightings.next(), Some((id("a"), seen("w", "2"))));
    }
}
