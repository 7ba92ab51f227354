//! Wires the reconcilers, watches and the projector together and runs them until the process shuts down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::Error;
use super::backups::{BackupIndex, Backups};
use super::instances::Instances;
use super::plans::Plans;
use super::projector::{self, Projector};
use super::retries::Retries;
use crate::api::{CacheBackup, CacheInstance, CachePlan, labels};
use crate::ledger::Ledger;
use crate::provider::Providers;
use crate::provider::kubernetes::Scope;
use crate::settings::Namespaces;
use crate::telemetry::health::{Health, Part};

/// Instances reconciled at one time, in each scope.
const CONCURRENCY: u16 = 16;
/// Nudges that wait at most; a sender waits beyond.
const NUDGES: usize = 1024;
/// How soon to try again to begin leading.
const RETRY: Duration = Duration::from_secs(1);

/// What the operator needs.
pub struct Operator {
    /// The API server.
    pub client: Client,
    /// The ledger.
    pub ledger: Ledger,
    /// The providers that are switched on.
    pub providers: Providers,
    /// Namespaces whose instances are reconciled.
    pub namespaces: Namespaces,
    /// The operator's own namespace.
    pub namespace: String,
    /// How often everything is looked at although nothing happened.
    pub resync: Duration,
    /// Told when the operator works.
    pub health: Health,
}

impl Operator {
    /// Runs until the process shuts down, or another process begins to lead.
    ///
    /// # Errors
    /// When another process leads.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        let epoch = self.lead().await;
        let scopes: Vec<Scope> = match &self.namespaces {
            Namespaces::All => vec![None],
            Namespaces::Named(names) => names.iter().cloned().map(Some).collect(),
        };
        let (nudge, nudged) = mpsc::channel(NUDGES);
        let (plan_nudge, plan_nudged) = mpsc::channel(NUDGES);
        let (plan_store, plan_watch) = reflect::<CachePlan>(Api::all(self.client.clone()), watcher::Config::default());
        let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
        let (revision_store, revision_watch) =
            reflect::<ControllerRevision>(Api::namespaced(self.client.clone(), &self.namespace), ours);
        let plans = Plans::new(
            self.client.clone(),
            self.ledger.clone(),
            self.namespace.clone(),
            plan_store.clone(),
            revision_store.clone(),
        );
        let events = Recorder::new(
            self.client.clone(),
            Reporter {
                controller: "cache-broker".to_owned(),
                instance: None,
            },
        );
        let backup_index = BackupIndex::default();
        let instances = Arc::new(Instances {
            client: self.client.clone(),
            plans: plans.clone(),
            backups: backup_index.clone(),
            providers: self.providers.clone(),
            events: events.clone(),
            retries: Retries::default(),
            resync: self.resync,
        });
        let projector = Projector {
            ledger: self.ledger.clone(),
            epoch,
            stores: self.providers.stores.clone(),
            plans: plan_nudge,
        };

        let mut stores = Vec::new();
        let mut routes = HashMap::new();
        let mut controllers = Vec::new();
        for scope in &scopes {
            let (to_scope, in_scope) = mpsc::channel(NUDGES);
            routes.insert(scope.clone(), to_scope);
            let (store, run) = instance_controller(&self.client, scope, in_scope, shutdown.clone(), instances.clone());
            stores.push(store);
            controllers.push(run);
        }
        let elasticache = self.providers.elasticache.as_ref();
        let backups = Arc::new(Backups {
            client: self.client.clone(),
            elasticache: elasticache.map(|elasticache| elasticache.poller.clone()),
            prefix: elasticache.map_or_else(String::new, |elasticache| elasticache.defaults.name_prefix.clone()),
            instances: stores.clone(),
            index: backup_index.clone(),
            nudge: nudge.clone(),
            events,
            retries: Retries::default(),
            resync: self.resync,
        });
        let mut backup_stores = Vec::new();
        let mut backup_controllers = Vec::new();
        for scope in &scopes {
            let (store, run) = backup_controller(&self.client, scope, shutdown.clone(), backups.clone());
            backup_index.add(store.clone());
            backup_stores.push(store);
            backup_controllers.push(run);
        }
        let listed = async {
            self.providers.stores.ready(scopes.len()).await;
            for wait in [
                plan_store.wait_until_ready().boxed(),
                revision_store.wait_until_ready().boxed(),
            ] {
                let _ = wait.await;
            }
            if let Some(elasticache) = &self.providers.elasticache {
                elasticache.poller.ready().await;
            }
            self.health.set(Part::Operator, Ok(()));
        }
        .shared();
        // Nothing is decided before everything was listed once: what is not seen yet is not what is not there.
        let controllers = async {
            listed.clone().await;
            // A controller's own store fills while it runs: instances wait for the backups they may name.
            let instances = async {
                for store in &backup_stores {
                    let _ = store.wait_until_ready().await;
                }
                futures::future::join_all(controllers).await;
            };
            tokio::join!(instances, futures::future::join_all(backup_controllers));
        };
        let plan_controller = async {
            listed.clone().await;
            plan_controller(
                &self.client,
                plans,
                stores.clone(),
                plan_nudged,
                nudge.clone(),
                shutdown.clone(),
            )
            .await;
        };
        let projection = async {
            listed.clone().await;
            let runs = scopes.iter().map(|scope| projector.run(self.client.clone(), scope));
            futures::future::try_join_all(runs).await
        };
        let polling = async {
            match &self.providers.elasticache {
                Some(elasticache) => elasticache.poller.run(&nudge).await,
                None => std::future::pending().await,
            }
        };
        // The reconcilers end when they are told to; nothing else ends by itself.
        tokio::select! {
            () = async { tokio::join!(controllers, plan_controller); } => Ok(()),
            outcome = projection => Err(outcome.err().unwrap_or_else(|| ended("the projector"))),
            () = self.providers.stores.run(&self.client, &scopes, &nudge) => Err(ended("the watch of what instances are made of")),
            () = plan_watch => Err(ended("the watch of CachePlans")),
            () = revision_watch => Err(ended("the watch of ControllerRevisions")),
            () = polling => Err(ended("the poller of ElastiCache")),
            () = route(nudged, routes) => Err(ended("the routing of nudges")),
            () = projector::expire(self.ledger.clone()) => Err(ended("the watch of deadlines")),
        }
    }

    async fn lead(&self) -> crate::ledger::Epoch {
        loop {
            match self.ledger.next_epoch().await {
                Ok(epoch) => return epoch,
                Err(error) => {
                    self.health
                        .set(Part::Operator, Err(format!("waiting for Postgres: {error}")));
                    tracing::warn!(%error, "waiting for Postgres");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn ended(what: &str) -> Error {
    Error::Ended(what.to_owned())
}

/// Watches a kind into a store.
fn reflect<K>(api: Api<K>, config: watcher::Config) -> (Store<K>, impl Future<Output = ()>)
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let run = async move {
        let mut events = std::pin::pin!(reflector::reflector(writer, watcher(api, config)).default_backoff());
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(kind = %K::kind(&()), %error, "watching");
            }
        }
    };
    (store, run)
}

fn instance_controller(
    client: &Client,
    scope: &Scope,
    nudged: mpsc::Receiver<ObjectRef<CacheInstance>>,
    mut shutdown: watch::Receiver<bool>,
    context: Arc<Instances>,
) -> (Store<CacheInstance>, impl Future<Output = ()> + use<>) {
    let controller = Controller::new(scoped(client, scope), watcher::Config::default());
    let store = controller.store();
    let run = async move {
        controller
            .with_config(Config::default().concurrency(CONCURRENCY))
            .reconcile_on(ReceiverStream::new(nudged))
            .graceful_shutdown_on(async move {
                let _ = shutdown.wait_for(|stop| *stop).await;
            })
            .run(
                |instance, context: Arc<Instances>| async move { context.reconcile(instance).await },
                |instance, error, context| context.after_error(&instance, error),
                context,
            )
            .for_each(|outcome| async { log(outcome) })
            .await;
    };
    (store, run)
}

fn backup_controller(
    client: &Client,
    scope: &Scope,
    mut shutdown: watch::Receiver<bool>,
    context: Arc<Backups>,
) -> (Store<CacheBackup>, impl Future<Output = ()> + use<>) {
    let controller = Controller::new(scoped(client, scope), watcher::Config::default());
    let store = controller.store();
    let run = async move {
        controller
            .with_config(Config::default().concurrency(CONCURRENCY))
            .graceful_shutdown_on(async move {
                let _ = shutdown.wait_for(|stop| *stop).await;
            })
            .run(
                |backup, context: Arc<Backups>| async move { context.reconcile(backup).await },
                |backup, error, context| context.after_error(&backup, error),
                context,
            )
            .for_each(|outcome| async { log(outcome) })
            .await;
    };
    (store, run)
}

/// The objects of one kind in a scope.
fn scoped<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What reconciling a plan needs.
struct PlanContext {
    plans: Plans,
    instances: Vec<Store<CacheInstance>>,
    nudge: mpsc::Sender<ObjectRef<CacheInstance>>,
}

async fn plan_controller(
    client: &Client,
    plans: Plans,
    instances: Vec<Store<CacheInstance>>,
    nudged: mpsc::Receiver<ObjectRef<CachePlan>>,
    nudge: mpsc::Sender<ObjectRef<CacheInstance>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let context = Arc::new(PlanContext {
        plans,
        instances,
        nudge,
    });
    Controller::new(Api::<CachePlan>::all(client.clone()), watcher::Config::default())
        .with_config(
            Config::default()
                .concurrency(CONCURRENCY)
                .debounce(Duration::from_millis(50)),
        )
        .reconcile_on(ReceiverStream::new(nudged))
        .graceful_shutdown_on(async move {
            let _ = shutdown.wait_for(|stop| *stop).await;
        })
        .run(
            |plan, context: Arc<PlanContext>| async move {
                let PlanContext {
                    plans,
                    instances,
                    nudge,
                } = &*context;
                let name = plan.name_any();
                let of_plan = || {
                    let all = instances.iter().flat_map(Store::state);
                    all.filter(|instance| instance.spec.plan_ref.name == name)
                };
                let action = plans.reconcile(&plan, of_plan().count()).await?;
                // Instances that waited for the plan go on: new ones, and those that are to move to it. Looked for now:
                // one that came since did not see the revision either.
                for instance in of_plan().filter(|instance| {
                    let runs = instance.status.as_ref().and_then(|status| status.plan.as_ref());
                    runs.is_none_or(|runs| runs.name != name)
                }) {
                    let _ = nudge.send(ObjectRef::from_obj(&*instance)).await;
                }
                Ok::<_, Error>(action)
            },
            |plan, error, _| {
                tracing::warn!(plan = %plan.name_any(), %error, "reconciling a plan");
                Action::requeue(Duration::from_secs(2))
            },
            context,
        )
        .for_each(|outcome| async { log(outcome) })
        .await;
}

fn log<K: kube::Resource>(outcome: Result<(ObjectRef<K>, Action), ControllerError<Error, watcher::Error>>)
where
    K::DynamicType: std::fmt::Debug + std::hash::Hash + Eq + Clone,
{
    match outcome {
        // A nudge for something that is gone already.
        Ok(_) | Err(ControllerError::ObjectNotFound(_) | ControllerError::ReconcilerFailed(..)) => {}
        Err(error) => tracing::warn!(%error, "reconciling"),
    }
}

/// Hands nudges to the controller of their namespace.
async fn route(
    mut nudged: mpsc::Receiver<ObjectRef<CacheInstance>>,
    routes: HashMap<Scope, mpsc::Sender<ObjectRef<CacheInstance>>>,
) {
    while let Some(reference) = nudged.recv().await {
        let route = routes.get(&reference.namespace).or_else(|| routes.get(&None));
        if let Some(route) = route {
            let _ = route.send(reference).await;
        }
    }
}
