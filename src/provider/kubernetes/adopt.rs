//! Taking over a Deployment and the Service that leads to it, which stand under the instance's name and were made by
//! somebody else.
//!
//! They get our labels and an owner, and stay what they are. The Service comes last: once it is ours, all of it is.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::super::objects::{self, timed};
use super::super::{Decision, Desired, Fault, Report};
use super::observed::{Observed, is_of};
use super::workload::workloads;
use super::{Kind, Step};
use crate::api::EngineType;
use crate::api::conditions::{Progress, Reason};

/// What stands under a name, whoever made it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// The Service.
    pub service: Option<Arc<Service>>,
}

/// An object that is to become the instance's.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What makes it so, as a merge patch (RFC 7396) on condition that it is still as it was read.
    pub patch: Value,
}

/// Why what stands under a name cannot be taken over, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// There is no Deployment.
    #[error("there is no Deployment {0}: make it, or delete this instance")]
    NoDeployment(String),
    /// There is no Service.
    #[error("there is no Service {0}, so nobody knows its address: make one that leads to Deployment {0}")]
    NoService(String),
    /// Somebody else's controller looks after it.
    #[error("{kind} {name} belongs to {owner}: take that owner reference away if it may be taken over")]
    Owned {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// It is being deleted.
    #[error("{0} is being deleted")]
    Leaving(String),
    /// The Service does not lead to the Deployment.
    #[error("Service {0} does not lead to the Pods of Deployment {0}: correct its selector")]
    Elsewhere(String),
    /// The Service has none or several ports.
    #[error("Service {0} has not one port but {1}: leave the one of the cache")]
    Ports(String, usize),
    /// It is to have another number of Pods than one.
    #[error("Deployment {0} has {1} Pods and clients would find different data in each: scale it to 1")]
    Pods(String, i32),
    /// It runs something else.
    #[error("Deployment {0} does not look like {1}: neither its container nor its image is called so")]
    OtherEngine(String, EngineType),
}

impl Objection {
    fn reason(&self) -> Reason {
        match self {
            Self::NoDeployment(_) | Self::NoService(_) | Self::Leaving(_) => Reason::ProviderResourceMissing,
            Self::Owned { .. } => Reason::NameConflict,
            Self::Elsewhere(_) | Self::Ports(..) | Self::Pods(..) | Self::OtherEngine(..) => Reason::PlanMismatch,
        }
    }
}

/// Looks at what stands under a name; for `uid` it may be taken over, or was.
///
/// # Errors
/// When it cannot be taken over.
pub fn judge<'a>(
    name: &str,
    engine: EngineType,
    found: &'a Found,
    uid: Option<&str>,
) -> Result<(&'a Deployment, &'a Service), Objection> {
    let own = || name.to_owned();
    let deployment = found
        .deployment
        .as_deref()
        .ok_or_else(|| Objection::NoDeployment(own()))?;
    let service = found.service.as_deref().ok_or_else(|| Objection::NoService(own()))?;
    is_free("Deployment", &deployment.metadata, uid)?;
    is_free("Service", &service.metadata, uid)?;
    let spec = deployment.spec.as_ref();
    let labels = spec.and_then(|spec| spec.selector.match_labels.as_ref());
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if selector.is_none_or(|selector| selector.is_empty() || Some(selector) != labels) {
        return Err(Objection::Elsewhere(own()));
    }
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_ref())
        .map_or(0, Vec::len);
    if ports != 1 {
        return Err(Objection::Ports(own(), ports));
    }
    let pods = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    if pods != 1 {
        return Err(Objection::Pods(own(), pods));
    }
    let containers = spec
        .and_then(|spec| spec.template.spec.as_ref())
        .map(|pod| &pod.containers);
    if containers
        .and_then(|containers| containers.first())
        .is_none_or(|first| !runs(engine, first))
    {
        return Err(Objection::OtherEngine(own(), engine));
    }
    Ok((deployment, service))
}

fn is_free(kind: &'static str, metadata: &ObjectMeta, uid: Option<&str>) -> Result<(), Objection> {
    let name = metadata.name.clone().unwrap_or_default();
    if metadata.deletion_timestamp.is_some() {
        return Err(Objection::Leaving(format!("{kind} {name}")));
    }
    let mut owners = metadata.owner_references.iter().flatten();
    match owners.find(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) != uid) {
        Some(owner) => Err(Objection::Owned {
            kind,
            name,
            owner: format!("{} {}", owner.kind, owner.name),
        }),
        None => Ok(()),
    }
}

fn runs(engine: EngineType, container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let image = image.rsplit('/').next().unwrap_or_default();
    container.name.contains(engine.as_str()) || image.contains(engine.as_str())
}

/// Whether what was to be taken over is ours by now, as far as the watches tell. They must: what follows looks at
/// nothing else.
pub fn is_done(desired: &Desired, observed: &Observed) -> bool {
    observed.is_of(&desired.uid, Kind::Service, &desired.name)
        && workloads(observed, &desired.uid).contains_key(desired.name.as_str())
}

/// What to do next about what is to be taken over and is not ours yet.
pub fn take_over(desired: &Desired, observed: &Observed) -> Decision<Step> {
    let say = |progress, reason, message: String| Report::new(progress, reason, message, desired.record.clone());
    if !desired.took_over_workload() {
        let message = format!(
            "in the cluster an instance takes over the Deployment and Service of its own name: make it anew under the name {}",
            desired.adopt.as_deref().unwrap_or_default()
        );
        return Decision::rest(say(Progress::Stalled, Reason::Unsupported, message));
    }
    let found = observed.found.clone().unwrap_or_default();
    match judge(&desired.name, desired.plan.engine.type_, &found, Some(&desired.uid)) {
        Err(objection) => Decision::rest(say(Progress::Stalled, objection.reason(), objection.to_string())),
        Ok((deployment, service)) => {
            let message = format!("taking over Deployment and Service {}", desired.name);
            let report = say(Progress::Reconciling, Reason::Creating, message);
            let claims: Vec<_> = [
                claim(desired, Kind::Deployment, &deployment.metadata),
                claim(desired, Kind::Service, &service.metadata),
            ]
            .into_iter()
            .flatten()
            .collect();
            if claims.is_empty() {
                // The watches are about to tell.
                Decision::rest(report)
            } else {
                Decision::act(Step::TakeOver(claims), report)
            }
        }
    }
}

/// What makes an object ours; nothing if it is.
fn claim(desired: &Desired, kind: Kind, metadata: &ObjectMeta) -> Option<Claim> {
    let labels = desired.labels();
    let has = |(name, value): (&String, &String)| metadata.labels.as_ref().and_then(|all| all.get(name)) == Some(value);
    if is_of(&desired.uid, metadata) && labels.iter().all(has) {
        return None;
    }
    let ours = objects::metadata(desired, &desired.name);
    let ours = ours
        .get("ownerReferences")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let others = metadata.owner_references.iter().flatten();
    let others = others
        .filter(|owner| owner.uid != desired.uid)
        .map(|owner| json!(owner));
    let owners: Vec<_> = others.chain(ours).collect();
    Some(Claim {
        kind,
        name: desired.name.clone(),
        patch: json!({ "metadata": {
            "resourceVersion": metadata.resource_version,
            "labels": labels,
            "ownerReferences": owners,
        } }),
    })
}

/// Looks for what stands under the instance's name. The watches do not tell of what is not ours.
///
/// # Errors
/// When the API server does not answer.
pub async fn find(client: &Client, desired: &Desired) -> Result<Found, Fault> {
    let name = &desired.name;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &desired.namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), &desired.namespace);
    let what = |kind| format!("looking for {kind} {}/{name}", desired.namespace);
    let deployment = timed(deployments.get_opt(name)).await;
    let service = timed(services.get_opt(name)).await;
    Ok(Found {
        deployment: deployment
            .map_err(|refusal| refusal.fault(&what("Deployment")))?
            .map(Arc::new),
        service: service
            .map_err(|refusal| refusal.fault(&what("Service")))?
            .map(Arc::new),
    })
}

/// The port that a Service answers at.
pub fn port(service: &Service) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    u16::try_from(ports.first()?.port).ok()
}

/// The objects of a list by namespace and name.
pub fn by_name<K: ResourceExt>(
    objects: impl IntoIterator<Item = K>,
) -> impl Iterator<Item = ((String, String), Arc<K>)> {
    objects.into_iter().map(|object| {
        (
            (object.namespace().unwrap_or_default(), object.name_any()),
            Arc::new(object),
        )
    })
}
