use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::{Decision, Desired, Existence, Place, Report};
use super::instance::Instance;
use super::observed::Observed;
use super::{Placement, Step};
use crate::api::conditions::{Progress, Reason};
use crate::api::{DeletionPolicy, KubernetesSpec};

/// What to do next for an instance in the cluster.
pub fn decide(
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
    now: Timestamp,
) -> Decision<Step> {
    match desired.existence {
        Existence::Present => Instance::new(desired, spec, placement, observed, now).decide(),
        Existence::Absent(_) | Existence::Superseded => remove(desired, observed),
    }
}

/// What to do next about a cache in the cluster that is to go.
pub fn remove(desired: &Desired, observed: &Observed) -> Decision<Step> {
    match desired.existence {
        Existence::Absent(policy) => absent(desired, policy, observed),
        // The connection Secret is that of the cache that took its place.
        Existence::Present | Existence::Superseded => {
            absent(desired, DeletionPolicy::Delete, &without_secrets(observed))
        }
    }
}

/// A report on an instance that is in the cluster.
pub fn report(desired: &Desired, progress: Progress, reason: Reason, message: impl Into<String>) -> Report {
    let mut record = desired.record.clone();
    record.serving = Some(Place::Kubernetes);
    Report::new(progress, reason, message, record)
}

fn without_secrets(observed: &Observed) -> Observed {
    Observed {
        secrets: BTreeMap::new(),
        ..observed.clone()
    }
}

fn absent(desired: &Desired, policy: DeletionPolicy, observed: &Observed) -> Decision<Step> {
    let deleting = |message: String| report(desired, Progress::Reconciling, Reason::Deleting, message);
    // What an earlier instance of the name left to be kept is not ours.
    let owned: Vec<_> = observed
        .keys()
        .into_iter()
        .filter(|(kind, name)| observed.is_of(&desired.uid, *kind, name))
        .collect();
    if owned.is_empty() {
        return Decision::release(deleting("nothing is left that belongs to it".to_owned()));
    }
    if policy == DeletionPolicy::Retain && (desired.was_ready || desired.adopt.is_some()) {
        return Decision::act(
            Step::Disown(owned),
            deleting("letting go of what is to be kept".to_owned()),
        );
    }
    let standing: Vec<_> = owned
        .iter()
        .filter(|(kind, name)| !observed.is_deleting(*kind, name))
        .cloned()
        .collect();
    let names: Vec<_> = owned
        .iter()
        .map(|(kind, name)| format!("{} {name}", kind.as_str()))
        .collect();
    let report = deleting(format!("waiting for the end of {}", names.join(", ")));
    if standing.is_empty() {
        Decision::rest(report)
    } else {
        Decision::act(Step::Delete(standing), report)
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
