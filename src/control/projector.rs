//! The projector: what is seen of custom resources becomes what the ledger tells platforms.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::plan_users::PlanUsers;
use super::sightings::{Sighting, Sightings};
use super::{Error, deadline, outbox};
use crate::api::conditions::{self, READY, RECONCILING, Reason, STALLED};
use crate::api::{CacheBackup, CacheInstance, CacheInstanceStatus, CachePlan, Connection, annotations};
use crate::ledger::{
    AppliedRow, Epoch, Gone, InstanceId, Ledger, LedgerError, Observation, Outcome, Projected, Remains, SeenUser,
    Verdict,
};
use crate::provider::kubernetes::{PAGE, Scope, Stores};

/// How many instances are written at one time: each write waits for the disk once.
const AT_ONCE: usize = 8;
/// How soon a write is tried again that Postgres did not take.
const RETRY: Duration = Duration::from_millis(500);

/// Projects the resources of one scope into the ledger, in one epoch.
pub struct Projector {
    /// The ledger.
    pub ledger: Ledger,
    /// The epoch this process leads in.
    pub epoch: Epoch,
    /// Where connection Secrets are found.
    pub stores: Stores,
    /// The API server.
    pub client: Client,
    /// Hears of every plan whose instances changed.
    pub plans: mpsc::Sender<ObjectRef<CachePlan>>,
    /// Which instances use which plan.
    pub users: PlanUsers,
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
        let mut events = pin!(
            watcher(api, watcher::Config::default().page_size(PAGE))
                .default_backoff()
                .modify(|instance| instance.metadata.managed_fields = None)
        );
        // Rows that the list under way has not come to yet.
        let mut expected: BTreeMap<(String, String), AppliedRow> = BTreeMap::new();
        let mut sightings = Sightings::default();
        let mut writing = FuturesUnordered::new();
        loop {
            while writing.len() < AT_ONCE
                && let Some((id, sighting)) = sightings.next()
            {
                writing.push(self.write(id, sighting));
            }
            let event = tokio::select! {
                biased;
                Some(written) = writing.next() => {
                    sightings.written(written?);
                    continue;
                }
                event = events.try_next() => event,
            };
            match event {
                Ok(Some(Event::Init)) => {
                    self.users.begin(scope);
                    // What was seen before is compared with the list as it will stand in the ledger.
                    while let Some(written) = writing.next().await {
                        sightings.written(written?);
                        writing.extend(sightings.next().map(|(id, sighting)| self.write(id, sighting)));
                    }
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
                    self.nudge_plans(self.users.note(scope, &instance)).await;
                    if let Some(id) = instance_id(&instance).filter(|_| !known) {
                        sightings.note(id, Sighting::Present(Box::new(instance)));
                    }
                }
                Ok(Some(Event::InitDone)) => {
                    self.nudge_plans(self.users.complete(scope)).await;
                    for ((namespace, name), row) in std::mem::take(&mut expected) {
                        let gone = Gone {
                            namespace,
                            name,
                            uid: row.uid,
                        };
                        sightings.note(row.instance, Sighting::Absent(gone));
                    }
                }
                Ok(Some(Event::Apply(instance))) => {
                    self.nudge_plans(self.users.note(scope, &instance)).await;
                    if let Some(id) = instance_id(&instance) {
                        sightings.note(id, Sighting::Present(Box::new(instance)));
                    }
                }
                Ok(Some(Event::Delete(instance))) => {
                    self.nudge_plans(self.users.forget(&instance)).await;
                    if let Some(id) = instance_id(&instance) {
                        let gone = Gone {
                            namespace: instance.namespace().unwrap_or_default(),
                            name: instance.name_any(),
                            uid: instance.uid(),
                        };
                        sightings.note(id, Sighting::Absent(gone));
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(scope = scope.as_deref().unwrap_or("*"), %error, "watching CacheInstances");
                }
            }
        }
    }

    /// Has the ledger know what was seen of an instance's resource. Returns the instance.
    async fn write(&self, id: InstanceId, sighting: Sighting) -> Result<InstanceId, Error> {
        match sighting {
            Sighting::Present(instance) => self.seen(&instance).await?,
            Sighting::Absent(gone) => {
                self.until_taken(|| self.ledger.project_absent(self.epoch, &id, Some(&gone)))
                    .await?;
            }
        }
        Ok(id)
    }

    /// Watches the backups of a scope for ever, and ends the operations that made them.
    ///
    /// # Errors
    /// When a later leader has begun.
    pub async fn run_backups(&self, scope: &Scope) -> Result<(), Error> {
        let api: Api<CacheBackup> = match scope {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut backups = pin!(
            watcher(api, watcher::Config::default())
                .default_backoff()
                .touched_objects()
        );
        loop {
            match backups.try_next().await {
                Ok(Some(backup)) => {
                    if let Some((operation, outcome)) = made(&backup) {
                        self.until_taken(|| self.ledger.project_backup(self.epoch, operation, &outcome))
                            .await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(scope = scope.as_deref().unwrap_or("*"), %error, "watching CacheBackups");
                }
            }
        }
    }

    async fn seen(&self, instance: &CacheInstance) -> Result<(), Error> {
        let Some(observation) = observation(instance, self.connection(instance).await) else {
            return Ok(());
        };
        let projected = self
            .until_taken(|| self.ledger.project(self.epoch, &observation))
            .await?;
        let (instance, resource) = (
            &observation.instance,
            format!("{}/{}", observation.namespace, observation.name),
        );
        match projected {
            Some(Projected::Tombstone) => {
                tracing::warn!(%instance, resource, "the resource of a returned instance was made again; deleting it");
            }
            Some(Projected::Kept) => {
                tracing::warn!(%instance, resource, "the resource of a returned instance takes over a cache; it is left alone");
            }
            Some(Projected::Copy) => {
                tracing::warn!(%instance, resource, "a copy of an ordered instance's resource; the ledger does not heed it");
            }
            Some(Projected::Unknown) => {
                tracing::warn!(%instance, resource, "the ledger does not know this instance; it is left alone");
            }
            Some(Projected::Earlier) => self.put_back(&observation).await?,
            Some(Projected::Written | Projected::Stale) | None => {}
        }
        Ok(())
    }

    /// Has a resource written again that is of an earlier revision than was applied. What the watch tells may come late,
    /// so the resource itself is asked.
    async fn put_back(&self, observation: &Observation) -> Result<(), Error> {
        let api: Api<CacheInstance> = Api::namespaced(self.client.clone(), &observation.namespace);
        let found = deadline(api.get_opt(&observation.name)).await;
        let found = found
            .inspect_err(|error| tracing::warn!(instance = %observation.instance, %error, "reading a resource"))
            .unwrap_or_default();
        let stands = |found: &CacheInstance| {
            found.uid().as_ref() == Some(&observation.uid) && found.metadata.deletion_timestamp.is_none()
        };
        let revision = found.filter(stands);
        let revision = revision.map(|found| found.ledger_revision().unwrap_or(0));
        if revision == Some(observation.later.revision) {
            tracing::warn!(instance = %observation.instance, revision, "somebody put a resource back; writing it again");
            self.until_taken(|| {
                self.ledger
                    .put_back(self.epoch, &observation.instance, observation.later.revision)
            })
            .await?;
        }
        Ok(())
    }

    /// The connection that the status speaks of. The watch of Secrets may be behind the one of instances, and would
    /// tell of the address before a change.
    async fn connection(&self, instance: &CacheInstance) -> Option<Connection> {
        let status = instance.status.as_ref()?;
        let name = &status.binding.as_ref()?.name;
        let namespace = instance.namespace()?;
        // What cannot be read there is asked for.
        let secrets = self
            .stores
            .secrets_of(&namespace, &instance.name_any())
            .unwrap_or_default();
        let watched = secrets.get(name).and_then(|secret| connection_of(secret));
        if watched
            .as_ref()
            .is_some_and(|watched| leads_to(watched, status) && has_nodes(watched, status))
        {
            return watched;
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let read = deadline(api.get_opt(name)).await;
        let secret = read
            .inspect_err(|error| tracing::warn!(%namespace, secret = %name, %error, "reading a connection"))
            .ok()??;
        connection_of(&secret).filter(|connection| leads_to(connection, status))
    }

    async fn nudge_plans(&self, plans: BTreeSet<String>) {
        for plan in plans {
            // The receiver lives as long as the operator.
            let _ = self.plans.send(ObjectRef::new(&plan)).await;
        }
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

/// How the operation that a backup was made by ends; nothing while it goes on.
fn made(backup: &CacheBackup) -> Option<(Uuid, Outcome)> {
    let operation = backup.annotations().get(annotations::OPERATION_ID)?.parse().ok()?;
    let generation = backup.metadata.generation.unwrap_or_default();
    let conditions = &backup.status.as_ref()?.conditions;
    let failed = |description: String| Outcome::Failed {
        description,
        remains: Remains {
            usable: true,
            repeatable: false,
        },
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return Some((operation, failed("the backup was deleted".to_owned())));
    }
    if conditions::is_true(conditions, READY, generation) {
        return Some((operation, Outcome::Succeeded));
    }
    if conditions::is_true(conditions, STALLED, generation) {
        let why = conditions::find(conditions, READY).map(|condition| condition.message.clone());
        return Some((operation, failed(why.unwrap_or_default())));
    }
    None
}

fn connection_of(secret: &Secret) -> Option<Connection> {
    Connection::from_secret_data(secret.data.as_ref()?)
}

/// Whether a connection is to the status' endpoint, if that has one.
fn leads_to(connection: &Connection, status: &CacheInstanceStatus) -> bool {
    status.endpoint.as_ref().is_none_or(|endpoint| {
        connection.host == endpoint.host && connection.port == endpoint.port && connection.tls == endpoint.tls
    })
}

/// Whether a connection names the nodes that the status names.
fn has_nodes(connection: &Connection, status: &CacheInstanceStatus) -> bool {
    let nodes = status.nodes.iter();
    let addresses = nodes.filter_map(|node| Some(format!("{}:{}", node.host.as_ref()?, node.port?)));
    addresses.eq(connection.nodes.iter().cloned())
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
    // What is held answers, and what was asked of it waits.
    let held = [Reason::Paused, Reason::DeletionHeld].map(Reason::as_str);
    let held = ready.is_some_and(|condition| held.contains(&condition.reason.as_str()));
    // Without its connection it cannot be bound, so it is not ready for a platform.
    let verdict = if is(READY) && !is(RECONCILING) && !held && connection.is_some() {
        Verdict::Ready
    } else if is(STALLED) {
        Verdict::Failed(message.clone())
    } else {
        Verdict::No
    };
    let revision = instance.ledger_revision().unwrap_or(0);
    Some(Observation {
        instance: id,
        namespace: instance.namespace().unwrap_or_default(),
        name: instance.name_any(),
        uid: instance.uid().unwrap_or_default(),
        resource_version: instance.resource_version().unwrap_or_default(),
        later: outbox::later(instance, revision),
        adopts: instance.spec.adopt.is_some(),
        deleting: instance.metadata.deletion_timestamp.is_some(),
        ready: ready.is_some_and(|condition| condition.status == "True") && connection.is_some(),
        reason: said(|condition| &condition.reason),
        message,
        verdict,
        connection,
        encrypted_at_rest: status.encrypted_at_rest,
        users: status
            .users
            .iter()
            .map(|user| SeenUser {
                name: user.name.clone(),
                ready: user.ready,
            })
            .collect(),
        current: status.observed_generation == Some(generation),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::json;

    use super::*;
    use crate::api::conditions::Progress;

    fn instance(progress: Progress, generation: i64) -> CacheInstance {
        said_for(progress, Reason::Updating, generation)
    }

    /// One that answered before.
    fn said_for(progress: Progress, reason: Reason, generation: i64) -> CacheInstance {
        let say = |before: &[Condition], progress, reason| {
            conditions::standard(
                before,
                progress,
                reason,
                "said",
                generation,
                jiff::Timestamp::UNIX_EPOCH,
            )
        };
        let conditions = say(&say(&[], Progress::Ready, Reason::Available), progress, reason);
        serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": {
                "name": "osb-1", "namespace": "n", "generation": 2, "uid": "u", "resourceVersion": "9",
                "annotations": { "cache.akkeris.io/instance-id": "i", "cache.akkeris.io/ledger-revision": "7" },
            },
            "spec": { "planRef": { "name": "p" } },
            "status": {
                "conditions": conditions,
                "endpoint": { "host": "h", "port": 1, "tls": false, "address": "h:1" },
                "nodes": [{ "id": "a", "host": "h", "port": 1 }],
            },
        }))
        .unwrap()
    }

    fn connection(host: &str) -> Connection {
        Connection {
            engine: crate::api::EngineType::Redis,
            provider: crate::api::ProviderKind::Kubernetes,
            host: host.to_owned(),
            port: 1,
            tls: false,
            username: None,
            password: None,
            nodes: vec![format!("{host}:1")],
        }
    }

    #[test]
    fn an_operation_ends_when_the_cache_is_as_it_was_asked_for_and_not_before() {
        let verdict = |progress, generation, connection| {
            let observation = observation(&instance(progress, generation), connection).unwrap();
            assert_eq!(observation.later.revision, 7);
            observation.verdict
        };
        let known = || Some(connection("h"));
        assert_eq!(verdict(Progress::Ready, 2, known()), Verdict::Ready);
        assert_eq!(
            verdict(Progress::Stalled, 2, known()),
            Verdict::Failed("said".to_owned())
        );
        for (progress, generation, connection) in [
            // It serves, as it was.
            (Progress::ReadyAndReconciling, 2, known()),
            (Progress::Reconciling, 2, known()),
            // The status speaks of the spec before.
            (Progress::Ready, 1, known()),
            (Progress::Stalled, 1, known()),
            (Progress::Ready, 2, None),
        ] {
            assert_eq!(
                verdict(progress, generation, connection),
                Verdict::No,
                "{progress:?} {generation}"
            );
        }
        // It answers, and nothing is done.
        for reason in [Reason::Paused, Reason::DeletionHeld] {
            let observation = observation(&said_for(Progress::Paused, reason, 2), known()).unwrap();
            assert!(observation.ready);
            assert_eq!(observation.verdict, Verdict::No, "{reason:?}");
        }
    }

    #[test]
    fn a_connection_of_before_a_change_is_known_by_its_address_and_nodes() {
        let status = instance(Progress::Ready, 2).status.unwrap();
        assert!(leads_to(&connection("h"), &status) && has_nodes(&connection("h"), &status));
        assert!(!leads_to(&connection("old"), &status));
        let more = Connection {
            nodes: vec!["h:1".to_owned(), "gone:1".to_owned()],
            ..connection("h")
        };
        assert!(leads_to(&more, &status) && !has_nodes(&more, &status));
    }
}
