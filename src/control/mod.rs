//! The operator: reconcilers for instances and plans, the outbox that writes what was accepted, and the projector that
//! tells the ledger what became of it.

mod backups;
mod controllers;
pub mod deadlines;
pub mod decide;
mod departures;
mod events;
mod finalizer;
mod instances;
pub mod leader;
mod looked;
mod occurrences;
pub mod operator;
pub mod outbox;
mod plan_users;
pub mod plans;
pub mod pool;
mod projector;
mod retries;
mod sightings;
mod standing;
mod status;
mod status_record;
mod update;
mod users;

use std::borrow::Cow;
use std::time::Duration;

use finalizer::set_finalizer;

use crate::ledger::LedgerError;
use crate::telemetry::metrics::record::{self, Reconciled};

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

impl Error {
    /// What failed, in a word.
    fn word(&self) -> &'static str {
        match self {
            Self::Kube(_) => "api_server",
            Self::Deadline => "api_server_deadline",
            Self::Ledger(_) => "ledger",
            Self::Ended(_) => "ended",
            Self::Plan(_) => "plan",
            Self::Resource(_) => "resource",
        }
    }
}

/// A kind, as metrics and the log name it.
fn kind<K: kube::Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        Cow::Borrowed(kind) => kind,
        Cow::Owned(_) => "other",
    }
}

/// Runs a reconcile of an object of a kind, and counts and times it.
async fn measured<T>(kind: &'static str, run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let reconcile = record::reconcile(kind);
    let outcome = run.await;
    match &outcome {
        Ok(_) => reconcile.end(Reconciled::Done),
        Err(error) => {
            record::reconcile_error(kind, error.word());
            reconcile.end(Reconciled::Failed);
        }
    }
    outcome
}

/// A call to the API server with a deadline; the client has none of its own.
async fn deadline<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Deadline),
    }
}
