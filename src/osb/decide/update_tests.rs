use http::StatusCode;
use proptest::prelude::*;
use serde_json::json;

use super::super::fixtures::*;
use super::*;
use crate::api::CachePlan;
use crate::ledger::{Operation, OperationState};

const ACCEPTED: &str = "accepted";
const REPEATED: &str = "202 with the same operation";
const DONE: &str = "200";
const NOTED: &str = "context noted";

fn request(members: Value) -> UpdateRequest {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let object = |name: &str| members.get(name).and_then(Value::as_object).cloned();
    UpdateRequest {
        service_id: text("service_id").unwrap_or(SERVICE).parse().unwrap(),
        plan_id: text("plan_id").map(|plan| plan.parse().unwrap()),
        context: object("context"),
        parameters: object("parameters"),
        allow_replace: members.get("allow_replace").is_some(),
        maintenance_version: text("version").map(str::to_owned),
        accepts_incomplete: members.get("sync").is_none(),
        webhook: None,
    }
}

fn standing() -> Changeable {
    Changeable {
        parameters: members(json!({ "connectionLimit": 5 })),
        context: members(json!({ "instance_name": "mine" })),
        plan_spec: None,
        asked: None,
        open: false,
        encrypted_at_rest: None,
    }
}

fn judge(request: &UpdateRequest, catalog: &Catalog, held: Option<&Held<Changeable>>) -> Judgement<Reply, Change> {
    super::judge(request, catalog, (&Quotas::default(), &Usage::default()), held)
}

fn decide(request: &UpdateRequest, held: Option<&Held<Changeable>>) -> Judgement<Reply, Change> {
    match admit(request) {
        Ok(()) => judge(request, &catalog(&offered()), held),
        Err(error) => Judgement::Answer(Err(error)),
    }
}

fn told(judgement: &Judgement<Reply, Change>) -> String {
    match judgement {
        Judgement::Accept(Change::Update(_)) => ACCEPTED.to_owned(),
        Judgement::Accept(Change::Context(_)) => NOTED.to_owned(),
        Judgement::Answer(Ok(answer)) if answer.status == StatusCode::OK => DONE.to_owned(),
        Judgement::Answer(Ok(answer)) => {
            assert_eq!(*answer, Answer::accepted(operation_id()));
            REPEATED.to_owned()
        }
        Judgement::Answer(Err(error)) => {
            let code = error.code().map(|code| format!(" {}", code.as_str()));
            format!("{}{}", error.status().as_u16(), code.unwrap_or_default())
        }
    }
}

/// The instance while it does what that request asked for.
fn running(asked: &UpdateRequest) -> Held<Changeable> {
    updating(Changeable {
        asked: Some(asked.asked()),
        ..standing()
    })
}

fn accepted(request: &UpdateRequest, catalog: &Catalog, held: &Held<Changeable>) -> NewUpdate {
    match judge(request, catalog, Some(held)) {
        Judgement::Accept(Change::Update(new)) => *new,
        other => panic!("not accepted: {other:?}"),
    }
}

#[test]
fn a_plan_change_takes_the_newest_revision_and_the_shorter_deadline_and_keeps_the_parameters() {
    let new = accepted(
        &request(json!({ "plan_id": "larger" })),
        &catalog(&offered()),
        &held(standing()),
    );
    assert_eq!(
        (new.plan_id.as_str(), new.plan_name.as_str(), new.plan_revision),
        ("larger", "larger", 5)
    );
    assert_eq!(new.parameters, standing().parameters);
    assert_eq!((new.deadline.as_secs(), new.context), (600, None));
}

/// OSB 2.17, "Maintenance Info Object": the platform moves an instance to what the catalog has.
#[test]
fn an_instance_stays_on_its_revision_until_a_version_is_named() {
    let newer = catalog(&[plan(json!({
        "spec": { "parameters": { "properties": { "connectionLimit": { "maximum": 5 } } } },
        "status": { "revision": 4 },
    }))]);
    // The parameters are judged by the revision that the instance runs from.
    let mut held = held(standing());
    held.opened.plan_spec = Some(serde_json::to_value(plan(json!({})).spec).unwrap());
    let parameters = json!({ "connectionLimit": 50 });
    let new = accepted(&request(json!({ "parameters": parameters })), &newer, &held);
    assert_eq!(new.plan_revision, 3);
    let new = accepted(&request(json!({ "version": "4.0.0" })), &newer, &held);
    assert_eq!((new.plan_id.as_str(), new.plan_revision), ("p", 4));
    let both = request(json!({ "version": "4.0.0", "parameters": parameters }));
    assert_eq!(told(&judge(&both, &newer, Some(&held))), "400");
    let stale = request(json!({ "version": "3.0.0" }));
    assert_eq!(told(&judge(&stale, &newer, Some(&held))), "422 MaintenanceInfoConflict");
}

/// A valkey that was a redis is not encrypted at rest, whatever valkey does by itself.
#[test]
fn a_cache_is_replaced_with_leave_also_where_only_its_provider_tells_that_it_must_be() {
    let valkey = |id: &str, at_rest: Option<bool>| {
        let spec = json!({
            "engine": { "type": "valkey", "version": "8.0" }, "kubernetes": null, "parameters": null,
            "elasticache": { "nodeType": "cache.t4g.micro", "atRestEncryption": at_rest },
        });
        named(id, json!({ "spec": spec }))
    };
    let (open, sealed) = (valkey("p", None), valkey("sealed", Some(true)));
    let offered = catalog(&[open.clone(), sealed]);
    let mut held = held(Changeable::default());
    held.opened.plan_spec = Some(serde_json::to_value(open.spec).unwrap());
    let moving = request(json!({ "plan_id": "sealed" }));
    for (encrypted, answer) in [(None, ACCEPTED), (Some(true), ACCEPTED), (Some(false), "422")] {
        held.opened.encrypted_at_rest = encrypted;
        assert_eq!(told(&judge(&moving, &offered, Some(&held))), answer, "{encrypted:?}");
    }
}

/// OSB 2.17, "Catalog Management": an instance outlives the plan it was ordered from.
#[test]
fn an_instance_of_a_plan_that_is_gone_is_changed_as_far_as_it_is_known() {
    let others: Vec<CachePlan> = offered().into_iter().skip(1).collect();
    let others = catalog(&others);
    let unknown = held(standing());
    let mut known = held(standing());
    known.opened.plan_spec = Some(serde_json::to_value(plan(json!({})).spec).unwrap());
    let parameters = request(json!({ "parameters": { "connectionLimit": 6 } }));
    let moving = request(json!({ "plan_id": "larger" }));
    for asked in [&parameters, &moving] {
        assert_eq!(told(&judge(asked, &others, Some(&known))), ACCEPTED);
        assert_eq!(told(&judge(asked, &others, Some(&unknown))), "422");
    }
    let version = request(json!({ "version": "3.0.0" }));
    assert_eq!(
        told(&judge(&version, &others, Some(&known))),
        "422 MaintenanceInfoConflict"
    );
    assert_eq!(
        told(&judge(&request(json!({ "plan_id": "p" })), &others, Some(&unknown))),
        DONE
    );
}

#[test]
fn only_plans_that_are_listed_are_moved_to() {
    let mut plans = offered();
    plans[0].spec.updatable_to = Some(vec!["bare".to_owned()]);
    let refused = judge(
        &request(json!({ "plan_id": "larger" })),
        &catalog(&plans),
        Some(&held(standing())),
    );
    let Judgement::Answer(Err(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.description().contains("updatableTo"), "{}", error.description());
    let body = error.body(crate::osb::version::Version::V17);
    assert_eq!(
        (&body["instance_usable"], &body["update_repeatable"]),
        (&json!(true), &json!(false))
    );
}

/// What was taken over as it stood may let everybody in, then and later.
#[test]
fn a_cache_that_asks_for_no_password_gets_no_users() {
    let redis = |id: &str, credentials: &str| {
        let mut plan = plan(json!({
            "spec": { "service": "akkeris-redis", "engine": { "type": "redis", "version": "7.2" }, "bindingCredentials": credentials },
        }));
        plan.metadata.name = Some(id.to_owned());
        plan.spec.id = id.to_owned();
        plan
    };
    let catalog = catalog(&[redis("p", "shared"), redis("users", "perBinding")]);
    let service = "0a8d668d-2971-4533-8e38-a816a7c01bec";
    for (open, expected) in [(true, "422"), (false, ACCEPTED)] {
        let mut held = held(Changeable { open, ..standing() });
        held.instance.service_id = service.to_owned();
        let asked = request(json!({ "service_id": service, "plan_id": "users" }));
        assert_eq!(told(&judge(&asked, &catalog, Some(&held))), expected, "{open}");
    }
}

/// A repetition is known by what it asks for, not by how its members are ordered.
#[test]
fn the_same_request_is_known_again() {
    let first = request(json!({ "plan_id": "larger", "parameters": { "connectionLimit": 6, "b": 1 } }));
    let mut again = first.clone();
    again.parameters = serde_json::from_str(r#"{"b":1,"connectionLimit":6}"#).unwrap();
    assert_eq!(told(&decide(&again, Some(&running(&first)))), REPEATED);
    // After a restart of the instance, no request is the one that goes on.
    let mut other: Held<Changeable> = running(&first);
    other.latest = Some(Operation {
        kind: OperationKind::Deprovision,
        ..operation(OperationKind::Update, OperationState::InProgress)
    });
    assert_eq!(told(&decide(&again, Some(&other))), "422 ConcurrencyError");
}

proptest! {
    /// Whatever is asked for and held: refusals are the platform's to mend, nothing is begun beside something else, and
    /// nothing changes that was not asked for.
    #[test]
    fn no_update_is_taken_beside_another_or_changes_what_it_was_not_asked_to(
        state in 0..8_usize,
        plan_id in prop::option::of(prop::sample::select(vec!["p", "larger", "bare", "older", "aws", "redis", "gone"])),
        limit in prop::option::of(prop::sample::select(vec![json!(5), json!(6), json!(500), Value::Null])),
        version in prop::option::of(prop::sample::select(vec!["3.0.0", "5.0.0", "x"])),
        context in prop::option::of(prop::sample::select(vec!["mine", "new"])),
        (sync, replace) in any::<(bool, bool)>(),
    ) {
        let states = [held, provisioning, failed, deprovisioning, undeleted, updating, tombstone];
        let held = states.get(state).map(|state| state(standing()));
        let mut asked = request(json!({ "plan_id": plan_id, "version": version }));
        asked.accepts_incomplete = !sync;
        asked.allow_replace = replace;
        asked.context = context.map(|name| members(json!({ "instance_name": name })));
        asked.parameters = limit.clone().map(|limit| members(json!({ "connectionLimit": limit })));
        match decide(&asked, held.as_ref()) {
            Judgement::Accept(change) => {
                let held = held.unwrap();
                prop_assert!(held.running().is_none() && !held.instance.unwanted && held.instance.deleted_at.is_none());
                match change {
                    Change::Context(context) => prop_assert_eq!(Some(context), asked.context),
                    Change::Update(new) => {
                        prop_assert!(!sync);
                        prop_assert_eq!(new.plan_id.as_str(), plan_id.unwrap_or("p"));
                        if limit.is_none() {
                            prop_assert_eq!(new.parameters, standing().parameters);
                        }
                    }
                }
            }
            Judgement::Answer(Ok(answer)) => prop_assert_eq!(answer, Answer::done()),
            Judgement::Answer(Err(error)) => {
                prop_assert!(error.status().is_client_error());
                prop_assert!(!error.description().is_empty());
            }
        }
    }
}

#[test]
fn a_plan_that_is_full_takes_no_movers_and_keeps_who_is_there() {
    let quotas = Quotas {
        organization: Some(0),
        plans: [("larger".to_owned(), 1), ("memcached-small".to_owned(), 0)].into(),
    };
    let told = |asked: Value, plan| {
        let usage = Usage { organization: 9, plan };
        let judgement = super::judge(
            &request(asked),
            &catalog(&offered()),
            (&quotas, &usage),
            Some(&held(standing())),
        );
        told(&judgement)
    };
    assert_eq!(told(json!({ "plan_id": "larger" }), 0), ACCEPTED);
    assert_eq!(told(json!({ "plan_id": "larger" }), 1), "422");
    assert_eq!(told(json!({ "parameters": { "connectionLimit": 6 } }), 9), ACCEPTED);
}
