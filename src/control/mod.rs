//! The operator: reconcilers for instances and plans, the outbox that writes what was accepted, and the projector that
//! tells the ledger what became of it.

mod backups;
pub mod deadlines;
pub mod decide;
mod events;
mod finalizer;
mod instances;
pub mod leader;
mod occurrences;
pub mod operator;
pub mod outbox;
mod plan_users;
pub mod plans;
pub mod pool;
mod projector;
mod retries;
mod status_record;
mod update;
mod users;

use std::time::Duration;

use finalizer::set_finalizer;

use crate::ledger::LedgerError;

/// How long one call to the API server may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why the operator could not do what it was about to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or does not answer.
    #[error("calling the API server: {0}")]
    Kube(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The ledger refused, or cannot be reached.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part of the operator that should run for ever ended.
    #[error("{0} ended by itself")]
    Ended(String),
    /// A plan cannot be recorded.
    #[error("{0}")]
    Plan(String),
    /// A resource cannot be written.
    #[error("{0}")]
    Resource(String),
}

/// A call to the API server with a deadline; the client has none of its own.
async fn deadline<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Deadline),
    }
}
