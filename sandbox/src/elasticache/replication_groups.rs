//! Replication groups: CreateReplicationGroup, DescribeReplicationGroups, DeleteReplicationGroup.

use super::catalog::{Engine, NodeType, Version};
use super::error::{ApiError, Outcome};
use super::model::{Auth, Cluster, ClusterPending, Group, GroupPending, Shard, Snapshot};
use super::names;
use super::nodes::{ShardSpec, Slots, Step, Tls};
use super::query::Params;
use super::state::{Cloud, Then};
use super::upkeep::{self, tls};
use super::xml::Fields;

/// How many slots a sharded group has.
pub(crate) const SLOTS: u16 = 16_384;

/// A group's layout as asked for.
struct Layout {
    sharded: bool,
    /// For each shard its replicas and availability zones, primary first.
    shards: Vec<(usize, Vec<String>)>,
}

impl Cloud {
    pub(crate) fn create_replication_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(
            &[
                upkeep::CREATE,
                &[
                    "ReplicationGroupId",
                    "ReplicationGroupDescription",
                    "AutomaticFailoverEnabled",
                    "MultiAZEnabled",
                    "NumCacheClusters",
                    "PreferredCacheClusterAZs",
                    "NumNodeGroups",
                    "ReplicasPerNodeGroup",
                    "NodeGroupConfiguration",
                    "CacheNodeType",
                    "Engine",
                    "EngineVersion",
                    "CacheParameterGroupName",
                    "Tags",
                    "SnapshotName",
                    "Port",
                    "AuthToken",
                    "TransitEncryptionEnabled",
                    "TransitEncryptionMode",
                    "AtRestEncryptionEnabled",
                    "KmsKeyId",
                    "UserGroupIds",
                    "ClusterMode",
                ],
            ]
            .concat(),
        )?;
        let id = names::id("ReplicationGroupId", p.need("ReplicationGroupId")?, names::GROUP_ID)?;
        let description = p.need("ReplicationGroupDescription")?.to_owned();
        if self.groups.contains_key(&id) {
            return Err(ApiError::new(
                "ReplicationGroupAlreadyExists",
                format!("Replication group {id} already exists."),
            ));
        }
        let source = p
            .text("SnapshotName")
            .map(|name| self.usable_snapshot(name).cloned())
            .transpose()?;
        let of_source = source.as_ref().map(|snapshot| &snapshot.cluster);
        let engine = match (p.text("Engine"), of_source) {
            (Some(engine), _) => Engine::parse(engine)?,
            (None, source) => source.map_or(Engine::Redis, |cluster| cluster.version.engine),
        };
        if !engine.replicates() {
            return Err(ApiError::combination(
                "Replication groups are not supported by the engine memcached.",
            ));
        }
        let version = match (p.text("EngineVersion"), of_source) {
            (None, Some(cluster)) if cluster.version.engine == engine => cluster.version,
            (text, _) => Version::find(engine, text)?,
        };
        if let Some(cluster) = of_source {
            cluster.version.can_become(version)?;
        }
        let node_type = match (p.text("CacheNodeType"), of_source) {
            (Some(name), _) => NodeType::find(name)?,
            (None, Some(cluster)) => cluster.node_type,
            (None, None) => return Err(ApiError::value("The parameter CacheNodeType must be provided.")),
        };
        node_type.fits(version)?;
        let layout = self.layout(p, version, source.as_ref())?;
        let nodes: usize = layout.shards.iter().map(|(replicas, _)| replicas + 1).sum();
        let failover = p.flag("AutomaticFailoverEnabled")?.unwrap_or(false);
        let multi_az = p.flag("MultiAZEnabled")?.unwrap_or(false);
        check_failover(
            failover,
            multi_az,
            layout.sharded,
            layout.shards.iter().map(|(replicas, _)| *replicas),
        )?;
        self.room_for(nodes)?;
        let parameters = self.parameter_group(p.text("CacheParameterGroupName"), version, layout.sharded)?;
        let tls = tls(p, Tls::Off)?;
        let at_rest = p
            .flag("AtRestEncryptionEnabled")?
            .unwrap_or(engine == Engine::Valkey || p.has("KmsKeyId"));
        if p.has("KmsKeyId") && !at_rest {
            return Err(ApiError::combination(
                "KmsKeyId can be used only with encryption at rest.",
            ));
        }
        let user_groups = p.texts("UserGroupIds", "member");
        self.check_user_groups(&user_groups, engine)?;
        let auth = match p.text("AuthToken") {
            None => Auth::default(),
            Some(_) if tls == Tls::Off => {
                return Err(ApiError::combination(
                    "An AuthToken can be used only when in-transit encryption is enabled.",
                ));
            }
            Some(_) if !user_groups.is_empty() => {
                return Err(ApiError::combination("AuthToken and UserGroupIds exclude each other."));
            }
            Some(token) => Auth {
                tokens: vec![names::auth_token(token)?],
                optional: false,
                changed: Some(self.now),
            },
        };
        if !user_groups.is_empty() && tls == Tls::Off {
            return Err(ApiError::combination(
                "UserGroupIds can be used only when in-transit encryption is enabled.",
            ));
        }
        let upkeep = self.new_upkeep(p, parameters.name, true)?;
        let port = p.port("Port")?.unwrap_or(engine.port());
        let tags = p.tags()?;
        let mut group = Group {
            description,
            status: "creating".into(),
            version,
            node_type,
            port,
            shards: shards(&id, &layout, source.as_ref()),
            sharded: layout.sharded,
            failover,
            multi_az,
            tls,
            at_rest,
            kms_key: p.text("KmsKeyId").map(str::to_owned),
            auth,
            user_groups,
            snapshotting: None,
            upkeep,
            pending: GroupPending::default(),
            tags,
            created: self.now,
            id,
        };
        for member in group.members() {
            self.free_cluster_id(member)?;
        }
        if !group.sharded && group.upkeep.retention > 0 {
            group.snapshotting = group.members().last().cloned();
        }
        for (shard, (_, zones)) in group.shards.clone().iter().zip(&layout.shards) {
            let part = source.as_ref().and_then(|source| {
                source
                    .parts
                    .iter()
                    .find(|part| source.parts.len() == 1 || part.shard == shard.id)
            });
            for (n, member) in shard.members.iter().enumerate() {
                let restore = part.filter(|_| n == 0).map(|part| part.file);
                self.add_member(&group, member, zones.get(n), n, restore);
            }
        }
        let steps = if self.dooms(&group.id) {
            Vec::new()
        } else {
            self.run_group(&group)
        };
        let id = group.id.clone();
        let reply = Fields::new().with("ReplicationGroup", self.show_group(&group));
        self.groups.insert(id.clone(), group);
        self.start(self.times.creating, steps, Then::GroupCreated(id));
        Ok(reply)
    }

    /// A new cluster of a group.
    pub(crate) fn add_member(
        &mut self,
        group: &Group,
        id: &str,
        zone: Option<&String>,
        nth: usize,
        restore: Option<u64>,
    ) {
        let node = self.new_node("0001".into(), zone, nth);
        let cluster = Cluster {
            id: id.to_owned(),
            group: Some(group.id.clone()),
            status: "creating".into(),
            version: group.version,
            node_type: group.node_type,
            port: group.port,
            nodes: vec![node],
            cross_az: false,
            tls: group.tls,
            at_rest: group.at_rest,
            upkeep: group.upkeep.clone(),
            pending: ClusterPending::default(),
            tags: group.tags.clone(),
            created: self.now,
            restore,
        };
        self.clusters.insert(cluster.id.clone(), cluster);
    }

    /// Steps that bring the processes of a group to what it says, primaries first.
    pub(crate) fn run_group(&self, group: &Group) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let firsts = group.shards.iter().filter_map(|shard| shard.members.first());
        let others = group.shards.iter().flat_map(|shard| shard.members.iter().skip(1));
        for cluster in firsts.chain(others).filter_map(|id| self.clusters.get(id)) {
            let mut cluster = cluster.clone();
            cluster.tls = group.tls;
            cluster.node_type = group.node_type;
            cluster.version = group.version;
            steps.extend(self.run_all(&cluster, Some(group)));
        }
        if group.sharded {
            let key = |id: &String| {
                self.clusters
                    .get(id)
                    .and_then(|cluster| cluster.nodes.first())
                    .map(|node| node.key)
            };
            let shards = group.shards.iter().filter_map(|shard| {
                Some(ShardSpec {
                    slots: shard.slots.clone(),
                    primary: key(shard.members.first()?)?,
                    replicas: shard.members.iter().skip(1).filter_map(key).collect(),
                })
            });
            let staying: Vec<&String> = group.members().collect();
            let leaving = (self.groups.get(&group.id).into_iter().flat_map(Group::members))
                .filter(|id| !staying.contains(id))
                .filter_map(key);
            steps.push(Step::Shard {
                shards: shards.collect(),
                leaving: leaving.collect(),
            });
        }
        steps
    }

    /// Reads how many shards and replicas, and where.
    fn layout(&self, p: Params, version: Version, source: Option<&Snapshot>) -> Outcome<Layout> {
        let configurations = p.items("NodeGroupConfiguration", "NodeGroupConfiguration");
        let of_source = source.map(|source| source.parts.len()).filter(|parts| *parts > 1);
        let asked = p
            .count("NumNodeGroups")?
            .or((!configurations.is_empty()).then_some(configurations.len()))
            .or(of_source);
        let count = asked.unwrap_or(1);
        let explicit = p
            .text("CacheParameterGroupName")
            .map(|name| self.find_parameter_group(name))
            .transpose()?;
        let mode = match p.text("ClusterMode") {
            None => None,
            Some("enabled") => Some(true),
            Some("disabled") => Some(false),
            Some("compatible") => return Err(ApiError::value("The sandbox does not support ClusterMode compatible.")),
            Some(other) => return Err(ApiError::value(format!("Invalid ClusterMode: {other}"))),
        };
        let sharded = mode.unwrap_or_else(|| explicit.map_or(count > 1, |group| group.cluster_enabled));
        if sharded != explicit.map_or(sharded, |group| group.cluster_enabled) || (!sharded && count > 1) {
            return Err(ApiError::combination(
                "Use a parameter group with cluster-enabled set to create more than one node group.",
            ));
        }
        if count == 0 {
            return Err(ApiError::value("NumNodeGroups must be 1 or more."));
        }
        if count > self.limits.shards_per_group {
            return Err(ApiError::new(
                "NodeGroupsPerReplicationGroupQuotaExceeded",
                format!(
                    "A replication group of {} can have {} node groups.",
                    version.engine, self.limits.shards_per_group
                ),
            ));
        }
        if of_source.is_some_and(|parts| parts != count) {
            return Err(ApiError::combination(
                "The sandbox restores a sharded snapshot to as many shards as it has.",
            ));
        }
        let each = p.count("ReplicasPerNodeGroup")?;
        let clusters = p.count("NumCacheClusters")?;
        if clusters.is_some() && sharded && count > 1 {
            return Err(ApiError::combination(
                "NumCacheClusters cannot be used with several node groups.",
            ));
        }
        let replicas = match (clusters, each) {
            (Some(0), _) => return Err(ApiError::value("NumCacheClusters must be between 1 and 6.")),
            (Some(clusters), Some(each)) if clusters != each + 1 => {
                return Err(ApiError::combination(
                    "NumCacheClusters and ReplicasPerNodeGroup contradict each other.",
                ));
            }
            (Some(clusters), _) => clusters - 1,
            (None, each) => each.unwrap_or(0),
        };
        let zones = p.texts("PreferredCacheClusterAZs", "AvailabilityZone");
        if !zones.is_empty() && (sharded || zones.len() != replicas + 1) {
            return Err(ApiError::value(
                "PreferredCacheClusterAZs must name a zone for each cluster of a group with cluster mode disabled.",
            ));
        }
        self.check_zones(&zones)?;
        let mut shards = vec![(replicas, zones); count];
        if !configurations.is_empty() && configurations.len() != count {
            return Err(ApiError::combination(
                "NodeGroupConfiguration must describe NumNodeGroups node groups.",
            ));
        }
        for (prefix, shard) in configurations.iter().zip(&mut shards) {
            if p.has(&format!("{prefix}.Slots")) {
                return Err(ApiError::value(
                    "The sandbox does not support Slots in NodeGroupConfiguration.",
                ));
            }
            shard.0 = p.count(&format!("{prefix}.ReplicaCount"))?.unwrap_or(shard.0);
            let primary = p.text(&format!("{prefix}.PrimaryAvailabilityZone")).map(str::to_owned);
            let others = p.texts(&format!("{prefix}.ReplicaAvailabilityZones"), "AvailabilityZone");
            shard.1 = primary.into_iter().chain(others).collect();
            self.check_zones(&shard.1)?;
        }
        if shards.iter().any(|(replicas, _)| *replicas > 5) {
            return Err(ApiError::value(
                "A node group can have 0 to 5 replicas, so a group 6 clusters.",
            ));
        }
        Ok(Layout { sharded, shards })
    }

    pub(crate) fn describe_replication_groups(&self, p: Params) -> Outcome<Fields> {
        p.only(&["ReplicationGroupId", "MaxRecords", "Marker"])?;
        let found: Vec<(String, &Group)> = match p.text("ReplicationGroupId") {
            Some(id) => {
                let group = self.group(id)?;
                if !self.visible(group.created) {
                    return Err(ApiError::no_group(id));
                }
                vec![(group.id.clone(), group)]
            }
            None => (self.groups.iter())
                .filter(|(_, group)| self.visible(group.created))
                .map(|(id, group)| (id.clone(), group))
                .collect(),
        };
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|group| self.show_group(group));
        Ok(Fields::new()
            .some("Marker", marker)
            .list("ReplicationGroups", "ReplicationGroup", items))
    }

    pub(crate) fn delete_replication_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["ReplicationGroupId", "RetainPrimaryCluster", "FinalSnapshotIdentifier"])?;
        let group = self.group(p.need("ReplicationGroupId")?)?.clone();
        let retain = p.flag("RetainPrimaryCluster")?.unwrap_or(false);
        let busy = group
            .members()
            .any(|id| self.clusters.get(id).is_some_and(|member| member.status != "available"));
        if group.status != "create-failed" && (group.status != "available" || busy) {
            return Err(ApiError::group_state(format!(
                "Replication group {} has status {} or members that are not available; it cannot be deleted now.",
                group.id, group.status
            )));
        }
        if retain && (group.sharded || group.tls != Tls::Off) {
            return Err(ApiError::combination(
                "The primary of a sharded or encrypted replication group cannot be retained.",
            ));
        }
        let mut steps = Vec::new();
        let mut save = None;
        if let Some(name) = p.text("FinalSnapshotIdentifier") {
            let name = self.free_snapshot_name(name)?;
            if retain {
                return Err(ApiError::combination(
                    "FinalSnapshotIdentifier and RetainPrimaryCluster exclude each other.",
                ));
            }
            if group.status == "create-failed" {
                return Err(ApiError::group_state(format!(
                    "Replication group {} has no data to save.",
                    group.id
                )));
            }
            let primary = self.primary_of(&group)?.clone();
            let saving = self.new_snapshot(name.clone(), &primary, Some(&group), false, Default::default(), None);
            save = Some((name, saving));
        }
        let primary = group
            .shards
            .first()
            .and_then(|shard| shard.members.first())
            .filter(|_| retain)
            .cloned();
        let members: Vec<String> = group.members().cloned().collect();
        for member in members {
            let Some(cluster) = self.clusters.get(&member) else {
                continue;
            };
            if Some(&member) == primary.as_ref() {
                let mut alone = cluster.clone();
                alone.restore = None;
                steps.extend(self.run_all(&alone, None));
            } else {
                steps.extend(cluster.nodes.iter().map(|node| Step::Stop(node.key)));
                self.set_status(&member, "deleting");
            }
        }
        let id = group.id.clone();
        if let Some(group) = self.groups.get_mut(&id) {
            group.status = "deleting".into();
        }
        let reply = Fields::new().with("ReplicationGroup", self.show_group(self.group(&id)?));
        self.delete(save, steps, Then::GroupDeleted(id, retain));
        Ok(reply)
    }

    /// The primary of a group's first shard.
    pub(crate) fn primary_of(&self, group: &Group) -> Outcome<&Cluster> {
        let id = group.shards.first().and_then(|shard| shard.members.first());
        self.cluster(id.map(String::as_str).unwrap_or_default())
    }
}

/// Failover needs a replica to fail over to, sharded groups need failover, and Multi-AZ needs both
/// (CreateReplicationGroup, `AutomaticFailoverEnabled` and `MultiAZEnabled`).
pub(crate) fn check_failover(
    failover: bool,
    multi_az: bool,
    sharded: bool,
    mut replicas: impl Iterator<Item = usize>,
) -> Outcome<()> {
    if sharded && !failover {
        return Err(ApiError::combination(
            "A replication group with cluster mode enabled cannot be without automatic failover.",
        ));
    }
    let bare = replicas.any(|replicas| replicas == 0);
    if failover && bare && !sharded {
        return Err(ApiError::combination(
            "Automatic failover needs two or more cache clusters in the group.",
        ));
    }
    if multi_az && (!failover || bare) {
        return Err(ApiError::combination(
            "Multi-AZ needs automatic failover and a replica in each node group.",
        ));
    }
    Ok(())
}

/// The `nth` of `count` even ranges of slots.
pub(crate) fn even_slots(nth: usize, count: usize) -> Vec<Slots> {
    let bound = |n: usize| u16::try_from(n * usize::from(SLOTS) / count.max(1)).unwrap_or(SLOTS);
    vec![(bound(nth), bound(nth + 1).saturating_sub(1))]
}

/// Members are `<group>-001` without and `<group>-0001-001` with cluster mode.
pub(crate) fn member_id(group: &str, sharded: bool, shard: &str, nth: usize) -> String {
    if sharded {
        format!("{group}-{shard}-{nth:03}")
    } else {
        format!("{group}-{nth:03}")
    }
}

fn shards(id: &str, layout: &Layout, source: Option<&Snapshot>) -> Vec<Shard> {
    let count = layout.shards.len();
    let shard = |(n, (replicas, _)): (usize, &(usize, Vec<String>))| {
        let name = format!("{:04}", n + 1);
        let kept = source
            .filter(|source| source.parts.len() > 1)
            .and_then(|source| source.parts.get(n));
        Shard {
            slots: kept.map_or_else(|| even_slots(n, count), |part| part.slots.clone()),
            members: (1..=replicas + 1)
                .map(|nth| member_id(id, layout.sharded, &name, nth))
                .collect(),
            id: name,
        }
    };
    layout.shards.iter().enumerate().map(shard).collect()
}
