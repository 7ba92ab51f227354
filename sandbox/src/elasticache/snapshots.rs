//! Snapshots: CreateSnapshot, DescribeSnapshots, DeleteSnapshot, CopySnapshot, and the final ones of deletions.

use std::collections::BTreeMap;

use super::error::{ApiError, Outcome};
use super::model::{Cluster, Group, Part, Snapshot};
use super::names;
use super::nodes::Step;
use super::query::Params;
use super::state::{Cloud, Then};
use super::xml::Fields;

impl Cloud {
    pub(crate) fn create_snapshot(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "ReplicationGroupId",
            "CacheClusterId",
            "SnapshotName",
            "KmsKeyId",
            "Tags",
        ])?;
        let name = self.free_snapshot_name(p.need("SnapshotName")?)?;
        let (cluster, group) = match (p.text("CacheClusterId"), p.text("ReplicationGroupId")) {
            (Some(id), None) => {
                let cluster = self.cluster(id)?.clone();
                if cluster.status != "available" {
                    return Err(ApiError::cluster_state(format!(
                        "Cache cluster {id} is not in available state: {}.",
                        cluster.status
                    )));
                }
                let group = cluster.group.as_ref().and_then(|id| self.groups.get(id)).cloned();
                (cluster, group)
            }
            (None, Some(id)) => {
                let group = self.available_group(id)?.clone();
                (self.primary_of(&group)?.clone(), Some(group))
            }
            _ => {
                return Err(ApiError::combination(
                    "Name either a CacheClusterId or a ReplicationGroupId.",
                ));
            }
        };
        if !cluster.version.engine.replicates() {
            return Err(ApiError::new(
                "SnapshotFeatureNotSupportedFault",
                format!("Snapshots are not supported for {}.", cluster.version.engine),
            ));
        }
        let key = p.text("KmsKeyId").map(str::to_owned);
        let steps = self.new_snapshot(name.clone(), &cluster, group.as_ref(), false, p.tags()?, key);
        match &group {
            Some(group) => self.set_group_status(&group.id, "snapshotting"),
            None => self.set_status(&cluster.id, "snapshotting"),
        }
        let reply = Fields::new().with("Snapshot", self.show_snapshot(self.snapshot(&name)?, true));
        self.start(self.times.snapshotting, steps, Then::SnapshotReady(name));
        let then = match group {
            Some(group) => Then::GroupReady(group.id),
            None => Then::ClusterReady(cluster.id),
        };
        self.start(self.times.snapshotting, Vec::new(), then);
        Ok(reply)
    }

    /// Records a snapshot and says how its data are saved. A final one is ready with the deletion's own work.
    pub(crate) fn new_snapshot(
        &mut self,
        name: String,
        cluster: &Cluster,
        group: Option<&Group>,
        automatic: bool,
        tags: BTreeMap<String, String>,
        kms_key: Option<String>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let shards = match group {
            Some(group) => (group.shards.iter())
                .map(|shard| {
                    (
                        shard.id.clone(),
                        shard.slots.clone(),
                        shard.members.len() - 1,
                        shard.members.first().cloned(),
                    )
                })
                .collect(),
            None => vec![("0001".to_owned(), Vec::new(), 0, Some(cluster.id.clone()))],
        };
        let mut parts = Vec::new();
        for (shard, slots, replicas, primary) in shards {
            let Some(source) = primary.and_then(|id| self.clusters.get(&id)) else {
                continue;
            };
            let Some(node) = source.nodes.first().map(|node| node.key) else {
                continue;
            };
            let cluster = source.id.clone();
            let file = self.next();
            steps.push(Step::Save { node, file });
            parts.push(Part {
                shard,
                slots,
                replicas,
                cluster,
                file,
            });
        }
        let snapshot = Snapshot {
            name: name.clone(),
            status: "creating",
            automatic,
            group: group.cloned(),
            cluster: cluster.clone(),
            parts,
            tags,
            kms_key,
            created: self.now,
        };
        self.snapshots.insert(name, snapshot);
        steps
    }

    /// Takes an automatic snapshot of a group or cluster that keeps some, as its snapshot window would.
    pub fn backup(&mut self, id: &str) {
        let group = self.available_group(id).ok().cloned();
        let cluster = match &group {
            Some(group) => self.primary_of(group).ok().cloned(),
            None => self
                .cluster(id)
                .ok()
                .filter(|cluster| cluster.status == "available")
                .cloned(),
        };
        let Some(cluster) = cluster.filter(|cluster| cluster.upkeep.retention > 0) else {
            return;
        };
        let name = format!("automatic.{id}-{}", self.now.strftime("%Y-%m-%d-%H-%M-%S"));
        let steps = self.new_snapshot(name.clone(), &cluster, group.as_ref(), true, BTreeMap::new(), None);
        match &group {
            Some(group) => self.set_group_status(&group.id, "snapshotting"),
            None => self.set_status(&cluster.id, "snapshotting"),
        }
        self.start(self.times.snapshotting, steps, Then::SnapshotReady(name));
        let then = match group {
            Some(group) => Then::GroupReady(group.id),
            None => Then::ClusterReady(cluster.id),
        };
        self.start(self.times.snapshotting, Vec::new(), then);
    }

    pub(crate) fn snapshot_ready(&mut self, name: &str, failed: Option<String>) {
        let Some(snapshot) = self.snapshots.get_mut(name) else {
            return;
        };
        snapshot.status = "available";
        let (id, kind) = match &snapshot.group {
            Some(group) => (group.id.clone(), "replication-group"),
            None => (snapshot.cluster.id.clone(), "cache-cluster"),
        };
        match failed {
            None => self.event(kind, &id, format!("Snapshot succeeded for snapshot with ID '{name}'")),
            Some(why) => {
                self.snapshots.remove(name);
                self.event(
                    kind,
                    &id,
                    format!("Snapshot failed for snapshot with ID '{name}': {why}"),
                );
            }
        }
    }

    /// Checks a name for a snapshot and that there is room for another.
    pub(crate) fn free_snapshot_name(&self, name: &str) -> Outcome<String> {
        let name = names::id("SnapshotName", name, names::OTHER_ID)?;
        if self.snapshots.contains_key(&name) {
            return Err(ApiError::new(
                "SnapshotAlreadyExistsFault",
                format!("Snapshot with specified name already exists: {name}"),
            ));
        }
        if self.snapshots.values().filter(|snapshot| !snapshot.automatic).count() >= self.limits.snapshots {
            return Err(ApiError::new(
                "SnapshotQuotaExceededFault",
                format!("The quota of {} snapshots is used up.", self.limits.snapshots),
            ));
        }
        Ok(name)
    }

    pub(crate) fn snapshot(&self, name: &str) -> Outcome<&Snapshot> {
        self.snapshots
            .get(&name.to_ascii_lowercase())
            .ok_or_else(|| ApiError::new("SnapshotNotFoundFault", format!("Snapshot not found: {name}")))
    }

    /// A snapshot that can be restored or copied.
    pub(crate) fn usable_snapshot(&self, name: &str) -> Outcome<&Snapshot> {
        let snapshot = self.snapshot(name)?;
        if snapshot.status != "available" {
            return Err(ApiError::new(
                "InvalidSnapshotState",
                format!("The snapshot {name} is not available: {}.", snapshot.status),
            ));
        }
        Ok(snapshot)
    }

    pub(crate) fn describe_snapshots(&self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "ReplicationGroupId",
            "CacheClusterId",
            "SnapshotName",
            "SnapshotSource",
            "Marker",
            "MaxRecords",
            "ShowNodeGroupConfig",
        ])?;
        let automatic = match p.text("SnapshotSource") {
            None => None,
            Some("system") => Some(true),
            Some("user") => Some(false),
            Some(other) => return Err(ApiError::value(format!("Invalid SnapshotSource: {other}"))),
        };
        if let Some(name) = p.text("SnapshotName") {
            self.snapshot(name)?;
        }
        let same = |wanted: Option<&str>, id: Option<&str>| {
            wanted.is_none_or(|wanted| id == Some(&wanted.to_ascii_lowercase()))
        };
        let found: Vec<(String, &Snapshot)> = (self.snapshots.iter())
            .filter(|(name, _)| same(p.text("SnapshotName"), Some(name)))
            .filter(|(_, found)| automatic.is_none_or(|automatic| found.automatic == automatic))
            .filter(|(_, found)| {
                same(
                    p.text("ReplicationGroupId"),
                    found.group.as_ref().map(|group| group.id.as_str()),
                )
            })
            .filter(|(_, found)| {
                p.text("CacheClusterId")
                    .is_none_or(|id| found.parts.iter().any(|part| part.cluster == id.to_ascii_lowercase()))
            })
            .map(|(name, found)| (name.clone(), found))
            .collect();
        let config = p.flag("ShowNodeGroupConfig")?.unwrap_or(false);
        let (marker, page) = self.page_of(p, found, 50)?;
        let items = page.into_iter().map(|snapshot| self.show_snapshot(snapshot, config));
        Ok(Fields::new()
            .some("Marker", marker)
            .list("Snapshots", "Snapshot", items))
    }

    pub(crate) fn delete_snapshot(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["SnapshotName"])?;
        let name = self.usable_snapshot(p.need("SnapshotName")?)?.name.clone();
        if let Some(snapshot) = self.snapshots.get_mut(&name) {
            snapshot.status = "deleting";
        }
        let snapshot = self.snapshot(&name)?;
        let steps = snapshot.parts.iter().map(|part| Step::Remove(part.file)).collect();
        let reply = Fields::new().with("Snapshot", self.show_snapshot(snapshot, true));
        self.start(self.times.deleting_snapshot, steps, Then::SnapshotDeleted(name));
        Ok(reply)
    }

    pub(crate) fn copy_snapshot(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["SourceSnapshotName", "TargetSnapshotName", "KmsKeyId", "Tags"])?;
        let mut copy = self.usable_snapshot(p.need("SourceSnapshotName")?)?.clone();
        copy.name = self.free_snapshot_name(p.need("TargetSnapshotName")?)?;
        copy.automatic = false;
        copy.status = "copying";
        copy.created = self.now;
        copy.tags = p.tags()?;
        copy.kms_key = p.text("KmsKeyId").map(str::to_owned).or(copy.kms_key);
        let mut steps = Vec::new();
        for part in &mut copy.parts {
            let to = self.next();
            steps.push(Step::Copy { from: part.file, to });
            part.file = to;
        }
        let reply = Fields::new().with("Snapshot", self.show_snapshot(&copy, true));
        let name = copy.name.clone();
        self.snapshots.insert(name.clone(), copy);
        self.start(self.times.snapshotting, steps, Then::SnapshotReady(name));
        Ok(reply)
    }

    fn show_snapshot(&self, snapshot: &Snapshot, config: bool) -> Fields {
        let (cluster, group) = (&snapshot.cluster, snapshot.group.as_ref());
        let upkeep = group.map_or(&cluster.upkeep, |group| &group.upkeep);
        let nodes = snapshot.parts.iter().map(|part| {
            let slots: Vec<String> = part.slots.iter().map(|(from, to)| format!("{from}-{to}")).collect();
            let layout = Fields::new()
                .text("Slots", slots.join(","))
                .text("ReplicaCount", part.replicas);
            Fields::new()
                .text("CacheClusterId", &part.cluster)
                .some("NodeGroupId", group.map(|_| &part.shard))
                .text("CacheNodeId", "0001")
                .some_with("NodeGroupConfiguration", (config && group.is_some()).then_some(layout))
                .text("CacheSize", "1 MB")
                .text("CacheNodeCreateTime", cluster.created)
                .some(
                    "SnapshotCreateTime",
                    (snapshot.status == "available").then_some(snapshot.created),
                )
        });
        Fields::new()
            .text("SnapshotName", &snapshot.name)
            .some("ReplicationGroupId", group.map(|group| &group.id))
            .some("ReplicationGroupDescription", group.map(|group| &group.description))
            .some("CacheClusterId", group.is_none().then_some(&cluster.id))
            .text("SnapshotStatus", snapshot.status)
            .text(
                "SnapshotSource",
                if snapshot.automatic { "automated" } else { "manual" },
            )
            .text("CacheNodeType", cluster.node_type.name)
            .text("Engine", cluster.version.engine)
            .text("EngineVersion", cluster.version.full)
            .some("NumCacheNodes", group.is_none().then_some(1))
            .some(
                "PreferredAvailabilityZone",
                cluster.nodes.first().map(|node| &node.zone),
            )
            .some("CacheClusterCreateTime", group.is_none().then_some(cluster.created))
            .text("PreferredMaintenanceWindow", &upkeep.maintenance)
            .some("TopicArn", upkeep.topic.as_ref())
            .text("Port", cluster.port)
            .text("CacheParameterGroupName", &upkeep.parameter_group)
            .text("CacheSubnetGroupName", &upkeep.subnet_group)
            .text("VpcId", super::tags::VPC)
            .text("AutoMinorVersionUpgrade", upkeep.auto_minor)
            .text("SnapshotRetentionLimit", upkeep.retention)
            .text("SnapshotWindow", &upkeep.snapshot_window)
            .some("NumNodeGroups", group.map(|_| snapshot.parts.len()))
            .some(
                "AutomaticFailover",
                group.map(|group| if group.failover { "enabled" } else { "disabled" }),
            )
            .list("NodeSnapshots", "NodeSnapshot", nodes)
            .some("KmsKeyId", snapshot.kms_key.as_ref())
            .text("ARN", self.arn("snapshot", &snapshot.name))
            .text("DataTiering", "disabled")
    }
}
