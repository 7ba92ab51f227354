//! Webhooks: platforms that gave a URL are told when an operation ended.
//!
//! An event is delivered at least once: it is written with the end of its operation, and stands until an attempt was
//! completed. Its id and time are part of the signed body, so a receiver can tell a repetition, or a replay.

pub mod command;
mod connect;
mod deliver;
mod dispatch;
mod target;

use std::time::Duration;

pub use deliver::{Deliverer, DeliveryError, SIGNATURE, SIGNATURE_V2, TIMESTAMP, signature};
pub use dispatch::{deliver, run};
pub use target::{Policy, Target, TargetError, target};

use crate::ledger::webhooks::Attempted;

/// The pause after the first failed attempt; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long a receiver is asked again, all pauses together.
const PERSISTENCE: Duration = Duration::from_secs(24 * 3600);

/// How webhooks are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which receivers are allowed.
    pub policy: Policy,
    /// Whether a receiver that does not take an event is asked again (`RETRY_WEBHOOKS`).
    pub retry: bool,
}

/// The pause before the next attempt when that many have failed, before jitter; `None` once it is enough.
fn pause(failed: u32) -> Option<Duration> {
    let nth = |n: u32| {
        FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(n.saturating_sub(1)))
            .min(LONGEST_PAUSE)
    };
    let total: Duration = (1..=failed.min(100)).map(nth).sum();
    (failed <= 100 && total <= PERSISTENCE).then(|| nth(failed))
}

/// What becomes of an event after an attempt. `jitter` is from 0 to 1: it spreads the events that one outage held up.
fn settle(result: Result<(), String>, completed: i32, retry: bool, jitter: f64) -> Attempted {
    let Err(error) = result else {
        return Attempted::Delivered;
    };
    let failed = u32::try_from(completed).unwrap_or(0).saturating_add(1);
    match pause(failed).filter(|_| retry) {
        Some(pause) => Attempted::Again {
            after: pause.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)),
            error,
        },
        None => Attempted::Dead { error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_end_after_a_day() {
        assert_eq!(pause(1), Some(FIRST_PAUSE));
        assert_eq!(pause(2), Some(FIRST_PAUSE * 2));
        assert_eq!(pause(20), Some(LONGEST_PAUSE));
        let pauses: Vec<_> = (1..).map_while(pause).collect();
        let total: Duration = pauses.iter().sum();
        assert!(total <= PERSISTENCE && total > PERSISTENCE - LONGEST_PAUSE, "{total:?}");
        assert_eq!(pause(u32::MAX), None);
    }

    #[test]
    fn one_completed_attempt_is_all_unless_retries_are_asked_for() {
        let failed = || Err("500".to_owned());
        assert_eq!(settle(Ok(()), 0, false, 0.5), Attempted::Delivered);
        assert_eq!(
            settle(failed(), 0, false, 0.5),
            Attempted::Dead {
                error: "500".to_owned()
            }
        );
        for jitter in [0.0, 0.5, 1.0, 7.0] {
            let Attempted::Again { after, .. } = settle(failed(), 0, true, jitter) else {
                panic!("given up at once");
            };
            assert!((4.0..=6.0).contains(&after.as_secs_f64()), "{after:?}");
        }
        assert!(matches!(settle(failed(), 60, true, 0.5), Attempted::Dead { .. }));
    }
}
