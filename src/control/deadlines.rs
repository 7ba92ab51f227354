//! Ends operations that outlive their plan's deadline, so that a platform hears of a failure before it gives up polling.
//!
//! Every process that serves or reconciles looks, whoever leads: a platform must not wait for a leader. Each row is ended
//! by whoever locks it first, and only once.

use std::time::Duration;

use crate::ledger::Ledger;

/// How often operations past their deadline are looked for.
const EXPIRY: Duration = Duration::from_secs(5);

/// Fails operations past their deadline, until told to stop.
pub async fn run(ledger: Ledger, stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut tick = tokio::time::interval(EXPIRY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = tick.tick() => {}
        }
        match ledger.expire_operations().await {
            Ok(0) => {}
            Ok(ended) => {
                tracing::warn!(ended, "operations outlived their deadline");
                // A look ends some of them.
                tick.reset_immediately();
            }
            Err(error) => tracing::warn!(%error, "looking for operations past their deadline"),
        }
    }
}
