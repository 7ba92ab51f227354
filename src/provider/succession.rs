//! One cache takes another's place: the new one is made beside the old one, which serves until the new one answers and is
//! deleted after a time of grace.
//!
//! A replacement is on record before it is made. It is given up when it is not wanted any more: the plan was put back, or
//! it would have to be replaced itself.

use jiff::{SignedDuration, Timestamp};

use super::elasticache::Phase;
use super::seeding::{Seeding, drop_seed, seeding};
use super::window::{Leave, Window};
use super::{
    Cluster, Decision, Desired, Existence, Next, Observed, Place, Record, Report, Seen, Step, Superseded, Switches,
    elasticache, kubernetes, secrets,
};
use crate::api::conditions::{Progress, Reason};
use crate::api::{EngineType, ProviderKind, ProviderSpec, annotations};

/// What to do next for an instance. Pure: it does no I/O.
pub fn decide(switches: &Switches, desired: &Desired, observed: &Observed, now: Timestamp) -> Decision<Step> {
    match desired.existence {
        Existence::Present => present(switches, desired, observed, now),
        Existence::Absent(_) | Existence::Superseded => absent(switches, desired, observed),
    }
}

/// The instance as one of its caches sees it.
fn seen_from(desired: &Desired, place: Option<Place>, existence: Existence) -> Desired {
    let mut desired = desired.clone();
    desired.record.serving = place;
    desired.existence = existence;
    desired
}

fn present(switches: &Switches, desired: &Desired, observed: &Observed, now: Timestamp) -> Decision<Step> {
    match (&desired.record.replacement, &observed.replacement) {
        (Some(place), Some(seen)) => replacing(switches, desired, observed, place, seen, now),
        _ => match moving(desired, &observed.serving) {
            Some(to) => begin_move(switches, desired, to, now),
            None => {
                let decision = decide_at(switches, desired, &observed.serving, now);
                match decision.step {
                    Next::Replace => begin(switches, desired, decision.report),
                    Next::Rest => tidy(switches, desired, observed, decision, now),
                    _ => decision,
                }
            }
        },
    }
}

/// The provider that an instance is to move to.
fn moving(desired: &Desired, serving: &Seen) -> Option<ProviderKind> {
    let to = desired.plan.provider()?.kind();
    let from = match serving {
        Seen::Kubernetes(_) => ProviderKind::Kubernetes,
        Seen::ElastiCache(_) => ProviderKind::ElastiCache,
        Seen::Disabled(kind) => *kind,
    };
    (desired.record.serving.is_some() && from != to).then_some(to)
}

fn begin_move(switches: &Switches, desired: &Desired, to: ProviderKind, now: Timestamp) -> Decision<Step> {
    let report = |progress, reason, message: String| {
        Report::new(progress, reason, message, desired.record.clone()).publishing(&desired.published)
    };
    if !switches.enabled(to) {
        return disabled(desired, to);
    }
    let window = match desired.plan.provider() {
        Some(ProviderSpec::ElastiCache(spec)) => spec.maintenance_window.as_deref(),
        Some(ProviderSpec::Kubernetes(spec)) => spec.maintenance_window.as_deref(),
        None => None,
    };
    let why = format!("its plan moves it to {}", to.as_str());
    match Leave::of(desired.consent, window.and_then(Window::parse), now) {
        Leave::Granted => {
            let message = format!("making another cache beside the old one: {why}");
            begin(
                switches,
                desired,
                report(Progress::ReadyAndReconciling, Reason::Updating, message),
            )
        }
        Leave::At(at) => {
            let message = format!("it waits until its maintenance window opens at {at}: {why}, where it begins empty");
            Decision::rest(report(
                Progress::ReadyAndReconciling,
                Reason::AwaitingMaintenance,
                message,
            ))
            .no_later_than(at, now)
        }
        Leave::OnConsent => {
            let message = format!(
                "{why}, where it begins empty: annotate it with {}=true to allow that",
                annotations::APPROVE_DISRUPTION
            );
            Decision::rest(report(
                Progress::ReadyAndReconciling,
                Reason::AwaitingMaintenance,
                message,
            ))
        }
    }
}

/// Puts a replacement on record.
fn begin(switches: &Switches, desired: &Desired, report: Report) -> Decision<Step> {
    let place = match (desired.plan.provider(), &switches.elasticache) {
        (Some(ProviderSpec::ElastiCache(_)), Some(defaults)) => {
            let generation = report.record.newest_generation().map_or(0, |newest| newest + 1);
            Place::ElastiCache(Cluster {
                target: elasticache::Target {
                    topology: desired.plan.topology(),
                    id: elasticache::provider_id(&defaults.name_prefix, &desired.uid, generation),
                },
                arn: None,
                generation,
                tagged: elasticache::Tagged::default(),
            })
        }
        _ => Place::Kubernetes,
    };
    let record = Record {
        replacement: Some(place),
        ..report.record.clone()
    };
    Decision::rest(Report { record, ..report }).now()
}

fn replacing(
    switches: &Switches,
    desired: &Desired,
    observed: &Observed,
    place: &Place,
    seen: &Seen,
    now: Timestamp,
) -> Decision<Step> {
    if let Some(unwanted) = unwanted(desired, observed, place, seen) {
        // Applications are there already: what comes next begins from it.
        if is_published(desired, seen) {
            let message = "another cache has taken its place".to_owned();
            let record = Record {
                token: None,
                ..desired.record.clone()
            };
            let report = Report::new(Progress::ReadyAndReconciling, Reason::Updating, message, record);
            return switch(desired, Some(place.clone()), report.publishing(&desired.published), now);
        }
        let going = seen_from(desired, Some(place.clone()), Existence::Superseded);
        let decision = decide_at(switches, &going, seen, now);
        let message = format!("giving up the replacement: {unwanted}");
        let mut record = desired.record.clone();
        let seed = place
            .cluster()
            .map(|cluster| elasticache::seed_name(&cluster.target.id));
        if decision.step == Next::Release
            && let Some(seed) = drop_seed(observed, |name| Some(name) == seed.as_ref())
        {
            let report = Report::new(Progress::ReadyAndReconciling, Reason::Updating, message, record)
                .publishing(&desired.published);
            return seed.into_decision(report);
        }
        if decision.step == Next::Release {
            record.replacement = None;
        }
        let report = Report::new(Progress::ReadyAndReconciling, Reason::Updating, message, record)
            .publishing(&desired.published);
        return match decision.step {
            Next::Act(step) => Decision::act(step, report),
            Next::Release => Decision::rest(report).now(),
            Next::Rest | Next::Replace => Decision {
                again: decision.again,
                ..Decision::rest(report)
            },
        };
    }
    if let Some(decision) = make_room(switches, desired, observed, place, now) {
        return decision;
    }
    let mut fresh = seen_from(desired, Some(place.clone()), Existence::Present);
    // It never answered, and nothing is taken over a second time.
    fresh.was_ready = false;
    fresh.adopt = None;
    fresh.record.token = None;
    let restoring = desired.restore.is_some() && desired.record.restored_from.as_ref() != restored(desired);
    if !restoring {
        fresh.restore = None;
    }
    fresh.record.restored_from = restored(desired).cloned();
    if !restoring {
        match seeding(desired, observed, place, seen) {
            Seeding::Empty => {}
            Seeding::From(name) => fresh.seed = Some(name),
            Seeding::Waiting(decision) => return *decision,
        }
    }
    let decision = decide_at(switches, &fresh, seen, now);
    let made = decision.report.record.serving.clone();
    if decision.step == Next::Rest && decision.report.progress == Progress::Ready {
        return switch(desired, made, decision.report, now);
    }
    let (progress, reason) = match (decision.report.progress, desired.was_ready) {
        (Progress::Stalled, _) => (Progress::Stalled, decision.report.reason),
        (_, true) if restoring => (Progress::ReadyAndReconciling, Reason::Restoring),
        (_, true) => (Progress::ReadyAndReconciling, Reason::Updating),
        (_, false) => (Progress::Reconciling, Reason::Creating),
    };
    let message = format!(
        "another cache is made to take its place, and the old one goes on serving: {}",
        decision.report.message
    );
    let record = Record {
        replacement: made.or_else(|| Some(place.clone())),
        unknown_since: decision.report.record.unknown_since,
        ..desired.record.clone()
    };
    let report = Report::new(progress, reason, message, record).publishing(&desired.published);
    Decision {
        step: match decision.step {
            Next::Act(step) => Next::Act(step),
            Next::Rest | Next::Release | Next::Replace => Next::Rest,
        },
        report,
        again: decision.again,
    }
}

fn restored(desired: &Desired) -> Option<&String> {
    desired.restore.as_ref().map(|restore| &restore.backup)
}

/// Whether the connection Secret sends applications to a replacement.
fn is_published(desired: &Desired, replacement: &Seen) -> bool {
    let secret = match replacement {
        Seen::Kubernetes(seen) => &seen.secrets,
        Seen::ElastiCache(seen) => &seen.secrets,
        Seen::Disabled(_) => return false,
    }
    .get(&desired.connection_secret);
    let says = |key: &str| secret.and_then(|secret| secrets::value(secret, key));
    match replacement {
        Seen::ElastiCache(seen) => {
            let host = seen.live.as_ref().and_then(|live| live.endpoint.as_ref());
            let there = seen.live.as_ref().is_some_and(|live| live.phase != Phase::Deleting);
            there && host.is_some_and(|endpoint| says("host").as_deref() == Some(&endpoint.host))
        }
        // What is replaced by a cache in the cluster is none itself.
        Seen::Kubernetes(_) => says("provider").as_deref() == Some(ProviderKind::Kubernetes.as_str()),
        Seen::Disabled(_) => false,
    }
}

/// In the cluster all caches of an instance stand under its name. If it was there before, what is left of that goes before
/// the next is made, which begins empty: what it held is as old as the move away.
fn make_room(
    switches: &Switches,
    desired: &Desired,
    observed: &Observed,
    place: &Place,
    now: Timestamp,
) -> Option<Decision<Step>> {
    if *place != Place::Kubernetes {
        return None;
    }
    let mut superseded = desired.record.superseded.iter();
    let nth = superseded.position(|superseded| superseded.place == *place)?;
    let message = "what it had in the cluster before goes first".to_owned();
    let report = Report::new(
        Progress::ReadyAndReconciling,
        Reason::Updating,
        message,
        desired.record.clone(),
    )
    .publishing(&desired.published);
    let Some(seen) = observed.superseded.get(nth) else {
        return Some(Decision::rest(report).now());
    };
    let going = seen_from(desired, Some(place.clone()), Existence::Superseded);
    Some(removing(nth, decide_at(switches, &going, seen, now), report))
}

/// The removal of what was superseded, the `nth` of them, as the step of an instance that says something else.
fn removing(nth: usize, removal: Decision<Step>, mut report: Report) -> Decision<Step> {
    match removal.step {
        Next::Act(step) => Decision::act(step, report),
        Next::Release => {
            report.record.superseded.remove(nth);
            Decision::rest(report).now()
        }
        Next::Rest | Next::Replace => Decision {
            again: removal.again,
            ..Decision::rest(report)
        },
    }
}

/// Why a replacement is not wanted any more.
fn unwanted(desired: &Desired, observed: &Observed, place: &Place, seen: &Seen) -> Option<String> {
    let plan = desired.plan.provider()?;
    if place.provider() != plan.kind() {
        return Some("its plan is of another provider now".to_owned());
    }
    let ProviderSpec::ElastiCache(spec) = plan else {
        return None;
    };
    // One that is going, or cannot become what is wanted now, is made anew under another id.
    if let Seen::ElastiCache(seen) = seen {
        let going = match &seen.live {
            Some(live) => live.phase == Phase::Deleting,
            None => seen.place.arn.is_some(),
        };
        if going {
            return Some("it is being deleted".to_owned());
        }
    }
    if let Seen::ElastiCache(seen) = seen
        && let Some(live) = &seen.live
    {
        let mut fresh = desired.clone();
        fresh.restore = None;
        if let Some(why) = elasticache::must_replace(&fresh, spec, live) {
            return Some(format!("it does not fit any more, {why}"));
        }
    }
    match &observed.serving {
        Seen::ElastiCache(serving) => match &serving.live {
            Some(live) if elasticache::must_replace(desired, spec, live).is_none() => {
                Some("the old one is as wanted".to_owned())
            }
            _ => None,
        },
        Seen::Kubernetes(_) | Seen::Disabled(_) => None,
    }
}

/// The new cache answers, and the connection Secret says so.
fn switch(desired: &Desired, made: Option<Place>, report: Report, now: Timestamp) -> Decision<Step> {
    let mut superseded = desired.record.superseded.clone();
    if let Some(place) = desired.record.serving.clone() {
        let grace = SignedDuration::try_from(desired.grace).unwrap_or(SignedDuration::MAX);
        superseded.push(Superseded {
            place,
            since: now,
            until: now.checked_add(grace).unwrap_or(Timestamp::MAX),
        });
    }
    let record = Record {
        serving: made,
        replacement: None,
        superseded,
        restored_from: restored(desired)
            .cloned()
            .or_else(|| desired.record.restored_from.clone()),
        restart: None,
        users: report.record.users.clone(),
        user_group: report.record.user_group.clone(),
        token: report.record.token.clone(),
        unknown_since: None,
        restarted_at: desired
            .restart_at
            .filter(|at| *at <= now)
            .or(desired.record.restarted_at),
    };
    Decision::rest(Report { record, ..report }).now()
}

/// Deletes what was superseded, once its time is over and all else is at rest.
fn tidy(
    switches: &Switches,
    desired: &Desired,
    observed: &Observed,
    decision: Decision<Step>,
    now: Timestamp,
) -> Decision<Step> {
    let Some((nth, oldest)) = desired
        .record
        .superseded
        .iter()
        .enumerate()
        .min_by_key(|(_, superseded)| superseded.until)
    else {
        return decision;
    };
    let until = if desired.release_superseded { now } else { oldest.until };
    if until > now {
        let message = format!(
            "{}; the cache before it is kept until {until} for those who still use it",
            decision.report.message
        );
        return Decision {
            report: Report {
                message,
                ..decision.report.clone()
            },
            ..decision
        }
        .no_later_than(until, now);
    }
    let Some(seen) = observed.superseded.get(nth) else {
        return decision.now();
    };
    // What serves is never what it superseded.
    if desired.record.serving.as_ref() == Some(&oldest.place) {
        let mut report = decision.report;
        report.record.superseded.remove(nth);
        return Decision::rest(report).now();
    }
    let going = seen_from(desired, Some(oldest.place.clone()), Existence::Superseded);
    let removal = decide_at(switches, &going, seen, now);
    // What the one that serves was filled from is of no more use than the old one is.
    if removal.step == Next::Release
        && let Some(seed) = drop_seed(observed, |_| true)
    {
        return seed.into_decision(decision.report);
    }
    removing(nth, removal, decision.report)
}

/// Deletes all of an instance's caches: those beside the serving one first, since nobody asks to keep them.
fn absent(switches: &Switches, desired: &Desired, observed: &Observed) -> Decision<Step> {
    let beside = desired.record.replacement.iter().zip(&observed.replacement).chain(
        desired
            .record
            .superseded
            .iter()
            .map(|superseded| &superseded.place)
            .zip(&observed.superseded),
    );
    for (place, seen) in beside {
        let going = seen_from(desired, Some(place.clone()), Existence::Superseded);
        let decision = remove_at(switches, &going, seen);
        if decision.step != Next::Release {
            let report = Report::new(
                Progress::Reconciling,
                Reason::Deleting,
                decision.report.message,
                desired.record.clone(),
            );
            return Decision { report, ..decision };
        }
    }
    if let Some(seed) = drop_seed(observed, |_| true) {
        let message = "deleting the snapshot that a cache was filled from".to_owned();
        let report = Report::new(Progress::Reconciling, Reason::Deleting, message, desired.record.clone());
        return seed.into_decision(report);
    }
    remove_at(switches, desired, &observed.serving)
}

fn remove_at(switches: &Switches, desired: &Desired, seen: &Seen) -> Decision<Step> {
    match seen {
        Seen::ElastiCache(seen) => elasticache::remove(desired, seen).map(Step::ElastiCache),
        Seen::Kubernetes(seen) => kubernetes::remove(desired, seen).map(Step::Kubernetes),
        Seen::Disabled(kind) => {
            debug_assert!(!switches.enabled(*kind), "what is switched on is observed");
            disabled(desired, *kind)
        }
    }
}

/// What to do next about one of the instance's caches, looked at alone.
fn decide_at(switches: &Switches, desired: &Desired, seen: &Seen, now: Timestamp) -> Decision<Step> {
    if desired.existence != Existence::Present {
        return remove_at(switches, desired, seen);
    }
    match (seen, desired.plan.provider()) {
        (Seen::Kubernetes(_), Some(ProviderSpec::Kubernetes(_))) if desired.restore.is_some() => unsupported(
            desired,
            "a cache in the cluster has no backups: take spec.restore back".to_owned(),
        ),
        (Seen::Kubernetes(seen), Some(ProviderSpec::Kubernetes(_)))
            if desired.adopt.is_some()
                && desired.record.serving.is_none()
                && !kubernetes::adopt::is_done(desired, seen) =>
        {
            kubernetes::adopt::take_over(desired, seen).map(Step::Kubernetes)
        }
        (Seen::Kubernetes(seen), Some(ProviderSpec::Kubernetes(spec))) => match &switches.kubernetes {
            Some(placement) => kubernetes::decide(desired, spec, placement, seen, now).map(Step::Kubernetes),
            None => disabled(desired, ProviderKind::Kubernetes),
        },
        (Seen::ElastiCache(_), Some(ProviderSpec::ElastiCache(_)))
            if desired.restore.is_some() && desired.plan.engine.type_ == EngineType::Memcached =>
        {
            unsupported(desired, "memcached has no backups: take spec.restore back".to_owned())
        }
        (Seen::ElastiCache(seen), Some(ProviderSpec::ElastiCache(spec))) => match &switches.elasticache {
            Some(defaults) => elasticache::present(desired, spec, defaults, seen, now).map(Step::ElastiCache),
            None => disabled(desired, ProviderKind::ElastiCache),
        },
        (Seen::Disabled(kind), _) => disabled(desired, *kind),
        (Seen::Kubernetes(_), _) => disabled(desired, ProviderKind::Kubernetes),
        (Seen::ElastiCache(_), _) => disabled(desired, ProviderKind::ElastiCache),
    }
}

fn unsupported(desired: &Desired, message: String) -> Decision<Step> {
    let report = Report::new(Progress::Stalled, Reason::Unsupported, message, desired.record.clone());
    Decision::rest(report.publishing(&desired.published))
}

fn disabled(desired: &Desired, kind: ProviderKind) -> Decision<Step> {
    let variable = match kind {
        ProviderKind::ElastiCache => "AWS_REGION",
        ProviderKind::Kubernetes => "USE_KUBERNETES=true",
    };
    let what = match desired.existence {
        Existence::Present => "made",
        Existence::Absent(_) | Existence::Superseded => "deleted",
    };
    let message = format!(
        "it is made by {}, which the operator's settings switch off: nothing is {what} until {variable} is set",
        kind.as_str()
    );
    let report = Report::new(
        Progress::Stalled,
        Reason::ProviderDisabled,
        message,
        desired.record.clone(),
    );
    Decision::rest(report.publishing(&desired.published))
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
