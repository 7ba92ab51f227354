//! The end of a cache.

use super::super::{Cluster, Decision, Desired, Existence, Place, Record, Report};
use super::access::{self, Removal};
use super::{Observed, Ownership, Phase, Step};
use crate::api::conditions::{Progress, Reason};
use crate::api::{DeletionPolicy, EngineType};
use crate::provider::secrets::{self, SecretStep};
use crate::provider::users::LOOK_AGAIN;

/// What to do next about a cache that is to go.
pub fn remove(desired: &Desired, observed: &Observed) -> Decision<Step> {
    let mut place = observed.place.clone();
    if observed.ownership == Ownership::Ours
        && let Some(live) = &observed.live
    {
        place.arn.clone_from(&live.arn);
    }
    let id = place.target.id.clone();
    let deleting = |message: String| {
        let record = Record {
            serving: Some(Place::ElastiCache(place.clone())),
            ..desired.record.clone()
        };
        Report::new(Progress::Reconciling, Reason::Deleting, message, record)
    };
    let (policy, secrets) = match desired.existence {
        Existence::Absent(policy) => (policy, secrets::owned(desired, &observed.secrets)),
        Existence::Present | Existence::Superseded => (DeletionPolicy::Delete, Vec::new()),
    };
    if let Some(left) = observed.may_appear {
        let message = format!("{id} is not there; it may have been asked for a moment ago and is looked for once more");
        return Decision::rest(deleting(message)).after(left);
    }
    let Some(live) = &observed.live else {
        if let (Existence::Absent(_), Some(access)) = (desired.existence, &observed.access) {
            match access::removal(access) {
                Removal::Do(step) => {
                    return Decision::act(Step::Users(step), deleting("deleting its users".to_owned()));
                }
                Removal::Wait => {
                    let report = deleting("waiting for the end of its users in ElastiCache".to_owned());
                    return Decision::rest(report).after(LOOK_AGAIN);
                }
                Removal::Done => {}
            }
        }
        // Not left to the cluster's garbage collector: who is told that the cache is gone may count on its password
        // being gone.
        return if secrets.is_empty() {
            Decision::release(deleting("nothing is left".to_owned()))
        } else {
            let message = format!("deleting the Secrets {}", secrets.join(", "));
            Decision::act(Step::Secret(SecretStep::Delete(secrets)), deleting(message))
        };
    };
    if !is_ours(desired, &place, observed) {
        return Decision::release(deleting(format!("{id} is somebody else's and stays")));
    }
    // What never answered holds nobody's data, unless it was somebody's before.
    let policy = if desired.was_ready || desired.adopt.is_some() {
        policy
    } else {
        DeletionPolicy::Delete
    };
    if policy == DeletionPolicy::Retain {
        // Tags that cannot be read say nothing, also in the moments after this one was written.
        let tagged = !matches!(observed.ownership, Ownership::Ours | Ownership::Unreadable);
        match (&live.phase, &live.arn) {
            _ if tagged => {}
            (Phase::Available, Some(arn)) => {
                let step = Step::Release { arn: arn.clone() };
                return Decision::act(step, deleting(format!("tagging {id} as let go")));
            }
            (Phase::Creating | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting, _) => {
                let message = format!("{id} is busy; it is tagged as let go once it is available");
                return Decision::rest(deleting(message));
            }
            (Phase::Unknown(status), _) => {
                let message = format!(
                    "{id} has the status {status:?}, which is not known; it is tagged as let go once it is available"
                );
                return Decision::rest(deleting(message));
            }
            // Neither takes tags again by waiting.
            (Phase::Deleting | Phase::Failed(_), _) | (Phase::Available, None) => {}
        }
        // The only copy of its password is there.
        return if secrets.is_empty() {
            Decision::release(deleting(format!("{id} is left as it stands")))
        } else {
            let message = format!("letting go of the Secrets {}", secrets.join(", "));
            Decision::act(Step::Secret(SecretStep::Disown(secrets)), deleting(message))
        };
    }
    match &live.phase {
        Phase::Available | Phase::Failed(_) => {
            let snapshots = desired.plan.engine.type_ != EngineType::Memcached;
            let final_snapshot = (policy == DeletionPolicy::Snapshot && snapshots).then(|| format!("{id}-final"));
            let message = match (&final_snapshot, policy) {
                (Some(snapshot), _) => format!("asking ElastiCache to delete {id} and to leave snapshot {snapshot}"),
                (None, DeletionPolicy::Snapshot) => {
                    format!("asking ElastiCache to delete {id}, without a snapshot: memcached has none")
                }
                (None, _) => format!("asking ElastiCache to delete {id}"),
            };
            let step = Step::Delete {
                target: place.target.clone(),
                final_snapshot,
            };
            Decision::act(step, deleting(message))
        }
        Phase::Deleting => Decision::rest(deleting(format!("{id} is being deleted"))),
        Phase::Creating | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting => Decision::rest(deleting(
            format!("{id} is busy; ElastiCache deletes it once it is available"),
        )),
        Phase::Unknown(status) => Decision::rest(deleting(format!(
            "{id} has the status {status:?}, which is not known; waiting for another"
        ))),
    }
}

/// Whether a cache may be deleted: tags or an earlier proof say that it is ours, or its id does, which follows from the
/// uid of the instance. One that was to be taken over is ours only once it was proven.
fn is_ours(desired: &Desired, place: &Cluster, observed: &Observed) -> bool {
    let derived = !desired.adopts(&place.target.id);
    match observed.ownership {
        Ownership::Foreign => place.arn.is_some() && derived,
        Ownership::Ours => true,
        Ownership::Unowned | Ownership::Unreadable => derived || place.arn.is_some(),
    }
}
