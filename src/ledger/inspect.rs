//! What a database is, for `cache-broker check`.

use super::database_url::SCHEMA;
use super::webhooks::{WebhookTarget, target_place};
use super::{Ledger, LedgerError};

/// What was found of a database.
#[derive(Debug)]
pub struct Inspection {
    /// The server's version, as `server_version_num` counts.
    pub version: i32,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether it takes no writes.
    pub standby: bool,
    /// The database's name.
    pub database: String,
    /// The user's name.
    pub user: String,
    /// Whether the user may make the tables.
    pub may_create: bool,
    /// The last migration that was done, if any was.
    pub migrations: Option<i32>,
    /// Whether something that it holds sealed could be opened, if it holds anything.
    pub sealed: Option<Result<(), LedgerError>>,
}

impl Ledger {
    /// Looks at a database, and changes nothing.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn inspect(&self) -> Result<Inspection, LedgerError> {
        let attempt = async {
            let refused = || LedgerError::statement("looking at the database");
            let client = self.client().await?;
            let row = client
                .query_one(
                    "select current_setting('server_version_num')::int,
                        coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
                        pg_is_in_recovery(), current_database()::text, current_user::text,
                        has_database_privilege(current_database(), 'create'),
                        to_regclass($1) is not null, to_regclass($2) is not null",
                    &[
                        &format!("{SCHEMA}.refinery_schema_history"),
                        &format!("{SCHEMA}.webhooks"),
                    ],
                )
                .await
                .map_err(refused())?;
            let column = |error| refused()(error);
            let (history, webhooks): (bool, bool) = (row.try_get(6).map_err(column)?, row.try_get(7).map_err(column)?);
            let migrations = if history {
                let last = format!("select max(version)::int from {SCHEMA}.refinery_schema_history");
                client
                    .query_one(&last, &[])
                    .await
                    .map_err(refused())?
                    .try_get(0)
                    .map_err(column)?
            } else {
                None
            };
            let mut sealed = None;
            if webhooks {
                let one = format!("select id, target from {SCHEMA}.webhooks order by sequence desc limit 1");
                if let Some(row) = client.query_opt(&one, &[]).await.map_err(refused())? {
                    let (id, target): (uuid::Uuid, Vec<u8>) =
                        (row.try_get(0).map_err(column)?, row.try_get(1).map_err(column)?);
                    sealed = Some(self.open_json::<WebhookTarget>(&target_place(id), &target).map(drop));
                }
            }
            Ok(Inspection {
                version: row.try_get(0).map_err(column)?,
                tls: row.try_get(1).map_err(column)?,
                standby: row.try_get(2).map_err(column)?,
                database: row.try_get(3).map_err(column)?,
                user: row.try_get(4).map_err(column)?,
                may_create: row.try_get(5).map_err(column)?,
                migrations,
                sealed,
            })
        };
        self.within("looking at the database", attempt).await
    }
}
