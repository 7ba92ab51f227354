//! OSB 2.17, "Binding" and "Binding Rotation".

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Reply};
use crate::api::CachePlanSpec;
use crate::ledger::{
    Bindable, Binding, BindingState, Credentials, Held, Judgement, NewBinding, OperationKind, PlanId, ServiceId,
    Standing,
};
use crate::osb::catalog::Catalog;
use crate::osb::credentials::{self, FreshUser};
use crate::osb::error::OsbError;
use crate::osb::request::{BindRequest, Origin};
use crate::osb::version::Version;

/// The `reason` of an instance whose resource is gone without anybody having asked for that over OSB.
const MISSING: &str = "Missing";

/// What a binding is decided with, beside the request and what stands.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// The platform's version.
    pub version: Version,
    /// What is offered, for instances whose plan the ledger did not keep.
    pub catalog: Option<&'a Catalog>,
    /// The user that the binding is given, if it gets one of its own.
    pub user: &'a FreshUser,
    /// How long it may take.
    pub deadline: Duration,
}

/// The decision. A binding that exists is compared before anything is asked of its instance.
pub fn judge(
    request: &BindRequest,
    held: Option<&Held<Bindable>>,
    standing: &Standing,
    setting: &Setting<'_>,
) -> Judgement<Reply, NewBinding> {
    match decide(request, held, standing, setting) {
        Ok(Judgement::Answer(answer)) => Judgement::Answer(Ok(answer)),
        Ok(Judgement::Accept(new)) => Judgement::Accept(new),
        Err(error) => Judgement::Answer(Err(error)),
    }
}

fn decide(
    request: &BindRequest,
    held: Option<&Held<Bindable>>,
    standing: &Standing,
    setting: &Setting<'_>,
) -> Result<Judgement<Answer, NewBinding>, OsbError> {
    let held = held
        .filter(|held| held.instance.deleted_at.is_none())
        .ok_or_else(|| OsbError::not_found("there is no instance of this id to bind to"))?;
    if let Some(existing) = &standing.existing {
        return repeated(request, existing, setting.version).map(Judgement::Answer);
    }
    let has_users = has_users(held, setting.catalog);
    let asked = asked(request, held, standing)?;
    sent_along(request, held, setting.catalog)?;
    if has_users && rests(held) && is_open(held) {
        return Err(OsbError::unprocessable(
            None,
            "the cache was taken over and asks for no password, so a user of its own would keep nobody out, and bindings of this plan have one: order a new instance of this plan, or one of a plan whose bindings share credentials, and bind to that",
        ));
    }
    if has_users && !request.accepts_incomplete {
        return Err(OsbError::async_required());
    }
    if request.predecessor().is_some() && !has_users {
        return Err(OsbError::unprocessable(
            None,
            "all bindings of this instance share one password, so one cannot succeed another: bind anew, and unbind",
        ));
    }
    let instance = &held.instance;
    if let Some(running) = held.running() {
        return Err(OsbError::concurrency(format!(
            "the instance's {} is going on: bind once it ended",
            running.kind.as_str()
        )));
    }
    if instance.unwanted {
        return Err(OsbError::concurrency(
            "the instance is being deleted and takes no more bindings",
        ));
    }
    let connection = held.opened.connection.as_ref();
    let connection = connection
        .filter(|_| instance.reason.as_deref() != Some(MISSING))
        .ok_or_else(|| unusable(held))?;
    Ok(Judgement::Accept(NewBinding {
        service_id: asked.service_id,
        plan_id: asked.plan_id,
        app_guid: asked.app_guid,
        context: asked.context,
        parameters: asked.parameters,
        predecessor: request.predecessor().cloned(),
        credentials: if has_users {
            credentials::of_user(connection, setting.user)
        } else {
            credentials::of(connection)
        },
        username: has_users.then(|| setting.user.name.clone()),
        webhook: request.webhook.clone(),
        deadline: setting.deadline,
    }))
}

/// Whether bindings of an instance have users of their own, by the revision of the plan that it runs from.
fn has_users(held: &Held<Bindable>, catalog: Option<&Catalog>) -> bool {
    match kept(held) {
        Some(spec) => spec.has_users(),
        None => offered(held, catalog).is_some_and(CachePlanSpec::has_users),
    }
}

/// The plan at the revision that an instance runs from, if the ledger kept it.
fn kept(held: &Held<Bindable>) -> Option<CachePlanSpec> {
    serde_json::from_value(held.opened.plan_spec.clone()?).ok()
}

/// The plan as it is offered now.
fn offered<'a>(held: &Held<Bindable>, catalog: Option<&'a Catalog>) -> Option<&'a CachePlanSpec> {
    Some(&catalog?.plan_by_id(&held.instance.plan_id)?.spec)
}

/// Whether nothing goes on that may change the cache.
fn rests<S>(held: &Held<S>) -> bool {
    held.running().is_none() && !held.instance.unwanted
}

/// Whether the cache lets everybody in. None that was made here for a plan with users does.
fn is_open(held: &Held<Bindable>) -> bool {
    let connection = held.opened.connection.as_ref();
    connection.is_some_and(|connection| connection.password.is_none())
}

/// Judges what is sent along with a binding by what the catalog says now, which is what the platform was told; once the
/// plan is gone, by the revision that the instance runs from. A successor that sends nothing has what its predecessor has.
fn sent_along(request: &BindRequest, held: &Held<Bindable>, catalog: Option<&Catalog>) -> Result<(), OsbError> {
    if request.predecessor().is_some() && request.parameters.is_empty() {
        return Ok(());
    }
    let schema = match offered(held, catalog) {
        Some(spec) => spec.binding_parameters.clone(),
        None => kept(held).and_then(|spec| spec.binding_parameters),
    };
    let Some(schema) = schema else { return Ok(()) };
    schema
        .check(&request.parameters)
        .map_err(|error| OsbError::bad_request(error.to_string()))
}

/// The id is taken.
fn repeated(request: &BindRequest, existing: &Binding, version: Version) -> Result<Answer, OsbError> {
    let same = match &request.origin {
        Origin::Fresh { service_id, plan_id } => {
            existing.predecessor.is_none()
                && existing.service_id == service_id.as_str()
                && existing.plan_id == plan_id.as_str()
                && existing.app_guid == request.app_guid
                && existing.parameters == request.parameters
        }
        // What it does not say is the predecessor's, which may be gone.
        Origin::Successor { predecessor } => {
            existing.predecessor.as_deref() == Some(predecessor.as_str())
                && (request.app_guid.is_none() || existing.app_guid == request.app_guid)
                && (request.parameters.is_empty() || existing.parameters == request.parameters)
        }
    };
    if !same {
        return Err(OsbError::conflict(
            "a binding of this id exists with other attributes: bind with a new id, or send what was sent first",
        ));
    }
    match (existing.state, existing.running) {
        (BindingState::Bound, _) => Ok(bound(StatusCode::OK, &existing.credentials, version)),
        (BindingState::Binding, Some(_)) if !request.accepts_incomplete => Err(OsbError::async_required()),
        (BindingState::Binding, Some(operation)) => Ok(Answer::accepted(operation)),
        // A binding that failed is gone in the transaction that says so.
        (BindingState::Binding | BindingState::Unbinding, _) => Err(OsbError::concurrency(
            "a binding of this id is being removed: bind once that ended, or with a new id",
        )),
    }
}

/// What a binding is to be for.
struct Asked {
    service_id: ServiceId,
    plan_id: PlanId,
    app_guid: Option<String>,
    context: Map<String, Value>,
    parameters: Map<String, Value>,
}

fn asked(request: &BindRequest, held: &Held<Bindable>, standing: &Standing) -> Result<Asked, OsbError> {
    let instance = &held.instance;
    match &request.origin {
        Origin::Fresh { service_id, plan_id } => {
            // While it moves, a platform knows the plan it comes from.
            let moves = held
                .running()
                .is_some_and(|running| running.kind == OperationKind::Update);
            if !moves && (instance.service_id != service_id.as_str() || instance.plan_id != plan_id.as_str()) {
                return Err(OsbError::bad_request(format!(
                    "the instance is of service {} and plan {}: send those as service_id and plan_id",
                    instance.service_id, instance.plan_id
                )));
            }
            Ok(Asked {
                service_id: service_id.clone(),
                plan_id: plan_id.clone(),
                app_guid: request.app_guid.clone(),
                context: request.context.clone(),
                parameters: request.parameters.clone(),
            })
        }
        Origin::Successor { .. } => {
            let predecessor = standing
                .predecessor
                .as_ref()
                .filter(|predecessor| predecessor.state == BindingState::Bound)
                .ok_or_else(|| {
                    OsbError::bad_request(
                        "predecessor_binding_id names no binding of this instance that holds: send the id of one that does, or bind without",
                    )
                })?;
            let unreadable = |_| OsbError::internal();
            let or = |sent: &Map<String, Value>, standing: &Map<String, Value>| {
                if sent.is_empty() { standing } else { sent }.clone()
            };
            Ok(Asked {
                service_id: instance.service_id.parse().map_err(unreadable)?,
                plan_id: instance.plan_id.parse().map_err(unreadable)?,
                app_guid: request.app_guid.clone().or_else(|| predecessor.app_guid.clone()),
                context: or(&request.context, &predecessor.context),
                parameters: or(&request.parameters, &predecessor.parameters),
            })
        }
    }
}

fn unusable<S>(held: &Held<S>) -> OsbError {
    let why = held
        .latest
        .as_ref()
        .filter(|_| held.instance.reason.as_deref() != Some(MISSING))
        .and_then(|latest| latest.description.as_deref())
        .or(held.instance.message.as_deref())
        .unwrap_or("it has no connection");
    OsbError::unprocessable(
        None,
        format!("the instance cannot be bound to: {why}; delete it and order it again"),
    )
}

/// The reply with a binding's credentials.
pub fn bound(status: StatusCode, credentials: &Credentials, version: Version) -> Answer {
    Answer::new(status, Value::Object(body(credentials, version)))
}

fn body(credentials: &Credentials, version: Version) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("credentials".to_owned(), Value::Object(credentials.expose().clone()));
    if version >= Version::V15 {
        body.insert("endpoints".to_owned(), json!(credentials::endpoints(credentials)));
    }
    body
}

/// OSB 2.17, "Fetching a Service Binding".
///
/// # Errors
/// When there is none, or it is being made or removed.
pub fn fetched(binding: Option<&Binding>, version: Version) -> Reply {
    let binding = binding
        .filter(|binding| binding.state == BindingState::Bound)
        .ok_or_else(|| OsbError::not_found("there is no binding of this id, or it is not ready"))?;
    let mut body = body(&binding.credentials, version);
    // Earlier platforms may refuse what they do not know here.
    if version >= Version::V16 && !binding.parameters.is_empty() {
        body.insert("parameters".to_owned(), Value::Object(binding.parameters.clone()));
    }
    Ok(Answer::new(StatusCode::OK, Value::Object(body)))
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
