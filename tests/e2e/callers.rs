//! Who may speak to the broker, and what is remembered of it.

use std::fs;
use std::process::Stdio;

use http::StatusCode;
use serde_json::json;
use tokio::process::Command;

use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, basic};
use crate::world::{BROKER, Broker, PATIENCE, eventually, shared};

/// A service account's token is let in as far as RBAC allows its user the non-resource URL.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_token_is_let_in_as_far_as_rbac_allows() {
    let world = shared().await;
    let variables = [
        ("ROLE", "api"),
        ("OSB_TOKEN_REVIEW", "true"),
        ("OSB_TOKEN_AUDIENCE", "cache-broker"),
    ];
    let mut broker = Broker::new(&world.sandbox, "tokens", 8543, &variables);
    broker.start(&world.sandbox).await;
    for name in ["reader", "stranger"] {
        world.kubectl(&["create", "serviceaccount", name]).await;
    }
    world
        .kubectl(&[
            "create",
            "clusterrole",
            "osb-reader",
            "--verb=get",
            "--non-resource-url=/v2",
        ])
        .await;
    world
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "osb-reader",
            "--clusterrole=osb-reader",
            "--serviceaccount=default:reader",
        ])
        .await;
    let token = async |name: &str, audience: &str| {
        let audience = format!("--audience={audience}");
        let token = world.kubectl(&["create", "token", name, &audience]).await;
        format!("Bearer {}", token.trim())
    };
    let reader = broker.osb_as(&token("reader", "cache-broker").await);
    // RBAC reaches the authorizer by a watch.
    eventually("RBAC that lets the reader in", async || {
        (reader.get("/v2/catalog").await.status == StatusCode::OK).then_some(())
    })
    .await;
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    let refused = reader.provision(&order).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    assert!(
        refused.text.contains("system:serviceaccount:default:reader"),
        "{refused:?}"
    );
    let stranger = broker.osb_as(&token("stranger", "cache-broker").await);
    assert_eq!(stranger.get("/v2/catalog").await.status, StatusCode::FORBIDDEN);
    for nobody in [
        token("reader", "somebody-else").await,
        "Bearer nonsense".to_owned(),
        "Bearer ".to_owned(),
        String::new(),
    ] {
        let reply = broker.osb_as(&nobody).get("/v2/catalog").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{nobody}");
    }
    // Passwords hold beside tokens.
    assert_eq!(broker.osb().get("/v2/catalog").await.status, StatusCode::OK);
    assert!(!broker.log().contains("eyJ"), "a token stands in the log");
    assert!(broker.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_again_when_their_file_changes() {
    let world = shared().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    fs::write(&file, "old:one\nboth:two\n").unwrap();
    let variables = [("ROLE", "api"), ("OSB_CREDENTIALS_FILE", file.to_str().unwrap())];
    let mut broker = Broker::new(&world.sandbox, "credentials", 8553, &variables);
    broker.start(&world.sandbox).await;
    let status = async |pair: &str| broker.osb_as(&basic(pair)).get("/v2/catalog").await.status;
    assert_eq!(status("old:one").await, StatusCode::OK);
    // What is no file of credentials leaves the old ones in place.
    fs::write(&file, "nonsense\n").unwrap();
    eventually("a complaint", async || {
        broker.log().contains("the old ones still do").then_some(())
    })
    .await;
    assert_eq!(status("old:one").await, StatusCode::OK);
    fs::write(&file, "new:three\nboth:two\n").unwrap();
    eventually("the new credentials", async || {
        (status("new:three").await == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(status("old:one").await, StatusCode::UNAUTHORIZED);
    assert_eq!(status("both:two").await, StatusCode::OK);
    assert!(broker.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_command_prints_who_asked_what_and_how_it_ended() {
    let world = shared().await;
    let osb = world.osb();
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    osb.have(&order).await;
    assert_eq!(osb.bind(&order, "b").await.status, StatusCode::CREATED);
    assert_eq!(osb.unbind(&order, "b").await.status, StatusCode::OK);
    assert_eq!(osb.act(&order, "flush").await.status, StatusCode::OK);
    let restart = osb.act(&order, "restart").await.operation();
    assert_eq!(osb.ended(&order, &restart).await.0, "succeeded");
    let renamed = json!({ "service_id": MEMCACHED, "context": { "platform": "e2e", "instance_name": "renamed" } });
    assert_eq!(osb.patch(&order, &renamed).await.status, StatusCode::OK);
    osb.give_back(&order).await;
    let print = async |instance: &str| {
        let mut command = Command::new(BROKER);
        command
            .envs(world.sandbox.environment())
            .args(["audit", "--instance", instance]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap()
    };
    let printed = print(&order.id).await;
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let expected: [&[&str]; 7] = [
        &["  provision plan=", "202  succeeded", ": the instance is ready"],
        &["  bind binding=b plan=", "  201"],
        &["  unbind binding=b  by ", "  200"],
        &["  flush  by ", "  200"],
        &["  restart  by ", "202  succeeded", ": the instance was restarted"],
        &["  update  by ", "  200"],
        &["  deprovision  by ", "202  succeeded", ": the instance was deleted"],
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, parts) in lines.iter().zip(expected) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
    assert_eq!(print("nobody").await.status.code(), Some(1));
}
