//! What a cluster admin does: the chart and the kustomizations against a real API server, and the broker installed by helm and
//! run as the chart says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod chart;
mod equal;
mod files;
mod installed;
mod manual;
mod policy;
mod rights;
mod typed;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use sandbox::Sandbox;
use tokio::process::Command;

/// The folder of the project.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// The broker's program.
pub const BROKER: &str = env!("CARGO_BIN_EXE_cache-broker");
/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The folder with helm and the definitions of others; built if need be.
pub fn helm_folder() -> PathBuf {
    let script = Path::new(PROJECT).join("sandbox/helm/build");
    let output = std::process::Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

/// Runs helm, without a cluster.
pub fn helm(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(helm_folder().join("helm"));
    command.args(arguments).env_remove("KUBECONFIG").output().unwrap()
}

/// All that a program wrote.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Runs a program against the sandbox's cluster, and returns what it wrote when it ended well.
pub async fn run(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KUBECONFIG", sandbox.kubeconfig())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(said(&output))
    }
}

/// Runs kubectl, which must end well.
pub async fn kubectl(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let outcome = run(sandbox, "kubectl", arguments).await;
    outcome.unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
}

/// Waits until a condition holds, and returns what it found.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
