//! What an instance's status keeps about its caches in the providers. It is written before the call that makes it true.

use jiff::Timestamp;

use super::elasticache::{Tagged, Target};
use super::users::UserRecord;
use crate::api::ProviderKind;

/// A cache in a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Objects in the cluster, named after their instance.
    Kubernetes,
    /// A replication group or cache cluster.
    ElastiCache(Cluster),
}

/// A replication group or cache cluster of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Which of them, and its id.
    pub target: Target,
    /// The provider's own name for it, once it was proven ours.
    pub arn: Option<String>,
    /// How many the instance had before.
    pub generation: u32,
    /// What is known of the tags that were put on it.
    pub tagged: Tagged,
}

/// A cache whose place another one took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The cache.
    pub place: Place,
    /// Since when the other one serves.
    pub since: Timestamp,
    /// When it is deleted at the latest.
    pub until: Timestamp,
}

/// A restart that goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The `restartAt` that asked for it.
    pub requested: Timestamp,
    /// Nodes that answered again.
    pub done: Vec<String>,
    /// The node that is being restarted.
    pub current: Option<RestartingNode>,
}

/// A node that is being restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartingNode {
    /// Its id in the provider.
    pub id: String,
    /// Whether the provider was seen to restart it.
    pub seen: bool,
}

/// How far the password of a replication group is; of a redis in the cluster, which one it was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The `resourceVersion` of the Secret with it.
    pub secret_version: String,
    /// How far it is.
    pub stage: TokenStage,
}

/// How far a password is. `before` is when ElastiCache says the password was last changed, as it was when the next
/// change was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenStage {
    /// ElastiCache is asked to let it in.
    Adding {
        /// See above.
        before: Option<String>,
    },
    /// It is let in, and so is who shows the one before, or none.
    Both {
        /// Since when.
        since: Timestamp,
    },
    /// ElastiCache is asked to let in nobody else.
    Setting {
        /// See above.
        before: Option<String>,
    },
    /// Nobody else is let in.
    Alone,
}

/// What an instance's status keeps about its caches in the providers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The cache that serves, or is to serve first.
    pub serving: Option<Place>,
    /// The cache that is being made to take its place.
    pub replacement: Option<Place>,
    /// Caches whose place was taken and which are not deleted yet.
    pub superseded: Vec<Superseded>,
    /// The restart that is going on.
    pub restart: Option<Restart>,
    /// The last `restartAt` that was done.
    pub restarted_at: Option<Timestamp>,
    /// The name of the backup that the serving cache was filled from.
    pub restored_from: Option<String>,
    /// The users that its caches have, or may have.
    pub users: Vec<UserRecord>,
    /// The user group that they are in on ElastiCache.
    pub user_group: Option<String>,
    /// The password of the replication group that serves.
    pub token: Option<Token>,
    /// Since when the provider answers with a state that is not known.
    pub unknown_since: Option<Timestamp>,
}

impl Place {
    /// Whose it is.
    pub fn provider(&self) -> ProviderKind {
        match self {
            Self::Kubernetes => ProviderKind::Kubernetes,
            Self::ElastiCache(_) => ProviderKind::ElastiCache,
        }
    }

    /// The replication group or cache cluster, if it is one.
    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Kubernetes => None,
            Self::ElastiCache(cluster) => Some(cluster),
        }
    }
}

impl Record {
    /// The replication group or cache cluster that serves.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.serving.as_ref()?.cluster()
    }

    /// Every replication group or cache cluster that stands in it.
    pub fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.serving
            .iter()
            .chain(&self.replacement)
            .chain(self.superseded.iter().map(|superseded| &superseded.place))
            .filter_map(Place::cluster)
    }

    /// The highest generation of a replication group or cache cluster that stands in it.
    pub fn newest_generation(&self) -> Option<u32> {
        self.clusters().map(|cluster| cluster.generation).max()
    }
}
