//! Backups: a snapshot is taken of an instance's cache on ElastiCache, watched until it is complete, and deleted with its
//! backup unless it is to stay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::controllers::Reconciler;
use super::decide::BackupLookup;
use super::finalizer::is_held;
use super::retries::Retries;
use super::{Error, deadline, events, set_finalizer, status_record};
use crate::ambient;
use crate::api::conditions::{self, Progress, READY, Reason};
use crate::api::{BackupDeletionPolicy, CacheBackup, CacheBackupStatus, CacheInstance, EngineType, LastBackup};
use crate::digest::sha256_hex;
use crate::provider::elasticache::{LANDS, Poller, Snapshot, SnapshotState, Target};
use crate::provider::{Fault, FaultKind};

/// How often a snapshot that is being taken or deleted is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Backups as the instances need them. Clones share it.
#[derive(Clone, Default)]
pub struct BackupIndex {
    stores: Arc<RwLock<Vec<Store<CacheBackup>>>>,
    complete: Arc<RwLock<HashMap<Key, BTreeMap<String, Timestamp>>>>,
}

/// The namespace and name of an instance.
type Key = (String, String);

impl BackupIndex {
    /// Adds the backups of a scope.
    pub fn add(&self, store: Store<CacheBackup>) {
        self.stores.write().push(store);
    }

    /// The backup that an instance is to be filled from.
    pub fn look_up(&self, instance: &CacheInstance) -> BackupLookup {
        let Some(restore) = &instance.spec.restore else {
            return BackupLookup::NotAsked;
        };
        let reference = ObjectRef::new(&restore.backup).within(&instance.namespace().unwrap_or_default());
        let found = self.stores.read().iter().find_map(|store| store.get(&reference));
        found.map_or(BackupLookup::Missing, |backup| usable(&backup))
    }

    /// The latest complete backup of an instance.
    pub fn latest(&self, instance: &CacheInstance) -> Option<LastBackup> {
        let key = (instance.namespace()?, instance.name_any());
        let complete = self.complete.read();
        let (name, time) = complete.get(&key)?.iter().max_by_key(|(_, time)| **time)?;
        Some(LastBackup {
            name: name.clone(),
            time: Time(*time),
        })
    }

    /// Notes when a backup was complete. Returns the instance if that is news.
    fn note(&self, backup: &CacheBackup, at: Option<Timestamp>) -> Option<ObjectRef<CacheInstance>> {
        let key = (backup.namespace()?, backup.spec.instance_ref.name.clone());
        let reference = ObjectRef::new(&key.1).within(&key.0);
        let mut complete = self.complete.write();
        let of_instance = complete.entry(key.clone()).or_default();
        let before = match at {
            Some(at) => of_instance.insert(backup.name_any(), at),
            None => of_instance.remove(&backup.name_any()),
        };
        if of_instance.is_empty() {
            complete.remove(&key);
        }
        (before != at && at.is_some()).then_some(reference)
    }
}

/// What a backup is good for.
fn usable(backup: &CacheBackup) -> BackupLookup {
    let Some(status) = &backup.status else {
        return BackupLookup::NotReady;
    };
    let generation = backup.metadata.generation.unwrap_or_default();
    if conditions::is_true(&status.conditions, conditions::STALLED, generation) {
        let why = conditions::find(&status.conditions, READY).map(|ready| ready.message.clone());
        return BackupLookup::Failed(why.unwrap_or_default());
    }
    let ready = conditions::is_true(&status.conditions, READY, generation);
    match (ready, &status.snapshot, status.engine) {
        (true, Some(snapshot), Some(engine)) => BackupLookup::Ready {
            snapshot: snapshot.clone(),
            engine,
        },
        _ => BackupLookup::NotReady,
    }
}

/// What reconciling a backup needs.
pub struct Backups {
    /// The API server.
    pub client: Client,
    /// ElastiCache; `None` where it is switched off.
    pub elasticache: Option<Poller>,
    /// Begins the names of snapshots.
    pub prefix: String,
    /// Instances, by scope.
    pub instances: Vec<Store<CacheInstance>>,
    /// Where complete backups are noted.
    pub index: BackupIndex,
    /// Hears of instances whose backup is complete.
    pub nudge: mpsc::Sender<ObjectRef<CacheInstance>>,
    /// Pace of failures.
    pub retries: Retries<CacheBackup>,
    /// How often a backup at rest is looked at although nothing happened.
    pub resync: Duration,
}

/// What a backup's instance is, as far as its backup needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// There is no such instance.
    Missing,
    /// It has none to give: memcached, or a cache in the cluster.
    Without(EngineType),
    /// It does not answer yet.
    NotReady,
    /// This is it.
    Ready(Target),
}

/// What to do about a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// Take hold of it.
    Hold,
    /// Ask for a snapshot of this.
    Take(Target),
    /// Ask for the snapshot to be deleted.
    Delete,
    /// Let it go.
    Release,
    /// Look again soon.
    Wait,
    /// Nothing.
    Rest,
}

/// What to do, and what to say.
#[derive(Clone, Debug, PartialEq)]
struct Decision {
    next: Next,
    progress: Progress,
    reason: Reason,
    message: String,
    snapshot: Option<String>,
    seen: bool,
}

impl Reconciler for Backups {
    type Object = CacheBackup;

    async fn reconcile(&self, backup: Arc<CacheBackup>) -> Result<Action, Error> {
        let reference = ObjectRef::from_obj(&*backup);
        let api: Api<CacheBackup> = Api::namespaced(self.client.clone(), &backup.namespace().unwrap_or_default());
        let name = snapshot_name(&backup, &self.prefix);
        let found = match &self.elasticache {
            None => Ok(None),
            Some(poller) => poller.client().snapshot(&name).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(fault) => return self.faulted(&api, &backup, &reference, fault).await,
        };
        let decision = if self.elasticache.is_some() {
            decide(&backup, &name, &self.source(&backup), found.as_ref(), ambient::now())
        } else {
            switched_off(&backup)
        };
        match &decision.next {
            Next::Hold => {
                set_finalizer(&api, &*backup, true).await?;
                return Ok(Action::await_change());
            }
            Next::Release => {
                self.index.note(&backup, None);
                set_finalizer(&api, &*backup, false).await?;
                self.retries.rested(&reference);
                return Ok(Action::await_change());
            }
            _ => {}
        }
        let backup = self.say(&api, &backup, &decision, found.as_ref()).await?;
        let outcome = match (&decision.next, &self.elasticache) {
            (Next::Take(source), Some(poller)) => poller.client().take_snapshot(&name, source).await,
            (Next::Delete, Some(poller)) => poller.client().delete_snapshot(&name).await,
            _ => Ok(()),
        };
        if let Err(fault) = outcome {
            return self.faulted(&api, &backup, &reference, fault).await;
        }
        self.retries.rested(&reference);
        Ok(match decision.next {
            Next::Rest => Action::requeue(self.resync),
            _ => Action::requeue(POLL),
        })
    }

    fn after_error(&self, backup: &CacheBackup, error: &Error) -> Action {
        let reference = ObjectRef::from_obj(backup);
        tracing::warn!(backup = %reference, %error, "reconciling");
        Action::requeue(self.retries.failed(&reference, None))
    }
}

impl Backups {
    async fn faulted(
        &self,
        api: &Api<CacheBackup>,
        backup: &CacheBackup,
        reference: &ObjectRef<CacheBackup>,
        fault: Fault,
    ) -> Result<Action, Error> {
        tracing::warn!(backup = %reference, %fault, "a step did not succeed");
        let (progress, reason) = match fault.kind {
            FaultKind::Refused => (Progress::Stalled, Reason::ProviderRefused),
            FaultKind::Transient => (Progress::Reconciling, Reason::ProviderUnavailable),
        };
        let status = backup.status.clone().unwrap_or_default();
        let decision = Decision {
            next: Next::Wait,
            progress,
            reason,
            message: fault.message.clone(),
            snapshot: status.snapshot,
            seen: status.seen.unwrap_or_default(),
        };
        self.say(api, backup, &decision, None).await?;
        Ok(Action::requeue(self.retries.failed(reference, Some(fault))))
    }

    fn source(&self, backup: &CacheBackup) -> Source {
        let reference = ObjectRef::new(&backup.spec.instance_ref.name).within(&backup.namespace().unwrap_or_default());
        match self.instances.iter().find_map(|store| store.get(&reference)) {
            Some(instance) => source(&instance),
            None => Source::Missing,
        }
    }

    /// Writes the status if it differs, and publishes an Event if its reason changed. Before a snapshot is asked for it is
    /// written anyway: of a backup that changed or is gone, none is taken.
    async fn say(
        &self,
        api: &Api<CacheBackup>,
        backup: &CacheBackup,
        decision: &Decision,
        found: Option<&Snapshot>,
    ) -> Result<CacheBackup, Error> {
        let status = status(backup, decision, found, ambient::now());
        let complete = (decision.progress == Progress::Ready)
            .then(|| status.completed_at.as_ref().map(|time| time.0))
            .flatten();
        if let Some(instance) = self.index.note(backup, complete) {
            let _ = self.nudge.send(instance).await;
        }
        if backup.status.as_ref() == Some(&status) && !matches!(decision.next, Next::Take(_)) {
            return Ok(backup.clone());
        }
        let mut changed = backup.clone();
        changed.status = Some(status);
        let written = deadline(api.replace_status(&backup.name_any(), &PostParams::default(), &changed)).await?;
        let said = events::Said::of(decision.progress, decision.reason, &decision.message);
        let before = backup.status.as_ref().map(|status| &status.conditions[..]);
        if said.is_news(before.and_then(|before| conditions::find(before, READY))) {
            events::publish(&self.client, &written.object_ref(&()), said).await;
        }
        Ok(written)
    }
}

/// The name of a backup's snapshot: the one it names, the one it has, else one that follows from its uid, so that asking
/// twice asks for one.
fn snapshot_name(backup: &CacheBackup, prefix: &str) -> String {
    let recorded = || backup.status.as_ref()?.snapshot.clone();
    backup.spec.snapshot.clone().or_else(recorded).unwrap_or_else(|| {
        let uid = backup.uid().unwrap_or_default();
        format!("{}-backup-{}", prefix.to_ascii_lowercase(), sha256_hex(uid, 12))
    })
}

/// What an instance is for its backup.
fn source(instance: &CacheInstance) -> Source {
    let Some(plan) = instance.status.as_ref().and_then(|status| status.plan.as_ref()) else {
        return Source::NotReady;
    };
    let record = status_record::record(instance);
    match (plan.engine, record.cluster()) {
        (EngineType::Memcached, _) => Source::Without(plan.engine),
        (_, Some(cluster))
            if instance
                .status
                .as_ref()
                .is_some_and(|status| status.first_ready_time.is_some()) =>
        {
            Source::Ready(cluster.target.clone())
        }
        (_, Some(_)) => Source::NotReady,
        (_, None) if record.serving.is_none() => Source::NotReady,
        (engine, None) => Source::Without(engine),
    }
}

fn switched_off(backup: &CacheBackup) -> Decision {
    let status = backup.status.clone().unwrap_or_default();
    Decision {
        next: if backup.metadata.deletion_timestamp.is_some() && status.snapshot.is_none() && is_held(backup) {
            Next::Release
        } else {
            Next::Rest
        },
        progress: Progress::Stalled,
        reason: Reason::ProviderDisabled,
        message: "backups are made by ElastiCache, which the operator's settings switch off: set AWS_REGION".to_owned(),
        snapshot: status.snapshot,
        seen: status.seen.unwrap_or_default(),
    }
}

/// What to do about a backup. Pure.
fn decide(backup: &CacheBackup, name: &str, source: &Source, found: Option<&Snapshot>, now: Timestamp) -> Decision {
    let status = backup.status.clone().unwrap_or_default();
    let seen = found.is_some() || status.seen.unwrap_or_default();
    let say = |next: Next, progress: Progress, reason: Reason, message: String| Decision {
        next,
        progress,
        reason,
        message,
        snapshot: status.snapshot.clone().or_else(|| found.map(|_| name.to_owned())),
        seen,
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return if is_held(backup) {
            removed(backup, name, found, now, &say)
        } else {
            say(Next::Rest, Progress::Reconciling, Reason::Deleting, String::new())
        };
    }
    if !is_held(backup) {
        return say(Next::Hold, Progress::Reconciling, Reason::Creating, String::new());
    }
    match found.map(|found| &found.state) {
        Some(SnapshotState::Available) => say(
            Next::Rest,
            Progress::Ready,
            Reason::Available,
            format!("snapshot {name} can be restored"),
        ),
        Some(SnapshotState::Busy) => say(
            Next::Wait,
            Progress::Reconciling,
            Reason::Snapshotting,
            format!("snapshot {name} is being taken"),
        ),
        Some(SnapshotState::Deleting) => say(
            Next::Wait,
            Progress::Stalled,
            Reason::Failed,
            format!("snapshot {name} is being deleted in ElastiCache although nobody asked for that here"),
        ),
        Some(SnapshotState::Failed(state)) => say(
            Next::Rest,
            Progress::Stalled,
            Reason::Failed,
            format!("snapshot {name} is {state}: delete this backup, and make another"),
        ),
        None if status.seen == Some(true) => say(
            Next::Rest,
            Progress::Stalled,
            Reason::ProviderResourceMissing,
            format!("snapshot {name} failed, or was deleted in ElastiCache: delete this backup, and make another"),
        ),
        None if backup.spec.snapshot.is_some() => say(
            Next::Wait,
            Progress::Reconciling,
            Reason::ProviderResourceMissing,
            format!(
                "there is no snapshot {name} in this region and account yet: correct spec.snapshot in a new backup if it was misspelled"
            ),
        ),
        None => taken(backup, name, source, &say),
    }
}

fn taken(
    backup: &CacheBackup,
    name: &str,
    source: &Source,
    say: &impl Fn(Next, Progress, Reason, String) -> Decision,
) -> Decision {
    let instance = &backup.spec.instance_ref.name;
    match source {
        Source::Missing => say(
            Next::Wait,
            Progress::Reconciling,
            Reason::InstanceNotFound,
            format!(
                "there is no CacheInstance {instance} in this namespace yet: create it, or name another in a new backup"
            ),
        ),
        Source::NotReady => say(
            Next::Wait,
            Progress::Reconciling,
            Reason::InstanceNotFound,
            format!("waiting for CacheInstance {instance} to be ready"),
        ),
        Source::Without(engine) => say(
            Next::Rest,
            Progress::Stalled,
            Reason::Unsupported,
            format!(
                "{instance} is {engine} and has no backups: only redis and valkey on ElastiCache have; delete this backup"
            ),
        ),
        Source::Ready(target) => Decision {
            snapshot: Some(name.to_owned()),
            ..say(
                Next::Take(target.clone()),
                Progress::Reconciling,
                Reason::Snapshotting,
                format!("asking ElastiCache for snapshot {name} of {}", target.id),
            )
        },
    }
}

fn removed(
    backup: &CacheBackup,
    name: &str,
    found: Option<&Snapshot>,
    now: Timestamp,
    say: &impl Fn(Next, Progress, Reason, String) -> Decision,
) -> Decision {
    let keep = backup.spec.deletion_policy == BackupDeletionPolicy::Retain;
    let (next, message) = match found.map(|found| &found.state) {
        None if may_appear(backup, now) => (
            Next::Wait,
            format!("there is no snapshot {name}; it may have been asked for a moment ago and is looked for once more"),
        ),
        None => (Next::Release, String::new()),
        Some(_) if keep => (Next::Release, String::new()),
        Some(SnapshotState::Available | SnapshotState::Failed(_)) => {
            (Next::Delete, format!("asking ElastiCache to delete snapshot {name}"))
        }
        Some(SnapshotState::Busy) => (
            Next::Wait,
            format!("snapshot {name} is busy; ElastiCache deletes it once it is complete"),
        ),
        Some(SnapshotState::Deleting) => (Next::Wait, format!("snapshot {name} is being deleted")),
    };
    say(next, Progress::Reconciling, Reason::Deleting, message)
}

/// Whether a snapshot that was to be taken and was never seen may appear yet. Nobody asks for it since its backup is being
/// deleted.
fn may_appear(backup: &CacheBackup, now: Timestamp) -> bool {
    let asked = |status: &CacheBackupStatus| status.snapshot.is_some() && status.seen != Some(true);
    let lands = SignedDuration::try_from(LANDS).unwrap_or(SignedDuration::MAX);
    let is_recent = |since: &Time| now.duration_since(since.0) < lands;
    backup.spec.snapshot.is_none()
        && backup.status.as_ref().is_some_and(asked)
        && backup.metadata.deletion_timestamp.as_ref().is_some_and(is_recent)
}

/// The status that says a decision.
fn status(backup: &CacheBackup, decision: &Decision, found: Option<&Snapshot>, now: Timestamp) -> CacheBackupStatus {
    let before = backup.status.clone().unwrap_or_default();
    let generation = backup.metadata.generation.unwrap_or_default();
    let source = match &decision.next {
        Next::Take(target) => Some(target.id.clone()),
        _ => None,
    };
    let complete =
        (decision.progress == Progress::Ready).then(|| Time(found.and_then(|found| found.created).unwrap_or(now)));
    CacheBackupStatus {
        observed_generation: Some(generation),
        conditions: conditions::standard(
            &before.conditions,
            decision.progress,
            decision.reason,
            &decision.message,
            generation,
            now,
        ),
        snapshot: decision.snapshot.clone().or(before.snapshot),
        seen: decision.seen.then_some(true),
        source: found
            .and_then(|found| found.source.clone())
            .or(source)
            .or(before.source),
        engine: found
            .and_then(|found| EngineType::named(found.engine.as_deref()?))
            .or(before.engine),
        version: found.and_then(|found| found.version.clone()).or(before.version),
        size: found.and_then(|found| found.size.clone()).or(before.size),
        completed_at: before.completed_at.or(complete),
    }
}

#[cfg(test)]
#[path = "backups_tests.rs"]
mod tests;
