//! "Provisioning", "Updating a Service Instance", and polling those.

use std::collections::BTreeMap;

use super::{
    ASYNC, BUSY, Before, Call, Empty, Ended, Expected, IN_PROGRESS, Instance, Kind, Maintenance, Named, Parameters,
    Plan, Refused, STALE, State, Status, Told,
};

/// "Provisioning".
pub(super) fn provision(state: &State, call: &Call) -> Vec<(Expected, State)> {
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
    let refusals = applying([
        (*plan == Plan::Unknown, Refused(400, None)),
        (!incomplete, ASYNC),
        (!maintenance.is_of(*plan), STALE),
        (
            matches!(parameters, Parameters::Wrong | Parameters::NoLimit),
            Refused(400, None),
        ),
    ]);
    let wrong = !refusals.is_empty();
    refusals.into_iter().for_each(&mut may);
    let limit = match parameters {
        Parameters::Limit(limit) => Some(*limit),
        _ => None,
    };
    match state {
        // Ids are not used twice.
        State::Gone(..) => may(Refused(409, None)),
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
                backups: Vec::new(),
                filled: None,
            };
            let begun = instance.begun(Kind::Provision, Before::Nothing);
            possible.push((Expected::Running, State::Here(begun)));
        }
        State::Here(instance) => {
            let now = (instance.plan, instance.limit);
            let was = match instance.running.as_ref().map(|running| &running.before) {
                Some(Before::Update(_, was)) => *was,
                _ => now,
            };
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

/// The refusals of the checks that fail, in the broker's order.
fn applying<const N: usize>(checks: [(bool, Expected); N]) -> Vec<Expected> {
    let failing = checks.into_iter().filter(|(fails, _)| *fails);
    failing.map(|(_, refusal)| refusal).collect()
}

/// "Updating a Service Instance".
pub(super) fn update(state: &State, call: &Call) -> Vec<(Expected, State)> {
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
        match &running.before {
            Before::Update(asked, _) if without_incomplete(asked) == without_incomplete(call) => {
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
    let refusals = applying([
        (*plan == Some(Plan::Unknown), Refused(400, None)),
        (!maintenance.is_of(plan.unwrap_or(instance.plan)), STALE),
        (*parameters == Parameters::Wrong, Refused(400, None)),
    ]);
    if !refusals.is_empty() {
        refusals.into_iter().for_each(&mut may);
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
        let mut next = instance.begun(Kind::Update, Before::Update(without_incomplete(call), before));
        (next.plan, next.limit) = after;
        possible.push((Expected::Running, State::Here(next)));
    }
    possible
}

/// "Polling Last Operation for Service Instances".
pub(super) fn polled(state: &State, named: &Named) -> Expected {
    let (running, ended, gone) = match state {
        State::Never => return Refused(404, None),
        State::Here(instance) => (instance.running.as_ref(), &instance.ended, false),
        State::Gone(ended, _) => (None, ended, true),
    };
    let told = |ended: &Ended| match (ended.kind, ended.well) {
        (Kind::Deprovision, well) if well || gone => Empty(410),
        (_, true) => Told("succeeded"),
        (_, false) => Told("failed"),
    };
    match named {
        Named::Latest if gone => Empty(410),
        Named::Latest => {
            if running.is_some_and(|running| running.kind.is_specified()) {
                return Told(IN_PROGRESS);
            }
            let latest = ended.iter().rev().find(|ended| ended.kind.is_specified());
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
