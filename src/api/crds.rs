//! The manifests that are generated from the types.

use kube::CustomResourceExt;

use super::{CacheInstance, CachePlan};

/// The generated files below `crds/`: name and content.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn manifests() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    [CachePlan::crd(), CacheInstance::crd()]
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.metadata.name.as_deref().unwrap_or_default());
            Ok((name, serde_yaml::to_string(&crd)?))
        })
        .collect()
}
