//! Many instances on ElastiCache, at rest: what it costs to compare them with the provider again and again.

use std::time::Duration;

use sandbox::elasticache::Limits;

use crate::instances::{all_ready, caught_up, create, rest};
use crate::stage::Stage;
use crate::table::{Goal, Row};

const PLAN: &str = "bench-elasticache";
/// Two fall into the time that is measured.
const RESYNC: Duration = Duration::from_secs(240);
const RESYNCS: u32 = 2;
const IDLE: Duration = Duration::from_secs(600);
/// What a core may be taken for is half a percent, at the broker's default of one resync in half an hour.
const PROCESSOR: f64 = 0.005 * 1800.0;
/// The broker's default, which the sandbox makes shorter.
const POLL: (&str, &str) = ("ELASTICACHE_POLL_MS", "10000");
/// How many clusters ElastiCache tells of in one answer.
const PAGE: usize = 100;

/// So many clusters of memcached through two resyncs: API writes, calls beside the pages of the lists, processor time.
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

    let period = RESYNC.as_secs().to_string();
    let mut often = usual.to_vec();
    often.push(("RESYNC_SECONDS", &period));
    let broker = stage.broker(&often).await?;
    aws.forget_calls();
    // The first look, and a resync, which reads what happened before, too.
    let pages = count.div_ceil(PAGE) + 1;
    while aws.calls().len() <= 2 * pages {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    caught_up(&broker).await?;
    let resident = broker.resident()?;
    let before = broker.processor()?;
    // Each lists groups and clusters, and asks what happened, which is nothing.
    let resyncs = usize::try_from(RESYNCS).unwrap_or(usize::MAX);
    let of = format!("{count} clusters through {RESYNCS} resyncs");
    let mut rows = rest(&stage, &client, &broker, &of, IDLE, resyncs * (pages + 1)).await?;
    let each = (broker.processor()? - before) / f64::from(RESYNCS);
    // Its share of the time depends on how often that is.
    rows.retain(|row| !row.name.ends_with("processor"));
    rows.push(Row::alone(
        &format!("{count} clusters: processor for a resync"),
        "s",
        Goal::AtMost(PROCESSOR),
        &[each],
    ));
    rows.push(Row::alone(
        &format!("memory with {count} clusters"),
        "MiB",
        Goal::AtMost(200.0),
        &[resident],
    ));
    broker.end().await?;
    stage.sandbox.stop().await;
    Ok(rows)
}
