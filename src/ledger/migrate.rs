use std::time::Duration;

use super::database_url::SCHEMA;
use super::error::chain;
use super::{Ledger, LedgerError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The key of the advisory lock that migrations run under.
const LOCK: i64 = 0x6361_6368_6562_726b;

/// How long all migrations together may take, waiting for another process's included.
const TIMEOUT: Duration = Duration::from_secs(300);

impl Ledger {
    /// Brings the database's tables up to date. Any number of processes may do so at once: one works, the others wait.
    ///
    /// # Errors
    /// When Postgres cannot be reached, or refuses a migration.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        tokio::time::timeout(TIMEOUT, self.migrate_locked())
            .await
            .map_err(|_| LedgerError::Migration(format!("not done within {} s", TIMEOUT.as_secs())))?
    }

    async fn migrate_locked(&self) -> Result<(), LedgerError> {
        // A connection of its own: it ends with this call, and with it the lock, whatever happens.
        let tls = self
            .url
            .tls()
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let (mut client, connection) = self
            .url
            .config()
            .connect(tls)
            .await
            .map_err(|error| LedgerError::Unavailable(format!("{}: {}", self.url.place(), chain(&error))))?;
        let connection = tokio::spawn(connection);
        let refused = |error: tokio_postgres::Error| LedgerError::Migration(chain(&error));
        client
            .batch_execute(&format!("set statement_timeout = 0; select pg_advisory_lock({LOCK})"))
            .await
            .map_err(refused)?;
        client
            .batch_execute(&format!("create schema if not exists {SCHEMA}"))
            .await
            .map_err(refused)?;
        let report = embedded::migrations::runner()
            .run_async(&mut client)
            .await
            .map_err(|error| LedgerError::Migration(chain(&error)))?;
        for migration in report.applied_migrations() {
            tracing::info!(
                version = migration.version(),
                name = migration.name(),
                "database migrated"
            );
        }
        drop(client);
        connection.abort();
        Ok(())
    }
}
