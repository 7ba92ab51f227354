//! The size of a replication group: IncreaseReplicaCount, DecreaseReplicaCount and
//! ModifyReplicationGroupShardConfiguration.

use std::collections::BTreeMap;

use super::error::{ApiError, Outcome};
use super::model::{Group, Shard};
use super::nodes::Step;
use super::query::Params;
use super::replication_groups::{even_slots, member_id};
use super::state::{Cloud, Then};
use super::xml::Fields;

impl Cloud {
    /// IncreaseReplicaCount and DecreaseReplicaCount. An unchanged number is a NoOperationFault.
    pub(crate) fn change_replica_count(&mut self, p: Params, more: bool) -> Outcome<Fields> {
        p.only(&[
            "ReplicationGroupId",
            "NewReplicaCount",
            "ReplicaConfiguration",
            "ReplicasToRemove",
            "ApplyImmediately",
        ])?;
        let group = self.available_group(p.need("ReplicationGroupId")?)?.clone();
        immediately(p)?;
        let remove = p.texts("ReplicasToRemove", "member");
        if more && !remove.is_empty() {
            return Err(ApiError::value(
                "ReplicasToRemove is not a parameter of IncreaseReplicaCount.",
            ));
        }
        let wanted = wanted_counts(p, &group, &remove)?;
        let unchanged = |shard: &Shard| {
            wanted
                .get(&shard.id)
                .is_none_or(|count| count + 1 == shard.members.len())
        };
        if group.shards.iter().all(unchanged) {
            return Err(ApiError::new(
                "NoOperationFault",
                format!(
                    "The replication group {} already has the requested number of replicas.",
                    group.id
                ),
            ));
        }
        let mut target = group.clone();
        let mut added = Vec::new();
        for shard in &mut target.shards {
            let Some(count) = wanted.get(&shard.id).map(|count| count + 1) else {
                continue;
            };
            let right_way = if more {
                count >= shard.members.len()
            } else {
                count <= shard.members.len()
            };
            if !right_way {
                return Err(ApiError::value(format!(
                    "NewReplicaCount {} is on the wrong side of the present {} of node group {}.",
                    count - 1,
                    shard.members.len() - 1,
                    shard.id
                )));
            }
            if count == 1 && (group.multi_az || (group.failover && !group.sharded)) {
                return Err(ApiError::combination(
                    "A replica must remain while automatic failover is enabled.",
                ));
            }
            if more {
                for nth in (1..).map(|n| member_id(&group.id, group.sharded, &shard.id, n)) {
                    if shard.members.len() == count {
                        break;
                    }
                    if !shard.members.contains(&nth) {
                        self.free_cluster_id(&nth)?;
                        shard.members.push(nth.clone());
                        added.push((nth, shard.members.len() - 1));
                    }
                }
            } else if remove.iter().any(|id| shard.members.contains(id)) {
                shard.members.retain(|id| !remove.contains(id));
            } else {
                shard.members.truncate(count);
            }
        }
        self.room_for(added.len())?;
        for (id, nth) in &added {
            self.add_member(&group, id, None, *nth, None);
        }
        let id = group.id.clone();
        self.resize(&group, target);
        Ok(Fields::new().with("ReplicationGroup", self.show_group(self.group(&id)?)))
    }

    pub(crate) fn modify_shard_configuration(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "ReplicationGroupId",
            "NodeGroupCount",
            "ApplyImmediately",
            "ReshardingConfiguration",
            "NodeGroupsToRemove",
            "NodeGroupsToRetain",
        ])?;
        let group = self.available_group(p.need("ReplicationGroupId")?)?.clone();
        immediately(p)?;
        if !group.sharded {
            return Err(ApiError::combination(
                "The replication group has cluster mode disabled.",
            ));
        }
        if p.has("ReshardingConfiguration") {
            return Err(ApiError::value("The sandbox does not support ReshardingConfiguration."));
        }
        let count = p
            .count("NodeGroupCount")?
            .ok_or_else(|| ApiError::value("NodeGroupCount must be provided."))?;
        if count == 0 || count > self.limits.shards_per_group {
            return Err(ApiError::new(
                "NodeGroupsPerReplicationGroupQuotaExceeded",
                format!(
                    "A replication group can have 1 to {} node groups.",
                    self.limits.shards_per_group
                ),
            ));
        }
        let mut target = group.clone();
        if count < group.shards.len() {
            target.shards = remaining_shards(p, &group, count)?;
        }
        let replicas = group.shards.iter().map(|shard| shard.members.len()).max().unwrap_or(1);
        let mut added = Vec::new();
        for name in (1..).map(|n| format!("{n:04}")) {
            if target.shards.len() >= count {
                break;
            }
            if !group.shards.iter().any(|shard| shard.id == name) {
                let members: Vec<String> = (1..=replicas)
                    .map(|nth| member_id(&group.id, true, &name, nth))
                    .collect();
                for (nth, member) in members.iter().enumerate() {
                    self.free_cluster_id(member)?;
                    added.push((member.clone(), nth));
                }
                target.shards.push(Shard {
                    id: name,
                    slots: Vec::new(),
                    members,
                });
            }
        }
        self.room_for(added.len())?;
        for (id, nth) in &added {
            self.add_member(&group, id, None, *nth, None);
        }
        for (n, shard) in target.shards.iter_mut().enumerate() {
            shard.slots = even_slots(n, count);
        }
        let id = group.id.clone();
        self.resize(&group, target);
        Ok(Fields::new().with("ReplicationGroup", self.show_group(self.group(&id)?)))
    }

    /// Brings a group to another set of members.
    fn resize(&mut self, group: &Group, target: Group) {
        let mut steps = self.run_group(&target);
        let leaving: Vec<String> = group
            .members()
            .filter(|id| !target.members().any(|member| member == *id))
            .cloned()
            .collect();
        let keys = leaving
            .iter()
            .filter_map(|id| self.clusters.get(id))
            .flat_map(|cluster| &cluster.nodes);
        steps.extend(keys.map(|node| Step::Stop(node.key)));
        let id = group.id.clone();
        self.set_group_status(&id, "modifying");
        leaving.iter().for_each(|id| self.set_status(id, "deleting"));
        if let Some(group) = self.groups.get_mut(&id) {
            group.pending.shards = Some(target.shards);
        }
        self.start(self.times.modifying, steps, Then::GroupModified(id));
    }
}

fn immediately(p: Params) -> Outcome<()> {
    match p.flag("ApplyImmediately")? {
        Some(true) => Ok(()),
        Some(false) => Err(ApiError::value("ApplyImmediately=False is not currently supported.")),
        None => Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter ApplyImmediately.",
        )),
    }
}

/// The replicas each node group shall have: one number for all, or one for each that is named.
fn wanted_counts(p: Params, group: &Group, remove: &[String]) -> Outcome<BTreeMap<String, usize>> {
    let configurations = p.items("ReplicaConfiguration", "ConfigureShard");
    let mut wanted = BTreeMap::new();
    match (
        p.count("NewReplicaCount")?,
        configurations.is_empty(),
        remove.is_empty(),
    ) {
        (Some(count), true, true) => wanted.extend(group.shards.iter().map(|shard| (shard.id.clone(), count))),
        (count, true, false) => {
            for id in remove {
                let of = group
                    .shards
                    .iter()
                    .find(|shard| shard.members.iter().skip(1).any(|member| member == id));
                let Some(shard) = of else {
                    return Err(ApiError::value(format!("{id} is not a replica of {}.", group.id)));
                };
                *wanted.entry(shard.id.clone()).or_insert(shard.members.len() - 1) -= 1;
            }
            if count.is_some_and(|count| wanted.values().any(|left| *left != count)) {
                return Err(ApiError::combination(
                    "ReplicasToRemove and NewReplicaCount contradict each other.",
                ));
            }
        }
        (None, false, true) => {
            if !group.sharded && configurations.len() != 1 {
                return Err(ApiError::combination(
                    "A group with cluster mode disabled has one node group.",
                ));
            }
            for prefix in configurations {
                let id = p.need(&format!("{prefix}.NodeGroupId"))?;
                let Some(shard) = group.shards.iter().find(|shard| shard.id == id) else {
                    return Err(ApiError::value(format!("{id} is not a node group of {}.", group.id)));
                };
                let count = p.count(&format!("{prefix}.NewReplicaCount"))?;
                let count = count.ok_or_else(|| ApiError::value("NewReplicaCount must be provided."))?;
                wanted.insert(shard.id.clone(), count);
            }
        }
        _ => {
            return Err(ApiError::combination(
                "Provide one of NewReplicaCount, ReplicaConfiguration and ReplicasToRemove.",
            ));
        }
    }
    if wanted.values().any(|count| *count > 5) {
        return Err(ApiError::value("A node group can have 0 to 5 replicas."));
    }
    Ok(wanted)
}

/// The shards that stay when there shall be fewer: the request must say which go, or which stay.
fn remaining_shards(p: Params, group: &Group, count: usize) -> Outcome<Vec<Shard>> {
    let remove = p.texts("NodeGroupsToRemove", "NodeGroupToRemove");
    let retain = p.texts("NodeGroupsToRetain", "NodeGroupToRetain");
    let stays = |shard: &&Shard| match (remove.is_empty(), retain.is_empty()) {
        (false, true) => !remove.contains(&shard.id),
        (true, false) => retain.contains(&shard.id),
        _ => true,
    };
    let left: Vec<Shard> = group.shards.iter().filter(stays).cloned().collect();
    if left.len() != count {
        return Err(ApiError::combination(format!(
            "NodeGroupsToRemove or NodeGroupsToRetain must leave {count} node groups."
        )));
    }
    Ok(left)
}
