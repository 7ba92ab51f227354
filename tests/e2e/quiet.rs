//! What a broker does not do: write or ask when nothing happens, and tell secrets.

use std::time::Duration;

use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, REDIS, REDIS_IN_CLUSTER, REDIS_ON_AWS};
use crate::receiver::Receiver;
use crate::world::{World, shared};

/// Every object that a broker may write, with its version.
pub async fn versions(world: &World) -> String {
    let kinds =
        "cplan,cinst,deployments,services,secrets,networkpolicies,poddisruptionbudgets,controllerrevisions,events";
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let text = world.kubectl(&["get", kinds, "--all-namespaces", "-o", path]).await;
    let ours =
        |line: &&str| line.contains("memcached-system/") || line.contains("redis-system/") || line.contains(" /");
    let mut lines: Vec<_> = text.lines().filter(ours).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn settled_instances_cause_no_writes_and_few_questions() {
    let world = World::start(&[("RESYNC_SECONDS", "10")]).await;
    let osb = world.osb();
    for (service, plan) in [(MEMCACHED, MEMCACHED_IN_CLUSTER), (REDIS, REDIS_ON_AWS)] {
        osb.have(&Order::new(service, plan)).await;
    }
    // What was nudged by the last changes has come to rest when two looks in a row are the same.
    let mut before = versions(&world).await;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = versions(&world).await;
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before.contains("Deployment memcached-system/"), "{before}");
    world.sandbox.elasticache().unwrap().forget_calls();
    // Two resync periods and a little: the watch of nothing.
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert_eq!(versions(&world).await, before);
    let calls = world.sandbox.elasticache().unwrap().calls();
    let calls: Vec<_> = calls.into_iter().map(|call| call.operation).collect();
    // Each resync lists groups and clusters and reads events, a page each.
    assert!(calls.iter().all(|call| call.starts_with("Describe")), "{calls:?}");
    assert!((3..=9).contains(&calls.len()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_never_show() {
    let world = shared().await;
    let osb = world.osb();
    let webhook_secret = "never-to-be-shown";
    let mut hook = Receiver::start([]).await;
    let mut secrets = vec![webhook_secret.to_owned()];
    let (mut orders, mut operations) = (Vec::new(), Vec::new());
    for plan in [REDIS_IN_CLUSTER, REDIS_ON_AWS] {
        let order = Order::new(REDIS, plan).webhook(&hook.url, webhook_secret);
        let operation = osb.provision(&order).await.operation();
        assert_eq!(osb.ended(&order, &operation).await.0, "succeeded");
        operations.push(operation);
        hook.next().await;
        let bound = osb.bind(&order, "b").await;
        hook.next().await;
        secrets.push(bound.body["credentials"]["password"].as_str().unwrap().to_owned());
        orders.push(order);
    }
    let objects = world
        .kubectl(&[
            "get",
            "cinst,events,cplan,deployments,pods",
            "--all-namespaces",
            "-o",
            "json",
        ])
        .await;
    let sql = world.sql().await;
    let mut dump = String::new();
    for table in ["instances", "operations", "bindings", "webhooks", "plan_revisions"] {
        let rows = sql
            .query(&format!("select to_jsonb(t)::text from {table} t"), &[])
            .await
            .unwrap();
        assert!(!rows.is_empty(), "{table}");
        dump.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    for order in &orders {
        osb.unbind(order, "b").await;
        let operation = osb.deprovision(order).await.operation();
        assert_eq!(osb.ended(order, &operation).await.0, "gone");
        operations.push(operation);
        hook.next().await;
    }
    let log = world.broker.log();
    // Each line of a request and of a step tells whose it is, and of which operation.
    for (nth, operation) in operations.iter().enumerate() {
        let id = &orders[nth % orders.len()].id;
        let of = |what: &str| {
            log.lines()
                .filter(|line| line.contains(operation.as_str()) && line.contains(id.as_str()) && line.contains(what))
                .count()
        };
        assert_eq!(of("served"), 1, "{operation}");
        assert!(of("step") > 0, "no step of {operation}");
    }
    assert!(log.contains(&orders[1].id), "the log tells of this");
    assert!(dump.contains(&orders[1].id) && objects.contains(&orders[1].id));
    for secret in &secrets {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        for (what, text) in [("the log", &log), ("the cluster", &objects), ("the ledger", &dump)] {
            assert!(!text.contains(secret.as_str()), "{what} shows {secret}");
            assert!(!text.contains(&hex), "{what} shows {secret} as bytes");
        }
    }
}
