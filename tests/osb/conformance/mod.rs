//! Random platforms against facade and ledger, each answer held against a [model] of the specification.
//!
//! Several clients call at once, repeat themselves, hang up before the answer or in the middle of a request, while the
//! cluster goes on beneath. What one batch of calls may have come to is every order of them that explains the answers.
//!
//! `CONFORMANCE_SEED` plays one case again, `CONFORMANCE_SECONDS` says for how long to play.

mod calls;
mod model;
mod search;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cache_broker::api::Connection;
use cache_broker::ledger::{Desired, Outcome, Remains, Verdict};
use futures::future::join_all;
use http::StatusCode;
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use uuid::Uuid;

use crate::broker::{Broker, PATIENCE, Reply};
use calls::{Aim, Heard as Names, call_towards, offers, request, some_call};
use model::{Call, Event, Maintenance, Origin, Service};
use search::{Beliefs, Heard};

/// How long it goes on, if nobody says otherwise.
const SECONDS: u64 = 20;
/// Batches of one case.
const ROUNDS: usize = 40;
/// Instances of one case.
const INSTANCES: usize = 2;
/// What each run has to come to: answers by which a call of every kind was taken.
const REACHED: [(&str, u16); 20] = [
    ("provision", 202),
    ("provision", 200),
    ("update", 202),
    ("update", 200),
    ("deprovision", 202),
    ("deprovision", 410),
    ("restart", 202),
    ("backup", 202),
    ("backups", 200),
    ("restore", 202),
    ("poll", 200),
    ("poll", 410),
    ("fetch", 200),
    ("bind", 201),
    ("bind", 202),
    ("rotate", 202),
    ("fetch binding", 200),
    ("poll binding", 200),
    ("unbind", 200),
    ("unbind", 202),
];
/// How many times as long it goes on until it came to that.
const LONGER: u32 = 9;
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

/// A resource in the cluster.
#[derive(Clone, Copy, Debug)]
struct Resource {
    /// The revision that it was written from.
    revision: i64,
    /// Whether it is to exist.
    desired: Desired,
    /// The operation whose backup is made.
    backup: Option<Uuid>,
}

fn one_of<T: Clone>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())].clone()
}

/// A case: its instances, what they may be by now, and the cluster beneath.
struct Case<'a> {
    broker: &'a Broker,
    service: Service,
    ids: Vec<String>,
    beliefs: Vec<Beliefs>,
    /// What answers told of.
    heard: Vec<Names>,
    cluster: Vec<Option<Resource>>,
    observed: u32,
    /// How often which call was answered how.
    answered: BTreeMap<(&'static str, u16), usize>,
}

/// How the caches of a service are reached.
fn connection(service: Service) -> Connection {
    use cache_broker::api::{EngineType, ProviderKind};
    let shared = crate::broker::connection();
    match service {
        Service::Memcached => shared,
        Service::Redis => Connection {
            engine: EngineType::Redis,
            provider: ProviderKind::ElastiCache,
            ..shared
        },
    }
}

impl Case<'_> {
    /// Does what a client does, and says what it heard.
    async fn send(&self, sent: &Sent) -> Heard {
        let (method, path, body) = request(self.service, &self.ids[sent.instance], &sent.call);
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
    async fn happen(&self, instance: usize, events: &[Event], observed: u32) -> (Option<Resource>, Vec<Event>) {
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
                            resource = Some(Resource {
                                revision: item.revision,
                                desired: item.desired,
                                backup: item.backup.map(|(_, operation)| operation),
                            });
                            happened.push(*event);
                        }
                    }
                }
                Event::Ready | Event::Stalled => {
                    self.observe(id, *event == Event::Ready, observed, resource.unwrap().revision)
                        .await;
                    happened.push(*event);
                }
                Event::Made(well) => {
                    let outcome = if *well {
                        Outcome::Succeeded
                    } else {
                        Outcome::Failed {
                            description: "no backup".to_owned(),
                            remains: Remains {
                                usable: true,
                                repeatable: true,
                            },
                        }
                    };
                    // One that ended otherwise is not written anew.
                    let Some(operation) = resource.and_then(|resource| resource.backup) else {
                        continue;
                    };
                    let ended = broker.ledger.project_backup(broker.epoch, operation, &outcome);
                    ended.await.unwrap();
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

    /// Has an instance be seen as its resource wants it, or stall. What is ready has the users that it is to have; what
    /// stalls has let nobody new in, and still has those that are to go.
    async fn observe(&self, id: &str, ready: bool, observed: u32, revision: i64) {
        let there = "select username from bindings where instance_id = $1 and username is not null
                      and deleted_at is null and (state <> 'unbinding' or not $2)";
        let rows = self.broker.sql.query(there, &[&id, &ready]).await.unwrap();
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let users: Vec<_> = names.iter().map(|name| (name.as_str(), ready)).collect();
        let verdict = if ready {
            Verdict::Ready
        } else {
            Verdict::Failed("it stalls".to_owned())
        };
        let connection = connection(self.service);
        self.broker
            .observe(id, verdict, observed, revision, ready.then_some(connection), &users)
            .await;
    }

    /// What may happen to an instance next.
    fn some_events(&self, rng: &mut StdRng, instance: usize) -> Vec<Event> {
        let mut events = Vec::new();
        if rng.random_bool(0.85) {
            events.push(Event::Written);
        }
        let resource = self.cluster[instance];
        if resource.is_some_and(|resource| resource.backup.is_some()) && rng.random_bool(0.5) {
            events.push(Event::Made(rng.random_bool(0.8)));
        }
        match resource.map(|resource| resource.desired) {
            Some(Desired::Absent) => events.extend(rng.random_bool(0.6).then_some(Event::Gone)),
            Some(Desired::Present) => {
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
                _ => some_call(rng, self.service, &self.heard[instance]),
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
        if self.service == Service::Redis && rng.random_bool(0.5) {
            let aim = one_of(rng, &[Aim::Rotation, Aim::Restoration]);
            calls[0] = Sent {
                instance: focus,
                call: call_towards(rng, aim, &self.heard[focus]),
                version: 17,
                way: Way::There,
            };
        }
        let events = if rng.random_bool(0.8) {
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
                if let Heard::Answer(_, body) = heard {
                    self.heard[instance].learn(body);
                }
            }
            for (sent, heard) in &mine {
                if let Heard::Answer(status, _) = heard {
                    *self.answered.entry((sent.call.name(), *status)).or_default() += 1;
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

/// The call as the broker has to understand it: before 2.15 there is no maintenance info, before 2.17 no rotation.
fn with_version(sent: &Sent) -> Call {
    let mut call = sent.call.clone();
    if sent.version < 17
        && let Call::Bind { origin, .. } = &mut call
        && let Origin::Successor(_) = origin
    {
        *origin = Origin::Unread;
    }
    if sent.version < 15
        && let Call::Provision { maintenance, .. } | Call::Update { maintenance, .. } = &mut call
    {
        *maintenance = Maintenance::Absent;
    }
    call
}

/// Plays a case, and says how often which call was answered how.
async fn play(broker: &Broker, seed: u64) -> Result<BTreeMap<(&'static str, u16), usize>, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let service = one_of(&mut rng, &[Service::Memcached, Service::Redis]);
    let mut case = Case {
        broker,
        service,
        ids: (0..INSTANCES).map(|n| format!("i-{n}-{}", Uuid::new_v4())).collect(),
        beliefs: vec![Beliefs::new(service); INSTANCES],
        heard: vec![Names::default(); INSTANCES],
        cluster: vec![None; INSTANCES],
        observed: 0,
        answered: BTreeMap::new(),
    };
    for round in 0..ROUNDS {
        case.round(&mut rng, round).await?;
    }
    Ok(case.answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_platforms_are_answered_as_the_specification_allows() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let broker = Broker::start().await;
    broker.offer(&offers());
    let again = number("CONFORMANCE_SEED");
    let mut seeds: Box<dyn Iterator<Item = u64>> = match again {
        Some(seed) => Box::new([seed].into_iter()),
        None => Box::new(std::iter::repeat_with(rand::random)),
    };
    let length = Duration::from_secs(number("CONFORMANCE_SECONDS").unwrap_or(SECONDS));
    let begun = Instant::now();
    let (mut cases, mut answered) = (0, BTreeMap::new());
    let lacks = |answered: &BTreeMap<(&'static str, u16), usize>| -> Vec<_> {
        REACHED
            .into_iter()
            .filter(|which| !answered.contains_key(which))
            .collect()
    };
    while (begun.elapsed() < length || begun.elapsed() < length * LONGER && !lacks(&answered).is_empty())
        && let Some(seed) = seeds.next()
    {
        println!("CONFORMANCE_SEED={seed}");
        let told = play(&broker, seed).await;
        for (which, count) in told.unwrap_or_else(|why| panic!("CONFORMANCE_SEED={seed} {why}")) {
            *answered.entry(which).or_insert(0) += count;
        }
        cases += 1;
    }
    println!(
        "{cases} cases, {} batches of calls, which were answered so:",
        cases * ROUNDS
    );
    for ((call, status), count) in &answered {
        println!("  {call} {status}: {count}");
    }
    let lacking = lacks(&answered);
    assert!(again.is_some() || lacking.is_empty(), "it never came to {lacking:?}");
}
