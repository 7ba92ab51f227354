//! What the program does other than serve.

mod check;
mod definitions;
mod ledger;
mod probe;
mod rights;
mod tables;

use std::time::Duration;

pub use check::check;
pub use definitions::apply_definitions;
pub use ledger::{audit, doctor, import, migrate, webhooks};
pub use probe::probe;
pub use tables::{instances, plans};

/// How long one call to another system may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// A call to the API server with a deadline.
async fn asked<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => outcome.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!(
            "{what}: the API server did not answer within {} s",
            DEADLINE.as_secs()
        )),
    }
}
