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

    /// The engine of that [name](Self::as_str).
    pub fn named(name: &str) -> Option<Self> {
        [Self::Memcached, Self::Redis, Self::Valkey]
            .into_iter()
            .find(|engine| engine.as_str() == name)
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

impl Engine {
    /// The user that the one password of a cache belongs to: `default` since redis 6. It stands in URIs because
    /// redis-cli takes an empty user at its word, and is refused.
    pub fn default_user(&self) -> Option<&'static str> {
        let digits = self.version.split(|c: char| !c.is_ascii_digit()).next();
        let before_users = digits
            .and_then(|major| major.parse::<u32>().ok())
            .is_some_and(|major| major < 6);
        (self.type_.is_redis_like() && !before_users).then_some("default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_belongs_to_a_user_where_there_are_users() {
        let user = |type_, version: &str| {
            let version = version.to_owned();
            Engine { type_, version }.default_user()
        };
        for version in ["6.2", "7.1", "8.10.2", "8-alpine", "latest", "10"] {
            assert_eq!(user(EngineType::Redis, version), Some("default"), "{version}");
        }
        assert_eq!(user(EngineType::Valkey, "8.0"), Some("default"));
        assert_eq!(user(EngineType::Redis, "5.0.6"), None);
        assert_eq!(user(EngineType::Memcached, "1.6.45"), None);
    }
}
