use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BindingCredentials, DeletionPolicy, EngineType, ProviderKind, Topology, annotations, schema};
use crate::digest::sha256_hex;

/// One cache.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cache.akkeris.io",
    version = "v1alpha1",
    kind = "CacheInstance",
    plural = "cacheinstances",
    namespaced,
    shortname = "cinst",
    category = "cache",
    status = "CacheInstanceStatus",
    derive = "PartialEq",
    doc = "One cache, made from a CachePlan.",
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.planRef.name"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.plan.engine"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.plan.version"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint.address"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Provider-Id", type_ = "string", json_path = ".status.providerId", priority = 1),
    printcolumn(name = "Owner", type_ = "string", json_path = ".spec.owner.organization", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 52")
        .message("metadata.name becomes a host name: use at most 52 lower-case letters, digits and hyphens, first a letter, last no hyphen"),
    validation = Rule::new("!has(self.spec.connectionSecret) || !(self.spec.connectionSecret.name in [self.metadata.name + '-auth', self.metadata.name + '-users'])")
        .message("connectionSecret is the name of a Secret that keeps passwords: choose another"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.adopt) && has(self.restore))")
    .message("adopt and restore exclude each other: an adopted cache keeps the data it has"))]
#[x_kube(validation = Rule::new("!has(self.users) || self.users.all(user, user.name != 'default')")
    .message("the user default is the operator's: give users other names").field_path(".users"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.providerId == oldSelf.adopt.providerId)")
    .message("adopt is fixed once the instance exists: make a new instance").field_path(".adopt"))]
#[x_kube(validation = Rule::new("has(self.connectionSecret) == has(oldSelf.connectionSecret) && (!has(self.connectionSecret) || self.connectionSecret.name == oldSelf.connectionSecret.name)")
    .message("connectionSecret is fixed once the instance exists: applications mount it by that name").field_path(".connectionSecret"))]
pub struct CacheInstanceSpec {
    /// The plan it is made from.
    pub plan_ref: PlanRef,
    /// Values for the parameters that the plan offers.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "schema::parameter_values")]
    pub parameters: Map<String, Value>,
    /// For whom it is; becomes tags and labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// What becomes of the cache when this is deleted; the plan's word if absent, else `Delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// The Secret that connection details are written to; `<name>-connection` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_secret: Option<LocalRef>,
    /// Restarts the nodes once, when it moves forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Time>,
    /// Fills the cache from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// Takes over a cache that exists in the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
    /// Users beside the default one, where the engine has users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<User>,
}

impl CacheInstanceSpec {
    /// A digest of what a platform orders: plan, parameters, and what to be filled from. Two specs with the same one ask
    /// for the same cache.
    pub fn digest(&self) -> String {
        let ordered = (&self.plan_ref, &self.parameters, &self.restore);
        // Nothing in it can fail to be JSON, and maps are sorted.
        let text = serde_json::to_string(&ordered).unwrap_or_default();
        sha256_hex(text, 16)
    }
}

impl CacheInstance {
    /// The name of the Secret with its connection details.
    pub fn connection_secret_name(&self) -> String {
        match &self.spec.connection_secret {
            Some(secret) => secret.name.clone(),
            None => format!("{}-connection", self.metadata.name.as_deref().unwrap_or_default()),
        }
    }

    /// The ledger revision that it says its spec was written from.
    pub fn ledger_revision(&self) -> Option<i64> {
        self.annotation(annotations::LEDGER_REVISION)?.parse().ok()
    }

    /// The value of one of its annotations.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// A plan and, if pinned, the revision of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRef {
    /// The name of the `CachePlan`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The plan's revision; the one that was newest when the instance was first seen if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision: Option<i64>,
}

/// For whom a cache is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The organization, as the platform names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub organization: Option<String>,
    /// The space, project or namespace, as the platform names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub space: Option<String>,
    /// The name its users gave the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub instance_name: Option<String>,
    /// Labels of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
}

/// An object in the instance's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A backup to fill a cache from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restore {
    /// The name of the `CacheBackup`.
    #[schemars(length(min = 1, max = 253))]
    pub backup: String,
}

/// A cache that exists in the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// Its id in the provider: a replication group or cache cluster; in the cluster a Deployment, with the Service that
    /// leads to it, of this instance's own name.
    #[schemars(length(min = 1, max = 253))]
    pub provider_id: String,
    /// The plan, and the revision of it, that the cache counts as an instance of as it was found. While the instance is at
    /// that one and sets no parameters, what differs from the plan is told and not mended; without this it is mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<PlanRef>,
}

/// A user of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's name, unique within the instance.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9-]*$"))]
    pub name: String,
    /// The Secret whose `password` is the user's.
    pub secret_ref: LocalRef,
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// The user's name.
    pub name: String,
    /// Whether the cache lets it in.
    pub ready: bool,
    /// The `resourceVersion` of the Secret that its password was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_version: Option<String>,
}

/// How far the password of a replication group is, or which one a redis in the cluster was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordStatus {
    /// The `resourceVersion` of the Secret with it.
    pub secret_version: String,
    /// How far it is.
    pub stage: PasswordStage,
    /// Since when it is let in beside the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When ElastiCache says it was last changed, as it was before the change that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// How far a password is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PasswordStage {
    /// It is asked for.
    Adding,
    /// It is let in, and so is who shows the one before, or none.
    Both,
    /// It is asked that nobody else is let in.
    Setting,
    /// Nobody else is let in.
    Alone,
}

/// What is known of a cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheInstanceStatus {
    /// The generation that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The plan it runs from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// Its id in the provider. Written before the provider is asked to make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// The provider's own name for it, noted once it was proven ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_arn: Option<String>,
    /// How many times it was replaced by a new one in the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_generation: Option<u32>,
    /// What is known of the tags that were put on it in the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_tags: Option<ProviderTags>,
    /// The engine and its version, as they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<RunningEngine>,
    /// Whether it is encrypted at rest, where the provider says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_at_rest: Option<bool>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderKind>,
    /// How it is built on ElastiCache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// The cache that is being made to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// Caches whose place was taken and which are not deleted yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Superseded>,
    /// The restart that is going on, node by node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStatus>,
    /// The last `spec.restartAt` that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted_at: Option<Time>,
    /// The `CacheBackup` that the cache was filled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Where its replicas answer reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_endpoint: Option<Endpoint>,
    /// Its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// The connection Secret, where tools for Service Binding look for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<LocalRef>,
    /// Users that the cache lets in, or may let in. One that is to go stands here until it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserStatus>,
    /// The ElastiCache user group that its users are in. Written before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_group: Option<String>,
    /// How far the password of a replication group is, or which one a redis in the cluster was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordStatus>,
    /// Since when the provider answers with a state that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<Time>,
    /// When it first answered. What never did is deleted without regard to the deletion policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_time: Option<Time>,
    /// The latest backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// The latest ledger revision that the spec was written from. A spec that says an earlier one was put back by
    /// somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_revision: Option<i64>,
}

/// A cache that is being made to take another's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// Who makes it.
    pub provider: ProviderKind,
    /// Its id in the provider.
    pub provider_id: String,
    /// The provider's own name for it, noted once it was proven ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_arn: Option<String>,
    /// How it is built on ElastiCache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// How many the instance had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// What is known of the tags that were put on it in the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<ProviderTags>,
}

/// Tags that were put on a cache in the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderTags {
    /// Every key that may be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What they say, as a digest, once that was read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// An engine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunningEngine {
    /// Which engine.
    #[serde(rename = "type")]
    pub type_: EngineType,
    /// Its version, as the provider tells it.
    pub version: String,
}

/// A cache whose place another one took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Superseded {
    /// The cache.
    #[serde(flatten)]
    pub cache: Replacement,
    /// Since when the other one serves.
    pub since: Time,
    /// When it is deleted at the latest.
    pub until: Time,
}

/// A restart that goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// The `spec.restartAt` that asked for it.
    pub requested: Time,
    /// Nodes that answered again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// The node that is being restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether the provider was seen to restart it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<bool>,
}

/// The plan an instance runs from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanStatus {
    /// The name of the `CachePlan`.
    pub name: String,
    /// The OSB plan id.
    pub id: String,
    /// The engine.
    pub engine: EngineType,
    /// The engine's version.
    pub version: String,
    /// Who makes it.
    pub provider: ProviderKind,
    /// The plan's revision.
    pub revision: i64,
    /// What annotation `cache.akkeris.io/update-to-revision` has asked for since before the instance was moved to this plan:
    /// that was meant for another one.
    #[serde(default, rename = "unheededRevision", skip_serializing_if = "Option::is_none")]
    pub unheeded_revision: Option<i64>,
    /// What bindings are handed.
    #[serde(
        default,
        rename = "bindingCredentials",
        skip_serializing_if = "BindingCredentials::is_shared"
    )]
    pub binding_credentials: BindingCredentials,
}

/// Where a cache answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Host and port in one, as `kubectl get` shows it.
    pub address: String,
}

impl Endpoint {
    /// An endpoint at a host and port.
    pub fn new(host: impl Into<String>, port: u16, tls: bool) -> Self {
        let host = host.into();
        let address = format!("{host}:{port}");
        Self {
            host,
            port,
            tls,
            address,
        }
    }
}

/// One node of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its id in the provider.
    pub id: String,
    /// Host name or address, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// TCP port, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The latest backup of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastBackup {
    /// The name of the `CacheBackup`.
    pub name: String,
    /// When it was complete.
    pub time: Time,
}
