//! Where a simulation takes hold of a ledger: before and after every call, and in place of Postgres' notifications.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Notify;

use super::LedgerError;

/// What a gate comes to, later.
pub type Passing<'a> = Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send + 'a>>;

/// What every call of a ledger passes.
pub trait Gate: Send + Sync {
    /// Lets a call begin, or has it fail before it reached Postgres.
    fn before<'a>(&'a self, attempt: &'a str) -> Passing<'a>;
    /// Lets a call's answer come back, or has it be lost after it had its effect.
    fn after<'a>(&'a self, attempt: &'a str) -> Passing<'a>;
    /// Comes back when a call whose time is up may be given up.
    fn give_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Wake-ups of a channel.
    fn listen(&self, channel: &'static str) -> Arc<Notify>;
}

pub(super) async fn pass<T>(
    gate: &dyn Gate,
    attempt: &str,
    call: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    gate.before(attempt).await?;
    let outcome = call.await;
    gate.after(attempt).await?;
    outcome
}
