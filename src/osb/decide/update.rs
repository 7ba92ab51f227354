//! OSB 2.17, "Updating a Service Instance".

use serde_json::{Map, Value};

use super::moves::{self, Move};
use super::quotas::Quotas;
use super::{Answer, Reply};
use crate::api::{CachePlanSpec, as_it_runs, effective};
use crate::ledger::{Change, Changeable, Held, Judgement, NewUpdate, OperationKind, Usage};
use crate::osb::catalog::{Catalog, OfferedPlan, Unknown, maintenance_version};
use crate::osb::error::{Code, OsbError};
use crate::osb::request::UpdateRequest;

/// What can be refused before the ledger is asked. What is only said of an instance is noted at once.
///
/// # Errors
/// The refusal.
pub fn admit(request: &UpdateRequest) -> Result<(), OsbError> {
    if request.accepts_incomplete || request.is_context_only() {
        Ok(())
    } else {
        Err(OsbError::async_required())
    }
}

/// The decision.
pub fn judge(
    request: &UpdateRequest,
    catalog: &Catalog,
    quotas: (&Quotas, &Usage),
    held: Option<&Held<Changeable>>,
) -> Judgement<Reply, Change> {
    match decide(request, catalog, quotas, held) {
        Ok(Judgement::Answer(answer)) => Judgement::Answer(Ok(answer)),
        Ok(Judgement::Accept(change)) => Judgement::Accept(change),
        Err(error) => Judgement::Answer(Err(error)),
    }
}

fn decide(
    request: &UpdateRequest,
    catalog: &Catalog,
    (quotas, usage): (&Quotas, &Usage),
    held: Option<&Held<Changeable>>,
) -> Result<Judgement<Answer, Change>, OsbError> {
    let held = held
        .filter(|held| held.instance.deleted_at.is_none())
        .ok_or_else(|| OsbError::not_found("there is no instance of this id to update"))?;
    let instance = &held.instance;
    if instance.service_id != request.service_id.as_str() {
        return Err(OsbError::bad_request(format!(
            "the instance is of service {}: send that as service_id",
            instance.service_id
        )));
    }
    if let Some(running) = held.running() {
        return if running.kind == OperationKind::Update && held.opened.asked.as_ref() == Some(&request.asked()) {
            Ok(Judgement::Answer(Answer::accepted(running.id)))
        } else {
            Err(OsbError::concurrency(format!(
                "the instance's {} is going on: update it once that ended",
                running.kind.as_str()
            )))
        };
    }
    if instance.unwanted {
        return Err(OsbError::concurrency("the instance is being deleted: order a new one"));
    }
    if instance.provisioned_at.is_none() && !instance.ready {
        return Err(unsupported(
            "the instance could not be provisioned: delete it and order it again",
        ));
    }
    let target = Target::of(request, catalog, held)?;
    let context = request
        .context
        .clone()
        .filter(|context| *context != held.opened.context);
    if target.plan_id == instance.plan_id
        && target.plan_revision == instance.plan_revision
        && target.parameters == held.opened.parameters
    {
        return Ok(match context {
            Some(context) => Judgement::Accept(Change::Context(context)),
            None => Judgement::Answer(Answer::done()),
        });
    }
    let Some(from) = present(catalog, held) else {
        return Err(unsupported(
            "the instance's plan is not known any more, so it stays as it is: order a new instance",
        ));
    };
    let to = target.spec.as_ref().unwrap_or(&from);
    allowed(request, &target, &from, to, held)?;
    if target.plan_id != instance.plan_id {
        quotas.plan_has_room(&target.plan_name, usage)?;
    }
    // A platform polls for as long as one of the plans says, and nobody knows which.
    let deadline = from.operation_deadline().min(to.operation_deadline());
    let plan_id = target.plan_id.parse().map_err(|_| OsbError::internal())?;
    Ok(Judgement::Accept(Change::Update(Box::new(NewUpdate {
        plan_id,
        plan_name: target.plan_name,
        plan_revision: target.plan_revision,
        parameters: target.parameters,
        context,
        asked: request.asked(),
        webhook: request.webhook.clone(),
        deadline,
    }))))
}

/// Where an instance is to get to.
struct Target {
    plan_id: String,
    plan_name: String,
    plan_revision: i64,
    /// Absent if it stays on the revision it runs from.
    spec: Option<CachePlanSpec>,
    parameters: Map<String, Value>,
}

impl Target {
    fn of(request: &UpdateRequest, catalog: &Catalog, held: &Held<Changeable>) -> Result<Self, OsbError> {
        let instance = &held.instance;
        let changes_plan = request
            .plan_id
            .as_ref()
            .is_some_and(|plan| plan.as_str() != instance.plan_id);
        let offered = match &request.plan_id {
            Some(plan) if changes_plan => Some(
                catalog
                    .plan(&request.service_id, plan)
                    .map_err(|unknown| unknown_plan(request, unknown))?,
            ),
            _ => catalog.plan_by_id(&instance.plan_id),
        };
        maintenance(request, offered)?;
        let parameters = merged(&held.opened.parameters, request.parameters.as_ref());
        // A plan change takes its newest revision, as an order does; else only who names a version moves.
        Ok(
            match offered.filter(|_| changes_plan || request.maintenance_version.is_some()) {
                Some(plan) => Self {
                    plan_id: plan.id.as_str().to_owned(),
                    plan_name: plan.resource.clone(),
                    plan_revision: plan.revision,
                    spec: Some(plan.spec.clone()),
                    parameters,
                },
                None => Self {
                    plan_id: instance.plan_id.clone(),
                    plan_name: instance.plan_name.clone(),
                    plan_revision: instance.plan_revision,
                    spec: None,
                    parameters,
                },
            },
        )
    }
}

/// What the instance runs from: its revision if it was kept, else the plan as it is now.
fn present(catalog: &Catalog, held: &Held<Changeable>) -> Option<CachePlanSpec> {
    let kept = held.opened.plan_spec.clone();
    kept.and_then(|spec| serde_json::from_value(spec).ok())
        .or_else(|| Some(catalog.plan_by_id(&held.instance.plan_id)?.spec.clone()))
}

/// OSB 2.17, "Maintenance Info Object": a version that is sent must be the catalog's.
fn maintenance(request: &UpdateRequest, offered: Option<&OfferedPlan>) -> Result<(), OsbError> {
    let Some(version) = &request.maintenance_version else {
        return Ok(());
    };
    if offered.is_some_and(|plan| maintenance_version(plan.revision) == *version) {
        return Ok(());
    }
    Err(OsbError::unprocessable(
        Some(Code::MaintenanceInfoConflict),
        "maintenance_info.version is not the catalog's: fetch the catalog again",
    )
    .of_update(true))
}

/// Parameters that are sent take the place of those that stand; `null` takes one away.
fn merged(standing: &Map<String, Value>, sent: Option<&Map<String, Value>>) -> Map<String, Value> {
    let mut parameters = standing.clone();
    for (name, value) in sent.into_iter().flatten() {
        if value.is_null() {
            parameters.remove(name);
        } else {
            parameters.insert(name.clone(), value.clone());
        }
    }
    parameters
}

fn allowed(
    request: &UpdateRequest,
    target: &Target,
    from: &CachePlanSpec,
    to: &CachePlanSpec,
    held: &Held<Changeable>,
) -> Result<(), OsbError> {
    let changes_plan = target.plan_id != held.instance.plan_id;
    if changes_plan && !moves::is_listed(from, &target.plan_name) {
        return Err(unsupported(format!(
            "instances of this plan do not move to {}: see updatableTo of CachePlan {}",
            target.plan_name, held.instance.plan_name
        )));
    }
    // Whether the move is possible at all does not hang on parameters that may be wrong.
    if let Move::Never(why) = moves::judge(from, to) {
        return Err(impossible(&why));
    }
    if to.has_users() && !from.has_users() && held.opened.open {
        return Err(unsupported(
            "the cache was taken over and asks for no password, so bindings cannot have users of their own: order a new instance of that plan",
        ));
    }
    let to = fits(target, to, request.parameters.is_some())?;
    // What it runs with was accepted once, whatever became of the plan since.
    let from = effective(from, &held.opened.parameters).unwrap_or_else(|_| from.clone());
    let from = as_it_runs(&from, held.opened.encrypted_at_rest);
    match moves::judge(&from, &to) {
        Move::Never(why) => Err(impossible(&why)),
        Move::Replacement(what) if !request.allow_replace => Err(unsupported(format!(
            "{what} changes, so a new cache would take the place of this one, empty or from a snapshot, at another \
             address: send the parameter allow_replace: true if that is wanted, and bind again afterwards"
        ))),
        Move::Replacement(_) | Move::InPlace => Ok(()),
    }
}

fn impossible(why: &str) -> OsbError {
    unsupported(format!(
        "this change is not possible: {why}; order a new instance of that plan instead"
    ))
}

/// The plan with the parameters in it.
fn fits(target: &Target, to: &CachePlanSpec, sent: bool) -> Result<CachePlanSpec, OsbError> {
    effective(to, &target.parameters).map_err(|error| {
        if sent {
            OsbError::bad_request(format!("{error}; null takes a parameter away")).of_update(false)
        } else {
            unsupported(format!(
                "the instance's parameters do not fit: {error}; send parameters with the change, null takes one away"
            ))
        }
    })
}

/// A change that would fail again however often it is asked for.
fn unsupported(description: impl Into<String>) -> OsbError {
    OsbError::unprocessable(None, description).of_update(false)
}

fn unknown_plan(request: &UpdateRequest, unknown: Unknown) -> OsbError {
    let plan = request.plan_id.as_ref().map(|plan| plan.as_str()).unwrap_or_default();
    OsbError::bad_request(match unknown {
        Unknown::Service => format!(
            "service_id {} is not in the catalog: fetch it again",
            request.service_id
        ),
        Unknown::Plan => format!("plan_id {plan} is not in the catalog under this service: fetch it again"),
    })
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
