//! Caches on AWS ElastiCache: a replication group for redis and valkey, a cache cluster for memcached and for a bare
//! redis node.

mod access;
mod client;
mod decide;
mod events;
#[cfg(test)]
pub(super) mod fixtures;
mod id;
mod lifecycle;
mod live;
mod make;
mod observe;
mod password;
mod plan;
mod poller;
mod remove;
mod restart;
mod seed;
mod settled;
mod tags;
mod view;

pub use access::{Access, AccessStep, NewUser, UserGroup, UserPhase, asked_users, group_id, may_have_users, user_id};
pub use client::{Client, Found, FoundKind, FoundOwner, Limits, Snapshot, SnapshotState};
pub use decide::present;
pub use events::{Occurrence, is_trouble};
pub use id::provider_id;
pub use live::{Config, Live, LiveNode, Phase, Tls};
pub use observe::observe;
pub use plan::{Modification, Settings, TokenStrategy};
pub use poller::{Ears, Poller, Target};
pub use remove::remove;
pub use seed::{can_seed, seed_name};
pub use settled::must_replace;
pub use tags::{Tagged, Tags};
pub use view::LANDS;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;

use super::kubernetes::Stores;
use super::secrets::SecretStep;
use super::users::{self, Credentials};
use super::{Cluster, Desired, Done, ElastiCache, Fault, backups};
use crate::api::{EngineType, Topology};

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
/// The value of that tag on a cache that was let go: whoever asks may take it over.
pub const RELEASED: &str = "released";

/// Whose a cache is, as its tags tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The tags name our instance.
    Ours,
    /// The tags name another instance.
    Foreign,
    /// The tags can be read and name no instance, or say that it was let go.
    Unowned,
    /// The tags cannot be read now; the API refuses while a cache is busy.
    Unreadable,
}

/// What was observed for one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Where it is, or is to be.
    pub place: Cluster,
    /// The cache; `None` only if a Describe by id did not find it.
    pub live: Option<Live>,
    /// For how long one that is not there may still appear, since it was, or may have been, asked for a moment ago. Known only
    /// of what does not serve.
    pub may_appear: Option<Duration>,
    /// Whose it is.
    pub ownership: Ownership,
    /// Its tags, where they had to be read and could be.
    pub tags: Option<Tags>,
    /// Why it failed, by the provider's events.
    pub failure: Option<String>,
    /// The versions that can be ordered, once the API was asked.
    pub offered: Option<Arc<lifecycle::Offered>>,
    /// The instance's Secrets, by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// What there is of its users, if it has or may have some.
    pub access: Option<Access>,
    /// The passwords of its users.
    pub credentials: Credentials,
}

/// What can be done on ElastiCache.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes one of the instance's Secrets.
    Secret(SecretStep),
    /// Makes, changes or deletes users and the group they are in.
    Users(AccessStep),
    /// `CreateReplicationGroup` or `CreateCacheCluster`.
    Create(Box<Create>),
    /// Changes a cache in place.
    Modify(Target, Modification),
    /// `ModifyReplicationGroup` with the password: lets it in beside the one before, or alone.
    Token {
        /// The replication group.
        target: Target,
        /// How.
        strategy: TokenStrategy,
        /// When ElastiCache said that the password was last changed. Once it says otherwise nothing is asked for.
        before: Option<String>,
    },
    /// `RebootCacheCluster` of one node.
    Reboot(Target, Box<LiveNode>),
    /// Writes tags, which say whose a cache is and for whom.
    Tag {
        /// The cache's ARN.
        arn: String,
        /// The tags to write.
        tags: Tags,
    },
    /// `CreateSnapshot`: of a cache whose place another one takes, to fill that from.
    TakeSeed {
        /// The snapshot's name.
        name: String,
        /// What it is taken of.
        of: Target,
    },
    /// `DeleteSnapshot`: of such a snapshot.
    DropSeed {
        /// The snapshot's name.
        name: String,
    },
    /// Takes tags away.
    Untag {
        /// The cache's ARN.
        arn: String,
        /// Their keys.
        keys: Vec<String>,
    },
    /// Tags a cache that is let go as nobody's, once its tags can be read and do not say that it is somebody else's.
    Release {
        /// The cache's ARN.
        arn: String,
    },
    /// `DeleteReplicationGroup` or `DeleteCacheCluster`.
    Delete {
        /// The cache.
        target: Target,
        /// The snapshot to leave behind, which a `CacheBackup` records.
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
    /// The port.
    pub port: u16,
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
    /// The group of users that it lets in.
    pub user_group: Option<String>,
    /// Encryption at rest.
    pub at_rest_encryption: Option<bool>,
    /// Weekly maintenance window.
    pub maintenance_window: Option<String>,
    /// Daily snapshot window.
    pub snapshot_window: Option<String>,
    /// Days that snapshots are kept.
    pub snapshot_retention_days: Option<i32>,
    /// The snapshot to fill it from.
    pub snapshot: Option<String>,
    /// Tags, ours among them.
    pub tags: BTreeMap<String, String>,
}

/// Does one step on ElastiCache.
///
/// # Errors
/// When a call cannot be made, or is refused.
pub async fn act(
    kube: &kube::Client,
    stores: &Stores,
    ElastiCache { poller, defaults }: &ElastiCache,
    desired: &Desired,
    step: &Step,
) -> Result<Done, Fault> {
    let token = || {
        let secrets = stores.secrets_of(&desired.namespace, &desired.name)?;
        let auth = secrets.get(&desired.auth_secret());
        let password = auth.and_then(|secret| super::secrets::password(secret));
        password.ok_or_else(|| Fault::transient("the Secret with the password is not to be seen yet"))
    };
    match step {
        Step::Secret(step) => return super::secrets::act(kube, stores, desired, step).await,
        Step::Users(step) => {
            let group = group_id(defaults, desired);
            let outcome = change_users(kube, poller.client(), &group, desired, step).await;
            poller.users_changed(&group);
            outcome
        }
        Step::Create(create) => {
            let token = create.authentication.then(token).transpose()?;
            poller.create(create, token).await
        }
        Step::Token {
            target,
            strategy,
            before,
        } => poller.set_token(target, token()?, *strategy, before.as_ref()).await,
        Step::Modify(target, modification) => poller.modify(target, modification).await,
        Step::Reboot(target, node) => poller.reboot(target, node).await,
        Step::Tag { arn, tags } => poller.tagged(arn, poller.client().tag(arn, tags).await),
        Step::Untag { arn, keys } => poller.tagged(arn, poller.client().untag(arn, keys).await),
        Step::TakeSeed { name, of } => poller.take_snapshot(name, of).await,
        Step::DropSeed { name } => poller.client().delete_snapshot(name).await,
        Step::Release { arn } => poller.release(arn, &desired.uid).await,
        Step::Delete { target, final_snapshot } => {
            if let Some(snapshot) = final_snapshot {
                backups::record_final(kube, desired, snapshot).await?;
            }
            poller.delete(target, final_snapshot.as_deref()).await
        }
    }
    .map(|()| Done::Later(Duration::ZERO))
}

async fn change_users(
    kube: &kube::Client,
    client: &Client,
    group: &str,
    desired: &Desired,
    step: &AccessStep,
) -> Result<(), Fault> {
    match step {
        AccessStep::CreateUsers(new) => {
            for user in new {
                let password = users::password(kube, desired, &user.secret).await?;
                client.create_user(user, &password, &desired.uid).await?;
            }
            Ok(())
        }
        AccessStep::DeleteUsers(ids) => {
            for id in ids {
                client.delete_user(id).await?;
            }
            Ok(())
        }
        AccessStep::CreateGroup { engine, users } => {
            client.create_user_group(group, *engine, users, &desired.uid).await
        }
        AccessStep::AddUsers(ids) => client.add_users(group, ids).await,
        AccessStep::DeleteGroup => client.delete_user_group(group).await,
    }
}
