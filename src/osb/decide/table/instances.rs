//! What is asked of instances.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Map;

use super::*;
use crate::api::Namespaces;
use crate::ledger::{Change, Changeable, Held, OperationKind, OperationState, Polled, Usage};
use crate::osb::Quotas;
use crate::osb::request::{DeprovisionRequest, ProvisionRequest, Query, UpdateRequest};
use crate::osb::version::Version;
use crate::webhooks::Policy;

const HOUR: Duration = Duration::from_secs(3600);
const IDS: &str = "service_id=s&plan_id=p&accepts_incomplete=true";

pub(super) fn order() -> Value {
    json!({ "service_id": SERVICE, "plan_id": "p", "organization_guid": "o", "space_guid": "s" })
}

fn provision(query: &str, body: &Value, held: Option<Held<Map<String, Value>>>) -> String {
    let query = Query::parse(query);
    let request = match ProvisionRequest::parse(body.to_string().as_bytes(), &query, Version::V17, Policy::Public) {
        Ok(request) => request,
        Err(error) => return refusal(&error),
    };
    let catalog = catalog(&offered());
    let plan = catalog.plan(&request.service_id, &request.plan_id);
    if let Err(error) = provision::admit(&request, plan) {
        return refusal(&error);
    }
    let namespaces = Namespaces {
        memcached: "memcached-system".to_owned(),
        redis: "redis-system".to_owned(),
    };
    let quotas = (&Quotas::default(), &Usage::default());
    judged(&provision::judge(&request, plan, &namespaces, quotas, held.as_ref()))
}

fn update(query: &str, body: &Value, held: Option<&Held<Changeable>>) -> String {
    let request = match parsed(query, body) {
        Ok(request) => request,
        Err(error) => return refusal(&error),
    };
    if let Err(error) = update::admit(&request) {
        return refusal(&error);
    }
    let quotas = (&Quotas::default(), &Usage::default());
    match update::judge(&request, &catalog(&offered()), quotas, held) {
        Judgement::Accept(Change::Context(_)) => "context noted".to_owned(),
        other => judged(&other),
    }
}

fn parsed(query: &str, body: &Value) -> Result<UpdateRequest, OsbError> {
    let body = with(json!({ "service_id": SERVICE }), body.clone());
    UpdateRequest::parse(
        body.to_string().as_bytes(),
        &Query::parse(query),
        Version::V17,
        Policy::Public,
    )
}

fn deprovision(query: &str, held: Option<Held>) -> String {
    match DeprovisionRequest::parse(&Query::parse(query), Policy::Public) {
        Err(error) => refusal(&error),
        Ok(request) => match deprovision::admit(&request) {
            Err(error) => refusal(&error),
            Ok(()) => judged(&deprovision::judge(&request, held.as_ref(), HOUR)),
        },
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

fn polled(deleted: bool, kind: OperationKind, state: OperationState) -> Polled {
    Polled {
        deleted,
        ..fixtures::polled(kind, state)
    }
}

fn poll(operation: Option<&str>, polled: Option<&Polled>, version: Version) -> Reply {
    let named = last_operation::named(operation, &"i".parse().unwrap())?;
    last_operation::judge(polled, named.is_some(), version, Timestamp::from_second(80).unwrap())
}

pub(super) fn rows(table: &mut Table) {
    provisions(table);
    updates(table);
    deprovisions(table);
    polls(table);
    fetches(table);
}

fn provisions(table: &mut Table) {
    const PARAMETERS: &str = "Provisioning > Request > Parameters";
    const BODY: &str = "Provisioning > Request > Body";
    const RESPONSE: &str = "Provisioning > Response";
    const ANSWER: &str = "Provisioning > Response > Body";
    const ASYNCHRONOUS: &str = "Synchronous and Asynchronous Operations > Asynchronous Operations";
    type Row = (
        &'static str,
        &'static str,
        Value,
        Option<Held<Map<String, Value>>>,
        &'static str,
    );
    let (limit, none) = (json!({ "connectionLimit": 1 }), Map::new);
    let rows: Vec<Row> = vec![
        (PARAMETERS, WAIT, json!({}), None, ACCEPTED),
        (PARAMETERS, "", json!({}), None, ASYNC),
        (PARAMETERS, "accepts_incomplete=false", json!({}), None, ASYNC),
        (
            PARAMETERS,
            "accepts_incomplete=&accepts_incomplete=true",
            json!({}),
            None,
            ACCEPTED,
        ),
        (BODY, WAIT, json!({ "service_id": null }), None, "400"),
        (BODY, WAIT, json!({ "service_id": "" }), None, "400"),
        (BODY, WAIT, json!({ "service_id": "x" }), None, "400"),
        (BODY, WAIT, json!({ "plan_id": null }), None, "400"),
        (BODY, WAIT, json!({ "plan_id": "x" }), None, "400"),
        (BODY, WAIT, json!({ "organization_guid": null }), None, "400"),
        (BODY, WAIT, json!({ "space_guid": "" }), None, "400"),
        (BODY, WAIT, json!({ "parameters": [] }), None, "400"),
        (BODY, WAIT, json!({ "parameters": { "colour": 1 } }), None, "400"),
        (BODY, WAIT, json!({ "context": 1 }), None, "400"),
        // What is wrong with the plan is said before whether one may wait.
        (BODY, "", json!({ "plan_id": "x" }), None, "400"),
        (
            BODY,
            WAIT,
            json!({ "maintenance_info": { "version": "3.0.0" } }),
            None,
            ACCEPTED,
        ),
        (
            BODY,
            WAIT,
            json!({ "maintenance_info": { "version": "2.0.0" } }),
            None,
            STALE,
        ),
        (BODY, WAIT, json!({ "maintenance_info": {} }), None, "400"),
        (RESPONSE, WAIT, json!({}), Some(held(none())), DONE),
        (RESPONSE, WAIT, json!({}), Some(updating(none())), DONE),
        (RESPONSE, WAIT, json!({}), Some(provisioning(none())), SAME),
        (RESPONSE, WAIT, json!({}), Some(failed(none())), SAME),
        (
            RESPONSE,
            WAIT,
            json!({ "plan_id": "larger" }),
            Some(held(none())),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "organization_guid": "x" }),
            Some(held(none())),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "space_guid": "x" }),
            Some(provisioning(none())),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "parameters": limit }),
            Some(held(none())),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "context": { "instance_name": "new" } }),
            Some(held(none())),
            DONE,
        ),
        (RESPONSE, WAIT, json!({}), Some(tombstone(none())), "409"),
        (RESPONSE, WAIT, json!({ "plan_id": "deprecated" }), None, "422"),
        (ANSWER, WAIT, json!({}), Some(provisioning(none())), SAME),
        (ASYNCHRONOUS, "", json!({}), Some(held(none())), ASYNC),
        (ASYNCHRONOUS, "", json!({}), Some(provisioning(none())), ASYNC),
        (
            "Blocking Operations",
            WAIT,
            json!({}),
            Some(deprovisioning(none())),
            BUSY,
        ),
        ("Blocking Operations", WAIT, json!({}), Some(undeleted(none())), BUSY),
        // An instance outlives the plan that it was ordered from.
        (
            "Catalog Management",
            WAIT,
            json!({ "plan_id": "withdrawn" }),
            None,
            "400",
        ),
        (
            "Catalog Management",
            WAIT,
            json!({ "plan_id": "withdrawn" }),
            Some(of_plan("withdrawn")),
            DONE,
        ),
    ];
    for (section, query, changes, held, expected) in rows {
        let what = format!("order {changes} ?{query} of {held:?}");
        table.row(section, what, provision(query, &with(order(), changes), held), expected);
    }
}

fn of_plan(plan: &str) -> Held<Map<String, Value>> {
    let mut held = held(Map::new());
    plan.clone_into(&mut held.instance.plan_id);
    held
}

fn updates(table: &mut Table) {
    const PARAMETERS: &str = "Updating a Service Instance > Request > Parameters";
    const BODY: &str = "Updating a Service Instance > Request > Body";
    const PREVIOUS: &str = "Updating a Service Instance > Request > Body > Previous Values Object";
    const RESPONSE: &str = "Updating a Service Instance > Response";
    const MAINTENANCE: &str = "Catalog Management > Response > Body > Maintenance Info Object";
    const UPDATING: &str = "Updating a Service Instance";
    const BLOCKING: &str = "Blocking Operations";
    const NOTED: &str = "context noted";
    let larger = || json!({ "plan_id": "larger" });
    let running = || {
        updating(Changeable {
            asked: Some(parsed(WAIT, &larger()).unwrap().asked()),
            ..standing()
        })
    };
    let of_kind = |kind| {
        let mut held = held(standing());
        held.latest = Some(operation(kind, OperationState::InProgress));
        held
    };
    let resting = || Some(held(standing()));
    let aws = |allowed: Value| json!({ "plan_id": "aws", "parameters": { "connectionLimit": null, "allow_replace": allowed } });
    type Row = (
        &'static str,
        &'static str,
        Value,
        Option<Held<Changeable>>,
        &'static str,
    );
    let rows: Vec<Row> = vec![
        // Asynchronous only, whatever else is wrong; what is only said of an instance needs no waiting.
        (PARAMETERS, "", larger(), None, ASYNC),
        (
            PARAMETERS,
            "",
            json!({ "parameters": { "connectionLimit": 6 } }),
            resting(),
            ASYNC,
        ),
        (
            PARAMETERS,
            "",
            json!({ "maintenance_info": { "version": "3.0.0" } }),
            resting(),
            ASYNC,
        ),
        (PARAMETERS, "", json!({ "context": { "a": 1 } }), resting(), NOTED),
        (BODY, WAIT, json!({ "service_id": null }), resting(), "400"),
        (
            BODY,
            WAIT,
            json!({ "service_id": "x", "plan_id": "larger" }),
            resting(),
            "400",
        ),
        (BODY, WAIT, json!({ "plan_id": "nothing" }), resting(), "400"),
        (BODY, WAIT, json!({ "plan_id": "redis" }), resting(), "400"),
        (
            BODY,
            WAIT,
            json!({ "parameters": { "connectionLimit": 101 } }),
            resting(),
            "400",
        ),
        (BODY, WAIT, json!({ "parameters": { "colour": 1 } }), resting(), "400"),
        (PREVIOUS, WAIT, json!({ "previous_values": [] }), resting(), "400"),
        (
            PREVIOUS,
            WAIT,
            json!({ "previous_values": { "plan_id": "elsewhere" } }),
            resting(),
            DONE,
        ),
        (RESPONSE, WAIT, larger(), None, "404"),
        (RESPONSE, WAIT, larger(), Some(tombstone(standing())), "404"),
        (RESPONSE, WAIT, larger(), Some(failed(standing())), "422"),
        (RESPONSE, WAIT, larger(), Some(running()), SAME),
        (RESPONSE, WAIT, json!({}), resting(), DONE),
        (RESPONSE, WAIT, json!({ "plan_id": "p" }), resting(), DONE),
        (
            RESPONSE,
            WAIT,
            json!({ "plan_id": "p", "parameters": { "connectionLimit": 5 } }),
            resting(),
            DONE,
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "parameters": { "absent": null } }),
            resting(),
            DONE,
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "context": { "instance_name": "mine" } }),
            resting(),
            DONE,
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "plan_id": "p", "context": { "instance_name": "new" } }),
            resting(),
            NOTED,
        ),
        (RESPONSE, WAIT, larger(), resting(), ACCEPTED),
        (
            RESPONSE,
            WAIT,
            json!({ "parameters": { "connectionLimit": 6 } }),
            resting(),
            ACCEPTED,
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "parameters": { "connectionLimit": null } }),
            resting(),
            ACCEPTED,
        ),
        (
            RESPONSE,
            WAIT,
            json!({
                "plan_id": "larger", "parameters": { "connectionLimit": 6 }, "context": {},
                "maintenance_info": { "version": "5.0.0" },
            }),
            resting(),
            ACCEPTED,
        ),
        (RESPONSE, WAIT, json!({ "plan_id": "bare" }), resting(), "422"),
        (
            RESPONSE,
            WAIT,
            json!({ "plan_id": "bare", "parameters": { "connectionLimit": null } }),
            resting(),
            ACCEPTED,
        ),
        (RESPONSE, WAIT, json!({ "plan_id": "older" }), resting(), "422"),
        (RESPONSE, WAIT, aws(json!(false)), resting(), "422"),
        (RESPONSE, WAIT, aws(json!(true)), resting(), ACCEPTED),
        (BLOCKING, WAIT, json!({}), Some(running()), BUSY),
        (
            BLOCKING,
            WAIT,
            json!({ "plan_id": "larger", "parameters": { "connectionLimit": 6 } }),
            Some(running()),
            BUSY,
        ),
        (BLOCKING, WAIT, larger(), Some(of_kind(OperationKind::Provision)), BUSY),
        (BLOCKING, WAIT, larger(), Some(of_kind(OperationKind::Restart)), BUSY),
        (BLOCKING, WAIT, larger(), Some(deprovisioning(standing())), BUSY),
        (BLOCKING, WAIT, larger(), Some(undeleted(standing())), BUSY),
        (
            MAINTENANCE,
            WAIT,
            json!({ "maintenance_info": { "version": "3.0.0" } }),
            resting(),
            DONE,
        ),
        (
            MAINTENANCE,
            WAIT,
            json!({ "maintenance_info": { "version": "2.0.0" } }),
            resting(),
            STALE,
        ),
        (
            MAINTENANCE,
            WAIT,
            json!({ "plan_id": "larger", "maintenance_info": { "version": "5.0.0" } }),
            resting(),
            ACCEPTED,
        ),
        (
            MAINTENANCE,
            WAIT,
            json!({ "plan_id": "larger", "maintenance_info": { "version": "3.0.0" } }),
            resting(),
            STALE,
        ),
        // plan_updateable and allow_context_updates say so.
        (UPDATING, WAIT, larger(), resting(), ACCEPTED),
        (
            UPDATING,
            "",
            json!({ "context": { "instance_name": "new" } }),
            resting(),
            NOTED,
        ),
    ];
    for (section, query, body, held, expected) in rows {
        let told = update(query, &body, held.as_ref());
        table.row(section, format!("update {body} ?{query} of {held:?}"), told, expected);
    }
    let accepted = Answer::accepted(operation_id()).body;
    let names: Vec<_> = accepted.as_object().unwrap().keys().cloned().collect();
    table.row(
        "Updating a Service Instance > Response > Body",
        "202",
        names.join(" "),
        "operation",
    );
}

fn deprovisions(table: &mut Table) {
    const PARAMETERS: &str = "Deprovisioning > Request > Parameters";
    const RESPONSE: &str = "Deprovisioning > Response";
    const ORPHANS: &str = "Orphan Mitigation";
    for (section, query, held, expected) in [
        (PARAMETERS, "accepts_incomplete=true", Some(held(())), "400"),
        (
            PARAMETERS,
            "service_id=s&accepts_incomplete=true",
            Some(held(())),
            "400",
        ),
        (
            PARAMETERS,
            "service_id=s&plan_id=&accepts_incomplete=true",
            Some(held(())),
            "400",
        ),
        (PARAMETERS, "service_id=s&plan_id=p", Some(held(())), ASYNC),
        (RESPONSE, IDS, Some(held(())), ACCEPTED),
        (RESPONSE, IDS, Some(deprovisioning(())), SAME),
        (RESPONSE, IDS, Some(tombstone(())), GONE),
        ("Deprovisioning > Response > Body", IDS, None, GONE),
        // What is under way is halted; what failed is removed, and tried again.
        ("Deprovisioning", IDS, Some(provisioning(())), ACCEPTED),
        ("Deprovisioning", IDS, Some(updating(())), ACCEPTED),
        (ORPHANS, IDS, Some(provisioning(())), ACCEPTED),
        (ORPHANS, IDS, Some(failed(())), ACCEPTED),
        (ORPHANS, IDS, Some(undeleted(())), ACCEPTED),
        (ORPHANS, IDS, None, GONE),
    ] {
        table.row(
            section,
            format!("delete ?{query} of {held:?}"),
            deprovision(query, held),
            expected,
        );
    }
}

fn polls(table: &mut Table) {
    use OperationKind::{Deprovision, Provision, Restart, Update};
    use OperationState::{Failed, InProgress, Succeeded};
    const PARAMETERS: &str = "Polling Last Operation for Service Instances > Request > Parameters";
    const RESPONSE: &str = "Polling Last Operation for Service Instances > Response";
    const BODY: &str = "Polling Last Operation for Service Instances > Response > Body";
    let id = operation_id().to_string();
    let (named, latest) = (Some(id.as_str()), None);
    let none = Polled {
        operation: None,
        ..polled(false, Provision, InProgress)
    };
    for (section, operation, polled, expected) in [
        (
            PARAMETERS,
            latest,
            Some(polled(false, Provision, InProgress)),
            "200 in progress",
        ),
        (
            PARAMETERS,
            Some("task_10"),
            Some(polled(false, Provision, InProgress)),
            "400",
        ),
        (PARAMETERS, named, Some(none.clone()), "400"),
        (RESPONSE, latest, Some(none), "200 succeeded"),
        (RESPONSE, named, None, "404"),
        (RESPONSE, latest, None, "404"),
        (RESPONSE, named, Some(polled(true, Deprovision, Succeeded)), GONE),
        (RESPONSE, latest, Some(polled(true, Deprovision, Succeeded)), GONE),
        (RESPONSE, latest, Some(polled(true, Provision, Failed)), GONE),
        // How something ended is not forgotten with the instance.
        (RESPONSE, named, Some(polled(true, Provision, Failed)), "200 failed"),
        (
            BODY,
            named,
            Some(polled(false, Provision, InProgress)),
            "200 in progress",
        ),
        (BODY, named, Some(polled(false, Provision, Succeeded)), "200 succeeded"),
        (BODY, named, Some(polled(false, Update, Failed)), "200 failed"),
        (
            BODY,
            named,
            Some(polled(false, Deprovision, InProgress)),
            "200 in progress",
        ),
        (BODY, named, Some(polled(false, Deprovision, Failed)), "200 failed"),
        (BODY, named, Some(polled(false, Restart, Succeeded)), "200 succeeded"),
    ] {
        let told = shown(&poll(operation, polled.as_ref(), Version::V17));
        table.row(section, format!("poll {operation:?} of {polled:?}"), told, expected);
    }
    for (kind, version, expected) in [
        (Provision, Version::V17, "description state"),
        (
            Update,
            Version::V17,
            "description instance_usable state update_repeatable",
        ),
        (Deprovision, Version::V17, "description instance_usable state"),
        (Update, Version::V15, "description state"),
    ] {
        let answer = poll(named, Some(&polled(false, kind, Failed)), version).unwrap();
        let names: Vec<_> = answer.body.as_object().unwrap().keys().cloned().collect();
        table.row(
            "Service Broker Errors",
            format!("{kind:?} failed"),
            names.join(" "),
            expected,
        );
    }
}

fn fetches(table: &mut Table) {
    const RESPONSE: &str = "Fetching a Service Instance > Response";
    let fetch = |held: Option<&Held<Map<String, Value>>>| shown(&fetch::instance(held, Version::V17));
    let none = Map::new;
    for (section, held, expected) in [
        (RESPONSE, Some(held(none())), "200"),
        (RESPONSE, None, "404"),
        (RESPONSE, Some(tombstone(none())), "404"),
        (RESPONSE, Some(provisioning(none())), "404"),
        (RESPONSE, Some(failed(none())), "404"),
        (RESPONSE, Some(updating(none())), BUSY),
        (RESPONSE, Some(deprovisioning(none())), BUSY),
        // Hints that are sent, or not, change nothing: they are not read.
        (
            "Fetching a Service Instance > Request > Parameters",
            Some(held(none())),
            "200",
        ),
    ] {
        table.row(section, format!("fetch {held:?}"), fetch(held.as_ref()), expected);
    }
    for (version, expected) in [
        (Version::V14, "parameters plan_id service_id"),
        (Version::V17, "maintenance_info parameters plan_id service_id"),
    ] {
        let answer = fetch::instance(Some(&held(none())), version).unwrap();
        let names: Vec<_> = answer.body.as_object().unwrap().keys().cloned().collect();
        table.row(
            "Fetching a Service Instance > Response > Body",
            version.as_str(),
            names.join(" "),
            expected,
        );
    }
}
