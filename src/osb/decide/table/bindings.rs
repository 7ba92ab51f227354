//! What is asked of bindings.

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::api::EngineType;
use crate::ledger::{
    Bindable, Binding, BindingState, Connection, Held, OperationKind, OperationState, PolledBinding, PolledOperation,
    Standing,
};
use crate::osb::credentials::{self, FreshUser};
use crate::osb::request::{BindRequest, Query, UnbindRequest};
use crate::osb::version::Version;
use crate::webhooks::Policy;

const HOUR: Duration = Duration::from_secs(3600);
const IDS: &str = "service_id=s&plan_id=p&accepts_incomplete=true";

/// How the bindings of an instance are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Shared,
    Users,
}
use Kind::{Shared, Users};

fn bindable(kind: Kind) -> Bindable {
    let credentials = match kind {
        Shared => "shared",
        Users => "perBinding",
    };
    Bindable {
        connection: Some(Connection {
            engine: EngineType::Redis,
            password: Some("p".to_owned().into()),
            ..connection()
        }),
        plan_spec: Some(json!({
            "service": "akkeris-redis", "id": "p", "description": "d", "engine": { "type": "redis", "version": "7.2" },
            "bindingCredentials": credentials, "kubernetes": { "memory": "64Mi" },
        })),
    }
}

fn binding(kind: Kind, state: BindingState, running: bool) -> Binding {
    let binding = binding_with_user(state, running);
    match kind {
        Users => binding,
        Shared => Binding {
            username: None,
            ..binding
        },
    }
}

fn asked() -> Value {
    json!({ "service_id": SERVICE, "plan_id": "p", "bind_resource": { "app_guid": "app" } })
}

fn bind(
    (query, version): (&str, Version),
    body: &Value,
    held: Option<&Held<Bindable>>,
    existing: Option<Binding>,
    predecessor: Option<Binding>,
) -> String {
    let query = Query::parse(query);
    let request = match BindRequest::parse(body.to_string().as_bytes(), &query, version, Policy::Public) {
        Ok(request) => request,
        Err(error) => return refusal(&error),
    };
    let setting = bind::Setting {
        version,
        catalog: None,
        user: &FreshUser {
            name: "b-new".to_owned(),
            password: "secret".to_owned().into(),
        },
        deadline: HOUR,
    };
    let standing = Standing { existing, predecessor };
    judged(&bind::judge(&request, held, &standing, &setting))
}

pub(super) fn rows(table: &mut Table) {
    binds(table);
    rotations(table);
    unbinds(table);
    polls(table);
    fetches(table);
}

fn binds(table: &mut Table) {
    const PARAMETERS: &str = "Binding > Request (Creating a Service Binding) > Parameters";
    const BODY: &str = "Binding > Request (Creating a Service Binding) > Body";
    const RESOURCE: &str = "Binding > Request (Creating a Service Binding) > Body > Bind Resource Object";
    const RESPONSE: &str = "Binding > Response";
    const BLOCKING: &str = "Blocking Operations";
    const CREDENTIALS: &str = "Binding > Types of Binding > Credentials";
    const SYNCHRONOUS: &str = "Synchronous and Asynchronous Operations > Synchronous Operations";
    let resting = |kind| Some(held(bindable(kind)));
    let bare = || Bindable {
        connection: None,
        ..bindable(Shared)
    };
    let bound = |kind| Some(binding(kind, BindingState::Bound, false));
    type Row = (
        &'static str,
        &'static str,
        Value,
        Option<Held<Bindable>>,
        Option<Binding>,
        &'static str,
    );
    let rows: Vec<Row> = vec![
        (PARAMETERS, "", json!({}), resting(Shared), None, ACCEPTED),
        (PARAMETERS, "", json!({}), resting(Users), None, ASYNC),
        (PARAMETERS, WAIT, json!({}), resting(Users), None, ACCEPTED),
        (BODY, WAIT, json!({ "service_id": null }), resting(Shared), None, "400"),
        (BODY, WAIT, json!({ "plan_id": null }), resting(Shared), None, "400"),
        (BODY, WAIT, json!({ "plan_id": "other" }), resting(Shared), None, "400"),
        (BODY, WAIT, json!({ "parameters": 1 }), resting(Shared), None, "400"),
        (
            RESOURCE,
            WAIT,
            json!({ "bind_resource": { "app_guid": 1 } }),
            resting(Shared),
            None,
            "400",
        ),
        (
            RESOURCE,
            WAIT,
            json!({ "bind_resource": null, "app_guid": "app" }),
            resting(Shared),
            bound(Shared),
            "200 with credentials",
        ),
        (
            RESPONSE,
            "",
            json!({}),
            resting(Shared),
            bound(Shared),
            "200 with credentials",
        ),
        (
            RESPONSE,
            WAIT,
            json!({}),
            resting(Users),
            bound(Users),
            "200 with credentials",
        ),
        (
            RESPONSE,
            WAIT,
            json!({}),
            resting(Users),
            Some(binding(Users, BindingState::Binding, true)),
            SAME,
        ),
        (
            RESPONSE,
            "",
            json!({}),
            resting(Users),
            Some(binding(Users, BindingState::Binding, true)),
            ASYNC,
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "bind_resource": { "app_guid": "x" } }),
            resting(Shared),
            bound(Shared),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "parameters": { "a": 1 } }),
            resting(Shared),
            bound(Shared),
            "409",
        ),
        (
            RESPONSE,
            WAIT,
            json!({ "plan_id": "other" }),
            resting(Shared),
            bound(Shared),
            "409",
        ),
        (RESPONSE, WAIT, json!({}), None, None, "404"),
        (
            RESPONSE,
            WAIT,
            json!({}),
            Some(tombstone(bindable(Shared))),
            None,
            "404",
        ),
        (RESPONSE, WAIT, json!({}), Some(failed(bare())), None, "422"),
        (BLOCKING, WAIT, json!({}), Some(provisioning(bare())), None, BUSY),
        (BLOCKING, WAIT, json!({}), Some(updating(bindable(Users))), None, BUSY),
        (
            BLOCKING,
            WAIT,
            json!({}),
            Some(deprovisioning(bindable(Shared))),
            None,
            BUSY,
        ),
        (
            BLOCKING,
            WAIT,
            json!({}),
            resting(Users),
            Some(binding(Users, BindingState::Unbinding, true)),
            BUSY,
        ),
        ("Binding", "", json!({}), resting(Shared), None, ACCEPTED),
        (SYNCHRONOUS, "", json!({}), resting(Shared), None, ACCEPTED),
        (SYNCHRONOUS, WAIT, json!({}), resting(Shared), None, ACCEPTED),
        // Revocable one by one, where the plan says so.
        (CREDENTIALS, WAIT, json!({}), resting(Users), None, ACCEPTED),
    ];
    for (section, query, changes, held, existing, expected) in rows {
        let what = format!("bind {changes} ?{query} to {held:?} beside {existing:?}");
        let told = bind(
            (query, Version::V17),
            &with(asked(), changes),
            held.as_ref(),
            existing,
            None,
        );
        table.row(section, what, told, expected);
    }
    let members = |version| {
        let answer = bind::bound(StatusCode::CREATED, &credentials::of(&connection()), version);
        let names: Vec<_> = answer.body.as_object().unwrap().keys().cloned().collect();
        names.join(" ")
    };
    table.row(
        "Binding > Response > Body",
        "2.14",
        members(Version::V14),
        "credentials",
    );
    table.row(
        "Binding > Response > Body",
        "2.15",
        members(Version::V15),
        "credentials endpoints",
    );
    let endpoints = Value::Array(credentials::endpoints(&credentials::of(&connection())));
    table.row(
        "Binding > Response > Body > Endpoint Object",
        "one node",
        endpoints.to_string(),
        r#"[{"host":"cache.example","ports":["11211"],"protocol":"tcp"}]"#,
    );
}

fn rotations(table: &mut Table) {
    const ROTATION: &str = "Binding > Binding Rotation";
    const BODY: &str = "Binding > Request (Rotating a Service Binding) > Body";
    const PARAMETERS: &str = "Binding > Request (Rotating a Service Binding) > Parameters";
    let body = json!({ "predecessor_binding_id": "old" });
    let old = |state, running| Some(binding(Users, state, running));
    let successor = || Binding {
        predecessor: Some("old".to_owned()),
        ..binding(Users, BindingState::Bound, false)
    };
    let users = held(bindable(Users));
    for (section, query, version, held, existing, predecessor, expected) in [
        (
            ROTATION,
            WAIT,
            Version::V17,
            &users,
            None,
            old(BindingState::Bound, false),
            ACCEPTED,
        ),
        (ROTATION, WAIT, Version::V17, &users, None, None, "400"),
        (
            ROTATION,
            WAIT,
            Version::V17,
            &users,
            None,
            old(BindingState::Binding, true),
            "400",
        ),
        (
            ROTATION,
            WAIT,
            Version::V17,
            &users,
            None,
            old(BindingState::Unbinding, true),
            "400",
        ),
        (
            ROTATION,
            WAIT,
            Version::V17,
            &users,
            Some(successor()),
            None,
            "200 with credentials",
        ),
        (
            ROTATION,
            WAIT,
            Version::V17,
            &users,
            old(BindingState::Bound, false),
            None,
            "409",
        ),
        (
            ROTATION,
            WAIT,
            Version::V17,
            &held(bindable(Shared)),
            None,
            Some(binding(Shared, BindingState::Bound, false)),
            "422",
        ),
        (
            PARAMETERS,
            "",
            Version::V17,
            &users,
            None,
            old(BindingState::Bound, false),
            ASYNC,
        ),
        (
            BODY,
            WAIT,
            Version::V17,
            &users,
            None,
            old(BindingState::Bound, false),
            ACCEPTED,
        ),
        // It was not there before 2.17, and the ids were required then.
        (
            BODY,
            WAIT,
            Version::V16,
            &users,
            None,
            old(BindingState::Bound, false),
            "400",
        ),
    ] {
        let what = format!(
            "rotate ?{query} for {} beside {existing:?} after {predecessor:?}",
            version.as_str()
        );
        let told = bind((query, version), &body, Some(held), existing, predecessor);
        table.row(section, what, told, expected);
    }
}

fn unbinds(table: &mut Table) {
    const PARAMETERS: &str = "Unbinding > Request > Parameters";
    const RESPONSE: &str = "Unbinding > Response";
    let bound = |kind| Some(binding(kind, BindingState::Bound, false));
    let (shared, users, gone) = (
        held(bindable(Shared)),
        held(bindable(Users)),
        tombstone(bindable(Users)),
    );
    let sync = "service_id=s&plan_id=p";
    for (section, query, held, existing, expected) in [
        (PARAMETERS, "accepts_incomplete=true", Some(&users), bound(Users), "400"),
        (
            PARAMETERS,
            "service_id=s&accepts_incomplete=true",
            Some(&users),
            bound(Users),
            "400",
        ),
        (PARAMETERS, sync, Some(&users), bound(Users), ASYNC),
        (PARAMETERS, sync, Some(&shared), bound(Shared), ACCEPTED),
        (RESPONSE, IDS, Some(&users), bound(Users), ACCEPTED),
        (
            RESPONSE,
            IDS,
            Some(&users),
            Some(binding(Users, BindingState::Unbinding, true)),
            SAME,
        ),
        // Halted while it is made; tried again after it failed.
        (
            RESPONSE,
            IDS,
            Some(&users),
            Some(binding(Users, BindingState::Binding, true)),
            ACCEPTED,
        ),
        (
            RESPONSE,
            IDS,
            Some(&users),
            Some(binding(Users, BindingState::Unbinding, false)),
            ACCEPTED,
        ),
        (RESPONSE, IDS, None, None, GONE),
        (RESPONSE, IDS, Some(&gone), bound(Users), GONE),
        // What is not there is gone, whatever else is wrong.
        ("Unbinding > Response > Body", "", Some(&users), None, GONE),
        ("Orphan Mitigation", IDS, Some(&users), None, GONE),
    ] {
        let request = UnbindRequest::parse(&Query::parse(query));
        let told = judged(&unbind::judge(&request, held, existing.as_ref(), HOUR));
        table.row(section, format!("unbind ?{query} of {existing:?}"), told, expected);
    }
}

fn polls(table: &mut Table) {
    use OperationKind::{Bind, Unbind};
    use OperationState::{Failed, InProgress, Succeeded};
    const PARAMETERS: &str = "Polling Last Operation for Service Bindings > Request > Parameters";
    const RESPONSE: &str = "Polling Last Operation for Service Bindings > Response";
    const BODY: &str = "Polling Last Operation for Service Bindings > Response > Body";
    let polled = |live, operation: Option<(OperationKind, OperationState)>| PolledBinding {
        live,
        operation: operation.map(|(kind, state)| PolledOperation {
            kind,
            state,
            description: Some("ended so".to_owned()),
            created_at: Timestamp::UNIX_EPOCH,
            remains: None,
        }),
    };
    let id = operation_id().to_string();
    let (named, latest) = (Some(id.as_str()), None);
    let (going, succeeded, failed) = ("200 in progress", "200 succeeded", "200 failed");
    for (section, operation, binding, expected) in [
        (
            PARAMETERS,
            Some("task_10"),
            Some(polled(true, Some((Bind, InProgress)))),
            "400",
        ),
        (PARAMETERS, named, Some(polled(true, None)), "400"),
        (PARAMETERS, latest, Some(polled(true, Some((Bind, InProgress)))), going),
        (RESPONSE, named, None, "404"),
        (RESPONSE, latest, None, "404"),
        (RESPONSE, named, Some(polled(false, Some((Unbind, Succeeded)))), GONE),
        (RESPONSE, latest, Some(polled(false, Some((Unbind, Succeeded)))), GONE),
        // It was there at once, and what ended with its instance is gone.
        (RESPONSE, latest, Some(polled(true, None)), succeeded),
        (RESPONSE, latest, Some(polled(false, None)), GONE),
        (RESPONSE, latest, Some(polled(false, Some((Bind, Succeeded)))), GONE),
        (BODY, named, Some(polled(true, Some((Bind, InProgress)))), going),
        (BODY, named, Some(polled(true, Some((Bind, Succeeded)))), succeeded),
        (BODY, latest, Some(polled(true, Some((Bind, Succeeded)))), succeeded),
        (BODY, named, Some(polled(false, Some((Bind, Succeeded)))), succeeded),
        // What could not be made is gone, and who asks hears why.
        (BODY, named, Some(polled(false, Some((Bind, Failed)))), failed),
        (BODY, latest, Some(polled(false, Some((Bind, Failed)))), failed),
        // Halted by an unbinding.
        (BODY, named, Some(polled(true, Some((Bind, Failed)))), failed),
        (BODY, named, Some(polled(true, Some((Unbind, InProgress)))), going),
        (BODY, latest, Some(polled(true, Some((Unbind, InProgress)))), going),
        (BODY, named, Some(polled(true, Some((Unbind, Failed)))), failed),
        (BODY, latest, Some(polled(true, Some((Unbind, Failed)))), failed),
    ] {
        let now = Timestamp::from_second(80).unwrap();
        let told = last_binding_operation::named(operation)
            .and_then(|named| last_binding_operation::judge(binding.as_ref(), named.is_some(), now));
        table.row(
            section,
            format!("poll {operation:?} of {binding:?}"),
            shown(&told),
            expected,
        );
    }
}

fn fetches(table: &mut Table) {
    const RESPONSE: &str = "Fetching a Service Binding > Response";
    const FOUND: &str = "200 with credentials";
    for (section, binding, expected) in [
        (RESPONSE, Some(binding(Shared, BindingState::Bound, false)), FOUND),
        (RESPONSE, None, "404"),
        (RESPONSE, Some(binding(Users, BindingState::Binding, true)), "404"),
        (RESPONSE, Some(binding(Users, BindingState::Unbinding, true)), "404"),
        (RESPONSE, Some(binding(Users, BindingState::Unbinding, false)), "404"),
        // Hints that are sent, or not, change nothing: they are not read.
        (
            "Fetching a Service Binding > Request > Parameters",
            Some(binding(Users, BindingState::Bound, false)),
            FOUND,
        ),
    ] {
        let told = shown(&bind::fetched(binding.as_ref(), Version::V17));
        table.row(section, format!("fetch {binding:?}"), told, expected);
    }
    let with_parameters = Binding {
        parameters: members(json!({ "a": 1 })),
        ..binding(Shared, BindingState::Bound, false)
    };
    for (version, binding, expected) in [
        (
            Version::V17,
            binding(Shared, BindingState::Bound, false),
            "credentials endpoints",
        ),
        (
            Version::V17,
            with_parameters.clone(),
            "credentials endpoints parameters",
        ),
        (Version::V15, with_parameters, "credentials endpoints"),
    ] {
        let body = bind::fetched(Some(&binding), version).unwrap().body;
        let names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        let section = "Fetching a Service Binding > Response > Body";
        table.row(section, version.as_str(), names.join(" "), expected);
    }
}
