//! What the program says and does when it cannot start, or cannot serve yet.

use std::fs;
use std::process::{Output, Stdio};

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::world::{BROKER, Broker, PATIENCE, PROJECT, World, eventually, shared};

/// Runs the program with these variables and no others, until it ends.
async fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(BROKER);
    command.env_clear().envs(variables.iter().copied()).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const KEY: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[tokio::test]
async fn settings_that_cannot_work_end_it_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (keys, credentials) = (file("keys", KEY), file("credentials", "user:password\n"));
    let good = [
        ("DATABASE_URL", "postgres://u:hunter2@localhost/d"),
        ("NAME_PREFIX", "e2e"),
        ("LEDGER_KEYS_FILE", keys.as_str()),
        ("OSB_CREDENTIALS_FILE", credentials.as_str()),
        ("INSECURE", "true"),
    ];
    let (no_keys, no_pairs) = (file("no-keys", "nonsense hunter2\n"), file("no-pairs", "hunter2\n"));
    for (variable, value, complaints) in [
        ("DATABASE_URL", None, &["DATABASE_URL", "postgres://USER:PASSWORD@"][..]),
        ("DATABASE_URL", Some("mysql://u:hunter2@h/d"), &["database-url"]),
        (
            "DATABASE_URL",
            Some("postgres://u:hunter2@h:port/d"),
            &["database-url", "port"],
        ),
        (
            "DATABASE_URL",
            Some("postgres://u:hunter2@h/d?sslmode=perhaps"),
            &["database-url", "sslmode"],
        ),
        ("NAME_PREFIX", None, &["NAME_PREFIX"]),
        ("NAME_PREFIX", Some("a--b"), &["two in a row", "at most 15 letters"]),
        ("NAME_PREFIX", Some("1a"), &["does not begin with a letter"]),
        (
            "LEDGER_KEYS_FILE",
            None,
            &["LEDGER_KEYS_FILE", "head -c 32 /dev/urandom"],
        ),
        ("LEDGER_KEYS_FILE", Some("/nowhere"), &["/nowhere", "No such file"]),
        ("LEDGER_KEYS_FILE", Some(&no_keys), &["no-keys"]),
        (
            "OSB_CREDENTIALS_FILE",
            None,
            &["OSB_CREDENTIALS_FILE", "head -c 24", "--insecure-no-auth"],
        ),
        (
            "OSB_CREDENTIALS_FILE",
            Some(&no_pairs),
            &["line 1 is not USER:PASSWORD"],
        ),
        ("INSECURE", None, &["TLS_CERT_FILE", "TLS_KEY_FILE", "--insecure"]),
        ("PORT", Some("eighty"), &["PORT", "eighty"]),
    ] {
        let mut variables: Vec<_> = good.into_iter().filter(|(name, _)| *name != variable).collect();
        variables.extend(value.map(|value| (variable, value)));
        let output = run(&variables, &[]).await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{variable}={value:?}: {said}");
        for complaint in complaints {
            let found = said.to_lowercase().contains(&complaint.to_lowercase());
            assert!(found, "{variable}={value:?}: no {complaint:?} in {said}");
        }
        assert!(!said.contains("hunter2"), "{variable}={value:?}: {said}");
    }
}

#[tokio::test]
async fn the_manifests_in_the_project_are_those_of_the_types() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&[], &["crds", "--out", folder.path().to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", said(&output));
    let mut count = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let kept = format!("{PROJECT}/crds/{}", path.file_name().unwrap().to_str().unwrap());
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            fs::read_to_string(&kept).unwrap(),
            "{kept} is stale: run `cache-broker crds --out crds`"
        );
        count += 1;
    }
    assert_eq!(count, 3);
    let list = fs::read_to_string(format!("{PROJECT}/crds/kustomization.yaml")).unwrap();
    assert_eq!(list.matches(".akkeris.io.yaml").count(), count, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_ends_it() {
    let world = shared().await;
    let environment = world.sandbox.environment();
    let mut variables: Vec<_> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    // The shared broker listens there.
    variables.extend([("PORT", "8443"), ("HEALTH_PORT", "9501"), ("ROLE", "api")]);
    let output = run(&variables, &[]).await;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(":8443") && said.contains("set PORT to another"), "{said}");
}

/// A broker that serves the API alone, so that it stays out of the shared one's way.
fn api_only(world: &World, name: &str, port: u16, database_url: &str) -> Broker {
    Broker::new(
        &world.sandbox,
        name,
        port,
        &[("ROLE", "api"), ("DATABASE_URL", database_url)],
    )
}

/// Waits until the broker says it is not ready because of the database, and returns what it says.
async fn unready(broker: &Broker) -> String {
    let health = broker.health();
    eventually("a reason for not being ready", async || {
        let reply = health.try_get("/readyz").await?;
        let known = reply.text.contains("database: ") && !reply.text.contains("database: starting");
        (reply.status == StatusCode::SERVICE_UNAVAILABLE && known).then_some(reply.text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_keeps_it_up_and_unready() {
    let world = shared().await;
    let url = world
        .sandbox
        .postgres()
        .database_url("cache_broker")
        .replacen('@', "wrong@", 1);
    let mut broker = api_only(world, "wrong-password", 9510, &url);
    broker.launch(&world.sandbox);
    let text = unready(&broker).await;
    assert!(text.contains("password"), "{text}");
    let reply = broker.osb().get("/v2/service_instances/i/last_operation").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
    assert_eq!(broker.terminate().await.code(), Some(0));
    assert!(!broker.log().contains("wrong@"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_late_is_waited_for() {
    let world = shared().await;
    let postgres = world.sandbox.postgres();
    postgres.create_database("late").await.unwrap();
    let url = postgres.database_url("late");
    let (user, rest) = url.rsplit_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let front = format!("{}:5999", world.sandbox.addresses().guest());
    let mut broker = api_only(world, "late-database", 9520, &format!("{user}@{front}/{database}"));
    broker.launch(&world.sandbox);
    let text = unready(&broker).await;
    assert!(text.contains("refused"), "{text}");

    // Now it comes: what arrives in front is handed on.
    let listener = TcpListener::bind(&front).await.unwrap();
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let health = broker.health();
    eventually("readiness", async || {
        (health.get("/readyz").await.status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(broker.terminate().await.code(), Some(0));
}
