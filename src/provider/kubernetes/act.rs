use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;

use super::super::{Desired, Fault, objects, secrets};
use super::adopt::Claim;
use super::{Kind, Manifest, Step, users};
use crate::wire::Trust;

/// Does one step in the cluster.
///
/// # Errors
/// When the API server cannot be reached or refuses, or an object of the name belongs to somebody else.
pub async fn act(
    client: &Client,
    trust: &Trust,
    desired: &Desired,
    watched: &BTreeMap<String, Arc<Secret>>,
    step: &Step,
) -> Result<(), Fault> {
    match step {
        Step::Users { address, change, .. } => users::change(trust, desired, watched, address, change).await,
        Step::Secret(step) => secrets::act(client, desired, step).await,
        Step::Apply(manifests) => {
            for manifest in manifests {
                apply(client, desired, manifest).await?;
            }
            Ok(())
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
            Ok(())
        }
        Step::Scale(name) => objects::scale(client, desired, name).await,
        Step::Delete(objects) => {
            for (kind, name) in objects {
                delete(client, desired, *kind, name).await?;
            }
            Ok(())
        }
        Step::Disown(objects) => {
            for (kind, name) in objects {
                disown(client, desired, *kind, name).await?;
            }
            Ok(())
        }
    }
}

async fn apply(client: &Client, desired: &Desired, Manifest { kind, name, body }: &Manifest) -> Result<(), Fault> {
    match kind {
        Kind::Deployment => objects::apply::<Deployment>(client, desired, name, body).await,
        Kind::Service => objects::apply::<Service>(client, desired, name, body).await,
        Kind::NetworkPolicy => objects::apply::<NetworkPolicy>(client, desired, name, body).await,
        Kind::PodDisruptionBudget => objects::apply::<PodDisruptionBudget>(client, desired, name, body).await,
        Kind::PersistentVolumeClaim => objects::apply::<PersistentVolumeClaim>(client, desired, name, body).await,
        Kind::Secret => objects::apply::<Secret>(client, desired, name, body).await,
    }
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
