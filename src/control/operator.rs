//! Wires the reconcilers, watches and the projector together and runs them while this process leads.
//!
//! What stands in the cluster for instances is watched all the time, so that a standby takes over without reading it
//! first. All else is begun anew with each term: plans, revisions and instances are listed and ElastiCache is asked,
//! so nothing is decided from what was known before the lease was won, and ending a term is dropping it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::Error;
use super::backups::{BackupIndex, Backups};
use super::controllers::{PlanReconciler, controller, reflect, scoped, stopped};
use super::departures::Departures;
use super::instances::Instances;
use super::leader::Candidate;
use super::looked::Looked;
use super::occurrences;
use super::plan_users::PlanUsers;
use super::plans::Plans;
use super::pool;
use super::projector::Projector;
use super::retries::Retries;
use super::standing;
use crate::api::{CacheBackup, CacheInstance, CachePlan, labels};
use crate::ledger::{Ledger, LedgerError};
use crate::provider::Providers;
use crate::provider::elasticache::Ears;
use crate::provider::kubernetes::Scope;
use crate::settings::Namespaces;
use crate::telemetry::health::{Health, Part};
use crate::telemetry::metrics::sources::{self, Standing};

/// Nudges that wait at most; a sender waits beyond.
const NUDGES: usize = 1024;
/// What happened in a provider and is not written down yet, at most; more is lost.
const OCCURRENCES: usize = 1024;
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
    /// Where instances that are made ahead go.
    pub pool_namespaces: crate::api::Namespaces,
    /// The operator's own namespace.
    pub namespace: String,
    /// What this process is called in the lease.
    pub identity: String,
    /// How often everything is looked at although nothing happened.
    pub resync: Duration,
    /// Told when the operator works.
    pub health: Health,
}

/// Where nudges go: to the controller of a namespace, while this process leads.
type Routes = Mutex<Arc<HashMap<Scope, mpsc::Sender<ObjectRef<CacheInstance>>>>>;

impl Operator {
    /// Runs until the process shuts down: stands by until the lease is won, leads until it is lost, and stands by again.
    /// A process that lost its lease does not end, since it may serve platforms as well, which need neither lease nor
    /// API server.
    ///
    /// # Errors
    /// When something that should run for ever ends.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        let scopes: Vec<Scope> = match &self.namespaces {
            Namespaces::All => vec![None],
            Namespaces::Named(names) => names.iter().cloned().map(Some).collect(),
        };
        let (nudge, nudged) = mpsc::channel(NUDGES);
        let routes = Routes::default();
        tokio::select! {
            biased;
            outcome = self.terms(&scopes, &nudge, &routes, shutdown) => outcome,
            () = self.providers.stores.run(&self.client, &scopes, &nudge) => Err(ended("the watch of what instances are made of")),
            () = route(nudged, &routes) => Err(ended("the routing of nudges")),
        }
    }

    async fn terms(
        &self,
        scopes: &[Scope],
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
        routes: &Routes,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let candidate = Candidate::new(self.client.clone(), &self.namespace, self.identity.clone());
        // Nothing is decided before everything was listed once: what is not seen yet is not what is not there.
        tokio::select! {
            biased;
            () = self.providers.stores.ready(scopes.len()) => {}
            () = stopped(shutdown.clone()) => return Ok(()),
        }
        loop {
            let standing = |state| match state {
                Ok(()) => self.health.stand_by(Part::Operator),
                Err(reason) => self.health.set(Part::Operator, Err(reason)),
            };
            let held = tokio::select! {
                biased;
                held = candidate.win(standing) => held,
                () = stopped(shutdown.clone()) => {
                    // It may have been won just now.
                    candidate.release().await;
                    return Ok(());
                }
            };
            let ended = tokio::select! {
                biased;
                lost = candidate.keep(held) => Err(lost),
                outcome = self.term(scopes, nudge, routes, shutdown.clone()) => Ok(outcome),
            };
            // Whatever the term had under way has ended with it.
            *routes.lock() = Arc::default();
            match ended {
                Err(lost) => self.health.set(Part::Operator, Err(lost.to_string())),
                Ok(outcome) => {
                    candidate.release().await;
                    match outcome {
                        Err(Error::Ledger(error @ LedgerError::Fenced { .. })) => {
                            tracing::warn!(
                                %error,
                                namespace = self.namespace,
                                "leads no longer, although it has the Lease of its namespace: if this comes again, an operator in \
                                 another namespace uses the same database; stop one of the two"
                            );
                        }
                        outcome => return outcome,
                    }
                }
            }
        }
    }

    /// Leads, until the process shuts down.
    async fn term(
        &self,
        scopes: &[Scope],
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
        routes: &Routes,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let epoch = tokio::select! {
            biased;
            epoch = self.lead() => epoch,
            () = stopped(shutdown.clone()) => return Ok(()),
        };
        tracing::info!(identity = %self.identity, ?epoch, "leads");
        let providers = self.providers.renewed();
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
        let backup_index = BackupIndex::default();
        let departures = Departures::default();
        let instances = Arc::new(Instances {
            client: self.client.clone(),
            plans: plans.clone(),
            backups: backup_index.clone(),
            departures: departures.clone(),
            providers: providers.clone(),
            retries: Retries::default(),
            resync: self.resync,
        });
        let users = PlanUsers::default();
        let projector = Projector {
            ledger: self.ledger.clone(),
            epoch,
            stores: providers.stores.clone(),
            client: self.client.clone(),
            plans: plan_nudge.clone(),
            users: users.clone(),
        };

        let looked = AllLooked::default();
        let mut stores = Vec::new();
        let mut to_scopes = HashMap::new();
        let mut controllers = Vec::new();
        for scope in scopes {
            let (to_scope, in_scope) = mpsc::channel(NUDGES);
            to_scopes.insert(scope.clone(), to_scope);
            let (api, looked) = (scoped(&self.client, scope), looked.instances.clone());
            let (store, run) = controller(api, in_scope, shutdown.clone(), instances.clone(), looked);
            stores.push(store);
            controllers.push(run);
        }
        let elasticache = providers.elasticache.as_ref();
        let backups = Arc::new(Backups {
            client: self.client.clone(),
            elasticache: elasticache.map(|elasticache| elasticache.poller.clone()),
            prefix: elasticache.map_or_else(String::new, |elasticache| elasticache.defaults.name_prefix.clone()),
            instances: stores.clone(),
            index: backup_index.clone(),
            nudge: nudge.clone(),
            retries: Retries::default(),
            resync: self.resync,
        });
        let mut backup_stores = Vec::new();
        let mut backup_controllers = Vec::new();
        for scope in scopes {
            let (api, looked) = (scoped(&self.client, scope), looked.backups.clone());
            // Nobody nudges them.
            let (_, nudged) = mpsc::channel(1);
            let (store, run) = controller(api, nudged, shutdown.clone(), backups.clone(), looked);
            backup_index.add(store.clone());
            backup_stores.push(store);
            backup_controllers.push(run);
        }
        let queues = to_scopes.values().map(mpsc::Sender::downgrade).collect();
        let _queues = (
            sources::queue("CacheInstance", queues, behind(&looked.instances, stores.clone())),
            sources::queue(
                "CachePlan",
                vec![plan_nudge.downgrade()],
                behind(&looked.plans, vec![plan_store.clone()]),
            ),
            sources::queue::<()>(
                "CacheBackup",
                Vec::new(),
                behind(&looked.backups, backup_stores.clone()),
            ),
        );
        *routes.lock() = Arc::new(to_scopes);
        let pools = pool::Views::default();
        let _standing = {
            let (stores, pools) = (stores.clone(), pools.clone());
            let (instances, backups) = (instances.clone(), backups.clone());
            sources::leads(move || Standing {
                instances: standing::by_plan(stores.iter().flat_map(Store::state)),
                pools: pools.fill(),
                failing: vec![
                    ("CacheInstance", instances.retries.failing()),
                    ("CacheBackup", backups.retries.failing()),
                ],
            })
        };
        let (occur, occurred) = mpsc::channel(OCCURRENCES);
        let ears = Ears {
            nudge: nudge.clone(),
            occurred: occur,
        };
        let telling = occurrences::tell(self.client.clone(), stores.clone(), occurred);
        let departing = departures.watch(&self.ledger, &stores, &providers.stores, nudge);
        let polling = async {
            match &providers.elasticache {
                Some(elasticache) => elasticache.poller.run(&ears).await,
                None => std::future::pending().await,
            }
        };
        let working = async {
            let listed = async {
                // Waiting fails only when the watches, which are beside this, end.
                let _ = tokio::join!(plan_store.wait_until_ready(), revision_store.wait_until_ready());
                if let Some(elasticache) = &providers.elasticache {
                    elasticache.poller.ready().await;
                }
            };
            tokio::select! {
                biased;
                () = listed => self.health.set(Part::Operator, Ok(())),
                () = stopped(shutdown.clone()) => return Ok(()),
            }
            let controllers = async {
                // A controller's own store fills while it runs: instances wait for the backups they may name.
                let instances = async {
                    for store in &backup_stores {
                        let _ = store.wait_until_ready().await;
                    }
                    futures::future::join_all(controllers).await;
                };
                tokio::join!(instances, futures::future::join_all(backup_controllers));
            };
            let keeper = pool::Keeper {
                client: self.client.clone(),
                ledger: self.ledger.clone(),
                epoch,
                providers: providers.clone(),
                plans: plan_store.clone(),
                instances: stores.clone(),
                namespaces: self.pool_namespaces.clone(),
                nudge: plan_nudge.clone(),
                views: pools.clone(),
            };
            let reconciler = Arc::new(PlanReconciler {
                plans,
                users,
                scopes: scopes.len(),
                pools,
                nudge: nudge.clone(),
                told: Mutex::default(),
            });
            let (api, looked) = (Api::all(self.client.clone()), looked.plans.clone());
            let (_, plan_controller) = controller(api, plan_nudged, shutdown.clone(), reconciler, looked);
            let projection = async {
                let runs = scopes.iter().map(|scope| projector.run(self.client.clone(), scope));
                futures::future::try_join_all(runs).await
            };
            let backup_projection = async {
                let runs = scopes.iter().map(|scope| projector.run_backups(scope));
                futures::future::try_join_all(runs).await
            };
            // The reconcilers end when they are told to; nothing else ends by itself.
            tokio::select! {
                biased;
                _ = async { tokio::join!(controllers, plan_controller) } => Ok(()),
                outcome = projection => Err(outcome.err().unwrap_or_else(|| ended("the projector"))),
                outcome = backup_projection => Err(outcome.err().unwrap_or_else(|| ended("the projector of backups"))),
                outcome = keeper.run() => Err(outcome.err().unwrap_or_else(|| ended("the keeper of the pools"))),
            }
        };
        tokio::select! {
            biased;
            outcome = working => outcome,
            () = plan_watch => Err(ended("the watch of CachePlans")),
            () = revision_watch => Err(ended("the watch of ControllerRevisions")),
            () = polling => Err(ended("the poller of ElastiCache")),
            () = telling => Err(ended("the teller of provider events")),
            () = departing => Err(ended("the look-out for bindings of before a change")),
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

/// What was looked at last in a term.
#[derive(Default)]
struct AllLooked {
    instances: Arc<Looked<CacheInstance>>,
    plans: Arc<Looked<CachePlan>>,
    backups: Arc<Looked<CacheBackup>>,
}

/// Counts what of some stores waits to be looked at.
fn behind<K>(looked: &Arc<Looked<K>>, stores: Vec<Store<K>>) -> impl Fn() -> usize + Send + Sync + use<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let looked = looked.clone();
    move || looked.behind(stores.iter().flat_map(Store::state))
}

/// Hands nudges to the controller of their namespace. While others lead they are for nobody: a term begins by looking at
/// every instance.
async fn route(mut nudged: mpsc::Receiver<ObjectRef<CacheInstance>>, routes: &Routes) {
    while let Some(reference) = nudged.recv().await {
        let routes = routes.lock().clone();
        let route = routes.get(&reference.namespace).or_else(|| routes.get(&None));
        if let Some(route) = route {
            let _ = route.send(reference).await;
        }
    }
}
