//! A process of the broker, as `serve` makes one, but for its sockets.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache_broker::api::{Namespaces, ProviderKind};
use cache_broker::control::operator::Operator;
use cache_broker::control::{deadlines, outbox};
use cache_broker::osb::limits::Counter;
use cache_broker::osb::{self, Authenticator, Quotas, Services};
use cache_broker::provider::elasticache::{Defaults, Poller};
use cache_broker::provider::kubernetes::{Placement, Stores};
use cache_broker::provider::{ElastiCache, Providers};
use cache_broker::serve::keep_catalog;
use cache_broker::settings::{Namespaces as Watched, ServiceHost};
use cache_broker::telemetry::health::{Health, Part};
use cache_broker::webhooks::{self, Deliverer, Policy};
use cache_broker::wire::Trust;
use http::Request;
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;

use crate::world::World;
use crate::{caches, elasticache, kubernetes, postgres, receiver};

/// Where the operator's own objects are.
pub const HOME: &str = "operator-home";
/// How often everything is looked at although nothing happened.
pub const RESYNC: Duration = Duration::from_secs(900);
/// How often ElastiCache is asked while something is in flight.
const POLL: Duration = Duration::from_secs(5);

/// The facade of a process.
#[derive(Clone)]
pub struct Facade(Arc<dyn Fn(Request<Full<Bytes>>) -> Serving + Send + Sync>);

/// An answer on its way.
pub type Serving = Pin<Box<dyn Future<Output = warp::reply::Response> + Send>>;

impl Facade {
    pub fn call(&self, request: Request<Full<Bytes>>) -> Serving {
        (self.0)(request)
    }
}

/// A process. Dropping it is its death.
pub struct Process {
    pub number: usize,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Where ordered instances go.
pub fn namespaces() -> Namespaces {
    Namespaces {
        memcached: "memcached-system".to_owned(),
        redis: "redis-system".to_owned(),
    }
}

impl Process {
    /// Starts a process that serves platforms, and reconciles.
    pub fn start(world: &Arc<World>, number: usize) -> Self {
        let client = kubernetes::client(world, number);
        let ledger = postgres::ledger(world, number);
        let trust = Trust::new(None).unwrap().dialling(caches::network(world, number));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let health = Health::of([Part::Facade, Part::Operator]);

        let (changes, catalog) = watch::channel(None);
        let services = Services::read(None).unwrap();
        let facade = Arc::new(osb::Facade {
            ledger: ledger.clone(),
            catalog,
            authenticator: Arc::new(Authenticator::new(
                Some(&[("u".to_owned(), "p".to_owned().into())]),
                None,
            )),
            namespaces: namespaces(),
            webhook_policy: Policy::AllowPrivate,
            trust: trust.clone(),
            quotas: Quotas::default(),
            limits: Counter::default(),
        });
        let service = warp::service(osb::filter(facade));
        let facade = Facade(Arc::new(move |request| {
            let mut service = service.clone();
            Box::pin(async move {
                match service.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            })
        }));
        world.state().facades.insert(number, facade);
        let keep = keep_catalog(
            client.clone(),
            services,
            |_: ProviderKind| true,
            changes,
            health.clone(),
            stopped.clone(),
        );
        tasks.spawn(async move { keep.await.unwrap() });
        tasks.spawn(outbox::run(ledger.clone(), client.clone(), stopped.clone()));
        let deliverer = Deliverer::new(Policy::AllowPrivate)
            .unwrap()
            .dialling(receiver::network(world, number));
        let until = |mut stopped: watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        tasks.spawn(deadlines::run(ledger.clone(), until(stopped.clone())));
        let deliver = webhooks::deliver(ledger.clone(), true, deliverer, until(stopped.clone()));
        tasks.spawn(deliver);
        let defaults = Defaults {
            name_prefix: "sim".to_owned(),
            ..Defaults::default()
        };
        let providers = Providers {
            kube: client.clone(),
            stores: Stores::default(),
            kubernetes: Some(Placement {
                service_host: ServiceHost::Dns,
                cluster_domain: "cluster.local".to_owned(),
                operator_namespace: HOME.to_owned(),
            }),
            elasticache: Some(ElastiCache {
                poller: Poller::new(elasticache::client(world, number), "sim", POLL, RESYNC),
                defaults,
            }),
            trust,
            versions: Arc::default(),
        };
        let operator = Operator {
            client,
            ledger,
            providers,
            namespaces: Watched::Named(["memcached-system", "redis-system"].map(str::to_owned).into()),
            pool_namespaces: namespaces(),
            namespace: HOME.to_owned(),
            identity: format!("broker-{number}"),
            resync: RESYNC,
            health,
        };
        let running = world.clone();
        tasks.spawn(async move {
            if let Err(error) = operator.run(stopped).await {
                running.accuse(format!("the operator ended by itself: {error}"));
            }
        });
        Self { number, tasks, stop }
    }

    /// Asks it to end in order.
    pub fn ask_to_end(&self) {
        self.stop.send_replace(true);
    }

    /// Ends it at once, and all that it had under way.
    pub async fn kill(mut self, world: &Arc<World>) {
        self.tasks.shutdown().await;
        let mut state = world.state();
        state.facades.remove(&self.number);
        state.wakeups.retain(|(process, _), _| *process != self.number);
        state.tickets.retain(|ticket| ticket.process != self.number);
        state.watches.retain(|watch| watch.process != self.number);
        state.conversations.retain(|(process, task)| {
            if *process == self.number {
                task.abort();
            }
            *process != self.number
        });
        state.dying.remove(&self.number);
        state.outlived.remove(&self.number);
    }

    /// A task of it that ended by itself, if one did.
    pub fn ended(&mut self) -> bool {
        self.tasks.try_join_next().is_some()
    }
}
