use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::{Again, Cluster, Decision, Desired, Next, Place, Record, Report};
use super::access::Users;
use super::make::missing;
use super::password::Password;
use super::settled::settled;
use super::tags::{self, Tagging};
use super::{Defaults, Live, Observed, Ownership, Phase, Step, lifecycle};
use crate::api::conditions::{Progress, Reason};
use crate::api::{Authentication, Connection, ElastiCacheSpec, EngineType, ProviderKind, RunningEngine};
use crate::provider::secrets::{self, SecretStep};
use crate::provider::users::LOOK_AGAIN;

/// How long to wait before tags are asked for again that could not be read of a cache that is available.
const TAGS_AGAIN: Duration = Duration::from_secs(10);

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
    let adopted = desired.adopts(&id);
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
                let waiting = Decision::rest(working(desired, &place, Reason::Creating, message));
                // Nothing tells when they can be read.
                return match live.phase {
                    Phase::Available => waiting.after(TAGS_AGAIN),
                    _ => waiting,
                };
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
                if never_had && live.config.user_groups.is_empty() {
                    let remedy = if desired.adopt.is_some() {
                        "name a plan whose bindingCredentials are shared, or leave it as it was found with spec.adopt.asOf"
                    } else {
                        "name a plan whose bindingCredentials are shared"
                    };
                    let message = format!(
                        "{id} asks nobody for a password, and its plan gives each binding a user: asking for them would shut \
                         out who uses it now; {remedy}; it goes on serving"
                    );
                    return Decision::rest(view.say(Progress::Stalled, Reason::PlanMismatch, message));
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

pub(super) fn recorded(desired: &Desired, place: &Cluster) -> Record {
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
pub(super) struct View<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) live: &'a Live,
    pub(super) place: &'a Cluster,
    pub(super) tagging: Tagging,
    pub(super) password: Option<&'a Password<'a>>,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn answers(&self) -> String {
        let address = self.live.endpoint.as_ref().map(|endpoint| endpoint.address.as_str());
        format!(
            "{} answers at {}",
            self.desired.plan.engine.type_,
            address.unwrap_or_default()
        )
    }

    pub(super) fn say(&self, progress: Progress, reason: Reason, message: String) -> Report {
        let mut report = Report::new(progress, reason, message, recorded(self.desired, self.place));
        if let (Some(engine), Some(version)) = (self.live.config.engine, &self.live.config.version) {
            report.engine = Some(RunningEngine {
                type_: engine,
                version: version.clone(),
            });
            let offered = self.observed.offered.as_deref();
            report.support = Some(lifecycle::support(engine, version, offered, self.now));
        }
        // Of memcached that is never said.
        let is_redis_like = self.live.config.engine.is_some_and(EngineType::is_redis_like);
        report.encrypted_at_rest = is_redis_like.then_some(self.live.config.at_rest);
        report.record.unknown_since = None;
        report.record.token = self.password.and_then(Password::token);
        report.endpoint.clone_from(&self.live.endpoint);
        report.reader_endpoint.clone_from(&self.live.reader_endpoint);
        report.nodes = self.live.nodes();
        report.bound = self.desired.was_ready && self.observed.secrets.contains_key(&self.desired.connection_secret);
        report
    }
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

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
