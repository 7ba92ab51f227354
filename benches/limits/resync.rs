//! Many instances on ElastiCache, at rest: what it costs to compare them with the provider again and again.

use std::time::Duration;

use sandbox::elasticache::Limits;

use crate::instances::{all_ready, caught_up, create, rest};
use crate::stage::Stage;
use crate::table::{Goal, Row};

const PLAN: &str = "bench-elasticache";
/// The time between two resyncs by the broker's defaults, so that one falls into it.
const IDLE: Duration = Duration::from_secs(1800);
/// The broker's default, which the sandbox makes shorter.
const POLL: (&str, &str) = ("ELASTICACHE_POLL_MS", "10000");
/// How many clusters ElastiCache tells of in one answer.
const PAGE: usize = 100;

/// So many clusters of memcached through a resync: API writes, calls beside the pages of its lists, processor time.
pub async fn measure(rounds: usize, count: usize) -> Result<Vec<Row>, String> {
    let stage = Stage::start(rounds).await?;
    stage
        .apply(&serde_json::json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": PLAN },
            "spec": {
                "service": "akkeris-memcached", "id": "0d4c6a8e-5f7b-4c39-8a55-7e0f1d9b2c63", "name": PLAN,
                "description": "On ElastiCache.", "engine": { "type": "memcached", "version": "1.6.22" },
                "elasticache": { "nodeType": "cache.t4g.micro" },
            },
        }))
        .await?;
    stage.plans().await?;
    let aws = stage.sandbox.elasticache().map_err(|error| error.to_string())?;
    aws.set_limits(Limits {
        nodes: 2 * count,
        ..Limits::default()
    });
    let client = stage.sandbox.kube().await.map_err(|error| error.to_string())?;
    let url = stage.database("resync").await?;
    let usual = [("DATABASE_URL", url.as_str()), POLL];
    let mut quick = usual.to_vec();
    quick.push(("AWS_CALLS_PER_SECOND", "1000"));
    let broker = stage.broker(&quick).await?;
    create(&client, PLAN, count).await?;
    all_ready(&client, count).await?;
    caught_up(&broker).await?;
    broker.end().await?;

    let broker = stage.broker(&usual).await?;
    aws.forget_calls();
    let pages = count.div_ceil(PAGE) + 1;
    while aws.calls().len() < pages {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    caught_up(&broker).await?;
    let resident = broker.resident()?;
    // And what happened meanwhile, of which there is nothing.
    let allowed = pages + 1;
    let of = format!("{count} clusters");
    let mut rows = rest(&stage, &client, &broker, &of, IDLE, allowed).await?;
    let memory = format!("memory with {count} clusters");
    rows.push(Row::alone(&memory, "MiB", Goal::AtMost(200.0), &[resident]));
    broker.end().await?;
    stage.sandbox.stop().await;
    Ok(rows)
}
