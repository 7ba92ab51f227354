//! Caches on AWS ElastiCache: a replication group for redis and valkey, a cache cluster for memcached and for a bare
//! redis node.

mod client;
mod decide;
mod id;
mod observe;
mod poller;

pub use client::{Client, Limits};
pub use decide::decide;
pub use id::provider_id;
pub use observe::observe;
pub use poller::{Poller, Target};

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::secrets::SecretStep;
use super::{Desired, Fault, secrets};
use crate::api::{Endpoint, EngineType, Node, Topology};

/// Settings that fill what a plan leaves empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Begins every id.
    pub name_prefix: String,
    /// Security group of every cache.
    pub security_group: Option<String>,
    /// Subnet group of redis and valkey.
    pub redis_subnet_group: Option<String>,
    /// Subnet group of memcached.
    pub memcached_subnet_group: Option<String>,
}

/// Tag that holds the uid of the instance a cache was made for: the proof that it is ours.
pub const OWNER_TAG: &str = "cache.akkeris.io/instance-uid";

/// A cache as ElastiCache describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Whether it is a replication group or a cache cluster.
    pub topology: Topology,
    /// Its id.
    pub id: String,
    /// Its ARN, once it has one.
    pub arn: Option<String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Where it takes writes.
    pub endpoint: Option<Endpoint>,
    /// Where its replicas answer reads.
    pub reader_endpoint: Option<Endpoint>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its node type.
    pub node_type: Option<String>,
    /// Whether it asks for a password.
    pub authentication: bool,
}

/// Where a cache is in its life, from its status text. The API documents the texts loosely, so they are compared without
/// regard to case and separators, and one that is not known is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being made.
    Creating,
    /// It answers.
    Available,
    /// It answers and is being changed.
    Modifying,
    /// It answers while a snapshot is taken.
    Snapshotting,
    /// Nodes are being restarted.
    Rebooting,
    /// It is going away.
    Deleting,
    /// It will not answer without somebody's doing.
    Failed(String),
    /// A text that is not known.
    Unknown(String),
}

impl Phase {
    /// Reads a status text.
    pub fn from_status(text: &str) -> Self {
        let folded: String = text
            .chars()
            .filter(char::is_ascii_alphabetic)
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        match folded.as_str() {
            "creating" => Self::Creating,
            "available" => Self::Available,
            "modifying" | "updating" | "recovering" => Self::Modifying,
            "snapshotting" => Self::Snapshotting,
            "rebooting" | "rebootingclusternodes" | "rebootingcacheclusternodes" => Self::Rebooting,
            "deleting" | "deleted" => Self::Deleting,
            "createfailed" | "failed" | "restorefailed" | "incompatiblenetwork" | "incompatibleparameters" => {
                Self::Failed(text.to_owned())
            }
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

/// Whose a cache is, as its tags tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The tags name our instance.
    Ours,
    /// The tags can be read and do not name our instance.
    Foreign,
    /// The tags cannot be read now; the API refuses while a cache is busy.
    Unreadable,
}

/// What was observed for one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The cache; `None` only if a Describe by id did not find it.
    pub live: Option<Live>,
    /// Whose it is.
    pub ownership: Ownership,
    /// Why it failed, by the provider's events.
    pub failure: Option<String>,
    /// The instance's Secrets, by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// What can be done on ElastiCache.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes one of the instance's Secrets.
    Secret(SecretStep),
    /// `CreateReplicationGroup` or `CreateCacheCluster`.
    Create(Box<Create>),
    /// `DeleteReplicationGroup` or `DeleteCacheCluster`.
    Delete {
        /// Which of them.
        topology: Topology,
        /// The cache.
        id: String,
        /// The snapshot to leave behind.
        final_snapshot: Option<String>,
    },
}

/// A cache to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Replication group or cache cluster.
    pub topology: Topology,
    /// Its id.
    pub id: String,
    /// The engine.
    pub engine: EngineType,
    /// The engine's version.
    pub version: String,
    /// For people who look at AWS's console.
    pub description: String,
    /// The node type.
    pub node_type: String,
    /// Nodes of a cache cluster.
    pub nodes: i32,
    /// Replicas a shard.
    pub replicas: i32,
    /// Shards; `None` is cluster mode off.
    pub shards: Option<i32>,
    /// Nodes in several availability zones.
    pub multi_az: bool,
    /// Parameter group.
    pub parameter_group: Option<String>,
    /// Subnet group.
    pub subnet_group: Option<String>,
    /// Security groups.
    pub security_group_ids: Vec<String>,
    /// TLS.
    pub transit_encryption: Option<bool>,
    /// Whether clients need the password of the auth Secret.
    pub authentication: bool,
    /// Encryption at rest.
    pub at_rest_encryption: Option<bool>,
    /// Weekly maintenance window.
    pub maintenance_window: Option<String>,
    /// Daily snapshot window.
    pub snapshot_window: Option<String>,
    /// Days that snapshots are kept.
    pub snapshot_retention_days: Option<i32>,
    /// Tags, ours among them.
    pub tags: BTreeMap<String, String>,
}

/// Does one step on ElastiCache.
///
/// # Errors
/// When a call cannot be made, or is refused.
pub async fn act(
    kube: &kube::Client,
    poller: &Poller,
    desired: &Desired,
    observed: &Observed,
    step: &Step,
) -> Result<(), Fault> {
    match step {
        Step::Secret(step) => secrets::act(kube, desired, step).await,
        Step::Create(create) => {
            let token = if create.authentication {
                let auth = observed
                    .secrets
                    .get(&desired.auth_secret())
                    .and_then(|secret| secrets::password(secret));
                Some(auth.ok_or_else(|| Fault::transient("the Secret with the password is not to be seen yet"))?)
            } else {
                None
            };
            poller.create(create, token).await
        }
        Step::Delete {
            topology,
            id,
            final_snapshot,
        } => poller.delete(*topology, id, final_snapshot.as_deref()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_are_read_in_every_spelling() {
        for (text, phase) in [
            ("available", Phase::Available),
            ("AVAILABLE", Phase::Available),
            ("rebooting cluster nodes", Phase::Rebooting),
            ("create-failed", Phase::Failed("create-failed".to_owned())),
            (
                "incompatible_parameters",
                Phase::Failed("incompatible_parameters".to_owned()),
            ),
            ("incompatible-network", Phase::Failed("incompatible-network".to_owned())),
            ("hibernating", Phase::Unknown("hibernating".to_owned())),
            ("", Phase::Unknown(String::new())),
        ] {
            assert_eq!(Phase::from_status(text), phase);
        }
    }
}
