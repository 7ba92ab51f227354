//! What a cache that takes another's place is filled from: a snapshot of the old one, which is deleted along with it.

use std::time::Duration;

use super::elasticache::{self, Phase, SnapshotState};
use super::{Decision, Desired, Next, Observed, Place, Report, Seen, Step};
use crate::api::ProviderSpec;
use crate::api::conditions::{Progress, Reason};

/// How often such a snapshot is looked at while it is taken or deleted.
pub(super) const SEED_POLL: Duration = Duration::from_secs(3);

/// What a replacement is filled from.
pub(super) enum Seeding {
    /// Nothing: the old cache has no snapshots, or is not there; or the new one was made already.
    Empty,
    /// This snapshot of the old one.
    From(String),
    /// That snapshot, which is not complete yet.
    Waiting(Box<Decision<Step>>),
}

/// What a replacement that is not made yet is filled from: a snapshot of the cache that serves.
pub(super) fn seeding(desired: &Desired, observed: &Observed, place: &Place, seen: &Seen) -> Seeding {
    let (Some(ProviderSpec::ElastiCache(spec)), Some(cluster)) = (desired.plan.provider(), place.cluster()) else {
        return Seeding::Empty;
    };
    let (Seen::ElastiCache(made), Seen::ElastiCache(serving)) = (seen, &observed.serving) else {
        return Seeding::Empty;
    };
    let Some(live) = serving
        .live
        .as_ref()
        .filter(|_| made.live.is_none() && desired.was_ready)
    else {
        return Seeding::Empty;
    };
    if matches!(live.phase, Phase::Failed(_) | Phase::Deleting) || elasticache::can_seed(desired, spec, live).is_err() {
        return Seeding::Empty;
    }
    let name = elasticache::seed_name(&cluster.target.id);
    let of = &serving.place.target;
    let report = |doing: String| {
        let message = format!("another cache is made to take its place, and the old one goes on serving: {doing}");
        let record = desired.record.clone();
        Report::new(Progress::ReadyAndReconciling, Reason::Updating, message, record).publishing(&desired.published)
    };
    let decision = match observed.seeds.get(&name) {
        Some(SnapshotState::Available) => return Seeding::From(name),
        Some(SnapshotState::Failed(state)) => {
            let doing = format!("snapshot {name} is {state} and is taken anew");
            let step = Step::ElastiCache(elasticache::Step::DropSeed { name });
            Decision::act(step, report(doing))
        }
        Some(SnapshotState::Busy) => Decision::rest(report(format!("snapshot {name} of it is being taken"))),
        Some(SnapshotState::Deleting) => Decision::rest(report(format!("snapshot {name} is being deleted"))),
        None if live.phase == Phase::Available => {
            let doing = format!("asking ElastiCache for snapshot {name} of {}", of.id);
            let of = of.clone();
            Decision::act(
                Step::ElastiCache(elasticache::Step::TakeSeed { name, of }),
                report(doing),
            )
        }
        None => Decision::rest(report(format!(
            "{} is busy; its snapshot is taken once it is available",
            of.id
        ))),
    };
    // ElastiCache tells of snapshots only when it is asked.
    Seeding::Waiting(Box::new(match decision.step {
        Next::Rest => decision.after(SEED_POLL),
        _ => decision,
    }))
}

/// What is to be done about a snapshot that nothing is filled from any more.
pub(super) enum Drop {
    Delete(String),
    /// It is busy, or being deleted.
    Wait,
}

impl Drop {
    pub(super) fn into_decision(self, report: Report) -> Decision<Step> {
        match self {
            Self::Delete(name) => Decision::act(Step::ElastiCache(elasticache::Step::DropSeed { name }), report),
            Self::Wait => Decision::rest(report).after(SEED_POLL),
        }
    }
}

/// The next of the snapshots to be deleted whose names are picked.
pub(super) fn drop_seed(observed: &Observed, pick: impl Fn(&String) -> bool) -> Option<Drop> {
    let (name, state) = observed.seeds.iter().find(|(name, _)| pick(name))?;
    Some(match state {
        SnapshotState::Available | SnapshotState::Failed(_) => Drop::Delete(name.clone()),
        SnapshotState::Busy | SnapshotState::Deleting => Drop::Wait,
    })
}
