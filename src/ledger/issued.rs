//! What was handed out of instances, for whoever is to know whether an old address or password is still in use.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::bindings::credentials_place;
use super::{BindingId, Connection, Credentials, InstanceId, Ledger, LedgerError};

/// Whom an instance's cache was made known to.
#[derive(Clone, Debug, Default)]
pub struct Issued {
    /// The uid of its resource, once that was written.
    pub uid: Option<String>,
    /// What whoever binds next is handed.
    pub connection: Option<Connection>,
    /// Whether it was taken over from another broker, which kept no account of whom it told.
    pub taken_over: bool,
    /// What each binding that did not end was handed.
    pub bindings: Vec<Handed>,
}

/// What a binding was handed.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The credentials.
    pub credentials: Credentials,
    /// Whether they are of a user of its own.
    pub own_user: bool,
}

impl Ledger {
    /// Whom the caches of those instances were made known to, all as of one moment. What is not there, or cannot be
    /// opened, is left out.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn issued(&self, instances: &[InstanceId]) -> Result<BTreeMap<InstanceId, Issued>, LedgerError> {
        let attempt = async {
            let refused = || LedgerError::statement("reading what was handed out");
            let client = self.reader().await?;
            // Whoever binds holds the row of the instance, and so does who notes its connection: one statement sees the
            // bindings of every connection but the present one.
            let statement = client
                .prepare_cached(
                    "select instances.id, instances.uid, instances.connection, instances.adopt is not null,
                            bindings.id, bindings.credentials, bindings.username is not null
                     from instances left join bindings on bindings.instance_id = instances.id
                         and bindings.deleted_at is null
                     where instances.id = any($1) and instances.deleted_at is null
                     order by instances.id",
                )
                .await
                .map_err(refused())?;
            let ids: Vec<_> = instances.iter().map(InstanceId::as_str).collect();
            let rows = client.query(&statement, &[&ids]).await.map_err(refused())?;
            let mut issued: BTreeMap<String, Option<Issued>> = BTreeMap::new();
            for row in &rows {
                let id: String = row.try_get(0).map_err(refused())?;
                let standing = issued.remove(&id);
                let next = match standing {
                    Some(None) => None,
                    Some(Some(standing)) => self.with_binding(&id, standing, row),
                    None => self
                        .known(&id, row)
                        .and_then(|known| self.with_binding(&id, known, row)),
                };
                issued.insert(id, next);
            }
            let readable = issued
                .into_iter()
                .filter_map(|(id, issued)| Some((id.parse().ok()?, issued?)));
            Ok(readable.collect())
        };
        self.within("reading what was handed out", attempt).await
    }

    fn known(&self, id: &str, row: &Row) -> Option<Issued> {
        let instance: InstanceId = id.parse().ok()?;
        let connection = self
            .open_connection(&instance, row.try_get(2).ok()?)
            .inspect_err(|error| tracing::warn!(%instance, %error, "reading what was handed out"));
        Some(Issued {
            uid: row.try_get(1).ok()?,
            connection: connection.ok()?,
            taken_over: row.try_get(3).ok()?,
            bindings: Vec::new(),
        })
    }

    fn with_binding(&self, id: &str, mut issued: Issued, row: &Row) -> Option<Issued> {
        let binding: Option<String> = row.try_get(4).ok()?;
        if let Some(binding) = binding {
            let (instance, binding): (InstanceId, BindingId) = (id.parse().ok()?, binding.parse().ok()?);
            let opened = self
                .open_json(&credentials_place(&instance, &binding), row.try_get(5).ok()?)
                .inspect_err(|error| tracing::warn!(%instance, %binding, %error, "reading what was handed out"));
            issued.bindings.push(Handed {
                credentials: Credentials::new(opened.ok()?),
                own_user: row.try_get(6).ok()?,
            });
        }
        Some(issued)
    }
}
