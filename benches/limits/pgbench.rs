//! What Postgres alone does with a statement: `pgbench`, with prepared statements, of 16 clients. The database's tables
//! stand in the schema of the ledger.

use std::path::Path;
use std::time::Duration;

use sandbox::postgres;
use tokio::process::Command;

/// Runs a script for that long, and returns its transactions a second.
///
/// # Errors
/// When pgbench is missing, or a statement fails.
pub async fn rate(database_url: &str, script: &str, folder: &Path, time: Duration) -> Result<f64, String> {
    let text = run(
        database_url,
        script,
        folder,
        &[format!("--time={}", time.as_secs().max(1))],
    )
    .await?;
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .ok_or_else(|| format!("pgbench told no rate: {text}"))
}

/// Runs a script so many times a second for that long, and returns how long its transactions took, each since it was to
/// begin, in milliseconds.
///
/// # Errors
/// When pgbench is missing, or a statement fails.
pub async fn paced(
    database_url: &str,
    script: &str,
    folder: &Path,
    per_second: f64,
    time: Duration,
) -> Result<Vec<f64>, String> {
    let logs = tempfile::tempdir_in(folder).map_err(|error| format!("making a folder: {error}"))?;
    let arguments = [
        format!("--time={}", time.as_secs().max(1)),
        format!("--rate={per_second}"),
        "--log".to_owned(),
        format!("--log-prefix={}", logs.path().join("log").display()),
    ];
    run(database_url, script, folder, &arguments).await?;
    let files = std::fs::read_dir(logs.path()).map_err(|error| format!("finding the log: {error}"))?;
    let mut times = Vec::new();
    for file in files.flatten() {
        let text = std::fs::read_to_string(file.path()).map_err(|error| format!("reading the log: {error}"))?;
        // client, transaction, microseconds, …
        let taken = text
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
        times.extend(taken.map(|micros| micros / 1e3));
    }
    if times.is_empty() {
        return Err("pgbench logged nothing".to_owned());
    }
    Ok(times)
}

async fn run(database_url: &str, script: &str, folder: &Path, arguments: &[String]) -> Result<String, String> {
    let bench = postgres::binaries()
        .ok_or("there is no Postgres on this machine")?
        .join("pgbench");
    let file = folder.join("script.sql");
    std::fs::write(&file, script).map_err(|error| format!("writing {}: {error}", file.display()))?;
    let url = format!("{database_url}&options=-csearch_path%3Dcache_broker");
    let output = Command::new(&bench)
        .args(["--no-vacuum", "--protocol=prepared", "--client=16", "--jobs=1"])
        .args(arguments)
        .arg("--file")
        .arg(&file)
        .arg(&url)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("running {}: {error}", bench.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && text.contains("number of failed transactions: 0") {
        Ok(text)
    } else {
        Err(format!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}
