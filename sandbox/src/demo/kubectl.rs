//! The real `kubectl`, as an administrator runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::PATIENCE;

/// Runs `kubectl` on one cluster, in the project's folder.
pub(super) struct Kubectl {
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Kubectl {
    pub(super) fn new(kubeconfig: &Path, folder: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            folder: folder.to_owned(),
        }
    }

    /// Runs it with these words as arguments, and returns what it printed.
    pub(super) async fn run(&self, words: &str) -> Result<String, String> {
        let running = Command::new("kubectl")
            .args(words.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, running)
            .await
            .map_err(|_| format!("`kubectl {words}` did not end within {} s", PATIENCE.as_secs()))?
            .map_err(|error| format!("running `kubectl {words}`: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`kubectl {words}`: {}", said.trim()))
        }
    }

    /// Like [`Kubectl::run`] with `-o json`.
    pub(super) async fn json(&self, words: &str) -> Result<Value, String> {
        let text = self.run(&format!("{words} -o json")).await?;
        serde_json::from_str(&text).map_err(|error| format!("what `kubectl {words} -o json` printed: {error}"))
    }
}
