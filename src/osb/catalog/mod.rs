//! The catalog (OSB 2.17, "Catalog Management"): services of the owner's file with the `CachePlan`s that name them.
//!
//! It is built once for a change and version, and served as bytes.

mod document;
mod entries;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;

pub use document::{Document, Representation};

use super::services::{Service, Services};
use super::version::Version;
use crate::api::{CachePlan, CachePlanSpec, CachePlanStatus, PlanState, ProviderKind, conditions};
use crate::ledger::{PlanId, ServiceId};

/// The catalog as it is now; `None` until the plans were first read. An empty catalog in that time would make platforms
/// forget plans.
pub type CatalogCell = watch::Receiver<Option<Arc<Catalog>>>;

/// A plan that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedPlan {
    /// Its service's OSB id.
    pub service_id: ServiceId,
    /// Its OSB id.
    pub id: PlanId,
    /// The name of the `CachePlan`.
    pub resource: String,
    /// The revision that new instances run from.
    pub revision: i64,
    /// The spec.
    pub spec: CachePlanSpec,
}

/// A catalog.
#[derive(Clone, Debug)]
pub struct Catalog {
    plans: HashMap<PlanId, OfferedPlan>,
    services: Vec<ServiceId>,
    documents: BTreeMap<Version, Document>,
    problems: Vec<String>,
}

/// What the catalog depends on of a plan. What else changes, such as how many instances there are, is no reason to build it
/// anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    uid: Option<String>,
    /// It counts up with every change of the spec, and with the deletion.
    generation: Option<i64>,
    revision: Option<i64>,
    ready: bool,
}

impl Source {
    /// Of a plan as it stands.
    pub fn of(plan: &CachePlan) -> Self {
        let status = plan.status.as_ref();
        Self {
            uid: plan.metadata.uid.clone(),
            generation: plan.metadata.generation,
            revision: status.and_then(|status| status.revision),
            ready: status.is_some_and(is_ready),
        }
    }
}

/// Whichever generation it speaks of: a plan must not leave the catalog while an edit of it is looked at.
fn is_ready(status: &CachePlanStatus) -> bool {
    conditions::find(&status.conditions, conditions::READY).is_some_and(|ready| ready.status == "True")
}

/// Why ids lead to no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No service has the id.
    Service,
    /// No plan of the service that is offered has the id.
    Plan,
}

impl Catalog {
    /// The catalog of those services and plans. A plan is offered once the operator gave it a revision and holds it
    /// ready, if its provider is enabled and no older plan has its id.
    pub fn new<'a>(
        services: &Services,
        plans: impl IntoIterator<Item = &'a CachePlan>,
        enabled: &dyn Fn(ProviderKind) -> bool,
    ) -> Self {
        let mut problems = Vec::new();
        let mut candidates: Vec<&CachePlan> = plans.into_iter().collect();
        candidates.sort_by_key(|plan| age_and_name(plan));
        let mut claimed = HashSet::new();
        let mut names = Vec::new();
        let mut offered: Vec<(&CachePlan, OfferedPlan)> = Vec::new();
        for plan in candidates {
            let resource = plan.metadata.name.clone().unwrap_or_default();
            let first = claimed.insert(plan.spec.id.as_str());
            let Some(service) = services
                .services
                .iter()
                .find(|service| service.name == plan.spec.service)
            else {
                problems.push(format!(
                    "CachePlan {resource} is not offered: no service is named {}; add it to SERVICES_FILE or mend spec.service",
                    plan.spec.service
                ));
                continue;
            };
            if !first {
                problems.push(format!(
                    "CachePlan {resource} is not offered: an older CachePlan has its id {} too; give this one an id of its own",
                    plan.spec.id
                ));
                continue;
            }
            let name = (service.id.clone(), plan.osb_name());
            if names.contains(&name) {
                problems.push(format!(
                    "CachePlan {resource} is not offered: an older CachePlan of {} is named {} too; change spec.name",
                    service.name,
                    plan.osb_name()
                ));
                continue;
            }
            if let Some(plan_offered) = offer(plan, service, resource, enabled) {
                names.push(name);
                offered.push((plan, plan_offered));
            }
        }
        offered.sort_by_key(|(plan, _)| {
            let cents = plan.spec.price.as_ref().map_or(0, |price| price.cents);
            (cents, plan.osb_name().to_owned())
        });
        let documents = Version::ALL
            .into_iter()
            .map(|version| (version, Document::of(&entries::body(services, &offered, version))))
            .collect();
        Self {
            plans: offered.into_iter().map(|(_, plan)| (plan.id.clone(), plan)).collect(),
            services: services.services.iter().map(|service| service.id.clone()).collect(),
            documents,
            problems,
        }
    }

    /// The plan of those ids.
    ///
    /// # Errors
    /// When none is offered.
    pub fn plan(&self, service: &ServiceId, plan: &PlanId) -> Result<&OfferedPlan, Unknown> {
        if !self.services.contains(service) {
            return Err(Unknown::Service);
        }
        self.plans
            .get(plan)
            .filter(|offered| offered.service_id == *service)
            .ok_or(Unknown::Plan)
    }

    /// The plan with that id, of whatever service.
    pub fn plan_by_id(&self, plan: &str) -> Option<&OfferedPlan> {
        self.plans.get(&plan.parse::<PlanId>().ok()?)
    }

    /// The body for a version.
    pub fn document(&self, version: Version) -> Option<&Document> {
        self.documents.get(&version)
    }

    /// Why plans that look complete are not offered, one sentence each, for the log.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// The oldest first, so that a newcomer takes nobody's name.
fn age_and_name(plan: &CachePlan) -> (Option<jiff::Timestamp>, Option<String>) {
    (
        plan.metadata.creation_timestamp.as_ref().map(|time| time.0),
        plan.metadata.name.clone(),
    )
}

fn offer(
    plan: &CachePlan,
    service: &Service,
    resource: String,
    enabled: &dyn Fn(ProviderKind) -> bool,
) -> Option<OfferedPlan> {
    let status = plan.status.as_ref()?;
    let provider = plan.spec.provider()?.kind();
    let withdrawn = plan.spec.state == PlanState::Withdrawn;
    if !is_ready(status) || !enabled(provider) || withdrawn || plan.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(OfferedPlan {
        service_id: service.id.clone(),
        id: plan.spec.id.parse().ok()?,
        resource,
        revision: status.revision?,
        spec: plan.spec.clone(),
    })
}

/// `maintenance_info.version` of a revision.
pub fn maintenance_version(revision: i64) -> String {
    format!("{revision}.0.0")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::osb::decide::fixtures::{SERVICE, plan};

    pub(super) fn catalog(plans: &[CachePlan]) -> Catalog {
        Catalog::new(&Services::read(None).unwrap(), plans, &|_| true)
    }

    pub(super) fn body(catalog: &Catalog, version: Version) -> Value {
        serde_json::from_slice(&catalog.document(version).unwrap().plain.body).unwrap()
    }

    fn ids(catalog: &Catalog) -> Vec<String> {
        let body = body(catalog, Version::V17);
        let services = body["services"].as_array().unwrap();
        let plans = services.iter().flat_map(|service| service["plans"].as_array().unwrap());
        plans.map(|plan| plan["id"].as_str().unwrap().to_owned()).collect()
    }

    /// OSB 2.17, "Service Plan Object" and "Changes": only plans whose bindings can succeed each other say so, and only
    /// to platforms of 2.17.
    #[test]
    fn a_plan_with_a_user_for_each_binding_is_rotatable() {
        let users = json!({ "spec": { "bindingCredentials": "perBinding" } });
        for (changes, version, expected) in [
            (users.clone(), Version::V17, json!(true)),
            (users, Version::V16, Value::Null),
            (json!({}), Version::V17, Value::Null),
        ] {
            let body = body(&catalog(&[plan(changes)]), version);
            let services = body["services"].as_array().unwrap();
            let offered = services.iter().find_map(|service| service["plans"].get(0)).unwrap();
            assert_eq!(offered["binding_rotatable"], expected);
        }
    }

    pub(super) fn named(id: &str, changes: Value) -> CachePlan {
        let mut plan = plan(changes);
        plan.metadata.name = Some(format!("plan-{id}"));
        plan.spec.id = id.to_owned();
        plan
    }

    #[test]
    fn plans_stand_by_price_under_their_service() {
        let catalog = catalog(&[
            named("dear", json!({ "spec": { "price": { "cents": 9, "unit": "month" } } })),
            named(
                "r",
                json!({ "spec": { "service": "akkeris-redis", "engine": { "type": "redis" } } }),
            ),
            named("cheap", json!({})),
        ]);
        assert_eq!(ids(&catalog), ["r", "cheap", "dear"]);
        assert_eq!(catalog.problems(), [""; 0]);
        let (service, redis): (ServiceId, ServiceId) = (
            SERVICE.parse().unwrap(),
            "0a8d668d-2971-4533-8e38-a816a7c01bec".parse().unwrap(),
        );
        let plan: PlanId = "cheap".parse().unwrap();
        assert_eq!(catalog.plan(&service, &plan).unwrap().resource, "plan-cheap");
        assert_eq!(catalog.plan(&redis, &plan), Err(Unknown::Plan));
        assert_eq!(catalog.plan(&"x".parse().unwrap(), &plan), Err(Unknown::Service));
    }

    #[test]
    fn it_is_built_anew_for_what_it_depends_on_only() {
        let before = Source::of(&named("a", json!({})));
        let more = named("a", json!({ "status": { "instances": 7 } }));
        assert_eq!(Source::of(&more), before);
        for change in [
            json!({ "metadata": { "uid": "another" } }),
            json!({ "metadata": { "generation": 99 } }),
            json!({ "status": { "revision": 99 } }),
            json!({ "status": { "conditions": [] } }),
        ] {
            assert_ne!(Source::of(&named("a", change.clone())), before, "{change}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_not_offered() {
        let unready = json!([{ "type": "Ready", "status": "False", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
        let catalog = Catalog::new(
            &Services::read(None).unwrap(),
            &[
                named("unseen", json!({ "status": null })),
                named("uncounted", json!({ "status": { "revision": null } })),
                named("unready", json!({ "status": { "conditions": unready } })),
                named(
                    "disabled",
                    json!({ "spec": { "kubernetes": null, "elasticache": { "nodeType": "cache.t4g.micro" } } }),
                ),
                named(
                    "leaving",
                    json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
                ),
                named("fine", json!({})),
            ],
            &|provider| provider == ProviderKind::Kubernetes,
        );
        assert_eq!(ids(&catalog), ["fine"]);
    }

    #[test]
    fn claims_on_one_id_or_name_are_reported() {
        let other = |name: &str, id: &str, created: &str| {
            let mut plan = named(
                id,
                json!({ "metadata": { "creationTimestamp": created }, "spec": { "name": "same" } }),
            );
            plan.metadata.name = Some(name.to_owned());
            plan
        };
        let catalog = catalog(&[
            named("twice", json!({})),
            other("a-new", "n", "2026-02-01T00:00:00Z"),
            other("b-old", "o", "2026-01-01T00:00:00Z"),
            other("again", "twice", "2026-01-01T00:00:00Z"),
            named("astray", json!({ "spec": { "service": "nobodys" } })),
        ]);
        assert_eq!(ids(&catalog), ["twice", "o"]);
        assert_eq!(catalog.problems().len(), 3, "{:?}", catalog.problems());
    }

    #[test]
    fn the_entity_tag_follows_the_body() {
        let tag = |plans: &[CachePlan], version| catalog(plans).document(version).unwrap().plain.etag.clone();
        let one = [named("a", json!({}))];
        assert_eq!(tag(&one, Version::V17), tag(&one, Version::V17));
        assert_ne!(tag(&one, Version::V17), tag(&one, Version::V13));
        assert_ne!(tag(&one, Version::V17), tag(&[named("b", json!({}))], Version::V17));
    }
}
