//! Reading the old broker's database, in one read-only transaction that sees one moment of it.

use std::time::Duration;

use tokio_postgres::{IsolationLevel, Row, Transaction};

use super::old::{Old, OldPlan, OldResource, OldService, OldTask};
use crate::ledger::DatabaseUrl;
use crate::ledger::database_url::SCHEMA;
use crate::ledger::error::chain;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Reads all of it.
///
/// # Errors
/// When Postgres cannot be reached or refuses, or has no such tables.
pub async fn read(url: &DatabaseUrl) -> Result<Old, String> {
    tokio::time::timeout(TIMEOUT, read_all(url))
        .await
        .map_err(|_| format!("{} was not read within {} s", url.place(), TIMEOUT.as_secs()))?
        .map_err(|error| format!("reading the old broker's database {}: {error}", url.place()))
}

async fn read_all(url: &DatabaseUrl) -> Result<Old, String> {
    let tls = url.tls().map_err(|error| error.to_string())?;
    let (mut client, connection) = url.config().connect(tls).await.map_err(|error| chain(&error))?;
    let connection = tokio::spawn(connection);
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(|error| chain(&error))?;
    let old = tables(&tx).await;
    drop(tx);
    drop(client);
    connection.abort();
    old
}

async fn tables(tx: &Transaction<'_>) -> Result<Old, String> {
    // A search_path in the URL is obeyed; without one it is that of the ledger, where none of these tables is.
    let path = tx.query_one("select current_setting('search_path')", &[]).await;
    let path: String = path.map_err(|error| chain(&error))?.get(0);
    if path == SCHEMA {
        tx.batch_execute("set local search_path = public")
            .await
            .map_err(|error| chain(&error))?;
    }
    tx.batch_execute("set local statement_timeout = '60s'")
        .await
        .map_err(|error| chain(&error))?;
    Ok(Old {
        services: all(
            tx,
            "services",
            "select service::text, name::text, human_name, description, categories, image, beta, deprecated, deleted
               from services order by created, service",
            |row| {
                Ok(OldService {
                    id: row.try_get(0)?,
                    name: row.try_get(1)?,
                    human_name: row.try_get(2)?,
                    description: row.try_get(3)?,
                    categories: row.try_get(4)?,
                    image: row.try_get(5)?,
                    beta: row.try_get(6)?,
                    deprecated: row.try_get(7)?,
                    deleted: row.try_get(8)?,
                })
            },
        )
        .await?,
        plans: all(
            tx,
            "plans",
            "select plan::text, service::text, name::text, human_name, description, version, type::text,
                    cost_cents::int, cost_unit::text, attributes::text, provider, provider_private_details::text,
                    preprovision, beta, deprecated, deleted
               from plans order by created, plan",
            |row| {
                Ok(OldPlan {
                    id: row.try_get(0)?,
                    service: row.try_get(1)?,
                    name: row.try_get(2)?,
                    human_name: row.try_get(3)?,
                    description: row.try_get(4)?,
                    version: row.try_get(5)?,
                    engine: row.try_get(6)?,
                    cost_cents: row.try_get(7)?,
                    cost_unit: row.try_get(8)?,
                    attributes: row.try_get(9)?,
                    provider: row.try_get(10)?,
                    details: row.try_get(11)?,
                    preprovision: row.try_get(12)?,
                    beta: row.try_get(13)?,
                    deprecated: row.try_get(14)?,
                    deleted: row.try_get(15)?,
                })
            },
        )
        .await?,
        resources: all(
            tx,
            "resources",
            "select id, name, plan::text, claimed, status, coalesce(endpoint, ''),
                    coalesce(username, '') <> '' or coalesce(password, '') <> '', created, updated, deleted
               from resources order by created, id",
            |row| {
                Ok(OldResource {
                    id: row.try_get(0)?,
                    name: row.try_get(1)?,
                    plan: row.try_get(2)?,
                    claimed: row.try_get(3)?,
                    status: row.try_get(4)?,
                    endpoint: row.try_get(5)?,
                    has_credentials: row.try_get(6)?,
                    created: row.try_get(7)?,
                    updated: row.try_get(8)?,
                    deleted: row.try_get(9)?,
                })
            },
        )
        .await?,
        tasks: all(
            tx,
            "tasks",
            "select task::text, resource, action, status::text, metadata, deleted from tasks order by created, task",
            |row| {
                Ok(OldTask {
                    id: row.try_get(0)?,
                    resource: row.try_get(1)?,
                    action: row.try_get(2)?,
                    status: row.try_get(3)?,
                    metadata: row.try_get(4)?,
                    deleted: row.try_get(5)?,
                })
            },
        )
        .await?,
    })
}

async fn all<T>(
    tx: &Transaction<'_>,
    table: &str,
    statement: &str,
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, String> {
    let refused = |error: tokio_postgres::Error| {
        format!(
            "table {table}: {}; is this the database of akkeris/elasticache-broker?",
            chain(&error)
        )
    };
    let rows = tx.query(statement, &[]).await.map_err(refused)?;
    rows.iter().map(read).collect::<Result<_, _>>().map_err(refused)
}
