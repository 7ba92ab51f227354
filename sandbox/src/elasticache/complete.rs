//! What becomes of things when their time has come and their processes are ready.

use super::model::AuthChange;
use super::nodes::{Step, Tls};
use super::state::{Cloud, Then};

impl Cloud {
    pub(crate) fn complete(&mut self, then: Then, failed: Option<String>) {
        match then {
            Then::ClusterCreated(id) => self.cluster_created(&id, failed),
            Then::ClusterModified(id) => self.cluster_modified(&id, failed),
            Then::ClusterReady(id) => {
                self.report("cache-cluster", &id, failed);
                self.set_status(&id, "available");
            }
            Then::ClusterDeleted(id) => {
                if let Some(cluster) = self.clusters.remove(&id) {
                    self.drop_automatic(None, Some(&cluster.id));
                    self.event("cache-cluster", &id, "Cache cluster deleted");
                }
            }
            Then::GroupCreated(id) => self.group_created(&id, failed),
            Then::GroupModified(id) => self.group_modified(&id, failed),
            Then::GroupReady(id) => {
                self.report("replication-group", &id, failed);
                if let Some(group) = self.groups.get_mut(&id) {
                    group.status = "available".into();
                }
                self.members_ready_later(&id);
            }
            Then::GroupDeleted(id, retain) => self.group_deleted(&id, retain),
            Then::MembersReady(ids) => ids.iter().for_each(|id| self.set_status(id, "available")),
            Then::SnapshotReady(name) => self.snapshot_ready(&name, failed),
            Then::Saved(name, steps, then) => self.saved(&name, failed, steps, *then),
            Then::SnapshotDeleted(name) => {
                self.snapshots.remove(&name);
            }
            Then::UserActive(id) => self.user_active(&id),
            Then::UserDeleted(id) => self.user_deleted(&id),
            Then::UserGroupActive(id) => self.user_group_active(&id),
            Then::UserGroupDeleted(id) => {
                self.user_groups.remove(&id);
            }
            Then::Nothing => {}
        }
    }

    /// Goes on with a deletion after its final snapshot; without the snapshot nothing is deleted.
    fn saved(&mut self, name: &str, failed: Option<String>, steps: Vec<Step>, then: Then) {
        let lost = failed.is_some();
        self.snapshot_ready(name, failed);
        match then {
            Then::ClusterDeleted(id) if lost => self.set_status(&id, "available"),
            Then::GroupDeleted(id, _) if lost => self.set_group_status(&id, "available"),
            then => self.start(self.times.deleting, steps, then),
        }
    }

    fn report(&mut self, kind: &'static str, id: &str, failed: Option<String>) {
        if let Some(why) = failed {
            tracing::warn!(id, why, "a node of the sandbox's ElastiCache endpoint failed");
            self.event(kind, id, format!("A cache node could not be changed: {why}"));
        }
    }

    fn cluster_created(&mut self, id: &str, failed: Option<String>) {
        let doom = self
            .doomed
            .remove(id)
            .or(failed.map(|why| ("incompatible-network".to_owned(), why)));
        if let Some((status, why)) = doom {
            self.set_status(id, &status);
            self.event("cache-cluster", id, why);
            return;
        }
        self.set_status(id, "available");
        self.event("cache-cluster", id, "Cache cluster created");
    }

    fn cluster_modified(&mut self, id: &str, failed: Option<String>) {
        if let Some(cluster) = self.clusters.get_mut(id) {
            let pending = std::mem::take(&mut cluster.pending);
            cluster.version = pending.version.unwrap_or(cluster.version);
            cluster.node_type = pending.node_type.unwrap_or(cluster.node_type);
            cluster.nodes.retain(|node| !pending.remove.contains(&node.id));
            if let Some(name) = pending.parameter_group {
                cluster.upkeep.parameter_group = name;
            }
        }
        self.report("cache-cluster", id, failed);
        self.set_status(id, "available");
        self.event("cache-cluster", id, "Cache cluster modified");
    }

    fn group_created(&mut self, id: &str, failed: Option<String>) {
        let doom = self
            .doomed
            .remove(id)
            .or(failed.map(|why| ("create-failed".to_owned(), why)));
        let Some(group) = self.groups.get_mut(id) else { return };
        let members: Vec<String> = group.members().cloned().collect();
        match doom {
            Some((status, why)) => {
                group.status = status;
                self.event("replication-group", id, why);
            }
            None => {
                group.status = "available".into();
                members.iter().for_each(|id| self.set_status(id, "available"));
                self.event("replication-group", id, "Replication group created");
            }
        }
    }

    /// Takes the pending changes of a group over into the group and its members.
    fn group_modified(&mut self, id: &str, failed: Option<String>) {
        let now = self.now;
        let Some(group) = self.groups.get_mut(id) else { return };
        let before: Vec<String> = group.members().cloned().collect();
        let pending = std::mem::take(&mut group.pending);
        group.status = "available".into();
        group.failover = pending.failover.unwrap_or(group.failover);
        group.multi_az = pending.multi_az.unwrap_or(group.multi_az);
        group.tls = pending.tls.unwrap_or(group.tls);
        group.version = pending.version.unwrap_or(group.version);
        group.node_type = pending.node_type.unwrap_or(group.node_type);
        group.user_groups.retain(|id| !pending.remove_users.contains(id));
        group.user_groups.extend(pending.add_users);
        if let Some(name) = pending.parameter_group {
            group.upkeep.parameter_group = name;
        }
        if let Some(change) = pending.auth {
            group.auth.apply(change, now);
        }
        if let Some(shards) = pending.shards {
            group.shards = shards;
        }
        let group = group.clone();
        for id in before.iter().filter(|id| !group.members().any(|member| member == *id)) {
            self.clusters.remove(id);
            self.event("cache-cluster", id, "Cache cluster deleted");
        }
        for id in group.members() {
            if let Some(cluster) = self.clusters.get_mut(id) {
                cluster.version = group.version;
                cluster.node_type = group.node_type;
                cluster.tls = group.tls;
                cluster.upkeep = group.upkeep.clone();
            }
        }
        self.report("replication-group", id, failed);
        self.event("replication-group", id, "Replication group modified");
        self.members_ready_later(id);
    }

    /// The group shows `available` before its members do, as the real one's does.
    fn members_ready_later(&mut self, id: &str) {
        let members: Vec<String> = match self.groups.get(id) {
            Some(group) => group.members().cloned().collect(),
            None => return,
        };
        self.start(self.times.members, Vec::new(), Then::MembersReady(members));
    }

    fn group_deleted(&mut self, id: &str, retain: bool) {
        let Some(group) = self.groups.remove(id) else { return };
        let primary = group
            .shards
            .first()
            .and_then(|shard| shard.members.first())
            .filter(|_| retain);
        for member in group.members() {
            if Some(member) == primary {
                if let Some(cluster) = self.clusters.get_mut(member) {
                    cluster.group = None;
                    cluster.tls = Tls::Off;
                }
                self.set_status(member, "available");
            } else {
                self.clusters.remove(member);
            }
        }
        self.drop_automatic(Some(id), None);
        self.event("replication-group", id, "Replication group deleted");
    }

    /// Automatic snapshots end with what they are of; manual and final ones stay.
    fn drop_automatic(&mut self, group: Option<&str>, cluster: Option<&str>) {
        let gone: Vec<String> = (self.snapshots.values())
            .filter(|snapshot| snapshot.automatic)
            .filter(|snapshot| match &snapshot.group {
                Some(of) => group == Some(of.id.as_str()),
                None => cluster == Some(snapshot.cluster.id.as_str()),
            })
            .map(|snapshot| snapshot.name.clone())
            .collect();
        for name in gone {
            if let Some(snapshot) = self.snapshots.remove(&name) {
                let steps = snapshot.parts.iter().map(|part| Step::Remove(part.file)).collect();
                self.start(std::time::Duration::ZERO, steps, Then::Nothing);
            }
        }
    }
}

impl super::model::Auth {
    /// Brings a token in: a rotation leaves the old one valid, a SET only the new one.
    pub(crate) fn apply(&mut self, change: AuthChange, now: jiff::Timestamp) {
        self.changed = Some(now);
        match change {
            AuthChange::Rotate(token) => {
                self.optional = self.tokens.is_empty();
                let newest = self.tokens.pop();
                self.tokens = newest.into_iter().chain([token]).collect();
            }
            AuthChange::Set(token) => {
                self.optional = false;
                self.tokens = vec![token];
            }
            AuthChange::Delete => {
                *self = Self {
                    changed: Some(now),
                    ..Self::default()
                }
            }
        }
    }
}
