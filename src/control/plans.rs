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
use kube::{Api, Client, Resource, ResourceExt};

use super::decide::{PlanLookup, PlanRevision, pinned_revision};
use super::finalizer::is_held;
use super::plan_users::Usage;
use super::{Error, deadline, events, pool, set_finalizer};
use crate::ambient;
use crate::api::conditions::{self, READY, condition};
use crate::api::{CacheInstance, CachePlan, CachePlanSpec, CachePlanStatus, Parameter, labels};
use crate::ledger::{Ledger, PlanId};

/// How soon to try again what Postgres or the API server did not answer.
const RETRY: Duration = Duration::from_secs(2);
/// How soon to look again for what a watch has not told yet.
const UNTOLD: Duration = Duration::from_millis(250);

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
            // It is being recorded, or the watch is about to tell of it.
            None if newest().is_none_or(|newest| newest == revision) => PlanLookup::NoPlan,
            None => PlanLookup::NoRevision(revision),
        }
    }

    /// The newest revision of a plan, once both watches have told of it.
    pub fn newest(&self, plan: &str) -> Option<i64> {
        let newest = self.plans.get(&ObjectRef::new(plan))?.status.as_ref()?.revision?;
        let reference = ObjectRef::new(&revision_name(plan, newest)).within(&self.namespace);
        self.revisions.get(&reference).map(|_| newest)
    }

    /// The newest revision of the plan that an instance runs from, if that is a later one.
    pub fn later(&self, running: &PlanLookup) -> Option<PlanRevision> {
        let PlanLookup::Found(running) = running else {
            return None;
        };
        let revision = self.newest(&running.name).filter(|newest| *newest > running.revision)?;
        Some(PlanRevision {
            name: running.name.clone(),
            revision,
            spec: self.revision(&running.name, revision)?,
        })
    }

    fn revision(&self, plan: &str, revision: i64) -> Option<CachePlanSpec> {
        let reference = ObjectRef::new(&revision_name(plan, revision)).within(&self.namespace);
        let kept = self.revisions.get(&reference)?;
        serde_json::from_value(kept.data.as_ref()?.0.clone()).ok()
    }

    /// Records a plan's present spec as a revision, says in its status whether it may be ordered, and how its pool is,
    /// and holds it while instances use it. `usage` is absent until all instances were listed.
    ///
    /// # Errors
    /// When Postgres or the API server does not answer or refuses.
    pub async fn reconcile(
        &self,
        plan: &CachePlan,
        usage: Option<&Usage>,
        pool: Option<pool::View>,
    ) -> Result<Action, Error> {
        let now = ambient::now();
        let others = self.plans.state();
        let verdict = match problem(plan, &others).or_else(|| ending(plan, usage)) {
            Some(problem) => Err(problem),
            None => match self.record(plan).await {
                Ok(revision) => Ok(revision),
                Err(error) => {
                    tracing::warn!(plan = %plan.name_any(), %error, "recording the revision of a plan");
                    return Ok(Action::requeue(RETRY));
                }
            },
        };
        let api: Api<CachePlan> = Api::all(self.client.clone());
        let status = status(plan, verdict, usage.map(|usage| usage.ordered), pool, now);
        let revision = status.revision;
        let mut written = None;
        if plan.status.as_ref() != Some(&status) {
            let mut changed = plan.clone();
            changed.status = Some(status);
            match deadline(api.replace_status(&plan.name_any(), &PostParams::default(), &changed)).await {
                // The watch brings the newer plan.
                Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                    return Ok(Action::await_change());
                }
                outcome => written = Some(outcome?),
            }
        }
        let plan = match &written {
            Some(written) => {
                self.publish(plan, written).await;
                written
            }
            None => plan,
        };
        let Some(usage) = usage else {
            return Ok(Action::requeue(UNTOLD));
        };
        // Nobody can take hold of what is going.
        let may_hold = plan.metadata.deletion_timestamp.is_none();
        let is_used = usage.ordered > 0;
        if is_used != is_held(plan) && (!is_used || may_hold) {
            set_finalizer(&api, plan, is_used).await?;
        }
        Ok(if revision == self.newest(&plan.name_any()) {
            Action::await_change()
        } else {
            Action::requeue(UNTOLD)
        })
    }

    /// Publishes an Event if what is said of a plan is news.
    async fn publish(&self, before: &CachePlan, after: &CachePlan) {
        let ready = |plan: &CachePlan| conditions::find(&plan.status.as_ref()?.conditions, READY).cloned();
        let Some(now) = ready(after) else { return };
        let is_wrong = now.status != "True";
        let said = events::Said {
            warning: is_wrong,
            stalled: is_wrong,
            reason: &now.reason,
            message: &now.message,
        };
        if said.is_news(ready(before).as_ref()) {
            events::publish(&self.client, &after.object_ref(&()), said).await;
        }
    }

    async fn record(&self, plan: &CachePlan) -> Result<i64, Error> {
        let name = plan.name_any();
        let id: PlanId = plan
            .spec
            .id
            .parse()
            .map_err(|error| Error::Plan(format!("plan {name}: id {error}")))?;
        let (data, known) = recorded(&plan.spec).map_err(|error| Error::Plan(format!("plan {name}: {error}")))?;
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
        let revision = self.ledger.plan_revision(&id, &data, &known, kept).await?;
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

/// What is kept of a spec as a revision, and its digest. How many are made ahead is no matter of those that are made.
///
/// # Errors
/// When the spec cannot be written as JSON.
pub fn recorded(spec: &CachePlanSpec) -> serde_json::Result<(serde_json::Value, Vec<u8>)> {
    let spec = CachePlanSpec {
        preprovision: 0,
        ..spec.clone()
    };
    let data = serde_json::to_value(&spec)?;
    let known = digest(&SHA256, data.to_string().as_bytes()).as_ref().to_vec();
    Ok((data, known))
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

/// Why a plan that is being deleted is still there.
fn ending(plan: &CachePlan, usage: Option<&Usage>) -> Option<Problem> {
    plan.metadata.deletion_timestamp.as_ref()?;
    let message = match usage {
        Some(usage) if usage.ordered > 0 => {
            let named = usage
                .examples
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"));
            let mut named: Vec<_> = named.collect();
            if usage.ordered > named.len() {
                named.push(format!("{} more", usage.ordered - named.len()));
            }
            format!(
                "it is being deleted and stays until no instance uses it: {}; move them to another plan, or delete them",
                named.join(", ")
            )
        }
        Some(_) => "it is being deleted".to_owned(),
        None => "it is being deleted; its instances are being counted".to_owned(),
    };
    Some(Problem {
        reason: "Deleting",
        message,
    })
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
    instances: Option<usize>,
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
        // Until they were counted, what was counted before holds: a plan in use must not look unused.
        instances: instances
            .and_then(|instances| i64::try_from(instances).ok())
            .or(before.instances),
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
        plan.status = Some(status(&plan, Ok(1), Some(0), None, Timestamp::UNIX_EPOCH));
        assert!(is_offered(&plan));
        plan.metadata.generation = Some(2);
        assert!(!is_offered(&plan));
    }

    #[test]
    fn a_plan_that_is_being_deleted_names_those_that_use_it() {
        let mut plan = (*plan("a", "1", 10, &json!(null))).clone();
        let used = |ordered: usize| Usage {
            ordered,
            examples: (0..ordered.min(2)).map(|n| ("n".to_owned(), n.to_string())).collect(),
            ..Usage::default()
        };
        assert_eq!(ending(&plan, Some(&used(3))), None);
        plan.metadata.deletion_timestamp = plan.metadata.creation_timestamp.clone();
        let message = ending(&plan, Some(&used(3))).unwrap().message;
        assert!(message.contains("n/0, n/1, 1 more;"), "{message}");
        plan.status = Some(status(
            &plan,
            Err(ending(&plan, Some(&used(3))).unwrap()),
            Some(3),
            None,
            Timestamp::UNIX_EPOCH,
        ));
        assert!(!is_offered(&plan), "it takes no new instances");
        assert_eq!(ending(&plan, Some(&used(0))).unwrap().message, "it is being deleted");
    }

    #[test]
    fn a_plan_keeps_its_count_until_instances_were_counted_anew() {
        let mut plan = (*plan("a", "1", 10, &json!(null))).clone();
        plan.status = Some(status(&plan, Ok(1), Some(7), None, Timestamp::UNIX_EPOCH));
        let told = |instances| status(&plan, Ok(1), instances, None, Timestamp::UNIX_EPOCH).instances;
        assert_eq!((told(None), told(Some(0))), (Some(7), Some(0)));
    }
}
