//! Webhooks: platforms that gave a URL are told when an operation ended.
//!
//! An event is delivered at least once: it is written with the end of its operation, and stands until an attempt was
//! completed. Its id and time are part of the signed body, so a receiver can tell a repetition, or a replay.

mod deliver;
mod target;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

pub use deliver::{Deliverer, DeliveryError, Dial, Dialling, Line, SIGNATURE};
pub use target::{Policy, Target, TargetError, target};

use crate::ambient;
use crate::ledger::webhooks::{Attempted, DueWebhook};
use crate::ledger::{Ledger, listen};

/// How many are delivered at one time.
const CONCURRENCY: usize = 64;
/// How long a claim holds: longer than an attempt and its record can take.
const LEASE: Duration = Duration::from_secs(45);
/// How often the ledger is asked while anything is due.
const SWEEP: Duration = Duration::from_secs(5);
/// How often it is asked although nothing is.
const IDLE_SWEEP: Duration = Duration::from_secs(60);
/// How long deliveries under way may go on when the process is to end.
const FAREWELL: Duration = Duration::from_secs(12);

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

/// Delivers webhooks until told to stop. Any number of processes may do so at once.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn run(
    ledger: Ledger,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), rustls::Error> {
    deliver(ledger, settings.retry, Deliverer::new(settings.policy)?, shutdown).await;
    Ok(())
}

/// Delivers webhooks in a given way until told to stop.
pub async fn deliver(ledger: Ledger, retry: bool, deliverer: Deliverer, shutdown: impl Future<Output = ()> + Send) {
    let deliverer = Arc::new(deliverer);
    let listener = ledger.listen(listen::WEBHOOKS);
    let mut attempts = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let wait = claim(&ledger, retry, &deliverer, &mut attempts).await;
        tokio::select! {
            () = &mut shutdown => break,
            () = listener.notified() => {}
            Some(_) = attempts.join_next() => {}
            () = tokio::time::sleep(wait) => {}
        }
        while attempts.try_join_next().is_some() {}
    }
    let farewell = async { while attempts.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("webhooks under way were cut off; they are delivered again");
    }
}

/// Starts what is due and there is room for, and returns how long to wait before looking again.
async fn claim(ledger: &Ledger, retry: bool, deliverer: &Arc<Deliverer>, attempts: &mut JoinSet<()>) -> Duration {
    let room = CONCURRENCY.saturating_sub(attempts.len());
    if room == 0 {
        return SWEEP;
    }
    let claimed = match ledger.claim_webhooks(room, LEASE).await {
        Ok(claimed) => claimed,
        Err(error) => {
            tracing::warn!(%error, "webhooks wait");
            return SWEEP;
        }
    };
    for due in claimed {
        attempts.spawn(attempt(ledger.clone(), retry, deliverer.clone(), due));
    }
    match ledger.next_webhook().await {
        // What is due and was not claimed waits behind an earlier event of its instance.
        Ok(Some(Duration::ZERO)) | Err(_) => SWEEP,
        Ok(Some(due)) => due.min(SWEEP),
        Ok(None) => IDLE_SWEEP,
    }
}

async fn attempt(ledger: Ledger, retry: bool, deliverer: Arc<Deliverer>, due: DueWebhook) {
    let result = deliverer.deliver(&due.target, &due.body).await;
    let attempted = settle(
        result.map_err(|error| error.to_string()),
        due.attempts,
        retry,
        ambient::fraction(),
    );
    let (event, instance) = (due.id, &due.instance_id);
    match &attempted {
        Attempted::Delivered => tracing::info!(%event, %instance, "webhook delivered"),
        Attempted::Dead { error } => tracing::warn!(%event, %instance, %error, "webhook given up"),
        Attempted::Again { after, error } => {
            tracing::info!(%event, %instance, %error, seconds = after.as_secs(), "webhook failed, tried again later");
        }
    }
    if let Err(error) = ledger.settle_webhook(&due, &attempted).await {
        tracing::warn!(%event, %instance, %error, "a webhook's attempt was not recorded; it is delivered again");
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
