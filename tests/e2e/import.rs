//! Moving here from the old broker: its database is read and left as it is, its caches are taken over as they are, and
//! their clients go on.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::caches::use_memcached;
use crate::cluster::Place;
use crate::elasticache::client;
use crate::old_broker::{OldBroker, cluster, id, memcached, redis, workload};
use crate::osb::{MEMCACHED, Order, REDIS};
use crate::receiver::Receiver;
use crate::steady::Cache;
use crate::world::{BROKER, Broker, PATIENCE, PROJECT, World, eventually, shared};

/// The states of the old broker's tasks.
const STATES: [&str; 4] = ["pending", "started", "finished", "failed"];

/// What a client may be refused while one Pod takes the place of another.
const UNNOTICED: Duration = Duration::from_millis(500);

fn command(world: &World, from: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BROKER);
    command.envs(world.sandbox.environment());
    command.args(["import", "--from", from]).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn import(world: &World, from: &str, arguments: &[&str]) -> Output {
    let output = command(world, from, arguments).output();
    tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A row of the table at the end: imported, already, skipped, needs a decision.
fn counted(text: &str, kind: &str) -> Vec<u32> {
    let line = text
        .lines()
        .find(|line| line.starts_with(kind))
        .unwrap_or_else(|| panic!("{text}"));
    let numbers = line.get(kind.len()..).unwrap().split_whitespace();
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// An order of long ago.
fn ordered(id: &str, service: &'static str, plan: &str) -> Order {
    Order {
        id: id.to_owned(),
        ..Order::new(service, plan)
    }
}

/// Waits until an instance can be bound, and returns the credentials.
async fn bound(world: &World, order: &Order) -> Value {
    eventually(&format!("a binding of {order:?}"), async || {
        let reply = world.osb().bind(order, &id()).await;
        (reply.status == StatusCode::CREATED).then(|| reply.body["credentials"].clone())
    })
    .await
}

async fn update(world: &World, order: &mut Order, plan: &str) {
    let body = json!({ "service_id": order.service, "plan_id": plan });
    let operation = world.osb().patch(order, &body).await.operation();
    let (state, description) = world.osb().ended(order, &operation).await;
    assert_eq!(state, "succeeded", "{order:?}: {description}");
    order.plan = plan.to_owned();
}

async fn restart(world: &World, order: &Order) {
    let reply = world.osb().act(order, "restart").await;
    assert!(reply.status.is_success(), "{reply:?}");
    eventually(&format!("the end of the restart of {order:?}"), async || {
        let count =
            "select count(*) from operations where instance_id = $1 and kind = 'restart' and state = 'succeeded'";
        (world.count(count, order).await == 1).then_some(())
    })
    .await;
}

async fn pods(world: &World, namespace: &str, name: &str) -> String {
    let selector = format!("app={name}");
    let path = "jsonpath={.items[*].metadata.uid}";
    world
        .kubectl(&["get", "pods", "-n", namespace, "-l", &selector, "-o", path])
        .await
}

/// What was asked of ElastiCache about a cluster that changes something.
fn changes(world: &World, cluster: &str) -> Vec<String> {
    let calls = world.sandbox.elasticache().unwrap().calls().into_iter();
    let about = calls.filter(|call| call.parameters.values().any(|value| value.contains(cluster)));
    let operations = about.map(|call| call.operation);
    operations
        .filter(|name| !name.starts_with("Describe") && !name.starts_with("List"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_of_all_four_providers_move_here_and_their_clients_go_on() {
    let world = shared().await;
    let old = OldBroker::new(world).await;
    let mark: String = id().chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let name = |kind: &str| format!("old-{kind}-{mark}");

    // What stands.
    let micro = |more: Value| {
        let mut details = json!({ "CacheNodeType": "cache.t4g.micro", "NumCacheNodes": 1 });
        details
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        details
    };
    let filled = json!({
        "EngineVersion": "5.0.6", "CacheSubnetGroupName": "${REDIS_SUBNET_GROUP}", "AZMode": null,
        "SecurityGroupIds": ["${ELASTICACHE_SECURITY_GROUP}"], "Engine": "redis", "Port": 6379,
    });
    let aws_redis = old
        .plan(&name("ar"), "aws-redis-instance", &micro(filled.clone()), "")
        .await;
    let larger = json!({ "CacheNodeType": "cache.m7g.large", "EngineVersion": "5.0.6" });
    let aws_redis_larger = old.plan(&name("al"), "aws-redis-instance", &micro(larger), "").await;
    let aws_memcached = micro(json!({ "EngineVersion": "1.6.22" }));
    let aws_memcached = old
        .plan(
            &name("am"),
            "aws-memcached-instance",
            &aws_memcached,
            "preprovision = 1",
        )
        .await;
    let sized = |size: &str, version: &str, more: Value| {
        let mut details = json!({ "size_in_megabytes": size, "version": version });
        details
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        details
    };
    let port = sized("128", "1.6.6", json!({ "port": 11311 }));
    let k8s_memcached = old
        .plan(&name("km"), "kubernetes-memcached-instance", &port, "beta = true")
        .await;
    let k8s_memcached_larger = old
        .plan(
            &name("kl"),
            "kubernetes-memcached-instance",
            &sized("160", "1.6.45", json!({})),
            "",
        )
        .await;
    let k8s_redis = old
        .plan(
            &name("kr"),
            "kubernetes-redis-instance",
            &sized("128", "6.0.7", json!({})),
            "deprecated = true",
        )
        .await;
    let k8s_redis_larger = old
        .plan(
            &name("ks"),
            "kubernetes-redis-instance",
            &sized("160", "6.0.7", json!({})),
            "",
        )
        .await;
    let withdrawn = old
        .plan(
            &name("kw"),
            "kubernetes-redis-instance",
            &sized("128", "6.0.7", json!({})),
            "deleted = true",
        )
        .await;
    let broken = old
        .plan(&name("br"), "aws-redis-instance", &json!("nonsense"), "")
        .await;
    let foreign = old.plan(&name("gc"), "gcloud-redis-instance", &json!({}), "").await;

    let (redis_cluster, memcached_cluster, spare, in_cluster) = (name("r"), name("m"), name("s"), name("k"));
    let (redis_address, memcached_address, spare_address, km_address, kr_address) = tokio::join!(
        cluster(world, &redis_cluster, "redis", "5.0.6", "cache.t4g.micro"),
        // It was changed by hand: an import changes nothing back.
        cluster(world, &memcached_cluster, "memcached", "1.6.17", "cache.t4g.small"),
        cluster(world, &spare, "memcached", "1.6.22", "cache.t4g.micro"),
        workload(world, "memcached-system", &in_cluster, memcached(128, 11311), 11311),
        workload(world, "redis-system", &in_cluster, redis(128), 6379),
    );
    let mut instances = [
        (
            ordered(&id(), REDIS, &aws_redis),
            redis_cluster.clone(),
            redis_address.clone(),
        ),
        (
            ordered(&id(), MEMCACHED, &aws_memcached),
            memcached_cluster.clone(),
            memcached_address.clone(),
        ),
        (
            ordered(&id(), MEMCACHED, &k8s_memcached),
            in_cluster.clone(),
            km_address.clone(),
        ),
        (
            ordered(&id(), REDIS, &k8s_redis),
            in_cluster.clone(),
            kr_address.clone(),
        ),
    ];
    for (order, cache, address) in &instances {
        old.resource(&order.id, cache, &order.plan, address).await;
    }
    old.resource(&id(), &spare, &aws_memcached, &spare_address).await;
    old.run(&format!("update resources set claimed = false where name = '{spare}'"))
        .await;
    let returned = ordered(&id(), REDIS, &withdrawn);
    old.resource(&returned.id, "long-gone", &withdrawn, "").await;
    old.run("update resources set deleted = true where name = 'long-gone'")
        .await;
    // What is broken.
    let (missing, lost, of_broken, of_foreign) = (id(), id(), id(), id());
    old.resource(&missing, "no-such-cluster", &aws_redis, "").await;
    old.resource(&lost, "whatever", &id(), "").await;
    old.resource(&of_broken, "anything", &broken, "").await;
    old.resource(&of_foreign, "something", &foreign, "").await;
    // Tasks in every state.
    let mut receiver = Receiver::start([]).await;
    let hook = json!({ "url": receiver.url, "secret": "s3cret" }).to_string();
    let waiting = instances[0].0.clone();
    old.task(&waiting.id, "notify-create-service-webhook", "pending", &hook)
        .await;
    let bad_hook = old
        .task(
            &instances[1].0.id,
            "notify-create-service-webhook",
            "started",
            "not json",
        )
        .await;
    old.task(&instances[2].0.id, "notify-create-service-webhook", "failed", &hook)
        .await;
    let mut busy = Vec::new();
    for action in ["delete", "change-plans", "change-providers", "restore"] {
        for status in STATES {
            // What is at work on a cache is left to the old broker; what was, is over.
            let of = if ["pending", "started"].contains(&status) {
                let row = id();
                old.resource(&row, &name(&format!("b{}", busy.len())), &aws_redis, "")
                    .await;
                busy.push(row.clone());
                row
            } else {
                instances[2].0.id.clone()
            };
            old.task(&of, action, status, "{}").await;
        }
    }
    for status in STATES {
        for action in [
            "resync-from-provider",
            "resync-until-available",
            "notify-create-binding-webhook",
        ] {
            old.task(&instances[2].0.id, action, status, &hook).await;
        }
        old.task(&instances[3].0.id, "perform-post-provision", status, "").await;
        // Of what was given back all tasks are marked so.
        for action in ["delete", "notify-create-service-webhook"] {
            let task = old.task(&returned.id, action, status, &hook).await;
            old.run(&format!("update tasks set deleted = true where task = '{task}'"))
                .await;
        }
    }
    old.task(&instances[1].0.id, "notify-create-service-webhook", "finished", &hook)
        .await;
    let unknown = old.task(&instances[1].0.id, "dance", "pending", "").await;
    let ownerless = old.task(&id(), "resync-from-provider", "pending", "").await;
    // Made ahead, and not made at all; and one that nobody ever ordered.
    for (row, deleted) in [(id(), false), (id(), true)] {
        old.resource(&row, "", &aws_memcached, "").await;
        old.run(&format!(
            "update resources set claimed = false, status = 'provisioning', deleted = {deleted} where id = '{row}'"
        ))
        .await;
    }
    let skipped_tasks = {
        let tasks = old.sql.query("select from tasks", &[]).await.unwrap().len();
        // Those of the services and bindings count as webhooks while they are open.
        u32::try_from(tasks).unwrap() - 2 - 2 - 2
    };

    let caches: Vec<_> = instances
        .iter()
        .map(|(order, _, address)| Cache::open(address, order.service == REDIS))
        .collect();
    for cache in &caches {
        eventually("an answer", async || cache.set("mark", "here").await.ok()).await;
    }
    let clients: Vec<_> = caches.iter().map(Cache::use_steadily).collect();
    let content = old.content().await;
    let pods_before = (
        pods(world, "memcached-system", &in_cluster).await,
        pods(world, "redis-system", &in_cluster).await,
    );

    // A rehearsal writes nothing.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let output = import(world, &old.url, &["--dry-run", "--out", out]).await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_eq!(counted(&text, "plans"), [8, 0, 0, 2], "{text}");
    assert_eq!(busy.len(), 8);
    assert_eq!(counted(&text, "instances"), [4, 0, 0, 12], "{text}");
    assert_eq!(counted(&text, "given back"), [1, 0, 1, 0], "{text}");
    assert_eq!(counted(&text, "made ahead"), [1, 0, 1, 0], "{text}");
    assert_eq!(counted(&text, "webhooks"), [1, 0, 2, 1], "{text}");
    assert_eq!(counted(&text, "other tasks"), [0, 0, skipped_tasks, 2], "{text}");
    let open = [
        &missing,
        &lost,
        &of_broken,
        &of_foreign,
        &bad_hook,
        &broken,
        &foreign,
        &unknown,
        &ownerless,
    ];
    for open in open.into_iter().chain(&busy) {
        assert!(text.contains(&format!(" {open}: ")), "{open}: {text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
    let ids: Vec<_> = instances.iter().map(|(order, ..)| order.id.clone()).collect();
    let count = async || {
        let row = world.sql().await;
        let row = row
            .query_one("select count(*) from instances where id = any($1)", &[&ids])
            .await
            .unwrap();
        row.get::<_, i64>(0)
    };
    assert_eq!(count().await, 0);
    let files = format!("{out}/plans");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 9, "8 plans and their list");
    let services = fs::read_to_string(format!("{out}/services.yaml")).unwrap();
    assert!(services.contains(REDIS) && services.contains(MEMCACHED), "{services}");
    world
        .kubectl(&["apply", "--server-side", "--dry-run=server", "-k", &files])
        .await;

    // Then all of it; twice, and nothing comes of the second time.
    let output = import(world, &old.url, &["--apply"]).await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_eq!(counted(&text, "instances"), [4, 0, 0, 12], "{text}");
    for _ in 0..2 {
        let output = import(world, &old.url, &["--apply"]).await;
        let text = said(&output);
        assert_eq!(counted(&text, "plans"), [0, 8, 0, 2], "{text}");
        assert_eq!(counted(&text, "instances"), [0, 4, 0, 12], "{text}");
        assert_eq!(counted(&text, "given back"), [0, 1, 1, 0], "{text}");
        assert_eq!(counted(&text, "made ahead"), [0, 1, 1, 0], "{text}");
    }
    assert_eq!(count().await, 4);

    // What platforms hear.
    for (order, _, address) in &instances {
        let credentials = bound(world, order).await;
        let url = if order.service == REDIS {
            format!("redis://{address}")
        } else {
            address.clone()
        };
        let variable = if order.service == REDIS {
            "REDIS_URL"
        } else {
            "MEMCACHED_URL"
        };
        assert_eq!(credentials[variable], json!(url), "{credentials}");
        assert_eq!(credentials.get("password"), None);
        let fetched = world.osb().get(&format!("/v2/service_instances/{}", order.id)).await;
        assert_eq!(
            (fetched.status, &fetched.body["plan_id"]),
            (StatusCode::OK, &json!(order.plan)),
            "{fetched:?}"
        );
        // The old broker handed out the instance's id as the operation.
        let polled = world.osb().poll(order, &order.id).await;
        assert_eq!(polled.body["state"], json!("succeeded"), "{polled:?}");
    }
    assert_eq!(world.osb().poll(&returned, &returned.id).await.status, StatusCode::GONE);
    assert_eq!(
        world.osb().unbind(&instances[0].0, "of-old").await.status,
        StatusCode::GONE
    );
    let told = receiver.next().await;
    assert_eq!(told.body()["state"], json!("succeeded"), "{told:?}");
    assert_eq!(told.body()["instance_id"], json!(waiting.id));
    assert!(told.headers.contains_key("x-osb-signature"));
    // Nothing was restarted, changed or renamed.
    assert_eq!(
        pods_before,
        (
            pods(world, "memcached-system", &in_cluster).await,
            pods(world, "redis-system", &in_cluster).await,
        )
    );
    for cluster in [&redis_cluster, &memcached_cluster] {
        assert_eq!(changes(world, cluster), ["CreateCacheCluster", "AddTagsToResource"]);
    }
    let kind = [
        "get",
        "service",
        "-n",
        "memcached-system",
        &in_cluster,
        "-o",
        "jsonpath={.spec.type}",
    ];
    assert_eq!(world.kubectl(&kind).await, "NodePort");
    // The one made ahead is handed out.
    let ordered_now = Order::new(MEMCACHED, &aws_memcached);
    eventually("a full pool", async || {
        let sql = world.sql().await;
        let state = sql
            .query_one("select state from pool_members where adopt = $1", &[&spare])
            .await
            .unwrap();
        (state.get::<_, String>(0) == "ready").then_some(())
    })
    .await;
    let reply = world.osb().provision(&ordered_now).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    // Only now: what is more than wanted would be removed.
    world
        .kubectl(&[
            "patch",
            "cplan",
            &format!("memcached-{}", name("am")),
            "--type=merge",
            "-p",
            r#"{"spec":{"preprovision":0}}"#,
        ])
        .await;
    assert_eq!(bound(world, &ordered_now).await["MEMCACHED_URL"], json!(spare_address));
    use_memcached(&spare_address).await;
    // What is ordered now of a plan with a port of its own answers there.
    let at_port = Order::new(MEMCACHED, &k8s_memcached);
    assert_eq!(world.osb().provision(&at_port).await.status, StatusCode::ACCEPTED);
    let credentials = bound(world, &at_port).await;
    let address = credentials["MEMCACHED_URL"].as_str().unwrap();
    assert!(address.ends_with(":11311"), "{credentials}");
    use_memcached(address).await;

    for (client, (order, ..)) in clients.into_iter().zip(&instances) {
        let tally = client.end().await;
        println!(
            "{}: {} questions, refused for {:?}",
            order.plan, tally.questions, tally.refused
        );
        assert_eq!(tally.refused, Duration::ZERO, "{order:?}: {tally:?}");
    }
    for cache in &caches {
        assert!(cache.has("mark").await.unwrap(), "{cache:?}");
    }
    assert_eq!(old.content().await, content, "the old database is as it was");

    // From here on they are like any others. In the cluster another Pod answers at the same address, still without a
    // password.
    let clients: Vec<_> = caches[2..].iter().map(Cache::use_steadily).collect();
    update(world, &mut instances[2].0, &k8s_memcached_larger).await;
    restart(world, &instances[3].0).await;
    update(world, &mut instances[3].0, &k8s_redis_larger).await;
    restart(world, &instances[2].0).await;
    for (client, (order, _, address)) in clients.into_iter().zip(&instances[2..]) {
        let tally = client.end().await;
        println!("{}: refused for {:?}", order.plan, tally.refused);
        assert!(tally.refused <= UNNOTICED, "{order:?}: {tally:?}");
        let credentials = bound(world, order).await;
        assert!(credentials.to_string().contains(address.as_str()), "{credentials}");
    }
    update(world, &mut instances[0].0, &aws_redis_larger).await;
    assert!(
        caches[0].has("mark").await.unwrap(),
        "a change of the node type keeps the data"
    );
    restart(world, &instances[1].0).await;
    assert!(bound(world, &instances[0].0).await.to_string().contains(&redis_address));

    for (order, _, _) in &instances {
        world.osb().give_back(order).await;
    }
    world.osb().give_back(&ordered_now).await;
    world.osb().give_back(&at_port).await;
    for cluster in [&redis_cluster, &memcached_cluster, &spare] {
        assert!(!world.exists_in_elasticache(cluster), "{cluster}");
    }
    for namespace in ["memcached-system", "redis-system"] {
        world
            .until_nothing_is_left(&Place::new(namespace, &in_cluster), None)
            .await;
    }
    // The last snapshot, as the old broker left one.
    let snapshot = format!("{redis_cluster}-final");
    client(world)
        .delete_snapshot()
        .snapshot_name(snapshot)
        .send()
        .await
        .unwrap();
}

/// The commands of docs/MIGRATING.md, block by block.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(format!("{PROJECT}/docs/MIGRATING.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split_once("```").unwrap().0.to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_documentation_does_what_it_says() {
    let mut world = World::start(&[]).await;
    // Both brokers share a database.
    let old = OldBroker::beside_the_ledger(&world).await;
    let name = "old-documented";
    let details = json!({ "CacheNodeType": "cache.t4g.micro", "EngineVersion": "5.0.6" });
    let on_aws = old.plan("documented", "aws-redis-instance", &details, "").await;
    let details = json!({ "size_in_megabytes": "128", "version": "1.6.6" });
    let in_cluster = old
        .plan("documented", "kubernetes-memcached-instance", &details, "")
        .await;
    let (redis_address, memcached_address) = tokio::join!(
        cluster(&world, name, "redis", "5.0.6", "cache.t4g.micro"),
        workload(&world, "memcached-system", name, memcached(128, 11211), 11211),
    );
    let (first, second) = (id(), id());
    old.resource(&first, name, &on_aws, &redis_address).await;
    old.resource(&second, name, &in_cluster, &memcached_address).await;
    let pod = pods(&world, "memcached-system", name).await;

    let folder = tempfile::tempdir().unwrap();
    let path = format!(
        "{}:{}",
        std::path::Path::new(BROKER).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let run = async |world: &World, block: &str| {
        println!("{block}");
        let mut shell = Command::new("bash");
        shell
            .args(["-e", "-u", "-o", "pipefail", "-c", block])
            .current_dir(folder.path());
        shell.envs(world.sandbox.environment()).env("PATH", &path);
        let output = tokio::time::timeout(PATIENCE, shell.stdin(Stdio::null()).kill_on_drop(true).output());
        let output = output.await.unwrap().unwrap();
        assert!(output.status.success(), "{block}{}", said(&output));
        said(&output)
    };
    let blocks = documented();
    let [baseline, rehearse, services, move_, wait, let_go, forget, restrict] = &blocks[..] else {
        panic!("{blocks:#?}")
    };
    run(&world, baseline).await;
    assert_eq!(counted(&run(&world, rehearse).await, "instances"), [2, 0, 0, 0]);
    run(&world, services).await;
    run(&world, move_).await;
    run(&world, wait).await;
    for (instance, service, plan, address) in [
        (&first, REDIS, &on_aws, &redis_address),
        (&second, MEMCACHED, &in_cluster, &memcached_address),
    ] {
        let credentials = bound(&world, &ordered(instance, service, plan)).await;
        assert!(credentials.to_string().contains(address.as_str()), "{credentials}");
    }

    // Back: the caches stand, and are nobody's.
    run(&world, let_go).await;
    for namespace in ["memcached-system", "redis-system"] {
        assert_eq!(
            world.kubectl(&["get", "cinst", "-n", namespace, "-o", "name"]).await,
            ""
        );
    }
    world.kill_broker().await;
    run(&world, forget).await;
    assert!(world.exists_in_elasticache(name));
    let owners = "jsonpath={.items[*].metadata.ownerReferences}";
    let objects = ["get", "deployments,services", "-n", "memcached-system", "-o", owners];
    assert_eq!(world.kubectl(&objects).await, "");
    assert_eq!(
        pods(&world, "memcached-system", name).await,
        pod,
        "the Pod was not touched"
    );
    use_memcached(&memcached_address).await;

    // And once more, to stay.
    world.start_broker().await;
    run(&world, move_).await;
    run(&world, wait).await;
    let order = ordered(&second, MEMCACHED, &in_cluster);
    bound(&world, &order).await;
    restart(&world, &order).await;
    assert_eq!(
        pods(&world, "memcached-system", name).await,
        "",
        "the Pod of the old broker is gone"
    );
    run(&world, restrict).await;
    assert_eq!(old.sql.query("select from resources", &[]).await.unwrap().len(), 2);
}

/// What started the old broker: the command of its image, `start.sh` and `start-background.sh`, with its environment.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_of_the_old_broker_start_this_one() {
    let world = shared().await;
    let api = [
        "./servicebroker",
        "-insecure",
        "-logtostderr=1",
        "-stderrthreshold",
        "0",
    ];
    let worker = [&api[..], &["-background-tasks"]].concat();
    let database = world.sandbox.postgres().database_url("cache_broker");
    let flags = [
        "-database-url",
        &database,
        "-name-prefix=old",
        "-alsologtostderr",
        "-v",
        "1",
    ];
    let flags = [&["./start.sh"][..], &flags].concat();
    for (name, port, arguments, retries, serves) in [
        ("old-api", 9560, &api[..], "1", true),
        ("old-worker", 9570, &worker[..], "yes", false),
        ("old-flags", 9580, &flags[..], "", true),
    ] {
        let variables = [
            ("GLOG_logtostderr", "1"),
            ("STACKIMPACT", "agent"),
            ("RETRY_WEBHOOKS", retries),
            ("REDIS_SUBNET_GROUP", ""),
        ];
        let mut broker = Broker::new(&world.sandbox, name, port, &variables).arguments(arguments);
        broker.start(&world.sandbox).await;
        let catalog = broker.osb().try_get("/v2/catalog").await;
        assert_eq!(
            catalog.is_some_and(|reply| reply.status == StatusCode::OK),
            serves,
            "{name}"
        );
        assert_eq!(broker.terminate().await.code(), Some(0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_goes_on_where_it_was() {
    const ROWS: i64 = 400;
    let world = shared().await;
    let old = OldBroker::new(world).await;
    let mark: String = id().chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let details = json!({ "size_in_megabytes": "128", "version": "1.6.6" });
    let plan = old
        .plan(&format!("killed-{mark}"), "kubernetes-memcached-instance", &details, "")
        .await;
    old.run(&format!(
        "insert into resources (id, name, plan, claimed, deleted)
         select '{mark}-' || n, '', '{plan}', true, true from generate_series(1, {ROWS}) n"
    ))
    .await;
    let sql = world.sql().await;
    let imported = async || -> i64 {
        let pattern = format!("{mark}-%");
        sql.query_one("select count(*) from instances where id like $1", &[&pattern])
            .await
            .unwrap()
            .get(0)
    };
    let mut kills = 0;
    for least in [1, ROWS / 4, ROWS / 2] {
        let running = command(world, &old.url, &["--apply"]).spawn().unwrap();
        let process = rustix::process::Pid::from_raw(running.id().unwrap().cast_signed()).unwrap();
        let mut ended = std::pin::pin!(running.wait_with_output());
        let output = loop {
            tokio::select! {
                output = &mut ended => break output.unwrap(),
                count = imported() => if count >= least {
                    // It may have ended by itself.
                    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
                },
            }
        };
        assert!(
            output.status.success() || output.status.code().is_none(),
            "{}",
            said(&output)
        );
        kills += u32::from(output.status.code().is_none());
    }
    let before = imported().await;
    assert!(kills > 0 && before < ROWS, "{kills} kills, {before} rows");
    println!("killed {kills} times, with {before} of {ROWS} rows written");
    let output = import(world, &old.url, &["--apply"]).await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let known = u32::try_from(before).unwrap();
    let rows = u32::try_from(ROWS).unwrap();
    assert_eq!(counted(&text, "given back"), [rows - known, known, 0, 0], "{text}");
    assert_eq!(imported().await, ROWS);
    let audited = "select count(*) from audit where instance_id like $1 and request = 'import'";
    let audited: i64 = sql.query_one(audited, &[&format!("{mark}-%")]).await.unwrap().get(0);
    assert_eq!(audited, ROWS, "each row whole, and once");
    let plan = format!("memcached-killed-{mark}");
    world.kubectl(&["delete", "cplan", &plan]).await;
}
