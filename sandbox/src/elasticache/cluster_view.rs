//! How a cache cluster shows in answers.

use super::catalog::Engine;
use super::model::{Cluster, Group, Node};
use super::nodes::Tls;
use super::state::Cloud;
use super::upkeep::{endpoint, tls_mode};
use super::xml::Fields;

impl Cloud {
    /// A `CacheCluster` structure.
    pub(crate) fn show_cluster(&self, cluster: &Cluster, with_nodes: bool) -> Fields {
        let group = cluster.group.as_ref().and_then(|id| self.groups.get(id));
        let made = cluster.nodes.iter().filter(|node| node.status != "creating").count();
        let zone = match cluster.nodes.first() {
            Some(first) if cluster.nodes.iter().all(|node| node.zone == first.zone) => first.zone.clone(),
            _ => "Multiple".to_owned(),
        };
        let upkeep = &cluster.upkeep;
        let configuration = (cluster.nodes.first())
            .filter(|_| cluster.version.engine == Engine::Memcached && made > 0)
            .map(|node| endpoint(node.address, cluster.port));
        let mut fields = Fields::new()
            .text("CacheClusterId", &cluster.id)
            .some_with("ConfigurationEndpoint", configuration)
            .text(
                "ClientDownloadLandingPage",
                format!(
                    "https://console.aws.amazon.com/elasticache/home?region={}#client-download:",
                    self.region
                ),
            )
            .text("CacheNodeType", cluster.node_type.name)
            .text("Engine", cluster.version.engine)
            .text("EngineVersion", cluster.version.full)
            .text("CacheClusterStatus", &cluster.status)
            .text("NumCacheNodes", if made == 0 { cluster.nodes.len() } else { made })
            .text("PreferredAvailabilityZone", zone)
            .some(
                "CacheClusterCreateTime",
                (cluster.status != "creating").then_some(cluster.created),
            )
            .text("PreferredMaintenanceWindow", &upkeep.maintenance)
            .with("PendingModifiedValues", show_pending(cluster, group))
            .some_with(
                "NotificationConfiguration",
                upkeep.topic.as_ref().map(|topic| {
                    Fields::new()
                        .text("TopicArn", topic)
                        .text("TopicStatus", &upkeep.topic_status)
                }),
            )
            .list("CacheSecurityGroups", "CacheSecurityGroup", [])
            .with(
                "CacheParameterGroup",
                Fields::new()
                    .text("CacheParameterGroupName", &upkeep.parameter_group)
                    .text("ParameterApplyStatus", "in-sync")
                    .texts("CacheNodeIdsToReboot", "CacheNodeId", Vec::<String>::new()),
            )
            .text("CacheSubnetGroupName", &upkeep.subnet_group);
        if with_nodes {
            fields = fields.list(
                "CacheNodes",
                "CacheNode",
                cluster.nodes.iter().map(|node| show_node(node, cluster)),
            );
        }
        let token = group.is_some_and(|group| !group.auth.tokens.is_empty());
        fields
            .text("AutoMinorVersionUpgrade", upkeep.auto_minor)
            .list(
                "SecurityGroups",
                "member",
                upkeep
                    .security_groups
                    .iter()
                    .map(|id| Fields::new().text("SecurityGroupId", id).text("Status", "active")),
            )
            .some("ReplicationGroupId", cluster.group.as_ref())
            .some(
                "SnapshotRetentionLimit",
                cluster.version.engine.replicates().then_some(upkeep.retention),
            )
            .some(
                "SnapshotWindow",
                cluster.version.engine.replicates().then_some(&upkeep.snapshot_window),
            )
            .text("AuthTokenEnabled", token)
            .some("AuthTokenLastModifiedDate", group.and_then(|group| group.auth.changed))
            .text("TransitEncryptionEnabled", cluster.tls != Tls::Off)
            .text("AtRestEncryptionEnabled", cluster.at_rest)
            .text("ARN", self.arn("cluster", &cluster.id))
            .text("ReplicationGroupLogDeliveryEnabled", false)
            .list("LogDeliveryConfigurations", "LogDeliveryConfiguration", [])
            .text("NetworkType", &upkeep.network)
            .text("IpDiscovery", &upkeep.discovery)
            .some("TransitEncryptionMode", tls_mode(cluster.tls))
    }
}

fn show_node(node: &Node, cluster: &Cluster) -> Fields {
    Fields::new()
        .text("CacheNodeId", &node.id)
        .text("CacheNodeStatus", node.status)
        .text("CacheNodeCreateTime", node.created)
        .some_with(
            "Endpoint",
            (node.status != "creating").then(|| endpoint(node.address, cluster.port)),
        )
        .text("ParameterGroupStatus", "in-sync")
        .text("CustomerAvailabilityZone", &node.zone)
}

fn show_pending(cluster: &Cluster, group: Option<&Group>) -> Fields {
    let pending = &cluster.pending;
    let of_group = group.map(|group| &group.pending);
    let version = pending.version.or(of_group.and_then(|pending| pending.version));
    let node_type = pending.node_type.or(of_group.and_then(|pending| pending.node_type));
    let mut fields = Fields::new().some("NumCacheNodes", pending.nodes);
    if !pending.remove.is_empty() {
        fields = fields.texts("CacheNodeIdsToRemove", "CacheNodeId", &pending.remove);
    }
    fields
        .some("EngineVersion", version.map(|version| version.full))
        .some("CacheNodeType", node_type.map(|node_type| node_type.name))
        .some_with(
            "ScaleConfig",
            pending.scale.map(|(percentage, minutes)| {
                Fields::new()
                    .text("ScalePercentage", percentage)
                    .text("ScaleIntervalMinutes", minutes)
            }),
        )
}
