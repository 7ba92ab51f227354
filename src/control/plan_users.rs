//! Which instances use which plan, kept by the watch of instances, so that no plan has to look through all of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use super::pool;
use crate::api::CacheInstance;
use crate::api::conditions::{self, READY, Reason};
use crate::provider::kubernetes::Scope;

/// The namespace and name of an instance.
pub type Key = (String, String);

/// Which instances use which plan. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct PlanUsers(Arc<Mutex<Index>>);

#[derive(Debug, Default)]
struct Index {
    instances: HashMap<Key, Use>,
    plans: HashMap<String, Users>,
    /// Instances that the list under way has not come to yet, by scope.
    listing: HashMap<Scope, HashSet<Key>>,
    listed: HashSet<Scope>,
}

/// What an instance uses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Use {
    /// The plan that it names.
    names: String,
    /// The plan that it runs from.
    runs: Option<String>,
    /// Whether it waits in a pool for its order.
    member: bool,
    /// Whether it waits for the plan that it names, or for a revision of it.
    waits: bool,
}

/// The instances of one plan.
#[derive(Debug, Default)]
struct Users {
    /// Those that were ordered.
    ordered: BTreeSet<Key>,
    /// Those that wait in its pool.
    members: BTreeSet<Key>,
    /// Those of both that cannot go on without it.
    waiting: BTreeSet<Key>,
}

/// By whom a plan is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many instances that were ordered name the plan, or run from it.
    pub ordered: usize,
    /// Some of them.
    pub examples: Vec<Key>,
    /// Those that wait for the plan, or for a revision of it.
    pub waiting: Vec<Key>,
}

/// How many users of a plan are named at most.
const EXAMPLES: usize = 5;

/// An instance by its key.
pub fn reference(key: &Key) -> ObjectRef<CacheInstance> {
    ObjectRef::new(&key.1).within(&key.0)
}

impl PlanUsers {
    /// A list of a scope begins: what it does not come to is gone.
    pub fn begin(&self, scope: &Scope) {
        let mut index = self.0.lock();
        let of_scope = |key: &&Key| scope.as_ref().is_none_or(|scope| *scope == key.0);
        let known = index.instances.keys().filter(of_scope).cloned().collect();
        index.listing.insert(scope.clone(), known);
    }

    /// A list of a scope is complete. Returns the plans of instances that are gone.
    pub fn complete(&self, scope: &Scope) -> BTreeSet<String> {
        let mut index = self.0.lock();
        let gone = index.listing.remove(scope).unwrap_or_default();
        let plans = gone.iter().flat_map(|key| index.remove(key)).collect();
        index.listed.insert(scope.clone());
        plans
    }

    /// An instance is as it is. Returns the plans that it uses, or used.
    pub fn note(&self, scope: &Scope, instance: &CacheInstance) -> BTreeSet<String> {
        let key = (instance.namespace().unwrap_or_default(), instance.name_any());
        let running = instance.status.as_ref().and_then(|status| status.plan.as_ref());
        let said = instance
            .status
            .as_ref()
            .and_then(|status| conditions::find(&status.conditions, READY));
        let waits = [Reason::PlanNotFound, Reason::PlanRevisionNotFound];
        let uses = Use {
            names: instance.spec.plan_ref.name.clone(),
            runs: running.map(|plan| plan.name.clone()),
            member: pool::is_member(instance),
            waits: said.is_some_and(|said| waits.iter().any(|reason| reason.as_str() == said.reason)),
        };
        let mut index = self.0.lock();
        if let Some(listing) = index.listing.get_mut(scope) {
            listing.remove(&key);
        }
        let mut plans = uses.plans();
        if index.instances.get(&key) != Some(&uses) {
            plans.extend(index.remove(&key));
            index.insert(key, uses);
        }
        plans
    }

    /// An instance is gone. Returns the plans that it used.
    pub fn forget(&self, instance: &CacheInstance) -> BTreeSet<String> {
        let key = (instance.namespace().unwrap_or_default(), instance.name_any());
        self.0.lock().remove(&key)
    }

    /// By whom a plan is used; `None` until so many scopes were listed once.
    pub fn of(&self, plan: &str, scopes: usize) -> Option<Usage> {
        let index = self.0.lock();
        (index.listed.len() >= scopes).then(|| {
            index.plans.get(plan).map_or_else(Usage::default, |users| Usage {
                ordered: users.ordered.len(),
                examples: users.ordered.iter().take(EXAMPLES).cloned().collect(),
                waiting: users.waiting.iter().cloned().collect(),
            })
        })
    }

    /// Every instance of a plan, those of its pool too.
    pub fn all(&self, plan: &str) -> Vec<Key> {
        let index = self.0.lock();
        let users = index.plans.get(plan);
        users
            .map(|users| users.ordered.iter().chain(&users.members).cloned().collect())
            .unwrap_or_default()
    }
}

impl Use {
    fn plans(&self) -> BTreeSet<String> {
        std::iter::once(&self.names).chain(&self.runs).cloned().collect()
    }
}

impl Index {
    fn insert(&mut self, key: Key, uses: Use) {
        for plan in uses.plans() {
            let waits = uses.waits && plan == uses.names;
            let users = self.plans.entry(plan).or_default();
            let group = if uses.member {
                &mut users.members
            } else {
                &mut users.ordered
            };
            group.insert(key.clone());
            if waits {
                users.waiting.insert(key.clone());
            }
        }
        self.instances.insert(key, uses);
    }

    fn remove(&mut self, key: &Key) -> BTreeSet<String> {
        let Some(uses) = self.instances.remove(key) else {
            return BTreeSet::new();
        };
        let plans = uses.plans();
        for plan in &plans {
            if let Some(users) = self.plans.get_mut(plan) {
                users.ordered.remove(key);
                users.members.remove(key);
                users.waiting.remove(key);
                if users.ordered.is_empty() && users.members.is_empty() {
                    self.plans.remove(plan);
                }
            }
        }
        plans
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn instance(name: &str, names: &str, runs: Option<&str>, member: bool, reason: &str) -> CacheInstance {
        let plan = runs.map(|plan| {
            json!({ "name": plan, "id": plan, "engine": "redis", "version": "7", "provider": "kubernetes", "revision": 1 })
        });
        let labels = if member {
            json!({ crate::api::labels::POOL: names })
        } else {
            json!({})
        };
        serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": name, "namespace": "n", "labels": labels },
            "spec": { "planRef": { "name": names } },
            "status": {
                "plan": plan,
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": reason, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    fn key(name: &str) -> Key {
        ("n".to_owned(), name.to_owned())
    }

    #[test]
    fn a_plan_is_used_by_those_that_name_it_and_those_that_still_run_from_it() {
        let users = PlanUsers::default();
        users.note(&None, &instance("a", "p", None, false, "PlanNotFound"));
        assert_eq!(users.of("p", 1), None, "nothing is said before the list is complete");
        users.complete(&None);
        assert_eq!(users.of("p", 1).unwrap().waiting, [key("a")]);
        users.note(&None, &instance("a", "p", Some("p"), false, "Creating"));
        assert!(users.of("p", 1).unwrap().waiting.is_empty());
        let told = users.note(&None, &instance("a", "q", Some("p"), false, "PlanNotFound"));
        assert_eq!(told, ["p".to_owned(), "q".to_owned()].into());
        assert_eq!(users.of("p", 1).unwrap().examples, [key("a")]);
        assert_eq!(users.of("p", 1).unwrap().waiting, []);
        assert_eq!(users.of("q", 1).unwrap().waiting, [key("a")]);
        users.note(&None, &instance("m", "q", None, true, "Creating"));
        assert_eq!(users.of("q", 1).unwrap().ordered, 1);
        assert_eq!(users.all("q"), [key("a"), key("m")]);
        let told = users.note(&None, &instance("a", "q", Some("q"), false, "Available"));
        assert_eq!(told, ["p".to_owned(), "q".to_owned()].into());
        assert_eq!(users.of("p", 1), Some(Usage::default()));
    }

    proptest! {
        /// Whatever is seen, also over lists that miss what was there: the index is that of what there is.
        #[test]
        fn it_is_as_if_all_were_looked_through(
            seen in prop::collection::vec((0u8..6, 0u8..3, prop::option::of(0u8..3), any::<bool>()), 0..40),
            last in prop::collection::vec((0u8..6, 0u8..3, prop::option::of(0u8..3), any::<bool>()), 0..6),
        ) {
            let made = |(name, names, runs, member): (u8, u8, Option<u8>, bool)| {
                let (name, names, runs) = (name.to_string(), names.to_string(), runs.map(|plan| plan.to_string()));
                instance(&name, &names, runs.as_deref(), member, "PlanNotFound")
            };
            let users = PlanUsers::default();
            for each in seen {
                if each.0 == 5 {
                    users.forget(&made(each));
                } else {
                    users.note(&None, &made(each));
                }
            }
            users.begin(&None);
            let mut there = HashMap::new();
            for each in last {
                users.note(&None, &made(each));
                there.insert(each.0, made(each));
            }
            users.complete(&None);
            let fresh = PlanUsers::default();
            for instance in there.values() {
                fresh.note(&None, instance);
            }
            fresh.complete(&None);
            for plan in ["0", "1", "2"] {
                prop_assert_eq!(users.of(plan, 1), fresh.of(plan, 1));
                prop_assert_eq!(users.all(plan), fresh.all(plan));
            }
        }
    }
}
