//! What the API's replies say, as [`Live`].

use std::collections::HashMap;

use aws_sdk_elasticache::types::{
    AutomaticFailoverStatus, CacheCluster, MultiAzStatus, ReplicationGroup, TransitEncryptionMode,
};

use super::super::live::{Config, Live, LiveNode, Phase, Tls};
use crate::api::{Endpoint, EngineType, Node, Topology};

/// Cache clusters by id.
pub type Clusters = HashMap<String, CacheCluster>;

fn endpoint(endpoint: Option<&aws_sdk_elasticache::types::Endpoint>, tls: bool) -> Option<Endpoint> {
    let endpoint = endpoint?;
    Some(Endpoint::new(
        endpoint.address()?,
        u16::try_from(endpoint.port()?).ok()?,
        tls,
    ))
}

fn node(id: &str, at: Option<&aws_sdk_elasticache::types::Endpoint>) -> Node {
    Node {
        id: id.to_owned(),
        host: at.and_then(|at| at.address()).map(str::to_owned),
        port: at.and_then(|at| at.port()).and_then(|port| u16::try_from(port).ok()),
    }
}

fn tls(enabled: Option<bool>, mode: Option<&TransitEncryptionMode>) -> Tls {
    match (enabled.unwrap_or(false), mode) {
        (false, _) => Tls::Off,
        (true, Some(TransitEncryptionMode::Preferred)) => Tls::Preferred,
        (true, _) => Tls::Required,
    }
}

/// A replication group and those of its members that were described with it; what only members tell (version, groups,
/// windows) is not known without them.
pub fn group(group: &ReplicationGroup, clusters: &Clusters) -> Option<Live> {
    let tls = tls(group.transit_encryption_enabled(), group.transit_encryption_mode());
    let shards = group.node_groups();
    let first = shards.first();
    let member = group.member_clusters().iter().find_map(|id| clusters.get(id));
    let sharded = group.cluster_enabled().unwrap_or(false);
    let nodes: Vec<_> = shards
        .iter()
        .flat_map(|shard| shard.node_group_members().iter().map(move |member| (shard, member)))
        .map(|(shard, member)| {
            let id = member.cache_cluster_id().unwrap_or_default();
            // Sharded groups tell their members' addresses only with the members.
            let cluster = || clusters.get(id)?.cache_nodes().first()?.endpoint();
            LiveNode {
                node: node(id, member.read_endpoint().or_else(cluster)),
                cluster: id.to_owned(),
                cache_node: member.cache_node_id().unwrap_or("0001").to_owned(),
                shard: shard.node_group_id().map(str::to_owned),
                primary: member.current_role().map(|role| role == "primary"),
            }
        })
        .collect();
    let status = |text: Option<&str>| Phase::from_status(text.unwrap_or_default());
    let parts = shards.iter().map(|shard| status(shard.status())).chain(
        group
            .member_clusters()
            .iter()
            .filter_map(|id| Some(status(clusters.get(id)?.cache_cluster_status()))),
    );
    let config = Config {
        engine: EngineType::named(group.engine().or_else(|| member?.engine()).unwrap_or_default()),
        node_type: member
            .and_then(|member| member.pending_modified_values()?.cache_node_type())
            .or(group.cache_node_type())
            .map(str::to_owned),
        sharded,
        multi_az: group.multi_az() == Some(&MultiAzStatus::Enabled),
        failover: matches!(
            group.automatic_failover(),
            Some(AutomaticFailoverStatus::Enabled | AutomaticFailoverStatus::Enabling)
        ),
        tls,
        at_rest: group.at_rest_encryption_enabled().unwrap_or(false),
        authentication: group.auth_token_enabled().unwrap_or(false),
        token_changed: group
            .auth_token_last_modified_date()
            .map(|date| format!("{}.{:09}", date.secs(), date.subsec_nanos())),
        user_groups: group
            .user_group_ids()
            .iter()
            .map(|id| id.to_ascii_lowercase())
            .collect(),
        snapshot_window: group.snapshot_window().map(str::to_owned),
        snapshot_retention: group.snapshot_retention_limit(),
        ..member.map_or_else(Config::default, of_cluster)
    };
    Some(Live {
        topology: Topology::ReplicationGroup,
        id: group.replication_group_id()?.to_owned(),
        arn: group.arn().map(str::to_owned),
        phase: parts.fold(status(group.status()), |phase, part| phase.with_part(&part)),
        endpoint: endpoint(group.configuration_endpoint(), tls != Tls::Off)
            .or_else(|| endpoint(first.and_then(|shard| shard.primary_endpoint()), tls != Tls::Off)),
        reader_endpoint: endpoint(first.and_then(|shard| shard.reader_endpoint()), tls != Tls::Off),
        nodes,
        config: Config { nodes: None, ..config },
    })
}

/// A cache cluster that is no member of a group.
pub fn cluster(cluster: &CacheCluster) -> Option<Live> {
    let id = cluster.cache_cluster_id()?;
    let config = of_cluster(cluster);
    let tls = config.tls != Tls::Off;
    let nodes = cluster.cache_nodes();
    Some(Live {
        topology: Topology::CacheCluster,
        id: id.to_owned(),
        arn: cluster.arn().map(str::to_owned),
        phase: Phase::from_status(cluster.cache_cluster_status().unwrap_or_default()),
        endpoint: endpoint(cluster.configuration_endpoint(), tls)
            .or_else(|| endpoint(nodes.first().and_then(|node| node.endpoint()), tls)),
        reader_endpoint: None,
        nodes: nodes
            .iter()
            .map(|each| {
                let cache_node = each.cache_node_id().unwrap_or_default();
                LiveNode {
                    node: node(cache_node, each.endpoint()),
                    cluster: id.to_owned(),
                    cache_node: cache_node.to_owned(),
                    shard: None,
                    primary: None,
                }
            })
            .collect(),
        config,
    })
}

fn of_cluster(cluster: &CacheCluster) -> Config {
    let pending = cluster.pending_modified_values();
    let text = |text: Option<&str>| text.map(str::to_owned);
    let nodes = pending
        .and_then(|pending| pending.num_cache_nodes())
        .or(cluster.num_cache_nodes());
    Config {
        engine: EngineType::named(cluster.engine().unwrap_or_default()),
        version: text(
            pending
                .and_then(|pending| pending.engine_version())
                .or(cluster.engine_version()),
        ),
        node_type: text(
            pending
                .and_then(|pending| pending.cache_node_type())
                .or(cluster.cache_node_type()),
        ),
        nodes: nodes.and_then(|nodes| usize::try_from(nodes).ok()),
        sharded: false,
        multi_az: cluster.preferred_availability_zone() == Some("Multiple"),
        failover: false,
        parameter_group: cluster
            .cache_parameter_group()
            .and_then(|group| text(group.cache_parameter_group_name())),
        subnet_group: text(cluster.cache_subnet_group_name()),
        security_groups: Some(
            cluster
                .security_groups()
                .iter()
                .filter_map(|group| text(group.security_group_id()))
                .collect(),
        ),
        tls: tls(cluster.transit_encryption_enabled(), cluster.transit_encryption_mode()),
        at_rest: cluster.at_rest_encryption_enabled().unwrap_or(false),
        authentication: cluster.auth_token_enabled().unwrap_or(false),
        token_changed: None,
        user_groups: std::collections::BTreeSet::new(),
        maintenance_window: text(cluster.preferred_maintenance_window()),
        snapshot_window: text(cluster.snapshot_window()),
        snapshot_retention: cluster.snapshot_retention_limit(),
        pending: pending.is_some_and(|pending| {
            pending.num_cache_nodes().is_some()
                || pending.engine_version().is_some()
                || pending.cache_node_type().is_some()
        }),
    }
}
