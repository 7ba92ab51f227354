//! The resource of a member, and how it becomes that of an order.

use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Map, Value, json};

use super::super::Error;
use crate::api::{Adopt, CacheInstance, CacheInstanceSpec, DeletionPolicy, PlanRef, annotations, labels};

/// Whether an instance waits in a pool.
pub fn is_member(instance: &CacheInstance) -> bool {
    instance.labels().contains_key(labels::POOL) && instance.annotation(annotations::INSTANCE_ID).is_none()
}

/// The name of a member's resource.
pub fn name(id: uuid::Uuid) -> String {
    let digits = id.simple().to_string();
    format!("pool-{}", digits.get(..20).unwrap_or(&digits))
}

/// The resource of a member that nobody owns. It holds nobody's data, so deleting it deletes all of it.
pub(super) fn unclaimed(
    name: &str,
    namespace: &str,
    (plan, revision): (&str, i64),
    adopt: Option<&str>,
) -> CacheInstance {
    let plan_ref = PlanRef {
        name: plan.to_owned(),
        revision: Some(revision),
    };
    let spec = CacheInstanceSpec {
        plan_ref: plan_ref.clone(),
        parameters: Map::new(),
        owner: None,
        deletion_policy: Some(DeletionPolicy::Delete),
        connection_secret: None,
        restart_at: None,
        restore: None,
        adopt: adopt.map(|id| Adopt {
            provider_id: id.to_owned(),
            as_of: Some(plan_ref),
        }),
        users: Vec::new(),
    };
    let mut resource = CacheInstance::new(name, spec);
    resource.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some([(labels::POOL.to_owned(), plan.to_owned())].into()),
        ..ObjectMeta::default()
    };
    resource
}

/// What makes a member's resource that of an order, as a merge patch (RFC 7396) on condition that nobody wrote it since
/// it was read: annotations, owner and parameters as the order wants them, and nothing left of the pool's.
///
/// # Errors
/// When the order's resource cannot be written as JSON.
pub fn take_over(member: &CacheInstance, wanted: &CacheInstance) -> Result<Value, Error> {
    let unwritable = |error: serde_json::Error| Error::Resource(format!("the resource of an order: {error}"));
    let mut spec = serde_json::to_value(&wanted.spec).map_err(unwritable)?;
    let dropped = member.spec.parameters.keys();
    let dropped = dropped.filter(|name| !wanted.spec.parameters.contains_key(*name));
    let mut parameters = wanted.spec.parameters.clone();
    parameters.extend(dropped.map(|name| (name.clone(), Value::Null)));
    // None are no object, as in the resource of an order that was not made ahead.
    let parameters = if wanted.spec.parameters.is_empty() {
        Value::Null
    } else {
        Value::Object(parameters)
    };
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("parameters".to_owned(), parameters);
        spec.entry("deletionPolicy").or_insert(Value::Null);
    }
    Ok(json!({
        "metadata": {
            "resourceVersion": member.resource_version(),
            "annotations": wanted.metadata.annotations,
            "labels": { labels::POOL: null },
        },
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> CacheInstance {
        let name = name(uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        unclaimed(&name, "n", ("small", 3), None)
    }

    #[test]
    fn a_member_is_by_the_rules_of_its_definition_until_it_is_claimed() {
        let unclaimed = member();
        assert_eq!(unclaimed.name_any(), "pool-0123456789abcdef0123");
        assert!(is_member(&unclaimed));
        assert!(kube::core::cel::validate_cel(&unclaimed).is_ok(), "{unclaimed:?}");
    }

    #[test]
    fn an_order_leaves_nothing_of_the_pool() {
        let mut member = member();
        member.metadata.resource_version = Some("7".to_owned());
        member.spec.parameters = Map::from_iter([("connectionLimit".to_owned(), json!(5))]);
        let mut wanted: CacheInstance = serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "other", "annotations": { "cache.akkeris.io/instance-id": "i" } },
            "spec": { "planRef": { "name": "small", "revision": 3 }, "owner": { "space": "s" } },
        }))
        .unwrap();
        assert_eq!(
            take_over(&member, &wanted).unwrap(),
            json!({
                "metadata": {
                    "resourceVersion": "7",
                    "annotations": { "cache.akkeris.io/instance-id": "i" },
                    "labels": { "cache.akkeris.io/pool": null },
                },
                "spec": {
                    "planRef": { "name": "small", "revision": 3 }, "owner": { "space": "s" },
                    "parameters": null, "deletionPolicy": null,
                },
            })
        );
        member.spec.parameters.insert("maxItemSize".to_owned(), json!("2Mi"));
        wanted.spec.parameters = Map::from_iter([("connectionLimit".to_owned(), json!(9))]);
        assert_eq!(
            take_over(&member, &wanted).unwrap()["spec"]["parameters"],
            json!({ "connectionLimit": 9, "maxItemSize": null })
        );
    }
}
