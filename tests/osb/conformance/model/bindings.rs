//! "Binding", "Binding Rotation", "Unbinding", and polling those.

use super::{
    ASYNC, BUSY, Before, Credentials, Empty, Ended, Expected, IN_PROGRESS, Instance, Kind, Named, Origin, Refused,
    Running, Service, State, Told,
};

/// A binding id that was bound once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    live: Option<Binding>,
    ended: Vec<Ended>,
}

/// A binding that is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Binding {
    origin: Origin,
    /// Whether it was made.
    made: bool,
    /// Whether its end was accepted.
    leaving: bool,
    running: Option<Running>,
}

impl Binding {
    /// Whether it may be used.
    fn holds(&self) -> bool {
        self.made && !self.leaving
    }
}

impl Held {
    /// What goes on for it.
    pub(super) fn under_way(&mut self) -> Option<&mut Running> {
        self.live.as_mut()?.running.as_mut()
    }

    /// Ends what goes on: what could not be made is gone, what could not be removed may be tried again.
    pub(super) fn end(&mut self, well: bool) {
        let Some(binding) = &mut self.live else { return };
        let Some(running) = binding.running.take() else { return };
        let kind = running.kind;
        self.ended.push(running.ended(well));
        match (kind, well) {
            (Kind::Bind, true) => binding.made = true,
            // One whose end was accepted meanwhile ends by that.
            (Kind::Bind, false) if binding.leaving => {}
            (_, false) if kind == Kind::Unbind => {}
            _ => self.live = None,
        }
    }

    /// Its instance is gone.
    pub(super) fn lose(&mut self) {
        let unbinding = self.under_way().is_some_and(|running| running.kind == Kind::Unbind);
        self.end(unbinding);
        self.live = None;
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let running = self.live.iter().filter_map(|binding| binding.running.as_ref());
        let running = running.filter_map(|running| running.name.as_deref());
        running.chain(self.ended.iter().filter_map(|ended| ended.name.as_deref()))
    }
}

fn live(state: &State, binding: u8) -> Option<(&Instance, &Binding)> {
    let State::Here(instance) = state else { return None };
    Some((instance, instance.bindings.get(&binding)?.live.as_ref()?))
}

pub(super) fn fetched(state: &State, binding: u8) -> Expected {
    match live(state, binding) {
        Some((_, binding)) if binding.holds() => Credentials(200),
        _ => Refused(404, None),
    }
}

/// "Binding" and "Binding Rotation".
pub(super) fn bind(
    service: Service,
    state: &State,
    binding: u8,
    origin: Origin,
    incomplete: bool,
) -> Vec<(Expected, State)> {
    let mut possible: Vec<(Expected, State)> = Vec::new();
    let mut may = |expected| possible.push((expected, state.clone()));
    if origin == Origin::Unread {
        may(Refused(400, None));
        return possible;
    }
    let State::Here(instance) = state else {
        may(Refused(404, None));
        return possible;
    };
    if let Some((_, existing)) = live(state, binding) {
        may(if existing.origin != origin {
            Refused(409, None)
        } else if existing.holds() {
            Credentials(200)
        } else if existing.leaving {
            BUSY
        } else if incomplete {
            Expected::OfBinding(binding)
        } else {
            ASYNC
        });
        return possible;
    }
    let mut wrong = false;
    let unfit = match origin {
        Origin::Fresh { plan, .. } => (plan != instance.plan).then_some(Refused(400, None)),
        Origin::Successor(predecessor) => {
            let holds = live(state, predecessor).is_some_and(|(_, predecessor)| predecessor.holds());
            match (holds, service) {
                (false, _) => Some(Refused(400, None)),
                // Those that share a password do not succeed each other.
                (true, Service::Memcached) => Some(Refused(422, None)),
                (true, Service::Redis) => None,
            }
        }
        Origin::Unread => None,
    };
    let impatient = service == Service::Redis && !incomplete;
    for refusal in unfit.into_iter().chain(impatient.then_some(ASYNC)) {
        wrong = true;
        may(refusal);
    }
    if instance.running.is_some() || instance.leaving {
        may(BUSY);
    } else if !instance.usable {
        may(Refused(422, None));
    } else if !wrong {
        let mut next = instance.clone();
        let running = (service == Service::Redis).then(|| Running::new(Kind::Bind, Before::Nothing));
        let expected = match running {
            Some(_) => Expected::OfBinding(binding),
            None => Credentials(201),
        };
        next.bindings.entry(binding).or_default().live = Some(Binding {
            origin,
            made: running.is_none(),
            leaving: false,
            running,
        });
        possible.push((expected, State::Here(next)));
    }
    possible
}

/// "Unbinding": what an end that is asked for in order comes to; nothing if there is nothing to end.
pub(super) fn unbind(service: Service, state: &State, binding: u8) -> Option<(Expected, State)> {
    let (instance, existing) = live(state, binding)?;
    let mut next = instance.clone();
    let held = next.bindings.get_mut(&binding)?;
    if service == Service::Memcached {
        held.live = None;
        return Some((Empty(200), State::Here(next)));
    }
    let runs = existing.running.as_ref();
    if !runs.is_some_and(|running| running.kind == Kind::Unbind) {
        let live = held.live.as_mut()?;
        live.leaving = true;
        // "Unbinding": a bind is halted.
        held.end(false);
        held.live.as_mut()?.running = Some(Running::new(Kind::Unbind, Before::Nothing));
    }
    Some((Expected::OfBinding(binding), State::Here(next)))
}

/// "Polling Last Operation for Service Bindings".
pub(super) fn polled(state: &State, binding: u8, named: &Named) -> Expected {
    let bindings = match state {
        State::Never => None,
        State::Here(instance) => Some(&instance.bindings),
        State::Gone(_, bindings) => Some(bindings),
    };
    let Some(held) = bindings.and_then(|bindings| bindings.get(&binding)) else {
        return Refused(404, None);
    };
    let running = held.live.as_ref().and_then(|binding| binding.running.as_ref());
    let told = |ended: &Ended| match (ended.kind, ended.well) {
        (Kind::Unbind, true) => Empty(410),
        (_, true) => Told("succeeded"),
        (_, false) => Told("failed"),
    };
    match (named, running) {
        (Named::Operation(name), Some(running)) if running.name.as_ref() == Some(name) => Told(IN_PROGRESS),
        (Named::Operation(name), _) => {
            let ended = held.ended.iter().find(|ended| ended.name.as_ref() == Some(name));
            ended.map_or(Refused(400, None), told)
        }
        (Named::Latest, Some(_)) => Told(IN_PROGRESS),
        (Named::Latest, None) => match (&held.live, held.ended.last()) {
            (Some(_), ended) => ended.map_or(Told("succeeded"), told),
            // What could not be made is gone, and who asks hears why.
            (None, Some(ended)) if ended.kind == Kind::Bind && !ended.well => Told("failed"),
            (None, _) => Empty(410),
        },
    }
}
