use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The software that serves a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineType {
    /// memcached: no persistence, no users, no replicas.
    Memcached,
    /// Redis OSS.
    Redis,
    /// Valkey, which speaks the redis protocol.
    Valkey,
}

impl EngineType {
    /// Its lower-case name, as ElastiCache, the resources and the connection Secret spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memcached => "memcached",
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }

    /// The port it listens on when nothing else is said.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Memcached => 11211,
            Self::Redis | Self::Valkey => 6379,
        }
    }

    /// Whether it speaks the redis protocol.
    pub fn is_redis_like(self) -> bool {
        matches!(self, Self::Redis | Self::Valkey)
    }
}

impl fmt::Display for EngineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An engine and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Engine {
    /// Which engine. It cannot change: order a new plan instead.
    #[serde(rename = "type")]
    pub type_: EngineType,
    /// Its version as the provider spells it: `7.1` on ElastiCache, an image tag in the cluster.
    #[schemars(length(max = 64), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub version: String,
}
