//! Caches in the cluster: for each node a Deployment of one Pod and a ClusterIP Service, a NetworkPolicy, and Secrets.
//!
//! Several nodes never stand behind one Service: memcached clients spread keys themselves, and a Service would send one
//! key to different nodes.

mod act;
mod compare;
mod decide;
mod manifests;
mod stores;

pub use act::act;
pub use decide::{decide, remove};
pub use stores::{Children, Scope, Stores};

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use super::secrets::SecretStep;
use crate::settings::ServiceHost;

/// Settings that decide what is made and published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which host of a Service is published.
    pub service_host: ServiceHost,
    /// The domain of the cluster's Services.
    pub cluster_domain: String,
}

/// What stands in the cluster for one instance, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its Secrets.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Its Deployments.
    pub deployments: BTreeMap<String, Arc<Deployment>>,
    /// Its Services.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Its NetworkPolicies.
    pub policies: BTreeMap<String, Arc<NetworkPolicy>>,
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
    /// Applies objects that are missing or differ.
    Apply(Vec<Manifest>),
    /// Deletes objects that are not wanted any more.
    Delete(Vec<(Kind, String)>),
    /// Takes our owner references off objects, so that they outlive the instance.
    Disown(Vec<(Kind, String)>),
}
