//! Two brokers: one leads, the other one takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::Signal;

use crate::caches::use_credentials;
use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order};
use crate::world::{Broker, World, eventually};

const LEADS: &str = "operator: ok";
const STANDS_BY: &str = "operator: standby";

async fn until(broker: &Broker, word: &str) {
    let health = broker.health();
    eventually(word, async || {
        let reply = health.try_get("/readyz").await?;
        (reply.status == StatusCode::OK && reply.text.contains(word)).then_some(())
    })
    .await;
}

/// A world with a second broker, which stands by.
async fn two() -> (World, Broker) {
    let world = World::start(&[]).await;
    until(&world.broker, LEADS).await;
    let mut second = Broker::new(&world.sandbox, "second", 8453, &[]);
    second.start(&world.sandbox).await;
    until(&second, STANDS_BY).await;
    (world, second)
}

/// Orders an instance and waits until it was reconciled for the first time.
async fn reconciled(world: &World, broker: &Broker) -> Order {
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    broker.osb().provision(&order).await.operation();
    let place = world.place(&order).await;
    eventually("the first reconcile", async || {
        world.instance(&place).await?.status.map(drop)
    })
    .await;
    order
}

async fn epoch(world: &World) -> i64 {
    world
        .sql()
        .await
        .query_one("select epoch from leader", &[])
        .await
        .unwrap()
        .get(0)
}

/// Watches that never both brokers lead.
struct Watched {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn start(a: &Broker, b: &Broker) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (a, b) = (a.health(), b.health());
        let task = tokio::spawn({
            let (stop, looks) = (stop.clone(), looks.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    // One that stands still does not answer.
                    let look = async |health: &crate::osb::Osb| {
                        let reply = tokio::time::timeout(Duration::from_millis(500), health.try_get("/readyz")).await;
                        reply.ok().flatten().map(|reply| reply.text).unwrap_or_default()
                    };
                    let (first, second) = (look(&a).await, look(&b).await);
                    // Asked again: leading may have changed hands between the two answers.
                    let again = look(&a).await;
                    let both = [&first, &second, &again].iter().all(|text| text.contains(LEADS));
                    assert!(!both, "both lead:\n{first}\n{second}");
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self { stop, looks, task }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.looks.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_takes_over_from_one_that_dies_and_sooner_from_one_that_ends() {
    let (mut world, mut second) = two().await;
    let began = epoch(&world).await;
    let watched = Watched::start(&world.broker, &second);
    let mut orders = vec![reconciled(&world, &world.broker).await];
    orders.push(reconciled(&world, &second).await);

    let killed = Instant::now();
    world.kill_broker().await;
    orders.push(reconciled(&world, &second).await);
    let crash = killed.elapsed();
    println!("hand-over after SIGKILL: {} ms", crash.as_millis());
    assert!(crash < Duration::from_secs(15), "{crash:?}");
    until(&second, LEADS).await;
    assert_eq!(epoch(&world).await, began + 1);

    world.start_broker().await;
    until(&world.broker, STANDS_BY).await;
    let mut stops = Vec::new();
    for round in 1..=4 {
        // The second one leads, and is asked to end.
        let asked = Instant::now();
        let (status, (order, stop)) = tokio::join!(second.terminate(), async {
            (reconciled(&world, &world.broker).await, asked.elapsed())
        });
        println!("hand-over {round} after SIGTERM: {} ms", stop.as_millis());
        assert_eq!(status.code(), Some(0), "{}", second.log());
        // Sooner than a lease that was not let go of runs out.
        assert!(stop < Duration::from_secs(8), "{stop:?}");
        stops.push(stop);
        orders.push(order);
        second.start(&world.sandbox).await;
        until(&second, STANDS_BY).await;
        assert_eq!(epoch(&world).await, began + 1 + round);
        std::mem::swap(&mut world.broker, &mut second);
    }
    // The machine may be busy with other tests.
    assert!(stops.iter().min() < Some(&Duration::from_secs(2)), "{stops:?}");
    let looks = watched.end().await;
    println!("{looks} looks, never two leaders");
    assert!(looks > 20, "{looks}");
    for order in &orders {
        world.until_ready(&world.place(order).await).await;
    }
    let deployments = world
        .kubectl(&["get", "deployments", "--all-namespaces", "-o", "name"])
        .await;
    assert_eq!(deployments.lines().count(), orders.len(), "{deployments}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_finds_another_one_and_stands_by() {
    let (world, second) = two().await;
    let watched = Watched::start(&world.broker, &second);
    world.broker.signal(Signal::STOP);
    let stopped = Instant::now();
    let order = reconciled(&world, &second).await;
    println!(
        "hand-over from one that stands still: {} ms",
        stopped.elapsed().as_millis()
    );
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    until(&second, LEADS).await;
    world.broker.signal(Signal::CONT);
    until(&world.broker, STANDS_BY).await;
    assert!(
        world.broker.log().contains("the lease could not be renewed for 6 s"),
        "{}",
        world.broker.log()
    );
    world.until_ready(&world.place(&order).await).await;
    let more = reconciled(&world, &world.broker).await;
    let bound = eventually("a binding", async || {
        let bound = world.osb().bind(&more, "b").await;
        (bound.status == StatusCode::CREATED).then_some(bound)
    })
    .await;
    use_credentials(
        &bound.body["credentials"],
        world.sandbox.elasticache().unwrap().ca_file(),
    )
    .await;
    watched.end().await;
    until(&second, LEADS).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_nobody_leads_for_long_and_one_does_again_after() {
    let (world, second) = two().await;
    let control_plane = world.sandbox.control_plane().unwrap();
    control_plane.stop_api_server().await.unwrap();
    let stopped = Instant::now();
    let health = world.broker.health();
    eventually("the leader to stop leading", async || {
        (!health.get("/readyz").await.text.contains(LEADS)).then_some(())
    })
    .await;
    // Before its lease has run out for others.
    assert!(stopped.elapsed() < Duration::from_secs(9), "{:?}", stopped.elapsed());
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    let operation = second.osb().provision(&order).await.operation();
    control_plane.start_api_server().await.unwrap();
    assert_eq!(world.osb().ended(&order, &operation).await.0, "succeeded");
    let ready = [&world.broker, &second].map(|broker| async {
        let health = broker.health();
        eventually("readiness", async || {
            let reply = health.get("/readyz").await;
            (reply.status == StatusCode::OK).then_some(reply.text)
        })
        .await
    });
    let ready = futures::future::join_all(ready).await;
    let leaders = ready.iter().filter(|text| text.contains(LEADS)).count();
    assert_eq!(leaders, 1, "{ready:?}");
    world.stop().await;
}
