//! The planner: what of a live cache differs from what is asked for, what each difference costs, and which one is next.
//!
//! Fields that the plan leaves empty are the provider's to choose and never differ. The order is that in which
//! ElastiCache takes the calls: a version before the node types that need it, replicas before the failover that needs
//! them, and the other way round on the way back.

use std::collections::BTreeSet;

use super::super::Desired;
use super::live::{Live, Tls};
use crate::api::{Authentication, ElastiCacheSpec, EngineType, Order, Topology, compare_versions};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What differs, as part of a sentence.
    pub what: String,
    /// How it is mended.
    pub way: Way,
}

/// How a difference is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a call, and the data stay.
    InPlace(Modification),
    /// By a call, and the data, or some of them, are lost.
    Cold(Modification),
    /// Only by another cache.
    Replace,
    /// Not at all.
    Never,
}

/// A change that the API makes in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// `ModifyReplicationGroup` or `ModifyCacheCluster` with these fields and no others.
    Settings(Box<Settings>),
    /// `IncreaseReplicaCount` or `DecreaseReplicaCount`.
    Replicas {
        /// Replicas of each shard.
        count: i32,
        /// Whether that is more.
        more: bool,
    },
    /// `ModifyReplicationGroupShardConfiguration`.
    Shards {
        /// How many there are to be.
        count: i32,
        /// Those that go.
        remove: Vec<String>,
    },
    /// `ModifyReplicationGroup` with `AuthToken`, the password of the auth Secret, and `AuthTokenUpdateStrategy`.
    Token(TokenStrategy),
    /// `ModifyCacheCluster` with `NumCacheNodes`.
    Nodes {
        /// How many there are to be.
        count: i32,
        /// Those that go.
        remove: Vec<String>,
    },
}

/// `AuthTokenUpdateStrategy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStrategy {
    /// `ROTATE`: the password is let in beside the one before, or beside none.
    Rotate,
    /// `SET`: it alone is let in. It was rotated in before.
    Set,
}

/// Fields of a modify call; `None` is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `Engine`
    pub engine: Option<EngineType>,
    /// `EngineVersion`
    pub version: Option<String>,
    /// `CacheParameterGroupName`
    pub parameter_group: Option<String>,
    /// `CacheNodeType`
    pub node_type: Option<String>,
    /// `SecurityGroupIds`
    pub security_groups: Option<BTreeSet<String>>,
    /// `PreferredMaintenanceWindow`
    pub maintenance_window: Option<String>,
    /// `SnapshotWindow`
    pub snapshot_window: Option<String>,
    /// `SnapshotRetentionLimit`
    pub snapshot_retention: Option<i32>,
    /// `TransitEncryptionEnabled` and `TransitEncryptionMode`
    pub tls: Option<Tls>,
    /// `AutomaticFailoverEnabled` and `MultiAZEnabled`
    pub multi_az: Option<bool>,
    /// `UserGroupIdsToAdd`
    pub user_group: Option<String>,
}

/// The next difference between what is asked for and what is; `None` if there is none.
pub fn next_change(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    replacement(desired, spec, live)
        .or_else(|| upkeep(spec, live))
        .or_else(|| version(desired, spec, live))
        .or_else(|| match live.topology {
            Topology::ReplicationGroup => users(desired, live)
                .or_else(|| group(spec, live))
                .or_else(|| password(spec, live)),
            Topology::CacheCluster => cluster(desired, spec, live),
        })
}

fn by_settings(what: String, settings: Settings) -> Change {
    Change {
        what,
        way: Way::InPlace(Modification::Settings(Box::new(settings))),
    }
}

/// What differs that no call changes (members of the create calls that the modify calls do not have).
fn replacement(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let config = &live.config;
    let other = |what: &str| {
        Some(Change {
            what: what.to_owned(),
            way: Way::Replace,
        })
    };
    let spread = || {
        let cross = live.nodes.len() > 1 && !config.multi_az;
        live.topology == Topology::CacheCluster && spec.multi_az == Some(true) && cross
    };
    let unasked = spec.authentication != Some(Authentication::Token) && config.authentication;
    let group = live.topology == Topology::ReplicationGroup;
    if live.topology != desired.plan.topology() {
        other(match live.topology {
            Topology::CacheCluster => "it is a cache cluster and is asked to be a replication group",
            Topology::ReplicationGroup => "it is a replication group and is asked to be a cache cluster",
        })
    } else if differs(spec.subnet_group.as_ref(), config.subnet_group.as_ref()) {
        other("it is in another subnet group")
    } else if spec
        .port
        .is_some_and(|wanted| live.endpoint.as_ref().is_some_and(|at| at.port != wanted))
    {
        other("it answers at another port")
    } else if spec.at_rest_encryption.is_some_and(|wanted| wanted != config.at_rest) {
        other("its encryption at rest differs")
    } else if group && unasked {
        other("it asks for a password and is not to")
    } else if group && spec.shards.is_some() != config.sharded {
        other("its cluster mode differs")
    } else if !group
        && spec
            .transit_encryption
            .is_some_and(|wanted| wanted != (config.tls != Tls::Off))
    {
        other("its encryption in transit differs")
    } else if spread() {
        other("its nodes are in one availability zone")
    } else {
        None
    }
}

fn differs<T: PartialEq>(wanted: Option<&T>, live: Option<&T>) -> bool {
    matches!((wanted, live), (Some(wanted), Some(live)) if wanted != live)
}

/// What is changed without touching the nodes, in one call.
fn upkeep(spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let config = &live.config;
    let changed = |wanted: &Option<String>, live: &Option<String>| {
        wanted.clone().filter(|wanted| differs(Some(wanted), live.as_ref()))
    };
    let groups: BTreeSet<_> = spec.security_group_ids.iter().cloned().collect();
    let settings = Settings {
        security_groups: (!groups.is_empty() && differs(Some(&groups), config.security_groups.as_ref()))
            .then_some(groups),
        maintenance_window: changed(&spec.maintenance_window, &config.maintenance_window),
        snapshot_window: changed(&spec.snapshot_window, &config.snapshot_window),
        snapshot_retention: spec
            .snapshot_retention_days
            .map(i32::from)
            .filter(|wanted| differs(Some(wanted), config.snapshot_retention.as_ref())),
        ..Settings::default()
    };
    let what: Vec<_> = [
        (settings.security_groups.is_some(), "security groups"),
        (settings.maintenance_window.is_some(), "maintenance window"),
        (settings.snapshot_window.is_some(), "snapshot window"),
        (settings.snapshot_retention.is_some(), "snapshot retention"),
    ]
    .iter()
    .filter(|(differs, _)| *differs)
    .map(|(_, name)| *name)
    .collect();
    (!what.is_empty()).then(|| by_settings(format!("{} differ", what.join(", ")), settings))
}

/// Engine, version and parameter group, which go together: a group belongs to the family of a version.
fn version(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let config = &live.config;
    let (from, running) = (config.engine?, config.version.as_deref()?);
    let to = desired.plan.engine.type_;
    let wanted = &desired.plan.engine.version;
    let parameter_group = spec
        .parameter_group
        .clone()
        .filter(|wanted| differs(Some(wanted), config.parameter_group.as_ref()));
    let engine = (from != to).then_some(to);
    let order = compare_versions(running, wanted);
    let version = (engine.is_some() || order != Order::Same).then(|| wanted.clone());
    if engine.is_none() && version.is_none() && parameter_group.is_none() {
        return None;
    }
    let what = if version.is_some() {
        format!("it runs {from} {running} and is asked to run {to} {wanted}")
    } else {
        "its parameter group differs".to_owned()
    };
    let upgrade = (from, to) == (EngineType::Redis, EngineType::Valkey) && live.topology == Topology::ReplicationGroup;
    let downgrade = engine.is_none() && order == Order::Newer;
    let cold = version.is_some() && to == EngineType::Memcached;
    let modification = Modification::Settings(Box::new(Settings {
        engine,
        version,
        parameter_group,
        ..Settings::default()
    }));
    let way = if engine.is_some() && !upgrade {
        Way::Never
    } else if downgrade && to == EngineType::Memcached {
        Way::Replace
    } else if downgrade {
        Way::Never
    } else if cold {
        Way::Cold(modification)
    } else {
        Way::InPlace(modification)
    };
    Some(Change { what, way })
}

/// The group of users that it is to let in; somebody may have taken it away, or the cache was taken over without.
fn users(desired: &Desired, live: &Live) -> Option<Change> {
    let group = desired
        .record
        .user_group
        .as_ref()
        .filter(|_| desired.plan.has_users())?;
    let settings = Settings {
        user_group: Some(group.clone()),
        ..Settings::default()
    };
    let differs = !live.config.user_groups.contains(group);
    differs.then(|| by_settings(format!("it does not ask for the users of group {group}"), settings))
}

fn group(spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let config = &live.config;
    let (fewest, most) = live.replicas()?;
    let replicas = usize::from(spec.replicas.unwrap_or(0));
    let multi_az = spec.multi_az.unwrap_or(false);
    let failover = multi_az || config.sharded;
    let to_spread = || {
        let settings = Settings {
            multi_az: Some(multi_az),
            ..Settings::default()
        };
        by_settings(
            format!(
                "it is asked to {} several availability zones",
                if multi_az { "be in" } else { "leave" }
            ),
            settings,
        )
    };
    let to_replicas = |found: usize, more: bool| Change {
        what: format!("it has {found} replicas and is asked to have {replicas}"),
        way: Way::InPlace(Modification::Replicas {
            count: i32::try_from(replicas).unwrap_or(i32::MAX),
            more,
        }),
    };
    let spread_differs = config.multi_az != multi_az || config.failover != failover;
    if let Some(change) = encryption(spec, config.tls) {
        return Some(change);
    }
    if spread_differs && !multi_az {
        return Some(to_spread());
    }
    if fewest < replicas {
        return Some(to_replicas(fewest, true));
    }
    if let Some(change) = node_type(spec, live) {
        return Some(by_settings(
            change,
            Settings {
                node_type: Some(spec.node_type.clone()),
                ..Settings::default()
            },
        ));
    }
    if let Some(shards) = spec.shards.map(usize::from) {
        let found = live.shards();
        if found.len() != shards {
            let remove = found.iter().skip(shards).map(|id| (*id).to_owned()).collect();
            return Some(Change {
                what: format!("it has {} shards and is asked to have {shards}", found.len()),
                way: Way::InPlace(Modification::Shards {
                    count: i32::try_from(shards).unwrap_or(i32::MAX),
                    remove,
                }),
            });
        }
    }
    if most > replicas {
        return Some(to_replicas(most, false));
    }
    spread_differs.then(to_spread)
}

/// Encryption in transit comes and goes in two calls, through the mode that takes clients with and without
/// (`ModifyReplicationGroup`, `TransitEncryptionMode`).
fn encryption(spec: &ElastiCacheSpec, live: Tls) -> Option<Change> {
    let next = match (spec.transit_encryption?, live) {
        (true, Tls::Off) | (false, Tls::Required) => Tls::Preferred,
        (true, Tls::Preferred) => Tls::Required,
        (false, Tls::Preferred) => Tls::Off,
        (true, Tls::Required) | (false, Tls::Off) => return None,
    };
    let settings = Settings {
        tls: Some(next),
        ..Settings::default()
    };
    Some(by_settings("its encryption in transit differs".to_owned(), settings))
}

/// The password that it is to ask for and does not know. It comes after encryption, which it needs.
fn password(spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let config = &live.config;
    let lacks = !config.authentication && config.token_changed.is_none();
    (spec.authentication == Some(Authentication::Token) && lacks).then(|| Change {
        what: "it asks for no password and is to".to_owned(),
        way: Way::InPlace(Modification::Token(TokenStrategy::Rotate)),
    })
}

fn node_type(spec: &ElastiCacheSpec, live: &Live) -> Option<String> {
    let running = live.config.node_type.as_ref().filter(|live| **live != spec.node_type)?;
    Some(format!(
        "it runs on {running} and is asked to run on {}",
        spec.node_type
    ))
}

fn cluster(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<Change> {
    let memcached = desired.plan.engine.type_ == EngineType::Memcached;
    if let Some(what) = node_type(spec, live) {
        let modification = Modification::Settings(Box::new(Settings {
            node_type: Some(spec.node_type.clone()),
            ..Settings::default()
        }));
        let way = if memcached {
            Way::Cold(modification)
        } else {
            Way::InPlace(modification)
        };
        return Some(Change { what, way });
    }
    let wanted = usize::from(spec.nodes.unwrap_or(1));
    let found = live.config.nodes?;
    if found == wanted {
        return None;
    }
    let what = format!("it has {found} nodes and is asked to have {wanted}");
    let count = i32::try_from(wanted).unwrap_or(i32::MAX);
    let mut ids: Vec<_> = live.nodes.iter().map(|node| node.cache_node.clone()).collect();
    ids.sort();
    let way = if !memcached {
        Way::Never
    } else if found < wanted {
        Way::InPlace(Modification::Nodes {
            count,
            remove: Vec::new(),
        })
    } else {
        // The newest go: ids have gaps once nodes were removed.
        let remove = ids.split_off(wanted.min(ids.len()));
        let back = remove.is_empty();
        let modification = Modification::Nodes { count, remove };
        // As many as there are takes back those that were asked for and are not there yet.
        if back {
            Way::InPlace(modification)
        } else {
            Way::Cold(modification)
        }
    };
    Some(Change { what, way })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
