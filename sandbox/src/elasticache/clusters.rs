//! Cache clusters: CreateCacheCluster, DescribeCacheClusters, DeleteCacheCluster, RebootCacheCluster.

use super::catalog::{Engine, NodeType, Version};
use super::error::{ApiError, Outcome};
use super::model::{Cluster, ClusterPending, Group, Node};
use super::names;
use super::nodes::{Acl, NodeSpec, Step, Tls};
use super::query::Params;
use super::state::{Cloud, Then};
use super::upkeep::{self, tls};
use super::xml::Fields;

/// States from which a cluster can be deleted (the service's own message of DeleteCacheCluster).
pub(crate) const DELETABLE: &[&str] = &[
    "available",
    "failed",
    "incompatible-parameters",
    "incompatible-network",
    "restore-failed",
    "recovering",
];

impl Cloud {
    pub(crate) fn create_cache_cluster(&mut self, p: Params) -> Outcome<Fields> {
        p.only(
            &[
                upkeep::CREATE,
                &[
                    "CacheClusterId",
                    "AZMode",
                    "PreferredAvailabilityZone",
                    "PreferredAvailabilityZones",
                    "NumCacheNodes",
                    "CacheNodeType",
                    "Engine",
                    "EngineVersion",
                    "CacheParameterGroupName",
                    "Tags",
                    "SnapshotName",
                    "Port",
                    "TransitEncryptionEnabled",
                ],
            ]
            .concat(),
        )?;
        let id = names::id("CacheClusterId", p.need("CacheClusterId")?, names::CLUSTER_ID)?;
        self.free_cluster_id(&id)?;
        let source = p
            .text("SnapshotName")
            .map(|name| self.usable_snapshot(name).cloned())
            .transpose()?;
        let of_source = source.as_ref().map(|snapshot| &snapshot.cluster);
        let engine = match (p.text("Engine"), of_source) {
            (Some(engine), _) => Engine::parse(engine)?,
            (None, Some(cluster)) => cluster.version.engine,
            (None, None) => return Err(ApiError::value("The parameter Engine must be provided.")),
        };
        let version = match (p.text("EngineVersion"), of_source) {
            (None, Some(cluster)) if cluster.version.engine == engine => cluster.version,
            (text, _) => Version::find(engine, text)?,
        };
        if let Some(cluster) = of_source {
            cluster.version.can_become(version)?;
            if source.as_ref().is_some_and(|snapshot| snapshot.parts.len() != 1) {
                return Err(ApiError::combination(
                    "A snapshot of several shards cannot be restored to one node.",
                ));
            }
        }
        let node_type = match (p.text("CacheNodeType"), of_source) {
            (Some(name), _) => NodeType::find(name)?,
            (None, Some(cluster)) => cluster.node_type,
            (None, None) => return Err(ApiError::value("The parameter CacheNodeType must be provided.")),
        };
        node_type.fits(version)?;
        let count = p.count("NumCacheNodes")?.unwrap_or(1);
        self.check_count(engine, count)?;
        self.room_for(count)?;
        let parameters = self.parameter_group(p.text("CacheParameterGroupName"), version, false)?;
        if parameters.cluster_enabled {
            return Err(ApiError::combination(
                "A parameter group with cluster-enabled can be used only by replication groups.",
            ));
        }
        let cross_az = az_mode(p, count)?.unwrap_or(false);
        let mut zones = p.texts("PreferredAvailabilityZones", "PreferredAvailabilityZone");
        if !zones.is_empty() && zones.len() != count {
            return Err(ApiError::value(
                "PreferredAvailabilityZones must name as many zones as NumCacheNodes.",
            ));
        }
        if let Some(zone) = p.text("PreferredAvailabilityZone").filter(|zone| *zone != "Multiple") {
            zones = vec![zone.to_owned(); count];
        }
        self.check_zones(&zones)?;
        let tls = tls(p, Tls::Off)?;
        if tls != Tls::Off && (engine != Engine::Memcached || !version.has_tls()) {
            return Err(ApiError::combination(format!(
                "Encryption in transit is not supported by cache clusters of {engine} {}.",
                version.full
            )));
        }
        let upkeep = self.new_upkeep(p, parameters.name, engine.replicates())?;
        let tags = p.tags()?;
        let port = p.port("Port")?.unwrap_or(engine.port());

        let nodes = (1..=count)
            .map(|n| {
                let zone = zones.get(n - 1).cloned().or_else(|| (!cross_az).then(|| self.zone(0)));
                self.new_node(format!("{n:04}"), zone.as_ref(), n - 1)
            })
            .collect();
        let cluster = Cluster {
            id: id.clone(),
            group: None,
            status: "creating".into(),
            version,
            node_type,
            port,
            nodes,
            cross_az,
            tls,
            at_rest: false,
            upkeep,
            pending: ClusterPending::default(),
            tags,
            created: self.now,
            restore: source.and_then(|snapshot| snapshot.parts.first().map(|part| part.file)),
        };
        let steps = self.run_all(&cluster, None);
        let steps = if self.dooms(&id) { Vec::new() } else { steps };
        let reply = Fields::new().with("CacheCluster", self.show_cluster(&cluster, false));
        self.clusters.insert(id.clone(), cluster);
        self.start(self.times.creating, steps, Then::ClusterCreated(id));
        Ok(reply)
    }

    pub(crate) fn describe_cache_clusters(&self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "CacheClusterId",
            "MaxRecords",
            "Marker",
            "ShowCacheNodeInfo",
            "ShowCacheClustersNotInReplicationGroups",
        ])?;
        let nodes = p.flag("ShowCacheNodeInfo")?.unwrap_or(false);
        let alone = p.flag("ShowCacheClustersNotInReplicationGroups")?.unwrap_or(false);
        let found: Vec<(String, &Cluster)> = match p.text("CacheClusterId") {
            Some(id) => {
                let cluster = self.cluster(id)?;
                if !self.visible(cluster.created) {
                    return Err(ApiError::no_cluster(id));
                }
                vec![(cluster.id.clone(), cluster)]
            }
            None => (self.clusters.iter())
                .filter(|(_, cluster)| self.visible(cluster.created) && !(alone && cluster.group.is_some()))
                .map(|(id, cluster)| (id.clone(), cluster))
                .collect(),
        };
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|cluster| self.show_cluster(cluster, nodes));
        Ok(Fields::new()
            .some("Marker", marker)
            .list("CacheClusters", "CacheCluster", items))
    }

    pub(crate) fn delete_cache_cluster(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheClusterId", "FinalSnapshotIdentifier"])?;
        let cluster = self.cluster(p.need("CacheClusterId")?)?.clone();
        if let Some(group) = &cluster.group {
            let group = self.group(group)?;
            let only = group.members().count() == 1;
            if only
                || group
                    .shards
                    .iter()
                    .any(|shard| shard.members.first() == Some(&cluster.id))
            {
                let why = if only {
                    "the only member of a replication group"
                } else {
                    "serving as primary"
                };
                return Err(ApiError::cluster_state(format!(
                    "Cache cluster {} is {why}.",
                    cluster.id
                )));
            }
            return Err(ApiError::cluster_state(format!(
                "Cache cluster {} is a member of the replication group {}; use DecreaseReplicaCount.",
                cluster.id, group.id
            )));
        }
        if !DELETABLE.contains(&cluster.status.as_str()) {
            return Err(ApiError::cluster_state(format!(
                "Cache cluster {} is not in a valid state to be deleted: {}.",
                cluster.id, cluster.status
            )));
        }
        let mut save = None;
        if let Some(name) = p.text("FinalSnapshotIdentifier") {
            let name = self.free_snapshot_name(name)?;
            if !cluster.version.engine.replicates() {
                return Err(ApiError::new(
                    "SnapshotFeatureNotSupportedFault",
                    format!("Snapshots are not supported for {}.", cluster.version.engine),
                ));
            }
            save = Some((
                name.clone(),
                self.new_snapshot(name, &cluster, None, false, Default::default(), None),
            ));
        }
        let stop = cluster.nodes.iter().map(|node| Step::Stop(node.key)).collect();
        let id = cluster.id.clone();
        self.set_status(&id, "deleting");
        let reply = Fields::new().with("CacheCluster", self.show_cluster(self.cluster(&id)?, false));
        self.delete(save, stop, Then::ClusterDeleted(id));
        Ok(reply)
    }

    /// Deletes, after a final snapshot if there is to be one.
    pub(crate) fn delete(&mut self, save: Option<(String, Vec<Step>)>, stop: Vec<Step>, then: Then) {
        match save {
            None => self.start(self.times.deleting, stop, then),
            Some((name, save)) => {
                let then = Then::Saved(name, stop, Box::new(then));
                self.start(self.times.snapshotting, save, then);
            }
        }
    }

    pub(crate) fn reboot_cache_cluster(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheClusterId", "CacheNodeIdsToReboot"])?;
        let cluster = self.cluster(p.need("CacheClusterId")?)?.clone();
        let nodes = p.texts("CacheNodeIdsToReboot", "CacheNodeId");
        if nodes.is_empty() {
            return Err(ApiError::value("CacheNodeIdsToReboot must name a node."));
        }
        if let Some(other) = nodes
            .iter()
            .find(|id| !cluster.nodes.iter().any(|node| node.id == **id))
        {
            return Err(ApiError::value(format!("{} has no cache node {other}.", cluster.id)));
        }
        if cluster.status != "available" {
            return Err(ApiError::cluster_state(format!(
                "Cache cluster {} is not in available state: {}.",
                cluster.id, cluster.status
            )));
        }
        let group = cluster.group.as_ref().and_then(|id| self.groups.get(id));
        if group.is_some_and(|group| group.sharded) {
            return Err(ApiError::cluster_state(
                "The nodes of a group with cluster mode enabled cannot be rebooted.",
            ));
        }
        let steps = (cluster.nodes.iter())
            .filter(|node| nodes.contains(&node.id))
            .map(|node| Step::Restart(self.spec(&cluster, node, group)))
            .collect();
        if let Some(cluster) = self.clusters.get_mut(&cluster.id) {
            cluster.status = "rebooting cluster nodes".into();
            for node in cluster.nodes.iter_mut().filter(|node| nodes.contains(&node.id)) {
                node.status = "rebooting";
            }
        }
        let reply = Fields::new().with("CacheCluster", self.show_cluster(self.cluster(&cluster.id)?, false));
        self.start(self.times.rebooting, steps, Then::ClusterReady(cluster.id));
        Ok(reply)
    }

    /// Refuses an id that a cluster has.
    pub(crate) fn free_cluster_id(&self, id: &str) -> Outcome<()> {
        if self.clusters.contains_key(id) {
            return Err(ApiError::new(
                "CacheClusterAlreadyExists",
                format!("Cache cluster already exists: {id}"),
            ));
        }
        Ok(())
    }

    /// A Redis cluster has one node, a Memcached one as many as the quota allows.
    pub(crate) fn check_count(&self, engine: Engine, count: usize) -> Outcome<()> {
        if engine.replicates() && count != 1 {
            return Err(ApiError::value(format!(
                "A cache cluster of {engine} must have one cache node, not {count}."
            )));
        }
        if count == 0 {
            return Err(ApiError::value("NumCacheNodes must be 1 or more."));
        }
        if count > self.limits.nodes_per_cluster {
            return Err(ApiError::new(
                "NodeQuotaForClusterExceeded",
                format!(
                    "A cluster can have {} cache nodes, not {count}.",
                    self.limits.nodes_per_cluster
                ),
            ));
        }
        Ok(())
    }

    /// Sets the status of a cluster and, where it means so, of its nodes.
    pub(crate) fn set_status(&mut self, id: &str, status: &str) {
        if let Some(cluster) = self.clusters.get_mut(id) {
            cluster.status = status.to_owned();
            let of_nodes = match status {
                "available" => Some("available"),
                "deleting" => Some("deleting"),
                _ => None,
            };
            for (node, status) in cluster.nodes.iter_mut().zip(of_nodes.into_iter().cycle()) {
                node.status = status;
            }
        }
    }

    /// Steps that run every node of a cluster.
    pub(crate) fn run_all(&self, cluster: &Cluster, group: Option<&Group>) -> Vec<Step> {
        let specs = cluster.nodes.iter().map(|node| self.spec(cluster, node, group));
        specs.map(Step::Run).collect()
    }

    /// A node as it shall run.
    pub(crate) fn spec(&self, cluster: &Cluster, node: &Node, group: Option<&Group>) -> NodeSpec {
        let primary = group.filter(|group| !group.sharded).and_then(|group| {
            let id = group.shards.first()?.members.first().filter(|id| **id != cluster.id)?;
            let primary = self.clusters.get(id)?;
            Some((primary.nodes.first()?.address, primary.port))
        });
        NodeSpec {
            key: node.key,
            name: format!("{}-{}", cluster.id, node.id),
            engine: cluster.version.engine,
            address: node.address,
            port: cluster.port,
            mib: cluster.node_type.mib,
            tls: cluster.tls,
            users: group.map(|group| self.acl(group)).unwrap_or_default(),
            replica_of: primary,
            restore: cluster.restore,
            sharded: group.is_some_and(|group| group.sharded),
        }
    }

    fn acl(&self, group: &Group) -> Vec<Acl> {
        if let Some(id) = group.user_groups.first() {
            let users = self
                .user_groups
                .get(id)
                .map(|group| group.users.as_slice())
                .unwrap_or_default();
            return users
                .iter()
                .filter_map(|id| self.users.get(id))
                .map(super::users::User::acl)
                .collect();
        }
        if group.auth.tokens.is_empty() {
            return Vec::new();
        }
        vec![Acl {
            name: "default".into(),
            passwords: if group.auth.optional {
                Vec::new()
            } else {
                group.auth.tokens.clone()
            },
            access: "on ~* &* +@all".into(),
        }]
    }
}

/// `AZMode` of a request: whether it is cross-az, which needs several nodes.
pub(crate) fn az_mode(p: Params, count: usize) -> Outcome<Option<bool>> {
    match p.text("AZMode") {
        None => Ok(None),
        Some("single-az") => Ok(Some(false)),
        Some("cross-az") if count > 1 => Ok(Some(true)),
        Some("cross-az") => Err(ApiError::combination("AZMode cross-az needs several cache nodes.")),
        Some(other) => Err(ApiError::value(format!("Invalid AZMode: {other}"))),
    }
}
