//! What was promised to platforms, in Postgres: instances, operations, bindings and webhooks; and what was made ahead.
//!
//! Every acceptance is one transaction. Nothing secret stands here in clear, and no lock is held over a call to
//! another system. This room calls nobody; of `api` it knows one type, what it keeps sealed.

mod acceptance;
mod actions;
pub mod audit;
mod binding_acceptance;
mod bindings;
pub mod database_url;
/// What can go wrong in the ledger.
pub mod error;
mod events;
pub mod gate;
pub mod ids;
pub mod import;
mod inspect;
mod instances;
mod issued;
mod letters;
pub mod listen;
mod migrate;
mod operations;
mod outbox;
mod plan_revisions;
mod pool;
mod projection;
mod readers;
mod retention;
pub mod seal;
mod survey;
mod under_way;
mod updates;
mod usage;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

pub use crate::api::Connection;
pub use acceptance::{Judgement, NewDeprovision, NewInstance, Provisioned, Settled, resource_name};
pub use actions::{Backup, Deed, NewAction};
pub use audit::{Answered, Asked, Asker, Originating, Request};
pub use binding_acceptance::{Bindable, BindingUser, Bound, NewBinding, NewUnbinding, Standing, Unbound};
pub use bindings::{Binding, BindingState, Credentials, PolledBinding};
pub use database_url::{DatabaseUrl, DatabaseUrlError};
pub use error::LedgerError;
pub use events::Event;
pub use ids::{BindingId, InstanceId, PlanId, ServiceId};
pub use inspect::Inspection;
pub use instances::{Held, Instance, Polled, PolledOperation};
pub use issued::{Handed, Issued};
pub use letters::{Letter, LetterCounts, LetterState, Letters};
pub use operations::{Operation, OperationKind, OperationState, Outcome, Remains};
pub use outbox::{Adoption, Desired, Later, LaterPlan, OutboxItem};
pub use pool::{MemberState, NewMember, Noted, PoolMember};
pub use projection::{AppliedRow, Epoch, Gone, Observation, Projected, SeenUser, Verdict};
pub use retention::{Forgotten, Kept};
pub use seal::{KeyRing, KeyRingError};
pub use survey::{Survey, Surveyed};
pub use updates::{Change, Changeable, NewUpdate};
pub use usage::{Scope, Usage};
pub use webhooks::{DueWebhook, Room, WebhookTarget};

use crate::telemetry::metrics::sources::Connections;

/// How long a caller waits for a connection.
const WAIT: Duration = Duration::from_secs(5);
/// How long one call of the ledger may take, whatever the network does.
const CALL: Duration = Duration::from_secs(12);

/// The ledger. Clones share its connections.
#[derive(Clone)]
pub struct Ledger {
    pool: Pool,
    keys: Arc<KeyRing>,
    url: Arc<DatabaseUrl>,
    outbox: Arc<Notify>,
    unannounced: Arc<listen::Unannounced>,
    readers: Arc<readers::Readers>,
    gate: Option<Arc<dyn gate::Gate>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Ledger {
    /// A ledger in that database, with at most that many connections. Nothing is connected yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: DatabaseUrl, keys: KeyRing, connections: usize) -> Result<Self, LedgerError> {
        let tls = url.tls().map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let manager = Manager::from_config(
            url.config().clone(),
            tls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(WAIT),
                create: Some(WAIT),
                recycle: Some(WAIT),
            })
            .build()
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        Ok(Self {
            pool,
            keys: Arc::new(keys),
            url: Arc::new(url),
            outbox: Arc::new(Notify::new()),
            unannounced: Arc::default(),
            readers: Arc::new(readers::Readers::new(connections)),
            gate: None,
        })
    }

    /// The same ledger, whose every call passes a gate.
    #[must_use]
    pub fn through(self, gate: Arc<dyn gate::Gate>) -> Self {
        Self {
            gate: Some(gate),
            ..self
        }
    }

    /// Whether Postgres answers.
    ///
    /// # Errors
    /// When it does not, and why.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        let client = self.client().await?;
        client
            .simple_query("select 1")
            .await
            .map_err(LedgerError::statement("asking Postgres for a sign of life"))?;
        Ok(())
    }

    /// How many connections there are and who waits for one.
    pub fn connections(&self) -> Connections {
        let status = self.pool.status();
        Connections {
            open: status.size,
            idle: status.available,
            max: status.max_size,
            waiting: status.waiting,
        }
    }

    /// Told of every acceptance of this process, so that the outbox need not wait for its sweep.
    pub fn outbox_wakeup(&self) -> &Notify {
        &self.outbox
    }

    /// Gives a call of the ledger its deadline.
    async fn within<T>(
        &self,
        attempt: &str,
        call: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let call = async {
            match &self.gate {
                None => call.await,
                Some(gate) => gate::pass(&**gate, attempt, call).await,
            }
        };
        let overdue = async {
            tokio::time::sleep(CALL).await;
            if let Some(gate) = &self.gate {
                gate.give_up().await;
            }
        };
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = overdue => Err(LedgerError::Unavailable(format!(
                "{attempt}: {} did not answer within {} s",
                self.url.place(),
                CALL.as_secs()
            ))),
        }
    }

    async fn client(&self) -> Result<deadpool_postgres::Object, LedgerError> {
        self.pool
            .get()
            .await
            .map_err(|error| LedgerError::Unavailable(format!("{}: {}", self.url.place(), error::chain(&error))))
    }

    fn seal_json(&self, place: &str, value: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
        let text = serde_json::to_vec(value).map_err(|error| LedgerError::Row {
            place: place.to_owned(),
            reason: error.to_string(),
        })?;
        self.keys.seal(place, &text).map_err(|error| LedgerError::Row {
            place: place.to_owned(),
            reason: error.to_string(),
        })
    }

    fn open_json<T: DeserializeOwned>(&self, place: &str, sealed: &[u8]) -> Result<T, LedgerError> {
        let text = self.keys.open(place, sealed).map_err(|source| LedgerError::Sealed {
            place: place.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|error| LedgerError::Row {
            place: place.to_owned(),
            reason: error.to_string(),
        })
    }
}
