//! The loop of a process that delivers, and the passes it is made of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{Deliverer, Settings, settle};
use crate::ambient;
use crate::ledger::webhooks::Attempted;
use crate::ledger::{DueWebhook, Ledger, Room, listen};
use crate::telemetry::metrics::record::{self, Delivery};

/// How many are delivered at one time.
const CONCURRENCY: usize = 512;
/// How long a claim holds that is not renewed: what a process that died was about to deliver waits so long.
const LEASE: Duration = Duration::from_secs(8);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// How often the ledger is asked while anything is due.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon it is asked again when something ended: what ends meanwhile is made up for together.
const PACE: Duration = Duration::from_millis(5);
/// The same while more is due than there was room for: a claim costs nearly the same for a few as for many.
const PACE_OF_MANY: Duration = Duration::from_millis(25);
/// How soon it is asked again for what is due and could not be claimed: its receiver has no room, or others were faster.
const CROWDED: Duration = Duration::from_secs(1);
/// How often it is asked although nothing is.
const IDLE_SWEEP: Duration = Duration::from_secs(60);
/// How long deliveries under way may go on when the process is to end.
const FAREWELL: Duration = Duration::from_secs(12);

/// What a process is delivering.
#[derive(Default)]
struct UnderWay {
    attempts: JoinSet<Attempted>,
    about: HashMap<Id, DueWebhook>,
    /// What became of attempts that ended, and is to be recorded.
    ended: Vec<(DueWebhook, Attempted)>,
    /// The recording of earlier ones, one at a time, and their claims.
    records: JoinSet<()>,
    recorded: Vec<Uuid>,
    /// Whether the last claim took all that there was room for, so that more may be due.
    filled: bool,
}

impl UnderWay {
    fn room(&self) -> Room {
        let taken = self.attempts.len() + self.ended.len() + self.recorded.len();
        Room {
            free: CONCURRENCY.saturating_sub(taken),
            busy: self.about.values().filter_map(|due| due.receiver.clone()).collect(),
        }
    }

    fn claims(&self) -> Vec<Uuid> {
        let attempted = self.about.values().chain(self.ended.iter().map(|(due, _)| due));
        let mut claims: Vec<_> = attempted.map(|due| due.claim).chain(self.recorded.clone()).collect();
        claims.sort_unstable();
        claims.dedup();
        claims
    }

    fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.ended.is_empty() && self.records.is_empty()
    }

    fn start(&mut self, due: DueWebhook, attempt: impl Future<Output = Attempted> + Send + 'static) {
        let task = self.attempts.spawn(attempt);
        self.about.insert(task.id(), due);
    }

    /// Waits until an attempt has ended or those before are on record, and has what ended recorded; for ever if nothing is
    /// under way. Returns whether there is room for more.
    async fn progress(&mut self, ledger: &Ledger) -> bool {
        let recorded = tokio::select! {
            biased;
            Some(_) = self.records.join_next() => {
                self.recorded.clear();
                true
            }
            Some(ended) = self.attempts.join_next_with_id() => {
                self.take(ended);
                while let Some(ended) = self.attempts.try_join_next_with_id() {
                    self.take(ended);
                }
                false
            }
            else => std::future::pending().await,
        };
        if self.records.is_empty() && !self.ended.is_empty() {
            let ended = std::mem::take(&mut self.ended);
            self.recorded = ended.iter().map(|(due, _)| due.claim).collect();
            self.records.spawn(put_on_record(ledger.clone(), ended));
        }
        recorded
    }

    fn take(&mut self, ended: Result<(Id, Attempted), JoinError>) {
        match ended {
            Ok((id, attempted)) => self.ended.extend(self.about.remove(&id).map(|due| (due, attempted))),
            Err(error) => drop(self.about.remove(&error.id())),
        }
    }
}

/// Records what became of attempts.
async fn put_on_record(ledger: Ledger, ended: Vec<(DueWebhook, Attempted)>) {
    if let Err(error) = ledger.settle_webhooks(&ended).await {
        let events = ended.len();
        tracing::warn!(events, %error, "attempts of webhooks were not recorded; they are delivered again");
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
    let (mut look, mut looked) = (Instant::now(), Instant::now());
    loop {
        if look <= Instant::now() {
            look = Instant::now() + claim(&ledger, retry, &deliverer, &mut under_way).await;
            looked = Instant::now();
        }
        // What ended is recorded before more is claimed.
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = renewals.tick() => renew(&ledger, &under_way).await,
            // There is room for more, or for the next one of an instance.
            room = under_way.progress(&ledger) => if room {
                look = look.min(looked + if under_way.filled { PACE_OF_MANY } else { PACE });
            },
            () = listener.notified() => look = Instant::now(),
            () = tokio::time::sleep_until(look) => {}
        }
    }
    let farewell = async {
        while !under_way.is_empty() {
            tokio::select! {
                biased;
                _ = renewals.tick() => renew(&ledger, &under_way).await,
                _ = under_way.progress(&ledger) => {}
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
    let any = !claimed.is_empty();
    under_way.filled = claimed.len() >= room.free;
    for due in claimed {
        let (deliverer, event) = (deliverer.clone(), due.clone());
        under_way.start(due, async move {
            attempt(retry, &deliverer, &event, ambient::fraction()).await
        });
    }
    if any {
        return CROWDED;
    }
    match ledger.next_webhook(SWEEP).await {
        Ok(Some(Duration::ZERO)) => CROWDED,
        Ok(Some(due)) => due.min(SWEEP),
        Ok(None) => IDLE_SWEEP,
        Err(_) => SWEEP,
    }
}

/// Makes one attempt of a webhook that was claimed, and says what became of it. `jitter` is from 0 to 1.
async fn attempt(retry: bool, deliverer: &Deliverer, due: &DueWebhook, jitter: f64) -> Attempted {
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
    attempted
}
