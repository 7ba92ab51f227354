//! Applies the CustomResourceDefinitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::asked;
use crate::api;
use crate::cluster;
use crate::settings::Settings;

/// Who writes them, as the API server remembers.
const MANAGER: &str = "cache-broker-definitions";

/// Brings the definitions in the cluster up to those of this version.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn apply_definitions(settings: &Settings) -> Result<(), String> {
    let manifests = api::manifests().map_err(|error| format!("writing the CustomResourceDefinitions: {error}"))?;
    let definitions = Api::<CustomResourceDefinition>::all(cluster::client(settings).await?);
    for (_, text) in manifests {
        let definition: serde_json::Value =
            serde_yaml::from_str(&text).map_err(|error| format!("reading a definition: {error}"))?;
        let name = definition
            .pointer("/metadata/name")
            .and_then(|name| name.as_str())
            .unwrap_or_default();
        let how = PatchParams::apply(MANAGER).force();
        asked(
            &format!("applying {name}"),
            definitions.patch(name, &how, &Patch::Apply(&definition)),
        )
        .await?;
        println!("{name} applied");
    }
    Ok(())
}
