//! The process itself: how soon it is ready, how large it is, how long it takes to build.

use std::path::Path;
use std::time::Instant;

use cache_broker::api::{CacheBackup, CacheInstance, CachePlan};
use kube::api::ListParams;
use kube::{Api, Client};

use crate::stage::{NAMESPACE, Stage, broker};
use crate::table::{Goal, Row};

/// From the start to ready on a migrated database, beside the lists that it has to make.
pub async fn start(stage: &Stage) -> Result<Row, String> {
    let url = stage.database("start").await?;
    let client = stage.sandbox.kube().await.map_err(|error| error.to_string())?;
    // The first one waits for plans to be recorded.
    stage.broker(&[("DATABASE_URL", &url)]).await?.end().await?;
    let mut rounds = Vec::new();
    for _ in 0..stage.rounds {
        let begin = Instant::now();
        list(&client).await?;
        let listed = begin.elapsed();
        let begin = Instant::now();
        let broker = stage.broker(&[("DATABASE_URL", &url)]).await?;
        rounds.push((crate::load::millis(begin.elapsed()), crate::load::millis(listed)));
        broker.end().await?;
    }
    Ok(Row::of("start until ready", "ms", Goal::BeyondLimit(300.0), &rounds))
}

async fn list(client: &Client) -> Result<(), String> {
    let everything = ListParams::default();
    let said = |error: kube::Error| error.to_string();
    Api::<CachePlan>::all(client.clone())
        .list(&everything)
        .await
        .map_err(said)?;
    Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE)
        .list(&everything)
        .await
        .map_err(said)?;
    Api::<CacheBackup>::namespaced(client.clone(), NAMESPACE)
        .list(&everything)
        .await
        .map(drop)
        .map_err(said)
}

/// The size of the binary.
pub fn size() -> Result<Row, String> {
    let broker = broker()?;
    let length = std::fs::metadata(&broker)
        .map_err(|error| format!("{}: {error}", broker.display()))?
        .len();
    Ok(Row::alone(
        "release binary",
        "MiB",
        Goal::AtMost(25.0),
        &[length as f64 / f64::from(1 << 20)],
    ))
}

/// A build of everything from nothing, as it is shipped, in minutes.
pub async fn build(folder: &Path) -> Result<Row, String> {
    let start = Instant::now();
    let status = tokio::process::Command::new(env!("CARGO"))
        .args([
            "build",
            "--profile",
            "dist",
            "--locked",
            "--quiet",
            "--package",
            "cache-broker",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", folder.join("build"))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("running cargo: {error}"))?;
    if !status.success() {
        return Err(format!("the build ended with {status}"));
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    Ok(Row::alone("cold release build", "min", Goal::AtMost(10.0), &[minutes]))
}
