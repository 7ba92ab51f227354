//! Wake-ups from other processes by `LISTEN` and `NOTIFY`. A wake-up may be lost while a connection is away, so whoever
//! waits for one also looks by himself from time to time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;

use super::error::chain;
use super::{Ledger, LedgerError};

/// Told when a row of the outbox becomes due.
pub const OUTBOX: &str = "cache_broker_outbox";
/// Told when a webhook becomes due.
pub const WEBHOOKS: &str = "cache_broker_webhooks";

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often a connection that says nothing is asked whether it still stands.
const PROBE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);

/// Wake-ups of one channel. The connection behind it ends when this is dropped.
#[derive(Debug)]
pub struct Listener {
    wakeups: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl Listener {
    /// Waits for the next wake-up. Those that come while nobody waits count as one. Cancelling loses none.
    pub async fn notified(&self) {
        self.wakeups.notified().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Ledger {
    /// Listens to a channel ([`OUTBOX`], [`WEBHOOKS`]) on a connection of its own, which is made again when it breaks.
    /// A new connection counts as a wake-up, for what was missed meanwhile.
    pub fn listen(&self, channel: &'static str) -> Listener {
        if let Some(gate) = &self.gate {
            return Listener {
                wakeups: gate.listen(channel),
                task: None,
            };
        }
        let wakeups = Arc::new(Notify::new());
        let task = tokio::spawn(keep_listening(self.clone(), channel, wakeups.clone()));
        Listener {
            wakeups,
            task: Some(task),
        }
    }

    async fn listen_once(&self, channel: &'static str, wakeups: &Notify) -> Result<(), LedgerError> {
        let attempt = format!("listening to {channel}");
        let refused = || LedgerError::statement(attempt.clone());
        let tls = self
            .url
            .tls()
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let late = |_| LedgerError::Unavailable(format!("{attempt}: no answer within {} s", ANSWER.as_secs()));
        let (client, mut connection) = tokio::time::timeout(ANSWER, self.url.config().connect(tls))
            .await
            .map_err(late)?
            .map_err(|error| LedgerError::Unavailable(format!("{}: {}", self.url.place(), chain(&error))))?;
        let messages = stream::poll_fn(move |context| connection.poll_message(context));
        let talk = async {
            let listen = format!("listen {channel}");
            tokio::time::timeout(ANSWER, client.batch_execute(&listen))
                .await
                .map_err(late)?
                .map_err(refused())?;
            wakeups.notify_one();
            loop {
                tokio::time::sleep(PROBE).await;
                tokio::time::timeout(ANSWER, client.batch_execute(""))
                    .await
                    .map_err(late)?
                    .map_err(refused())?;
            }
        };
        let hear = async {
            let mut messages = std::pin::pin!(messages);
            while let Some(message) = messages.next().await {
                if let AsyncMessage::Notification(_) = message.map_err(refused())? {
                    wakeups.notify_one();
                }
            }
            Err(LedgerError::Unavailable(format!(
                "{attempt}: Postgres closed the connection"
            )))
        };
        tokio::select! {
            ended = talk => ended,
            ended = hear => ended,
        }
    }
}

async fn keep_listening(ledger: Ledger, channel: &'static str, wakeups: Arc<Notify>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let since = tokio::time::Instant::now();
        if let Err(error) = ledger.listen_once(channel, &wakeups).await {
            tracing::warn!(channel, %error, "no wake-ups from Postgres for now; connecting again");
        }
        if since.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Announcements that are to be made, by channel.
#[derive(Debug, Default)]
pub(super) struct Unannounced {
    outbox: AtomicUsize,
    webhooks: AtomicUsize,
}

impl Unannounced {
    fn of(&self, channel: &str) -> &AtomicUsize {
        if channel == OUTBOX {
            &self.outbox
        } else {
            &self.webhooks
        }
    }
}

impl Ledger {
    /// Wakes the outboxes of all processes, this one's at once.
    pub(super) fn announce_outbox(&self) {
        self.outbox.notify_one();
        self.announce(OUTBOX);
    }

    /// Wakes the listeners of a channel. It is called after the commit: Postgres lets transactions that notify commit one
    /// after the other only, each once its record is on disk. Announcements that come while one is under way are made as
    /// one; those of a process that dies are left to the sweeps of the others.
    pub(super) fn announce(&self, channel: &'static str) {
        if self.gate.is_none() && self.unannounced.of(channel).fetch_add(1, Ordering::AcqRel) == 0 {
            tokio::spawn(keep_telling(self.clone(), channel));
        }
    }

    async fn tell(&self, channel: &str) -> Result<(), LedgerError> {
        // One message is one transaction, and nothing of this one has to last.
        let statement = format!("set local synchronous_commit = off; notify {channel}");
        let attempt = format!("notifying {channel}");
        self.within(&attempt, async {
            self.client()
                .await?
                .batch_execute(&statement)
                .await
                .map_err(LedgerError::statement(&attempt))
        })
        .await
    }
}

async fn keep_telling(ledger: Ledger, channel: &'static str) {
    let unannounced = ledger.unannounced.of(channel);
    loop {
        let told = unannounced.load(Ordering::Acquire);
        if let Err(error) = ledger.tell(channel).await {
            tracing::debug!(channel, %error, "other processes find by themselves what was accepted");
        }
        let done = unannounced.compare_exchange(told, 0, Ordering::AcqRel, Ordering::Acquire);
        if done.is_ok() {
            return;
        }
    }
}

/// Wakes the listeners of a channel once the transaction is committed.
pub(super) async fn notify(tx: &Transaction<'_>, channel: &str) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("notifying {channel}"));
    let statement = tx.prepare_cached("select pg_notify($1, '')").await.map_err(refused())?;
    tx.execute(&statement, &[&channel]).await.map_err(refused())?;
    Ok(())
}
