//! The custom resources of group `cache.akkeris.io`: what may be ordered ([`CachePlan`]), what was ordered
//! ([`CacheInstance`]), and snapshots of it ([`CacheBackup`]).
//!
//! This room holds types, their validation rules and the words that users read in conditions. It calls nobody.

mod backup;
#[cfg(test)]
mod cel_tests;
pub mod conditions;
mod connection;
mod crds;
mod engine;
mod forecast;
mod instance;
mod memory;
mod parameters;
mod password;
mod plan;
mod resource_version;
mod schema;

pub use backup::{BackupDeletionPolicy, CacheBackup, CacheBackupSpec, CacheBackupStatus};
pub use connection::Connection;
pub use crds::{manifests, write_manifests};
pub use engine::{Engine, EngineType, Namespaces};
pub use forecast::{Difference, Effect, Order, as_it_runs, compare_versions, forecast, worst};
pub use instance::{
    Adopt, CacheInstance, CacheInstanceSpec, CacheInstanceStatus, Endpoint, LastBackup, LocalRef, Node, Owner,
    PasswordStage, PasswordStatus, PlanRef, PlanStatus, ProviderTags, Replacement, RestartStatus, Restore,
    RunningEngine, Superseded, User, UserStatus,
};
pub use memory::{Memory, MemoryError};
pub use parameters::{BindingSchema, Parameter, ParameterType, ParametersError, Schema, effective};
pub use password::generate_password;
pub use plan::{
    AllowedFrom, Authentication, BindingCredentials, CachePlan, CachePlanSpec, CachePlanStatus, DeletionPolicy,
    ElastiCacheSpec, EvictionPolicy, KubernetesSpec, Persistence, PlanState, PoolStatus, Price, ProviderKind,
    ProviderSpec, Topology,
};
pub use resource_version::is_later;

/// The API group.
pub const GROUP: &str = "cache.akkeris.io";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// Holds an instance until its provider has let go of everything made for it.
pub const FINALIZER: &str = "cache.akkeris.io/finalizer";

/// Annotations that carry meaning between rooms, or from users.
pub mod annotations {
    /// `"true"` stops all changes to an instance.
    pub const PAUSED: &str = "cache.akkeris.io/paused";
    /// Moves an instance to a revision of its plan.
    pub const UPDATE_TO_REVISION: &str = "cache.akkeris.io/update-to-revision";
    /// Allows changes that lose data at any time: `"true"`, or the generation of the one spec it is meant for.
    pub const APPROVE_DISRUPTION: &str = "cache.akkeris.io/approve-disruption";
    /// `"true"` has a cache whose place another one took deleted before its time of grace is over.
    pub const RELEASE_SUPERSEDED: &str = "cache.akkeris.io/release-superseded";
    /// The old broker's provider of a plan that was imported from it.
    pub const IMPORTED: &str = "cache.akkeris.io/imported-from";
    /// Has a cache made anew that is gone from its provider: `"true"`, or the generation of the one spec it is meant for.
    pub const RECREATE: &str = "cache.akkeris.io/recreate";
    /// The OSB instance id behind a resource; absent where a resource was not ordered over OSB.
    pub const INSTANCE_ID: &str = "cache.akkeris.io/instance-id";
    /// The ledger revision that a resource's spec was last written from.
    pub const LEDGER_REVISION: &str = "cache.akkeris.io/ledger-revision";
    /// A digest of what the ledger wrote into a resource's spec: it tells whether somebody else changed it since.
    pub const LEDGER_SPEC: &str = "cache.akkeris.io/ledger-spec";
    /// `"true"` lets an instance that was ordered over OSB go when it is deleted. A deprovision sets it; without it a
    /// deletion is held, since the platform still has the instance.
    pub const APPROVE_DELETION: &str = "cache.akkeris.io/approve-deletion";
    /// The operation that a resource was last written for, or that a backup was made by; absent where it was not asked for
    /// over OSB.
    pub const OPERATION_ID: &str = "cache.akkeris.io/operation-id";
    /// The platform's id of the request that the resource was last written for (OSB 2.17, "Request Identity").
    pub const REQUEST_IDENTITY: &str = "cache.akkeris.io/request-identity";
    /// The platform and its user behind that request (OSB 2.17, "Originating Identity").
    pub const ORIGINATING_IDENTITY: &str = "cache.akkeris.io/originating-identity";
    /// The desired state that an object was last applied from, as a digest; spares writes that change nothing.
    pub const APPLIED_DIGEST: &str = "cache.akkeris.io/applied-digest";
    /// The version of the rendering that a Deployment was made by.
    pub const TEMPLATE: &str = "cache.akkeris.io/template";
    /// The `restartAt` that a Deployment was made after.
    pub const RESTARTED_AT: &str = "cache.akkeris.io/restarted-at";
    /// `"true"` on a Deployment that only tries whether a Pod starts, and never serves.
    pub const TRIAL: &str = "cache.akkeris.io/trial";
}

/// Labels on everything that is made for an instance.
pub mod labels {
    /// The well-known label that says which tool manages an object.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The value of [`MANAGED_BY`] on our objects.
    pub const MANAGER: &str = "cache-broker";
    /// The well-known label for the instance of an application.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// The well-known label for an application's name; the engine here.
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The plan an instance was ordered from.
    pub const PLAN: &str = "cache.akkeris.io/plan";
    /// The plan in whose pool an instance waits to be handed out.
    pub const POOL: &str = "cache.akkeris.io/pool";
    /// The node of a cache that a Deployment is, or is to become.
    pub const NODE: &str = "cache.akkeris.io/node";
    /// The user of a cache whose password a Secret holds.
    pub const USER: &str = "cache.akkeris.io/user";
    /// Which of a node's Deployments a Pod is of: a digest of what it was made from.
    pub const WORKLOAD: &str = "cache.akkeris.io/workload";
}
