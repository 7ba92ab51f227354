//! The broker is killed, or loses what it needs, at the worst moments.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use sandbox::elasticache::Times;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::caches::use_credentials;
use crate::cluster::{Place, provider_id};
use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, REDIS, REDIS_ON_AWS};
use crate::receiver::Receiver;
use crate::world::{Broker, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_ledger_and_the_cluster_it_goes_on_after_its_restart() {
    let mut world = World::start(&[]).await;
    let mut hook = Receiver::start([]).await;
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER).webhook(&hook.url, "secret");
    // Without an API server the order is accepted and nothing can be written to the cluster.
    let control_plane = world.sandbox.control_plane().unwrap();
    control_plane.stop_api_server().await.unwrap();
    let operation = world.osb().provision(&order).await.operation();
    world.kill_broker().await;
    let unwritten = "select count(*) from instances where id = $1 and applied_revision = 0 and desired_revision = 1";
    assert_eq!(world.count(unwritten, &order).await, 1);
    let control_plane = world.sandbox.control_plane().unwrap();
    control_plane.start_api_server().await.unwrap();
    assert!(world.instance(&world.place(&order).await).await.is_none());

    world.start_broker().await;
    let osb = world.osb();
    assert_eq!(osb.ended(&order, &operation).await.0, "succeeded");
    let body = hook.next().await.body();
    assert_eq!(
        (&body["state"], &body["operation"]),
        (&json!("succeeded"), &json!(operation))
    );
    let bound = osb.bind(&order, "b").await;
    use_credentials(
        &bound.body["credentials"],
        world.sandbox.elasticache().unwrap().ca_file(),
    )
    .await;
    let deployments = world
        .kubectl(&["get", "deployments,cinst", "--all-namespaces", "-o", "name"])
        .await;
    assert_eq!(deployments.lines().count(), 2, "{deployments}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_elasticache_creates_it_may_be_killed_and_the_cache_be_given_back() {
    let mut world = World::start(&[]).await;
    let elasticache = world.sandbox.elasticache().unwrap();
    elasticache.set_times(Times {
        creating: Duration::from_secs(8),
        ..Times::default()
    });
    let groups = || world.sandbox.elasticache().unwrap().remaining().replication_groups;
    let killed = Order::new(REDIS, REDIS_ON_AWS);
    let operation = world.osb().provision(&killed).await.operation();
    eventually("the group", async || (groups().len() == 1).then_some(())).await;
    world.kill_broker().await;
    world.start_broker().await;
    let osb = world.osb();
    assert_eq!(osb.ended(&killed, &operation).await.0, "succeeded");
    let groups = || world.sandbox.elasticache().unwrap().remaining().replication_groups;
    assert_eq!(groups().len(), 1);
    let id = groups()[0].clone();
    assert_eq!(world.calls("CreateReplicationGroup", &id).len(), 1);
    let bound = osb.bind(&killed, "b").await;
    use_credentials(
        &bound.body["credentials"],
        world.sandbox.elasticache().unwrap().ca_file(),
    )
    .await;

    // By a platform, which was told that it takes too long, and by kubectl: the resource stays until ElastiCache could let
    // go.
    world.sandbox.elasticache().unwrap().set_times(Times {
        creating: Duration::from_secs(15),
        ..Times::default()
    });
    let returned = Order::new(REDIS, REDIS_ON_AWS);
    let overdue = osb.provision(&returned).await.operation();
    let by_name = Place::new("redis-system", "by-name");
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": by_name.name, "namespace": by_name.namespace },
            "spec": { "planRef": { "name": "redis-hobby-dev" } },
        }))
        .await;
    eventually("both groups", async || (groups().len() == 3).then_some(())).await;
    let place = world.place(&returned).await;
    let ids = [&place, &by_name].map(|place| async { provider_id(&world.instance(place).await.unwrap()) });
    let ids = futures::future::join_all(ids).await;
    let past = "update operations set deadline_at = now() where instance_id = $1";
    world.sql().await.execute(past, &[&returned.id]).await.unwrap();
    assert_eq!(osb.ended(&returned, &overdue).await.0, "failed");
    let operation = osb.deprovision(&returned).await.operation();
    world
        .kubectl(&["delete", "cinst", "-n", "redis-system", "by-name", "--wait=false"])
        .await;
    for (place, id) in [&place, &by_name].into_iter().zip(&ids) {
        let held = world.until_reason(place, "Deleting").await;
        assert!(held.metadata.deletion_timestamp.is_some());
        assert!(world.exists_in_elasticache(id));
    }
    assert_eq!(osb.ended(&returned, &operation).await.0, "gone");
    for (place, id) in [&place, &by_name].into_iter().zip(&ids) {
        world.until_nothing_is_left(place, Some(id)).await;
        // ElastiCache was not asked before it could.
        let asked: Vec<_> = world
            .calls("DeleteReplicationGroup", id)
            .into_iter()
            .map(|call| call.outcome)
            .collect();
        assert_eq!(asked, ["ok"]);
    }
    assert_eq!(groups(), [id], "the other one stays");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_nothing_is_accepted_and_without_the_api_server_all_is() {
    let mut world = World::start(&[]).await;
    let osb = world.osb();
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);

    world.sandbox.postgres().stop().await.unwrap();
    let refused = osb.provision(&order).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    let health = world.broker.health();
    eventually("unreadiness", async || {
        let reply = health.get("/readyz").await;
        (reply.status == StatusCode::SERVICE_UNAVAILABLE && !reply.text.contains("database: ok")).then_some(())
    })
    .await;
    assert_eq!(health.get("/livez").await.status, StatusCode::OK);
    world.sandbox.postgres().start().await.unwrap();
    assert_eq!(
        world
            .count("select count(*) from instances where id = $1", &order)
            .await,
        0
    );
    eventually("readiness", async || {
        (health.get("/readyz").await.status == StatusCode::OK).then_some(())
    })
    .await;

    world.sandbox.control_plane().unwrap().stop_api_server().await.unwrap();
    let operation = osb.provision(&order).await.operation();
    assert_eq!(osb.poll(&order, &operation).await.body["state"], json!("in progress"));
    world.sandbox.control_plane().unwrap().start_api_server().await.unwrap();
    assert_eq!(osb.ended(&order, &operation).await.0, "succeeded");
    let place = world.place(&order).await;
    osb.give_back(&order).await;
    world.until_nothing_is_left(&place, None).await;

    let start = Instant::now();
    let status = world.broker.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", world.broker.log());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    world.stop().await;
}

/// The way to the API server through a proxy that can be made to stand still.
struct Way {
    frozen: Arc<AtomicBool>,
    kubeconfig: PathBuf,
}

impl Way {
    async fn to_api_server(world: &World) -> Self {
        let text = std::fs::read_to_string(world.sandbox.kubeconfig()).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        let server = cluster["server"]
            .as_str()
            .unwrap()
            .trim_start_matches("https://")
            .to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        cluster["tls-server-name"] = json!(server.split(':').next());
        cluster["server"] = json!(format!("https://{}", listener.local_addr().unwrap()));
        let kubeconfig = world.sandbox.supervisor().dir().join("kubeconfig-through-a-proxy");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let frozen = Arc::new(AtomicBool::new(false));
        let standing = frozen.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (server, standing) = (server.clone(), standing.clone());
                tokio::spawn(async move {
                    let far = tokio::net::TcpStream::connect(&server).await.unwrap();
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(
                        pass(near_in, far_out, standing.clone()),
                        pass(far_in, near_out, standing)
                    )
                });
            }
        });
        Self { frozen, kubeconfig }
    }

    /// Nothing that is sent from now on arrives.
    fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }
}

/// Passes on what comes until the way stands still; both ends stay open then.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, standing: Arc<AtomicBool>) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if standing.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// A process holds what it writes for as long as it lives, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_taken_is_written_by_another_within_seconds() {
    let mut world = World::start(&[]).await;
    let way = Way::to_api_server(&world).await;
    let kubeconfig = way.kubeconfig.to_str().unwrap().to_owned();
    let variables = [("ROLE", "api"), ("KUBECONFIG", kubeconfig.as_str())];
    let mut slow = Broker::new(&world.sandbox, "slow", 8453, &variables);
    slow.start(&world.sandbox).await;
    world.kill_broker().await;
    // Where no operator runs, what takes too long ends all the same.
    let late = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    let overdue = slow.osb().provision(&late).await.operation();
    let past = "update operations set deadline_at = now() where instance_id = $1";
    world.sql().await.execute(past, &[&late.id]).await.unwrap();
    let (state, description) = slow.osb().ended(&late, &overdue).await;
    assert_eq!(state, "failed");
    assert!(
        description.contains("took longer than the plan allows"),
        "{description}"
    );
    // Nobody else takes the row first.
    way.freeze();
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    let operation = slow.osb().provision(&order).await.operation();
    let taken = "select count(*) from instances where id = $1 and outbox_attempts = 1 and outbox_claim is not null";
    eventually("the row to be taken", async || {
        (world.count(taken, &order).await == 1).then_some(())
    })
    .await;
    world.start_broker().await;
    // It is held while the API server does not answer.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(world.count(taken, &order).await, 1);
    assert!(world.instance(&world.place(&order).await).await.is_none());
    let killed = Instant::now();
    slow.kill().await;
    let place = world.place(&order).await;
    eventually("the resource", async || world.instance(&place).await).await;
    println!(
        "written {} ms after the process that had taken it died",
        killed.elapsed().as_millis()
    );
    assert!(killed.elapsed() < Duration::from_secs(12), "{:?}", killed.elapsed());
    assert_eq!(world.osb().ended(&order, &operation).await.0, "succeeded");
    world.stop().await;
}
