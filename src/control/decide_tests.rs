use serde_json::{Value, json};

use super::status as status_of;
use super::*;
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
    assert_eq!(open(&free, &plan(&none)), Opening::AddFinalizer);
    let gone = instance(
        &none,
        &json!({ "finalizers": ["other"], "deletionTimestamp": DELETING }),
        &json!(null),
    );
    assert_eq!(open(&gone, &plan(&none)), Opening::Nothing);
}

#[test]
fn without_its_plan_an_instance_waits_and_can_be_deleted_if_nothing_was_made() {
    let none = json!({});
    let (progress, reason, message) = said(open(&instance(&none, &none, &json!(null)), &PlanLookup::NoPlan));
    assert_eq!((progress, reason), (Progress::Reconciling, Reason::PlanNotFound));
    assert!(message.contains("CachePlan small"), "{message}");
    let deleting = json!({ "deletionTimestamp": DELETING });
    assert_eq!(
        open(&instance(&none, &deleting, &json!(null)), &PlanLookup::NoPlan),
        Opening::LetGo
    );
    let made = instance(
        &none,
        &deleting,
        &json!({ "provider": "elasticache", "providerId": "x" }),
    );
    assert_eq!(said(open(&made, &PlanLookup::NoPlan)).1, Reason::PlanNotFound);
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
            json!({ "adopt": { "providerId": "x" } }),
            json!(null),
            plan(&none),
            Reason::Unsupported,
        ),
        (
            json!({ "restartAt": DELETING }),
            json!(null),
            plan(&json!({ "kubernetes": null, "elasticache": { "nodeType": "cache.t4g.micro" } })),
            Reason::Unsupported,
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
        let (progress, said, message) = said(open(&instance(&spec, &none, &status), &plan));
        assert_eq!((progress, said), (Progress::Stalled, reason), "{message}");
    }
}

#[test]
fn a_deprecated_plan_goes_on_for_instances_that_run_from_it() {
    let running = json!({ "plan": { "name": "small", "id": "p", "engine": "memcached", "version": "1.6", "provider": "kubernetes", "revision": 1 } });
    let opening = open(
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
        let Opening::Say(report) = open(&paused, &plan) else {
            panic!()
        };
        assert_eq!(report.reason, Reason::Paused);
        let paused = status_of(&paused, &plan, &report, Timestamp::UNIX_EPOCH);
        assert!(conditions::is_true(&paused.conditions, conditions::READY, 3));
        assert!(paused.endpoint.is_some());
    }
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
        let Opening::Proceed(desired) = open(&instance(&spec, &deleting, &status), &plan(&more)) else {
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
fn the_first_time_it_answered_is_kept() {
    let none = json!({});
    let before = instance(&none, &none, &json!(null));
    let plan = plan(&none);
    let report = |progress| Report::new(progress, Reason::Available, "m", Record::default());
    let at = |second| Timestamp::from_second(second).unwrap();
    let waiting = status_of(&before, &plan, &report(Progress::Reconciling), at(1));
    assert_eq!(waiting.first_ready_time, None);
    let ready = status_of(&before, &plan, &report(Progress::Ready), at(2));
    assert_eq!(ready.first_ready_time, Some(Time(at(2))));
    let later = CacheInstance {
        status: Some(ready.clone()),
        ..before
    };
    let again = status_of(&later, &plan, &report(Progress::Ready), at(3));
    assert_eq!(again, ready, "nothing changed, so nothing is written");
}
