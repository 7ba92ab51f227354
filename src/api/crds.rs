//! The manifests that are generated from the types.

use std::fs;
use std::path::Path;

use kube::CustomResourceExt;
use serde_yaml::Value;

use super::{CacheBackup, CacheInstance, CachePlan};

/// The generated files below `crds/`: name and content.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn manifests() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    [CachePlan::crd(), CacheInstance::crd(), CacheBackup::crd()]
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.metadata.name.as_deref().unwrap_or_default());
            let mut crd = serde_yaml::to_value(&crd)?;
            strip_formats(&mut crd);
            Ok((name, serde_yaml::to_string(&crd)?))
        })
        .collect()
}

/// Removes the integer formats of Rust that the API server does not know and warns of at every apply.
fn strip_formats(schema: &mut Value) {
    match schema {
        Value::Mapping(members) => {
            let unknown = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if members.get("format").is_some_and(unknown) {
                members.remove("format");
            }
            members.iter_mut().for_each(|(_, member)| strip_formats(member));
        }
        Value::Sequence(items) => items.iter_mut().for_each(strip_formats),
        _ => {}
    }
}

/// Writes the manifests, one file each into a folder, or all to standard output.
///
/// # Errors
/// When a file cannot be written; the text says which.
pub fn write_manifests(folder: Option<&Path>) -> Result<(), String> {
    let manifests = manifests().map_err(|error| format!("writing the CustomResourceDefinitions: {error}"))?;
    for (name, content) in manifests {
        match folder {
            Some(folder) => {
                let path = folder.join(name);
                fs::write(&path, content).map_err(|error| format!("writing {}: {error}", path.display()))?;
            }
            None => print!("---\n{content}"),
        }
    }
    Ok(())
}
