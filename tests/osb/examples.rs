//! The scripts of examples/curl, as they stand.

use std::collections::BTreeSet;
use std::path::Path;

use cache_broker::api::{CachePlan, Connection, EngineType, ProviderKind};
use cache_broker::ledger::{Outcome, Verdict};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::broker::{Broker, PATIENCE, SERVICE, connection, plan};
use crate::caches::Caches;

const REDIS_SERVICE: &str = "0a8d668d-2971-4533-8e38-a816a7c01bec";

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/curl")
}

/// What a script printed: the exit code, the status, the entity tag, and the body.
#[derive(Debug)]
struct Printed {
    code: i32,
    status: String,
    tag: String,
    body: Value,
}

/// Runs scripts, and remembers which.
struct Shell<'a> {
    broker: &'a Broker,
    ran: BTreeSet<String>,
}

impl Shell<'_> {
    async fn run(&mut self, script: &str, variables: &[(&str, &str)]) -> Printed {
        self.ran.insert(script.to_owned());
        let command = Command::new(folder().join(format!("{script}.sh")))
            .env("BROKER_URL", format!("http://{}", self.broker.address))
            .env("BROKER_USER", "u")
            .env("BROKER_PASSWORD", "p")
            .envs(variables.iter().copied())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, command).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (first, body) = text.split_once('\n').unwrap_or((&text, ""));
        let (status, tag) = first.split_once(' ').unwrap_or((first, ""));
        let code = output.status.code().unwrap();
        assert!(
            [0, 3].contains(&code),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Printed {
            code,
            status: status.to_owned(),
            tag: tag.to_owned(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }

    /// Runs a script that is to be answered so.
    async fn told(&mut self, script: &str, variables: &[(&str, &str)], status: &str) -> Value {
        let printed = self.run(script, variables).await;
        assert_eq!(printed.status, status, "{script} {variables:?}: {printed:?}");
        assert_eq!(printed.code == 0, !status.starts_with('4'), "{printed:?}");
        printed.body
    }
}

/// Plays the outbox; what it wrote is seen to be ready.
async fn made(broker: &Broker, id: &str, version: u32, at: Connection) {
    let mut revision = 1;
    for item in broker.ledger.claim_outbox(10, PATIENCE).await.unwrap() {
        let uid = format!("uid-{}", item.instance);
        broker
            .ledger
            .mark_applied(&item.instance, item.revision, Some(&uid))
            .await
            .unwrap();
        revision = item.revision;
    }
    broker.seen_at(id, Verdict::Ready, version, revision, at).await;
}

#[tokio::test]
async fn every_call_has_a_script_that_runs() {
    let caches = Caches::start();
    let memcached = caches.memcached(false).await;
    let (host, port) = memcached.address.rsplit_once(':').unwrap();
    let at = || Connection {
        host: host.to_owned(),
        port: port.parse().unwrap(),
        password: None,
        ..connection()
    };
    let mut larger = plan();
    larger.metadata.name = Some("memcached-large".to_owned());
    larger.spec.id = "q".to_owned();
    let broker = Broker::start().await;
    broker.offer(&[plan(), larger]);
    let mut shell = Shell {
        broker: &broker,
        ran: BTreeSet::new(),
    };

    let catalog = shell.run("catalog", &[]).await;
    assert_eq!(
        (catalog.status.as_str(), catalog.body["services"][0]["id"].as_str()),
        ("200", Some(SERVICE))
    );
    shell.told("catalog", &[("ETAG", &catalog.tag)], "304").await;

    let id = ("INSTANCE_ID", "my instance/1");
    let of = |plan: &'static str| [id, ("SERVICE_ID", SERVICE), ("PLAN_ID", plan)];
    let ordered = shell.told("provision", &of("p"), "202").await;
    let operation = ordered["operation"].as_str().unwrap();
    let named = [id, ("OPERATION", operation)];
    assert_eq!(
        shell.told("last_operation", &named, "200").await["state"],
        json!("in progress")
    );
    shell.told("fetch", &[id], "404").await;
    made(&broker, id.1, 1, at()).await;
    assert_eq!(
        shell.told("last_operation", &[id], "200").await["state"],
        json!("succeeded")
    );

    let change = [id, ("SERVICE_ID", SERVICE), ("PARAMETERS", r#"{"connectionLimit": 7}"#)];
    shell.told("update", &change, "202").await;
    made(&broker, id.1, 2, at()).await;
    assert_eq!(
        shell.told("fetch", &[id], "200").await["parameters"],
        json!({ "connectionLimit": 7 })
    );
    let moving = [id, ("SERVICE_ID", SERVICE), ("NEW_PLAN_ID", "q")];
    shell.told("update", &moving, "202").await;
    made(&broker, id.1, 3, at()).await;
    let newest = [id, ("SERVICE_ID", SERVICE), ("MAINTENANCE_VERSION", "3.0.0")];
    assert_eq!(shell.told("update", &newest, "200").await, json!({}));

    let [_, service, on] = of("q");
    let bound = [id, service, on, ("BINDING_ID", "b"), ("APP_ID", "app")];
    let credentials = shell.told("bind", &bound, "201").await["credentials"].clone();
    assert_eq!(credentials["MEMCACHED_URL"], json!(memcached.address));
    assert_eq!(
        shell.told("fetch_binding", &bound, "200").await["credentials"],
        credentials
    );

    let version = |stats: &Value| {
        let stats = stats["stats"].as_array().unwrap();
        stats.iter().any(|stat| stat["key"] == json!("version"))
    };
    assert!(version(&shell.told("stats", &[id], "200").await));
    assert_eq!(shell.told("flush", &[id], "200").await, json!({ "flush_all": "ok" }));
    let webhook = ("WEBHOOK", "https://example.org/hook?of=mine&more");
    let hooked = async |kind: &str| {
        let armed =
            "select count(*) from webhooks join operations on operations.id = webhooks.operation_id where kind = ";
        broker.count(&format!("{armed}'{kind}'")).await
    };
    assert_eq!(hooked("restart").await, 0);
    shell.told("restart", &[id, webhook, ("SECRET", "s")], "202").await;
    assert_eq!(hooked("restart").await, 1);
    made(&broker, id.1, 4, at()).await;
    for action in ["flush", "stats", "restart"] {
        let document = shell.told("schema", &[id, ("ACTION", action)], "200").await;
        assert_eq!(document["info"]["title"], json!(action));
    }

    shell.told("unbind", &bound, "200").await;
    shell.told("deprovision", &of("q"), "202").await;
    broker.gone(id.1).await;
    shell.told("last_operation", &[id], "410").await;

    backups(&mut shell).await;
    bindings(&mut shell).await;
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "call")
        .collect();
    assert_eq!(shell.ran, there);
}

/// Redis on ElastiCache has backups.
async fn backups(shell: &mut Shell<'_>) {
    let broker = shell.broker;
    let redis: CachePlan = serde_json::from_value(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1",
        "kind": "CachePlan",
        "metadata": { "name": "redis-small" },
        "spec": {
            "service": "akkeris-redis", "id": "r", "description": "One node.",
            "engine": { "type": "redis", "version": "7.1" },
            "elasticache": { "nodeType": "cache.t4g.micro" },
        },
        "status": plan().status,
    }))
    .unwrap();
    broker.offer(&[redis]);
    let id = ("INSTANCE_ID", "redis");
    shell
        .told(
            "provision",
            &[id, ("SERVICE_ID", REDIS_SERVICE), ("PLAN_ID", "r")],
            "202",
        )
        .await;
    let at = || Connection {
        engine: EngineType::Redis,
        provider: ProviderKind::ElastiCache,
        ..connection()
    };
    made(broker, id.1, 1, at()).await;
    let webhook = ("WEBHOOK", "https://example.org/hook");
    let operation = shell.told("backup", &[id, webhook], "202").await["operation"].clone();
    let listed = shell.told("backups", &[id], "200").await;
    assert_eq!(listed[0]["status"], json!("creating"));
    let backup = listed[0]["id"].as_str().unwrap();
    let operation = operation.as_str().unwrap().parse().unwrap();
    broker
        .ledger
        .project_backup(broker.epoch, operation, &Outcome::Succeeded)
        .await
        .unwrap();
    let named = [id, ("BACKUP", backup)];
    assert_eq!(shell.told("backups", &named, "200").await["status"], json!("available"));
    shell.told("restore", &[id, named[1], webhook], "202").await;
    let armed = "select count(*) from webhooks join operations on operations.id = webhooks.operation_id
                  where kind in ('backup', 'restore')";
    assert_eq!(broker.count(armed).await, 2);
}

/// Where bindings have users they are made by operations, and succeed each other.
async fn bindings(shell: &mut Shell<'_>) {
    let broker = shell.broker;
    let mut users = serde_json::to_value(plan()).unwrap();
    users["spec"]["service"] = json!("akkeris-redis");
    users["spec"]["engine"] = json!({ "type": "redis", "version": "7.2" });
    users["spec"]["bindingCredentials"] = json!("perBinding");
    broker.offer(&[serde_json::from_value(users).unwrap()]);
    let id = ("INSTANCE_ID", "users");
    let of = [
        id,
        ("SERVICE_ID", REDIS_SERVICE),
        ("PLAN_ID", "p"),
        ("BINDING_ID", "old"),
    ];
    shell.told("provision", &of[..3], "202").await;
    made(broker, id.1, 1, connection()).await;
    let mut version = 1;
    let mut bound = async || {
        let users = broker.ledger.binding_users(&id.1.parse().unwrap()).await.unwrap();
        let users: Vec<_> = users.iter().map(|user| (user.name.as_str(), true)).collect();
        let revision = broker
            .count("select desired_revision from instances where id = 'users'")
            .await;
        version += 1;
        broker
            .observe(id.1, Verdict::Ready, version, revision, Some(connection()), &users)
            .await;
    };
    let operation = shell.told("bind", &of, "202").await["operation"].clone();
    let named = [id, of[3], ("OPERATION", operation.as_str().unwrap())];
    let state = shell.told("last_binding_operation", &named, "200").await["state"].clone();
    assert_eq!(state, json!("in progress"));
    bound().await;
    assert_eq!(
        shell.told("last_binding_operation", &named[..2], "200").await["state"],
        json!("succeeded")
    );
    let successor = [id, ("BINDING_ID", "new"), ("PREDECESSOR", "old")];
    shell.told("rotate", &successor, "202").await;
    bound().await;
    let fetched = shell.told("fetch_binding", &successor[..2], "200").await;
    assert!(fetched["credentials"]["username"].is_string(), "{fetched}");
}

#[tokio::test]
async fn a_script_says_what_it_lacks() {
    let output = Command::new(folder().join("bind.sh"))
        .env_remove("INSTANCE_ID")
        .env("BROKER_URL", "http://127.0.0.1:1")
        .env("BROKER_USER", "u")
        .env("BROKER_PASSWORD", "p")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bind.sh: set INSTANCE_ID\n");
}
