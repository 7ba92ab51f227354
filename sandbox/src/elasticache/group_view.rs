//! How a replication group shows in answers.

use super::model::{Cluster, Group, Shard};
use super::nodes::Tls;
use super::state::Cloud;
use super::upkeep::{endpoint, tls_mode};
use super::xml::Fields;

impl Cloud {
    /// A `ReplicationGroup` structure.
    pub(crate) fn show_group(&self, group: &Group) -> Fields {
        let made = !["creating", "create-failed"].contains(&group.status.as_str());
        let pending = &group.pending;
        let users = (!pending.add_users.is_empty() || !pending.remove_users.is_empty()).then(|| {
            Fields::new()
                .texts("UserGroupIdsToAdd", "member", &pending.add_users)
                .texts("UserGroupIdsToRemove", "member", &pending.remove_users)
        });
        let changes = Fields::new()
            .some("PrimaryClusterId", pending.primary.as_ref())
            .some("AutomaticFailoverStatus", pending.failover.map(on_off))
            .some_with(
                "Resharding",
                pending
                    .shards
                    .as_ref()
                    .filter(|shards| shards.len() != group.shards.len())
                    .map(|_| Fields::new().with("SlotMigration", Fields::new().text("ProgressPercentage", "0.0"))),
            )
            .some(
                "AuthTokenStatus",
                pending.auth.as_ref().and_then(super::group_changes::auth_status),
            )
            .some_with("UserGroups", users)
            .some("TransitEncryptionEnabled", pending.tls.map(|tls| tls != Tls::Off))
            .some("TransitEncryptionMode", pending.tls.and_then(tls_mode));
        let failover = match (group.failover, pending.failover.filter(|_| group.status == "modifying")) {
            (false, Some(true)) => "enabling",
            (true, Some(false)) => "disabling",
            (on, _) => on_off(on),
        };
        let mut fields = Fields::new()
            .text("ReplicationGroupId", &group.id)
            .text("Description", &group.description)
            .text("Status", &group.status)
            .with("PendingModifiedValues", changes)
            .texts("MemberClusters", "ClusterId", group.members());
        if made {
            fields = fields.list(
                "NodeGroups",
                "NodeGroup",
                group.shards.iter().map(|shard| self.show_shard(group, shard)),
            );
        }
        let configuration = group
            .shards
            .first()
            .filter(|_| made && group.sharded)
            .and_then(|shard| {
                let primary = self.clusters.get(shard.members.first()?)?;
                Some(endpoint(primary.nodes.first()?.address, group.port))
            });
        let storage = match (group.at_rest, &group.kms_key) {
            (false, _) => "none",
            (true, None) => "sse-elasticache",
            (true, Some(_)) => "sse-kms",
        };
        fields
            .some("SnapshottingClusterId", group.snapshotting.as_ref())
            .text("AutomaticFailover", failover)
            .text("MultiAZ", on_off(group.multi_az))
            .some_with("ConfigurationEndpoint", configuration)
            .text("SnapshotRetentionLimit", group.upkeep.retention)
            .text("SnapshotWindow", &group.upkeep.snapshot_window)
            .text("ClusterEnabled", group.sharded)
            .text("CacheNodeType", group.node_type.name)
            .text("AuthTokenEnabled", !group.auth.tokens.is_empty())
            .some("AuthTokenLastModifiedDate", group.auth.changed)
            .text("TransitEncryptionEnabled", group.tls != Tls::Off)
            .text("AtRestEncryptionEnabled", group.at_rest)
            .some("KmsKeyId", group.kms_key.as_ref())
            .text("StorageEncryptionType", storage)
            .text("ARN", self.arn("replicationgroup", &group.id))
            .texts("UserGroupIds", "member", &group.user_groups)
            .list("LogDeliveryConfigurations", "LogDeliveryConfiguration", [])
            .text("ReplicationGroupCreateTime", group.created)
            .text("DataTiering", "disabled")
            .text("AutoMinorVersionUpgrade", group.upkeep.auto_minor)
            .text("NetworkType", &group.upkeep.network)
            .text("IpDiscovery", &group.upkeep.discovery)
            .some("TransitEncryptionMode", tls_mode(group.tls))
            .text("ClusterMode", if group.sharded { "enabled" } else { "disabled" })
            .text("Engine", group.version.engine)
    }

    fn show_shard(&self, group: &Group, shard: &Shard) -> Fields {
        let clusters: Vec<&Cluster> = shard.members.iter().filter_map(|id| self.clusters.get(id)).collect();
        let at = |cluster: Option<&&Cluster>| {
            let node = cluster?.nodes.first()?;
            Some(endpoint(node.address, group.port))
        };
        let primary = at(clusters.first()).filter(|_| !group.sharded);
        let reader = at(clusters.get(1).or(clusters.first())).filter(|_| !group.sharded);
        let members = clusters.iter().enumerate().map(|(n, cluster)| {
            let node = cluster.nodes.first();
            let role = if n == 0 { "primary" } else { "replica" };
            Fields::new()
                .text("CacheClusterId", &cluster.id)
                .text("CacheNodeId", "0001")
                .some_with("ReadEndpoint", at(Some(cluster)).filter(|_| !group.sharded))
                .some("PreferredAvailabilityZone", node.map(|node| &node.zone))
                .some("CurrentRole", (!group.sharded).then_some(role))
        });
        let slots: Vec<String> = shard.slots.iter().map(|(from, to)| format!("{from}-{to}")).collect();
        let status = if group.status == "available" {
            "available"
        } else {
            group.status.as_str()
        };
        Fields::new()
            .text("NodeGroupId", &shard.id)
            .text("Status", status)
            .some_with("PrimaryEndpoint", primary)
            .some_with("ReaderEndpoint", reader)
            .some("Slots", group.sharded.then(|| slots.join(",")))
            .list("NodeGroupMembers", "NodeGroupMember", members)
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}
