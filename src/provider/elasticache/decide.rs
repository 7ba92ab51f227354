use jiff::{SignedDuration, Timestamp};

use super::super::window::{Leave, Window};
use super::super::{Again, Cluster, Decision, Desired, Next, Place, Record, Report};
use super::access::Users;
use super::make::missing;
use super::password::{Password, Turn};
use super::plan::{Change, Modification, TokenStrategy, Way, next_change};
use super::restart::{Restarting, restarting};
use super::seed::can_seed;
use super::tags::{self, Tagging};
use super::{Defaults, Live, Observed, Ownership, Phase, Step, lifecycle};
use crate::api::conditions::{Progress, Reason};
use crate::api::{Authentication, Connection, ElastiCacheSpec, ProviderKind, RunningEngine, annotations};
use crate::provider::secrets::{self, SecretStep};
use crate::provider::users::LOOK_AGAIN;

/// What to do next for an instance whose cache on ElastiCache is wanted.
pub fn present(
    desired: &Desired,
    spec: &ElastiCacheSpec,
    defaults: &Defaults,
    observed: &Observed,
    now: Timestamp,
) -> Decision<Step> {
    let users = Users::of(defaults, desired, observed);
    let mut decision = look(desired, spec, defaults, observed, users.as_ref(), now);
    if let Some(users) = &users {
        let record = &mut decision.report.record;
        record.users = users.record();
        record.user_group = Some(users.group());
    }
    decision
}

fn look(
    desired: &Desired,
    spec: &ElastiCacheSpec,
    defaults: &Defaults,
    observed: &Observed,
    users: Option<&Users<'_>>,
    now: Timestamp,
) -> Decision<Step> {
    let mut place = observed.place.clone();
    let id = place.target.id.clone();
    let password = observed
        .secrets
        .get(&desired.auth_secret())
        .and_then(|secret| secrets::password(secret));
    let Some(live) = &observed.live else {
        return missing(desired, spec, defaults, place, password.is_some(), users);
    };
    // What stays as it was found asks for what it asked for then.
    let open = desired.as_found && !live.config.authentication && live.config.user_groups.is_empty();
    let users = users.filter(|_| !open);
    let planned = spec.authentication == Some(Authentication::Token) || desired.plan.has_users();
    let authentication = planned && !open;
    let adopted = desired
        .adopt
        .as_ref()
        .is_some_and(|adopted| adopted.eq_ignore_ascii_case(&id));
    if place.arn.is_none() {
        match (observed.ownership, adopted) {
            (Ownership::Ours, _) => place.arn.clone_from(&live.arn),
            (Ownership::Foreign, _) => {
                let message = format!(
                    "{id} exists in ElastiCache and carries another owner's tags: find out whose it is; change NAME_PREFIX if two brokers share the account"
                );
                return Decision::rest(stalled(desired, &place, Reason::NameConflict, message));
            }
            // The id follows from this instance's uid: proof enough until the tags can be read.
            (Ownership::Unowned | Ownership::Unreadable, false) => {}
            (_, true)
                if live
                    .config
                    .engine
                    .is_some_and(|engine| engine != desired.plan.engine.type_) =>
            {
                let message = format!(
                    "{id} does not run {}: name a plan of its engine",
                    desired.plan.engine.type_
                );
                return Decision::rest(stalled(desired, &place, Reason::PlanMismatch, message));
            }
            (Ownership::Unowned, true) => {
                if let Some(arn) = live.arn.clone() {
                    let tags = tags::wanted(desired, spec);
                    let report = working(desired, &place, Reason::Creating, format!("taking over {id}"));
                    return Decision::act(Step::Tag { arn, tags }, report);
                }
            }
            (Ownership::Unreadable, true) => {
                let message = format!(
                    "waiting for the tags of {id}, to see that it is nobody's; they are read once it is available"
                );
                return Decision::rest(working(desired, &place, Reason::Creating, message));
            }
        }
    }
    let tagging = tags::tagging(&tags::wanted(desired, spec), &place.tagged, observed.tags.as_ref());
    if let Tagging::Proven(tagged) = &tagging {
        place.tagged = tagged.clone();
    }
    let guarded = Password::of(desired, spec, live, &observed.secrets, now);
    let view = View {
        desired,
        observed,
        live,
        place: &place,
        tagging,
        password: guarded.as_ref(),
        now,
    };
    let first = if desired.was_ready {
        Reason::Updating
    } else {
        Reason::Creating
    };
    match &live.phase {
        Phase::Creating => Decision::rest(view.say(
            Progress::Reconciling,
            Reason::Creating,
            format!("{id} is being created"),
        )),
        Phase::Deleting => {
            let message = format!("{id} is being deleted in ElastiCache although nobody asked for that here");
            Decision::rest(view.say(Progress::Reconciling, Reason::Unavailable, message))
        }
        Phase::Failed(status) => {
            let cause = observed.failure.as_deref().unwrap_or("its events say no more");
            let message = format!(
                "{id} is {status} in ElastiCache: {cause}; delete this instance, and order again once that is mended"
            );
            Decision::rest(view.say(Progress::Stalled, Reason::Failed, message))
        }
        Phase::Unknown(status) => unknown(&view, status),
        Phase::Available | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting => {
            if authentication && password.is_none() {
                let never_had = !live.config.authentication && desired.record.token.is_none();
                if never_had && !desired.plan.has_users() {
                    let report = view.say(Progress::ReadyAndReconciling, first, "making the password".to_owned());
                    return Decision::act(Step::Secret(SecretStep::CreateAuth), report);
                }
                let message = format!(
                    "Secret {} with the password of {id} is gone: put it back from a backup, or delete this instance",
                    desired.auth_secret()
                );
                return Decision::rest(view.say(Progress::Stalled, Reason::Failed, message));
            }
            let Some(endpoint) = &live.endpoint else {
                return Decision::rest(view.say(Progress::Reconciling, first, format!("{id} has no endpoint yet")));
            };
            let password = match &guarded {
                Some(guarded) => guarded.shown(),
                None => password.filter(|_| authentication),
            };
            let connection = Connection {
                engine: live.config.engine.unwrap_or(desired.plan.engine.type_),
                provider: ProviderKind::ElastiCache,
                host: endpoint.host.clone(),
                port: endpoint.port,
                tls: endpoint.tls,
                username: password
                    .as_ref()
                    .and_then(|_| desired.plan.engine.default_user())
                    .map(str::to_owned),
                password,
                nodes: live
                    .nodes
                    .iter()
                    .filter_map(|node| Some(format!("{}:{}", node.node.host.as_ref()?, node.node.port?)))
                    .collect(),
            };
            if let Some(step) = secrets::connection_step(desired, &observed.secrets, &connection) {
                let report = view.say(Progress::Reconciling, first, "writing the connection Secret".to_owned());
                return Decision::act(Step::Secret(step), report);
            }
            let mut decision = match users.and_then(Users::next) {
                Some((step, doing)) => {
                    let report = view.say(Progress::ReadyAndReconciling, first, doing);
                    Decision::act(Step::Users(step), report)
                }
                None => with_users(&view, users, settled(&view, spec)),
            };
            decision.report.bound = true;
            decision
        }
    }
}

/// A state that is not known may pass, and may not take longer than an operation.
fn unknown(view: &View, status: &str) -> Decision<Step> {
    let (id, now) = (&view.place.target.id, view.now);
    let since = view.desired.record.unknown_since.unwrap_or(now);
    let patience = view.desired.plan.operation_deadline();
    let patience = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX);
    let until = since.checked_add(patience).unwrap_or(Timestamp::MAX);
    let has = format!("{id} has the status {status:?} in ElastiCache, which is not known");
    let mut decision = if now < until {
        let message = format!("{has}; waiting for another");
        Decision::rest(view.say(Progress::Reconciling, Reason::ProviderStateUnknown, message)).no_later_than(until, now)
    } else {
        let message = format!(
            "{has}, since {since}, and no operation may take that long: look at it in the AWS console, and mend it there or \
             delete this instance; it is looked at on, and goes on by itself once it is available"
        );
        Decision::rest(view.say(Progress::Stalled, Reason::ProviderStateOverdue, message))
    };
    decision.report.record.unknown_since = Some(since);
    decision
}

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

fn recorded(desired: &Desired, place: &Cluster) -> Record {
    Record {
        serving: Some(Place::ElastiCache(place.clone())),
        ..desired.record.clone()
    }
}

/// A report on a cache that cannot go on.
pub fn stalled(desired: &Desired, place: &Cluster, reason: Reason, message: String) -> Report {
    Report::new(Progress::Stalled, reason, message, recorded(desired, place))
}

/// A report on a cache that does not answer yet.
pub fn working(desired: &Desired, place: &Cluster, reason: Reason, message: String) -> Report {
    Report::new(Progress::Reconciling, reason, message, recorded(desired, place))
}

/// A cache that is there.
struct View<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    live: &'a Live,
    place: &'a Cluster,
    tagging: Tagging,
    password: Option<&'a Password<'a>>,
    now: Timestamp,
}

impl View<'_> {
    fn answers(&self) -> String {
        let address = self.live.endpoint.as_ref().map(|endpoint| endpoint.address.as_str());
        format!(
            "{} answers at {}",
            self.desired.plan.engine.type_,
            address.unwrap_or_default()
        )
    }

    fn say(&self, progress: Progress, reason: Reason, message: String) -> Report {
        let mut report = Report::new(progress, reason, message, recorded(self.desired, self.place));
        if let (Some(engine), Some(version)) = (self.live.config.engine, &self.live.config.version) {
            report.engine = Some(RunningEngine {
                type_: engine,
                version: version.clone(),
            });
            let offered = self.observed.offered.as_deref();
            report.support = Some(lifecycle::support(engine, version, offered, self.now));
        }
        report.record.unknown_since = None;
        report.record.token = self.password.and_then(Password::token);
        report.endpoint.clone_from(&self.live.endpoint);
        report.reader_endpoint.clone_from(&self.live.reader_endpoint);
        report.nodes = self.live.nodes();
        report.bound = self.desired.was_ready && self.observed.secrets.contains_key(&self.desired.connection_secret);
        report
    }
}

/// What to do next for a cache that answers, and whose connection Secret says so.
fn settled(view: &View, spec: &ElastiCacheSpec) -> Decision<Step> {
    let (desired, live, now) = (view.desired, view.live, view.now);
    let id = &view.place.target.id;
    let busy = match &live.phase {
        Phase::Available => None,
        Phase::Snapshotting => Some((
            Progress::Ready,
            Reason::Snapshotting,
            format!("{id} answers while a snapshot is taken"),
        )),
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
    Decision::act(Step::Modify(target, Modification::Token(strategy)), report)
}

/// The same decision, where it rests, with what users wait for.
fn with_users(view: &View, users: Option<&Users<'_>>, decision: Decision<Step>) -> Decision<Step> {
    let Some(users) = users.filter(|_| decision.step == Next::Rest) else {
        return decision;
    };
    let surplus = users.surplus(view.now);
    if !surplus.is_empty() {
        let message = format!("deleting the Secrets {}", surplus.join(", "));
        let report = view.say(Progress::ReadyAndReconciling, Reason::Updating, message);
        return Decision::act(Step::Secret(SecretStep::Delete(surplus)), report);
    }
    match users.pending() {
        Some(pending) if decision.report.progress == Progress::Ready => {
            let report = view.say(Progress::ReadyAndReconciling, Reason::Updating, pending);
            Decision::rest(report).after(LOOK_AGAIN)
        }
        Some(_) => match decision.again {
            Again::After(sooner) if sooner <= LOOK_AGAIN => decision,
            _ => decision.after(LOOK_AGAIN),
        },
        None => decision,
    }
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
            None => modify(Modification::Token(strategy)),
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

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
