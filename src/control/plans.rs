//! Plans: each spec is kept as an immutable ControllerRevision, numbered by the ledger; instances run from the revision
//! they are pinned to, so an edit changes no instance.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};

use super::decide::{PlanLookup, PlanRevision, pinned_revision};
use super::{Error, deadline, pool};
use crate::ambient;
use crate::api::conditions::{self, READY, condition};
use crate::api::{CacheInstance, CachePlan, CachePlanSpec, CachePlanStatus, Parameter, labels};
use crate::ledger::{Ledger, PlanId};

/// How soon to try again what Postgres or the API server did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// Plans and their revisions, from memory.
#[derive(Clone)]
pub struct Plans {
    client: Client,
    ledger: Ledger,
    namespace: String,
    plans: Store<CachePlan>,
    revisions: Store<ControllerRevision>,
}

impl Plans {
    /// Plans as two watches know them; revisions are kept in a namespace.
    pub fn new(
        client: Client,
        ledger: Ledger,
        namespace: String,
        plans: Store<CachePlan>,
        revisions: Store<ControllerRevision>,
    ) -> Self {
        Self {
            client,
            ledger,
            namespace,
            plans,
            revisions,
        }
    }

    /// The revision of its plan that an instance runs from, or is to run from.
    pub fn look_up(&self, instance: &CacheInstance) -> PlanLookup {
        // What is to go goes as what it is, whatever it was asked to become.
        let running = instance.status.as_ref().and_then(|status| status.plan.as_ref());
        if let Some(plan) = running.filter(|_| instance.metadata.deletion_timestamp.is_some()) {
            return match self.revision(&plan.name, plan.revision) {
                Some(spec) => PlanLookup::Found(Arc::new(PlanRevision {
                    name: plan.name.clone(),
                    revision: plan.revision,
                    spec,
                })),
                None => PlanLookup::NoRevision(plan.revision),
            };
        }
        let name = &instance.spec.plan_ref.name;
        let plan = self.plans.get(&ObjectRef::new(name));
        let newest = || plan.as_ref().and_then(|plan| plan.status.as_ref()?.revision);
        let Some(revision) = pinned_revision(instance).or_else(newest) else {
            return PlanLookup::NoPlan;
        };
        match self.revision(name, revision) {
            Some(spec) => PlanLookup::Found(Arc::new(PlanRevision {
                name: name.clone(),
                revision,
                spec,
            })),
            None if plan.is_none() => PlanLookup::NoPlan,
            None => PlanLookup::NoRevision(revision),
        }
    }

    fn revision(&self, plan: &str, revision: i64) -> Option<CachePlanSpec> {
        let reference = ObjectRef::new(&revision_name(plan, revision)).within(&self.namespace);
        let kept = self.revisions.get(&reference)?;
        serde_json::from_value(kept.data.as_ref()?.0.clone()).ok()
    }

    /// Records a plan's present spec as a revision and says in its status whether it may be ordered, and how its pool is.
    ///
    /// # Errors
    /// When Postgres or the API server does not answer or refuses.
    pub async fn reconcile(
        &self,
        plan: &CachePlan,
        instances: usize,
        pool: Option<pool::View>,
    ) -> Result<Action, Error> {
        let now = ambient::now();
        let others = self.plans.state();
        let verdict = match problem(plan, &others) {
            Some(problem) => Err(problem),
            None => match self.record(plan).await {
                Ok(revision) => Ok(revision),
                Err(error) => {
                    tracing::warn!(plan = %plan.name_any(), %error, "recording the revision of a plan");
                    return Ok(Action::requeue(RETRY));
                }
            },
        };
        let status = status(plan, verdict, instances, pool, now);
        if plan.status.as_ref() != Some(&status) {
            let mut changed = plan.clone();
            changed.status = Some(status);
            let api: Api<CachePlan> = Api::all(self.client.clone());
            match deadline(api.replace_status(&plan.name_any(), &PostParams::default(), &changed)).await {
                // The watch brings the newer plan.
                Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {}
                outcome => {
                    outcome?;
                }
            }
        }
        Ok(Action::await_change())
    }

    async fn record(&self, plan: &CachePlan) -> Result<i64, Error> {
        let name = plan.name_any();
        let id: PlanId = plan
            .spec
            .id
            .parse()
            .map_err(|error| Error::Plan(format!("plan {name}: id {error}")))?;
        // How many are made ahead is no matter of those that are made.
        let spec = CachePlanSpec {
            preprovision: 0,
            ..plan.spec.clone()
        };
        let data = serde_json::to_value(&spec).map_err(|error| Error::Plan(format!("plan {name}: {error}")))?;
        let known = digest(&SHA256, data.to_string().as_bytes());
        let newest = self
            .revisions
            .state()
            .into_iter()
            .filter(|kept| kept.labels().get(labels::PLAN) == Some(&name))
            .max_by_key(|kept| kept.revision);
        let kept = newest.map(|kept| {
            let data = kept.data.as_ref().map(|data| data.0.to_string()).unwrap_or_default();
            (kept.revision, digest(&SHA256, data.as_bytes()).as_ref().to_vec())
        });
        let revision = self.ledger.plan_revision(&id, &data, known.as_ref(), kept).await?;
        let reference = ObjectRef::new(&revision_name(&name, revision)).within(&self.namespace);
        if self.revisions.get(&reference).is_none() {
            let kept = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(revision_name(&name, revision)),
                    namespace: Some(self.namespace.clone()),
                    labels: Some(
                        [(labels::MANAGED_BY, labels::MANAGER.to_owned()), (labels::PLAN, name)]
                            .map(|(key, value)| (key.to_owned(), value))
                            .into(),
                    ),
                    ..ObjectMeta::default()
                },
                revision,
                data: Some(RawExtension(data)),
            };
            let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &self.namespace);
            match deadline(api.create(&PostParams::default(), &kept)).await {
                Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => {}
                outcome => {
                    outcome?;
                }
            }
        }
        Ok(revision)
    }
}

/// The name of the ControllerRevision of a plan's revision.
fn revision_name(plan: &str, revision: i64) -> String {
    format!("{plan}-r{revision}")
}

/// Why a plan cannot be offered: a reason word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    reason: &'static str,
    message: String,
}

/// Why a plan cannot be offered, looked at beside the others.
fn problem(plan: &CachePlan, others: &[Arc<CachePlan>]) -> Option<Problem> {
    let name = plan.name_any();
    let age = |plan: &CachePlan| (plan.metadata.creation_timestamp.clone(), plan.name_any());
    // The older one keeps what it had.
    if let Some(older) = others.iter().find(|other| {
        let clash = other.spec.id == plan.spec.id
            || (other.spec.service == plan.spec.service && other.osb_name() == plan.osb_name());
        clash && other.name_any() != name && age(other) < age(plan)
    }) {
        let what = if older.spec.id == plan.spec.id {
            "id"
        } else {
            "name in its service"
        };
        let message = format!(
            "CachePlan {} has the same {what}: give this one another",
            older.name_any()
        );
        return Some(Problem {
            reason: "Duplicate",
            message,
        });
    }
    let Some(provider) = plan.spec.provider() else {
        let message = "it names no provider, or two: fill in exactly one of elasticache and kubernetes".to_owned();
        return Some(Problem {
            reason: "NoProvider",
            message,
        });
    };
    let schema = plan.spec.parameters.as_ref()?;
    if let Err(error) = jsonschema::draft7::new(&schema.document()) {
        return Some(Problem {
            reason: "SchemaInvalid",
            message: format!("spec.parameters is no JSON schema: {error}"),
        });
    }
    let foreign = schema.properties.keys().find(|name| {
        serde_json::from_value::<Parameter>(serde_json::Value::String((*name).clone()))
            .map_or(true, |parameter| !parameter.applies_to(provider.kind()))
    })?;
    let message = format!(
        "spec.parameters offers {foreign}, which {} does not have: remove it",
        provider.kind().as_str()
    );
    Some(Problem {
        reason: "SchemaInvalid",
        message,
    })
}

/// The status that says a verdict.
fn status(
    plan: &CachePlan,
    verdict: Result<i64, Problem>,
    instances: usize,
    pool: Option<pool::View>,
    now: Timestamp,
) -> CachePlanStatus {
    let before = plan.status.clone().unwrap_or_default();
    let generation = plan.metadata.generation.unwrap_or_default();
    let (revision, status, reason, message) = match verdict {
        Ok(revision) => (Some(revision), "True", "Offered", "it may be ordered".to_owned()),
        Err(problem) => (before.revision, "False", problem.reason, problem.message),
    };
    let condition = |type_, status, reason, message: &str| {
        condition(&before.conditions, type_, status, reason, message, generation, now)
    };
    let mut conditions = vec![condition(READY, status, reason, &message)];
    let pool = match pool {
        // It was not looked at yet.
        None => {
            conditions.extend(conditions::find(&before.conditions, pool::POOL_READY).cloned());
            before.pool.clone()
        }
        Some(pool) => {
            conditions.extend(pool.condition.map(|(full, reason, message)| {
                condition(pool::POOL_READY, if full { "True" } else { "False" }, reason, &message)
            }));
            pool.status
        }
    };
    CachePlanStatus {
        observed_generation: Some(generation),
        revision,
        instances: i64::try_from(instances).ok(),
        pool,
        conditions,
    }
}

/// Whether a plan may be ordered, by its status.
pub fn is_offered(plan: &CachePlan) -> bool {
    plan.status.as_ref().is_some_and(|status| {
        status.revision.is_some()
            && conditions::is_true(&status.conditions, READY, plan.metadata.generation.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(name: &str, id: &str, second: i64, parameters: &serde_json::Value) -> Arc<CachePlan> {
        let created = Timestamp::from_second(second).unwrap().to_string();
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan",
                "metadata": { "name": name, "generation": 1, "creationTimestamp": created },
                "spec": {
                    "service": "s", "id": id, "description": "d", "engine": { "type": "memcached", "version": "1.6" },
                    "parameters": parameters, "kubernetes": { "memory": "64Mi" },
                },
            }))
            .unwrap(),
        )
    }

    #[test]
    fn of_two_plans_with_one_id_the_older_is_offered() {
        let none = json!(null);
        let plans = [
            plan("b", "1", 10, &none),
            plan("a", "1", 20, &none),
            plan("c", "2", 30, &none),
        ];
        let reasons: Vec<_> = plans
            .iter()
            .map(|plan| problem(plan, &plans).map(|problem| problem.reason))
            .collect();
        assert_eq!(reasons, [None, Some("Duplicate"), None]);
    }

    #[test]
    fn a_parameter_of_the_other_provider_is_found_out() {
        let parameters = json!({ "properties": { "snapshotWindow": { "type": "string" } } });
        let plans = [plan("a", "1", 10, &parameters)];
        let problem = problem(&plans[0], &plans).unwrap();
        assert_eq!(
            problem.message,
            "spec.parameters offers snapshotWindow, which kubernetes does not have: remove it"
        );
    }

    #[test]
    fn an_edit_that_is_not_recorded_yet_is_not_offered() {
        let mut plan = (*plan("a", "1", 10, &json!(null))).clone();
        plan.status = Some(status(&plan, Ok(1), 0, None, Timestamp::UNIX_EPOCH));
        assert!(is_offered(&plan));
        plan.metadata.generation = Some(2);
        assert!(!is_offered(&plan));
    }
}
