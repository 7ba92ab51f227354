//! What README.md and deploy/README.md say, typed by somebody who begins: on a cluster whose nodes run nothing yet.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use sandbox::Sandbox;
use tokio::process::Command;

use crate::manual::{Block, blocks};
use crate::{BROKER, PATIENCE, PROJECT, kubectl, said};

/// What is typed last in README.md runs until Ctrl-C: here until it is ready.
const UNTIL_READY: &str = r#"
cargo() {
  [[ "$1 $2 $3" == 'run --release --' ]]
  shift 3
  timeout 240 "$BROKER" "$@" &
  trap "kill $!" EXIT
  until curl --silent --fail "http://127.0.0.1:$HEALTH_PORT/readyz"; do
    kill -0 $!
    sleep 0.1
  done
}
"#;

/// Types everything but what asks for the operator's lease, which takes an operator.
pub async fn first_steps(sandbox: &Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["deploy", "crds"] {
        symlink(Path::new(PROJECT).join(name), folder.path().join(name)).unwrap();
    }
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let types = async |block: &Block| {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", &format!("{UNTIL_READY}{}", block.text)])
            .current_dir(folder.path())
            .env("KUBECONFIG", sandbox.kubeconfig())
            .env("DATABASE_URL", sandbox.postgres().database_url("cache_broker"))
            .env("BROKER", BROKER)
            .env("PORT", free().to_string())
            .env("HEALTH_PORT", free().to_string())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{}: not done in time", block.place))
            .unwrap();
        assert!(output.status.success(), "{}: {}", block.place, said(&output));
    };
    // A certificate, which everybody has from somewhere else.
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=cache-broker", "-keyout", "tls.key", "-out", "tls.crt"])
        .current_dir(folder.path())
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let steps = blocks("deploy/README.md");
    let (lease, steps) = steps.split_last().unwrap();
    assert!(lease.text.contains("get lease"), "{}", lease.text);
    for block in steps.iter().chain(&blocks("README.md")) {
        types(block).await;
    }
    let account = "system:serviceaccount:cache-broker-system:cache-broker-api";
    let may = [
        "auth",
        "can-i",
        "create",
        "tokenreviews.authentication.k8s.io",
        "--as",
        account,
    ];
    assert_eq!(kubectl(sandbox, &may).await.trim(), "yes");
}
