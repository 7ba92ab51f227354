//! The ElastiCache endpoint, checked from outside with the AWS SDK for Python and through the caches themselves.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sandbox::address::Addresses;
use sandbox::elasticache::{ElastiCache, Nodes, Options, Times};
use sandbox::supervisor::Supervisor;
use tokio::process::Command;

async fn conforms(nodes: Nodes) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let setup = Command::new(folder.join("setup"))
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(setup.status.success(), "conformance/setup failed");
    let python = String::from_utf8(setup.stdout).unwrap();

    let addresses = Addresses::claim().unwrap();
    let supervisor = Supervisor::start_on(&addresses).unwrap();
    let options = Options {
        nodes,
        times: Times {
            tagging: Duration::from_millis(300),
            ..Times::all(Duration::from_millis(300))
        },
        ..Options::default()
    };
    let endpoint = ElastiCache::start(&supervisor, &addresses, options).await.unwrap();
    let mut pytest = Command::new(python.trim());
    pytest.args([
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--durations=5",
        "--color=no",
        "-rP",
    ]);
    if let Some(only) = std::env::var_os("CONFORMANCE_ONLY") {
        pytest.arg("-k").arg(only);
    }
    let status = pytest
        .arg(&folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SANDBOX_ELASTICACHE_URL", endpoint.url())
        .kill_on_drop(true)
        .status()
        .await
        .unwrap();
    assert!(status.success(), "see the output of pytest above");
    let left = endpoint.remaining();
    assert!(
        left.cache_clusters.is_empty() && left.replication_groups.is_empty(),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_conforms_to_the_sdk_with_real_nodes() {
    conforms(Nodes::Real).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_conforms_to_the_sdk_with_simulated_nodes() {
    conforms(Nodes::Simulated).await;
}
