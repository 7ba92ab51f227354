//! ModifyCacheCluster: what is done at once, what waits for the maintenance window, and what it does to the nodes.

use super::catalog::{Engine, NodeType, Version};
use super::clusters::az_mode;
use super::error::{ApiError, Outcome};
use super::model::{Cluster, ClusterPending};
use super::nodes::Step;
use super::query::Params;
use super::state::{Cloud, Then};
use super::upkeep;
use super::xml::Fields;

impl Cloud {
    pub(crate) fn modify_cache_cluster(&mut self, p: Params) -> Outcome<Fields> {
        p.only(
            &[
                upkeep::MODIFY,
                &[
                    "CacheClusterId",
                    "NumCacheNodes",
                    "CacheNodeIdsToRemove",
                    "AZMode",
                    "NewAvailabilityZones",
                    "CacheParameterGroupName",
                    "ApplyImmediately",
                    "Engine",
                    "EngineVersion",
                    "CacheNodeType",
                    "ScaleConfig",
                ],
            ]
            .concat(),
        )?;
        let cluster = self.cluster(p.need("CacheClusterId")?)?.clone();
        if cluster.status != "available" {
            return Err(ApiError::cluster_state(format!(
                "Cache cluster {} is not in available state: {}.",
                cluster.id, cluster.status
            )));
        }
        if let Some(group) = &cluster.group {
            return Err(ApiError::combination(format!(
                "Cache cluster {} is a member of the replication group {group}; modify the group.",
                cluster.id
            )));
        }
        let now = p.flag("ApplyImmediately")?.unwrap_or(false);
        let (upkeep, mut slow) = cluster.upkeep.clone().change(p, cluster.version.engine.replicates())?;
        let mut after = cluster.clone();
        after.upkeep = upkeep;
        if p.has("Engine") || p.has("EngineVersion") {
            let engine = p.text("Engine").map_or(Ok(cluster.version.engine), Engine::parse)?;
            if engine != cluster.version.engine {
                return Err(ApiError::combination(
                    "The engine of a cache cluster cannot be changed.",
                ));
            }
            let version = Version::find(engine, p.text("EngineVersion").or(Some(cluster.version.full)))?;
            cluster.version.can_become(version)?;
            after.pending.version = (version != cluster.version).then_some(version);
        }
        if let Some(name) = p.text("CacheNodeType") {
            let node_type = NodeType::find(name)?;
            node_type.fits(cluster.version)?;
            after.pending.node_type = (node_type != cluster.node_type).then_some(node_type);
        }
        self.read_scale_config(p, &mut after)?;
        self.read_parameter_group(p, &mut after)?;
        self.read_count(p, &mut after)?;
        let count = after.pending.nodes.unwrap_or(after.nodes.len());
        if let Some(cross) = az_mode(p, count)? {
            if after.cross_az && !cross {
                return Err(ApiError::combination(
                    "AZMode cannot be changed from cross-az to single-az.",
                ));
            }
            after.cross_az = cross;
        }
        slow |= now && after.pending != ClusterPending::default();
        let id = cluster.id.clone();
        if slow {
            let steps = if now {
                self.apply_cluster(&mut after)
            } else {
                Vec::new()
            };
            after.status = "modifying".into();
            self.clusters.insert(id.clone(), after);
            let then = if now {
                Then::ClusterModified(id.clone())
            } else {
                Then::ClusterReady(id.clone())
            };
            self.start(self.times.modifying, steps, then);
        } else {
            self.clusters.insert(id.clone(), after);
        }
        Ok(Fields::new().with("CacheCluster", self.show_cluster(self.cluster(&id)?, false)))
    }

    /// Scaling Memcached to another node type takes a percentage of nodes at a time (`ScaleConfig`).
    fn read_scale_config(&self, p: Params, after: &mut Cluster) -> Outcome<()> {
        if !p.has("ScaleConfig") {
            return Ok(());
        }
        if after.version.engine != Engine::Memcached || after.pending.node_type.is_none() {
            return Err(ApiError::combination(
                "ScaleConfig can be used only to change the node type of a Memcached cluster.",
            ));
        }
        let percentage = p.number("ScaleConfig.ScalePercentage")?.unwrap_or(100);
        let minutes = p.number("ScaleConfig.ScaleIntervalMinutes")?.unwrap_or(5);
        if !(1..=100).contains(&percentage) || !(2..=30).contains(&minutes) {
            return Err(ApiError::value(
                "ScalePercentage must be between 1 and 100, ScaleIntervalMinutes between 2 and 30.",
            ));
        }
        after.pending.scale = Some((percentage, minutes));
        Ok(())
    }

    /// A parameter group must be of the family of the version the cluster will have.
    fn read_parameter_group(&self, p: Params, after: &mut Cluster) -> Outcome<()> {
        let version = after.pending.version.unwrap_or(after.version);
        if let Some(name) = p.text("CacheParameterGroupName") {
            let group = self.parameter_group(Some(name), version, false)?;
            after.pending.parameter_group = (group.name != after.upkeep.parameter_group).then_some(group.name);
        } else if version.family != after.version.family && p.has("EngineVersion") {
            if !after.upkeep.parameter_group.starts_with("default.") {
                return Err(ApiError::combination(format!(
                    "The parameter group must be changed to one of family {} together with the version.",
                    version.family
                )));
            }
            after.pending.parameter_group = Some(format!("default.{}", version.family));
        }
        Ok(())
    }

    /// `NumCacheNodes` and the nodes to go: exactly as many ids as max(existing, pending) - wanted; an equal number
    /// cancels what is pending (ModifyCacheCluster, `NumCacheNodes` and `CacheNodeIdsToRemove`).
    fn read_count(&self, p: Params, after: &mut Cluster) -> Outcome<()> {
        let remove = p.texts("CacheNodeIdsToRemove", "CacheNodeId");
        let zones = p.texts("NewAvailabilityZones", "PreferredAvailabilityZone");
        self.check_zones(&zones)?;
        let Some(wanted) = p.count("NumCacheNodes")? else {
            if remove.is_empty() && zones.is_empty() {
                return Ok(());
            }
            return Err(ApiError::combination(
                "CacheNodeIdsToRemove and NewAvailabilityZones need NumCacheNodes.",
            ));
        };
        self.check_count(after.version.engine, wanted)?;
        let existing = after.nodes.len();
        if wanted == existing && remove.is_empty() {
            after.pending.nodes = None;
            after.pending.remove.clear();
            return Ok(());
        }
        if after
            .pending
            .nodes
            .is_some_and(|pending| pending > existing && wanted > existing && wanted < pending)
        {
            return Err(ApiError::combination(
                "A pending addition of nodes must be cancelled before fewer nodes can be added.",
            ));
        }
        let most = existing.max(after.pending.nodes.unwrap_or(0));
        let fewer = most.saturating_sub(wanted);
        if wanted >= existing && !remove.is_empty() && fewer == 0 {
            return Err(ApiError::combination(
                "CacheNodeIdsToRemove is valid only when NumCacheNodes is less than the existing number of nodes.",
            ));
        }
        if remove.len() != fewer {
            return Err(ApiError::combination(format!(
                "CacheNodeIdsToRemove must name {fewer} nodes, not {}.",
                remove.len()
            )));
        }
        if let Some(other) = remove.iter().find(|id| !after.nodes.iter().any(|node| node.id == **id)) {
            return Err(ApiError::value(format!("{} has no cache node {other}.", after.id)));
        }
        if remove
            .iter()
            .enumerate()
            .any(|(n, id)| remove.iter().skip(n + 1).any(|other| other == id))
        {
            return Err(ApiError::value("CacheNodeIdsToRemove names a node twice."));
        }
        if !zones.is_empty() && zones.len() != wanted.saturating_sub(existing) {
            return Err(ApiError::value(
                "NewAvailabilityZones must name a zone for each node to be added.",
            ));
        }
        self.room_for(wanted.saturating_sub(existing))?;
        after.pending.nodes = Some(wanted);
        after.pending.remove = remove;
        after.pending.zones = zones;
        Ok(())
    }

    /// Adds and marks nodes for the pending changes of a cluster, and says what to do to the processes.
    ///
    /// A new version or node type of Memcached starts with a cold cache; Redis keeps its data.
    pub(crate) fn apply_cluster(&mut self, after: &mut Cluster) -> Vec<Step> {
        let pending = after.pending.clone();
        let mut target = after.clone();
        target.version = pending.version.unwrap_or(target.version);
        target.node_type = pending.node_type.unwrap_or(target.node_type);
        let cold = !target.version.engine.replicates() && (pending.version.is_some() || pending.node_type.is_some());
        let mut steps = Vec::new();
        for node in &mut after.nodes {
            if pending.remove.contains(&node.id) {
                node.status = "deleting";
                steps.push(Step::Stop(node.key));
            } else if cold {
                steps.push(Step::Restart(self.spec(&target, node, None)));
            } else {
                steps.push(Step::Run(self.spec(&target, node, None)));
            }
        }
        let highest = after
            .nodes
            .iter()
            .filter_map(|node| node.id.parse::<usize>().ok())
            .max()
            .unwrap_or(0);
        let more = pending.nodes.unwrap_or(0).saturating_sub(after.nodes.len());
        for n in 0..more {
            let zone = pending
                .zones
                .get(n)
                .cloned()
                .or_else(|| (!after.cross_az).then(|| self.zone(0)));
            let node = self.new_node(format!("{:04}", highest + 1 + n), zone.as_ref(), highest + n);
            steps.push(Step::Run(self.spec(&target, &node, None)));
            after.nodes.push(node);
        }
        steps
    }

    /// Starts what waits for the maintenance window, for one cluster or group or, without an id, for all.
    pub fn maintenance(&mut self, id: Option<&str>) {
        let wanted = |known: &String| id.is_none_or(|id| id == known);
        let clusters: Vec<Cluster> = (self.clusters.values())
            .filter(|cluster| wanted(&cluster.id) && cluster.group.is_none() && cluster.status == "available")
            .filter(|cluster| cluster.pending != ClusterPending::default())
            .cloned()
            .collect();
        for mut cluster in clusters {
            let steps = self.apply_cluster(&mut cluster);
            let id = cluster.id.clone();
            cluster.status = "modifying".into();
            self.clusters.insert(id.clone(), cluster);
            self.start(self.times.modifying, steps, Then::ClusterModified(id));
        }
        let groups: Vec<String> = self.groups.keys().filter(|id| wanted(id)).cloned().collect();
        for id in groups {
            self.apply_group(&id);
        }
    }
}
