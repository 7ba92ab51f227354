//! Objects in the cluster that belong to an instance: applied, deleted and let go with a deadline on every call, and
//! never taken from somebody else.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Desired, Fault};
use crate::api::CacheInstance;

/// Who we are in the managed fields of objects.
pub const FIELD_MANAGER: &str = "cache-broker";
/// How long one call to the API server may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often an object is applied anew that was changed at the same time.
const CONFLICTS: usize = 5;

/// A kind of object that instances have.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + Send + 'static
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + Send + 'static
{
}

/// The metadata of an object that belongs to an instance.
pub fn metadata(desired: &Desired, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": desired.namespace,
        "labels": desired.labels(),
        "ownerReferences": [{
            "apiVersion": CacheInstance::api_version(&()),
            "kind": CacheInstance::kind(&()),
            "name": desired.name,
            "uid": desired.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

/// Applies an object, unless one of its name belongs to somebody else, and returns it as it is now.
///
/// # Errors
/// When the API server cannot be reached or refuses, or the name is taken.
pub async fn apply<K: Child>(client: &Client, desired: &Desired, name: &str, body: &Value) -> Result<K, Fault> {
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let what = attempt::<K>("applying", desired, name);
    // A call that comes late, from a process that leads no longer, must not undo what was written since: it is on
    // condition that the object is as it was read.
    for _ in 0..CONFLICTS {
        let existing = timed(api.get_metadata_opt(name))
            .await
            .map_err(|refusal| refusal.fault(&what))?;
        let mut body = body.clone();
        if let Some(existing) = &existing {
            owned_by::<K>(desired, name, existing.metadata.owner_references.as_deref())?;
            if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".to_owned(), json!(existing.metadata.resource_version));
            }
        }
        match timed(api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body))).await {
            // Its status changes while it starts.
            Err(Refusal::Api(status)) if status.is_conflict() => {}
            outcome => return outcome.map_err(|refusal| refusal.fault(&what)),
        }
    }
    Err(Fault::transient(format!(
        "{what}: it changes all the time; trying again"
    )))
}

/// Deletes an object of the instance's. One that is gone is no error.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn delete<K: Child>(client: &Client, desired: &Desired, name: &str) -> Result<(), Fault> {
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let what = attempt::<K>("deleting", desired, name);
    let Some(existing) = timed(api.get_metadata_opt(name))
        .await
        .map_err(|refusal| refusal.fault(&what))?
    else {
        return Ok(());
    };
    if owned_by::<K>(desired, name, existing.metadata.owner_references.as_deref()).is_err() {
        return Ok(());
    }
    // In the foreground: a Deployment is seen until its Pods are gone.
    let how = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        // Not another one that was made since.
        preconditions: Some(Preconditions {
            uid: existing.metadata.uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    gone_is_fine(timed(api.delete(name, &how)).await, &what)
}

/// Gives a Deployment one Pod, and changes nothing else of it. One that is gone is no error.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn scale(client: &Client, desired: &Desired, name: &str) -> Result<(), Fault> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), &desired.namespace);
    let how = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = json!({ "spec": { "replicas": 1 } });
    let outcome = timed(api.patch(name, &how, &Patch::Merge(&patch))).await;
    gone_is_fine(outcome, &attempt::<Deployment>("scaling", desired, name))
}

/// Changes an object by a merge patch (RFC 7396).
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn merge<K: Child>(
    client: &Client,
    desired: &Desired,
    name: &str,
    doing: &str,
    patch: &Value,
) -> Result<(), Fault> {
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let how = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    timed(api.patch(name, &how, &Patch::Merge(patch)))
        .await
        .map(drop)
        .map_err(|refusal| refusal.fault(&attempt::<K>(doing, desired, name)))
}

/// Takes our owner reference off an object, so that it outlives the instance. One that is gone is no error.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn disown<K: Child>(client: &Client, desired: &Desired, name: &str) -> Result<(), Fault> {
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let patch = json!({ "metadata": { "ownerReferences": null } });
    let outcome = timed(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await;
    gone_is_fine(outcome, &attempt::<K>("letting go of", desired, name))
}

fn gone_is_fine<T>(outcome: Result<T, Refusal>, what: &str) -> Result<(), Fault> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Refusal::Api(status)) if status.is_not_found() => Ok(()),
        Err(refusal) => Err(refusal.fault(what)),
    }
}

/// What is attempted, for messages.
pub fn attempt<K: Child>(doing: &str, desired: &Desired, name: &str) -> String {
    format!("{doing} {} {}/{name}", K::kind(&()), desired.namespace)
}

/// Refuses an object that does not belong to the instance.
///
/// # Errors
/// When it does not.
pub fn owned_by<K: Child>(desired: &Desired, name: &str, owners: Option<&[OwnerReference]>) -> Result<(), Fault> {
    if owners.unwrap_or_default().iter().any(|owner| owner.uid == desired.uid) {
        return Ok(());
    }
    Err(Fault::refused(format!(
        "{} {}/{name} exists and belongs to somebody else: rename it, or give the instance another name",
        K::kind(&()),
        desired.namespace
    )))
}

/// Why a call to the API server came to nothing.
pub enum Refusal {
    /// The API server said no.
    Api(Box<kube::core::Status>),
    /// It did not answer.
    Other(String),
}

/// What the API server says of a claim whose class has volumes of one size.
const FIXED_SIZE: &str = "only dynamically provisioned pvc can be resized";

impl Refusal {
    /// As the fault of a step. Invalid and bad requests stay so until the plan or the instance changes; all else may
    /// pass.
    pub fn fault(self, what: &str) -> Fault {
        match self {
            Self::Api(status) if status.is_forbidden() && status.message.contains(FIXED_SIZE) => {
                Fault::refused(format!(
                    "{what}: refused: {}: put persistence.size of the plan back, or have the storage class allow it \
                     (allowVolumeExpansion)",
                    status.message
                ))
            }
            Self::Api(status) if status.is_invalid() || status.code == 400 => {
                Fault::refused(format!("{what}: refused: {}", status.message))
            }
            Self::Api(status) => Fault::transient(format!("{what}: {} ({})", status.message, status.reason)),
            Self::Other(error) => Fault::transient(format!("{what}: {error}")),
        }
    }
}

/// A call to the API server with a deadline; the client has none of its own.
///
/// # Errors
/// When it is refused, fails or takes too long.
pub async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(Refusal::Api(status)),
        Ok(Err(error)) => Err(Refusal::Other(error.to_string())),
        Err(_) => Err(Refusal::Other(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}
