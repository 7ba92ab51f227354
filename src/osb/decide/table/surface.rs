//! Headers, paths, bodies and the catalog.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;
use crate::api::CachePlan;
use crate::osb::Authenticator;
use crate::osb::identity;
use crate::osb::request::{ProvisionRequest, Query};
use crate::osb::routes::Call;
use crate::osb::version::Version;
use crate::webhooks::Policy;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(pair).collect()
}

fn verdict<T>(outcome: Result<T, OsbError>) -> String {
    outcome.map_or_else(|error| refusal(&error), |_| "served".to_owned())
}

pub(super) fn rows(table: &mut Table) {
    in_headers(table);
    routes(table);
    bodies(table);
    errors(table);
    catalog_body(table);
}

fn in_headers(table: &mut Table) {
    const VERSION: &str = "Headers > API Version Header";
    for (version, expected) in [
        (Some("2.17"), "2.17"),
        (Some("2.13"), "2.13"),
        (Some("2.99"), "2.17"),
        (Some("2.12"), "412"),
        (Some("3.0"), "412"),
        (Some("two"), "412"),
        (None, "412"),
    ] {
        let sent: Vec<_> = version
            .map(|version| ("x-broker-api-version", version))
            .into_iter()
            .collect();
        let told = Version::of(&headers(&sent));
        let told = told.map_or_else(|error| refusal(&error), |version| version.as_str().to_owned());
        table.row(VERSION, format!("{version:?}"), told, expected);
    }
    const ORIGINATING: &str = "Headers > Originating Identity";
    let encoded = BASE64_STANDARD.encode(r#"{"user_id":"683ea748"}"#);
    for (value, expected) in [
        (format!("cloudfoundry {encoded}"), "served"),
        (encoded.clone(), "400"),
        ("cloudfoundry nonsense".to_owned(), "400"),
        (format!("cloudfoundry {}", BASE64_STANDARD.encode("[]")), "400"),
    ] {
        let sent = headers(&[("x-broker-api-originating-identity", &value)]);
        table.row(
            ORIGINATING,
            value,
            verdict(identity::asker(String::new(), &sent)),
            expected,
        );
    }
    table.row(
        ORIGINATING,
        "absent",
        verdict(identity::asker(String::new(), &HeaderMap::new())),
        "served",
    );
    let (_, echoed) = identity::shown(&headers(&[("x-broker-api-request-identity", "e26cee84")]));
    let echoed = echoed.unwrap().to_str().unwrap().to_owned();
    table.row("Headers > Request Identity", "what is echoed", echoed, "e26cee84");

    let authenticator = Authenticator::new(Some(&[("u".to_owned(), "p".to_owned().into())]), None);
    let pair = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
    for (authorization, expected) in [
        (Some(pair("u:p")), "served"),
        (Some(pair("u:x")), "401"),
        (Some("Bearer u:p".to_owned()), "401"),
        (None, "401"),
    ] {
        let sent: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let sent = headers(&sent);
        let told = authenticator
            .authenticate(&Method::GET, &sent, None)
            .now_or_never()
            .unwrap();
        let section = "Platform to Service Broker Authentication";
        table.row(section, format!("{authorization:?}"), verdict(told), expected);
    }
}

fn routes(table: &mut Table) {
    let told = |method: Method, path: &str| {
        Call::of(&method, path).map_or_else(|error| refusal(&error), |call| call.log_fields().0.to_owned())
    };
    let (instance, binding) = ("/v2/service_instances/i", "/v2/service_instances/i/service_bindings/b");
    let (last, last_of_binding) = (
        format!("{instance}/last_operation"),
        format!("{binding}/last_operation"),
    );
    for (section, method, path, expected) in [
        (
            "Catalog Management > Request > Route",
            Method::GET,
            "/v2/catalog",
            "catalog",
        ),
        (
            "Catalog Management > Request > Route",
            Method::POST,
            "/v2/catalog",
            "405",
        ),
        ("Provisioning > Request > Route", Method::PUT, instance, "provision"),
        ("Provisioning > Request > Route", Method::POST, instance, "405"),
        (
            "Fetching a Service Instance > Request > Route",
            Method::GET,
            instance,
            "fetch",
        ),
        (
            "Updating a Service Instance > Request > Route",
            Method::PATCH,
            instance,
            "update",
        ),
        (
            "Deprovisioning > Request > Route",
            Method::DELETE,
            instance,
            "deprovision",
        ),
        (
            "Polling Last Operation for Service Instances > Request > Route",
            Method::GET,
            &last,
            "last_operation",
        ),
        (
            "Binding > Request (Creating a Service Binding) > Route",
            Method::PUT,
            binding,
            "bind",
        ),
        (
            "Binding > Request (Rotating a Service Binding) > Route",
            Method::PUT,
            binding,
            "bind",
        ),
        (
            "Fetching a Service Binding > Request > Route",
            Method::GET,
            binding,
            "fetch_binding",
        ),
        ("Unbinding > Request > Route", Method::DELETE, binding, "unbind"),
        ("Unbinding > Request > Route", Method::PATCH, binding, "405"),
        (
            "Polling Last Operation for Service Bindings > Request > Route",
            Method::GET,
            &last_of_binding,
            "last_binding_operation",
        ),
        (
            "URL Properties",
            Method::GET,
            "/v2/service_instances/a%2Fb%20%C3%BC",
            "fetch",
        ),
        ("URL Properties", Method::GET, "/v2/service_instances/%zz", "400"),
        ("URL Properties", Method::GET, "/v2/service_instances/a/b", "404"),
    ] {
        table.row(section, format!("{method} {path}"), told(method, path), expected);
    }
}

fn bodies(table: &mut Table) {
    let order = instances::order();
    let unknown = with(order.clone(), json!({ "vendor": { "new": [1] } }));
    for (section, body, expected) in [
        ("Vendor Extension Fields", unknown.to_string(), "served"),
        ("Content Type", order.to_string(), "served"),
        ("Content Type", String::new(), "400"),
        ("Content Type", "{".to_owned(), "400"),
        ("Content Type", "[]".to_owned(), "400"),
        ("Content Type", "service_id=x".to_owned(), "400"),
    ] {
        let told = ProvisionRequest::parse(body.as_bytes(), &Query::default(), Version::V17, Policy::Public);
        table.row(section, body, verdict(told), expected);
    }
}

fn errors(table: &mut Table) {
    let members = |error: OsbError, version: Version| {
        let body = error.body(version);
        let names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        names.join(" ")
    };
    const ERRORS: &str = "Service Broker Errors";
    let update = || OsbError::async_required().of_update(true);
    table.row(
        ERRORS,
        "plain",
        members(OsbError::bad_request("no"), Version::V17),
        "description",
    );
    table.row(ERRORS, "nothing to say", members(OsbError::gone(), Version::V17), "");
    table.row(
        ERRORS,
        "of an update",
        members(update(), Version::V17),
        "description error instance_usable update_repeatable",
    );
    table.row(
        ERRORS,
        "before 2.16",
        members(update(), Version::V15),
        "description error",
    );
    for (error, expected) in [
        (OsbError::async_required(), ASYNC),
        (OsbError::concurrency("busy"), BUSY),
    ] {
        table.row(
            "Service Broker Errors > Error Codes",
            expected,
            refusal(&error),
            expected,
        );
    }
}

fn catalog_body(table: &mut Table) {
    let body = |plans: &[CachePlan], version| -> Value {
        serde_json::from_slice(&catalog(plans).document(version).unwrap().plain.body).unwrap()
    };
    let all = body(&offered(), Version::V17);
    let users = named(
        "users",
        json!({
            "spec": { "engine": { "type": "redis", "version": "7.2" }, "service": "akkeris-redis", "bindingCredentials": "perBinding" },
        }),
    );
    let of_users = body(&[users], Version::V17);
    let plan_of = |body: &Value, pointer: &str| body.pointer(pointer).unwrap_or(&Value::Null).to_string();
    let first = "/services/0/plans/0";
    let at = |pointer: &str| plan_of(&all, pointer);
    table.row(
        "Catalog Management",
        "no plans",
        body(&[], Version::V17).to_string(),
        r#"{"services":[]}"#,
    );
    const BODY: &str = "Catalog Management > Response > Body";
    table.row(
        BODY,
        "members",
        all.as_object().unwrap().keys().cloned().collect::<String>(),
        "services",
    );
    const SERVICE: &str = "Catalog Management > Response > Body > Service Offering Object";
    for (member, version, expected) in [
        ("bindable", Version::V13, "true"),
        ("instances_retrievable", Version::V13, "null"),
        ("instances_retrievable", Version::V14, "true"),
        ("bindings_retrievable", Version::V14, "true"),
        ("allow_context_updates", Version::V14, "null"),
        ("allow_context_updates", Version::V15, "true"),
        ("plan_updateable", Version::V13, "true"),
    ] {
        let told = plan_of(&body(&offered(), version), &format!("/services/1/{member}"));
        table.row(SERVICE, format!("{member} for {}", version.as_str()), told, expected);
    }
    const PLAN: &str = "Catalog Management > Response > Body > Service Plan Object";
    for (what, told, expected) in [
        ("free", at(&format!("{first}/free")), "true"),
        (
            "binding_rotatable, shared",
            at(&format!("{first}/binding_rotatable")),
            "null",
        ),
        (
            "binding_rotatable, a user each",
            plan_of(&of_users, &format!("{first}/binding_rotatable")),
            "true",
        ),
        (
            "plan_updateable, one plan",
            plan_of(&of_users, &format!("{first}/plan_updateable")),
            "false",
        ),
        (
            "maximum_polling_duration",
            plan_of(&of_users, &format!("{first}/maximum_polling_duration")),
            "3900",
        ),
    ] {
        table.row(PLAN, what, told, expected);
    }
    let schemas = format!("{first}/schemas");
    let kinds = all
        .pointer(&schemas)
        .unwrap()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect::<Vec<_>>();
    table.row(
        "Catalog Management > Response > Body > Schemas Object",
        "kinds",
        kinds.join(" "),
        "service_binding service_instance",
    );
    for (section, kind) in [
        (
            "Catalog Management > Response > Body > Service Instance Schema Object",
            "service_instance/create",
        ),
        (
            "Catalog Management > Response > Body > Service Instance Schema Object",
            "service_instance/update",
        ),
        (
            "Catalog Management > Response > Body > Service Binding Schema Object",
            "service_binding/create",
        ),
        (
            "Catalog Management > Response > Body > Input Parameters Schema Object",
            "service_binding/create",
        ),
    ] {
        let told = at(&format!("{schemas}/{kind}/parameters/$schema"));
        table.row(section, kind, told, "\"http://json-schema.org/draft-07/schema#\"");
    }
    const MAINTENANCE: &str = "Catalog Management > Response > Body > Maintenance Info Object";
    let version = |version| {
        plan_of(
            &body(&[plan(json!({}))], version),
            &format!("{first}/maintenance_info/version"),
        )
    };
    table.row(MAINTENANCE, "2.17", version(Version::V17), "\"3.0.0\"");
    table.row(MAINTENANCE, "2.14", version(Version::V14), "null");
    let polling = plan(json!({ "spec": { "operationDeadline": "10m" } }));
    let told = plan_of(
        &body(&[polling], Version::V17),
        &format!("{first}/maximum_polling_duration"),
    );
    table.row("Polling Interval and Duration", "longer than the deadline", told, "900");
}
