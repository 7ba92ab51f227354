//! Which orders of calls made at one time explain their answers.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

use super::model::{Call, Event, Service, State, before, called, happened};

/// What a client heard of its call.
#[derive(Clone, Debug)]
pub enum Heard {
    Answer(u16, Value),
    /// It hung up: the call may have been served, and may be a little later.
    Nothing,
    /// It hung up before the call was complete, which can have no effect.
    Broken,
}

/// What an instance may be: a state, and calls that may be served yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Belief {
    state: State,
    pending: Vec<Call>,
}

/// All that an instance of a service may be.
#[derive(Clone, Debug)]
pub struct Beliefs {
    service: Service,
    each: HashSet<Belief>,
}

impl fmt::Display for Beliefs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for belief in &self.each {
            writeln!(f, "  {belief:?}")?;
        }
        Ok(())
    }
}

/// A place on the way through one batch.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    state: State,
    /// Which calls of the batch are still to come.
    calls: Vec<usize>,
    /// How many events were.
    events: usize,
    /// Calls of the batch before that may be served yet.
    pending: Vec<Call>,
}

impl Beliefs {
    /// Before the first call.
    pub fn new(service: Service) -> Self {
        let never = Belief {
            state: State::Never,
            pending: Vec::new(),
        };
        Self {
            service,
            each: HashSet::from([never]),
        }
    }

    /// Whether nothing explains what was heard.
    pub fn is_impossible(&self) -> bool {
        self.each.is_empty()
    }

    /// What the instance may be after calls that were made at one time, beside events that followed each other.
    pub fn after(&self, calls: &[(Call, Heard)], events: &[Event]) -> Self {
        let mut open: Vec<Place> = self
            .each
            .iter()
            .map(|belief| Place {
                state: before(belief.state.clone()),
                calls: (0..calls.len())
                    .filter(|n| !matches!(calls[*n].1, Heard::Broken))
                    .collect(),
                events: 0,
                pending: belief.pending.clone(),
            })
            .collect();
        let mut seen: HashSet<Place> = open.iter().cloned().collect();
        let mut ends = HashSet::new();
        while let Some(place) = open.pop() {
            let unanswered = |n: &usize| matches!(calls[*n].1, Heard::Nothing);
            if place.events == events.len() && place.calls.iter().all(unanswered) {
                ends.insert(Belief {
                    state: place.state.clone(),
                    pending: place.calls.iter().map(|n| calls[*n].0.clone()).collect(),
                });
            }
            for next in steps(self.service, &place, calls, events) {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Self {
            service: self.service,
            each: ends,
        }
    }
}

fn steps(service: Service, place: &Place, calls: &[(Call, Heard)], events: &[Event]) -> Vec<Place> {
    let mut next = Vec::new();
    if let Some(event) = events.get(place.events) {
        next.push(Place {
            state: happened(&place.state, *event),
            events: place.events + 1,
            ..place.clone()
        });
    }
    for (at, n) in place.calls.iter().enumerate() {
        let (call, heard) = &calls[*n];
        let answer = match heard {
            Heard::Answer(status, body) => Some((*status, body)),
            Heard::Nothing | Heard::Broken => None,
        };
        for state in called(service, &place.state, call, answer) {
            let mut calls = place.calls.clone();
            calls.remove(at);
            next.push(Place {
                state,
                calls,
                ..place.clone()
            });
        }
    }
    for (at, call) in place.pending.iter().enumerate() {
        for state in called(service, &place.state, call, None) {
            let mut pending = place.pending.clone();
            pending.remove(at);
            next.push(Place {
                state,
                pending,
                ..place.clone()
            });
        }
    }
    next
}
