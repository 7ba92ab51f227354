use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::super::status::status;
use super::*;
use crate::api::{CacheInstanceStatus, conditions};
use crate::provider::Record;

fn instance(spec: &Value, metadata: &Value, status: &Value) -> CacheInstance {
    let mut object = json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
        "metadata": { "name": "i", "namespace": "n", "uid": "u", "generation": 3, "finalizers": [FINALIZER] },
        "spec": { "planRef": { "name": "small" } },
        "status": status,
    });
    for (part, more) in [("spec", spec), ("metadata", metadata)] {
        for (key, value) in more.as_object().unwrap() {
            object[part][key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn plan(more: &Value) -> PlanLookup {
    let mut spec = json!({
        "service": "s", "id": "p", "description": "d",
        "engine": { "type": "memcached", "version": "1.6" }, "kubernetes": { "memory": "64Mi" },
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let spec = serde_json::from_value(spec).unwrap();
    PlanLookup::Found(Arc::new(PlanRevision {
        name: "small".to_owned(),
        revision: 2,
        spec,
    }))
}

const DELETING: &str = "2026-01-01T00:00:00Z";

fn opened(instance: &CacheInstance, plan: &PlanLookup) -> Opening {
    open(instance, plan, &BackupLookup::NotAsked)
}

fn said_status(instance: &CacheInstance, plan: &PlanLookup, report: &Report, now: Timestamp) -> CacheInstanceStatus {
    status(instance, plan, report, None, None, now)
}

fn said(opening: Opening) -> (Progress, Reason, String) {
    match opening {
        Opening::Say(report) => (report.progress, report.reason, report.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_is_held_before_anything_is_made_and_not_touched_once_it_is_let_go() {
    let none = json!({});
    let free = instance(&none, &json!({ "finalizers": [] }), &json!(null));
    assert_eq!(opened(&free, &plan(&none)), Opening::AddFinalizer);
    let gone = instance(
        &none,
        &json!({ "finalizers": ["other"], "deletionTimestamp": DELETING }),
        &json!(null),
    );
    assert_eq!(opened(&gone, &plan(&none)), Opening::Nothing);
}

#[test]
fn without_its_plan_an_instance_waits_and_can_be_deleted_if_nothing_was_made() {
    let none = json!({});
    let (progress, reason, message) = said(opened(&instance(&none, &none, &json!(null)), &PlanLookup::NoPlan));
    assert_eq!((progress, reason), (Progress::Reconciling, Reason::PlanNotFound));
    assert!(message.contains("CachePlan small"), "{message}");
    let deleting = json!({ "deletionTimestamp": DELETING });
    assert_eq!(
        opened(&instance(&none, &deleting, &json!(null)), &PlanLookup::NoPlan),
        Opening::LetGo
    );
    let made = instance(
        &none,
        &deleting,
        &json!({ "provider": "elasticache", "providerId": "x" }),
    );
    let (progress, reason, message) = said(opened(&made, &PlanLookup::NoPlan));
    assert_eq!((progress, reason), (Progress::Stalled, Reason::PlanRevisionNotFound));
    assert!(message.contains("spec.deletionPolicy"), "{message}");
    // Once it says what is to become of the data, it needs no plan to go.
    let running = json!({
        "provider": "elasticache", "providerId": "x", "firstReadyTime": DELETING,
        "plan": { "name": "p", "id": "p", "engine": "redis", "version": "7.1", "provider": "elasticache", "revision": 1 },
    });
    let told = instance(&json!({ "deletionPolicy": "Snapshot" }), &deleting, &running);
    assert!(
        matches!(opened(&told, &PlanLookup::NoRevision(1)), Opening::Proceed(desired)
        if desired.existence == Existence::Absent(DeletionPolicy::Snapshot))
    );
    // What it was asked to become does not keep it.
    let mismatched = instance(&none, &deleting, &running);
    assert!(matches!(opened(&mismatched, &plan(&none)), Opening::Proceed(_)));
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_made() {
    let none = json!({});
    let running = json!({ "plan": { "name": "other", "id": "o", "engine": "redis", "version": "7", "provider": "kubernetes", "revision": 1 } });
    for (spec, status, plan, reason) in [
        (
            json!({ "parameters": { "colour": "red" } }),
            json!(null),
            plan(&none),
            Reason::ParametersInvalid,
        ),
        (
            json!({ "users": [{ "name": "u", "secretRef": { "name": "s" } }] }),
            json!(null),
            plan(&none),
            Reason::PlanMismatch,
        ),
        (none.clone(), running, plan(&none), Reason::PlanMismatch),
        (
            none.clone(),
            json!(null),
            plan(&json!({ "state": "deprecated" })),
            Reason::PlanDeprecated,
        ),
        (
            none.clone(),
            json!(null),
            plan(&json!({ "kubernetes": null })),
            Reason::PlanMismatch,
        ),
        (
            none.clone(),
            json!(null),
            PlanLookup::NoRevision(9),
            Reason::PlanRevisionNotFound,
        ),
    ] {
        let (progress, said, message) = said(opened(&instance(&spec, &none, &status), &plan));
        assert_eq!((progress, said), (Progress::Stalled, reason), "{message}");
    }
}

#[test]
fn a_deprecated_plan_goes_on_for_instances_that_run_from_it() {
    let running = json!({ "plan": { "name": "small", "id": "p", "engine": "memcached", "version": "1.6", "provider": "kubernetes", "revision": 1 } });
    let opening = opened(
        &instance(&json!({}), &json!({}), &running),
        &plan(&json!({ "state": "deprecated" })),
    );
    assert!(matches!(opening, Opening::Proceed(_)), "{opening:?}");
}

#[test]
fn a_pause_stops_changes_and_deletions_and_keeps_what_answered_answering() {
    let status = json!({
        "endpoint": { "host": "h", "port": 1, "tls": false, "address": "h:1" },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": 3, "lastTransitionTime": DELETING }],
    });
    for deleting in [json!({}), json!({ "deletionTimestamp": DELETING })] {
        let mut metadata = deleting;
        metadata["annotations"] = json!({ annotations::PAUSED: "true" });
        let paused = instance(&json!({}), &metadata, &status);
        let plan = plan(&json!({}));
        let Opening::Say(report) = opened(&paused, &plan) else {
            panic!()
        };
        assert_eq!(report.reason, Reason::Paused);
        let paused = said_status(&paused, &plan, &report, Timestamp::UNIX_EPOCH);
        assert!(conditions::is_true(&paused.conditions, conditions::READY, 3));
        assert!(paused.endpoint.is_some());
    }
}

#[test]
fn what_is_not_carried_out_leaves_an_instance_with_the_plan_that_it_runs_from() {
    let running = json!({ "plan": { "name": "other", "id": "o", "engine": "redis", "version": "7.0", "provider": "kubernetes", "revision": 1 } });
    let none = json!({});
    let paused = json!({ "annotations": { annotations::PAUSED: "true" } });
    let unfit = json!({ "parameters": { "colour": "red" } });
    let unfilled = json!({ "restore": { "backup": "b" } });
    let later = plan(&json!({ "engine": { "type": "redis", "version": "7.2" } }));
    for (spec, metadata, status, reason) in [
        (&none, &paused, &running, Reason::Paused),
        (&unfit, &none, &running, Reason::ParametersInvalid),
        (&unfilled, &none, &running, Reason::BackupNotReady),
    ] {
        let stopped = instance(spec, metadata, status);
        let Opening::Say(report) = opened(&stopped, &later) else {
            panic!()
        };
        assert_eq!(report.reason, reason);
        let status = said_status(&stopped, &later, &report, Timestamp::UNIX_EPOCH);
        assert_eq!(status.plan.unwrap().name, "other", "{reason:?}");
    }
    // So a pause lets no plan through that would be refused.
    let stopped = instance(&none, &paused, &running);
    let Opening::Say(report) = opened(&stopped, &plan(&none)) else {
        panic!()
    };
    let status = said_status(&stopped, &plan(&none), &report, Timestamp::UNIX_EPOCH);
    let resumed = instance(&none, &none, &serde_json::to_value(status).unwrap());
    assert_eq!(said(opened(&resumed, &plan(&none))).1, Reason::PlanMismatch);
}

#[test]
fn the_policy_is_the_instances_then_the_plans_and_delete_for_what_never_answered() {
    let ready = json!({ "firstReadyTime": DELETING });
    let deleting = json!({ "deletionTimestamp": DELETING });
    for (spec, status, more, policy) in [
        (
            json!({ "deletionPolicy": "Retain" }),
            ready.clone(),
            json!({}),
            DeletionPolicy::Retain,
        ),
        (
            json!({}),
            ready.clone(),
            json!({ "deletionPolicy": "Retain" }),
            DeletionPolicy::Retain,
        ),
        (json!({}), ready, json!({}), DeletionPolicy::Delete),
        (
            json!({ "deletionPolicy": "Retain" }),
            json!({}),
            json!({}),
            DeletionPolicy::Delete,
        ),
    ] {
        let Opening::Proceed(desired) = opened(&instance(&spec, &deleting, &status), &plan(&more)) else {
            panic!()
        };
        assert_eq!(desired.existence, Existence::Absent(policy));
    }
}

#[test]
fn an_instance_stays_on_the_revision_it_runs_from_unless_its_spec_says_another() {
    let running = json!({ "plan": { "name": "small", "id": "p", "engine": "memcached", "version": "1.6", "provider": "kubernetes", "revision": 1 } });
    let none = json!({});
    assert_eq!(pinned_revision(&instance(&none, &none, &json!(null))), None);
    assert_eq!(pinned_revision(&instance(&none, &none, &running)), Some(1));
    let pinned = json!({ "planRef": { "name": "small", "revision": 4 } });
    assert_eq!(pinned_revision(&instance(&pinned, &none, &running)), Some(4));
}

#[test]
fn an_annotation_moves_an_instance_and_another_plan_begins_at_its_newest_revision() {
    let none = json!({});
    let running = |name: &str| json!({ "plan": { "name": name, "id": "p", "engine": "memcached", "version": "1.6", "provider": "kubernetes", "revision": 1 } });
    let moved = json!({ "annotations": { annotations::UPDATE_TO_REVISION: "3" } });
    assert_eq!(pinned_revision(&instance(&none, &moved, &running("small"))), Some(3));
    let pinned = json!({ "planRef": { "name": "small", "revision": 4 } });
    assert_eq!(pinned_revision(&instance(&pinned, &moved, &running("small"))), Some(4));
    assert_eq!(pinned_revision(&instance(&none, &none, &running("other"))), None);
    let garbled = json!({ "annotations": { annotations::UPDATE_TO_REVISION: "newest" } });
    assert_eq!(pinned_revision(&instance(&none, &garbled, &running("small"))), Some(1));
}

#[test]
fn an_annotation_that_moved_an_instance_within_one_plan_says_nothing_of_another() {
    let none = json!({});
    let asking = |revision: i64| json!({ "annotations": { annotations::UPDATE_TO_REVISION: revision.to_string() } });
    let running = json!({ "plan": { "name": "other", "id": "o", "engine": "memcached", "version": "1.6", "provider": "kubernetes", "revision": 3 } });
    let moved = instance(&none, &asking(3), &running);
    assert_eq!(pinned_revision(&moved), None, "it begins at the newest");
    let report = Report::new(Progress::Ready, Reason::Available, "m", Record::default());
    let status = said_status(&moved, &plan(&none), &report, Timestamp::UNIX_EPOCH);
    let status = serde_json::to_value(status).unwrap();
    assert_eq!(status["plan"]["name"], json!("small"));
    // It is left there, and stays without a meaning until it says something else.
    assert_eq!(pinned_revision(&instance(&none, &asking(3), &status)), Some(2));
    assert_eq!(pinned_revision(&instance(&none, &asking(4), &status)), Some(4));
    let moved_on = instance(&none, &asking(4), &status);
    let status = said_status(&moved_on, &plan(&none), &report, Timestamp::UNIX_EPOCH);
    assert_eq!(status.plan.unwrap().unheeded_revision, None);
}

#[test]
fn plans_that_an_instance_can_move_between() {
    let elasticache = |engine: &str, version: &str| {
        plan(&json!({
            "engine": { "type": engine, "version": version }, "kubernetes": null,
            "elasticache": { "nodeType": "cache.t4g.micro" },
        }))
    };
    let cluster = |engine: &str, version: &str| plan(&json!({ "engine": { "type": engine, "version": version } }));
    let running = |engine: &str, version: &str, provider: &str| {
        json!({ "plan": {
            "name": "old", "id": "o", "engine": engine, "version": version, "provider": provider, "revision": 1,
        } })
    };
    let saying = |mut status: Value, version: &str| {
        status["engine"] = json!({ "type": "redis", "version": version });
        status
    };
    let refused = |engine: &str, version: &str| saying(running(engine, version, "elasticache"), "7.0.7");
    let none = json!({});
    for (before, to, may) in [
        (
            running("redis", "7.0", "elasticache"),
            elasticache("redis", "7.1"),
            true,
        ),
        (
            running("redis", "7.1", "elasticache"),
            elasticache("redis", "7.0"),
            false,
        ),
        (
            running("redis", "7.1", "elasticache"),
            elasticache("valkey", "7.2"),
            true,
        ),
        (
            running("valkey", "7.2", "elasticache"),
            elasticache("redis", "7.2"),
            false,
        ),
        (running("redis", "7.0", "elasticache"), cluster("redis", "7.0"), false),
        (running("redis", "7.0", "kubernetes"), cluster("valkey", "8.0"), false),
        (
            running("memcached", "1.6", "elasticache"),
            cluster("memcached", "1.6"),
            true,
        ),
        (
            running("memcached", "1.6", "kubernetes"),
            elasticache("memcached", "1.5"),
            true,
        ),
        (running("memcached", "1.6", "kubernetes"), cluster("redis", "7"), false),
        // What it was asked to become and ElastiCache refused can be taken back; what runs cannot.
        (refused("redis", "7.9"), elasticache("redis", "7.0"), true),
        (refused("valkey", "9.9"), elasticache("redis", "7.0"), true),
        (refused("redis", "7.9"), elasticache("redis", "6.2"), false),
        // An image may be of a later version than its plan says.
        (
            saying(running("redis", "6.0", "kubernetes"), "7.0.15"),
            cluster("redis", "6.2"),
            true,
        ),
        // One that could not be pulled never ran.
        (
            saying(running("redis", "9.9", "kubernetes"), "8.2.1"),
            cluster("redis", "8.2"),
            true,
        ),
        (
            saying(running("redis", "9.9", "kubernetes"), "8.2.1"),
            cluster("redis", "7.2"),
            false,
        ),
    ] {
        let opening = opened(&instance(&none, &none, &before), &to);
        assert_eq!(matches!(opening, Opening::Proceed(_)), may, "{before} {opening:?}");
    }
}

#[test]
fn consent_is_given_by_order_by_annotation_and_for_one_generation() {
    let none = json!({});
    let consent_of = |annotations: Value| match opened(
        &instance(&none, &json!({ "annotations": annotations }), &json!(null)),
        &plan(&none),
    ) {
        Opening::Proceed(desired) => desired.consent,
        other => panic!("{other:?}"),
    };
    for (annotations, consent) in [
        (json!({}), Consent::Withheld),
        (json!({ annotations::APPROVE_DISRUPTION: "true" }), Consent::Given),
        (json!({ annotations::APPROVE_DISRUPTION: "3" }), Consent::Given),
        (json!({ annotations::APPROVE_DISRUPTION: "2" }), Consent::Withheld),
        (json!({ annotations::INSTANCE_ID: "x" }), Consent::Given),
    ] {
        assert_eq!(consent_of(annotations.clone()), consent, "{annotations}");
    }
}

/// What somebody else wrote into the spec of an ordered instance was not asked for by the platform.
#[test]
fn an_order_is_consent_to_what_the_ledger_wrote_and_to_nothing_else() {
    let none = json!({});
    let written = |revision: &str, digest: &str, seen: Value| {
        let annotations = json!({
            annotations::INSTANCE_ID: "x", annotations::LEDGER_REVISION: revision, annotations::LEDGER_SPEC: digest,
        });
        let status = json!({ "ledgerRevision": seen });
        let instance = instance(&none, &json!({ "annotations": annotations }), &status);
        let Opening::Proceed(desired) = opened(&instance, &plan(&none)) else {
            panic!("not opened");
        };
        let report = Report::new(Progress::Ready, Reason::Available, "", Record::default());
        let status = said_status(&instance, &plan(&none), &report, Timestamp::UNIX_EPOCH);
        (desired.consent, status.ledger_revision)
    };
    let digest = instance(&none, &none, &json!(null)).spec.digest();
    assert_eq!(written("7", &digest, json!(null)), (Consent::Given, Some(7)));
    assert_eq!(written("8", &digest, json!(7)), (Consent::Given, Some(8)));
    assert_eq!(
        written("7", "another", json!(7)),
        (Consent::Withheld, Some(7)),
        "edited"
    );
    assert_eq!(
        written("6", &digest, json!(7)),
        (Consent::Withheld, Some(7)),
        "put back from Git"
    );
}

#[test]
fn an_ordered_instance_is_deleted_only_when_that_was_asked_for() {
    let none = json!({});
    let deleting = |annotations: Value, status: Value| {
        let metadata = json!({ "deletionTimestamp": DELETING, "annotations": annotations });
        opened(&instance(&none, &metadata, &status), &plan(&none))
    };
    let ready = || json!({ "firstReadyTime": DELETING });
    let (progress, reason, message) = said(deleting(json!({ annotations::INSTANCE_ID: "x" }), ready()));
    assert_eq!((progress, reason), (Progress::Paused, Reason::DeletionHeld));
    assert!(
        message.contains("still has it as x") && message.contains(annotations::APPROVE_DELETION),
        "{message}"
    );
    for (annotations, status) in [
        (
            json!({ annotations::INSTANCE_ID: "x", annotations::APPROVE_DELETION: "true" }),
            ready(),
        ),
        // It holds nobody's data.
        (json!({ annotations::INSTANCE_ID: "x" }), json!({})),
        // Nobody ordered it.
        (json!({}), ready()),
    ] {
        assert!(
            matches!(deleting(annotations.clone(), status), Opening::Proceed(_)),
            "{annotations}"
        );
    }
}

#[test]
fn a_restart_is_asked_for_to_the_second_as_a_status_can_keep_it() {
    let none = json!({});
    let asked = json!({ "restartAt": "2026-01-01T00:00:00.987654321Z" });
    let Opening::Proceed(desired) = opened(&instance(&asked, &none, &json!(null)), &plan(&none)) else {
        panic!()
    };
    assert_eq!(desired.restart_at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
}

#[test]
fn a_backup_is_waited_for_and_must_fit() {
    let redis = plan(&json!({
        "engine": { "type": "redis", "version": "7.1" }, "kubernetes": null,
        "elasticache": { "nodeType": "cache.t4g.micro" },
    }));
    let none = json!({});
    let asking = json!({ "restore": { "backup": "b" } });
    let ready = |engine| BackupLookup::Ready {
        snapshot: "s".to_owned(),
        engine,
    };
    let wanted = |status: &Value, backup: &BackupLookup| open(&instance(&asking, &none, status), &redis, backup);
    for (backup, progress, reason) in [
        (BackupLookup::Missing, Progress::Reconciling, Reason::BackupNotReady),
        (BackupLookup::NotReady, Progress::Reconciling, Reason::BackupNotReady),
        (
            BackupLookup::Failed("f".to_owned()),
            Progress::Stalled,
            Reason::BackupMismatch,
        ),
        (ready(EngineType::Valkey), Progress::Stalled, Reason::BackupMismatch),
    ] {
        let (found, said, _) = said(wanted(&json!(null), &backup));
        assert_eq!((found, said), (progress, reason), "{backup:?}");
    }
    assert!(
        matches!(wanted(&json!(null), &ready(EngineType::Redis)), Opening::Proceed(desired)
        if desired.restore.as_ref().unwrap().snapshot == "s")
    );
    // Once it was filled, the backup may go.
    let filled = json!({ "restoredFrom": "b" });
    assert!(matches!(wanted(&filled, &BackupLookup::Missing), Opening::Proceed(_)));
}

#[test]
fn the_first_time_it_answered_is_kept() {
    let none = json!({});
    let before = instance(&none, &none, &json!(null));
    let plan = plan(&none);
    let report = |progress| Report::new(progress, Reason::Available, "m", Record::default());
    let at = |second| Timestamp::from_second(second).unwrap();
    let waiting = said_status(&before, &plan, &report(Progress::Reconciling), at(1));
    assert_eq!(waiting.first_ready_time, None);
    let ready = said_status(&before, &plan, &report(Progress::Ready), at(2));
    assert_eq!(ready.first_ready_time, Some(Time(at(2))));
    let later = CacheInstance {
        status: Some(ready.clone()),
        ..before
    };
    let again = said_status(&later, &plan, &report(Progress::Ready), at(3));
    assert_eq!(again, ready, "nothing changed, so nothing is written");
}
