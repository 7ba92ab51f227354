//! The record that a final snapshot leaves behind.

use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::{Desired, Fault, objects};
use crate::api::{CacheBackup, labels};

/// Records the snapshot that a deletion leaves behind as a `CacheBackup` that nobody owns. One that exists is left as it
/// is: a deletion may be tried again.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub async fn record_final(client: &Client, desired: &Desired, snapshot: &str) -> Result<(), Fault> {
    let name = final_name(desired);
    let what = format!(
        "recording the final snapshot as CacheBackup {}/{name}",
        desired.namespace
    );
    let body: CacheBackup = serde_json::from_value(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1",
        "kind": "CacheBackup",
        "metadata": {
            "name": name,
            "namespace": desired.namespace,
            "labels": { labels::MANAGED_BY: labels::MANAGER, labels::INSTANCE: desired.name },
        },
        "spec": {
            "instanceRef": { "name": desired.name },
            "snapshot": snapshot,
            "deletionPolicy": "Retain",
        },
    }))
    .map_err(|_| Fault::refused(format!("{what}: its manifest cannot be written")))?;
    let api: Api<CacheBackup> = Api::namespaced(client.clone(), &desired.namespace);
    let how = PostParams {
        field_manager: Some(objects::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match objects::timed(api.create(&how, &body)).await {
        Ok(_) => Ok(()),
        Err(objects::Refusal::Api(status)) if status.is_already_exists() => Ok(()),
        Err(refusal) => Err(refusal.fault(&what)),
    }
}

/// A name of its own: another instance of the same name may leave one behind too.
fn final_name(desired: &Desired) -> String {
    let uid: String = desired
        .uid
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(8)
        .collect();
    format!("{}-final-{}", desired.name, uid.to_ascii_lowercase())
}
