//! What kills processes and takes things away.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Shape;
use crate::world::{Broker, World, eventually};

const LEADS: &str = "operator: ok";
/// For how long a leader works before it is killed.
const TERM: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Outage {
    Postgres,
    ApiServer,
}

pub struct Chaos<'a> {
    world: &'a World,
    apis: Vec<Broker>,
    operators: Vec<Broker>,
    random: StdRng,
    api_kills: usize,
    hand_overs: Vec<Duration>,
    outages: Vec<(Outage, Duration)>,
}

impl<'a> Chaos<'a> {
    pub fn new(world: &'a World, apis: Vec<Broker>, operators: Vec<Broker>, random: StdRng) -> Self {
        Self {
            world,
            apis,
            operators,
            random,
            api_kills: 0,
            hand_overs: Vec::new(),
            outages: Vec::new(),
        }
    }

    pub fn tally(&self) -> String {
        let hand_overs: Vec<_> = self
            .hand_overs
            .iter()
            .map(|time| format!("{:.1}", time.as_secs_f64()))
            .collect();
        let outages: Vec<_> = self
            .outages
            .iter()
            .map(|(what, time)| format!("{what:?} for {:.1} s", time.as_secs_f64()))
            .collect();
        format!(
            "{} of the API's processes killed; {} leaders killed, the other one led after {} s; {}",
            self.api_kills,
            self.hand_overs.len(),
            hand_overs.join(", "),
            outages.join(", ")
        )
    }

    /// Disturbs for the period of a shape, and leaves everything running.
    pub async fn rage(&mut self, shape: Shape) {
        let world = self.world;
        let seeds: [u64; 3] = std::array::from_fn(|_| self.random.random());
        let mut randoms = seeds.map(<StdRng as rand::SeedableRng>::seed_from_u64);
        let [of_apis, of_leaders, of_outages] = &mut randoms;
        let ((), hand_overs, outages) = tokio::join!(
            kill_apis(world, &mut self.apis, shape, of_apis),
            kill_leaders(world, &mut self.operators, shape, of_leaders),
            take_away(world, shape, of_outages),
        );
        self.api_kills = shape.api_kills;
        self.hand_overs = hand_overs;
        self.outages = outages;
    }
}

/// Kills one of the processes that serve the API now and then, and starts it again.
async fn kill_apis(world: &World, apis: &mut [Broker], shape: Shape, random: &mut StdRng) {
    let begun = Instant::now();
    let share = shape.period.div_f64(shape.api_kills as f64);
    for number in 0..shape.api_kills {
        let at = share.mul_f64(number as f64 + random.random_range(0.0..0.9));
        tokio::time::sleep_until((begun + at).into()).await;
        let api = &mut apis[random.random_range(0..2)];
        api.kill().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        api.launch(&world.sandbox);
    }
}

/// Kills the operator that leads, and starts it again once the other one leads and has worked for a while.
async fn kill_leaders(world: &World, operators: &mut [Broker], shape: Shape, random: &mut StdRng) -> Vec<Duration> {
    let mut hand_overs = Vec::new();
    let begun = Instant::now();
    let share = shape.period.div_f64(shape.leader_kills as f64);
    for number in 0..shape.leader_kills {
        let at = share.mul_f64(number as f64) + TERM.mul_f64(random.random_range(0.5..1.5));
        tokio::time::sleep_until((begun + at).into()).await;
        let leader = leading(operators).await;
        let killed = Instant::now();
        operators[leader].kill().await;
        let other = 1 - leader;
        let health = operators[other].health();
        eventually("another leader", async || {
            let reply = health.try_get("/readyz").await?;
            reply.text.contains(LEADS).then_some(())
        })
        .await;
        hand_overs.push(killed.elapsed());
        operators[leader].launch(&world.sandbox);
    }
    hand_overs
}

/// Which of the operators leads.
async fn leading(operators: &[Broker]) -> usize {
    eventually("a leader", async || {
        for (number, operator) in operators.iter().enumerate() {
            let reply = operator.health().try_get("/readyz").await;
            if reply.is_some_and(|reply| reply.text.contains(LEADS)) {
                return Some(number);
            }
        }
        None
    })
    .await
}

/// Takes Postgres and the API server away for a while, each as often.
async fn take_away(world: &World, shape: Shape, random: &mut StdRng) -> Vec<(Outage, Duration)> {
    let mut outages: Vec<_> = [Outage::Postgres, Outage::ApiServer]
        .into_iter()
        .cycle()
        .take(2 * shape.outages)
        .collect();
    outages.shuffle(random);
    let begun = Instant::now();
    let share = shape.period.div_f64(outages.len() as f64);
    let mut done = Vec::new();
    for (number, outage) in outages.into_iter().enumerate() {
        let at = share.mul_f64(number as f64 + random.random_range(0.1..0.5));
        tokio::time::sleep_until((begun + at).into()).await;
        let length = Duration::from_millis(random.random_range(1_500..4_500));
        let start = Instant::now();
        match outage {
            Outage::Postgres => {
                world.sandbox.postgres().stop().await.unwrap();
                tokio::time::sleep(length).await;
                world.sandbox.postgres().start().await.unwrap();
            }
            Outage::ApiServer => {
                let control_plane = world.sandbox.control_plane().unwrap();
                control_plane.stop_api_server().await.unwrap();
                tokio::time::sleep(length).await;
                control_plane.start_api_server().await.unwrap();
            }
        }
        done.push((outage, start.elapsed()));
    }
    done
}
