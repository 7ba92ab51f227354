//! What stands in the cluster for one instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use super::super::users::Credentials;
use super::adopt::Found;
use super::compare::stands_in;
use super::users::Heard;
use super::{Kind, Manifest};

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
    /// Its PodDisruptionBudgets.
    pub budgets: BTreeMap<String, Arc<PodDisruptionBudget>>,
    /// Its PersistentVolumeClaims.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The Pods of its Deployments.
    pub pods: BTreeMap<String, Arc<Pod>>,
    /// The passwords of its users.
    pub credentials: Credentials,
    /// What its Pods say of the users that they have.
    pub heard: Heard,
    /// The versions that its Pods run, by their names, of those that said it.
    pub versions: BTreeMap<String, String>,
    /// What stands under its name, whoever made it; looked for while that is to be taken over.
    pub found: Option<Found>,
}

impl Observed {
    /// Every object that an instance is made of. Pods are not: they come and go with their Deployment.
    pub fn keys(&self) -> BTreeSet<(Kind, String)> {
        fn named<K>(kind: Kind, objects: &BTreeMap<String, K>) -> impl Iterator<Item = (Kind, String)> {
            objects.keys().map(move |name| (kind, name.clone()))
        }
        named(Kind::Deployment, &self.deployments)
            .chain(named(Kind::Service, &self.services))
            .chain(named(Kind::NetworkPolicy, &self.policies))
            .chain(named(Kind::PodDisruptionBudget, &self.budgets))
            .chain(named(Kind::PersistentVolumeClaim, &self.claims))
            .chain(named(Kind::Secret, &self.secrets))
            .collect()
    }

    /// The metadata of an object.
    pub fn metadata(&self, kind: Kind, name: &str) -> Option<&ObjectMeta> {
        match kind {
            Kind::Deployment => self.deployments.get(name).map(|object| &object.metadata),
            Kind::Service => self.services.get(name).map(|object| &object.metadata),
            Kind::NetworkPolicy => self.policies.get(name).map(|object| &object.metadata),
            Kind::PodDisruptionBudget => self.budgets.get(name).map(|object| &object.metadata),
            Kind::PersistentVolumeClaim => self.claims.get(name).map(|object| &object.metadata),
            Kind::Secret => self.secrets.get(name).map(|object| &object.metadata),
        }
    }

    /// Whether an object is being deleted.
    pub fn is_deleting(&self, kind: Kind, name: &str) -> bool {
        self.metadata(kind, name)
            .is_some_and(|metadata| metadata.deletion_timestamp.is_some())
    }

    /// Whether an object belongs to the owner with a uid.
    pub fn is_of(&self, uid: &str, kind: Kind, name: &str) -> bool {
        self.metadata(kind, name).is_some_and(|metadata| is_of(uid, metadata))
    }

    /// Whether an object is as it is to be.
    pub fn has(&self, Manifest { kind, name, body }: &Manifest) -> bool {
        fn value<K: Serialize>(object: Option<&Arc<K>>) -> Option<Value> {
            serde_json::to_value(object?.as_ref()).ok()
        }
        let live = match kind {
            Kind::Deployment => value(self.deployments.get(name)),
            Kind::Service => value(self.services.get(name)),
            Kind::NetworkPolicy => value(self.policies.get(name)),
            Kind::PodDisruptionBudget => value(self.budgets.get(name)),
            Kind::PersistentVolumeClaim => value(self.claims.get(name)),
            Kind::Secret => value(self.secrets.get(name)),
        };
        live.is_some_and(|live| stands_in(body, &live))
    }
}

/// Whether something belongs to the owner with a uid.
pub fn is_of(uid: &str, metadata: &ObjectMeta) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.uid == uid)
}
