//! A cache as ElastiCache describes it.

use std::collections::BTreeSet;

use crate::api::{Endpoint, EngineType, Node, Topology};

/// A replication group or cache cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Whether it is a replication group or a cache cluster.
    pub topology: Topology,
    /// Its id.
    pub id: String,
    /// Its ARN, once it has one.
    pub arn: Option<String>,
    /// Where it is in its life. A group whose members are not all available is not either.
    pub phase: Phase,
    /// Where it takes writes.
    pub endpoint: Option<Endpoint>,
    /// Where its replicas answer reads.
    pub reader_endpoint: Option<Endpoint>,
    /// Its nodes.
    pub nodes: Vec<LiveNode>,
    /// How it is set up.
    pub config: Config,
}

/// A node of a replication group or cache cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveNode {
    /// Its id and address.
    pub node: Node,
    /// The cache cluster it is in.
    pub cluster: String,
    /// Its id in that cluster.
    pub cache_node: String,
    /// Its shard, in a replication group.
    pub shard: Option<String>,
    /// Whether it takes writes; not told of sharded groups.
    pub primary: Option<bool>,
}

/// How a cache is set up. What a reply does not tell is `None`; what waits for ElastiCache's maintenance window counts as
/// done, since asking again would only ask for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The engine.
    pub engine: Option<EngineType>,
    /// The engine's version, in full.
    pub version: Option<String>,
    /// The node type.
    pub node_type: Option<String>,
    /// Nodes of a cache cluster, those that are asked for included.
    pub nodes: Option<usize>,
    /// Whether it has shards.
    pub sharded: bool,
    /// Nodes in several availability zones.
    pub multi_az: bool,
    /// Whether a replica takes over by itself.
    pub failover: bool,
    /// The parameter group.
    pub parameter_group: Option<String>,
    /// The subnet group.
    pub subnet_group: Option<String>,
    /// The security groups.
    pub security_groups: Option<BTreeSet<String>>,
    /// TLS.
    pub tls: Tls,
    /// Encryption at rest.
    pub at_rest: bool,
    /// Whether it asks for a password.
    pub authentication: bool,
    /// When its password was last changed, by ElastiCache's clock; compared with itself alone.
    pub token_changed: Option<String>,
    /// The groups of users that it lets in.
    pub user_groups: BTreeSet<String>,
    /// The weekly maintenance window.
    pub maintenance_window: Option<String>,
    /// The daily snapshot window.
    pub snapshot_window: Option<String>,
    /// Days that daily snapshots are kept.
    pub snapshot_retention: Option<i32>,
    /// Whether something waits for ElastiCache's maintenance window.
    pub pending: bool,
}

/// Whether a cache speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// It does not.
    #[default]
    Off,
    /// It does, and takes clients without too.
    Preferred,
    /// It takes no others.
    Required,
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

    /// The phase of a group one of whose parts is in another. Parts come and go while a group is changed.
    #[must_use]
    pub fn with_part(self, part: &Self) -> Self {
        match (self, part) {
            (Self::Available, Self::Available) => Self::Available,
            (Self::Available, Self::Creating | Self::Deleting) => Self::Modifying,
            (Self::Available, part) => part.clone(),
            (phase, _) => phase,
        }
    }
}

impl Live {
    /// Its nodes, as the status lists them.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.iter().map(|node| node.node.clone()).collect()
    }

    /// The ids of its shards.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.nodes.iter().filter_map(|node| node.shard.as_deref()).collect()
    }

    /// The least and the greatest number of replicas that a shard has.
    pub fn replicas(&self) -> Option<(usize, usize)> {
        let members = |shard: &str| {
            self.nodes
                .iter()
                .filter(|node| node.shard.as_deref() == Some(shard))
                .count()
                .saturating_sub(1)
        };
        let counts: Vec<_> = self.shards().into_iter().map(members).collect();
        Some((*counts.iter().min()?, *counts.iter().max()?))
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

    #[test]
    fn a_group_is_available_only_with_all_its_parts() {
        let available = || Phase::Available;
        assert_eq!(available().with_part(&Phase::Available), Phase::Available);
        assert_eq!(available().with_part(&Phase::Rebooting), Phase::Rebooting);
        assert_eq!(available().with_part(&Phase::Creating), Phase::Modifying);
        assert_eq!(available().with_part(&Phase::Deleting), Phase::Modifying);
        assert_eq!(Phase::Deleting.with_part(&Phase::Available), Phase::Deleting);
    }
}
