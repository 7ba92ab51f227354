use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;

use super::super::{Desired, Done, Fault, objects, secrets};
use super::adopt::Claim;
use super::{Kind, Manifest, Step, Stores, users};
use crate::wire::Trust;

/// How soon to decide anew after a step, unless its objects change before.
const UNLESS_WATCHED: Duration = Duration::from_secs(1);

/// Does one step in the cluster. What it applies is observed from then on, though no watch has told of it.
///
/// # Errors
/// When the API server cannot be reached or refuses, or an object of the name belongs to somebody else.
pub async fn act(
    client: &Client,
    trust: &Trust,
    desired: &Desired,
    stores: &Stores,
    step: &Step,
) -> Result<Done, Fault> {
    match step {
        Step::Users { address, change, .. } => {
            let secrets = stores.secrets_of(&desired.namespace, &desired.name)?;
            users::change(trust, desired, &secrets, address, change).await?;
            // Nothing that is watched changes.
            return Ok(Done::Later(Duration::ZERO));
        }
        Step::Secret(step) => return secrets::act(client, stores, desired, step).await,
        Step::Apply(manifests) => {
            for manifest in manifests {
                apply(client, desired, stores, manifest).await?;
            }
            return Ok(Done::Observed);
        }
        Step::TakeOver(claims) => {
            for Claim { kind, name, patch } in claims {
                let doing = "taking over";
                match kind {
                    Kind::Deployment => objects::merge::<Deployment>(client, desired, name, doing, patch).await?,
                    Kind::Service => objects::merge::<Service>(client, desired, name, doing, patch).await?,
                    other => return Err(Fault::refused(format!("a {} is not taken over", other.as_str()))),
                }
            }
        }
        Step::Scale(name) => objects::scale(client, desired, name).await?,
        Step::Delete(objects) => {
            for (kind, name) in objects {
                delete(client, desired, *kind, name).await?;
            }
        }
        Step::Disown(objects) => {
            for (kind, name) in objects {
                disown(client, desired, *kind, name).await?;
            }
        }
    }
    Ok(Done::Later(UNLESS_WATCHED))
}

async fn apply(client: &Client, desired: &Desired, stores: &Stores, manifest: &Manifest) -> Result<(), Fault> {
    let Manifest { kind, name, body } = manifest;
    match kind {
        Kind::Deployment => stores.wrote(objects::apply::<Deployment>(client, desired, name, body).await?),
        Kind::Service => stores.wrote(objects::apply::<Service>(client, desired, name, body).await?),
        Kind::NetworkPolicy => stores.wrote(objects::apply::<NetworkPolicy>(client, desired, name, body).await?),
        Kind::PodDisruptionBudget => {
            stores.wrote(objects::apply::<PodDisruptionBudget>(client, desired, name, body).await?);
        }
        Kind::PersistentVolumeClaim => {
            stores.wrote(objects::apply::<PersistentVolumeClaim>(client, desired, name, body).await?);
        }
        Kind::Secret => stores.wrote(objects::apply::<Secret>(client, desired, name, body).await?),
    }
    Ok(())
}

async fn delete(client: &Client, desired: &Desired, kind: Kind, name: &str) -> Result<(), Fault> {
    match kind {
        Kind::Deployment => objects::delete::<Deployment>(client, desired, name).await,
        Kind::Service => objects::delete::<Service>(client, desired, name).await,
        Kind::NetworkPolicy => objects::delete::<NetworkPolicy>(client, desired, name).await,
        Kind::PodDisruptionBudget => objects::delete::<PodDisruptionBudget>(client, desired, name).await,
        Kind::PersistentVolumeClaim => objects::delete::<PersistentVolumeClaim>(client, desired, name).await,
        Kind::Secret => objects::delete::<Secret>(client, desired, name).await,
    }
}

async fn disown(client: &Client, desired: &Desired, kind: Kind, name: &str) -> Result<(), Fault> {
    match kind {
        Kind::Deployment => objects::disown::<Deployment>(client, desired, name).await,
        Kind::Service => objects::disown::<Service>(client, desired, name).await,
        Kind::NetworkPolicy => objects::disown::<NetworkPolicy>(client, desired, name).await,
        Kind::PodDisruptionBudget => objects::disown::<PodDisruptionBudget>(client, desired, name).await,
        Kind::PersistentVolumeClaim => objects::disown::<PersistentVolumeClaim>(client, desired, name).await,
        Kind::Secret => objects::disown::<Secret>(client, desired, name).await,
    }
}
