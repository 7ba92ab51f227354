use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EngineType, LocalRef};

/// A snapshot of one cache.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::duplicated_attributes, reason = "every column has a type")]
#[kube(
    group = "cache.akkeris.io",
    version = "v1alpha1",
    kind = "CacheBackup",
    plural = "cachebackups",
    namespaced,
    shortname = "cbackup",
    category = "cache",
    status = "CacheBackupStatus",
    derive = "PartialEq",
    doc = "A snapshot of one cache, to fill caches from.",
    printcolumn(name = "Instance", type_ = "string", json_path = ".spec.instanceRef.name"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.snapshot", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.instanceRef.name == oldSelf.instanceRef.name && has(self.snapshot) == has(oldSelf.snapshot) && (!has(self.snapshot) || self.snapshot == oldSelf.snapshot)")
    .message("a backup is of one cache at one time: make another one"))]
pub struct CacheBackupSpec {
    /// The instance, in the backup's namespace.
    pub instance_ref: LocalRef,
    /// A snapshot that exists already, by its name in the provider; one is taken if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z]([-A-Za-z0-9.]*[A-Za-z0-9])?$")
    )]
    pub snapshot: Option<String>,
    /// What becomes of the snapshot when this is deleted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deletion_policy: BackupDeletionPolicy,
}

fn is_default(policy: &BackupDeletionPolicy) -> bool {
    *policy == BackupDeletionPolicy::default()
}

/// What becomes of a snapshot when its backup is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupDeletionPolicy {
    /// It is deleted.
    #[default]
    Delete,
    /// It is left as it stands.
    Retain,
}

/// What is known of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheBackupStatus {
    /// The generation that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The snapshot's name in the provider. Written before the provider is asked to take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether the provider was seen to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<bool>,
    /// What it was taken of, by its id in the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The engine of what it was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineType>,
    /// The engine's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its size, as the provider words it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}
