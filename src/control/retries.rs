//! What is remembered of an object between reconciles, for pacing only. Losing it costs nothing but a retry.

use std::collections::HashMap;
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use super::kind;
use crate::ambient;
use crate::provider::Fault;
use crate::telemetry::metrics::record;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);
/// How many steps in a row are taken at full speed. An object that takes more does not converge.
const STEPS_AT_FULL_SPEED: u32 = 12;

/// Failures and steps in a row, by object.
#[derive(Debug)]
pub struct Retries<K: Resource<DynamicType = ()>>(Mutex<HashMap<ObjectRef<K>, Pace>>);

impl<K: Resource<DynamicType = ()>> Default for Retries<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    steps: u32,
    fault: Option<Fault>,
}

impl<K: Resource<DynamicType = ()>> Retries<K> {
    /// Notes a failure; returns how long to wait before the next try.
    pub fn failed(&self, object: &ObjectRef<K>, fault: Option<Fault>) -> Duration {
        if let Some(fault) = &fault {
            record::reconcile_error(kind::<K>(), fault.kind.word());
        }
        let mut paces = self.0.lock();
        let pace = paces.entry(object.clone()).or_default();
        pace.failures = pace.failures.saturating_add(1);
        pace.fault = fault;
        jittered(backoff(pace.failures), ambient::fraction())
    }

    /// Notes a step that was done; returns how long to wait at least before the next one.
    pub fn stepped(&self, object: &ObjectRef<K>) -> Duration {
        let mut paces = self.0.lock();
        let pace = paces.entry(object.clone()).or_default();
        pace.failures = 0;
        pace.fault = None;
        pace.steps = pace.steps.saturating_add(1);
        match pace.steps.checked_sub(STEPS_AT_FULL_SPEED) {
            None | Some(0) => Duration::ZERO,
            Some(beyond) => {
                tracing::warn!(%object, steps = pace.steps, "an object takes step after step without coming to rest");
                backoff(beyond)
            }
        }
    }

    /// How many objects wait because their last try failed.
    pub fn failing(&self) -> usize {
        self.0.lock().values().filter(|pace| pace.failures > 0).count()
    }

    /// The fault of the last try, if it failed.
    pub fn fault(&self, object: &ObjectRef<K>) -> Option<Fault> {
        self.0.lock().get(object).and_then(|pace| pace.fault.clone())
    }

    /// Forgets an object that came to rest, or is gone.
    pub fn rested(&self, object: &ObjectRef<K>) {
        self.0.lock().remove(object);
    }
}

/// How long to wait after that many failures in a row: twice as long each time, up to a bound.
fn backoff(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(LONGEST)
}

/// Between three quarters and all of a wait, by a number from 0 to 1: many objects that failed at once do not come back at
/// once.
fn jittered(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(0.75 + 0.25 * random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CacheInstance;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<_> = [1, 2, 3, 10, 1000]
            .map(|failures| backoff(failures).as_millis())
            .to_vec();
        assert_eq!(waits, [500, 1000, 2000, 256_000, 300_000]);
        for random in [0.0, 0.5, 1.0] {
            let wait = jittered(LONGEST, random);
            assert!(wait >= LONGEST.mul_f64(0.75) && wait <= LONGEST);
        }
    }

    #[test]
    fn an_instance_that_does_not_converge_is_slowed_down_and_one_that_rests_is_not() {
        let (retries, instance) = (Retries::<CacheInstance>::default(), ObjectRef::new("a").within("n"));
        for _ in 0..STEPS_AT_FULL_SPEED {
            assert_eq!(retries.stepped(&instance), Duration::ZERO);
        }
        assert!(retries.stepped(&instance) > Duration::ZERO);
        retries.rested(&instance);
        assert_eq!(retries.stepped(&instance), Duration::ZERO);
    }
}
