//! What a row of the outbox makes a resource say, and what a resource says of its row.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use crate::api::{Adopt, CacheInstance, CacheInstanceSpec, Owner, PlanRef, Restore, annotations};
use crate::control::{Error, users};
use crate::ledger::{BindingUser, Later, LaterPlan, OutboxItem};

/// Says which revision of the ledger a resource is written from.
pub fn set_revision(resource: &mut CacheInstance, revision: i64) {
    let annotations = resource.metadata.annotations.get_or_insert_default();
    annotations.insert(annotations::LEDGER_REVISION.to_owned(), revision.to_string());
}

/// What a resource says that was written from a later revision than the ledger has.
pub fn later(resource: &CacheInstance, revision: i64) -> Later {
    let spec = &resource.spec;
    let plan = resource.status.as_ref().and_then(|status| status.plan.as_ref());
    let plan = plan.filter(|plan| plan.name == spec.plan_ref.name);
    Later {
        revision,
        plan: plan.and_then(|plan| {
            Some(LaterPlan {
                id: plan.id.parse().ok()?,
                name: plan.name.clone(),
                revision: spec.plan_ref.revision.unwrap_or(plan.revision),
            })
        }),
        parameters: spec.parameters.clone(),
        restart_at: spec.restart_at.as_ref().map(|time| time.0),
        restore: spec.restore.as_ref().map(|restore| restore.backup.clone()),
    }
}

/// What makes a resource say what the row says, on condition that it is still as it was read. A merge patch (RFC 7396)
/// leaves alone what somebody else has set; what is not wanted any more is taken away by name.
pub fn change(existing: &CacheInstance, item: &OutboxItem, users: &[BindingUser]) -> Result<Value, Error> {
    let unwritable = |error: serde_json::Error| Error::Resource(format!("the resource of an order: {error}"));
    let mut wanted = resource(item);
    // A cache that is made anew has nothing to restart.
    wanted.spec.restart_at = item.restart_at.map(Time);
    wanted.spec.restore = item.restore.clone().map(|backup| Restore { backup });
    wanted.spec.users = users::wanted(existing, users);
    let digest = wanted.spec.digest();
    wanted
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(annotations::LEDGER_SPEC.to_owned(), digest);
    let before = serde_json::to_value(&existing.spec).map_err(unwritable)?;
    let mut spec = serde_json::to_value(&wanted.spec).map_err(unwritable)?;
    for name in ["parameters", "owner"] {
        let (Some(before), Some(spec)) = (before.get(name).and_then(Value::as_object), spec.as_object_mut()) else {
            continue;
        };
        let wanted = spec.entry(name).or_insert_with(|| json!({}));
        for member in before.keys() {
            if let Some(wanted) = wanted.as_object_mut() {
                wanted.entry(member).or_insert(Value::Null);
            }
        }
    }
    let mut annotations = json!(wanted.metadata.annotations);
    // Not those of an earlier request.
    for name in [
        annotations::OPERATION_ID,
        annotations::REQUEST_IDENTITY,
        annotations::ORIGINATING_IDENTITY,
    ] {
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.entry(name).or_insert(Value::Null);
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        // A restore that failed is taken back, and so is the last user.
        for name in ["restore", "users"] {
            spec.entry(name).or_insert(Value::Null);
        }
    }
    Ok(json!({
        "metadata": {
            "resourceVersion": existing.resource_version(),
            "annotations": annotations,
        },
        "spec": spec,
    }))
}

/// The resource of an accepted instance.
pub fn resource(item: &OutboxItem) -> CacheInstance {
    let instance_name = item
        .context
        .get("instance_name")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let spec = CacheInstanceSpec {
        plan_ref: PlanRef {
            name: item.plan_name.clone(),
            revision: Some(item.plan_revision),
        },
        parameters: item.parameters.clone(),
        owner: Some(Owner {
            organization: Some(item.organization.clone()),
            space: Some(item.space.clone()),
            instance_name: instance_name.map(|name| name.chars().take(256).collect()),
            labels: BTreeMap::new(),
        }),
        deletion_policy: None,
        connection_secret: None,
        restart_at: None,
        restore: None,
        adopt: item.adopt.as_ref().map(|adoption| Adopt {
            provider_id: adoption.provider_id.clone(),
            as_of: Some(PlanRef {
                name: adoption.plan_name.clone(),
                revision: Some(adoption.plan_revision),
            }),
        }),
        users: Vec::new(),
    };
    let originating = item.originating.as_ref().map(|originating| {
        let identity = Value::Object(originating.identity.clone());
        format!("{} {identity}", originating.platform)
    });
    let digest = spec.digest();
    let mut resource = CacheInstance::new(&item.name, spec);
    resource.metadata = ObjectMeta {
        name: Some(item.name.clone()),
        namespace: Some(item.namespace.clone()),
        annotations: Some(
            [
                (annotations::INSTANCE_ID, Some(item.instance.to_string())),
                (annotations::LEDGER_REVISION, Some(item.revision.to_string())),
                (annotations::LEDGER_SPEC, Some(digest)),
                (annotations::OPERATION_ID, item.operation.map(|id| id.to_string())),
                (annotations::REQUEST_IDENTITY, item.request_identity.clone()),
                (annotations::ORIGINATING_IDENTITY, originating),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        ),
        ..ObjectMeta::default()
    };
    resource
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::Desired;

    fn item(parameters: Value) -> OutboxItem {
        OutboxItem {
            instance: "i".parse().unwrap(),
            plan: "p".parse().unwrap(),
            plan_name: "large".to_owned(),
            plan_revision: 2,
            organization: "o".to_owned(),
            space: "s".to_owned(),
            context: json!({}),
            parameters: parameters.as_object().unwrap().clone(),
            restart_at: None,
            restore: None,
            adopt: None,
            backup: None,
            operation: Some(Uuid::nil()),
            request_identity: Some("request-1".to_owned()),
            originating: None,
            namespace: "n".to_owned(),
            name: "osb-1".to_owned(),
            desired: Desired::Present,
            revision: 7,
            attempts: 1,
            claim: Uuid::nil(),
        }
    }

    #[test]
    fn a_change_takes_away_what_is_not_wanted_and_leaves_alone_what_is_not_ours() {
        let existing: CacheInstance = serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "osb-1", "namespace": "n", "resourceVersion": "41" },
            "spec": {
                "planRef": { "name": "small", "revision": 1 },
                "parameters": { "connectionLimit": 5, "maxItemSize": "2Mi" },
                "owner": { "organization": "o", "space": "s", "instanceName": "old" },
                "deletionPolicy": "Retain",
            },
        }))
        .unwrap();
        let change = change(&existing, &item(json!({ "connectionLimit": 9 })), &[]).unwrap();
        let digest = resource(&item(json!({ "connectionLimit": 9 }))).spec.digest();
        assert_eq!(
            change,
            json!({
                "metadata": {
                    "resourceVersion": "41",
                    "annotations": {
                        "cache.akkeris.io/instance-id": "i", "cache.akkeris.io/ledger-revision": "7",
                        "cache.akkeris.io/ledger-spec": digest,
                        "cache.akkeris.io/operation-id": "00000000-0000-0000-0000-000000000000",
                        "cache.akkeris.io/request-identity": "request-1",
                        "cache.akkeris.io/originating-identity": null,
                    },
                },
                "spec": {
                    "planRef": { "name": "large", "revision": 2 },
                    "parameters": { "connectionLimit": 9, "maxItemSize": null },
                    "owner": { "organization": "o", "space": "s", "instanceName": null },
                    "restore": null, "users": null,
                },
            })
        );
        let restarting = OutboxItem {
            restart_at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            ..item(json!({}))
        };
        assert_eq!(
            super::change(&existing, &restarting, &[]).unwrap()["spec"]["restartAt"],
            json!("2026-01-02T03:04:05Z")
        );
        assert_eq!(resource(&restarting).spec.restart_at, None);
        // The last of the parameters, too.
        let none = super::change(&existing, &item(json!({})), &[]).unwrap();
        assert_eq!(
            none["spec"]["parameters"],
            json!({ "connectionLimit": null, "maxItemSize": null })
        );
    }
}
