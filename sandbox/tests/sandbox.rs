//! A sandbox comes up, works, keeps its data, and is gone afterwards.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{processes_of, shared_memory_exists, wait_for};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::Api;
use kube::api::{ListParams, PostParams};
use sandbox::{Error, Sandbox};
use serde_json::json;
use tokio_postgres::error::SqlState;

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> String {
    let output = Command::new("kubectl")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": "value"}})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_up_and_works() {
    sandbox::control_plane::build().await.unwrap();
    let start = Instant::now();
    let sandbox = Sandbox::start().await.unwrap();
    println!("a sandbox is ready after {:.1} s", start.elapsed().as_secs_f64());

    kubectl(sandbox.kubeconfig(), &["create", "namespace", "redis-system"]);
    let names = kubectl(sandbox.kubeconfig(), &["get", "namespaces", "-o", "name"]);
    assert!(names.lines().any(|name| name == "namespace/redis-system"), "{names}");

    let client = sandbox.kube().await.unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().git_version, "v1.37.2");

    let limited = sandbox
        .control_plane()
        .unwrap()
        .service_account_kubeconfig("default", "default")
        .await
        .unwrap();
    let may = Command::new("kubectl")
        .args(["auth", "can-i", "get", "secrets"])
        .env("KUBECONFIG", limited)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&may.stdout).trim(), "no", "RBAC is on");

    let services = Api::<Service>::namespaced(client.clone(), "redis-system");
    let service = json!({"metadata": {"name": "cache"}, "spec": {"ports": [{"port": 6379}]}});
    let service = services
        .create(&PostParams::default(), &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    let address = service.spec.unwrap().cluster_ip.unwrap();
    assert!(address.starts_with("127."), "{address}");

    let deployments = Api::<Deployment>::namespaced(client.clone(), "redis-system");
    let deployment = json!({"metadata": {"name": "cache"}, "spec": {
        "selector": {"matchLabels": {"app": "cache"}},
        "template": {
            "metadata": {"labels": {"app": "cache"}},
            "spec": {"containers": [{"name": "cache", "image": "redis"}]},
        },
    }});
    deployments
        .create(&PostParams::default(), &serde_json::from_value(deployment).unwrap())
        .await
        .unwrap();
    let pods = Api::<Pod>::namespaced(client, "redis-system");
    // The controllers made the pod, the scheduler found the node, and the node runs it.
    tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            let list = pods.list(&ListParams::default().labels("app=cache")).await.unwrap();
            if list.items.iter().any(running) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();

    let dir = sandbox.supervisor().dir().to_owned();
    let start = Instant::now();
    sandbox.stop().await;
    println!("a sandbox is gone after {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(processes_of(&dir), Vec::<u32>::new());
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_side_by_side_and_the_api_server_can_go_and_come_back() {
    let (one, other) = tokio::try_join!(Sandbox::start(), Sandbox::start()).unwrap();
    let (client, others) = (one.kube().await.unwrap(), other.kube().await.unwrap());
    let maps = Api::<ConfigMap>::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("kept")).await.unwrap();
    assert!(
        Api::<ConfigMap>::default_namespaced(others.clone())
            .get_opt("kept")
            .await
            .unwrap()
            .is_none()
    );

    let control_plane = one.control_plane().unwrap();
    let start = Instant::now();
    control_plane.stop_api_server().await.unwrap();
    println!("the API server is away after {:.1} s", start.elapsed().as_secs_f64());
    control_plane.stop_api_server().await.unwrap();
    assert!(maps.get("kept").await.is_err());
    others.apiserver_version().await.unwrap();

    let start = Instant::now();
    control_plane.start_api_server().await.unwrap();
    control_plane.start_api_server().await.unwrap();
    println!("the API server is back after {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(
        maps.get("kept").await.unwrap().data.unwrap().get("key").unwrap(),
        "value"
    );
}

#[tokio::test]
async fn postgres_keeps_its_data_and_refuses_a_wrong_password() {
    let sandbox = Sandbox::builder()
        .without_control_plane()
        .without_elasticache()
        .start()
        .await
        .unwrap();
    assert!(matches!(sandbox.control_plane(), Err(Error::Absent(_))));
    assert!(matches!(sandbox.kube().await, Err(Error::Absent(_))));
    let postgres = sandbox.postgres();

    postgres.create_database("odd \"name\"").await.unwrap();
    let Err(Error::Postgres { source, .. }) = postgres.create_database("odd \"name\"").await else {
        panic!("a database was created twice");
    };
    assert_eq!(source.code(), Some(&SqlState::DUPLICATE_DATABASE));

    let url = postgres.database_url("cache_broker");
    let (user, rest) = url.rsplit_once('@').unwrap();
    let wrong = format!("{}x@{rest}", user);
    let error = tokio_postgres::connect(&wrong, tokio_postgres::NoTls)
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));

    let client = postgres.connect("cache_broker").await.unwrap();
    client
        .batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        .await
        .unwrap();
    postgres.stop().await.unwrap();
    postgres.stop().await.unwrap();
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert!(postgres.connect("cache_broker").await.is_err());
    postgres.start().await.unwrap();
    postgres.start().await.unwrap();
    let client = postgres.connect("cache_broker").await.unwrap();
    let row = client.query_one("SELECT n FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
}

#[tokio::test]
async fn an_existing_cluster_is_used_as_it_is() {
    let path = PathBuf::from("/elsewhere/kubeconfig");
    let sandbox = Sandbox::builder().existing_cluster(&path).start().await.unwrap();
    assert_eq!(sandbox.kubeconfig(), path);
    assert!(matches!(sandbox.control_plane(), Err(Error::Absent(_))));
    let environment = sandbox.environment();
    assert!(environment.contains(&("KUBECONFIG".to_owned(), path.display().to_string())));
}

/// Runs `sandbox up` until it is ready and returns it with the sandbox's folder.
fn up() -> (std::process::Child, PathBuf) {
    let mut up = Command::new(env!("CARGO_BIN_EXE_sandbox"))
        .arg("up")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = None;
    for line in BufReader::new(up.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(path) = line.strip_prefix("export KUBECONFIG=") {
            kubeconfig = Some(PathBuf::from(path));
        }
        if line.starts_with("# The sandbox is ready") {
            break;
        }
    }
    let dir = kubeconfig.unwrap().parent().unwrap().to_owned();
    (up, dir)
}

/// The id of the segment of System V shared memory that the sandbox's Postgres holds.
fn postgres_shared_memory(dir: &Path) -> String {
    let lock = fs::read_to_string(dir.join("postgres/data/postmaster.pid")).unwrap();
    let line = lock.lines().nth(6).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn nothing_outlives_a_killed_sandbox() {
    let (mut up, dir) = up();
    let segment = postgres_shared_memory(&dir);
    assert!(shared_memory_exists(&segment));
    assert!(processes_of(&dir).len() >= 5);
    up.kill().unwrap();
    up.wait().unwrap();
    wait_for("the end of all that was left", || {
        (!dir.exists() && processes_of(&dir).is_empty()).then_some(())
    });
    assert!(!shared_memory_exists(&segment));
}

#[test]
fn nothing_outlives_a_killed_sandbox_whose_postgres_was_killed_first() {
    let (mut up, dir) = up();
    let segment = postgres_shared_memory(&dir);
    let lock = fs::read_to_string(dir.join("postgres/data/postmaster.pid")).unwrap();
    let killed = Command::new("kill")
        .args(["-9", lock.lines().next().unwrap()])
        .status()
        .unwrap();
    assert!(killed.success());
    up.kill().unwrap();
    up.wait().unwrap();
    wait_for("the end of all that was left", || {
        (!dir.exists() && processes_of(&dir).is_empty()).then_some(())
    });
    assert!(!shared_memory_exists(&segment));
}

#[test]
fn nothing_outlives_a_sandbox_killed_while_it_starts() {
    for log in ["initdb", "kube-apiserver", "postgres", "kube-scheduler"] {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut up = Command::new(env!("CARGO_BIN_EXE_sandbox"))
            .arg("up")
            .env("TMPDIR", home.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let folder = || fs::read_dir(home.path()).unwrap().next();
        wait_for(&format!("the start of {log}"), || {
            let dir = folder()?.unwrap().path();
            dir.join(format!("logs/{log}.log")).exists().then_some(())
        });
        up.kill().unwrap();
        up.wait().unwrap();
        wait_for("the end of all that was left", || {
            (folder().is_none() && processes_of(home.path()).is_empty()).then_some(())
        });
    }
}

#[test]
fn ctrl_c_ends_it_orderly() {
    let (mut up, dir) = up();
    let interrupted = Command::new("kill")
        .args(["-INT", &up.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    assert!(up.wait().unwrap().success());
    assert!(!dir.exists());
    assert_eq!(processes_of(&dir), Vec::<u32>::new());
}
