//! A restart, node by node: each answers again before the next (`RebootCacheCluster`).

use jiff::Timestamp;

use super::super::{Desired, Record, Restart, RestartingNode};
use super::live::{Live, LiveNode, Phase};

/// What a restart that was asked for needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restarting {
    /// Nothing: it was done, or never asked for.
    Nothing,
    /// It is to begin then.
    Later(Timestamp),
    /// ElastiCache does not restart caches in cluster mode.
    Impossible,
    /// A node to be restarted next, with what the status says before.
    Reboot(Record, LiveNode),
    /// A node that is being restarted, with what the status says of it.
    Waiting(Record, String),
    /// It is done, which the status is to say.
    Done(Record),
}

/// What the restart that an instance asks for needs next. The cache is there, and available or rebooting.
pub fn restarting(desired: &Desired, record: &Record, live: &Live, now: Timestamp) -> Restarting {
    let Some(requested) = desired.restart_at else {
        return Restarting::Nothing;
    };
    if record.restarted_at.is_some_and(|done| done >= requested) {
        return Restarting::Nothing;
    }
    let finished = || {
        Restarting::Done(Record {
            restart: None,
            restarted_at: Some(requested),
            ..record.clone()
        })
    };
    // What was not made yet when it was asked for starts fresh anyway.
    if !desired.was_ready {
        return finished();
    }
    // What was begun is not put off because a clock was set back.
    let begun = record
        .restart
        .as_ref()
        .is_some_and(|restart| restart.requested == requested);
    if !begun && desired.restart_due(now).is_none() {
        return Restarting::Later(requested);
    }
    if live.config.sharded {
        return Restarting::Impossible;
    }
    let mut restart = record
        .restart
        .clone()
        .filter(|restart| restart.requested == requested)
        .unwrap_or(Restart {
            requested,
            done: Vec::new(),
            current: None,
        });
    let with = |restart: Restart| Record {
        restart: Some(restart),
        ..record.clone()
    };
    let rebooting = live.phase == Phase::Rebooting;
    if let Some(current) = restart.current.take() {
        if rebooting || !current.seen {
            let node = live.nodes.iter().find(|node| node.node.id == current.id);
            let id = current.id.clone();
            restart.current = Some(RestartingNode {
                seen: rebooting,
                ..current
            });
            return match node {
                // On record and not seen to happen: the call was not made, or its answer was lost before its effect.
                Some(node) if !rebooting => Restarting::Reboot(with(restart), node.clone()),
                _ => Restarting::Waiting(with(restart), id),
            };
        }
        restart.done.push(current.id);
    } else if rebooting {
        // Somebody else's.
        return Restarting::Waiting(with(restart), live.id.clone());
    }
    // Replicas first: the primary answers until a restarted one stands beside it.
    let mut nodes: Vec<_> = live.nodes.iter().collect();
    nodes.sort_by_key(|node| (node.primary == Some(true), node.node.id.clone()));
    match nodes.into_iter().find(|node| !restart.done.contains(&node.node.id)) {
        None => finished(),
        Some(node) => {
            restart.current = Some(RestartingNode {
                id: node.node.id.clone(),
                seen: false,
            });
            Restarting::Reboot(with(restart), node.clone())
        }
    }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
