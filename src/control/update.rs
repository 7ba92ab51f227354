//! What moving an instance to the newest revision of its plan would do. Nothing is done before it is moved.

use super::decide::{PlanRevision, unheeded_revision};
use crate::api::{CacheInstance, Difference, Effect, annotations, as_it_runs, effective, forecast, worst};

/// What is said of a later revision, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Whether there is one.
    pub available: bool,
    /// The worst that moving to it would do, in one word.
    pub reason: &'static str,
    /// What it would do, and how the instance is moved.
    pub message: String,
}

/// What the later revision would make of an instance that runs from an older one.
pub fn update(instance: &CacheInstance, from: &PlanRevision, later: Option<&PlanRevision>) -> Update {
    let Some(later) = later else {
        return Update {
            available: false,
            reason: "UpToDate",
            message: format!("it runs from revision {} of its plan, the newest", from.revision),
        };
    };
    let parameters = &instance.spec.parameters;
    // What it runs with was accepted once, whatever became of the plan since.
    let old = effective(&from.spec, parameters).unwrap_or_else(|_| from.spec.clone());
    let encrypted = instance.status.as_ref().and_then(|status| status.encrypted_at_rest);
    let old = as_it_runs(&old, encrypted);
    let (reason, what) = match effective(&later.spec, parameters) {
        Ok(new) => {
            let differences = forecast(&old, &new);
            (reason(worst(&differences)), summary(&differences))
        }
        Err(error) => (
            reason(Effect::Never),
            format!("cannot be moved to: {error}; correct spec.parameters with the move"),
        ),
    };
    Update {
        available: true,
        reason,
        message: format!(
            "revision {} of its plan {what}; it runs from revision {} until {}",
            later.revision,
            from.revision,
            how(instance, later.revision)
        ),
    }
}

fn reason(worst: Effect) -> &'static str {
    match worst {
        Effect::None => "NoEffect",
        Effect::InPlace => "InPlace",
        Effect::Cold => "LosesData",
        Effect::Replace => "Replacement",
        Effect::Never => "Impossible",
    }
}

/// The differences, the worst first, with what each does.
fn summary(differences: &[Difference]) -> String {
    let of = |effect: Effect| {
        let found = differences.iter().filter(move |difference| difference.effect == effect);
        let found: Vec<_> = found.map(ToString::to_string).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let parts: Vec<_> = [
        (Effect::Never, "not possible"),
        (Effect::Replace, "takes another cache, with another address"),
        (Effect::Cold, "loses what is stored"),
        (Effect::InPlace, "in place"),
        (Effect::None, "does nothing to the cache"),
    ]
    .into_iter()
    .filter_map(|(effect, does)| Some(format!("{} ({does})", of(effect)?)))
    .collect();
    if parts.is_empty() {
        "differs in nothing that the cache is made from".to_owned()
    } else {
        format!("brings: {}", parts.join("; "))
    }
}

/// How an instance is moved.
fn how(instance: &CacheInstance, revision: i64) -> String {
    if instance.annotation(annotations::INSTANCE_ID).is_some() {
        format!("its platform updates it to maintenance_info.version {revision}.0.0")
    } else if instance.spec.plan_ref.revision.is_some() || unheeded_revision(instance) == Some(revision) {
        format!("spec.planRef.revision is {revision}")
    } else {
        format!("it is annotated with {}={revision}", annotations::UPDATE_TO_REVISION)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn instance(spec: &Value, annotations: &Value) -> CacheInstance {
        let mut object = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "i", "namespace": "n", "annotations": annotations },
            "spec": { "planRef": { "name": "p" } },
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn revision(revision: i64, elasticache: &Value) -> PlanRevision {
        let mut part = json!({ "nodeType": "cache.t4g.micro" });
        part.as_object_mut()
            .unwrap()
            .extend(elasticache.as_object().unwrap().clone());
        PlanRevision {
            name: "p".to_owned(),
            revision,
            spec: serde_json::from_value(json!({
                "service": "s", "id": "p", "description": "d", "engine": { "type": "redis", "version": "7.1" },
                "parameters": { "properties": { "replicas": { "type": "integer", "maximum": 2 } } },
                "elasticache": part,
            }))
            .unwrap(),
        }
    }

    #[test]
    fn it_says_what_a_move_would_do_the_worst_first_and_how_to_move() {
        let none = json!({});
        let from = revision(1, &none);
        let later = revision(
            3,
            &json!({ "nodeType": "cache.r7g.large", "replicas": 1, "subnetGroup": "other" }),
        );
        let plain = instance(&none, &none);
        let said = update(&plain, &from, Some(&later));
        assert!(said.available);
        assert_eq!(said.reason, "Replacement");
        assert_eq!(
            said.message,
            "revision 3 of its plan brings: the subnet group to other (takes another cache, with another address); the \
             node type from cache.t4g.micro to cache.r7g.large, the replicas from 0 to 1 (in place); it runs \
             from revision 1 until it is annotated with cache.akkeris.io/update-to-revision=3"
        );
        // The tenant's own value stays.
        let chosen = instance(&json!({ "parameters": { "replicas": 1 } }), &none);
        let said = update(&chosen, &from, Some(&later));
        assert!(!said.message.contains("replicas"), "{}", said.message);
        let said = update(&plain, &from, None);
        assert_eq!((said.available, said.reason), (false, "UpToDate"));
    }

    #[test]
    fn who_moves_an_instance_depends_on_who_keeps_it() {
        let none = json!({});
        let (from, later) = (revision(1, &none), revision(2, &json!({ "replicas": 1 })));
        for (spec, annotations, how) in [
            (
                json!({}),
                json!({ annotations::INSTANCE_ID: "i" }),
                "maintenance_info.version 2.0.0",
            ),
            (
                json!({ "planRef": { "name": "p", "revision": 1 } }),
                json!({}),
                "spec.planRef.revision is 2",
            ),
        ] {
            let said = update(&instance(&spec, &annotations), &from, Some(&later));
            assert!(said.message.ends_with(how), "{}", said.message);
        }
        // The annotation stands, and was meant for another plan.
        let mut moved = instance(&none, &json!({ annotations::UPDATE_TO_REVISION: "2" }));
        let before = json!({ "name": "q", "id": "q", "engine": "redis", "version": "7.1", "provider": "elasticache", "revision": 2 });
        moved.status = serde_json::from_value(json!({ "plan": before })).unwrap();
        let said = update(&moved, &from, Some(&later));
        assert!(said.message.ends_with("spec.planRef.revision is 2"), "{}", said.message);
    }

    #[test]
    fn parameters_that_no_longer_fit_are_said_beforehand() {
        let none = json!({});
        let from = revision(1, &none);
        let mut later = revision(2, &none);
        later.spec.parameters = None;
        let chosen = instance(&json!({ "parameters": { "replicas": 1 } }), &none);
        let said = update(&chosen, &from, Some(&later));
        assert_eq!(said.reason, "Impossible");
        assert!(said.message.contains("correct spec.parameters"), "{}", said.message);
    }
}
