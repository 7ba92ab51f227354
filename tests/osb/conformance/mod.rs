//! Random platforms against facade and ledger, each answer held against a [model] of the specification.
//!
//! Several clients call at once, repeat themselves, hang up before the answer or in the middle of a request, while the
//! cluster goes on beneath. What one batch of calls may have come to is every order of them that explains the answers.
//!
//! `CONFORMANCE_SEED` plays one case again, `CONFORMANCE_SECONDS` says for how long to play.

mod model;
mod search;

use std::time::{Duration, Instant};

use cache_broker::api::CachePlan;
use cache_broker::ledger::{Desired, Verdict};
use futures::future::join_all;
use http::{Method, StatusCode};
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::broker::{Broker, PATIENCE, Reply, SERVICE, plan};
use model::{Call, Event, Maintenance, Named, Parameters, Plan};
use search::{Beliefs, Heard};

/// How long it goes on, if nobody says otherwise.
const SECONDS: u64 = 20;
/// Batches of one case.
const ROUNDS: usize = 40;
/// Instances of one case.
const INSTANCES: usize = 2;
/// Rows taken from the outbox at a time.
const ALL: usize = 100;

/// What becomes of a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is answered.
    There,
    /// The client hangs up after it, and some time.
    AnswerLost(Duration),
    /// The client hangs up in the middle of it.
    Broken,
}

/// A call as a client makes it.
#[derive(Clone, Debug)]
struct Sent {
    instance: usize,
    call: Call,
    version: u8,
    way: Way,
}

/// The second plan.
fn large() -> CachePlan {
    let mut large = plan();
    large.metadata.name = Some("memcached-large".to_owned());
    large.spec.id = Plan::Large.id().to_owned();
    large.status.as_mut().unwrap().revision = Some(5);
    large
}

fn revision(plan: Plan) -> u32 {
    match plan {
        Plan::Small => 3,
        Plan::Large => 5,
        Plan::Unknown => 1,
    }
}

fn one_of<T: Clone>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())].clone()
}

fn some_plan(rng: &mut StdRng) -> Plan {
    one_of(
        rng,
        &[
            Plan::Small,
            Plan::Small,
            Plan::Small,
            Plan::Large,
            Plan::Large,
            Plan::Unknown,
        ],
    )
}

fn some_maintenance(rng: &mut StdRng) -> Maintenance {
    use Maintenance::{Absent, Of};
    one_of(
        rng,
        &[
            Absent,
            Absent,
            Absent,
            Absent,
            Of(Plan::Small),
            Of(Plan::Large),
            Of(Plan::Unknown),
        ],
    )
}

/// A call, of those operations that were heard of.
fn some_call(rng: &mut StdRng, heard: &[String]) -> Call {
    use Parameters::{Absent, Limit, NoLimit, Wrong};
    let mostly = |rng: &mut StdRng| rng.random_bool(0.93);
    match rng.random_range(0..20) {
        0..4 => Call::Provision {
            plan: some_plan(rng),
            space: u8::from(rng.random_bool(0.2)),
            parameters: one_of(rng, &[Absent, Absent, Absent, Absent, Limit(1), Wrong]),
            maintenance: some_maintenance(rng),
            incomplete: mostly(rng),
        },
        4..8 => Call::Update {
            plan: rng.random_bool(0.6).then(|| some_plan(rng)),
            parameters: one_of(rng, &[Absent, Absent, Limit(1), Limit(2), NoLimit, Wrong]),
            maintenance: some_maintenance(rng),
            context: rng.random_bool(0.2).then(|| rng.random_range(0..2)),
            incomplete: mostly(rng),
        },
        8..10 => Call::Deprovision {
            incomplete: mostly(rng),
            ids: mostly(rng),
        },
        10 => Call::Restart,
        11 => Call::Poll(Named::Latest),
        12..14 if heard.is_empty() => Call::Poll(Named::Latest),
        12..14 => Call::Poll(Named::Operation(one_of(rng, heard))),
        14 => Call::Fetch,
        15..17 => Call::Bind {
            binding: rng.random_range(0..2),
            plan: some_plan(rng),
            app: u8::from(rng.random_bool(0.25)),
        },
        17 => Call::FetchBinding(rng.random_range(0..2)),
        _ => Call::Unbind {
            binding: rng.random_range(0..2),
            ids: mostly(rng),
        },
    }
}

/// The request for a call: method, path and body.
fn request(id: &str, call: &Call) -> (Method, String, Option<Value>) {
    let instance = format!("/v2/service_instances/{id}");
    let waits = |incomplete: bool| if incomplete { "?accepts_incomplete=true" } else { "" };
    let ids = |ids: bool| {
        if ids {
            format!("service_id={SERVICE}&plan_id=p")
        } else {
            String::new()
        }
    };
    let set = |body: &mut Value, parameters: Parameters| match parameters {
        Parameters::Absent => {}
        Parameters::Limit(limit) => body["parameters"] = json!({ "connectionLimit": limit }),
        Parameters::NoLimit => body["parameters"] = json!({ "connectionLimit": null }),
        Parameters::Wrong => body["parameters"] = json!({ "connectionLimit": "many" }),
    };
    let maintained = |body: &mut Value, maintenance: Maintenance| {
        if let Maintenance::Of(plan) = maintenance {
            body["maintenance_info"] = json!({ "version": format!("{}.0.0", revision(plan)) });
        }
    };
    match call {
        Call::Provision {
            plan,
            space,
            parameters,
            maintenance,
            incomplete,
        } => {
            let mut body = Broker::order();
            body["plan_id"] = json!(plan.id());
            body["space_guid"] = json!(format!("s{space}"));
            set(&mut body, *parameters);
            maintained(&mut body, *maintenance);
            (Method::PUT, format!("{instance}{}", waits(*incomplete)), Some(body))
        }
        Call::Update {
            plan,
            parameters,
            maintenance,
            context,
            incomplete,
        } => {
            let mut body = json!({ "service_id": SERVICE });
            if let Some(plan) = plan {
                body["plan_id"] = json!(plan.id());
            }
            if let Some(context) = context {
                body["context"] = json!({ "instance_name": format!("name-{context}") });
            }
            set(&mut body, *parameters);
            maintained(&mut body, *maintenance);
            (Method::PATCH, format!("{instance}{}", waits(*incomplete)), Some(body))
        }
        Call::Deprovision { incomplete, ids: named } => {
            let query = format!("?accepts_incomplete={incomplete}&{}", ids(*named));
            (Method::DELETE, format!("{instance}{query}"), None)
        }
        Call::Restart => (Method::POST, format!("{instance}/actions/restart"), None),
        Call::Poll(named) => {
            let query = match named {
                Named::Latest => String::new(),
                Named::Operation(name) => format!("?operation={name}"),
            };
            (Method::GET, format!("{instance}/last_operation{query}"), None)
        }
        Call::Fetch => (Method::GET, instance, None),
        Call::Bind { binding, plan, app } => {
            let body = json!({
                "service_id": SERVICE, "plan_id": plan.id(), "bind_resource": { "app_guid": format!("app-{app}") },
            });
            (
                Method::PUT,
                format!("{instance}/service_bindings/{binding}"),
                Some(body),
            )
        }
        Call::FetchBinding(binding) => (Method::GET, format!("{instance}/service_bindings/{binding}"), None),
        Call::Unbind { binding, ids: named } => {
            let path = format!("{instance}/service_bindings/{binding}?{}", ids(*named));
            (Method::DELETE, path, None)
        }
    }
}

/// What the specification says of every answer, whatever came before.
fn check_form(sent: &Sent, reply: &Reply) {
    let Reply { status, headers, body } = reply;
    assert!(status.is_success() || status.is_client_error(), "{sent:?}: {reply:?}");
    let since = |name: &str, version: u8| {
        assert!(
            sent.version >= version || body.get(name).is_none(),
            "{name} is not of 2.{}: {sent:?}: {reply:?}",
            sent.version
        );
    };
    since("endpoints", 15);
    since("maintenance_info", 15);
    since("instance_usable", 16);
    since("update_repeatable", 16);
    since("extension_apis", 16);
    since("metadata", 16);
    let waits = body["state"] == json!("in progress");
    assert_eq!(
        headers.contains_key("retry-after"),
        waits && sent.version >= 15,
        "{sent:?}: {reply:?}"
    );
    assert_ne!(body.get("description"), Some(&json!("")), "{sent:?}: {reply:?}");
    if *status == StatusCode::ACCEPTED {
        assert!(body.get("credentials").is_none(), "{sent:?}: {reply:?}");
    }
}

/// A case: its instances, what they may be by now, and the cluster beneath.
struct Case<'a> {
    broker: &'a Broker,
    ids: Vec<String>,
    beliefs: Vec<Beliefs>,
    /// The operations that answers told of.
    heard: Vec<Vec<String>>,
    /// The revision of each resource in the cluster, and whether it is to exist.
    cluster: Vec<Option<(i64, Desired)>>,
    observed: u32,
}

impl Case<'_> {
    /// Does what a client does, and says what it heard.
    async fn send(&self, sent: &Sent) -> Heard {
        let (method, path, body) = request(&self.ids[sent.instance], &sent.call);
        if sent.way == Way::There {
            let version = format!("2.{}", sent.version);
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let mut request = Broker::request(method, &path).body(Full::new(body.into())).unwrap();
            let headers = request.headers_mut();
            headers.insert("x-broker-api-version", version.parse().unwrap());
            let reply = self.broker.send(request).await;
            check_form(sent, &reply);
            return Heard::Answer(reply.status.as_u16(), reply.body);
        }
        let body = body.unwrap_or(json!({})).to_string();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.{}\r\nauthorization: Basic dTpw\r\n\
             content-length: {}\r\n\r\n{body}",
            sent.version,
            body.len(),
        );
        let (pause, length, heard) = match sent.way {
            Way::AnswerLost(pause) => (pause, text.len(), Heard::Nothing),
            // At least the end of the body is missing.
            _ => (
                Duration::ZERO,
                text.len() - 1 - usize::from(sent.version),
                Heard::Broken,
            ),
        };
        let exchange = async {
            let mut stream = TcpStream::connect(self.broker.address).await?;
            stream.write_all(&text.as_bytes()[..length]).await?;
            tokio::time::sleep(pause).await;
            stream.shutdown().await?;
            // Until the broker has hung up, too, it may be at work.
            stream.read_to_end(&mut Vec::new()).await
        };
        // It may well be cut off.
        let _ = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        heard
    }

    /// What goes on in the cluster beneath an instance, one thing after the other. Returns what came of it.
    async fn happen(&self, instance: usize, events: &[Event], observed: u32) -> (Option<(i64, Desired)>, Vec<Event>) {
        let (broker, id) = (self.broker, &self.ids[instance]);
        let mut resource = self.cluster[instance];
        let mut happened = Vec::new();
        for event in events {
            match event {
                Event::Written => {
                    for item in broker.ledger.claim_outbox(ALL, Duration::ZERO).await.unwrap() {
                        let ours = item.instance.as_str() == id;
                        // What earlier cases left is out of the way.
                        if ours || !self.ids.iter().any(|id| item.instance.as_str() == id) {
                            let uid = format!("uid-{}", item.instance);
                            let marked = broker.ledger.mark_applied(&item.instance, item.revision, Some(&uid));
                            marked.await.unwrap();
                        }
                        // A row that a request has locked just then is passed over.
                        if ours {
                            resource = Some((item.revision, item.desired));
                            happened.push(*event);
                        }
                    }
                }
                Event::Ready | Event::Stalled => {
                    let verdict = match event {
                        Event::Ready => Verdict::Ready,
                        _ => Verdict::Failed("it stalls".to_owned()),
                    };
                    let (revision, _) = resource.unwrap();
                    broker.seen_from(id, verdict, observed, revision).await;
                    happened.push(*event);
                }
                Event::Gone => {
                    broker.gone(id).await;
                    resource = None;
                    happened.push(*event);
                }
                Event::Late => {
                    broker.ledger.expire_operations().await.unwrap();
                    happened.push(*event);
                }
            }
        }
        (resource, happened)
    }

    /// What may happen to an instance next.
    fn some_events(&self, rng: &mut StdRng, instance: usize) -> Vec<Event> {
        let mut events = Vec::new();
        if rng.random_bool(0.7) {
            events.push(Event::Written);
        }
        match self.cluster[instance] {
            Some((_, Desired::Absent)) => events.extend(rng.random_bool(0.6).then_some(Event::Gone)),
            Some((_, Desired::Present)) => {
                events.extend(rng.random_bool(0.8).then(|| {
                    if rng.random_bool(0.85) {
                        Event::Ready
                    } else {
                        Event::Stalled
                    }
                }));
            }
            None => {}
        }
        if rng.random_bool(0.05) {
            events.push(Event::Late);
        }
        events
    }

    /// Plays one batch of calls beside what happens to one instance.
    async fn round(&mut self, rng: &mut StdRng, round: usize) -> Result<(), String> {
        let focus = rng.random_range(0..INSTANCES);
        let count = one_of(rng, &[1, 1, 1, 2, 3, 4]);
        let mut calls: Vec<Sent> = Vec::new();
        for _ in 0..count {
            let instance = if rng.random_bool(0.8) {
                focus
            } else {
                rng.random_range(0..INSTANCES)
            };
            let call = match calls.last().filter(|last| last.instance == instance) {
                Some(last) if rng.random_bool(0.25) => last.call.clone(),
                _ => some_call(rng, &self.heard[instance]),
            };
            let way = match rng.random_range(0..20) {
                0 | 1 => Way::AnswerLost(Duration::from_micros(rng.random_range(0..5_000))),
                2 => Way::Broken,
                _ => Way::There,
            };
            calls.push(Sent {
                instance,
                call,
                version: rng.random_range(13..18),
                way,
            });
        }
        let events = if rng.random_bool(0.6) {
            self.some_events(rng, focus)
        } else {
            Vec::new()
        };
        if events.contains(&Event::Late) {
            let late = "update operations set deadline_at = now() - interval '1 s'
                         where instance_id = $1 and state = 'in_progress'";
            self.broker.sql.execute(late, &[&self.ids[focus]]).await.unwrap();
        }
        self.observed += 1;
        let sending = join_all(calls.iter().map(|sent| self.send(sent)));
        let (heard, (resource, happened)) = tokio::join!(sending, self.happen(focus, &events, self.observed));
        self.cluster[focus] = resource;
        if calls.iter().any(|sent| sent.way != Way::There) {
            self.settle().await;
        }
        if events.contains(&Event::Late) {
            // A row that was locked just then is looked at again.
            self.broker.ledger.expire_operations().await.unwrap();
        }
        for instance in 0..INSTANCES {
            let mine: Vec<(&Sent, &Heard)> = calls
                .iter()
                .zip(&heard)
                .filter(|(sent, _)| sent.instance == instance)
                .collect();
            for (_, heard) in &mine {
                if let Heard::Answer(_, body) = heard
                    && let Some(operation) = body["operation"].as_str()
                    && !self.heard[instance].iter().any(|known| known == operation)
                {
                    self.heard[instance].push(operation.to_owned());
                }
            }
            let events: &[Event] = if instance == focus { &happened } else { &[] };
            let batch: Vec<(Call, Heard)> = mine
                .iter()
                .map(|(sent, heard)| (with_version(sent), (*heard).clone()))
                .collect();
            let next = self.beliefs[instance].after(&batch, events);
            if next.is_impossible() {
                return Err(format!(
                    "round {round}: instance {}: no order of these explains the answers.\nIt may have been:\n{}\nCalls:\n{}\nEvents: {events:?}",
                    self.ids[instance],
                    self.beliefs[instance],
                    mine.iter()
                        .map(|(sent, heard)| format!("  {sent:?}\n    -> {heard:?}\n"))
                        .collect::<String>(),
                ));
            }
            self.beliefs[instance] = next;
        }
        Ok(())
    }

    /// Until Postgres has done whatever requests that were hung up on had begun.
    async fn settle(&self) {
        let busy = "select count(*) from pg_stat_activity where datname = current_database()
                     and backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle'";
        let settled = async {
            while self.broker.count(busy).await > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
    }
}

/// The call as the broker has to understand it: before 2.15 there is no maintenance info.
fn with_version(sent: &Sent) -> Call {
    let mut call = sent.call.clone();
    if sent.version < 15
        && let Call::Provision { maintenance, .. } | Call::Update { maintenance, .. } = &mut call
    {
        *maintenance = Maintenance::Absent;
    }
    call
}

async fn play(broker: &Broker, seed: u64) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut case = Case {
        broker,
        ids: (0..INSTANCES)
            .map(|n| format!("i-{n}-{}", uuid::Uuid::new_v4()))
            .collect(),
        beliefs: vec![Beliefs::default(); INSTANCES],
        heard: vec![Vec::new(); INSTANCES],
        cluster: vec![None; INSTANCES],
        observed: 0,
    };
    for round in 0..ROUNDS {
        case.round(&mut rng, round).await?;
    }
    Ok(ROUNDS)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_platforms_are_answered_as_the_specification_allows() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let broker = Broker::start().await;
    broker.offer(&[plan(), large()]);
    let mut seeds: Box<dyn Iterator<Item = u64>> = match number("CONFORMANCE_SEED") {
        Some(seed) => Box::new([seed].into_iter()),
        None => Box::new(std::iter::repeat_with(rand::random)),
    };
    let length = Duration::from_secs(number("CONFORMANCE_SECONDS").unwrap_or(SECONDS));
    let begun = Instant::now();
    let (mut cases, mut rounds) = (0, 0);
    while begun.elapsed() < length
        && let Some(seed) = seeds.next()
    {
        println!("CONFORMANCE_SEED={seed}");
        rounds += play(&broker, seed)
            .await
            .unwrap_or_else(|why| panic!("CONFORMANCE_SEED={seed} {why}"));
        cases += 1;
    }
    println!("{cases} cases, {rounds} batches of calls");
    assert!(cases > 0);
}
