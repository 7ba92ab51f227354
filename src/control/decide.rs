//! What an instance asks for: pure functions over resources.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::status::{carried, published};
use super::status_record::record;
use crate::api::conditions::{Progress, Reason};
use crate::api::{
    CacheInstance, CachePlanSpec, DeletionPolicy, EngineType, FINALIZER, Order, PlanRef, PlanStatus, ProviderKind,
    Topology, annotations, compare_versions, effective,
};
use crate::provider::users::UserRef;
use crate::provider::{Consent, Desired, Existence, Report, RestoreFrom};

/// A revision of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanRevision {
    /// The plan's name.
    pub name: String,
    /// The revision.
    pub revision: i64,
    /// The plan as it was then.
    pub spec: CachePlanSpec,
}

/// What was found under an instance's plan reference.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanLookup {
    /// The revision it runs from, or is to run from.
    Found(Arc<PlanRevision>),
    /// There is no such plan, or its first revision is not recorded yet.
    NoPlan,
    /// There is no such revision of it.
    NoRevision(i64),
}

/// What was found under the backup that an instance is to be filled from.
#[derive(Clone, Debug, PartialEq)]
pub enum BackupLookup {
    /// It names none.
    NotAsked,
    /// There is no such backup.
    Missing,
    /// It cannot be used yet.
    NotReady,
    /// It failed and will never be.
    Failed(String),
    /// It can be used.
    Ready {
        /// The snapshot's name in the provider.
        snapshot: String,
        /// The engine it was taken of.
        engine: EngineType,
    },
}

/// The first thing to do about an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// Nothing: it is being deleted and we do not hold it.
    Nothing,
    /// Take hold of it before anything is made.
    AddFinalizer,
    /// Say this, and wait.
    Say(Box<Report>),
    /// Let it go: nothing was ever made for it.
    LetGo,
    /// Bring about what it asks for.
    Proceed(Box<Desired>),
}

/// The revision of its plan that an instance is pinned to: by its spec, else by the annotation that moves it, else by
/// what it ran from before.
pub fn pinned_revision(instance: &CacheInstance) -> Option<i64> {
    let moved = || asked_revision(instance).filter(|_| unheeded_revision(instance).is_none());
    let before = || {
        let plan = running_plan(instance)?;
        (plan.name == instance.spec.plan_ref.name).then_some(plan.revision)
    };
    instance.spec.plan_ref.revision.or_else(moved).or_else(before)
}

/// The revision that the annotation of an instance asks for, where that was meant for another plan than the present one: it
/// stands since the instance was moved here.
pub fn unheeded_revision(instance: &CacheInstance) -> Option<i64> {
    let plan = running_plan(instance)?;
    let is_moved = plan.name != instance.spec.plan_ref.name;
    asked_revision(instance).filter(|asked| is_moved || plan.unheeded_revision == Some(*asked))
}

fn asked_revision(instance: &CacheInstance) -> Option<i64> {
    instance.annotation(annotations::UPDATE_TO_REVISION)?.parse().ok()
}

fn running_plan(instance: &CacheInstance) -> Option<&PlanStatus> {
    instance.status.as_ref()?.plan.as_ref()
}

/// Whether changes that lose data may be made whenever they are due.
fn consent(instance: &CacheInstance) -> Consent {
    // Over OSB asking is consent: what must not be done without more was refused there.
    if is_allowed(instance, annotations::APPROVE_DISRUPTION) || is_as_ordered(instance) {
        Consent::Given
    } else {
        Consent::Withheld
    }
}

/// Whether what an instance asks for was ordered over OSB. What somebody else wrote into the spec since was not.
fn is_as_ordered(instance: &CacheInstance) -> bool {
    let unchanged = instance
        .annotation(annotations::LEDGER_SPEC)
        .is_none_or(|digest| digest == instance.spec.digest());
    let seen = instance.status.as_ref().and_then(|status| status.ledger_revision);
    let put_back = seen.is_some_and(|seen| instance.ledger_revision().is_none_or(|revision| revision < seen));
    unchanged && !put_back && instance.annotation(annotations::INSTANCE_ID).is_some()
}

/// The OSB id of an instance whose deletion a platform did not ask for. What never became ready holds nobody's data.
fn held_for_platform(instance: &CacheInstance) -> Option<&str> {
    let id = instance.annotation(annotations::INSTANCE_ID)?;
    let was_ready = instance
        .status
        .as_ref()
        .is_some_and(|status| status.first_ready_time.is_some());
    let approved = instance.annotation(annotations::APPROVE_DELETION) == Some("true");
    (was_ready && !approved).then_some(id)
}

/// Whether an annotation allows something for good, or for the present generation.
fn is_allowed(instance: &CacheInstance, annotation: &str) -> bool {
    let generation = instance.metadata.generation.unwrap_or_default().to_string();
    instance
        .annotation(annotation)
        .is_some_and(|allowed| allowed == "true" || allowed == generation)
}

/// What an instance asks for.
pub fn open(instance: &CacheInstance, plan: &PlanLookup, backup: &BackupLookup) -> Opening {
    let deleting = instance.metadata.deletion_timestamp.is_some();
    let held = instance.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if deleting && !held {
        return Opening::Nothing;
    }
    if !held {
        return Opening::AddFinalizer;
    }
    let record = record(instance);
    let say = |progress, reason, message: String| {
        Opening::Say(Box::new(carried(
            instance,
            Report::new(progress, reason, message, record.clone()),
        )))
    };
    if instance.annotation(annotations::PAUSED) == Some("true") {
        let what = if deleting {
            "its deletion waits"
        } else {
            "nothing is changed"
        };
        return say(
            Progress::Paused,
            Reason::Paused,
            format!("paused by annotation {}: {what}", annotations::PAUSED),
        );
    }
    if deleting && let Some(id) = held_for_platform(instance) {
        let message = format!(
            "somebody deleted it, but the platform still has it as {id}: it goes on as it is; deprovision it over OSB, or set annotation {}=true to let it go",
            annotations::APPROVE_DELETION
        );
        return say(Progress::Paused, Reason::DeletionHeld, message);
    }
    let revision = match plan {
        PlanLookup::Found(revision) => revision,
        // Nothing is made before a plan is found, and what is made keeps the revision in its status.
        _ if deleting && record.serving.is_none() => return Opening::LetGo,
        _ if deleting => match orphan(instance) {
            Some(revision) => &Arc::new(revision),
            None => {
                let message = "the revision of its plan is lost, and with it what is to become of the data: set spec.deletionPolicy to Delete, Retain or Snapshot, and it is deleted so".to_owned();
                return say(Progress::Stalled, Reason::PlanRevisionNotFound, message);
            }
        },
        PlanLookup::NoPlan => {
            let message = format!(
                "there is no CachePlan {0} yet: create it, or see `kubectl describe cacheplan {0}` if it exists; this goes on by itself then",
                instance.spec.plan_ref.name
            );
            return say(Progress::Reconciling, Reason::PlanNotFound, message);
        }
        PlanLookup::NoRevision(revision) => {
            let message = format!(
                "CachePlan {} has no revision {revision}: correct spec.planRef.revision and annotation {}, or leave both out for the newest",
                instance.spec.plan_ref.name,
                annotations::UPDATE_TO_REVISION
            );
            return say(Progress::Stalled, Reason::PlanRevisionNotFound, message);
        }
    };
    if !deleting && let Some(message) = mismatch(instance, revision) {
        return say(Progress::Stalled, Reason::PlanMismatch, message);
    }
    let is_new = instance.status.as_ref().is_none_or(|status| status.plan.is_none());
    if !deleting && is_new && instance.spec.adopt.is_none() && !revision.spec.state.takes_orders() {
        let message = format!(
            "CachePlan {} takes no new instances any more: choose another",
            revision.name
        );
        return say(Progress::Stalled, Reason::PlanDeprecated, message);
    }
    if !deleting && let Some(message) = without_users(instance, revision) {
        return say(Progress::Stalled, Reason::PlanMismatch, message);
    }
    let restore = match restore(instance, &revision.spec, backup) {
        Ok(restore) => restore,
        Err(_) if deleting => None,
        Err((progress, reason, message)) => return say(progress, reason, message),
    };
    let plan = match effective(&revision.spec, &instance.spec.parameters) {
        Ok(plan) => plan,
        // Parameters that never fitted must not keep it from being deleted.
        Err(_) if deleting => revision.spec.clone(),
        Err(error) => {
            let message = format!("{error}; correct spec.parameters");
            return say(Progress::Stalled, Reason::ParametersInvalid, message);
        }
    };
    let policy = instance
        .spec
        .deletion_policy
        .or(plan.deletion_policy)
        .unwrap_or_default();
    let was_ready = instance
        .status
        .as_ref()
        .is_some_and(|status| status.first_ready_time.is_some());
    // What never became ready holds nobody's data, unless it was somebody's before.
    let policy = if was_ready || instance.spec.adopt.is_some() {
        policy
    } else {
        DeletionPolicy::Delete
    };
    Opening::Proceed(Box::new(Desired {
        namespace: instance.namespace().unwrap_or_default(),
        name: instance.name_any(),
        uid: instance.uid().unwrap_or_default(),
        existence: if deleting {
            Existence::Absent(policy)
        } else {
            Existence::Present
        },
        deleted_at: instance.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        plan_name: revision.name.clone(),
        grace: plan.replace_grace_period(),
        plan,
        owner: instance.spec.owner.clone().unwrap_or_default(),
        connection_secret: instance.connection_secret_name(),
        users: users(instance),
        was_ready,
        consent: consent(instance),
        ordered: is_as_ordered(instance),
        restart_at: instance.spec.restart_at.as_ref().map(|time| whole_seconds(time.0)),
        as_found: as_found(instance, revision),
        adopt: instance.spec.adopt.as_ref().map(|adopt| adopt.provider_id.clone()),
        restore,
        seed: None,
        release_superseded: instance.annotation(annotations::RELEASE_SUPERSEDED) == Some("true"),
        recreate: is_allowed(instance, annotations::RECREATE),
        published: published(instance),
        record,
    }))
}

/// Whether a cache that was taken over stays as it was found: nobody has asked for another plan, revision or parameters
/// since.
fn as_found(instance: &CacheInstance, revision: &PlanRevision) -> bool {
    let found = instance.spec.adopt.as_ref().and_then(|adopt| adopt.as_of.as_ref());
    let same = |found: &PlanRef| {
        found.name == revision.name && found.revision.is_none_or(|number| number == revision.revision)
    };
    found.is_some_and(same) && instance.spec.parameters.is_empty()
}

/// What an instance is to be filled from, or why it cannot be.
fn restore(
    instance: &CacheInstance,
    plan: &CachePlanSpec,
    backup: &BackupLookup,
) -> Result<Option<RestoreFrom>, (Progress, Reason, String)> {
    let Some(restore) = &instance.spec.restore else {
        return Ok(None);
    };
    let name = &restore.backup;
    let done = instance
        .status
        .as_ref()
        .is_some_and(|status| status.restored_from.as_ref() == Some(name));
    let from = |snapshot: String| {
        Ok(Some(RestoreFrom {
            backup: name.clone(),
            snapshot,
        }))
    };
    match backup {
        // It was filled already: what became of the backup since does not matter.
        BackupLookup::NotAsked | BackupLookup::Missing | BackupLookup::NotReady | BackupLookup::Failed(_) if done => {
            from(String::new())
        }
        BackupLookup::Ready { snapshot, engine } if done || may_fill(*engine, plan.engine.type_) => {
            from(snapshot.clone())
        }
        BackupLookup::Ready { engine, .. } => Err((
            Progress::Stalled,
            Reason::BackupMismatch,
            format!(
                "CacheBackup {name} is of {engine} and cannot fill {}: name one of the same engine in spec.restore, or take it back",
                plan.engine.type_
            ),
        )),
        BackupLookup::NotAsked | BackupLookup::Missing => Err((
            Progress::Reconciling,
            Reason::BackupNotReady,
            format!(
                "there is no CacheBackup {name} in this namespace yet: create it, or correct spec.restore; this goes on by itself then"
            ),
        )),
        BackupLookup::NotReady => Err((
            Progress::Reconciling,
            Reason::BackupNotReady,
            format!("waiting for CacheBackup {name} to be ready"),
        )),
        BackupLookup::Failed(why) => Err((
            Progress::Stalled,
            Reason::BackupMismatch,
            format!("CacheBackup {name} failed ({why}): name another in spec.restore, or take it back"),
        )),
    }
}

/// Whether a snapshot of one engine can fill a cache of another: valkey reads what redis wrote.
fn may_fill(of: EngineType, into: EngineType) -> bool {
    of == into && of != EngineType::Memcached || (of, into) == (EngineType::Redis, EngineType::Valkey)
}

/// As much of a lost plan as a deletion needs, if the instance itself says what is to become of its data.
fn orphan(instance: &CacheInstance) -> Option<PlanRevision> {
    instance.spec.deletion_policy?;
    let status = instance.status.as_ref()?;
    let plan = status.plan.as_ref()?;
    let mut spec = json!({
        "service": "", "id": plan.id, "description": "",
        "engine": { "type": plan.engine, "version": plan.version },
    });
    let (provider, part) = match status.provider.unwrap_or(plan.provider) {
        ProviderKind::ElastiCache => ("elasticache", json!({ "nodeType": "" })),
        ProviderKind::Kubernetes => ("kubernetes", json!({ "memory": "64Mi" })),
    };
    spec.as_object_mut()?.insert(provider.to_owned(), part);
    Some(PlanRevision {
        name: plan.name.clone(),
        revision: plan.revision,
        spec: serde_json::from_value(spec).ok()?,
    })
}

/// Why a plan cannot take over an instance that runs from another.
fn mismatch(instance: &CacheInstance, revision: &PlanRevision) -> Option<String> {
    let Some(provider) = revision.spec.provider() else {
        return Some(format!(
            "CachePlan {} names no provider, or two: correct the plan",
            revision.name
        ));
    };
    let status = instance.status.as_ref()?;
    let before = status.plan.as_ref()?;
    if before.name == revision.name && before.revision == revision.revision {
        return None;
    }
    // A plan that it was moved to may name what never came to be: what runs counts, as far as it was seen. In the cluster
    // the image decides, and what it says of itself may be more than its plan's version.
    let running = status.engine.as_ref();
    let seen = running.filter(|_| before.provider == ProviderKind::ElastiCache);
    let from = seen.map_or(before.engine, |running| running.type_);
    let version = running.map_or(&before.version, |running| &running.version);
    let to = revision.spec.engine.type_;
    let elasticache =
        |plan: &CachePlanSpec| plan.topology() == Topology::ReplicationGroup && plan.elasticache.is_some();
    let upgrade = (from, to) == (EngineType::Redis, EngineType::Valkey)
        && before.provider == ProviderKind::ElastiCache
        && status.topology != Some(Topology::CacheCluster)
        && elasticache(&revision.spec);
    let across = before.provider != provider.kind();
    let back = || "put spec.planRef back, or make a new instance; it goes on serving what it served".to_owned();
    if from != to && !upgrade {
        return Some(format!(
            "it runs {from} and cannot move to plan {}, which is {to}: {}",
            revision.name,
            back()
        ));
    }
    if across && to != EngineType::Memcached {
        return Some(format!(
            "it runs by {} and cannot move to plan {}, which is by {}, without losing its data: {}",
            before.provider.as_str(),
            revision.name,
            provider.kind().as_str(),
            back()
        ));
    }
    let users = before.binding_credentials != revision.spec.binding_credentials;
    if users && provider.kind() == ProviderKind::ElastiCache {
        return Some(format!(
            "plan {} has other bindingCredentials, and on ElastiCache those who use it now would be refused: {}",
            revision.name,
            back()
        ));
    }
    let is_newer = |version: &str| compare_versions(version, &revision.spec.engine.version) == Order::Newer;
    let is_back = is_newer(version) && (seen.is_some() || is_newer(&before.version));
    if from == to && to != EngineType::Memcached && is_back {
        return Some(format!(
            "it runs {from} {version} and cannot go back to {} of plan {}: {}",
            revision.spec.engine.version,
            revision.name,
            back()
        ));
    }
    None
}

/// Why an instance cannot have the users that it asks for. It is said before anything is made: nothing is ignored.
fn without_users(instance: &CacheInstance, revision: &PlanRevision) -> Option<String> {
    if instance.spec.users.is_empty() || revision.spec.has_users() {
        return None;
    }
    Some(format!(
        "it asks for users, and CachePlan {} gives all the same credentials: take spec.users back, or move to a plan with bindingCredentials perBinding",
        revision.name
    ))
}

fn users(instance: &CacheInstance) -> Vec<UserRef> {
    let users = instance.spec.users.iter();
    users
        .map(|user| UserRef {
            name: user.name.clone(),
            secret: user.secret_ref.name.clone(),
        })
        .collect()
}

/// A time as the API server keeps it in a status (`metav1.Time`).
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
