//! How many instances are in which condition, for the metrics.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::CacheInstance;
use crate::api::conditions::{self, READY, RECONCILING, STALLED};
use crate::telemetry::metrics::sources::Condition;

/// Counts instances by plan and condition.
pub(super) fn by_plan(instances: impl Iterator<Item = Arc<CacheInstance>>) -> HashMap<(String, Condition), i64> {
    let mut counts = HashMap::new();
    for instance in instances {
        let key = (instance.spec.plan_ref.name.clone(), condition(&instance));
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// The one condition that describes an instance best, as kstatus reads them: what is stalled is in nobody's hands, and what
/// was said of an earlier generation is no word on this one.
fn condition(instance: &CacheInstance) -> Condition {
    let Some(status) = &instance.status else {
        return Condition::Unknown;
    };
    let holds =
        |type_: &str| conditions::find(&status.conditions, type_).is_some_and(|condition| condition.status == "True");
    let current = status.observed_generation == instance.metadata.generation;
    if holds(STALLED) && current {
        Condition::Stalled
    } else if holds(RECONCILING) || !current {
        Condition::Reconciling
    } else if holds(READY) {
        Condition::Ready
    } else {
        Condition::Unknown
    }
}
