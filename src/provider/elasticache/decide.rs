use jiff::Timestamp;

use super::super::window::{Leave, Window};
use super::super::{Again, Cluster, Decision, Desired, Next, Place, Record, Report};
use super::access::Users;
use super::plan::{Change, Way, next_change};
use super::restart::{Restarting, restarting};
use super::seed::can_seed;
use super::tags::{self, Tagged, Tagging};
use super::{Create, Defaults, Live, Observed, Ownership, Phase, Step, Target, lifecycle, provider_id};
use crate::api::conditions::{Progress, Reason};
use crate::api::{Authentication, Connection, ElastiCacheSpec, EngineType, ProviderKind, RunningEngine, annotations};
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
    let view = View {
        desired,
        observed,
        live,
        place: &place,
        tagging,
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
        Phase::Unknown(status) => {
            let message =
                format!("{id} has the status {status:?} in ElastiCache, which is not known; waiting for another");
            Decision::rest(view.say(Progress::Reconciling, Reason::ProviderStateUnknown, message))
        }
        Phase::Available | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting => {
            if authentication && password.is_none() {
                let message = format!(
                    "Secret {} with the password of {id} is gone: put it back from a backup, or delete this instance",
                    desired.auth_secret()
                );
                return Decision::rest(view.say(Progress::Stalled, Reason::Failed, message));
            }
            let Some(endpoint) = &live.endpoint else {
                return Decision::rest(view.say(Progress::Reconciling, first, format!("{id} has no endpoint yet")));
            };
            let connection = Connection {
                engine: live.config.engine.unwrap_or(desired.plan.engine.type_),
                provider: ProviderKind::ElastiCache,
                host: endpoint.host.clone(),
                port: endpoint.port,
                tls: endpoint.tls,
                username: authentication
                    .then(|| desired.plan.engine.default_user())
                    .flatten()
                    .map(str::to_owned),
                password: password.filter(|_| authentication),
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

/// A cache that is to be and is not there.
fn missing(
    desired: &Desired,
    spec: &ElastiCacheSpec,
    defaults: &Defaults,
    mut place: Cluster,
    has_password: bool,
    users: Option<&Users<'_>>,
) -> Decision<Step> {
    let id = place.target.id.clone();
    let adopted = desired
        .adopt
        .as_ref()
        .is_some_and(|adopted| adopted.eq_ignore_ascii_case(&id));
    if adopted && place.arn.is_none() {
        let message = format!(
            "there is no replication group or cache cluster {id} in this region and account: correct spec.adopt in a new instance, or make it"
        );
        return Decision::rest(stalled(desired, &place, Reason::ProviderResourceMissing, message));
    }
    if place.arn.is_some() {
        if !desired.recreate {
            let message = format!(
                "{id} is gone from ElastiCache although nobody asked for that here: annotate this instance with {}=true to have it made anew, empty and at another address, or delete it",
                annotations::RECREATE
            );
            return Decision::rest(stalled(desired, &place, Reason::ProviderResourceMissing, message));
        }
        // Under another id: the old one may linger.
        let generation = desired.record.newest_generation().map_or(0, |newest| newest + 1);
        let anew = Cluster {
            target: Target {
                topology: desired.plan.topology(),
                id: provider_id(&defaults.name_prefix, &desired.uid, generation),
            },
            arn: None,
            generation,
            tagged: Tagged::default(),
        };
        let message = format!(
            "{id} is gone from ElastiCache; it is made anew, empty, as {}",
            anew.target.id
        );
        return Decision::rest(working(desired, &anew, Reason::Creating, message)).now();
    }
    let create = Create {
        user_group: users.map(Users::group),
        ..create(desired, spec, defaults, &place.target)
    };
    // It is made with them; that they are there is proven when they are read.
    place.tagged = Tagged {
        keys: create.tags.keys().cloned().collect(),
        digest: None,
    };
    let restored_from = desired.restore.as_ref().map(|restore| restore.backup.clone());
    let making = |message: String| {
        let mut report = working(
            desired,
            &place,
            match restored_from {
                Some(_) => Reason::Restoring,
                None => Reason::Creating,
            },
            message,
        );
        report.record.restored_from.clone_from(&restored_from);
        report
    };
    let authentication = spec.authentication == Some(Authentication::Token) || desired.plan.has_users();
    if authentication && !has_password {
        return Decision::act(
            Step::Secret(SecretStep::CreateAuth),
            making("making the password".to_owned()),
        );
    }
    if let Some(users) = users {
        if let Some((step, doing)) = users.next() {
            return Decision::act(Step::Users(step), making(doing));
        }
        if !users.can_serve() {
            let waiting = format!("waiting for user group {}", users.group());
            return Decision::rest(making(waiting)).after(LOOK_AGAIN);
        }
    }
    let message = match (&restored_from, &desired.seed) {
        (Some(backup), _) => format!("asking ElastiCache for the cache, filled from backup {backup}"),
        (None, Some(seed)) => format!("asking ElastiCache for the cache, filled from snapshot {seed} of the old one"),
        (None, None) => "asking ElastiCache for the cache".to_owned(),
    };
    Decision::act(Step::Create(Box::new(create)), making(message))
}

fn recorded(desired: &Desired, place: &Cluster) -> Record {
    Record {
        serving: Some(Place::ElastiCache(place.clone())),
        ..desired.record.clone()
    }
}

fn stalled(desired: &Desired, place: &Cluster, reason: Reason, message: String) -> Report {
    Report::new(Progress::Stalled, reason, message, recorded(desired, place))
}

fn working(desired: &Desired, place: &Cluster, reason: Reason, message: String) -> Report {
    Report::new(Progress::Reconciling, reason, message, recorded(desired, place))
}

/// A cache that is there.
struct View<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    live: &'a Live,
    place: &'a Cluster,
    tagging: Tagging,
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
                None => retagged(view)
                    .unwrap_or_else(|| Decision::rest(view.say(Progress::Ready, Reason::Available, view.answers()))),
            },
        },
    };
    match later {
        Some(at) => decision.no_later_than(at, now),
        None => decision,
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

fn create(desired: &Desired, spec: &ElastiCacheSpec, defaults: &Defaults, target: &Target) -> Create {
    let engine = desired.plan.engine.type_;
    let subnet_group = match engine {
        EngineType::Memcached => &defaults.memcached_subnet_group,
        EngineType::Redis | EngineType::Valkey => &defaults.redis_subnet_group,
    };
    let security_group_ids = if spec.security_group_ids.is_empty() {
        defaults.security_group.iter().cloned().collect()
    } else {
        spec.security_group_ids.clone()
    };
    Create {
        topology: target.topology,
        id: target.id.clone(),
        engine,
        version: desired.plan.engine.version.clone(),
        description: format!("cache-broker {}/{}", desired.namespace, desired.name),
        node_type: spec.node_type.clone(),
        nodes: i32::from(spec.nodes.unwrap_or(1)),
        replicas: i32::from(spec.replicas.unwrap_or(0)),
        shards: spec.shards.map(i32::from),
        multi_az: spec.multi_az.unwrap_or(false),
        parameter_group: spec.parameter_group.clone(),
        subnet_group: spec.subnet_group.clone().or_else(|| subnet_group.clone()),
        security_group_ids,
        transit_encryption: spec.transit_encryption,
        authentication: spec.authentication == Some(Authentication::Token),
        user_group: None,
        at_rest_encryption: spec.at_rest_encryption,
        maintenance_window: spec.maintenance_window.clone(),
        snapshot_window: spec.snapshot_window.clone(),
        snapshot_retention_days: spec.snapshot_retention_days.map(i32::from),
        snapshot: desired
            .restore
            .as_ref()
            .map(|restore| restore.snapshot.clone())
            .or_else(|| desired.seed.clone()),
        tags: tags::wanted(desired, spec),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
