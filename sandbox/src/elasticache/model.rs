//! What exists in the cloud, as the service keeps it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::catalog::{Engine, NodeType, Version};
use super::nodes::{Slots, Tls};

/// How much an account may have (Service Quotas; every one can be set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Cache nodes in the region.
    pub nodes: usize,
    /// Nodes of one Memcached cluster.
    pub nodes_per_cluster: usize,
    /// Shards of one group.
    pub shards_per_group: usize,
    /// Manual snapshots.
    pub snapshots: usize,
    /// Users.
    pub users: usize,
    /// User groups.
    pub user_groups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 300,
            nodes_per_cluster: 40,
            shards_per_group: 90,
            snapshots: 500,
            users: 1000,
            user_groups: 100,
        }
    }
}

/// A subnet group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetGroup {
    /// Its name.
    pub name: String,
    /// The ids of its subnets, one an availability zone.
    pub subnets: Vec<String>,
}

impl SubnetGroup {
    /// A subnet group over three availability zones.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subnets: ["a", "b", "c"]
                .map(|zone| format!("subnet-0000000000000000{zone}"))
                .to_vec(),
        }
    }
}

/// What clusters and groups have in common and may be changed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upkeep {
    pub maintenance: String,
    pub snapshot_window: String,
    pub retention: usize,
    pub topic: Option<String>,
    pub topic_status: String,
    pub auto_minor: bool,
    pub security_groups: Vec<String>,
    pub parameter_group: String,
    pub subnet_group: String,
    pub network: String,
    pub discovery: String,
}

/// One cache node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub id: String,
    pub key: u64,
    pub address: Ipv4Addr,
    pub zone: String,
    pub status: &'static str,
    pub created: Timestamp,
}

/// Changes of a cluster that wait (CacheCluster, `PendingModifiedValues`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterPending {
    pub nodes: Option<usize>,
    pub remove: Vec<String>,
    pub zones: Vec<String>,
    pub version: Option<Version>,
    pub node_type: Option<NodeType>,
    pub scale: Option<(i64, i64)>,
    pub parameter_group: Option<String>,
}

/// A cache cluster: of Memcached, of one Redis node, or a member of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub id: String,
    pub group: Option<String>,
    pub status: String,
    pub version: Version,
    pub node_type: NodeType,
    pub port: u16,
    pub nodes: Vec<Node>,
    pub cross_az: bool,
    pub tls: Tls,
    pub at_rest: bool,
    pub upkeep: Upkeep,
    pub pending: ClusterPending,
    pub tags: BTreeMap<String, String>,
    pub created: Timestamp,
    pub restore: Option<u64>,
}

/// The data partitions of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub id: String,
    pub slots: Vec<Slots>,
    /// Cluster ids, the primary first.
    pub members: Vec<String>,
}

/// How an AUTH token comes in (`AuthTokenUpdateStrategy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthChange {
    Rotate(String),
    Set(String),
    Delete,
}

/// The AUTH tokens of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Auth {
    /// Valid ones, oldest first; two after a rotation.
    pub tokens: Vec<String>,
    /// Whether one may still do without, after the first rotation.
    pub optional: bool,
    pub changed: Option<Timestamp>,
}

/// Changes of a group that wait (ReplicationGroup, `PendingModifiedValues`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupPending {
    pub failover: Option<bool>,
    pub multi_az: Option<bool>,
    pub tls: Option<Tls>,
    pub auth: Option<AuthChange>,
    pub add_users: Vec<String>,
    pub remove_users: Vec<String>,
    pub node_type: Option<NodeType>,
    pub version: Option<Version>,
    pub parameter_group: Option<String>,
    pub primary: Option<String>,
    /// Shards as they shall be after a change of their number.
    pub shards: Option<Vec<Shard>>,
}

/// A replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub id: String,
    pub description: String,
    pub status: String,
    pub version: Version,
    pub node_type: NodeType,
    pub port: u16,
    pub shards: Vec<Shard>,
    /// Cluster mode enabled.
    pub sharded: bool,
    pub failover: bool,
    pub multi_az: bool,
    pub tls: Tls,
    pub at_rest: bool,
    pub kms_key: Option<String>,
    pub auth: Auth,
    pub user_groups: Vec<String>,
    pub snapshotting: Option<String>,
    pub upkeep: Upkeep,
    pub pending: GroupPending,
    pub tags: BTreeMap<String, String>,
    pub created: Timestamp,
}

impl Group {
    /// The ids of its clusters.
    pub fn members(&self) -> impl Iterator<Item = &String> {
        self.shards.iter().flat_map(|shard| &shard.members)
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub name: String,
    pub status: &'static str,
    pub automatic: bool,
    pub group: Option<Group>,
    pub cluster: Cluster,
    /// For each node saved: shard, slots, cluster, file.
    pub parts: Vec<Part>,
    pub tags: BTreeMap<String, String>,
    pub kms_key: Option<String>,
    pub created: Timestamp,
}

/// What one node gave to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub shard: String,
    pub slots: Vec<Slots>,
    pub replicas: usize,
    pub cluster: String,
    pub file: u64,
}

/// Something that happened (DescribeEvents).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub source: String,
    pub kind: &'static str,
    pub message: String,
    pub date: Timestamp,
}

impl Engine {
    /// Whether replication, snapshots and AUTH exist for it.
    pub(crate) fn replicates(self) -> bool {
        self != Engine::Memcached
    }
}
