//! Many orders of several clients while everything dies that can: nothing is lost, made twice or left behind.
//!
//! Two processes serve the API and two operate, on a real Postgres and a real API server. Pods and ElastiCache nodes are
//! simulated, so that hundreds of caches fit one machine. The seed chooses what is ordered, what is killed and when; the
//! machine chooses the rest, so a seed does not replay exactly.

mod chaos;
mod platform;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sandbox::Sandbox;
use sandbox::elasticache::{self, Fault, FaultKind, Nodes, Times};
use sandbox::node::{self, Pods};

use crate::receiver::Receiver;
use crate::world::{Broker, World};
use chaos::Chaos;
use platform::Platform;

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Instances that are ordered.
    orders: usize,
    /// Clients that order at one time.
    clients: usize,
    /// How often a process that serves the API is killed.
    api_kills: usize,
    /// How often the operator that leads is killed.
    leader_kills: usize,
    /// How often Postgres, and the API server, are stopped and started.
    outages: usize,
    /// Over how long the disturbances are spread.
    period: Duration,
}

const SHORT: Shape = Shape {
    orders: 20,
    clients: 6,
    api_kills: 5,
    leader_kills: 1,
    outages: 1,
    period: Duration::from_secs(16),
};

const LONG: Shape = Shape {
    orders: 300,
    clients: 10,
    api_kills: 35,
    leader_kills: 15,
    outages: 4,
    period: Duration::from_secs(330),
};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_processes_die() {
    soak(SHORT).await;
}

/// The whole of it, about eight minutes: `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes about eight minutes: make soak"]
async fn nothing_is_lost_while_processes_die_for_long() {
    soak(LONG).await;
}

async fn soak(shape: Shape) {
    let seed: u64 = match std::env::var("SOAK_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("SOAK_SEED={seed} {shape:?}");
    let start = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let builder = Sandbox::builder()
        .node(node::Options {
            pods: Pods::simulated(),
            ..node::Options::default()
        })
        .elasticache(elasticache::Options {
            nodes: Nodes::Simulated,
            times: Times::all(Duration::from_millis(700)),
            ..elasticache::Options::default()
        });
    let mut world = World::on(builder.start().await.unwrap(), &[]).await;
    // It has recorded the plans, and makes room.
    world.broker.terminate().await;
    let world = world;
    let mut apis = Vec::new();
    let mut operators = Vec::new();
    for (number, name) in ["api-a", "api-b"].into_iter().enumerate() {
        apis.push(broker(&world, name, 8463 + 10 * number, "api"));
    }
    for (number, name) in ["operator-a", "operator-b"].into_iter().enumerate() {
        operators.push(broker(&world, name, 8483 + 10 * number, "operator"));
    }
    for broker in apis.iter_mut().chain(&mut operators) {
        broker.start(&world.sandbox).await;
    }
    let elasticache = world.sandbox.elasticache().unwrap();
    for (kind, fraction) in [
        (FaultKind::Throttle, 0.06),
        (FaultKind::LostAnswer, 0.05),
        (FaultKind::ServerError, 0.03),
    ] {
        elasticache.faults().add(Fault::new(kind).fraction(fraction));
    }
    // The receiver refuses some, too.
    let answers: Vec<u16> = (0..shape.orders * 8)
        .map(|_| if random.random_bool(0.1) { 503 } else { 200 })
        .collect();
    let mut receiver = Receiver::start(answers).await;

    let urls: Arc<Vec<_>> = Arc::new(apis.iter().map(Broker::osb).collect());
    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..shape.clients).map(|_| {
        let mut platform = Platform::new(urls.clone(), StdRng::seed_from_u64(random.random()), &receiver.url);
        let next = next.clone();
        async move {
            // Spread over the period, so that whatever happens then meets with work.
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= shape.orders {
                    return platform;
                }
                let turn = shape.period.mul_f64(number as f64 / shape.orders as f64);
                tokio::time::sleep_until((begun + turn).into()).await;
                platform.live().await;
            }
        }
    });
    let clients = futures::future::join_all(clients);
    let mut chaos = Chaos::new(&world, apis, operators, StdRng::seed_from_u64(random.random()));
    let (platforms, ()) = tokio::join!(clients, chaos.rage(shape));
    let ordered = begun.elapsed();
    println!("{}", chaos.tally());
    elasticache.faults().clear();

    let accepted: Vec<_> = platforms.iter().flat_map(|platform| &platform.accepted).collect();
    println!(
        "{} operations accepted, {} answers lost or refused for the moment, {:.0} s",
        accepted.len(),
        platforms.iter().map(|platform| platform.retries).sum::<usize>(),
        ordered.as_secs_f64()
    );
    verdict::everything_ended(&world, &accepted).await;
    verdict::everything_was_told(&world, &mut receiver).await;
    verdict::everything_agrees(&world).await;
    println!("soak: {:.0} s in all", start.elapsed().as_secs_f64());
    drop(chaos);
    world.stop().await;
}

fn broker(world: &World, name: &str, port: usize, role: &str) -> Broker {
    let port = u16::try_from(port).unwrap();
    Broker::new(
        &world.sandbox,
        name,
        port,
        &[
            ("ROLE", role),
            ("RETRY_WEBHOOKS", "true"),
            ("RUST_LOG", "info"),
            ("OSB_CONCURRENCY", "0"),
        ],
    )
}
