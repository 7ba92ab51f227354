//! PersistentVolumeClaims: each gets a volume, so that its pods can be scheduled; where its class says so, only once one of them
//! was, and none if there is no such class. A class that comes late is seen when the claim changes. A volume grows with its
//! claim.
//!
//! The volume is a folder of the node's that outlives pods and goes with its claim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::shared::Shared;
use crate::api_calls::{CallError, call, watch};

/// How often a volume is tried for before its claim is left alone until it changes.
const ATTEMPTS: u32 = 10;

/// How long after a failed attempt the next one comes.
const AGAIN: Duration = Duration::from_secs(1);

/// How a class says that its claims are bound once a pod that uses them has a place.
const WAITS: &str = "WaitForFirstConsumer";

/// The annotation by which the scheduler says where that is.
const PLACE: &str = "volume.kubernetes.io/selected-node";

/// Where a claim's data is, below the sandbox's folder.
pub(super) fn folder(node: &str, namespace: &str, claim: &str) -> PathBuf {
    ["nodes", node, "claims", namespace, claim].iter().collect()
}

/// Makes and removes volumes until it is dropped.
pub(super) async fn serve(shared: Arc<Shared>) {
    let claims = Api::<PersistentVolumeClaim>::all(shared.client.clone());
    let mut events = std::pin::pin!(watch(claims, watcher::Config::default()));
    while let Some(event) = events.next().await {
        for _ in 0..ATTEMPTS {
            let done = match &event {
                watcher::Event::Apply(claim) | watcher::Event::InitApply(claim) => see_to(&shared, claim).await,
                watcher::Event::Delete(claim) => take_back(&shared, claim).await,
                _ => Ok(()),
            };
            let Err(error) = done else { break };
            tracing::warn!(%error, "seeing to a claim");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn see_to(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let spec = claim.spec.as_ref();
    let volume = spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if !volume.is_empty() {
        return grow(shared, claim).await;
    }
    if claim.annotations().contains_key(PLACE) || !waits(shared, claim).await? {
        return provide(shared, claim).await;
    }
    Ok(())
}

/// Whether a claim waits: for a pod, since its class says so, or for a class that is not there.
async fn waits(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<bool, CallError> {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let Some(class) = class.filter(|class| !class.is_empty()) else {
        return Ok(false);
    };
    let classes = Api::<StorageClass>::all(shared.client.clone());
    let found = call(format!("reading storage class {class}"), classes.get_opt(class)).await?;
    Ok(found.is_none_or(|class| class.volume_binding_mode.as_deref() == Some(WAITS)))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")
}

/// Gives a claim what it asks for: the API server has seen to it that this is no less than it has.
async fn grow(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    let has = claim
        .status
        .as_ref()
        .and_then(|status| status.capacity.as_ref()?.get("storage"));
    let size = requested(claim);
    if has.is_none() || has == size {
        return Ok(());
    }
    let (volume, name) = (name_of(claim), claim.name_any());
    let volumes = Api::<PersistentVolume>::all(shared.client.clone());
    let larger = Patch::Merge(json!({"spec": {"capacity": {"storage": size}}}));
    let what = format!("making volume {volume} larger");
    call(what, volumes.patch(&volume, &PatchParams::default(), &larger)).await?;
    let claims =
        Api::<PersistentVolumeClaim>::namespaced(shared.client.clone(), &claim.namespace().unwrap_or_default());
    let larger = Patch::Merge(json!({"status": {"capacity": {"storage": size}}}));
    let what = format!("saying that claim {name} has a larger volume");
    match call(what, claims.patch_status(&name, &PatchParams::default(), &larger)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn name_of(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

fn folder_of(shared: &Shared, claim: &PersistentVolumeClaim) -> PathBuf {
    let below = folder(&shared.name, &claim.namespace().unwrap_or_default(), &claim.name_any());
    shared.supervisor.dir().join(below)
}

async fn provide(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    let (name, spec) = (name_of(claim), claim.spec.as_ref());
    let size = requested(claim);
    let volume = json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
            "volumeMode": spec.and_then(|spec| spec.volume_mode.as_ref()),
            "storageClassName": spec.and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default(),
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
            },
            "hostPath": {"path": folder_of(shared, claim), "type": "DirectoryOrCreate"},
        },
    });
    let Ok(volume) = serde_json::from_value::<PersistentVolume>(volume) else {
        return Ok(());
    };
    let volumes = Api::<PersistentVolume>::all(shared.client.clone());
    let what = format!("making a volume for claim {}", claim.name_any());
    match call(what, volumes.create(&PostParams::default(), &volume)).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

async fn take_back(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    if let Err(error) = tokio::fs::remove_dir_all(folder_of(shared, claim)).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, claim = %claim.name_any(), "removing a claim's folder");
    }
    let (volumes, name) = (Api::<PersistentVolume>::all(shared.client.clone()), name_of(claim));
    match call(
        format!("removing volume {name}"),
        volumes.delete(&name, &DeleteParams::default()),
    )
    .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
