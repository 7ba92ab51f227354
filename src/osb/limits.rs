//! How much one caller may ask for: requests a second, and requests at one time. What is over a limit is refused with 429
//! before anything is read or recorded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::OsbError;

/// How many callers are remembered; those at rest are forgotten beyond.
const REMEMBERED: usize = 1024;

/// The limits of each caller. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimits {
    /// Requests a second on average; as many again may come at once.
    pub rate: u32,
    /// Requests at one time.
    pub concurrency: u32,
}

/// What a caller has used.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Requests under way.
    running: u32,
    /// Requests that may come at once.
    left: f64,
    /// When that was so.
    at: Instant,
}

/// Counts what callers use.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    limits: CallerLimits,
    callers: Arc<Mutex<HashMap<String, Used>>>,
}

/// A request under way.
#[derive(Debug)]
pub struct Underway {
    counter: Counter,
    caller: String,
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(used) = self.counter.callers.lock().get_mut(&self.caller) {
            used.running = used.running.saturating_sub(1);
        }
    }
}

impl Counter {
    /// A counter for those limits.
    pub fn new(limits: CallerLimits) -> Self {
        Self {
            limits,
            callers: Arc::default(),
        }
    }

    /// Lets a caller's request go on, until what this returns is dropped.
    ///
    /// # Errors
    /// When the caller is over a limit.
    pub(super) fn enter(&self, caller: &str, now: Instant) -> Result<Option<Underway>, OsbError> {
        let CallerLimits { rate, concurrency } = self.limits;
        if rate == 0 && concurrency == 0 {
            return Ok(None);
        }
        let mut callers = self.callers.lock();
        if callers.len() >= REMEMBERED && !callers.contains_key(caller) {
            let full = f64::from(rate);
            callers.retain(|_, used| used.running > 0 || self.left(used, now) < full);
        }
        let used = callers.entry(caller.to_owned()).or_insert(Used {
            running: 0,
            left: f64::from(rate),
            at: now,
        });
        if concurrency > 0 && used.running >= concurrency {
            return Err(OsbError::too_many(
                format!("{caller} has {concurrency} requests under way, which is the limit: wait for one to end"),
                Duration::from_secs(1),
            ));
        }
        if rate > 0 {
            let left = self.left(used, now);
            (used.left, used.at) = (left, now);
            if left < 1.0 {
                let wait = Duration::try_from_secs_f64((1.0 - left) / f64::from(rate)).unwrap_or_default();
                return Err(OsbError::too_many(
                    format!("{caller} sends more than {rate} requests a second, which is the limit: send fewer"),
                    wait.max(Duration::from_secs(1)),
                ));
            }
            used.left -= 1.0;
        }
        used.running += 1;
        Ok(Some(Underway {
            counter: self.clone(),
            caller: caller.to_owned(),
        }))
    }

    fn left(&self, used: &Used, now: Instant) -> f64 {
        let rate = f64::from(self.limits.rate);
        let gained = now.saturating_duration_since(used.at).as_secs_f64() * rate;
        (used.left + gained).min(rate)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_caller_has_so_many_at_one_time_and_others_are_not_touched() {
        let counter = Counter::new(CallerLimits {
            rate: 0,
            concurrency: 2,
        });
        let now = Instant::now();
        let first = counter.enter("a", now).unwrap();
        let _second = counter.enter("a", now).unwrap();
        let refused = counter.enter("a", now).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(counter.enter("b", now).is_ok());
        drop(first);
        assert!(counter.enter("a", now).is_ok());
    }

    #[test]
    fn a_caller_has_so_many_a_second() {
        let counter = Counter::new(CallerLimits {
            rate: 10,
            concurrency: 0,
        });
        let start = Instant::now();
        let sent = |at: Duration, count: usize| (0..count).filter(|_| counter.enter("a", start + at).is_ok()).count();
        assert_eq!(sent(Duration::ZERO, 50), 10);
        assert_eq!(sent(Duration::from_millis(500), 50), 5);
        assert_eq!(sent(Duration::from_secs(60), 50), 10);
    }

    #[test]
    fn callers_at_rest_are_forgotten() {
        let counter = Counter::new(CallerLimits {
            rate: 1,
            concurrency: 1,
        });
        let now = Instant::now();
        for number in 0..3 * REMEMBERED {
            let later = now + Duration::from_secs(number as u64);
            assert!(counter.enter(&number.to_string(), later).is_ok());
            assert!(counter.callers.lock().len() <= REMEMBERED);
        }
        assert!(Counter::default().enter("a", now).unwrap().is_none());
    }
}
