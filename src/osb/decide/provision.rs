//! OSB 2.17, "Provisioning".

use serde_json::{Map, Value};

use super::quotas::Quotas;
use super::{Answer, Reply};
use crate::api::{Namespaces, effective};
use crate::ledger::{Held, Judgement, NewInstance, OperationKind, Usage};
use crate::osb::catalog::{OfferedPlan, Unknown, maintenance_version};
use crate::osb::error::{Code, OsbError};
use crate::osb::request::ProvisionRequest;

/// What can be refused before the ledger is asked. An unknown plan cannot: an instance may exist of a plan that was
/// removed since, and its order be repeated.
///
/// # Errors
/// The refusal.
pub fn admit(request: &ProvisionRequest, plan: Result<&OfferedPlan, Unknown>) -> Result<(), OsbError> {
    if plan.is_ok() && !request.accepts_incomplete {
        return Err(OsbError::async_required());
    }
    Ok(())
}

/// The decision.
pub fn judge(
    request: &ProvisionRequest,
    plan: Result<&OfferedPlan, Unknown>,
    namespaces: &Namespaces,
    (quotas, usage): (&Quotas, &Usage),
    held: Option<&Held<Map<String, Value>>>,
) -> Judgement<Reply, NewInstance> {
    match held {
        Some(held) => Judgement::Answer(repeated(request, plan, held)),
        None => match plan.map_err(|unknown| unknown_plan(request, unknown)).and_then(|plan| {
            let new = order(request, plan, namespaces)?;
            quotas.organization_has_room(usage)?;
            quotas.plan_has_room(&plan.resource, usage)?;
            Ok(new)
        }) {
            Ok(new) => Judgement::Accept(new),
            Err(error) => Judgement::Answer(Err(error)),
        },
    }
}

/// The id is taken.
fn repeated(request: &ProvisionRequest, plan: Result<&OfferedPlan, Unknown>, held: &Held<Map<String, Value>>) -> Reply {
    let instance = &held.instance;
    if instance.deleted_at.is_some() {
        return Err(OsbError::conflict(
            "an instance of this id was deleted, and ids are not used twice: order with a new id",
        ));
    }
    // The context is left out: platforms rename instances, and fill in more of it as they grow.
    let different = [
        ("service_id", instance.service_id == request.service_id.as_str()),
        ("plan_id", instance.plan_id == request.plan_id.as_str()),
        (
            "organization_guid",
            instance.organization_guid == request.organization_guid,
        ),
        ("space_guid", instance.space_guid == request.space_guid),
        ("parameters", held.opened == request.parameters),
    ]
    .into_iter()
    .find_map(|(name, same)| (!same).then_some(name));
    if let Some(name) = different {
        return Err(match plan {
            Err(unknown) => unknown_plan(request, unknown),
            Ok(_) => OsbError::conflict(format!(
                "an instance of this id exists with another {name}: order with a new id, or send what was sent first"
            )),
        });
    }
    let revisions = [Some(instance.plan_revision), plan.ok().map(|plan| plan.revision)];
    maintenance(request, revisions.into_iter().flatten())?;
    if instance.unwanted {
        return Err(OsbError::concurrency(
            "the instance is being deleted: order with a new id",
        ));
    }
    match &held.latest {
        Some(latest)
            if latest.kind == OperationKind::Provision
                && (latest.is_running() || instance.provisioned_at.is_none()) =>
        {
            if request.accepts_incomplete {
                // Also after it failed: polling then says why, and the platform cleans up.
                Ok(Answer::accepted(latest.id))
            } else {
                Err(OsbError::async_required())
            }
        }
        _ => Ok(Answer::done()),
    }
}

fn order(request: &ProvisionRequest, plan: &OfferedPlan, namespaces: &Namespaces) -> Result<NewInstance, OsbError> {
    maintenance(request, [plan.revision])?;
    if !plan.spec.state.takes_orders() {
        return Err(OsbError::unprocessable(
            None,
            "this plan is deprecated and takes no new instances: order another plan",
        ));
    }
    let wanted =
        effective(&plan.spec, &request.parameters).map_err(|error| OsbError::bad_request(error.to_string()))?;
    Ok(NewInstance {
        // What is made ahead is as the plan has it without parameters.
        preprovisioned: plan.spec.preprovision > 0 && wanted == plan.spec,
        service_id: request.service_id.clone(),
        plan_id: request.plan_id.clone(),
        plan_name: plan.resource.clone(),
        plan_revision: plan.revision,
        organization_guid: request.organization_guid.clone(),
        space_guid: request.space_guid.clone(),
        context: request.context.clone(),
        parameters: request.parameters.clone(),
        namespace: namespaces.of(plan.spec.engine.type_).to_owned(),
        webhook: request.webhook.clone(),
        deadline: plan.spec.operation_deadline(),
    })
}

fn unknown_plan(request: &ProvisionRequest, unknown: Unknown) -> OsbError {
    OsbError::bad_request(match unknown {
        Unknown::Service => format!(
            "service_id {} is not in the catalog: fetch it again",
            request.service_id
        ),
        Unknown::Plan => format!(
            "plan_id {} is not in the catalog under this service: fetch it again",
            request.plan_id
        ),
    })
}

/// OSB 2.17, "Maintenance Info Object": a version that is sent must be the catalog's.
fn maintenance(request: &ProvisionRequest, revisions: impl IntoIterator<Item = i64>) -> Result<(), OsbError> {
    let Some(version) = &request.maintenance_version else {
        return Ok(());
    };
    if revisions
        .into_iter()
        .any(|revision| maintenance_version(revision) == *version)
    {
        return Ok(());
    }
    Err(OsbError::unprocessable(
        Some(Code::MaintenanceInfoConflict),
        "maintenance_info.version is not the catalog's: fetch the catalog again",
    ))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;
    use crate::osb::catalog::Catalog;

    fn request() -> ProvisionRequest {
        ProvisionRequest {
            service_id: SERVICE.parse().unwrap(),
            plan_id: "p".parse().unwrap(),
            organization_guid: "o".to_owned(),
            space_guid: "s".to_owned(),
            context: Map::new(),
            parameters: Map::new(),
            maintenance_version: None,
            accepts_incomplete: true,
            webhook: None,
        }
    }

    fn decide(
        request: &ProvisionRequest,
        catalog: &Catalog,
        held: Option<&Held<Map<String, Value>>>,
    ) -> Judgement<Reply, NewInstance> {
        let plan = catalog.plan(&request.service_id, &request.plan_id);
        let namespaces = Namespaces {
            memcached: "memcached-system".to_owned(),
            redis: "redis-system".to_owned(),
        };
        match admit(request, plan) {
            Ok(()) => judge(
                request,
                plan,
                &namespaces,
                (&Quotas::default(), &Usage::default()),
                held,
            ),
            Err(error) => Judgement::Answer(Err(error)),
        }
    }

    fn refusal(judgement: Judgement<Reply, NewInstance>) -> (StatusCode, Option<Code>) {
        match judgement {
            Judgement::Answer(Err(error)) => (error.status(), error.code()),
            other => panic!("no refusal: {other:?}"),
        }
    }

    #[test]
    fn a_new_id_is_accepted_with_the_plans_revision_and_deadline() {
        let catalog = catalog(&[plan(json!({ "spec": { "operationDeadline": "10m" } }))]);
        let Judgement::Accept(new) = decide(&request(), &catalog, None) else {
            panic!("refused");
        };
        assert_eq!((new.plan_revision, new.namespace.as_str()), (3, "memcached-system"));
        assert_eq!(new.deadline.as_secs(), 600);
    }

    /// The order of the checks: known plan, asynchronous, maintenance, then the ledger and the parameters.
    #[test]
    fn a_new_id_is_refused() {
        let all = catalog(&[
            plan(json!({})),
            plan(json!({ "metadata": { "name": "old" }, "spec": { "id": "old", "state": "deprecated" } })),
        ]);
        let with = |change: &dyn Fn(&mut ProvisionRequest)| {
            let mut request = request();
            change(&mut request);
            refusal(decide(&request, &all, None))
        };
        let conflict = Some(Code::MaintenanceInfoConflict);
        let sync = |request: &mut ProvisionRequest| request.accepts_incomplete = false;
        let stale = |request: &mut ProvisionRequest| request.maintenance_version = Some("2.0.0".to_owned());
        let parameter = |request: &mut ProvisionRequest| request.parameters = members(json!({ "colour": 1 }));
        assert_eq!(
            with(&|request| {
                sync(request);
                request.plan_id = "q".parse().unwrap();
            }),
            (StatusCode::BAD_REQUEST, None)
        );
        assert_eq!(
            with(&|request| request.service_id = "x".parse().unwrap()),
            (StatusCode::BAD_REQUEST, None)
        );
        assert_eq!(
            with(&|request| {
                sync(request);
                stale(request);
            }),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::AsyncRequired))
        );
        assert_eq!(
            with(&|request| {
                stale(request);
                parameter(request);
            }),
            (StatusCode::UNPROCESSABLE_ENTITY, conflict)
        );
        assert_eq!(with(&parameter), (StatusCode::BAD_REQUEST, None));
        assert_eq!(
            with(&|request| request.plan_id = "old".parse().unwrap()),
            (StatusCode::UNPROCESSABLE_ENTITY, None)
        );
    }

    #[test]
    fn the_same_order_again_gets_the_same_operation_until_it_is_done() {
        let catalog = catalog(&[plan(json!({}))]);
        let accepted = Judgement::Answer(Ok(Answer::accepted(operation_id())));
        let done = Judgement::Answer(Ok(Answer::done()));
        for (held, answer) in [
            (provisioning(Map::new()), &accepted),
            (failed(Map::new()), &accepted),
            (held(Map::new()), &done),
            (updating(Map::new()), &done),
        ] {
            assert_eq!(decide(&request(), &catalog, Some(&held)), *answer);
        }
        for held in [deprovisioning(Map::new()), undeleted(Map::new())] {
            assert_eq!(
                refusal(decide(&request(), &catalog, Some(&held))),
                (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::Concurrency))
            );
        }
    }

    #[test]
    fn another_order_under_the_same_id_is_a_conflict() {
        let catalog = catalog(&[
            plan(json!({})),
            plan(json!({ "metadata": { "name": "q" }, "spec": { "id": "q" } })),
        ]);
        let changes: [&dyn Fn(&mut ProvisionRequest); 4] = [
            &|request| request.plan_id = "q".parse().unwrap(),
            &|request| request.organization_guid = "x".to_owned(),
            &|request| request.space_guid = "x".to_owned(),
            &|request| request.parameters = members(json!({ "connectionLimit": 1 })),
        ];
        for change in changes {
            let mut request = request();
            change(&mut request);
            for held in [provisioning(Map::new()), held(Map::new()), deprovisioning(Map::new())] {
                assert_eq!(
                    refusal(decide(&request, &catalog, Some(&held))),
                    (StatusCode::CONFLICT, None)
                );
            }
        }
        assert_eq!(
            refusal(decide(&request(), &catalog, Some(&tombstone(Map::new())))),
            (StatusCode::CONFLICT, None)
        );
    }

    #[test]
    fn a_renamed_context_and_reordered_parameters_are_the_same_order() {
        let catalog = catalog(&[plan(json!({}))]);
        let held = held(members(json!({ "a": 1, "b": { "c": 2, "d": 3 } })));
        let request = ProvisionRequest {
            context: members(json!({ "instance_name": "new" })),
            parameters: serde_json::from_str(r#"{"b":{"d":3,"c":2},"a":1}"#).unwrap(),
            ..request()
        };
        assert_eq!(
            decide(&request, &catalog, Some(&held)),
            Judgement::Answer(Ok(Answer::done()))
        );
    }

    #[test]
    fn an_order_is_answered_after_its_plan_is_gone_or_edited() {
        let stale = ProvisionRequest {
            maintenance_version: Some("3.0.0".to_owned()),
            ..request()
        };
        let edited = catalog(&[plan(json!({ "status": { "revision": 4 } }))]);
        for catalog in [catalog(&[]), edited] {
            assert_eq!(
                decide(&stale, &catalog, Some(&provisioning(Map::new()))),
                Judgement::Answer(Ok(Answer::accepted(operation_id())))
            );
        }
        let sync = ProvisionRequest {
            accepts_incomplete: false,
            ..request()
        };
        assert_eq!(
            refusal(decide(&sync, &catalog(&[]), Some(&provisioning(Map::new())))),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(Code::AsyncRequired))
        );
    }

    proptest! {
        /// Whatever was sent and whatever is held: an id that is taken is never accepted again, no refusal makes a
        /// platform clean up what it did not break (OSB 2.17, "Orphan Mitigation"), and nobody waits who cannot.
        #[test]
        fn no_order_is_taken_twice_or_refused_as_the_brokers_fault(
            state in 0..8_usize,
            plan_id in prop::sample::select(vec!["p", "old", "gone"]),
            service in prop::sample::select(vec![SERVICE, "x"]),
            space in prop::sample::select(vec!["s", "t"]),
            version in prop::option::of(prop::sample::select(vec!["3.0.0", "2.0.0", "x"])),
            accepts_incomplete: bool,
            colour: bool,
        ) {
            let catalog = catalog(&[
                plan(json!({})),
                plan(json!({ "metadata": { "name": "old" }, "spec": { "id": "old", "state": "deprecated" } })),
            ]);
            let states = [held, provisioning, failed, deprovisioning, undeleted, updating, tombstone];
            let held = states.get(state).map(|state| state(Map::new()));
            let request = ProvisionRequest {
                service_id: service.parse().unwrap(),
                plan_id: plan_id.parse().unwrap(),
                space_guid: space.to_owned(),
                maintenance_version: version.map(str::to_owned),
                accepts_incomplete,
                parameters: if colour { members(json!({ "colour": 1 })) } else { Map::new() },
                ..request()
            };
            match decide(&request, &catalog, held.as_ref()) {
                Judgement::Accept(_) => {
                    prop_assert!(held.is_none() && accepts_incomplete && plan_id == "p" && !colour);
                }
                Judgement::Answer(Ok(answer)) => {
                    prop_assert!(held.is_some());
                    prop_assert!(accepts_incomplete || answer.status == StatusCode::OK);
                }
                Judgement::Answer(Err(error)) => {
                    prop_assert!(error.status().is_client_error());
                    prop_assert!(!error.description().is_empty());
                }
            }
        }
    }
}
