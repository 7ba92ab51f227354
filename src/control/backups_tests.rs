use serde_json::{Value, json};

use super::*;
use crate::api::{FINALIZER, Topology};

fn backup(spec: &Value, metadata: &Value, status: &Value) -> CacheBackup {
    let mut object = json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheBackup",
        "metadata": { "name": "b", "namespace": "n", "uid": "u", "generation": 1, "finalizers": [FINALIZER] },
        "spec": { "instanceRef": { "name": "i" } },
        "status": status,
    });
    for (part, more) in [("spec", spec), ("metadata", metadata)] {
        for (key, value) in more.as_object().unwrap() {
            object[part][key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn snapshot(state: SnapshotState) -> Snapshot {
    Snapshot {
        name: "s".to_owned(),
        state,
        source: Some("group".to_owned()),
        engine: Some("redis".to_owned()),
        version: Some("7.1".to_owned()),
        size: Some("5 MB".to_owned()),
        created: Timestamp::from_second(7).ok(),
    }
}

fn ready() -> Source {
    Source::Ready(Target {
        topology: Topology::ReplicationGroup,
        id: "group".to_owned(),
    })
}

const DELETING: &str = "2026-01-01T00:00:00Z";

/// Long after that.
fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

#[test]
fn a_snapshot_is_on_record_before_it_is_asked_for_and_asked_for_once() {
    let none = json!({});
    let fresh = backup(&none, &none, &json!(null));
    let name = snapshot_name(&fresh, "Test");
    assert!(name.starts_with("test-backup-"), "{name}");
    let decision = decide(&fresh, &name, &ready(), None, now());
    assert!(matches!(decision.next, Next::Take(_)));
    let said = status(&fresh, &decision, None, Timestamp::UNIX_EPOCH);
    assert_eq!(said.snapshot.as_deref(), Some(name.as_str()));
    let busy = snapshot(SnapshotState::Busy);
    let decision = decide(&fresh, &name, &ready(), Some(&busy), now());
    assert_eq!((decision.next, decision.reason), (Next::Wait, Reason::Snapshotting));
}

#[test]
fn each_state_of_a_snapshot_is_said_as_it_is() {
    let none = json!({});
    let fresh = backup(&none, &none, &json!(null));
    for (state, progress, reason) in [
        (SnapshotState::Busy, Progress::Reconciling, Reason::Snapshotting),
        (SnapshotState::Available, Progress::Ready, Reason::Available),
        (SnapshotState::Deleting, Progress::Stalled, Reason::Failed),
        (
            SnapshotState::Failed("failed".to_owned()),
            Progress::Stalled,
            Reason::Failed,
        ),
    ] {
        let decision = decide(&fresh, "s", &ready(), Some(&snapshot(state.clone())), now());
        assert_eq!((decision.progress, decision.reason), (progress, reason), "{state:?}");
    }
    // One that was there and is not any more is not taken again: it would be of another time.
    let seen = backup(&none, &none, &json!({ "snapshot": "s", "seen": true }));
    let decision = decide(&seen, "s", &ready(), None, now());
    assert_eq!(
        (decision.next, decision.reason),
        (Next::Rest, Reason::ProviderResourceMissing)
    );
}

#[test]
fn what_has_no_backups_says_so_and_what_is_not_there_yet_is_waited_for() {
    let none = json!({});
    let fresh = backup(&none, &none, &json!(null));
    for (source, progress, reason) in [
        (
            Source::Without(EngineType::Memcached),
            Progress::Stalled,
            Reason::Unsupported,
        ),
        (Source::Missing, Progress::Reconciling, Reason::InstanceNotFound),
        (Source::NotReady, Progress::Reconciling, Reason::InstanceNotFound),
    ] {
        let decision = decide(&fresh, "s", &source, None, now());
        assert_eq!((decision.progress, decision.reason), (progress, reason), "{source:?}");
    }
    let named = backup(&json!({ "snapshot": "theirs" }), &none, &json!(null));
    assert_eq!(snapshot_name(&named, "test"), "theirs");
    let decision = decide(&named, "theirs", &Source::Missing, None, now());
    assert_eq!(
        decision.reason,
        Reason::ProviderResourceMissing,
        "a snapshot that is named is never taken"
    );
}

#[test]
fn a_snapshot_goes_with_its_backup_unless_it_is_to_stay() {
    let deleting = json!({ "deletionTimestamp": DELETING });
    let none = json!({});
    for (policy, state, next) in [
        ("Delete", Some(SnapshotState::Available), Next::Delete),
        ("Delete", Some(SnapshotState::Busy), Next::Wait),
        ("Delete", Some(SnapshotState::Deleting), Next::Wait),
        ("Delete", None, Next::Release),
        ("Retain", Some(SnapshotState::Available), Next::Release),
    ] {
        let going = backup(
            &json!({ "deletionPolicy": policy }),
            &deleting,
            &json!({ "snapshot": "s" }),
        );
        let decision = decide(&going, "s", &ready(), state.clone().map(snapshot).as_ref(), now());
        assert_eq!(decision.next, next, "{policy} {state:?}");
    }
    let free = backup(
        &none,
        &json!({ "finalizers": [], "deletionTimestamp": DELETING }),
        &json!(null),
    );
    assert_eq!(decide(&free, "s", &ready(), None, now()).next, Next::Rest);
}

/// A leader may have died over the call that asks for it.
#[test]
fn a_backup_whose_snapshot_may_still_appear_is_not_let_go() {
    let none = json!({});
    let deleting = json!({ "deletionTimestamp": DELETING });
    for (spec, status, at, next) in [
        (
            json!({}),
            json!({ "snapshot": "s" }),
            "2026-01-01T00:00:30Z",
            Next::Wait,
        ),
        (
            json!({}),
            json!({ "snapshot": "s" }),
            "2026-01-01T00:01:00Z",
            Next::Release,
        ),
        (json!({}), none.clone(), "2026-01-01T00:00:01Z", Next::Release),
        (
            json!({}),
            json!({ "snapshot": "s", "seen": true }),
            "2026-01-01T00:00:01Z",
            Next::Release,
        ),
        (
            json!({ "snapshot": "theirs" }),
            json!({ "snapshot": "theirs" }),
            "2026-01-01T00:00:01Z",
            Next::Release,
        ),
    ] {
        let going = backup(&spec, &deleting, &status);
        let decision = decide(&going, "s", &ready(), None, at.parse().unwrap());
        assert_eq!(decision.next, next, "{spec} {status} {at}");
    }
}

#[test]
fn only_a_complete_backup_fills_a_cache() {
    let none = json!({});
    let fresh = backup(&none, &none, &json!(null));
    assert_eq!(usable(&fresh), BackupLookup::NotReady);
    let say = |state| {
        let found = snapshot(state);
        let decision = decide(&fresh, "s", &ready(), Some(&found), now());
        let status = status(&fresh, &decision, Some(&found), Timestamp::UNIX_EPOCH);
        CacheBackup {
            status: Some(status),
            ..fresh.clone()
        }
    };
    assert_eq!(usable(&say(SnapshotState::Busy)), BackupLookup::NotReady);
    assert!(matches!(
        usable(&say(SnapshotState::Failed("failed".to_owned()))),
        BackupLookup::Failed(_)
    ));
    assert_eq!(
        usable(&say(SnapshotState::Available)),
        BackupLookup::Ready {
            snapshot: "s".to_owned(),
            engine: EngineType::Redis,
        }
    );
}

#[test]
fn the_latest_backup_of_an_instance_is_found() {
    let index = BackupIndex::default();
    let none = json!({});
    let mut first = backup(&none, &none, &json!(null));
    assert!(index.note(&first, Timestamp::from_second(5).ok()).is_some());
    assert!(index.note(&first, Timestamp::from_second(5).ok()).is_none(), "no news");
    let instance: CacheInstance = serde_json::from_value(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
        "metadata": { "name": "i", "namespace": "n" }, "spec": { "planRef": { "name": "p" } },
    }))
    .unwrap();
    first.metadata.name = Some("c".to_owned());
    index.note(&first, Timestamp::from_second(9).ok());
    assert_eq!(index.latest(&instance).unwrap().name, "c");
    index.note(&first, None);
    assert_eq!(index.latest(&instance).unwrap().name, "b");
}
