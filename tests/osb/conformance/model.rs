//! The Open Service Broker API 2.17 as a small model: what one instance is to a platform, and which answers to a call are
//! allowed, with what the instance is afterwards. It knows the specification and nothing of how the broker is built.
//! Where the specification leaves a choice, every choice is allowed, unless docs/openapi.yaml promises one.

use std::collections::BTreeMap;

use serde_json::Value;

/// A plan of the one service.
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
    Poll(Named),
    Fetch,
    Bind {
        binding: u8,
        plan: Plan,
        app: u8,
    },
    FetchBinding(u8),
    Unbind {
        binding: u8,
        ids: bool,
    },
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
    /// The update that was asked for, and what the instance was before.
    update: Option<(Call, (Plan, Option<u8>))>,
}

/// An operation that ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    kind: Kind,
    name: Option<String>,
    well: bool,
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
    bindings: BTreeMap<u8, (Plan, u8)>,
}

/// What an id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Never,
    Here(Instance),
    /// Its operations are remembered.
    Gone(Vec<Ended>),
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
    /// 202 with the operation that ended as the n-th.
    Ended(usize),
    /// 200 with the state of an operation.
    Told(&'static str),
    /// 200 with the instance.
    Shown(Plan, Option<u8>),
    /// A status with credentials.
    Credentials(u16),
}

use Expected::{Credentials, Empty, Refused, Shown, Status, Told};

const ASYNC: Expected = Refused(422, Some("AsyncRequired"));
const BUSY: Expected = Refused(422, Some("ConcurrencyError"));
const STALE: Expected = Refused(422, Some("MaintenanceInfoConflict"));
const IN_PROGRESS: &str = "in progress";

/// The states that may follow a call that was answered so; none if the answer is not allowed. A call whose answer was lost
/// may have had any effect that is allowed.
pub fn called(state: &State, call: &Call, answer: Option<(u16, &Value)>) -> Vec<State> {
    let possible = possible(state, call);
    match answer {
        Some((status, body)) => possible
            .into_iter()
            .filter_map(|(expected, next)| fits(&expected, next, status, body))
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
            if let Some(running) = &mut instance.running {
                running.written = true;
            }
        }
        Event::Ready | Event::Stalled => {
            let waits = instance
                .running
                .as_ref()
                .is_some_and(|running| running.written && running.kind != Kind::Deprovision);
            instance.usable |= event == Event::Ready;
            if waits {
                instance.end(event == Event::Ready);
            }
        }
        Event::Gone => {
            instance.end(true);
            return State::Gone(instance.ended);
        }
        Event::Late => {
            if instance.running.as_ref().is_some_and(|running| running.old) {
                instance.end(false);
            }
        }
    }
    State::Here(instance)
}

/// The state before calls that are looked at together.
pub fn before(state: State) -> State {
    match state {
        State::Here(mut instance) => {
            if let Some(running) = &mut instance.running {
                running.old = true;
            }
            State::Here(instance)
        }
        other => other,
    }
}

impl Instance {
    fn end(&mut self, well: bool) {
        let Some(running) = self.running.take() else { return };
        if let (false, Some((_, (plan, limit)))) = (well, running.update) {
            (self.plan, self.limit) = (plan, limit);
        }
        self.ended.push(Ended {
            kind: running.kind,
            name: running.name,
            well,
        });
    }

    fn begun(&self, kind: Kind, update: Option<(Call, (Plan, Option<u8>))>) -> Self {
        let mut instance = self.clone();
        instance.end(false);
        instance.running = Some(Running {
            kind,
            name: None,
            written: false,
            old: false,
            update,
        });
        instance.leaving |= kind == Kind::Deprovision;
        instance
    }

    fn runs(&self, kind: Kind) -> bool {
        self.running.as_ref().is_some_and(|running| running.kind == kind)
    }
}

fn possible(state: &State, call: &Call) -> Vec<(Expected, State)> {
    let same = |expected| vec![(expected, state.clone())];
    match call {
        Call::Provision { .. } => provision(state, call),
        Call::Update { .. } => update(state, call),
        Call::Deprovision { incomplete, ids } => {
            let mut possible = Vec::new();
            // "Deprovisioning", "Request": service_id and plan_id are required.
            if !ids {
                possible.extend(same(Refused(400, None)));
            }
            if !incomplete {
                possible.extend(same(ASYNC));
            }
            match state {
                // "Deprovisioning", "Response": 410 if it does not exist.
                State::Never | State::Gone(_) => possible.extend(same(Empty(410))),
                State::Here(instance) if *incomplete && *ids => {
                    possible.push(if instance.runs(Kind::Deprovision) {
                        (Expected::Running, state.clone())
                    } else {
                        // "Orphan Mitigation": also while it is made or changed.
                        (Expected::Running, State::Here(instance.begun(Kind::Deprovision, None)))
                    });
                }
                State::Here(_) => {}
            }
            possible
        }
        Call::Restart => match state {
            State::Never | State::Gone(_) => same(Refused(404, None)),
            State::Here(instance) if instance.runs(Kind::Restart) => same(Expected::Running),
            State::Here(instance) if instance.running.is_some() || instance.leaving => same(BUSY),
            State::Here(instance) if !instance.usable => same(Refused(422, None)),
            State::Here(instance) => vec![(Expected::Running, State::Here(instance.begun(Kind::Restart, None)))],
        },
        Call::Poll(named) => same(polled(state, named)),
        Call::Fetch => same(match state {
            // "Fetching a Service Instance", "Response".
            State::Never | State::Gone(_) => Refused(404, None),
            State::Here(instance) if instance.runs(Kind::Provision) => Refused(404, None),
            State::Here(instance) if instance.runs(Kind::Update) || instance.runs(Kind::Deprovision) => BUSY,
            State::Here(instance) if !instance.usable => Refused(404, None),
            State::Here(instance) => Shown(instance.plan, instance.limit),
        }),
        Call::Bind { binding, plan, app } => bind(state, *binding, *plan, *app),
        Call::FetchBinding(binding) => same(match state {
            State::Here(instance) if instance.bindings.contains_key(binding) => Credentials(200),
            _ => Refused(404, None),
        }),
        Call::Unbind { binding, ids } => {
            let mut possible = Vec::new();
            if !ids {
                possible.extend(same(Refused(400, None)));
            }
            match state {
                State::Here(instance) if instance.bindings.contains_key(binding) => {
                    if *ids {
                        let mut instance = instance.clone();
                        instance.bindings.remove(binding);
                        possible.push((Empty(200), State::Here(instance)));
                    }
                }
                _ => possible.extend(same(Empty(410))),
            }
            possible
        }
    }
}

/// "Provisioning".
fn provision(state: &State, call: &Call) -> Vec<(Expected, State)> {
    let Call::Provision {
        plan,
        space,
        parameters,
        maintenance,
        incomplete,
    } = call
    else {
        return Vec::new();
    };
    let mut possible: Vec<(Expected, State)> = Vec::new();
    let mut may = |expected| possible.push((expected, state.clone()));
    // The order of the checks is the broker's.
    let mut wrong = false;
    for (is_wrong, refusal) in [
        (*plan == Plan::Unknown, Refused(400, None)),
        (!incomplete, ASYNC),
        (!maintenance.is_of(*plan), STALE),
        (
            matches!(parameters, Parameters::Wrong | Parameters::NoLimit),
            Refused(400, None),
        ),
    ] {
        if is_wrong {
            wrong = true;
            may(refusal);
        }
    }
    let limit = match parameters {
        Parameters::Limit(limit) => Some(*limit),
        _ => None,
    };
    match state {
        // Ids are not used twice.
        State::Gone(_) => may(Refused(409, None)),
        State::Never if wrong => {}
        State::Never => {
            let instance = Instance {
                plan: *plan,
                space: *space,
                limit,
                usable: false,
                leaving: false,
                running: None,
                ended: Vec::new(),
                bindings: BTreeMap::new(),
            };
            possible.push((Expected::Running, State::Here(instance.begun(Kind::Provision, None))));
        }
        State::Here(instance) => {
            let now = (instance.plan, instance.limit);
            let was = instance
                .running
                .as_ref()
                .and_then(|running| Some(running.update.as_ref()?.1))
                .unwrap_or(now);
            let is = |standing| *space == instance.space && (*plan, limit) == standing;
            let (identical, was_identical) = (!wrong && is(now), !wrong && is(was));
            if !identical || !was_identical || instance.leaving {
                may(Refused(409, None));
            }
            if instance.leaving && identical {
                may(BUSY);
            }
            if (identical || was_identical) && !instance.leaving {
                if instance.runs(Kind::Provision) {
                    // "A re-sent PUT": 202 with the same operation until that ended.
                    may(Expected::Running);
                } else if instance.usable {
                    may(Status(200));
                } else if let Some(made) = instance.ended.iter().rposition(|ended| ended.kind == Kind::Provision) {
                    // Polling it says why it failed.
                    may(Expected::Ended(made));
                }
            }
        }
    }
    possible
}

/// "Updating a Service Instance".
fn update(state: &State, call: &Call) -> Vec<(Expected, State)> {
    let Call::Update {
        plan,
        parameters,
        maintenance,
        incomplete,
        ..
    } = call
    else {
        return Vec::new();
    };
    let mut possible: Vec<(Expected, State)> = Vec::new();
    let mut may = |expected| possible.push((expected, state.clone()));
    let said_only = plan.is_none() && *parameters == Parameters::Absent && *maintenance == Maintenance::Absent;
    if !incomplete && !said_only {
        may(ASYNC);
    }
    let State::Here(instance) = state else {
        may(Refused(404, None));
        return possible;
    };
    let without_incomplete = |call: &Call| {
        let mut call = call.clone();
        if let Call::Update { incomplete, .. } = &mut call {
            *incomplete = true;
        }
        call
    };
    if let Some(running) = &instance.running {
        match &running.update {
            Some((asked, _)) if without_incomplete(asked) == without_incomplete(call) => {
                if *incomplete || said_only {
                    may(Expected::Running);
                }
            }
            _ => may(BUSY),
        }
        return possible;
    }
    if instance.leaving {
        may(BUSY);
        return possible;
    }
    if !instance.usable {
        may(Refused(422, None));
        return possible;
    }
    let mut wrong = false;
    for (is_wrong, refusal) in [
        (*plan == Some(Plan::Unknown), Refused(400, None)),
        (!maintenance.is_of(plan.unwrap_or(instance.plan)), STALE),
        (*parameters == Parameters::Wrong, Refused(400, None)),
    ] {
        if is_wrong {
            wrong = true;
            may(refusal);
        }
    }
    if wrong {
        return possible;
    }
    let before = (instance.plan, instance.limit);
    let after = (
        plan.unwrap_or(instance.plan),
        match parameters {
            Parameters::Limit(limit) => Some(*limit),
            Parameters::NoLimit => None,
            Parameters::Absent | Parameters::Wrong => instance.limit,
        },
    );
    if before == after {
        may(Empty(200));
    } else if *incomplete {
        let mut next = instance.begun(Kind::Update, Some((without_incomplete(call), before)));
        (next.plan, next.limit) = after;
        possible.push((Expected::Running, State::Here(next)));
    }
    possible
}

/// "Polling Last Operation for Service Instances".
fn polled(state: &State, named: &Named) -> Expected {
    let (running, ended, gone) = match state {
        State::Never => return Refused(404, None),
        State::Here(instance) => (instance.running.as_ref(), &instance.ended, false),
        State::Gone(ended) => (None, ended, true),
    };
    let told = |ended: &Ended| match (ended.kind, ended.well) {
        (Kind::Deprovision, true) => Empty(410),
        (Kind::Deprovision, false) if gone => Empty(410),
        (_, true) => Told("succeeded"),
        (_, false) => Told("failed"),
    };
    match named {
        Named::Latest if gone => Empty(410),
        Named::Latest => {
            if running.is_some_and(|running| running.kind != Kind::Restart) {
                return Told(IN_PROGRESS);
            }
            let latest = ended.iter().rev().find(|ended| ended.kind != Kind::Restart);
            latest.map_or(Told(IN_PROGRESS), told)
        }
        Named::Operation(name) => {
            if running.is_some_and(|running| running.name.as_ref() == Some(name)) {
                return Told(IN_PROGRESS);
            }
            match ended.iter().find(|ended| ended.name.as_ref() == Some(name)) {
                Some(ended) => told(ended),
                None if gone => Empty(410),
                None => Refused(400, None),
            }
        }
    }
}

/// "Binding".
fn bind(state: &State, binding: u8, plan: Plan, app: u8) -> Vec<(Expected, State)> {
    let mut possible: Vec<(Expected, State)> = Vec::new();
    let mut may = |expected| possible.push((expected, state.clone()));
    let State::Here(instance) = state else {
        may(Refused(404, None));
        return possible;
    };
    if let Some(existing) = instance.bindings.get(&binding) {
        may(if *existing == (plan, app) {
            Credentials(200)
        } else {
            Refused(409, None)
        });
        return possible;
    }
    if plan != instance.plan {
        may(Refused(400, None));
    }
    if instance.running.is_some() || instance.leaving {
        may(BUSY);
    } else if !instance.usable {
        may(Refused(422, None));
    } else if plan == instance.plan {
        let mut next = instance.clone();
        next.bindings.insert(binding, (plan, app));
        possible.push((Credentials(201), State::Here(next)));
    }
    possible
}

/// The state after an answer, with the name of an operation that the answer told; nothing if it is not the one expected.
fn fits(expected: &Expected, mut next: State, status: u16, body: &Value) -> Option<State> {
    let fits = match expected {
        Refused(code, error) => {
            let described = body["description"].as_str().is_some_and(|text| !text.is_empty());
            status == *code && described && body["error"].as_str() == *error
        }
        Empty(code) => status == *code && body.as_object().is_some_and(serde_json::Map::is_empty),
        Status(code) => status == *code,
        Expected::Running | Expected::Ended(_) => {
            let name = body["operation"].as_str().filter(|name| !name.is_empty())?;
            status == 202 && learn(&mut next, expected, name)
        }
        Told(state) => status == 200 && body["state"].as_str() == Some(state),
        Shown(plan, limit) => {
            let shown = body["parameters"]["connectionLimit"].as_u64();
            status == 200 && body["plan_id"].as_str() == Some(plan.id()) && shown == limit.map(u64::from)
        }
        Credentials(code) => status == *code && body["credentials"]["uri"].is_string(),
    };
    fits.then_some(next)
}

/// Gives an operation its name, unless it has another, or another has it.
fn learn(state: &mut State, which: &Expected, name: &str) -> bool {
    let State::Here(instance) = state else { return false };
    let named = Some(name.to_owned());
    let Instance { running, ended, .. } = instance;
    let others = match which {
        Expected::Ended(index) => {
            let running = running.iter().any(|running| running.name == named);
            running
                || ended
                    .iter()
                    .enumerate()
                    .any(|(n, ended)| n != *index && ended.name == named)
        }
        _ => ended.iter().any(|ended| ended.name == named),
    };
    let slot = match which {
        Expected::Ended(index) => ended.get_mut(*index).map(|ended| &mut ended.name),
        _ => running.as_mut().map(|running| &mut running.name),
    };
    match slot {
        Some(slot) if !others && (slot.is_none() || *slot == named) => {
            *slot = named;
            true
        }
        _ => false,
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

impl Plan {
    pub fn id(self) -> &'static str {
        match self {
            Self::Small => "p",
            Self::Large => "q",
            Self::Unknown => "nowhere",
        }
    }
}
