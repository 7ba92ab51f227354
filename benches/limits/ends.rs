//! From the provider's readiness to what platforms see of it; and webhooks, many at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache_broker::ledger::WebhookTarget;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::net::TcpListener;

use crate::load::{self, Make, Work, millis, quantile};
use crate::rows::{self, Plan};
use crate::stage::{Broker, NAMESPACE, Stage, order};
use crate::table::{Goal, Row};

/// When webhooks came, by the instance that they tell of, or by their path.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<HashMap<String, Instant>>>);

impl Received {
    fn note(&self, name: String) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.entry(name).or_insert_with(Instant::now);
    }

    fn at(&self, name: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A receiver that takes everything, and notes the paths.
async fn receiver(received: Received) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let received = received.clone();
            let answer = service_fn(move |request: http::Request<Incoming>| {
                let received = received.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let _ = request.into_body().collect().await;
                    received.note(path);
                    Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
                }
            });
            let _ = stream.set_nodelay(true);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}

/// When the Deployments of instances were first seen available by a bare watcher, by the instance's name.
async fn watch_deployments(client: kube::Client) -> (Received, tokio::task::AbortHandle) {
    let available = Received::default();
    let noted = available.clone();
    let watching = tokio::spawn(async move {
        let api = Api::<Deployment>::namespaced(client, NAMESPACE);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        while let Some(event) = events.next().await {
            if let Ok(watcher::Event::Apply(deployment) | watcher::Event::InitApply(deployment)) = event {
                let ready = deployment.status.as_ref().and_then(|status| status.available_replicas);
                let owner = deployment.owner_references().first().map(|owner| owner.name.clone());
                if let (Some(1..), Some(owner)) = (ready, owner) {
                    noted.note(owner);
                }
            }
        }
    });
    (available, watching.abort_handle())
}

/// How much later than the cluster's own watchers platforms know that a cache is ready.
pub async fn readiness(stage: &Stage, plan: &Plan) -> Result<Vec<Row>, String> {
    const ORDERS: u64 = 100;
    /// So few that the control plane leaves the cores time: five a second keep them busy by themselves.
    const PER_SECOND: f64 = 2.0;
    let client = stage.sandbox.kube().await.map_err(|error| error.to_string())?;
    let url = stage.database("readiness").await?;
    let broker = stage.broker(&[("DATABASE_URL", &url)]).await?;
    broker.until("/v2/catalog", 200).await?;
    let received = Received::default();
    let receiver = receiver(received.clone()).await?;
    let (available, watching) = watch_deployments(client.clone()).await;
    let (address, authorization, body) = (broker.address, broker.authorization.clone(), order(&plan.id));
    let make: Make = Arc::new(move |number| {
        let path = format!(
            "/v2/service_instances/ready-{number}?accepts_incomplete=true&webhook=http%3A%2F%2F{receiver}%2Fready-{number}&secret=s"
        );
        load::request("PUT", &path, address, &authorization, &body)
    });
    let work = Work::Paced {
        count: ORDERS,
        per_second: PER_SECOND,
    };
    let ordering = load::run(broker.address, 4, work, make);
    let polling = async {
        let polls = (0..ORDERS).map(|number| {
            let broker = &broker;
            async move {
                tokio::time::sleep(Duration::from_secs_f64(number as f64 / PER_SECOND)).await;
                succeeded(broker, &format!("ready-{number}"))
                    .await
                    .map(|at| (number, at))
            }
        });
        futures::future::try_join_all(polls).await
    };
    let (ordered, ends) = tokio::join!(ordering, polling);
    ordered?.all(202)?;
    let ends: HashMap<_, _> = ends?.into_iter().collect();
    wait(|| received.count() == usize::try_from(ORDERS).unwrap_or_default()).await?;
    let sql = stage.sql("readiness").await?;
    let names = sql
        .query("select id, name from instances", &[])
        .await
        .map_err(|error| error.to_string())?;
    let (mut polled, mut told) = (Vec::new(), Vec::new());
    for row in &names {
        let (id, name): (&str, &str) = (row.get(0), row.get(1));
        let number = id.strip_prefix("ready-").and_then(|number| number.parse::<u64>().ok());
        let (Some(ready), Some(number)) = (available.at(name), number) else {
            return Err(format!("the Deployment of {name} was not seen"));
        };
        let beyond = |at: Option<&Instant>| at.map(|at| millis(at.saturating_duration_since(ready)));
        polled.extend(beyond(ends.get(&number)));
        told.extend(beyond(received.at(&format!("/{id}")).as_ref()));
    }
    watching.abort();
    broker.end().await?;
    let mut all = Vec::new();
    for (what, times) in [("last_operation succeeded", polled), ("webhook received", told)] {
        for (name, share, goal) in [("p50", 0.5, 50.0), ("p99", 0.99, 250.0)] {
            let name = format!("provider ready until {what}: {name}");
            let value = quantile(times.clone(), share);
            all.push(Row::alone(&name, "ms", Goal::AtMost(goal), &[value]));
        }
    }
    Ok(all)
}

/// When polling first says that an instance's provision succeeded.
async fn succeeded(broker: &Broker, id: &str) -> Result<Instant, String> {
    let start = Instant::now();
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    loop {
        let request = http::Request::get(format!(
            "http://{}/v2/service_instances/{id}/last_operation",
            broker.address
        ))
        .header("authorization", &broker.authorization)
        .header("x-broker-api-version", "2.17")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
        let answer = client.request(request).await.map_err(|error| error.to_string())?;
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let at = Instant::now();
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if body.contains(r#""state":"succeeded""#) {
            return Ok(at);
        }
        if body.contains(r#""state":"failed""#) || start.elapsed() > Duration::from_secs(120) {
            return Err(format!("instance {id}: {body}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn wait(mut done: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(300) {
            return Err("waited in vain".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Webhooks that are due at once, for a hundred receivers.
pub async fn webhooks(stage: &Stage, plan: &Plan) -> Result<Vec<Row>, String> {
    const EVENTS: u64 = 10_000;
    const RECEIVERS: usize = 100;
    let received = Received::default();
    let mut receivers = Vec::new();
    for _ in 0..RECEIVERS {
        receivers.push(receiver(received.clone()).await?);
    }
    let url_of = |number: u64| {
        let receiver = receivers.get(usize::try_from(number).unwrap_or_default() % RECEIVERS);
        receiver
            .map(|receiver| format!("http://{receiver}/event-{number}"))
            .unwrap_or_default()
    };
    let count = usize::try_from(EVENTS).unwrap_or(usize::MAX);
    let mut rounds = Vec::new();
    for round in 0..stage.rounds.min(3) {
        let name = format!("webhooks{round}");
        let url = stage.database(&name).await?;
        let (ledger, sql) = (stage.ledger(&url)?, stage.sql(&name).await?);
        rows::accept_with(&ledger, plan, "bench", EVENTS, |number| {
            Some(WebhookTarget {
                url: url_of(number).into(),
                secret: Some("secret".to_owned().into()),
            })
        })
        .await?;
        rows::settle(&ledger, &sql, "bench", EVENTS).await?;
        received.clear();
        let broker = stage.broker(&[("ROLE", "api"), ("DATABASE_URL", &url)]).await?;
        wait(|| received.count() > 0).await?;
        let (start, already) = (Instant::now(), received.count());
        wait(|| received.count() == count).await?;
        let ours = (count - already) as f64 / start.elapsed().as_secs_f64();
        broker.end().await?;

        received.clear();
        let start = Instant::now();
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let body = r#"{"state":"succeeded","description":"the instance is ready","event":"00000000-0000-0000-0000-000000000000"}"#;
        futures::stream::iter(0..EVENTS)
            .map(|number| {
                let (client, url) = (client.clone(), url_of(number));
                async move {
                    let request = http::Request::post(url)
                        .header("content-type", "application/json")
                        .body(Full::new(Bytes::from_static(body.as_bytes())))
                        .map_err(|error| error.to_string())?;
                    let answer = client.request(request).await.map_err(|error| error.to_string())?;
                    answer
                        .into_body()
                        .collect()
                        .await
                        .map(drop)
                        .map_err(|error| error.to_string())
                }
            })
            .buffer_unordered(64)
            .collect::<Vec<Result<(), String>>>()
            .await
            .into_iter()
            .collect::<Result<(), String>>()?;
        rounds.push((ours, EVENTS as f64 / start.elapsed().as_secs_f64()));
    }
    Ok(vec![Row::of(
        "webhooks: 10,000 due, 100 receivers",
        "1/s",
        Goal::RatioAtLeast(0.5),
        &rounds,
    )])
}
