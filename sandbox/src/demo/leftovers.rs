//! What is left when all was given back.

use std::time::Instant;

use super::http::Http;
use super::kubectl::Kubectl;
use super::report::{Failure, Report};
use super::{LOOK, PATIENCE};
use crate::elasticache::Remaining;
use crate::{DATABASE, Sandbox};

/// The namespaces that caches are made in, and what is made there for one.
const NAMESPACES: [&str; 2] = ["memcached-system", "redis-system"];
const KINDS: &str =
    "cinst,deployments,replicasets,pods,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims";

/// What the ledger still has under way.
const IN_PROGRESS: &str = "select count(*) from cache_broker.operations where state = 'in_progress'";
/// What it still promises to somebody, and what it still has to tell somebody.
const PROMISED: &str = "select (select count(*) from cache_broker.instances where deleted_at is null)
    + (select count(*) from cache_broker.bindings where deleted_at is null)
    + (select count(*) from cache_broker.webhooks where state in ('armed', 'due'))";

/// Counts it in all three places, and fails if there is anything. What the cluster collects by itself after an instance
/// is gone, pods above all, is waited for.
pub(super) async fn count(report: &Report, sandbox: &Sandbox, kubectl: &Kubectl) -> Result<String, Failure> {
    let elasticache = report
        .step("look in ElastiCache", async {
            let left = until_empty(async || in_elasticache(sandbox).await).await?;
            Ok((left, "no cluster, group, snapshot or user".to_owned()))
        })
        .await?;
    let cluster = report
        .step("look in the cluster", async {
            let left = until_empty(async || in_cluster(kubectl).await).await?;
            Ok((left, "no instance, nor anything that was made for one".to_owned()))
        })
        .await?;
    let ledger = report
        .step("look in the ledger", async {
            let left = until_empty(async || in_ledger(sandbox).await).await?;
            Ok((left, "no instance but tombstones, no operation in progress".to_owned()))
        })
        .await?;
    Ok(format!("{elasticache}, {cluster}, {ledger} in progress"))
}

/// Looks until nothing is found, and returns how much that is.
async fn until_empty(look: impl AsyncFn() -> Result<Vec<String>, String>) -> Result<usize, String> {
    let start = Instant::now();
    loop {
        let found = look().await?;
        if found.is_empty() {
            return Ok(found.len());
        }
        if start.elapsed() > PATIENCE {
            return Err(format!(
                "{} left after {} s: {}",
                found.len(),
                PATIENCE.as_secs(),
                found.join(", ")
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn in_elasticache(sandbox: &Sandbox) -> Result<Vec<String>, String> {
    let elasticache = sandbox.elasticache().map_err(|error| error.to_string())?;
    let url = format!("{}/_sandbox/remaining", elasticache.url().trim_end_matches('/'));
    let reply = Http::new(Vec::new()).get(&url).await?;
    let remaining: Remaining =
        serde_json::from_value(reply.body).map_err(|error| format!("what GET {url} answered: {error}"))?;
    let Remaining {
        cache_clusters,
        replication_groups,
        snapshots,
        users,
        user_groups,
    } = remaining;
    Ok([cache_clusters, replication_groups, snapshots, users, user_groups].concat())
}

async fn in_cluster(kubectl: &Kubectl) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for namespace in NAMESPACES {
        let names = kubectl.run(&format!("get {KINDS} -n {namespace} -o name")).await?;
        found.extend(names.lines().map(|name| format!("{namespace}/{name}")));
    }
    Ok(found)
}

async fn in_ledger(sandbox: &Sandbox) -> Result<Vec<String>, String> {
    let ledger = sandbox
        .postgres()
        .connect(DATABASE)
        .await
        .map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for (query, what) in [
        (IN_PROGRESS, "operations in progress"),
        (PROMISED, "promises that stand"),
    ] {
        let row = ledger.query_one(query, &[]).await;
        let row = row.map_err(|error| format!("asking the ledger for {what}: {error}"))?;
        let count: i64 = row
            .try_get(0)
            .map_err(|error| format!("reading the count of {what}: {error}"))?;
        if count != 0 {
            found.push(format!("{count} {what}"));
        }
    }
    Ok(found)
}
