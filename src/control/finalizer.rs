//! Taking hold of objects and letting them go.

use std::fmt::Debug;

use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Error, deadline};
use crate::api::FINALIZER;

/// Whether we hold an object.
pub fn is_held(object: &impl ResourceExt) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Takes hold of an object, or lets it go, on condition that it is still as it was read. Returns its metadata as it is now;
/// one that is gone is no error, and has none.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn set_finalizer<K>(api: &Api<K>, object: &K, held: bool) -> Result<Option<ObjectMeta>, Error>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let others = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER);
    let finalizers: Vec<_> = others.map(String::as_str).chain(held.then_some(FINALIZER)).collect();
    let patch = json!({ "metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    } });
    let name = object.name_any();
    let call = async {
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
    };
    match deadline(call).await {
        // Nobody is left to hold.
        Err(Error::Kube(kube::Error::Api(status))) if status.is_not_found() => Ok(None),
        outcome => outcome.map(|object| Some(object.metadata)),
    }
}
