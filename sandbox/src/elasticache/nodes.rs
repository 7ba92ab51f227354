//! What the pure core wants of the processes: nodes as they shall be, and the steps that get there.

use std::net::Ipv4Addr;

use super::catalog::Engine;

/// Whether clients talk TLS to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Plain only.
    #[default]
    Off,
    /// Plain and TLS on the same port (`TransitEncryptionMode` preferred).
    Preferred,
    /// TLS only.
    Required,
}

/// One user of a Redis node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Whom a client authenticates as.
    pub name: String,
    /// Passwords; none means none is needed.
    pub passwords: Vec<String>,
    /// What the user may do, in the engine's own words.
    pub access: String,
}

/// A node as it shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Identifies it for its whole life.
    pub key: u64,
    /// For people: cluster and node id.
    pub name: String,
    /// Which program it is.
    pub engine: Engine,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// On which port.
    pub port: u16,
    /// Its memory limit.
    pub mib: u32,
    /// Its encryption.
    pub tls: Tls,
    /// Who may use it; empty means everyone.
    pub users: Vec<Acl>,
    /// The primary it follows.
    pub replica_of: Option<(Ipv4Addr, u16)>,
    /// The snapshot file its data come from when it starts.
    pub restore: Option<u64>,
    /// Whether it is part of a sharded group.
    pub sharded: bool,
}

/// Slots from the first to the last, both included.
pub type Slots = (u16, u16);

/// One shard of a sharded group as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Which slots it serves.
    pub slots: Vec<Slots>,
    /// Its primary.
    pub primary: u64,
    /// The others.
    pub replicas: Vec<u64>,
}

/// One thing to do to the processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start the node, or bring the running one to this state without losing data.
    Run(NodeSpec),
    /// End the node and start it with an empty cache.
    Restart(NodeSpec),
    /// End the node and forget its data.
    Stop(u64),
    /// Save a node's data to a snapshot file.
    Save {
        /// The node.
        node: u64,
        /// The file.
        file: u64,
    },
    /// Copy a snapshot file.
    Copy {
        /// The source.
        from: u64,
        /// The copy.
        to: u64,
    },
    /// Remove a snapshot file.
    Remove(u64),
    /// Join running nodes to a sharded group and move slots until each shard serves what it shall, and the nodes that
    /// leave nothing.
    Shard {
        /// The shards as they shall be.
        shards: Vec<ShardSpec>,
        /// Nodes that leave; they still run.
        leaving: Vec<u64>,
    },
}

/// Steps that are done one after the other; the first that fails ends the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// To be given back with the result.
    pub id: u64,
    /// What to do.
    pub steps: Vec<Step>,
}
