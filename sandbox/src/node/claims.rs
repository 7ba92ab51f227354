//! PersistentVolumeClaims: each gets a volume, so that its pods can be scheduled, unless it names a StorageClass that does not
//! exist. One that was named before it existed is seen when the claim changes.
//!
//! The volume is a folder of the node's that outlives pods and goes with its claim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::shared::Shared;
use crate::api_calls::{CallError, call, watch};

/// How often a volume is tried for before its claim is left alone until it changes.
const ATTEMPTS: u32 = 10;

/// How long after a failed attempt the next one comes.
const AGAIN: Duration = Duration::from_secs(1);

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
                watcher::Event::Apply(claim) | watcher::Event::InitApply(claim) if wants_volume(claim) => {
                    provide(&shared, claim).await
                }
                watcher::Event::Delete(claim) => take_back(&shared, claim).await,
                _ => Ok(()),
            };
            let Err(error) = done else { break };
            tracing::warn!(%error, "seeing to a claim");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn wants_volume(claim: &PersistentVolumeClaim) -> bool {
    let unbound = claim
        .spec
        .as_ref()
        .is_some_and(|spec| spec.volume_name.as_deref().unwrap_or_default().is_empty());
    unbound && claim.metadata.deletion_timestamp.is_none()
}

fn name_of(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

fn folder_of(shared: &Shared, claim: &PersistentVolumeClaim) -> PathBuf {
    let below = folder(&shared.name, &claim.namespace().unwrap_or_default(), &claim.name_any());
    shared.supervisor.dir().join(below)
}

/// Whether the class that a claim names is missing.
async fn lacks_class(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<bool, CallError> {
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    let Some(class) = named.filter(|class| !class.is_empty()) else {
        return Ok(false);
    };
    let classes = Api::<StorageClass>::all(shared.client.clone());
    let found = call(format!("reading StorageClass {class}"), classes.get_opt(class)).await?;
    Ok(found.is_none())
}

async fn provide(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    if lacks_class(shared, claim).await? {
        return Ok(());
    }
    let (name, spec) = (name_of(claim), claim.spec.as_ref());
    let size = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
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
