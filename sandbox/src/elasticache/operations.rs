//! Which operation does what, and what exists.

use jiff::Timestamp;

use super::error::{ApiError, Outcome};
use super::query::Request;
use super::state::Cloud;
use super::xml::Fields;

/// A successful answer.
pub type Reply = Fields;

impl Cloud {
    /// Answers one request at the given time.
    ///
    /// # Errors
    /// The refusal, as the API words its kind.
    pub fn handle(&mut self, request: &Request, now: Timestamp) -> Result<Reply, ApiError> {
        self.advance(now);
        let reply = self.dispatch(request);
        self.doom = None;
        reply
    }

    fn dispatch(&mut self, p: &Request) -> Outcome<Reply> {
        match p.operation.as_str() {
            "CreateCacheCluster" => self.create_cache_cluster(p),
            "DescribeCacheClusters" => self.describe_cache_clusters(p),
            "ModifyCacheCluster" => self.modify_cache_cluster(p),
            "DeleteCacheCluster" => self.delete_cache_cluster(p),
            "RebootCacheCluster" => self.reboot_cache_cluster(p),
            "CreateReplicationGroup" => self.create_replication_group(p),
            "DescribeReplicationGroups" => self.describe_replication_groups(p),
            "ModifyReplicationGroup" => self.modify_replication_group(p),
            "DeleteReplicationGroup" => self.delete_replication_group(p),
            "IncreaseReplicaCount" => self.change_replica_count(p, true),
            "DecreaseReplicaCount" => self.change_replica_count(p, false),
            "ModifyReplicationGroupShardConfiguration" => self.modify_shard_configuration(p),
            "TestFailover" => self.test_failover(p),
            "ListAllowedNodeTypeModifications" => self.list_allowed_node_type_modifications(p),
            "CreateSnapshot" => self.create_snapshot(p),
            "DescribeSnapshots" => self.describe_snapshots(p),
            "DeleteSnapshot" => self.delete_snapshot(p),
            "CopySnapshot" => self.copy_snapshot(p),
            "AddTagsToResource" => self.add_tags(p),
            "RemoveTagsFromResource" => self.remove_tags(p),
            "ListTagsForResource" => self.list_tags(p),
            "CreateUser" => self.create_user(p),
            "DescribeUsers" => self.describe_users(p),
            "ModifyUser" => self.modify_user(p),
            "DeleteUser" => self.delete_user(p),
            "CreateUserGroup" => self.create_user_group(p),
            "DescribeUserGroups" => self.describe_user_groups(p),
            "ModifyUserGroup" => self.modify_user_group(p),
            "DeleteUserGroup" => self.delete_user_group(p),
            "DescribeEvents" => self.describe_events(p),
            "DescribeCacheEngineVersions" => self.describe_cache_engine_versions(p),
            "DescribeCacheParameterGroups" => self.describe_cache_parameter_groups(p),
            "DescribeCacheParameters" => self.describe_cache_parameters(p),
            "DescribeCacheSubnetGroups" => self.describe_subnet_groups(p),
            "CreateCacheSubnetGroup" => self.create_subnet_group(p),
            "DeleteCacheSubnetGroup" => self.delete_subnet_group(p),
            other => Err(ApiError::new(
                "InvalidAction",
                format!("Could not find operation {other} for version 2015-02-02: the sandbox does not know it."),
            )),
        }
    }

    /// What exists.
    pub fn remaining(&self) -> Remaining {
        let users = self.users.keys().filter(|id| *id != "default");
        Remaining {
            cache_clusters: self.clusters.keys().cloned().collect(),
            replication_groups: self.groups.keys().cloned().collect(),
            snapshots: self.snapshots.keys().cloned().collect(),
            users: users.cloned().collect(),
            user_groups: self.user_groups.keys().cloned().collect(),
        }
    }
}

/// Ids of what exists; the user `default`, which always does, is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remaining {
    /// Cache clusters, members of replication groups included.
    pub cache_clusters: Vec<String>,
    /// Replication groups.
    pub replication_groups: Vec<String>,
    /// Snapshots.
    pub snapshots: Vec<String>,
    /// Users.
    pub users: Vec<String>,
    /// User groups.
    pub user_groups: Vec<String>,
}

impl Remaining {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
