//! The Open Service Broker API 2.17 as a small model: what one instance is to a platform, and which answers to a call are
//! allowed, with what the instance is afterwards. It knows the specification and nothing of how the broker is built.
//! Where the specification leaves a choice, every choice is allowed, unless docs/openapi.yaml promises one.

mod actions;
mod bindings;
mod instances;

use std::collections::BTreeMap;

use serde_json::Value;

use bindings::Held;

/// What is offered, and what goes with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Bindings share what they are handed, and there are no backups.
    Memcached,
    /// Each binding has a user of its own, and there are backups.
    Redis,
}

/// A plan of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    Small,
    Large,
    /// One that no catalog has.
    Unknown,
}

/// What is sent as `parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parameters {
    Absent,
    Limit(u8),
    /// `null` for the limit: it is taken away.
    NoLimit,
    /// What the plan's schema has not.
    Wrong,
}

/// What is sent as `maintenance_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Maintenance {
    Absent,
    /// As the catalog has it for that plan.
    Of(Plan),
}

/// Which operation a poll names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    Latest,
    Operation(String),
}

/// A call on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Provision {
        plan: Plan,
        space: u8,
        parameters: Parameters,
        maintenance: Maintenance,
        incomplete: bool,
    },
    Update {
        plan: Option<Plan>,
        parameters: Parameters,
        maintenance: Maintenance,
        context: Option<u8>,
        incomplete: bool,
    },
    Deprovision {
        incomplete: bool,
        ids: bool,
    },
    Restart,
    Backup,
    Backups,
    Restore(String),
    Poll(Named),
    Fetch,
    Bind {
        binding: u8,
        origin: Origin,
        incomplete: bool,
    },
    FetchBinding(u8),
    PollBinding(u8, Named),
    Unbind {
        binding: u8,
        incomplete: bool,
        ids: bool,
    },
}

impl Call {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Provision { .. } => "provision",
            Self::Update { .. } => "update",
            Self::Deprovision { .. } => "deprovision",
            Self::Restart => "restart",
            Self::Backup => "backup",
            Self::Backups => "backups",
            Self::Restore(_) => "restore",
            Self::Poll(_) => "poll",
            Self::Fetch => "fetch",
            Self::Bind {
                origin: Origin::Fresh { .. },
                ..
            } => "bind",
            Self::Bind { .. } => "rotate",
            Self::FetchBinding(_) => "fetch binding",
            Self::PollBinding(..) => "poll binding",
            Self::Unbind { .. } => "unbind",
        }
    }
}

/// Where a binding begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    Fresh {
        plan: Plan,
        app: u8,
    },
    /// It succeeds another one.
    Successor(u8),
    /// It names a predecessor, of which the platform's version has not heard, and nothing else.
    Unread,
}

/// What happens to an instance without a platform's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// What was accepted is written to the cluster.
    Written,
    /// It is as what was written wants it.
    Ready,
    /// It cannot become so.
    Stalled,
    /// The backup that was written is complete, or failed.
    Made(bool),
    /// It is gone from the cluster.
    Gone,
    /// The operation that was under way before is past its deadline.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Provision,
    Update,
    Deprovision,
    Restart,
    Backup,
    Restore,
    Bind,
    Unbind,
}

impl Kind {
    /// Whether the specification knows it as an operation of an instance.
    fn is_specified(self) -> bool {
        matches!(self, Self::Provision | Self::Update | Self::Deprovision)
    }
}

/// An operation under way. It has a name once an answer told it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    kind: Kind,
    name: Option<String>,
    /// Whether the cluster has what it wants.
    written: bool,
    /// Whether it was under way before the calls that are looked at together.
    old: bool,
    /// What is needed to undo it, and to know the same request again.
    before: Before,
}

impl Running {
    fn new(kind: Kind, before: Before) -> Self {
        Self {
            kind,
            name: None,
            written: false,
            old: false,
            before,
        }
    }

    fn ended(self, well: bool) -> Ended {
        Ended {
            kind: self.kind,
            name: self.name,
            well,
        }
    }
}

/// What was before an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Before {
    /// Nothing that is undone.
    Nothing,
    /// The update that was asked for, and what the instance was.
    Update(Call, (Plan, Option<u8>)),
    /// What the cache was filled from.
    Restore(Option<usize>),
}

/// An operation that ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    kind: Kind,
    name: Option<String>,
    well: bool,
}

/// A backup that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copy {
    /// Its id, once an answer told it.
    id: Option<String>,
    /// How it ended, if it did.
    well: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    plan: Plan,
    space: u8,
    limit: Option<u8>,
    /// Whether it was ever ready.
    usable: bool,
    /// Whether a deprovision was accepted.
    leaving: bool,
    running: Option<Running>,
    ended: Vec<Ended>,
    bindings: BTreeMap<u8, Held>,
    backups: Vec<Copy>,
    /// The backup that it was filled from last.
    filled: Option<usize>,
}

/// What an id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Never,
    Here(Instance),
    /// Its operations are remembered, and those of its bindings.
    Gone(Vec<Ended>, BTreeMap<u8, Held>),
}

/// An allowed answer.
enum Expected {
    /// A status and an error code.
    Refused(u16, Option<&'static str>),
    /// A status with an empty object.
    Empty(u16),
    /// A status, whatever more is said.
    Status(u16),
    /// 202 with the operation under way in the state that follows.
    Running,
    /// 202 with the operation under way of a binding.
    OfBinding(u8),
    /// 202 with the operation that ended as the n-th.
    Ended(usize),
    /// 200 with the state of an operation.
    Told(&'static str),
    /// 200 with the instance.
    Shown(Plan, Option<u8>),
    /// A status with credentials.
    Credentials(u16),
    /// 200 with all backups.
    Backups,
}

use Expected::{Credentials, Empty, Refused, Shown, Status, Told};

const ASYNC: Expected = Refused(422, Some("AsyncRequired"));
const BUSY: Expected = Refused(422, Some("ConcurrencyError"));
const STALE: Expected = Refused(422, Some("MaintenanceInfoConflict"));
const IN_PROGRESS: &str = "in progress";

/// The states that may follow a call that was answered so; none if the answer is not allowed. A call whose answer was lost
/// may have had any effect that is allowed.
pub fn called(service: Service, state: &State, call: &Call, answer: Option<(u16, &Value)>) -> Vec<State> {
    let possible = possible(service, state, call);
    match answer {
        Some((status, body)) => possible
            .into_iter()
            .filter_map(|(expected, next)| fits(service, &expected, next, status, body))
            .collect(),
        None => possible.into_iter().map(|(_, next)| next).collect(),
    }
}

/// The state that follows an event.
pub fn happened(state: &State, event: Event) -> State {
    let State::Here(instance) = state else {
        return state.clone();
    };
    let mut instance = instance.clone();
    match event {
        Event::Written => {
            for running in instance.under_way() {
                running.written = true;
            }
        }
        Event::Ready | Event::Stalled => {
            let waits = |running: &Running| running.written && running.kind != Kind::Deprovision;
            instance.usable |= event == Event::Ready;
            instance.end_if(event == Event::Ready, |running| {
                waits(running) && running.kind != Kind::Backup
            });
            // What stalls lets in nobody new, and keeps out nobody yet.
            instance.end_bindings(event == Event::Ready, |running| {
                running.written && (event == Event::Ready || running.kind == Kind::Bind)
            });
        }
        Event::Made(well) => instance.end_if(well, |running| running.written && running.kind == Kind::Backup),
        Event::Gone => {
            instance.end(true);
            for held in instance.bindings.values_mut() {
                held.lose();
            }
            return State::Gone(instance.ended, instance.bindings);
        }
        Event::Late => {
            instance.end_if(false, |running| running.old);
            instance.end_bindings(false, |running| running.old);
        }
    }
    State::Here(instance)
}

/// The state before calls that are looked at together.
pub fn before(state: State) -> State {
    match state {
        State::Here(mut instance) => {
            for running in instance.under_way() {
                running.old = true;
            }
            State::Here(instance)
        }
        other => other,
    }
}

impl Instance {
    /// All that goes on, of the instance and of its bindings.
    fn under_way(&mut self) -> impl Iterator<Item = &mut Running> {
        let of_bindings = self.bindings.values_mut().filter_map(Held::under_way);
        self.running.iter_mut().chain(of_bindings)
    }

    fn end(&mut self, well: bool) {
        let Some(running) = self.running.take() else { return };
        match &running.before {
            Before::Update(_, (plan, limit)) if !well => (self.plan, self.limit) = (*plan, *limit),
            Before::Restore(filled) if !well => self.filled = *filled,
            _ => {}
        }
        if let (Kind::Backup, Some(copy)) = (running.kind, self.backups.last_mut()) {
            copy.well = Some(well);
        }
        self.ended.push(running.ended(well));
    }

    fn end_if(&mut self, well: bool, ends: impl Fn(&Running) -> bool) {
        if self.running.as_ref().is_some_and(ends) {
            self.end(well);
        }
    }

    fn end_bindings(&mut self, well: bool, ends: impl Fn(&Running) -> bool) {
        for held in self.bindings.values_mut() {
            if held.under_way().is_some_and(|running| ends(running)) {
                held.end(well);
            }
        }
    }

    fn begun(&self, kind: Kind, before: Before) -> Self {
        let mut instance = self.clone();
        instance.end(false);
        instance.running = Some(Running::new(kind, before));
        if kind == Kind::Deprovision {
            instance.leaving = true;
            // "Deprovisioning": what is being made is halted.
            instance.end_bindings(false, |running| running.kind == Kind::Bind);
        }
        instance
    }

    fn runs(&self, kind: Kind) -> bool {
        self.running.as_ref().is_some_and(|running| running.kind == kind)
    }
}

fn possible(service: Service, state: &State, call: &Call) -> Vec<(Expected, State)> {
    let same = |expected| vec![(expected, state.clone())];
    match call {
        Call::Provision { .. } => instances::provision(state, call),
        Call::Update { .. } => instances::update(state, call),
        Call::Deprovision { incomplete, ids } => {
            let State::Here(instance) = state else {
                return removed(state, *ids, !incomplete, None);
            };
            // "Orphan Mitigation": also while it is made or changed.
            let next = if instance.runs(Kind::Deprovision) {
                instance.clone()
            } else {
                instance.begun(Kind::Deprovision, Before::Nothing)
            };
            removed(state, *ids, !incomplete, Some((Expected::Running, State::Here(next))))
        }
        Call::Restart | Call::Backup | Call::Backups | Call::Restore(_) => actions::possible(service, state, call),
        Call::Poll(named) => same(instances::polled(state, named)),
        Call::Fetch => same(match state {
            // "Fetching a Service Instance", "Response".
            State::Here(instance) if instance.runs(Kind::Update) || instance.runs(Kind::Deprovision) => BUSY,
            State::Here(instance) if instance.usable && !instance.runs(Kind::Provision) => {
                Shown(instance.plan, instance.limit)
            }
            State::Never | State::Gone(..) | State::Here(_) => Refused(404, None),
        }),
        Call::Bind {
            binding,
            origin,
            incomplete,
        } => bindings::bind(service, state, *binding, *origin, *incomplete),
        Call::FetchBinding(binding) => same(bindings::fetched(state, *binding)),
        Call::PollBinding(binding, named) => same(bindings::polled(state, *binding, named)),
        Call::Unbind {
            binding,
            incomplete,
            ids,
        } => {
            let ended = bindings::unbind(service, state, *binding);
            removed(state, *ids, service == Service::Redis && !incomplete, ended)
        }
    }
}

/// "Deprovisioning" and "Unbinding", "Request" and "Response": service_id and plan_id are required, who cannot wait is
/// refused where there is something to wait for, and what is not there is gone. Otherwise it comes to that end.
fn removed(state: &State, ids: bool, impatient: bool, end: Option<(Expected, State)>) -> Vec<(Expected, State)> {
    let mut possible = Vec::new();
    for (is_wrong, refusal) in [
        (!ids, Refused(400, None)),
        (impatient, ASYNC),
        (end.is_none(), Empty(410)),
    ] {
        if is_wrong {
            possible.push((refusal, state.clone()));
        }
    }
    possible.extend(end.filter(|_| ids && !impatient));
    possible
}

/// The state after an answer, with the name of an operation that the answer told; nothing if it is not the one expected.
fn fits(service: Service, expected: &Expected, mut next: State, status: u16, body: &Value) -> Option<State> {
    let fits = match expected {
        Refused(code, error) => {
            let described = body["description"].as_str().is_some_and(|text| !text.is_empty());
            status == *code && described && body["error"].as_str() == *error
        }
        Empty(code) => status == *code && body.as_object().is_some_and(serde_json::Map::is_empty),
        Status(code) => status == *code,
        Expected::Running | Expected::OfBinding(_) | Expected::Ended(_) => {
            let name = body["operation"].as_str().filter(|name| !name.is_empty())?;
            status == 202 && learn(&mut next, expected, name)
        }
        Told(state) => status == 200 && body["state"].as_str() == Some(state),
        Shown(plan, limit) => {
            let shown = body["parameters"][service.limit()].as_u64();
            status == 200 && body["plan_id"].as_str() == Some(service.plan(*plan)) && shown == limit.map(u64::from)
        }
        Credentials(code) => status == *code && body["credentials"]["uri"].is_string(),
        Expected::Backups => status == 200 && actions::learn(&mut next, body),
    };
    fits.then_some(next)
}

/// Gives an operation its name, unless it has another, or another has it.
fn learn(state: &mut State, which: &Expected, name: &str) -> bool {
    let State::Here(instance) = state else { return false };
    let is_known = instance.names().any(|known| known == name);
    let slot = match which {
        Expected::Ended(index) => instance.ended.get_mut(*index).map(|ended| &mut ended.name),
        Expected::OfBinding(binding) => {
            let running = instance.bindings.get_mut(binding).and_then(Held::under_way);
            running.map(|running| &mut running.name)
        }
        _ => instance.running.as_mut().map(|running| &mut running.name),
    };
    match slot {
        Some(Some(known)) => known == name,
        Some(unnamed) if !is_known => {
            *unnamed = Some(name.to_owned());
            true
        }
        _ => false,
    }
}

impl Instance {
    /// The names of operations that answers told.
    fn names(&self) -> impl Iterator<Item = &str> {
        let running = self.running.iter().filter_map(|running| running.name.as_deref());
        let ended = self.ended.iter().filter_map(|ended| ended.name.as_deref());
        running.chain(ended).chain(self.bindings.values().flat_map(Held::names))
    }
}

impl Maintenance {
    /// "Maintenance Info Object": it must be that of the plan.
    fn is_of(self, plan: Plan) -> bool {
        match self {
            Self::Absent => true,
            Self::Of(sent) => sent == plan && plan != Plan::Unknown,
        }
    }
}

impl Service {
    pub fn plan(self, plan: Plan) -> &'static str {
        match (self, plan) {
            (Self::Memcached, Plan::Small) => "p",
            (Self::Memcached, Plan::Large) => "q",
            (Self::Redis, Plan::Small) => "u",
            (Self::Redis, Plan::Large) => "v",
            (_, Plan::Unknown) => "nowhere",
        }
    }

    /// The parameter that the plans take.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Memcached => "connectionLimit",
            Self::Redis => "snapshotRetentionDays",
        }
    }
}
