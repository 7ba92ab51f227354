//! The projector: what is seen of custom resources becomes what the ledger tells platforms.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use super::Error;
use crate::api::conditions::{self, READY, RECONCILING, STALLED};
use crate::api::{CacheInstance, CachePlan, Connection, annotations};
use crate::ledger::{AppliedRow, Epoch, InstanceId, Ledger, LedgerError, Observation, Projected, Verdict};
use crate::provider::kubernetes::{Scope, Stores};

/// How soon a write is tried again that Postgres did not take.
const RETRY: Duration = Duration::from_millis(500);
/// How often operations past their deadline are looked for.
const EXPIRY: Duration = Duration::from_secs(5);

/// Projects the resources of one scope into the ledger, in one epoch.
pub struct Projector {
    /// The ledger.
    pub ledger: Ledger,
    /// The epoch this process leads in.
    pub epoch: Epoch,
    /// Where connection Secrets are found.
    pub stores: Stores,
    /// Hears of every plan whose instances changed.
    pub plans: mpsc::Sender<ObjectRef<CachePlan>>,
}

/// Fails operations past their deadline, for ever.
pub async fn expire(ledger: Ledger) {
    let mut tick = tokio::time::interval(EXPIRY);
    loop {
        tick.tick().await;
        match ledger.expire_operations().await {
            Ok(0) => {}
            Ok(ended) => tracing::warn!(ended, "operations outlived their deadline"),
            Err(error) => tracing::warn!(%error, "looking for operations past their deadline"),
        }
    }
}

impl Projector {
    /// Watches a scope for ever; ends with an error when another process leads.
    ///
    /// # Errors
    /// When a later leader has begun.
    pub async fn run(&self, client: Client, scope: &Scope) -> Result<(), Error> {
        let api: Api<CacheInstance> = match scope {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
        // Rows that the list under way has not come to yet.
        let mut expected: HashMap<(String, String), AppliedRow> = HashMap::new();
        loop {
            match events.try_next().await {
                Ok(Some(Event::Init)) => {
                    expected = self
                        .until_taken(|| self.ledger.applied_rows())
                        .await?
                        .unwrap_or_default();
                    expected.retain(|(namespace, _), _| scope.as_ref().is_none_or(|scope| scope == namespace));
                }
                Ok(Some(Event::InitApply(instance))) => {
                    let key = (instance.namespace().unwrap_or_default(), instance.name_any());
                    // What the ledger has already is not written again: a restart writes nothing that is not news.
                    let known = expected.remove(&key).is_some_and(|row| {
                        row.uid == instance.uid() && row.resource_version == instance.resource_version()
                    });
                    if known {
                        self.nudge_plan(&instance).await;
                    } else {
                        self.seen(&instance).await?;
                    }
                }
                Ok(Some(Event::InitDone)) => {
                    for row in std::mem::take(&mut expected).into_values() {
                        self.until_taken(|| {
                            self.ledger
                                .project_absent(self.epoch, &row.instance, row.uid.as_deref())
                        })
                        .await?;
                    }
                }
                Ok(Some(Event::Apply(instance))) => self.seen(&instance).await?,
                Ok(Some(Event::Delete(instance))) => {
                    if let Some(id) = instance_id(&instance) {
                        let uid = instance.uid();
                        self.until_taken(|| self.ledger.project_absent(self.epoch, &id, uid.as_deref()))
                            .await?;
                    }
                    self.nudge_plan(&instance).await;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(scope = scope.as_deref().unwrap_or("*"), %error, "watching CacheInstances");
                }
            }
        }
    }

    async fn seen(&self, instance: &CacheInstance) -> Result<(), Error> {
        self.nudge_plan(instance).await;
        let Some(observation) = observation(instance, self.connection(instance)) else {
            return Ok(());
        };
        let projected = self
            .until_taken(|| self.ledger.project(self.epoch, &observation))
            .await?;
        if projected == Some(Projected::Tombstone) {
            tracing::warn!(instance = %observation.instance, "the resource of a returned instance was made again; deleting it");
        }
        Ok(())
    }

    fn connection(&self, instance: &CacheInstance) -> Option<Connection> {
        let binding = instance.status.as_ref()?.binding.as_ref()?;
        let secrets = self.stores.secrets_of(&instance.namespace()?, &instance.name_any());
        Connection::from_secret_data(secrets.get(&binding.name)?.data.as_ref()?)
    }

    async fn nudge_plan(&self, instance: &CacheInstance) {
        // The receiver lives as long as the operator.
        let _ = self.plans.send(ObjectRef::new(&instance.spec.plan_ref.name)).await;
    }

    /// Writes until Postgres takes it: nothing that was seen may be lost. What Postgres refuses for good is logged.
    async fn until_taken<T, F: Future<Output = Result<T, LedgerError>>>(
        &self,
        write: impl Fn() -> F,
    ) -> Result<Option<T>, Error> {
        loop {
            match write().await {
                Ok(value) => return Ok(Some(value)),
                Err(error @ LedgerError::Fenced { .. }) => return Err(error.into()),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "the projector waits");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the ledger does not take what was seen");
                    return Ok(None);
                }
            }
        }
    }
}

fn instance_id(instance: &CacheInstance) -> Option<InstanceId> {
    instance.annotation(annotations::INSTANCE_ID)?.parse().ok()
}

/// What a resource says to the ledger; nothing if it was not ordered over OSB.
fn observation(instance: &CacheInstance, connection: Option<Connection>) -> Option<Observation> {
    let id = instance_id(instance)?;
    let generation = instance.metadata.generation.unwrap_or_default();
    let status = instance.status.clone().unwrap_or_default();
    let is = |type_| conditions::is_true(&status.conditions, type_, generation);
    let ready = conditions::find(&status.conditions, READY);
    let said = |pick: fn(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> &String| {
        ready.map(pick).cloned().unwrap_or_default()
    };
    let message = said(|condition| &condition.message);
    // Without its connection it cannot be bound, so it is not ready for a platform.
    let verdict = if is(READY) && !is(RECONCILING) && connection.is_some() {
        Verdict::Ready
    } else if is(STALLED) {
        Verdict::Failed(message.clone())
    } else {
        Verdict::No
    };
    Some(Observation {
        instance: id,
        uid: instance.uid().unwrap_or_default(),
        resource_version: instance.resource_version().unwrap_or_default(),
        ledger_revision: instance
            .annotation(annotations::LEDGER_REVISION)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        deleting: instance.metadata.deletion_timestamp.is_some(),
        ready: ready.is_some_and(|condition| condition.status == "True") && connection.is_some(),
        reason: said(|condition| &condition.reason),
        message,
        verdict,
        connection,
    })
}
