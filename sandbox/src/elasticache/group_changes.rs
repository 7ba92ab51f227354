//! ModifyReplicationGroup and TestFailover.

use super::catalog::{Engine, NodeType, Version};
use super::error::{ApiError, Outcome};
use super::model::{AuthChange, Group, GroupPending};
use super::names;
use super::nodes::Tls;
use super::query::Params;
use super::replication_groups::check_failover;
use super::state::{Cloud, Then};
use super::upkeep::{self, tls};
use super::xml::Fields;

/// How a waiting change of the AUTH token shows.
pub(crate) fn auth_status(change: &AuthChange) -> Option<&'static str> {
    match change {
        AuthChange::Rotate(_) => Some("ROTATING"),
        AuthChange::Set(_) => Some("SETTING"),
        AuthChange::Delete => None,
    }
}

impl Cloud {
    /// A group may be changed only when it and every member are available.
    pub(crate) fn available_group(&self, id: &str) -> Outcome<&Group> {
        let group = self.group(id)?;
        if group.status != "available" {
            return Err(ApiError::group_state(format!(
                "Replication group {} is not in available state: {}.",
                group.id, group.status
            )));
        }
        let busy = |id: &&String| {
            self.clusters
                .get(*id)
                .is_some_and(|member| member.status != "available")
        };
        if let Some(member) = group.members().find(busy) {
            return Err(ApiError::cluster_state(format!(
                "Cache cluster {member} is not in available state."
            )));
        }
        Ok(group)
    }

    pub(crate) fn modify_replication_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(
            &[
                upkeep::MODIFY,
                &[
                    "ReplicationGroupId",
                    "ReplicationGroupDescription",
                    "PrimaryClusterId",
                    "SnapshottingClusterId",
                    "AutomaticFailoverEnabled",
                    "MultiAZEnabled",
                    "CacheParameterGroupName",
                    "ApplyImmediately",
                    "Engine",
                    "EngineVersion",
                    "CacheNodeType",
                    "AuthToken",
                    "AuthTokenUpdateStrategy",
                    "UserGroupIdsToAdd",
                    "UserGroupIdsToRemove",
                    "RemoveUserGroups",
                    "TransitEncryptionEnabled",
                    "TransitEncryptionMode",
                ],
            ]
            .concat(),
        )?;
        let group = self.available_group(p.need("ReplicationGroupId")?)?.clone();
        let now = p.flag("ApplyImmediately")?.unwrap_or(false);
        let mut after = group.clone();
        let (upkeep, slow) = group.upkeep.clone().change(p, true)?;
        after.upkeep = upkeep;
        if let Some(description) = p.text("ReplicationGroupDescription") {
            after.description = description.to_owned();
        }
        if let Some(id) = p.text("SnapshottingClusterId") {
            if group.sharded || !group.members().any(|member| member == id) {
                return Err(ApiError::combination(format!(
                    "{id} cannot be the snapshotting cluster of {}.",
                    group.id
                )));
            }
            after.snapshotting = Some(id.to_owned());
        }
        if let Some(id) = p.text("PrimaryClusterId") {
            let shard = group
                .shards
                .first()
                .filter(|shard| !group.sharded && shard.members.iter().any(|m| m == id));
            if shard.is_none() {
                return Err(ApiError::combination(format!(
                    "{id} cannot be the primary of {}.",
                    group.id
                )));
            }
            if group.failover {
                return Err(ApiError::combination(
                    "The primary cannot be chosen while automatic failover is enabled.",
                ));
            }
            let first = group.members().next();
            after.pending.primary = (first.map(String::as_str) != Some(id)).then(|| id.to_owned());
        }
        read_failover(p, &group, &mut after)?;
        self.read_version(p, &group, &mut after)?;
        let wanted = tls(p, group.tls)?;
        if wanted != group.tls {
            check_tls_change(&group, wanted)?;
            after.pending.tls = Some(wanted);
        }
        self.read_users(p, &group, &mut after)?;
        read_auth(p, &group, &mut after)?;
        let id = group.id.clone();
        for member in group.members() {
            if let Some(cluster) = self.clusters.get_mut(member) {
                cluster.upkeep = after.upkeep.clone();
            }
        }
        self.groups.insert(id.clone(), after);
        if now
            && self
                .groups
                .get(&id)
                .is_some_and(|group| group.pending != GroupPending::default())
        {
            self.apply_group(&id);
        } else if slow {
            self.set_group_status(&id, "modifying");
            self.start(self.times.modifying, Vec::new(), Then::GroupReady(id.clone()));
        }
        Ok(Fields::new().with("ReplicationGroup", self.show_group(self.group(&id)?)))
    }

    fn read_version(&self, p: Params, group: &Group, after: &mut Group) -> Outcome<()> {
        if p.has("Engine") || p.has("EngineVersion") {
            let engine = p.text("Engine").map_or(Ok(group.version.engine), Engine::parse)?;
            let kept = (engine == group.version.engine).then_some(group.version.full);
            let version = Version::find(engine, p.text("EngineVersion").or(kept))?;
            group.version.can_become(version)?;
            after.pending.version = (version != group.version).then_some(version);
        }
        let version = after.pending.version.unwrap_or(group.version);
        if let Some(name) = p.text("CacheNodeType") {
            let node_type = NodeType::find(name)?;
            node_type.fits(version)?;
            after.pending.node_type = (node_type != group.node_type).then_some(node_type);
        }
        if let Some(name) = p.text("CacheParameterGroupName") {
            let parameters = self.parameter_group(Some(name), version, group.sharded)?;
            if parameters.cluster_enabled != group.sharded {
                return Err(ApiError::combination(format!(
                    "The parameter group {name} does not fit the cluster mode."
                )));
            }
            after.pending.parameter_group =
                (parameters.name != group.upkeep.parameter_group).then_some(parameters.name);
        } else if p.has("EngineVersion") && version.family != group.version.family {
            if !group.upkeep.parameter_group.starts_with("default.") {
                return Err(ApiError::combination(format!(
                    "The parameter group must be changed to one of family {} together with the version.",
                    version.family
                )));
            }
            after.pending.parameter_group = Some(self.parameter_group(None, version, group.sharded)?.name);
        }
        Ok(())
    }

    fn read_users(&self, p: Params, group: &Group, after: &mut Group) -> Outcome<()> {
        let add = p.texts("UserGroupIdsToAdd", "member");
        let mut remove = p.texts("UserGroupIdsToRemove", "member");
        if p.flag("RemoveUserGroups")?.unwrap_or(false) {
            remove.clone_from(&group.user_groups);
        }
        if let Some(other) = remove.iter().find(|id| !group.user_groups.contains(id)) {
            return Err(ApiError::value(format!(
                "User group {other} is not associated with {}.",
                group.id
            )));
        }
        self.check_user_groups(&add, after.pending.version.unwrap_or(group.version).engine)?;
        if group.user_groups.len() + add.len() > 1 + remove.len() {
            return Err(ApiError::value("A replication group can have one user group."));
        }
        if !add.is_empty() && after.pending.tls.unwrap_or(group.tls) == Tls::Off {
            return Err(ApiError::combination(
                "User groups can be used only when in-transit encryption is enabled.",
            ));
        }
        if !add.is_empty() || !remove.is_empty() {
            after.pending.add_users = add;
            after.pending.remove_users = remove;
        }
        Ok(())
    }

    /// Starts the waiting changes of a group that is available; others wait on.
    pub(crate) fn apply_group(&mut self, id: &str) {
        let Ok(group) = self.available_group(id).cloned() else {
            return;
        };
        if group.pending == GroupPending::default() {
            return;
        }
        let mut target = group.clone();
        let pending = &group.pending;
        target.tls = pending.tls.unwrap_or(target.tls);
        target.node_type = pending.node_type.unwrap_or(target.node_type);
        target.version = pending.version.unwrap_or(target.version);
        target.user_groups.retain(|id| !pending.remove_users.contains(id));
        target.user_groups.extend(pending.add_users.clone());
        if let Some(change) = pending.auth.clone() {
            target.auth.apply(change, self.now);
        }
        if let Some(primary) = &pending.primary {
            for shard in &mut target.shards {
                promote(&mut shard.members, primary);
            }
            if let Some(group) = self.groups.get_mut(id) {
                group.pending.shards = Some(target.shards.clone());
            }
        }
        let steps = self.run_group(&target);
        self.set_group_status(id, "modifying");
        self.start(self.times.modifying, steps, Then::GroupModified(id.to_owned()));
    }

    /// Sets the status of a group and, unless it is available, of its members.
    pub(crate) fn set_group_status(&mut self, id: &str, status: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        group.status = status.to_owned();
        let members: Vec<String> = group.members().cloned().collect();
        members.iter().for_each(|member| self.set_status(member, status));
    }

    pub(crate) fn test_failover(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["ReplicationGroupId", "NodeGroupId"])?;
        let group = self.available_group(p.need("ReplicationGroupId")?)?.clone();
        let wanted = p.need("NodeGroupId")?;
        let Some(shard) = group.shards.iter().find(|shard| shard.id == wanted) else {
            return Err(ApiError::new(
                "NodeGroupNotFoundFault",
                format!("Node group {wanted} not found."),
            ));
        };
        if !group.failover {
            return Err(ApiError::combination("Automatic failover is not enabled."));
        }
        let Some(heir) = shard.members.get(1).cloned() else {
            return Err(ApiError::new(
                "TestFailoverNotAvailableFault",
                "The node group has no replica.",
            ));
        };
        let mut target = group.clone();
        for shard in target.shards.iter_mut().filter(|shard| shard.id == wanted) {
            promote(&mut shard.members, &heir);
        }
        let steps = self.run_group(&target);
        let id = group.id;
        if let Some(group) = self.groups.get_mut(&id) {
            group.pending.shards = Some(target.shards);
        }
        self.set_group_status(&id, "modifying");
        self.event(
            "replication-group",
            &id,
            format!("Test Failover API called for node group {wanted}"),
        );
        self.start(self.times.modifying, steps, Then::GroupModified(id.clone()));
        Ok(Fields::new().with("ReplicationGroup", self.show_group(self.group(&id)?)))
    }
}

fn promote(members: &mut [String], heir: &str) {
    if let Some(at) = members.iter().position(|member| member == heir) {
        members.swap(0, at);
    }
}

fn read_failover(p: Params, group: &Group, after: &mut Group) -> Outcome<()> {
    let failover = p.flag("AutomaticFailoverEnabled")?;
    let multi_az = p.flag("MultiAZEnabled")?;
    if failover.is_none() && multi_az.is_none() {
        return Ok(());
    }
    let wanted = (failover.unwrap_or(group.failover), multi_az.unwrap_or(group.multi_az));
    let replicas = group.shards.iter().map(|shard| shard.members.len().saturating_sub(1));
    check_failover(wanted.0, wanted.1, group.sharded, replicas)?;
    after.pending.failover = (wanted.0 != group.failover).then_some(wanted.0);
    after.pending.multi_az = (wanted.1 != group.multi_az).then_some(wanted.1);
    Ok(())
}

/// Encryption comes in two calls, through `preferred`, and goes the same way back (ModifyReplicationGroup,
/// `TransitEncryptionMode`).
fn check_tls_change(group: &Group, wanted: Tls) -> Outcome<()> {
    match (group.tls, wanted) {
        (Tls::Off, Tls::Required) => Err(ApiError::combination(
            "TransitEncryptionMode must be set to preferred before it can be set to required.",
        )),
        (Tls::Required, Tls::Off) => Err(ApiError::combination(
            "TransitEncryptionMode must be set to preferred before encryption can be disabled.",
        )),
        (_, Tls::Off) if !group.auth.tokens.is_empty() || !group.user_groups.is_empty() => Err(ApiError::combination(
            "Encryption in transit cannot be disabled while an AUTH token or a user group is in use.",
        )),
        _ if !group.user_groups.is_empty() => Err(ApiError::combination(
            "Modification of transit encryption is not supported for access control enabled clusters.",
        )),
        _ => Ok(()),
    }
}

/// `AuthToken` and `AuthTokenUpdateStrategy`: ROTATE unless told, SET only after ROTATE, DELETE only in the move to a
/// user group (ModifyReplicationGroup).
fn read_auth(p: Params, group: &Group, after: &mut Group) -> Outcome<()> {
    let tls = after.pending.tls.unwrap_or(group.tls);
    let change = match (p.text("AuthToken"), p.text("AuthTokenUpdateStrategy")) {
        (None, None) => return Ok(()),
        (_, Some("DELETE")) if group.auth.tokens.is_empty() => {
            return Err(ApiError::combination(
                "The replication group has no AUTH token to delete.",
            ));
        }
        (_, Some("DELETE")) if after.pending.add_users.is_empty() => {
            return Err(ApiError::combination(
                "The strategy DELETE is allowed only together with UserGroupIdsToAdd.",
            ));
        }
        (_, Some("DELETE")) => AuthChange::Delete,
        (None, Some(_)) => return Err(ApiError::combination("AuthTokenUpdateStrategy needs an AuthToken.")),
        (Some(token), None | Some("ROTATE")) => AuthChange::Rotate(names::auth_token(token)?),
        (Some(token), Some("SET")) => {
            let token = names::auth_token(token)?;
            let rotated = group.auth.tokens.len() > 1 || group.auth.optional;
            if !rotated || !group.auth.tokens.contains(&token) {
                return Err(ApiError::combination(
                    "The strategy SET is allowed only for a token that was rotated in.",
                ));
            }
            AuthChange::Set(token)
        }
        (_, Some(other)) => return Err(ApiError::value(format!("Invalid AuthTokenUpdateStrategy: {other}"))),
    };
    if tls == Tls::Off {
        return Err(ApiError::combination(
            "An AuthToken can be used only when in-transit encryption is enabled.",
        ));
    }
    if change != AuthChange::Delete && (!group.user_groups.is_empty() || !after.pending.add_users.is_empty()) {
        return Err(ApiError::combination("AuthToken and user groups exclude each other."));
    }
    after.pending.auth = Some(change);
    Ok(())
}
