//! What is asked beside the specification. It keeps to its rules: 404 for what does not exist, ConcurrencyError for what is
//! busy, 202 with the same operation for a repetition.

use serde_json::Value;

use super::{BUSY, Before, Call, Copy, Expected, Instance, Kind, Refused, Service, State};

pub(super) fn possible(service: Service, state: &State, call: &Call) -> Vec<(Expected, State)> {
    let same = |expected| vec![(expected, state.clone())];
    let State::Here(instance) = state else {
        return same(Refused(404, None));
    };
    if instance.leaving || instance.runs(Kind::Provision) {
        return same(BUSY);
    }
    if !instance.usable || (service == Service::Memcached && *call != Call::Restart) {
        return same(Refused(422, None));
    }
    let begun = |kind, before| (Expected::Running, instance.begun(kind, before));
    let (expected, next) = match (call, &instance.running) {
        (Call::Backups, _) => return same(Expected::Backups),
        (_, Some(running)) => {
            return same(if repeats(call, instance, running.kind) {
                Expected::Running
            } else {
                BUSY
            });
        }
        (Call::Restart, None) => begun(Kind::Restart, Before::Nothing),
        (Call::Restore(id), None) => {
            let known = instance.backups.iter().position(|copy| copy.id.as_ref() == Some(id));
            match known.map(|index| (index, instance.backups[index].well)) {
                None => return same(Refused(404, None)),
                Some((index, Some(true))) if instance.filled != Some(index) => {
                    let (expected, mut next) = begun(Kind::Restore, Before::Restore(instance.filled));
                    next.filled = Some(index);
                    (expected, next)
                }
                Some(_) => return same(Refused(422, None)),
            }
        }
        (_, None) => {
            let (expected, mut next) = begun(Kind::Backup, Before::Nothing);
            next.backups.push(Copy { id: None, well: None });
            (expected, next)
        }
    };
    vec![(expected, State::Here(next))]
}

/// Whether a call asks for what goes on.
fn repeats(call: &Call, instance: &Instance, running: Kind) -> bool {
    match call {
        Call::Restart => running == Kind::Restart,
        Call::Backup => running == Kind::Backup,
        Call::Restore(id) => {
            let filled = instance.filled.and_then(|index| instance.backups[index].id.as_ref());
            running == Kind::Restore && filled == Some(id)
        }
        _ => false,
    }
}

/// Gives backups the ids that a list of them tells; `false` if it is not the list of these. The latest comes first.
pub(super) fn learn(state: &mut State, list: &Value) -> bool {
    let State::Here(Instance { backups, .. }) = state else {
        return false;
    };
    let Some(list) = list.as_array().filter(|list| list.len() == backups.len()) else {
        return false;
    };
    let told: Vec<_> = list.iter().rev().filter_map(|told| told["id"].as_str()).collect();
    let distinct: std::collections::BTreeSet<_> = told.iter().collect();
    if distinct.len() != backups.len() {
        return false;
    }
    for ((copy, id), told) in backups.iter_mut().zip(told).zip(list.iter().rev()) {
        let status = match copy.well {
            None => "creating",
            Some(true) => "available",
            Some(false) => "failed",
        };
        if told["status"].as_str() != Some(status) || copy.id.as_deref().is_some_and(|known| known != id) {
            return false;
        }
        copy.id = Some(id.to_owned());
    }
    true
}
