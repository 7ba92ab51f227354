//! What can be mended without a loss.

use super::compare::Fix;
use crate::ledger::Ledger;

/// Does one thing, and says what it did.
///
/// # Errors
/// When Postgres is away or refuses.
pub async fn mend(ledger: &Ledger, fix: &Fix) -> Result<String, String> {
    let failed = |error: crate::ledger::LedgerError| error.to_string();
    match fix {
        Fix::WriteAgain(instance) => {
            ledger.write_again(instance).await.map_err(failed)?;
            Ok("its resource is written from the ledger again".to_owned())
        }
        Fix::DeleteAgain(instance) => {
            ledger.write_again(instance).await.map_err(failed)?;
            Ok("its resource is put up for deletion, as the platform asked".to_owned())
        }
        Fix::CatchUp(instance, later) => Ok(if ledger.catch_up(instance, later).await.map_err(failed)? {
            format!(
                "the ledger says what the cluster does, as of revision {}",
                later.revision
            )
        } else {
            "the ledger has caught up meanwhile".to_owned()
        }),
    }
}
