//! Controllers: a kind is watched into a store, and what changed, or was nudged, is reconciled.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::looked::Looked;
use super::plan_users::{self, PlanUsers};
use super::plans::Plans;
use super::{Error, kind, measured, pool};
use crate::api::{CacheInstance, CachePlan};
use crate::provider::kubernetes::{PAGE, Scope};

/// Objects of a kind reconciled at one time, in each scope.
const CONCURRENCY: u16 = 16;

/// Looks after the objects of one kind.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Object: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static;
    /// How long an object is left alone after a change, so that several are looked at as one.
    const DEBOUNCE: Duration = Duration::ZERO;

    /// Brings an object one step nearer to what it asks for. An error is that of the API server, which refused or did not
    /// answer.
    fn reconcile(&self, object: Arc<Self::Object>) -> impl Future<Output = Result<Action, Error>> + Send;

    /// When to try again after an error.
    fn after_error(&self, object: &Self::Object, error: &Error) -> Action;
}

/// A controller of a kind, and the store that it watches into. Who wrote which field stands in half of an object, and
/// nobody here reads it.
pub fn controller<R: Reconciler>(
    api: Api<R::Object>,
    nudged: mpsc::Receiver<ObjectRef<R::Object>>,
    shutdown: watch::Receiver<bool>,
    reconciler: Arc<R>,
    looked: Arc<Looked<R::Object>>,
) -> (Store<R::Object>, impl Future<Output = ()> + use<R>) {
    let (store, writer) = reflector::store();
    let objects = watcher(api, watcher::Config::default().page_size(PAGE))
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .applied_objects();
    let controller = Controller::for_stream(objects, store.clone());
    let run = async move {
        controller
            .with_config(Config::default().concurrency(CONCURRENCY).debounce(R::DEBOUNCE))
            .reconcile_on(ReceiverStream::new(nudged))
            .graceful_shutdown_on(stopped(shutdown))
            .run(
                move |object, reconciler: Arc<R>| {
                    looked.begin(&*object);
                    async move { measured(kind::<R::Object>(), reconciler.reconcile(object)).await }
                },
                |object, error, reconciler| reconciler.after_error(&object, error),
                reconciler,
            )
            .for_each(|outcome| async { log(outcome) })
            .await;
    };
    (store, run)
}

/// Watches a kind into a store.
pub fn reflect<K>(api: Api<K>, config: watcher::Config) -> (Store<K>, impl Future<Output = ()>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let run = async move {
        let objects = watcher(api, config.page_size(PAGE))
            .default_backoff()
            .modify(|object| object.meta_mut().managed_fields = None);
        let mut events = std::pin::pin!(objects.reflect(writer));
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(kind = kind::<K>(), %error, "watching");
            }
        }
    };
    (store, run)
}

/// The objects of one kind in a scope.
pub fn scoped<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Looks after plans, and tells instances of what is news of theirs.
pub struct PlanReconciler {
    /// Records revisions, counts, and lets go.
    pub plans: Plans,
    /// Which instances use which plan.
    pub users: PlanUsers,
    /// How many scopes are watched.
    pub scopes: usize,
    /// How the pools stand.
    pub pools: pool::Views,
    /// Hears of instances that are to be looked at.
    pub nudge: mpsc::Sender<ObjectRef<CacheInstance>>,
    /// The newest revision of each plan that its instances were told of.
    pub told: Mutex<HashMap<String, Option<i64>>>,
}

impl Reconciler for PlanReconciler {
    type Object = CachePlan;
    const DEBOUNCE: Duration = Duration::from_millis(50);

    async fn reconcile(&self, plan: Arc<CachePlan>) -> Result<Action, Error> {
        let name = plan.name_any();
        // What stands when a term begins, every instance sees before it is reconciled.
        let stands = plan.status.as_ref().and_then(|status| status.revision);
        self.told.lock().entry(name.clone()).or_insert(stands);
        let usage = self.users.of(&name, self.scopes);
        let action = self
            .plans
            .reconcile(&plan, usage.as_ref(), self.pools.of(&name))
            .await?;
        self.pools.wake();
        let is_news = {
            let newest = self.plans.newest(&name);
            let mut told = self.told.lock();
            newest.is_some() && told.insert(name.clone(), newest) != Some(newest)
        };
        // Those that waited for the plan go on, and those that run from an older revision learn of the new one. Looked for
        // now: one that came since did not see the revision either.
        let concerned = if is_news {
            self.users.all(&name)
        } else {
            self.users
                .of(&name, self.scopes)
                .map_or_else(Vec::new, |usage| usage.waiting)
        };
        for key in &concerned {
            let _ = self.nudge.send(plan_users::reference(key)).await;
        }
        Ok(action)
    }

    fn after_error(&self, plan: &CachePlan, error: &Error) -> Action {
        tracing::warn!(plan = %plan.name_any(), %error, "reconciling a plan");
        Action::requeue(Duration::from_secs(2))
    }
}

/// Ends when the process is to.
pub async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // A sender that is gone means the process ends.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn log<K: Resource>(outcome: Result<(ObjectRef<K>, Action), ControllerError<Error, watcher::Error>>)
where
    K::DynamicType: Debug + std::hash::Hash + Eq + Clone,
{
    match outcome {
        // A nudge for something that is gone already.
        Ok(_) | Err(ControllerError::ObjectNotFound(_) | ControllerError::ReconcilerFailed(..)) => {}
        Err(error) => tracing::warn!(%error, "reconciling"),
    }
}
