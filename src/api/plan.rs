use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BindingSchema, Engine, EngineType, Memory, Schema, schema};

/// What may be ordered: an engine, its size and place, its price, and what a tenant may choose.
///
/// The rules refuse what no provider could ever make; what needs a second object to judge is judged when an instance
/// asks for it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cache.akkeris.io",
    version = "v1alpha1",
    kind = "CachePlan",
    plural = "cacheplans",
    shortname = "cplan",
    category = "cache",
    status = "CachePlanStatus",
    derive = "PartialEq",
    doc = "A cache that may be ordered: engine, size, place, price and what a tenant may choose.",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".spec.engine.type"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.engine.version"),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision"),
    printcolumn(name = "Instances", type_ = "integer", json_path = ".status.instances"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Id", type_ = "string", json_path = ".spec.id", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name becomes a label value: use 63 characters or fewer"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.elasticache) != has(self.kubernetes)")
    .message("name one provider: fill in exactly one of elasticache and kubernetes"))]
#[x_kube(validation = Rule::new("self.id == oldSelf.id")
    .message("id is what platforms know the plan by and cannot change: make a new plan").field_path(".id"))]
#[x_kube(validation = Rule::new("self.service == oldSelf.service")
    .message("service cannot change: platforms know the plan under it; make a new plan").field_path(".service"))]
#[x_kube(validation = Rule::new("self.engine.type == oldSelf.engine.type")
    .message("engine.type cannot change: instances of the plan run it; make a new plan").field_path(".engine"))]
#[x_kube(validation = Rule::new("self.engine.type != 'memcached' || !has(self.elasticache) || !has(self.elasticache.topology) || self.elasticache.topology == 'cacheCluster'")
    .message("memcached on ElastiCache is always a cache cluster: set topology to cacheCluster or leave it out"))]
#[x_kube(validation = Rule::new("self.engine.type != 'memcached' || !has(self.elasticache) || (!has(self.elasticache.replicas) && !has(self.elasticache.shards) && !has(self.elasticache.snapshotWindow) && !has(self.elasticache.snapshotRetentionDays) && !has(self.elasticache.authentication) && !has(self.elasticache.atRestEncryption))")
    .message("memcached has no replicas, shards, snapshots, authentication or encryption at rest: leave those fields out"))]
#[x_kube(validation = Rule::new("self.engine.type == 'memcached' || !has(self.elasticache) || !has(self.elasticache.nodes) || self.elasticache.nodes == 1")
    .message("redis and valkey grow by replicas and shards, not nodes: leave nodes out"))]
#[x_kube(validation = Rule::new("!has(self.elasticache) || !has(self.elasticache.topology) || self.elasticache.topology != 'cacheCluster' || (!has(self.elasticache.replicas) && !has(self.elasticache.shards) && !has(self.elasticache.authentication))")
    .message("a cache cluster has no replicas, shards or authentication: use topology replicationGroup"))]
#[x_kube(validation = Rule::new("!has(self.elasticache) || !has(self.elasticache.authentication) || self.elasticache.authentication == 'none' || (has(self.elasticache.transitEncryption) && self.elasticache.transitEncryption)")
    .message("ElastiCache takes a password only over TLS: set transitEncryption to true"))]
#[x_kube(validation = Rule::new("!has(self.elasticache) || !has(self.elasticache.multiAz) || !self.elasticache.multiAz || (has(self.elasticache.replicas) && self.elasticache.replicas > 0) || (has(self.elasticache.nodes) && self.elasticache.nodes > 1)")
    .message("multiAz needs a second node: set replicas (redis, valkey) or nodes (memcached)"))]
#[x_kube(validation = Rule::new("self.engine.type != 'memcached' || !has(self.kubernetes) || !has(self.kubernetes.persistence)")
    .message("memcached keeps nothing on disk: leave persistence out"))]
#[x_kube(validation = Rule::new("!has(self.bindingCredentials) || self.bindingCredentials == 'shared' || self.engine.type != 'memcached'")
    .message("memcached has no users: leave bindingCredentials out"))]
#[x_kube(validation = Rule::new("!has(self.bindingCredentials) || self.bindingCredentials == 'shared' || !self.engine.version.matches('^([1-5]([^0-9]|$)|6[.][01]([^0-9]|$))')")
    .message("users came with version 6.2 of redis: take a later engine.version, or leave bindingCredentials out"))]
#[x_kube(validation = Rule::new("!has(self.bindingCredentials) || self.bindingCredentials == 'shared' || !has(self.elasticache) || ((!has(self.elasticache.topology) || self.elasticache.topology == 'replicationGroup') && has(self.elasticache.transitEncryption) && self.elasticache.transitEncryption && (!has(self.elasticache.authentication) || self.elasticache.authentication == 'none'))")
    .message("ElastiCache has users only on a replication group with TLS and without a token: set transitEncryption to true and leave topology and authentication out"))]
#[x_kube(validation = Rule::new("!has(self.deletionPolicy) || self.deletionPolicy != 'Snapshot' || (has(self.elasticache) && self.engine.type != 'memcached')")
    .message("only redis and valkey on ElastiCache can be snapshotted: use deletionPolicy Delete or Retain"))]
pub struct CachePlanSpec {
    /// The name of the OSB service that offers this plan.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub service: String,
    /// The OSB plan id. It never changes.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._~-]+$"))]
    pub id: String,
    /// The OSB plan name, unique within its service; the resource's own name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// The name shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub display_name: Option<String>,
    /// One sentence on what one gets.
    #[schemars(length(min = 1, max = 255))]
    pub description: String,
    /// What it costs; free if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Whether it may be ordered.
    #[serde(default)]
    pub state: PlanState,
    /// Free-form facts for the catalog's metadata.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "schema::object")]
    pub attributes: Map<String, Value>,
    /// Engine and version.
    pub engine: Engine,
    /// How many unclaimed instances are kept ready to hand out.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = 100))]
    pub preprovision: u16,
    /// What a tenant may set, as a JSON schema of an object; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Schema>,
    /// Names of the plans (as in `kubectl get cplan`) that instances may move to; all of the same engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub updatable_to: Option<Vec<String>>,
    /// What becomes of the cache when its instance is deleted, unless the instance says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// How long an operation may take before it counts as failed; one hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_deadline: Option<Duration>,
    /// How long a cache on ElastiCache is kept at most after another one took its place; a day if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_grace_period: Option<Duration>,
    /// What bindings are handed: the one password of the cache, or a user each (redis and valkey).
    #[serde(default, skip_serializing_if = "BindingCredentials::is_shared")]
    pub binding_credentials: BindingCredentials,
    /// What may be sent along with a binding, as a JSON schema of an object; anything if absent. It is kept with the
    /// binding, and changes nothing of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_parameters: Option<BindingSchema>,
    /// Made by AWS ElastiCache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elasticache: Option<ElastiCacheSpec>,
    /// Made as a Deployment and Service in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSpec>,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl CachePlan {
    /// The OSB plan name.
    pub fn osb_name(&self) -> &str {
        self.spec
            .name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}

impl CachePlanSpec {
    /// How long an operation may take when the plan does not say.
    pub const DEFAULT_OPERATION_DEADLINE: std::time::Duration = std::time::Duration::from_secs(3600);

    /// How long a cache is kept after another one took its place when the plan does not say.
    pub const DEFAULT_REPLACE_GRACE_PERIOD: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

    /// The provider part. `None` for a plan with none or two, which the API server refuses.
    pub fn provider(&self) -> Option<ProviderSpec<'_>> {
        match (&self.elasticache, &self.kubernetes) {
            (Some(spec), None) => Some(ProviderSpec::ElastiCache(spec)),
            (None, Some(spec)) => Some(ProviderSpec::Kubernetes(spec)),
            _ => None,
        }
    }

    /// Whether each binding has a user of its own.
    pub fn has_users(&self) -> bool {
        !self.binding_credentials.is_shared()
    }

    /// How long an operation on an instance of this plan may take.
    pub fn operation_deadline(&self) -> std::time::Duration {
        self.operation_deadline
            .map_or(Self::DEFAULT_OPERATION_DEADLINE, Into::into)
    }

    /// How long a cache is kept after another one took its place.
    pub fn replace_grace_period(&self) -> std::time::Duration {
        self.replace_grace_period
            .map_or(Self::DEFAULT_REPLACE_GRACE_PERIOD, Into::into)
    }

    /// How instances are made on ElastiCache: as the plan says, else a replication group for redis and valkey and a
    /// cache cluster for memcached.
    pub fn topology(&self) -> Topology {
        match (
            self.engine.type_,
            self.elasticache.as_ref().and_then(|spec| spec.topology),
        ) {
            (EngineType::Memcached, _) => Topology::CacheCluster,
            (_, Some(topology)) => topology,
            (_, None) => Topology::ReplicationGroup,
        }
    }
}

/// What a plan costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Price {
    /// In hundredths of the currency's unit (US dollar).
    pub cents: u32,
    /// For how long: `month`, `hour`.
    #[schemars(length(min = 1, max = 32))]
    pub unit: String,
}

/// Whether a plan may be ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlanState {
    /// Generally available.
    #[default]
    Ga,
    /// On trial: may be ordered.
    Beta,
    /// Refuses new instances; those that exist go on.
    Deprecated,
    /// Not in the catalog any more, and as deprecated.
    Withdrawn,
}

impl PlanState {
    /// Whether new instances may be ordered.
    pub fn takes_orders(self) -> bool {
        matches!(self, Self::Ga | Self::Beta)
    }
}

/// What bindings are handed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BindingCredentials {
    /// What the cache asks everybody for: one password, or nothing.
    #[default]
    Shared,
    /// A user of its own, which unbinding revokes.
    PerBinding,
}

impl BindingCredentials {
    /// Whether all bindings are handed the same.
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What becomes of the cache when its instance is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted with its data.
    #[default]
    Delete,
    /// It is left as it stands and no longer managed.
    Retain,
    /// It is deleted after a final snapshot.
    Snapshot,
}

/// How a cache is built on ElastiCache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Topology {
    /// `CreateReplicationGroup`: AUTH, replicas, failover, shards.
    ReplicationGroup,
    /// `CreateCacheCluster`: memcached, or one bare redis node.
    CacheCluster,
}

/// How clients of a cache on ElastiCache prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// They need not.
    #[default]
    None,
    /// By one generated password for all (redis `AUTH`).
    Token,
}

/// A cache on AWS ElastiCache. Empty fields are filled from the broker's settings or by AWS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElastiCacheSpec {
    /// Replication group or cache cluster; by engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// The node type, such as `cache.t4g.micro`.
    #[schemars(length(max = 64), regex(pattern = r"^cache\.[a-z0-9]+\.[a-z0-9]+$"))]
    pub node_type: String,
    /// The port that it answers at; the engine's own (11211, 6379) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Number of nodes of a memcached cluster; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60))]
    pub nodes: Option<u16>,
    /// Read replicas a shard (redis, valkey); none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5))]
    pub replicas: Option<u16>,
    /// Number of shards (redis, valkey); absent is cluster mode off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub shards: Option<u16>,
    /// Nodes in more than one availability zone, with automatic failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_az: Option<bool>,
    /// The parameter group; the engine's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub parameter_group: Option<String>,
    /// The subnet group; `REDIS_SUBNET_GROUP` or `MEMCACHED_SUBNET_GROUP` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub subnet_group: Option<String>,
    /// The security groups; `ELASTICACHE_SECURITY_GROUP` if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub security_group_ids: Vec<String>,
    /// TLS between clients and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit_encryption: Option<bool>,
    /// How clients prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Encryption of what is written to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_rest_encryption: Option<bool>,
    /// The weekly maintenance window in UTC, such as `sun:05:00-sun:06:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        regex(
            pattern = r"^(mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9]$"
        )
    )]
    pub maintenance_window: Option<String>,
    /// The daily snapshot window in UTC, such as `03:00-04:00` (redis, valkey).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$"))]
    pub snapshot_window: Option<String>,
    /// Days that daily snapshots are kept (redis, valkey); 0 makes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 35))]
    pub snapshot_retention_days: Option<u16>,
    /// Tags on everything made for an instance, beside those that mark it ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A cache in the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesSpec {
    /// The container image; the engine's official image at the plan's version if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Memory request and limit of a node. The engine is told to use less, so that it evicts rather than dies.
    pub memory: Memory,
    /// CPU request of a node; 100m if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^([1-9][0-9]*m|[0-9]+(\.[0-9]{1,3})?)$"))]
    pub cpu: Option<String>,
    /// Number of nodes; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: Option<u16>,
    /// The port of its Services; the engine's own (11211, 6379) if absent. A cache keeps the one that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Client connections at one time; the engine's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65000))]
    pub connection_limit: Option<u32>,
    /// The largest item memcached takes; 1Mi if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_item_size: Option<Memory>,
    /// What redis and valkey do when memory is full (`maxmemory-policy`); `allkeys-lru` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_policy: Option<EvictionPolicy>,
    /// Pods that may reach the cache port; all pods of the cluster if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_from: Option<AllowedFrom>,
    /// Node labels that the pods need.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Placement by affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object")]
    pub affinity: Option<Affinity>,
    /// Placement by spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread: Vec<TopologySpreadConstraint>,
    /// The priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class: Option<String>,
    /// The weekly maintenance window in UTC, such as `sun:05:00-sun:06:00`, in which pods may be replaced although what
    /// they hold is lost; only with consent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        regex(
            pattern = r"^(mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9]$"
        )
    )]
    pub maintenance_window: Option<String>,
    /// A volume that keeps the data when a pod goes (redis, valkey); none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
}

/// The volume that keeps the data of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Persistence {
    /// How large it is. It can grow, where its storage class lets it, and never shrinks.
    pub size: Memory,
    /// Its storage class, which never changes; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,
}

/// Pods that may reach a cache: those that match both selectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedFrom {
    /// Namespaces of the pods; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods themselves; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// What redis and valkey do when memory is full (`maxmemory-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionPolicy {
    /// Refuse writes.
    Noeviction,
    /// Evict the least recently used of all keys.
    #[default]
    AllkeysLru,
    /// Evict the least often used of all keys.
    AllkeysLfu,
    /// Evict any key.
    AllkeysRandom,
    /// Evict the least recently used of the keys with an expiry.
    VolatileLru,
    /// Evict the least often used of the keys with an expiry.
    VolatileLfu,
    /// Evict any key with an expiry.
    VolatileRandom,
    /// Evict the key whose expiry is nearest.
    VolatileTtl,
}

impl EvictionPolicy {
    /// As `redis.conf` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Noeviction => "noeviction",
            Self::AllkeysLru => "allkeys-lru",
            Self::AllkeysLfu => "allkeys-lfu",
            Self::AllkeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileLfu => "volatile-lfu",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

/// Who makes the instances of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// AWS ElastiCache.
    ElastiCache,
    /// Deployments in the cluster.
    Kubernetes,
}

impl ProviderKind {
    /// Its name in status, Secrets and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ElastiCache => "elasticache",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// The provider part of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProviderSpec<'a> {
    /// AWS ElastiCache.
    ElastiCache(&'a ElastiCacheSpec),
    /// Deployments in the cluster.
    Kubernetes(&'a KubernetesSpec),
}

impl ProviderSpec<'_> {
    /// Which provider it is.
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::ElastiCache(_) => ProviderKind::ElastiCache,
            Self::Kubernetes(_) => ProviderKind::Kubernetes,
        }
    }
}

/// What the operator found out about a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachePlanStatus {
    /// The generation that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision of the present spec, counted from 1 over all edits. New instances run from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// How many instances were ordered from the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<i64>,
    /// Preprovisioned instances: how many stand ready, and how many are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolStatus>,
    /// `Ready`: the plan can be ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How full a plan's pool is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// Instances ready to hand out.
    pub ready: u32,
    /// Instances wanted.
    pub wanted: u32,
}
