//! The services and plans of an import, and which revision of a plan describes what the old broker made from it: pure
//! functions of the rows and of what exists.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{PlanFate, Usable};
use super::old::{Old, OldService};
use super::placeholders::{Variables, names as variables_of};
use super::plans::{self, Rendered};
use super::report::{Fate, Kind, Line};
use super::services;
use crate::api::{CachePlan, CachePlanSpec};
use crate::osb::Service;

/// The environment variables that the details of plans name.
pub fn variables(old: &Old) -> Vec<String> {
    let mut names: Vec<_> = old.plans.iter().flat_map(|plan| variables_of(&plan.details)).collect();
    names.sort();
    names.dedup();
    names
}

/// A row of `plans`, rendered or refused.
pub struct Offer {
    /// The OSB id.
    pub id: String,
    /// The OSB id of its service.
    pub service_id: String,
    /// The name of its `CachePlan`.
    pub name: String,
    /// The plan, or why there is none.
    pub rendered: Result<Rendered, String>,
}

/// The services of the file, and a line for each row.
pub fn services(old: &Old) -> (Vec<Service>, Vec<Line>) {
    let mut services = Vec::new();
    let lines = old.services.iter().map(|row| {
        let fate = match services::service(row) {
            Ok(service) => {
                services.push(service);
                Fate::Imported
            }
            Err(why) => Fate::NeedsDecision(why),
        };
        Line {
            kind: Kind::Service,
            id: row.id.clone(),
            fate,
            notes: Vec::new(),
        }
    });
    let lines = lines.collect();
    (services, lines)
}

/// Every row of `plans`.
pub fn offers(old: &Old, variables: &Variables) -> Vec<Offer> {
    let services: BTreeMap<&str, &OldService> = old.services.iter().map(|row| (row.id.as_str(), row)).collect();
    let names = plans::names(&old.plans, &services);
    let offer = |row: &super::old::OldPlan| {
        let name = names.get(&row.id).cloned().unwrap_or_default();
        let rendered = match services.get(row.service.as_str()) {
            Some(service) => plans::render(row, service, &name, variables),
            None => Err(format!(
                "its service {} is not in table services: put it back there",
                row.service
            )),
        };
        Offer {
            id: row.id.clone(),
            service_id: row.service.clone(),
            name,
            rendered,
        }
    };
    old.plans.iter().map(offer).collect()
}

/// Which revision of a plan describes what the old broker made from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Revision {
    /// One that is recorded; the plan is to be applied like this if it is not in the cluster.
    Recorded(i64, Box<CachePlanSpec>),
    /// One that is to be recorded from this spec.
    ToRecord(Box<CachePlanSpec>),
}

/// Whether two specs make the same caches. What they are called and cost does not matter.
fn makes_the_same(a: &CachePlanSpec, b: &CachePlanSpec) -> bool {
    a.engine == b.engine && a.elasticache == b.elasticache && a.kubernetes == b.kubernetes
}

/// The revision, by what the cluster has under the plan's id and what the ledger has recorded, the newest first.
///
/// # Errors
/// When the cluster's plan makes other caches: what to do.
pub fn revision(
    rendered: &CachePlanSpec,
    standing: Option<&CachePlan>,
    recorded: &[(i64, Value)],
) -> Result<Revision, String> {
    let read = recorded
        .iter()
        .filter_map(|(number, spec)| Some((*number, serde_json::from_value::<CachePlanSpec>(spec.clone()).ok()?)));
    let newest = recorded.first().map(|(number, _)| *number);
    // One that is in no cluster is recorded by what is applied, which is this one only if it is the newest.
    let fits = |number: i64| standing.is_some() || Some(number) == newest;
    for (number, spec) in read {
        if makes_the_same(rendered, &spec) && fits(number) {
            let spec = CachePlanSpec {
                preprovision: rendered.preprovision,
                ..spec
            };
            return Ok(Revision::Recorded(number, Box::new(spec)));
        }
    }
    match standing {
        None => Ok(Revision::ToRecord(Box::new(rendered.clone()))),
        Some(plan) if makes_the_same(rendered, &plan.spec) => Ok(Revision::ToRecord(Box::new(plan.spec.clone()))),
        Some(plan) => Err(format!(
            "CachePlan {0} has its id and makes other caches: `kubectl delete cacheplan {0}` and import with --apply, or \
             give it the engine and provider of the file that --out writes",
            plan.metadata.name.as_deref().unwrap_or_default()
        )),
    }
}

/// What instances of a plan need to know of it.
pub fn fate(offer: &Offer, resolved: Result<(String, i64), String>) -> PlanFate {
    let (name, usable) = match (&offer.rendered, resolved) {
        (Ok(rendered), Ok((name, revision))) => {
            let spec = &rendered.plan.spec;
            let usable = Usable {
                provider: rendered.provider,
                revision,
                preprovision: usize::from(spec.preprovision),
                deadline: spec.operation_deadline(),
            };
            (name, Ok(usable))
        }
        (Err(why), _) => (offer.name.clone(), Err(why.clone())),
        (Ok(_), Err(why)) => (offer.name.clone(), Err(why)),
    };
    PlanFate {
        service_id: offer.service_id.clone(),
        name,
        usable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(members: &Value) -> CachePlan {
        let mut spec = json!({
            "service": "s", "id": "p", "description": "d", "engine": { "type": "memcached", "version": "1.6.6" },
            "kubernetes": { "memory": "128Mi" },
        });
        spec.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": "plan" }, "spec": spec,
        }))
        .unwrap()
    }

    fn recorded(number: i64, members: &Value) -> (i64, Value) {
        (number, serde_json::to_value(plan(members).spec).unwrap())
    }

    #[test]
    fn instances_are_of_the_revision_that_made_them_whatever_the_plan_is_now() {
        let old = plan(&json!({})).spec;
        let larger = json!({ "kubernetes": { "memory": "256Mi" } });
        let dearer = json!({ "price": { "cents": 9, "unit": "month" } });
        let number = |standing: Option<&Value>, recorded: &[(i64, Value)]| {
            let standing = standing.map(plan);
            match revision(&old, standing.as_ref(), recorded) {
                Ok(Revision::Recorded(number, _)) => Some(Some(number)),
                Ok(Revision::ToRecord(_)) => Some(None),
                Err(why) => {
                    assert!(why.contains("kubectl delete cacheplan plan"), "{why}");
                    None
                }
            }
        };
        let same = json!({});
        assert_eq!(number(None, &[]), Some(None));
        assert_eq!(number(Some(&same), &[]), Some(None));
        assert_eq!(number(Some(&dearer), &[]), Some(None));
        assert_eq!(number(Some(&larger), &[]), None);
        // It was imported, and edited since.
        let history = [recorded(2, &larger), recorded(1, &same)];
        assert_eq!(number(Some(&larger), &history), Some(Some(1)));
        assert_eq!(number(Some(&dearer), &[recorded(1, &same)]), Some(Some(1)));
        // The import was ended before the plan was applied.
        assert_eq!(number(None, &[recorded(1, &same)]), Some(Some(1)));
        // Another plan of the id was there once.
        assert_eq!(number(None, &[recorded(1, &larger)]), Some(None));
        assert_eq!(number(None, &history), Some(None));
        assert_eq!(number(Some(&larger), &[recorded(1, &larger)]), None);
    }
}
