//! Every kind of disagreement, once, on the real stack: found, and mended where nothing can be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use cache_broker::provider::elasticache::OWNER_TAG;
use sandbox::Sandbox;
use sandbox::elasticache::{self as endpoint, Nodes, Times};
use sandbox::node::{self, Pods};
use serde_json::json;
use tokio::process::Command;

use crate::cluster::{Place, provider_id};
use crate::elasticache::client;
use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, REDIS, REDIS_ON_AWS};
use crate::world::{BROKER, PATIENCE, World, eventually};

/// Runs the doctor; returns its exit code and what it printed.
pub async fn examined(world: &World, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(BROKER);
    command.arg("doctor").args(arguments).kill_on_drop(true);
    command.envs(world.sandbox.environment());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    println!("{out}{err}");
    (output.status.code().unwrap(), out)
}

/// The first word of each line of the table, without its head.
pub fn kinds(told: &str) -> Vec<&str> {
    let lines = told.lines().skip_while(|line| !line.starts_with("KIND")).skip(1);
    let rows = lines.take_while(|line| line.contains("  "));
    rows.filter_map(|line| line.split_whitespace().next()).collect()
}

struct Case {
    order: Order,
    place: Place,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disagreement_is_found_and_what_is_safe_is_mended() {
    let builder = Sandbox::builder()
        .node(node::Options {
            pods: Pods::simulated(),
            ..node::Options::default()
        })
        .elasticache(endpoint::Options {
            nodes: Nodes::Simulated,
            times: Times::all(Duration::from_millis(200)),
            ..endpoint::Options::default()
        });
    let mut world = World::on(builder.start().await.unwrap(), &[]).await;
    let osb = world.osb();
    let mut cases = BTreeMap::new();
    let names = [
        "missing",
        "unrecorded",
        "returned",
        "held",
        "behind",
        "edited",
        "owner",
        "overdue",
        "sealed",
    ];
    for name in names {
        cases.insert(name, Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER));
    }
    for name in ["lost", "foreign"] {
        cases.insert(name, Order::new(REDIS, REDIS_ON_AWS));
    }
    let having = cases.values().map(|order| osb.have(order));
    futures::future::join_all(having).await;
    let mut made = BTreeMap::new();
    for (name, order) in cases {
        let place = world.place(&order).await;
        made.insert(name, Case { order, place });
    }
    assert_eq!(examined(&world, &[]).await.0, 0, "all agree");

    // Nobody is there to mend anything by himself.
    world.broker.terminate().await;
    let sql = world.sql().await;
    let case = |name: &str| &made[name];
    let free = json!({ "metadata": { "finalizers": null } });
    world.patch(&case("missing").place, &free).await;
    world.delete(&case("missing").place).await;
    let id = &case("unrecorded").order.id;
    for table in ["webhooks", "operations", "bindings"] {
        let query = format!("delete from {table} where instance_id = $1");
        sql.execute(&query, &[id]).await.unwrap();
    }
    sql.execute("delete from instances where id = $1", &[id]).await.unwrap();
    let tombstone = "update instances set deleted_at = now(), desired = 'absent' where id = $1";
    sql.execute(tombstone, &[&case("returned").order.id]).await.unwrap();
    world.delete(&case("held").place).await;
    let later = json!({ "metadata": { "annotations": { "cache.akkeris.io/ledger-revision": "40" } } });
    world.patch(&case("behind").place, &later).await;
    let edit = json!({ "spec": { "parameters": { "maxItemSize": "2Mi" } } });
    world.patch(&case("edited").place, &edit).await;
    let owner = json!({ "spec": { "owner": { "space": "another" } } });
    world.patch(&case("owner").place, &owner).await;
    sql.execute(
        "insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
         values (gen_random_uuid(), $1, 'restart', 1, clock_timestamp(), now() - interval '1 hour')",
        &[&case("overdue").order.id],
    )
    .await
    .unwrap();
    let query = "select parameters from instances where id = $1";
    let sealed: Vec<u8> = sql.query_one(query, &[&case("sealed").order.id]).await.unwrap().get(0);
    let set = "update instances set parameters = $2 where id = $1";
    sql.execute(set, &[&case("sealed").order.id, &vec![0_u8]])
        .await
        .unwrap();
    let unwritten = "update instances set desired_revision = 2, outbox_error = 'forbidden' where id = $1";
    sql.execute(unwritten, &[&case("sealed").order.id]).await.unwrap();
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": {
                "name": "copy", "namespace": "redis-system",
                "annotations": { "cache.akkeris.io/instance-id": case("edited").order.id },
            },
            "spec": { "planRef": { "name": "memcached-hobby-dev" } },
        }))
        .await;
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": {
                "name": "pool-stranger", "namespace": "memcached-system",
                "labels": { "cache.akkeris.io/pool": "memcached-hobby-dev" },
            },
            "spec": { "planRef": { "name": "memcached-hobby-dev" } },
        }))
        .await;
    let aws = client(&world);
    let of = async |name: &str| provider_id(&world.instance(&case(name).place).await.unwrap());
    let lost = of("lost").await;
    aws.delete_replication_group()
        .replication_group_id(&lost)
        .send()
        .await
        .unwrap();
    let instance = world.instance(&case("foreign").place).await.unwrap();
    let tag = aws_sdk_elasticache::types::Tag::builder()
        .key(OWNER_TAG)
        .value("another")
        .build();
    aws.add_tags_to_resource()
        .resource_name(instance.status.unwrap().provider_arn.unwrap())
        .tags(tag)
        .send()
        .await
        .unwrap();
    let tag = aws_sdk_elasticache::types::Tag::builder()
        .key(OWNER_TAG)
        .value("gone")
        .build();
    aws.create_cache_cluster()
        .cache_cluster_id("sandbox-orphan")
        .engine("memcached")
        .cache_node_type("cache.t4g.micro")
        .num_cache_nodes(1)
        .tags(tag)
        .send()
        .await
        .unwrap();
    eventually("what Kubernetes is to collect", async || {
        world.children(&case("missing").place).await.is_empty().then_some(())
    })
    .await;
    eventually("what ElastiCache is to do", async || {
        (!world.exists_in_elasticache(&lost)).then_some(())
    })
    .await;

    let (code, told) = examined(&world, &[]).await;
    assert_eq!(code, 3);
    let all = [
        "Missing",
        "Unrecorded",
        "Copy",
        "Returned",
        "DeletionHeld",
        "LedgerBehind",
        "Edited",
        "Edited",
        "Unwritten",
        "Overdue",
        "Sealed",
        "UnknownMember",
        "CacheMissing",
        "ForeignCache",
        "Orphan",
    ];
    assert_eq!(kinds(&told), all, "{told}");
    assert!(told.contains("--fix mends 3"), "{told}");

    // The table comes with what was done; the rest is for people.
    sql.execute(set, &[&case("sealed").order.id, &sealed]).await.unwrap();
    let (code, told) = examined(&world, &["--fix"]).await;
    assert_eq!(code, 3);
    assert_eq!(told.matches("mended: ").count(), 3, "{told}");
    drop(sql);
    world.start_broker().await;
    let at = |name: &str| &made[name].place;
    world.until_nothing_is_left(at("returned"), None).await;
    eventually("the owner", async || {
        let owner = world.instance(at("owner")).await?.spec.owner?;
        (owner.space.as_deref() == Some("space")).then_some(())
    })
    .await;
    let revision: i64 = world
        .sql()
        .await
        .query_one(
            "select desired_revision from instances where id = $1",
            &[&made["behind"].order.id],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(revision, 40);
    // Nothing else was touched.
    for name in ["unrecorded", "held", "edited", "behind"] {
        assert!(world.instance(at(name)).await.is_some(), "{name}");
    }
    world.stop().await;
}
