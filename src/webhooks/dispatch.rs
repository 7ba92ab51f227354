//! The loop of a process that delivers, and the passes it is made of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{Deliverer, Settings, settle};
use crate::ambient;
use crate::ledger::webhooks::Attempted;
use crate::ledger::{DueWebhook, Ledger, LedgerError, Room, listen};
use crate::telemetry::metrics::record::{self, Delivery};

/// How many are delivered at one time, and how many to one receiver.
const CONCURRENCY: usize = 64;
const PER_RECEIVER: usize = 16;
/// How long a claim holds that is not renewed: what a process that died was about to deliver waits so long.
const LEASE: Duration = Duration::from_secs(8);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// How often the ledger is asked while anything is due.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon it is asked again for what is due and could not be claimed: its receiver has no room, or others were faster.
const CROWDED: Duration = Duration::from_secs(1);
/// How often it is asked although nothing is.
const IDLE_SWEEP: Duration = Duration::from_secs(60);
/// How long deliveries under way may go on when the process is to end.
const FAREWELL: Duration = Duration::from_secs(12);

/// What a process is delivering.
#[derive(Default)]
struct UnderWay {
    attempts: JoinSet<()>,
    about: HashMap<Id, (Uuid, Option<Vec<u8>>)>,
}

impl UnderWay {
    fn room(&self) -> Room {
        Room {
            free: CONCURRENCY.saturating_sub(self.attempts.len()),
            per_receiver: PER_RECEIVER,
            busy: self
                .about
                .values()
                .filter_map(|(_, receiver)| receiver.clone())
                .collect(),
        }
    }

    fn claims(&self) -> Vec<Uuid> {
        let mut claims: Vec<_> = self.about.values().map(|(claim, _)| *claim).collect();
        claims.sort_unstable();
        claims.dedup();
        claims
    }

    fn start(&mut self, due: DueWebhook, attempt: impl Future<Output = ()> + Send + 'static) {
        let about = (due.claim, due.receiver);
        let task = self.attempts.spawn(attempt);
        self.about.insert(task.id(), about);
    }

    /// Waits until one has ended; for ever if none is under way.
    async fn ended(&mut self) {
        match self.attempts.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.about.remove(&id)),
            Some(Err(error)) => drop(self.about.remove(&error.id())),
            None => std::future::pending().await,
        }
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
    let mut under_way = UnderWay::default();
    let mut renewals = tokio::time::interval_at(Instant::now() + RENEWAL, RENEWAL);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut look = Instant::now();
    loop {
        if look <= Instant::now() {
            look = Instant::now() + claim(&ledger, retry, &deliverer, &mut under_way).await;
        }
        tokio::select! {
            () = &mut shutdown => break,
            () = listener.notified() => look = Instant::now(),
            // There is room for one more, or the next one of an instance.
            () = under_way.ended() => look = Instant::now(),
            () = tokio::time::sleep_until(look) => {}
            _ = renewals.tick() => renew(&ledger, &under_way).await,
        }
    }
    let farewell = async {
        while !under_way.attempts.is_empty() {
            tokio::select! {
                () = under_way.ended() => {}
                _ = renewals.tick() => renew(&ledger, &under_way).await,
            }
        }
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("webhooks under way were cut off; they are delivered again");
    }
}

async fn renew(ledger: &Ledger, under_way: &UnderWay) {
    let claims = under_way.claims();
    if claims.is_empty() {
        return;
    }
    if let Err(error) = ledger.renew_webhooks(&claims, LEASE).await {
        tracing::warn!(%error, "webhooks under way are not held, and may be delivered twice");
    }
}

/// Starts what is due and there is room for, and returns how long to wait before looking again.
async fn claim(ledger: &Ledger, retry: bool, deliverer: &Arc<Deliverer>, under_way: &mut UnderWay) -> Duration {
    let room = under_way.room();
    if room.free == 0 {
        return SWEEP;
    }
    let claimed = match ledger.claim_webhooks(&room, LEASE).await {
        Ok(claimed) => claimed,
        Err(error) => {
            tracing::warn!(%error, "webhooks wait");
            return SWEEP;
        }
    };
    for due in claimed {
        let (ledger, deliverer, event) = (ledger.clone(), deliverer.clone(), due.clone());
        let attempt = async move {
            if let Err(error) = attempt(&ledger, retry, &deliverer, &event, ambient::fraction()).await {
                let (event, instance) = (event.id, &event.instance_id);
                tracing::warn!(%event, %instance, %error, "a webhook's attempt was not recorded; it is delivered again");
            }
        };
        under_way.start(due, attempt);
    }
    match ledger.next_webhook().await {
        Ok(Some(Duration::ZERO)) => CROWDED,
        Ok(Some(due)) => due.min(SWEEP),
        Ok(None) => IDLE_SWEEP,
        Err(_) => SWEEP,
    }
}

/// Makes one attempt of a webhook that was claimed, and records what became of it. `jitter` is from 0 to 1.
///
/// # Errors
/// When the ledger cannot be told; the webhook is then delivered again once its claim has run out.
async fn attempt(
    ledger: &Ledger,
    retry: bool,
    deliverer: &Deliverer,
    due: &DueWebhook,
    jitter: f64,
) -> Result<Attempted, LedgerError> {
    let result = deliverer.deliver(&due.target, &due.body).await;
    let attempted = settle(result.map_err(|error| error.to_string()), due.attempts, retry, jitter);
    let (event, instance) = (due.id, &due.instance_id);
    record::webhook(match &attempted {
        Attempted::Delivered => Delivery::Delivered,
        Attempted::Again { .. } => Delivery::Failed,
        Attempted::Dead { .. } => Delivery::Dead,
    });
    match &attempted {
        Attempted::Delivered => tracing::info!(%event, %instance, "webhook delivered"),
        Attempted::Dead { error } => tracing::warn!(%event, %instance, %error, "webhook given up"),
        Attempted::Again { after, error } => {
            tracing::info!(%event, %instance, %error, seconds = after.as_secs(), "webhook failed, tried again later");
        }
    }
    ledger.settle_webhook(due, &attempted).await?;
    Ok(attempted)
}
