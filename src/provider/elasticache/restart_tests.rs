use serde_json::json;

use super::super::fixtures::{at, desired, made, memcached, plan};
use super::*;
use crate::api::CachePlanSpec;
use crate::provider::Record;

const ASKED: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-01T00:00:10Z";

fn wanted(plan: CachePlanSpec) -> Desired {
    let mut desired = desired(plan);
    desired.was_ready = true;
    desired.restart_at = Some(at(ASKED));
    desired
}

/// Plays a restart to its end; returns the nodes in the order in which they were restarted. `crash` loses the process
/// right before the nth call.
fn play(plan: CachePlanSpec, crash: Option<usize>) -> Vec<String> {
    let desired = wanted(plan.clone());
    let (mut live, mut record, mut rebooted) = (made(&plan, 0), Record::default(), Vec::new());
    for turn in 0..40 {
        match restarting(&desired, &record, &live, at(NOW)) {
            Restarting::Reboot(before, node) => {
                record = before;
                if crash == Some(turn) {
                    continue;
                }
                assert_eq!(live.phase, Phase::Available, "one node at a time");
                rebooted.push(node.node.id);
                live.phase = Phase::Rebooting;
            }
            Restarting::Waiting(before, _) => {
                record = before;
                live.phase = Phase::Available;
            }
            Restarting::Done(after) => {
                assert_eq!(after.restarted_at, Some(at(ASKED)));
                assert_eq!(restarting(&desired, &after, &live, at(NOW)), Restarting::Nothing);
                return rebooted;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("no end: {rebooted:?}");
}

#[test]
fn nodes_are_restarted_one_after_the_other_and_a_crash_repeats_none_and_skips_none() {
    let undisturbed = play(memcached(), None);
    assert_eq!(undisturbed, ["0001", "0002"]);
    for crash in 0..6 {
        assert_eq!(play(memcached(), Some(crash)), undisturbed, "crash before turn {crash}");
    }
}

#[test]
fn replicas_come_before_the_primary() {
    let group = plan("redis", "7.1", &json!({ "nodeType": "cache.t4g.micro", "replicas": 2 }));
    let order: Vec<_> = play(group, None)
        .iter()
        .map(|id| id[id.len() - 3..].to_owned())
        .collect();
    assert_eq!(order, ["002", "003", "001"]);
}

#[test]
fn a_restart_waits_for_its_time_and_is_not_done_twice() {
    let mut desired = wanted(memcached());
    let live = made(&memcached(), 0);
    desired.restart_at = Some(at("2026-01-02T00:00:00Z"));
    assert_eq!(
        restarting(&desired, &Record::default(), &live, at(NOW)),
        Restarting::Later(at("2026-01-02T00:00:00Z"))
    );
    // Unless it was begun, or ordered by a clock that is ahead.
    let begun = Record {
        restart: Some(Restart {
            requested: at("2026-01-02T00:00:00Z"),
            done: Vec::new(),
            current: None,
        }),
        ..Record::default()
    };
    assert!(matches!(
        restarting(&desired, &begun, &live, at(NOW)),
        Restarting::Reboot(..)
    ));
    desired.ordered = true;
    assert!(matches!(
        restarting(&desired, &Record::default(), &live, at(NOW)),
        Restarting::Reboot(..)
    ));
    desired.restart_at = None;
    assert_eq!(
        restarting(&desired, &Record::default(), &live, at(NOW)),
        Restarting::Nothing
    );
}

#[test]
fn what_is_new_needs_no_restart_and_what_has_shards_takes_none() {
    let mut desired = wanted(memcached());
    desired.was_ready = false;
    assert!(matches!(
        restarting(&desired, &Record::default(), &made(&memcached(), 0), at(NOW)),
        Restarting::Done(_)
    ));
    let sharded = plan("redis", "7.1", &json!({ "nodeType": "cache.t4g.micro", "shards": 2 }));
    assert_eq!(
        restarting(
            &wanted(sharded.clone()),
            &Record::default(),
            &made(&sharded, 0),
            at(NOW)
        ),
        Restarting::Impossible
    );
}
