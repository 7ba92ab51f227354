//! What is done with a cache that answers, and whose connection Secret says so: it is restarted, changed where it stands,
//! replaced, or as it is wanted.

use jiff::Timestamp;

use super::super::window::{Leave, Window};
use super::super::{Cluster, Decision, Desired, Next, Place, Record, Report};
use super::decide::{View, recorded};
use super::password::{Password, Turn};
use super::plan::{Change, Modification, TokenStrategy, Way, next_change};
use super::restart::{Restarting, restarting};
use super::seed::can_seed;
use super::tags::Tagging;
use super::{Live, Phase, Step};
use crate::api::conditions::{Progress, Reason};
use crate::api::{ElastiCacheSpec, annotations};

/// Whether a live cache can become what is asked for only by another one taking its place, and why.
pub fn must_replace(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<String> {
    if let Some(restore) = desired.restore.as_ref().filter(|_| is_to_be_filled(desired)) {
        return Some(format!("it is to be filled from backup {}", restore.backup));
    }
    next_change(desired, spec, live)
        .filter(|change| change.way == Way::Replace)
        .map(|change| change.what)
}

/// Whether a backup was named that it was not filled from yet.
fn is_to_be_filled(desired: &Desired) -> bool {
    let filled_from = desired.record.restored_from.as_ref();
    let restore = desired.restore.as_ref();
    restore.is_some_and(|restore| filled_from != Some(&restore.backup))
}

/// What was taken over and stays as it was found.
fn as_found(view: &View, spec: &ElastiCacheSpec) -> Decision<Step> {
    let answers = view.answers();
    let message = match next_change(view.desired, spec, view.live) {
        Some(change) => format!(
            "{answers}; it is as it was taken over, and that is otherwise than its plan says: {}; it becomes so with the next update, or once spec.adopt.asOf is taken away",
            change.what
        ),
        None => answers,
    };
    Decision::rest(view.say(Progress::Ready, Reason::Available, message))
}

/// What to do next for a cache that answers, and whose connection Secret says so.
pub(super) fn settled(view: &View, spec: &ElastiCacheSpec) -> Decision<Step> {
    let (desired, live, now) = (view.desired, view.live, view.now);
    let id = &view.place.target.id;
    let busy = match &live.phase {
        Phase::Available => None,
        Phase::Snapshotting => return snapshotting(view, spec),
        Phase::Rebooting => Some((Progress::Reconciling, Reason::Restarting, format!("{id} is rebooting"))),
        _ => Some((
            Progress::ReadyAndReconciling,
            Reason::Updating,
            format!("{id} is being modified"),
        )),
    };
    let mut later = None;
    if matches!(live.phase, Phase::Available | Phase::Rebooting) {
        match restart(view, now) {
            Restart::Nothing => {}
            Restart::Later(at) => later = Some(at),
            Restart::Now(decision) => return *decision,
        }
    }
    let decision = match busy {
        Some((progress, reason, message)) => Decision::rest(view.say(progress, reason, message)),
        None if desired.as_found && !is_to_be_filled(desired) => as_found(view, spec),
        None => match must_replace(desired, spec, live) {
            Some(why) => replaced(view, spec, &why, now),
            None => match next_change(desired, spec, live) {
                Some(change) => changed(view, spec, change, now),
                None if live.config.pending => Decision::rest(view.say(
                    Progress::ReadyAndReconciling,
                    Reason::Updating,
                    format!("a change of {id} waits for its maintenance window in ElastiCache"),
                )),
                None => as_wanted(view),
            },
        },
    };
    match later {
        Some(at) => decision.no_later_than(at, now),
        None => decision,
    }
}

/// A cache of which a snapshot is taken takes no other change meanwhile. It is ready if nothing else would be done: what was
/// asked for has not happened yet.
fn snapshotting(view: &View, spec: &ElastiCacheSpec) -> Decision<Step> {
    let id = &view.place.target.id;
    let calm = Live {
        phase: Phase::Available,
        ..view.live.clone()
    };
    let after = settled(
        &View {
            live: &calm,
            tagging: view.tagging.clone(),
            ..*view
        },
        spec,
    );
    let answers = format!("{id} answers while a snapshot is taken");
    let waits = |what: String| {
        let message = format!("{answers}; after it: {what}");
        Decision::rest(view.say(Progress::ReadyAndReconciling, Reason::Snapshotting, message))
    };
    match (&after.step, after.report.progress) {
        (Next::Rest, Progress::Ready) => Decision {
            report: view.say(Progress::Ready, Reason::Snapshotting, answers),
            ..after
        },
        (Next::Rest, Progress::Stalled) => after,
        _ => waits(after.report.message),
    }
}

/// A cache that is as wanted in what its plan says of it: its password and its tags follow.
fn as_wanted(view: &View) -> Decision<Step> {
    let turn = view.password.and_then(Password::next);
    if let Some(Turn::Ask(strategy)) = turn
        && let Some(password) = view.password
    {
        return ask(view, password, strategy);
    }
    if let Some(decision) = retagged(view) {
        return decision;
    }
    let ready = |message| Decision::rest(view.say(Progress::Ready, Reason::Available, message));
    match turn {
        Some(Turn::Until(until)) => {
            let message = format!(
                "{}; who shows the password before this one, or none, is let in until {until}",
                view.answers()
            );
            ready(message).no_later_than(until, view.now)
        }
        Some(Turn::Ask(_)) | None => ready(view.answers()),
    }
}

/// Asks for another password, or for none but that.
fn ask(view: &View, password: &Password<'_>, strategy: TokenStrategy) -> Decision<Step> {
    let target = view.place.target.clone();
    let doing = match strategy {
        TokenStrategy::Rotate => format!("having {} let in another password beside the one before", target.id),
        TokenStrategy::Set => format!("having {} let in no other password", target.id),
    };
    let mut report = view.say(Progress::ReadyAndReconciling, Reason::Updating, doing);
    report.record.token = Some(password.asked(strategy));
    let before = view.live.config.token_changed.clone();
    let step = Step::Token {
        target,
        strategy,
        before,
    };
    Decision::act(step, report)
}

/// Corrects the tags of a cache that is as wanted in all else, if they are not.
fn retagged(view: &View) -> Option<Decision<Step>> {
    let arn = view.live.arn.clone()?;
    let (tagged, step) = match view.tagging.clone() {
        Tagging::Rest | Tagging::Proven(_) => return None,
        Tagging::Write(tagged, tags) => (tagged, Step::Tag { arn, tags }),
        Tagging::Erase(tagged, keys) => (tagged, Step::Untag { arn, keys }),
    };
    let message = format!("correcting the tags of {}", view.place.target.id);
    let mut report = view.say(Progress::ReadyAndReconciling, Reason::Updating, message);
    let place = Cluster {
        tagged,
        ..view.place.clone()
    };
    report.record.serving = Some(Place::ElastiCache(place));
    Some(Decision::act(step, report))
}

/// What a restart makes of a decision.
enum Restart {
    Nothing,
    Later(Timestamp),
    Now(Box<Decision<Step>>),
}

fn restart(view: &View, now: Timestamp) -> Restart {
    let record = recorded(view.desired, view.place);
    let target = &view.place.target;
    let say = |record: Record, message: String| {
        let progress = if view.live.nodes.len() > 1 {
            Progress::ReadyAndReconciling
        } else {
            Progress::Reconciling
        };
        Report {
            record,
            ..view.say(progress, Reason::Restarting, message)
        }
    };
    let decision = match restarting(view.desired, &record, view.live, now) {
        Restarting::Nothing => return Restart::Nothing,
        Restarting::Later(at) => return Restart::Later(at),
        Restarting::Impossible => Decision::rest(view.say(
            Progress::Stalled,
            Reason::Unsupported,
            format!(
                "{} has shards, and ElastiCache restarts no nodes of such: take spec.restartAt back; it goes on serving",
                target.id
            ),
        )),
        Restarting::Reboot(record, node) => {
            let report = say(record, format!("restarting node {} of {}", node.node.id, target.id));
            Decision::act(Step::Reboot(target.clone(), Box::new(node)), report)
        }
        Restarting::Waiting(record, node) => Decision::rest(say(record, format!("node {node} is restarting"))),
        Restarting::Done(record) => {
            let report = Report {
                record,
                ..view.say(
                    Progress::ReadyAndReconciling,
                    Reason::Restarting,
                    format!("all nodes of {} were restarted", target.id),
                )
            };
            Decision::rest(report).now()
        }
    };
    Restart::Now(Box::new(decision))
}

fn window(spec: &ElastiCacheSpec, live: &Live) -> Option<Window> {
    let text = spec
        .maintenance_window
        .as_ref()
        .or(live.config.maintenance_window.as_ref())?;
    Window::parse(text)
}

fn changed(view: &View, spec: &ElastiCacheSpec, change: Change, now: Timestamp) -> Decision<Step> {
    let target = &view.place.target;
    let Change { what, way } = change;
    let modify = |modification| {
        let report = view.say(
            Progress::ReadyAndReconciling,
            Reason::Updating,
            format!("changing {}: {what}", target.id),
        );
        Decision::act(Step::Modify(target.clone(), modification), report)
    };
    match way {
        Way::InPlace(Modification::Token(strategy)) => match view.password {
            Some(password) => ask(view, password, strategy),
            None => Decision::rest(view.say(
                Progress::ReadyAndReconciling,
                Reason::Updating,
                format!("waiting for the password in Secret {}", view.desired.auth_secret()),
            )),
        },
        Way::InPlace(modification) => modify(modification),
        Way::Cold(modification) => {
            match Leave::of(view.desired.consent, window(spec, view.live), now) {
                Leave::Granted => modify(modification),
                leave => waiting(view, &format!("{what}, which loses what it stores"), leave, now),
            }
        }
        Way::Replace => replaced(view, spec, &what, now),
        Way::Never => Decision::rest(view.say(
            Progress::Stalled,
            Reason::PlanMismatch,
            format!(
                "{what}, which cannot be done with {}: put spec.planRef back, or make a new instance; it goes on serving",
                target.id
            ),
        )),
    }
}

fn replaced(view: &View, spec: &ElastiCacheSpec, why: &str, now: Timestamp) -> Decision<Step> {
    // Whoever names a backup wants what stands in it.
    let restoring = is_to_be_filled(view.desired);
    let leave = if restoring {
        Leave::Granted
    } else {
        Leave::of(view.desired.consent, window(spec, view.live), now)
    };
    match leave {
        Leave::Granted => {
            let report = view.say(
                Progress::ReadyAndReconciling,
                if restoring { Reason::Restoring } else { Reason::Updating },
                format!("making another cache beside {}: {why}", view.place.target.id),
            );
            Decision {
                step: Next::Replace,
                ..Decision::rest(report)
            }
        }
        leave => {
            let filled = match can_seed(view.desired, spec, view.live) {
                Ok(()) => "filled from a snapshot of this one, so that what is written after that is lost".to_owned(),
                Err(lacks) => format!("without what this one stores, since {lacks}"),
            };
            let what = format!("{why}, which takes another cache, with another address and {filled}");
            waiting(view, &what, leave, now)
        }
    }
}

fn waiting(view: &View, what: &str, leave: Leave, now: Timestamp) -> Decision<Step> {
    let (when, at) = match leave {
        Leave::At(at) => (format!("its maintenance window opens at {at}"), Some(at)),
        Leave::Granted | Leave::OnConsent => ("it is allowed".to_owned(), None),
    };
    let message = format!(
        "it waits until {when}: {what}; annotate it with {}=true to have it done now",
        annotations::APPROVE_DISRUPTION
    );
    let decision = Decision::rest(view.say(Progress::ReadyAndReconciling, Reason::AwaitingMaintenance, message));
    match at {
        Some(at) => decision.no_later_than(at, now),
        None => decision,
    }
}
