//! What Postgres alone does with a statement: `pgbench`, with prepared statements.

use std::path::Path;
use std::time::Duration;

use sandbox::postgres;
use tokio::process::Command;

/// Runs a script of 16 clients for that long, and returns its transactions a second. The database's tables stand in the
/// schema of the ledger.
///
/// # Errors
/// When pgbench is missing, or a statement fails.
pub async fn rate(database_url: &str, script: &str, folder: &Path, time: Duration) -> Result<f64, String> {
    let bench = postgres::binaries()
        .ok_or("there is no Postgres on this machine")?
        .join("pgbench");
    let file = folder.join("script.sql");
    std::fs::write(&file, script).map_err(|error| format!("writing {}: {error}", file.display()))?;
    let url = format!("{database_url}&options=-csearch_path%3Dcache_broker");
    let output = Command::new(&bench)
        .args(["--no-vacuum", "--protocol=prepared", "--client=16", "--jobs=1"])
        .arg(format!("--time={}", time.as_secs().max(1)))
        .arg("--file")
        .arg(&file)
        .arg(&url)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("running {}: {error}", bench.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .filter(|_| output.status.success() && text.contains("number of failed transactions: 0"))
        .ok_or_else(|| format!("pgbench: {text}{complaints}"))
}
