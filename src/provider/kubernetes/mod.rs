//! Caches in the cluster: for each node a Deployment of one Pod and a ClusterIP Service, a NetworkPolicy, and Secrets.
//!
//! Several nodes never stand behind one Service: memcached clients spread keys themselves, and a Service would send one
//! key to different nodes.
//!
//! A Pod is never changed where it stands. What is made from other inputs is another Deployment, beside the old one; when
//! it answers, the Service turns to it, and then the old one goes. Where a volume can be with one Pod only, a Deployment
//! without it tries first whether a Pod starts; then the old one goes before the new one comes.

mod act;
pub mod adopt;
mod compare;
mod decide;
mod held;
mod inputs;
mod instance;
mod legacy;
mod manifests;
mod node;
mod observed;
mod running;
mod sizing;
mod stores;
mod template;
mod users;
mod workload;

pub use act::act;
pub use decide::{decide, remove};
pub use observed::Observed;
pub use running::Versions;
pub use stores::{Children, PAGE, Scope, Stores};
pub use users::ask;

use serde_json::Value;

use super::secrets::SecretStep;
use crate::settings::ServiceHost;
use crate::wire::AclChange;

/// Whether a plan's numbers make a cache.
///
/// # Errors
/// Why they do not, and what to do.
pub fn can_be_made(engine: crate::api::EngineType, spec: &crate::api::KubernetesSpec) -> Result<(), String> {
    let sized = sizing::item_memory(engine, spec).map(drop);
    sized.map_err(|impossible| impossible.to_string())
}

/// Settings that decide what is made and published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which host of a Service is published.
    pub service_host: ServiceHost,
    /// The domain of the cluster's Services.
    pub cluster_domain: String,
    /// The operator's own namespace, from where Pods are told of users.
    pub operator_namespace: String,
}

/// The kinds of objects that an instance is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `apps/v1` Deployment
    Deployment,
    /// `v1` Service
    Service,
    /// `networking.k8s.io/v1` NetworkPolicy
    NetworkPolicy,
    /// `policy/v1` PodDisruptionBudget
    PodDisruptionBudget,
    /// `v1` PersistentVolumeClaim
    PersistentVolumeClaim,
    /// `v1` Secret
    Secret,
}

/// An object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it.
    pub body: Value,
}

/// What can be done in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes one of the instance's Secrets.
    Secret(SecretStep),
    /// Makes what stands under the instance's name the instance's, and changes nothing else of it.
    TakeOver(Vec<adopt::Claim>),
    /// Applies objects that are missing or differ.
    Apply(Vec<Manifest>),
    /// Gives a Deployment of another template its one Pod again, and changes nothing else of it.
    Scale(String),
    /// Has a Pod that runs change its users.
    Users {
        /// Its name.
        pod: String,
        /// Where it answers, as `host:port`.
        address: String,
        /// What it is to change.
        change: AclChange,
    },
    /// Deletes objects that are not wanted any more.
    Delete(Vec<(Kind, String)>),
    /// Takes our owner references off objects, so that they outlive the instance.
    Disown(Vec<(Kind, String)>),
}
