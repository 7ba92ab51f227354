//! A cluster for the tests of deciders: what the API server would hold after a step, and what the controllers make of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::provider::kubernetes::adopt::Claim;
use crate::provider::kubernetes::users::USERS_FILE;
use crate::provider::kubernetes::{Kind, Manifest, Observed, Step};
use crate::provider::secrets::{self, SecretStep};
use crate::provider::{Desired, objects};
use crate::wire::{AclUser, SeenUser};

/// An image that cannot be pulled.
pub const BROKEN: &str = "example.org/broken:1";

/// What a cluster holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    pub observed: Observed,
}

fn read<K: DeserializeOwned>(body: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(body.clone()).unwrap())
}

fn matches(pod: &Pod, deployment: &Deployment) -> bool {
    let selector = deployment
        .spec
        .as_ref()
        .unwrap()
        .selector
        .match_labels
        .as_ref()
        .unwrap();
    let labels = pod.metadata.labels.as_ref().unwrap();
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

impl Cluster {
    /// What a step writes. Deployments that are deleted go at the next [`Cluster::tick`].
    pub fn act(&mut self, desired: &Desired, step: &Step) {
        let observed = &mut self.observed;
        match step {
            Step::Apply(manifests) => manifests.iter().for_each(|manifest| self.apply(manifest)),
            Step::Scale(name) => self.edit(name, |deployment| deployment.spec.as_mut().unwrap().replicas = Some(1)),
            Step::Secret(step) => {
                let (name, data) = match step {
                    SecretStep::CreateAuth => {
                        let password = "hunter2".to_owned().into();
                        (desired.auth_secret(), secrets::auth_data(&password))
                    }
                    SecretStep::ApplyAuth(data) => (desired.auth_secret(), data.clone()),
                    SecretStep::ApplyConnection(data) => (desired.connection_secret.clone(), data.clone()),
                    SecretStep::ApplyUsers(data) => (desired.users_secret(), data.clone()),
                    SecretStep::Delete(_) | SecretStep::Disown(_) => panic!("{step:?} is for ElastiCache"),
                };
                let mut secret: Secret =
                    serde_json::from_value(json!({ "metadata": objects::metadata(desired, &name) })).unwrap();
                secret.data = Some(data);
                if name == desired.auth_secret() {
                    let before = observed.secrets.get(&name);
                    let before = before.and_then(|secret| secret.metadata.resource_version.as_ref()?.parse().ok());
                    secret.metadata.resource_version = Some((before.unwrap_or(0_u64) + 1).to_string());
                }
                observed.secrets.insert(name, Arc::new(secret));
            }
            Step::Users { pod, change, .. } => {
                let heard = observed.heard.get_mut(pod).unwrap().as_mut().unwrap();
                for name in &change.remove {
                    heard.remove(name).unwrap();
                }
                let set = change.set.iter().map(|user| (user.name.clone(), SeenUser::from(user)));
                heard.extend(set);
            }
            Step::TakeOver(claims) => claims.iter().for_each(|claim| self.take_over(claim)),
            Step::Delete(objects) => objects.iter().for_each(|(kind, name)| self.delete(*kind, name)),
            Step::Disown(_) => panic!("nothing is let go of here"),
        }
    }

    /// From then on the watches tell of it.
    fn take_over(&mut self, Claim { kind, name, patch }: &Claim) {
        fn patched<K: Serialize + DeserializeOwned>(found: &K, patch: &Value) -> Arc<K> {
            let mut body = serde_json::to_value(found).unwrap();
            let labels = patch["metadata"]["labels"].as_object().unwrap().clone();
            body["metadata"]["labels"].as_object_mut().unwrap().extend(labels);
            body["metadata"]["ownerReferences"] = patch["metadata"]["ownerReferences"].clone();
            Arc::new(serde_json::from_value(body).unwrap())
        }
        let found = self.observed.found.as_mut().unwrap();
        match kind {
            Kind::Deployment => {
                let ours = patched(found.deployment.as_deref().unwrap(), patch);
                found.deployment = Some(Arc::clone(&ours));
                self.observed.deployments.insert(name.clone(), ours);
            }
            Kind::Service => {
                let ours = patched(found.service.as_deref().unwrap(), patch);
                found.service = Some(Arc::clone(&ours));
                self.observed.services.insert(name.clone(), ours);
            }
            other => panic!("{other:?} is not taken over"),
        }
    }

    fn apply(&mut self, Manifest { kind, name, body }: &Manifest) {
        let (observed, name) = (&mut self.observed, name.clone());
        let mut body = body.clone();
        match kind {
            Kind::Deployment => {
                let generation = observed
                    .deployments
                    .get(&name)
                    .and_then(|live| live.metadata.generation);
                body["metadata"]["generation"] = json!(generation.unwrap_or(0) + 1);
                drop(observed.deployments.insert(name, read(&body)));
            }
            Kind::Service => {
                body["spec"]["clusterIP"] = json!("10.0.0.1");
                drop(observed.services.insert(name, read(&body)));
            }
            Kind::PersistentVolumeClaim => drop(observed.claims.insert(name, read(&body))),
            Kind::NetworkPolicy => drop(observed.policies.insert(name, read(&body))),
            Kind::PodDisruptionBudget => drop(observed.budgets.insert(name, read(&body))),
            Kind::Secret => panic!("Secrets are not applied as manifests"),
        }
    }

    pub fn delete(&mut self, kind: Kind, name: &str) {
        let observed = &mut self.observed;
        match kind {
            Kind::Deployment => self.edit(name, |deployment| {
                deployment.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            }),
            Kind::Service => drop(observed.services.remove(name)),
            Kind::NetworkPolicy => drop(observed.policies.remove(name)),
            Kind::PodDisruptionBudget => drop(observed.budgets.remove(name)),
            Kind::PersistentVolumeClaim => drop(observed.claims.remove(name)),
            Kind::Secret => drop(observed.secrets.remove(name)),
        }
    }

    pub fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Deployment)) {
        if let Some(deployment) = self.observed.deployments.get_mut(name) {
            edit(Arc::make_mut(deployment));
        }
    }

    /// The controllers and the kubelet do their work: what is deleted goes, and what can start answers.
    pub fn tick(&mut self) {
        let observed = &mut self.observed;
        observed
            .deployments
            .retain(|_, deployment| deployment.metadata.deletion_timestamp.is_none());
        let deployments = &observed.deployments;
        observed
            .pods
            .retain(|_, pod| deployments.values().any(|deployment| matches(pod, deployment)));
        observed.heard.retain(|name, _| observed.pods.contains_key(name));
        for (name, deployment) in &mut observed.deployments {
            let deployment = Arc::make_mut(deployment);
            let spec = deployment.spec.as_ref().unwrap();
            let pod_spec = spec.template.spec.as_ref().unwrap();
            let image = pod_spec.containers[0].image.clone().unwrap();
            let (wanted, starts) = (spec.replicas.unwrap(), image != BROKEN);
            let available = if starts { wanted } else { 0 };
            let mut status = json!({
                "observedGeneration": deployment.metadata.generation,
                "replicas": wanted, "updatedReplicas": wanted, "availableReplicas": available,
            });
            if available > 0 {
                status["conditions"] =
                    json!([{ "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" }]);
            }
            let state = if starts {
                json!({ "running": {} })
            } else {
                json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } })
            };
            let pod = json!({
                "metadata": { "name": name, "labels": spec.template.metadata.as_ref().unwrap().labels },
                "spec": pod_spec,
                "status": { "podIP": "10.0.1.1", "containerStatuses": [{
                    "name": "c", "image": image, "imageID": "", "ready": starts, "restartCount": 0, "state": state,
                }] },
            });
            deployment.status = Some(serde_json::from_value(status).unwrap());
            if wanted > 0 {
                let volumes = pod_spec.volumes.iter().flatten();
                let mounted = volumes
                    .filter_map(|volume| observed.secrets.get(volume.secret.as_ref()?.secret_name.as_ref()?))
                    .find_map(|secret| secrets::value(secret, USERS_FILE));
                if let (true, Some(file)) = (starts, mounted) {
                    let users = file.lines().filter_map(AclUser::read);
                    let users = users.map(|user| (user.name.clone(), SeenUser::from(&user))).collect();
                    observed.heard.entry(name.clone()).or_insert(Ok(users));
                }
                observed.pods.insert(name.clone(), read(&pod));
            } else {
                observed.pods.remove(name);
            }
        }
    }

    /// The Deployment that answers at each Service.
    pub fn served(&self) -> BTreeMap<String, String> {
        let behind = |selector: &BTreeMap<String, String>| {
            let mut found = self.observed.deployments.iter().filter(|(_, deployment)| {
                deployment.spec.as_ref().unwrap().selector.match_labels.as_ref() == Some(selector)
                    && deployment.metadata.deletion_timestamp.is_none()
                    && deployment
                        .status
                        .as_ref()
                        .is_some_and(|status| status.available_replicas.unwrap_or(0) > 0)
            });
            found.next().map(|(name, _)| name.clone())
        };
        self.observed
            .services
            .iter()
            .filter_map(|(name, service)| {
                let selector = service.spec.as_ref().unwrap().selector.as_ref()?;
                Some((name.clone(), behind(selector)?))
            })
            .collect()
    }

    /// How many Pods each Service leads to.
    pub fn behind(&self) -> Vec<usize> {
        let services = self.observed.services.values();
        services
            .map(|service| {
                let Some(selector) = service.spec.as_ref().unwrap().selector.clone() else {
                    return 0;
                };
                let pods = self.observed.pods.values();
                pods.filter(|pod| {
                    let labels = pod.metadata.labels.as_ref().unwrap();
                    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
                })
                .count()
            })
            .collect()
    }
}
