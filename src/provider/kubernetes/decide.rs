use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use super::super::{Decision, Desired, Existence, Report};
use super::compare::stands_in;
use super::manifests::{self, Impossible};
use super::{Kind, Manifest, Observed, Placement, Step};
use crate::api::conditions::{Progress, Reason};
use crate::api::{Connection, DeletionPolicy, Endpoint, KubernetesSpec, Node, ProviderKind};
use crate::provider::Place;
use crate::provider::secrets::{self, SecretStep};
use crate::settings::ServiceHost;

/// What to do next for an instance in the cluster.
pub fn decide(
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
    now: Timestamp,
) -> Decision<Step> {
    match desired.existence {
        Existence::Present => present(desired, spec, placement, observed, now),
        Existence::Absent(_) | Existence::Superseded => remove(desired, observed),
    }
}

/// What to do next about a cache in the cluster that is to go.
pub fn remove(desired: &Desired, observed: &Observed) -> Decision<Step> {
    match desired.existence {
        Existence::Absent(policy) => absent(desired, policy, observed),
        // The connection Secret is that of the cache that took its place.
        Existence::Present | Existence::Superseded => {
            absent(desired, DeletionPolicy::Delete, &without_secrets(observed))
        }
    }
}

fn report(desired: &Desired, progress: Progress, reason: Reason, message: impl Into<String>) -> Report {
    let mut record = desired.record.clone();
    record.serving = Some(Place::Kubernetes);
    Report::new(progress, reason, message, record)
}

fn present(
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
    _now: Timestamp,
) -> Decision<Step> {
    let wanted = match manifests::manifests(desired, spec) {
        Ok(wanted) => wanted,
        Err(impossible) => return Decision::rest(stalled(desired, spec, placement, observed, &impossible)),
    };
    let working = |message: &str| {
        let reason = if desired.was_ready {
            Reason::Updating
        } else {
            Reason::Creating
        };
        connected(
            report(desired, Progress::Reconciling, reason, message),
            desired,
            spec,
            placement,
            observed,
        )
    };
    let engine = desired.plan.engine.type_;
    let password = observed
        .secrets
        .get(&desired.auth_secret())
        .and_then(|secret| secrets::password(secret));
    if engine.is_redis_like() && password.is_none() {
        return Decision::act(Step::Secret(SecretStep::CreateAuth), working("making the password"));
    }
    let differing: Vec<_> = wanted
        .iter()
        .filter(|manifest| !stands(manifest, observed))
        .cloned()
        .collect();
    if !differing.is_empty() {
        return Decision::act(Step::Apply(differing), working("making the Deployment and Service"));
    }
    let surplus = surplus(&wanted, observed);
    if !surplus.is_empty() {
        return Decision::act(
            Step::Delete(surplus),
            working("removing nodes that are not wanted any more"),
        );
    }
    for node in manifests::node_names(desired, spec) {
        let Some(deployment) = observed.deployments.get(&node) else {
            continue;
        };
        if let Some(why) = unavailable(deployment) {
            let message = format!("Deployment {node}: {why}");
            return Decision::rest(if desired.was_ready {
                let mut report = working(&message);
                report.reason = if rolled_out(deployment) {
                    Reason::Unavailable
                } else {
                    Reason::Updating
                };
                report
            } else {
                working(&message)
            });
        }
    }
    let Some(endpoints) = endpoints(desired, spec, placement, observed) else {
        return Decision::rest(working("waiting for the Service to get its address"));
    };
    let Some(first) = endpoints.first() else {
        return Decision::rest(working("waiting for the Service to get its address"));
    };
    let connection = Connection {
        engine,
        provider: ProviderKind::Kubernetes,
        host: first.host.clone(),
        port: first.port,
        tls: false,
        username: desired.plan.engine.default_user().map(str::to_owned),
        password,
        nodes: endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
    };
    if let Some(step) = secrets::connection_step(desired, &observed.secrets, &connection) {
        return Decision::act(Step::Secret(step), working("writing the connection Secret"));
    }
    let mut report = connected(
        report(
            desired,
            Progress::Ready,
            Reason::Available,
            format!("{engine} answers at {}", first.address),
        ),
        desired,
        spec,
        placement,
        observed,
    );
    report.bound = true;
    Decision::rest(report)
}

fn without_secrets(observed: &Observed) -> Observed {
    Observed {
        secrets: BTreeMap::new(),
        ..observed.clone()
    }
}

fn absent(desired: &Desired, policy: DeletionPolicy, observed: &Observed) -> Decision<Step> {
    let deleting = |message: String| report(desired, Progress::Reconciling, Reason::Deleting, message);
    let objects: Vec<_> = keys(observed).into_iter().collect();
    if objects.is_empty() {
        return Decision::release(deleting("nothing is left".to_owned()));
    }
    if policy == DeletionPolicy::Retain && desired.was_ready {
        let owned: Vec<_> = objects
            .into_iter()
            .filter(|(kind, name)| is_owned(desired, observed, *kind, name))
            .collect();
        return if owned.is_empty() {
            Decision::release(deleting("everything is left as it stands".to_owned()))
        } else {
            Decision::act(
                Step::Disown(owned),
                deleting("letting go of what is to be kept".to_owned()),
            )
        };
    }
    let standing: Vec<_> = objects
        .iter()
        .filter(|(kind, name)| !is_deleting(observed, *kind, name))
        .cloned()
        .collect();
    let names: Vec<_> = objects
        .iter()
        .map(|(kind, name)| format!("{} {name}", kind.as_str()))
        .collect();
    let report = deleting(format!("waiting for the end of {}", names.join(", ")));
    if standing.is_empty() {
        Decision::rest(report)
    } else {
        Decision::act(Step::Delete(standing), report)
    }
}

fn stalled(
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
    impossible: &Impossible,
) -> Report {
    let report = report(
        desired,
        Progress::Stalled,
        Reason::ProviderRefused,
        impossible.to_string(),
    );
    connected(report, desired, spec, placement, observed)
}

/// The report with the addresses that are known.
fn connected(
    mut report: Report,
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
) -> Report {
    if let Some(endpoints) = endpoints(desired, spec, placement, observed) {
        report.nodes = manifests::node_names(desired, spec)
            .into_iter()
            .zip(&endpoints)
            .map(|(id, endpoint)| Node {
                id,
                host: Some(endpoint.host.clone()),
                port: Some(endpoint.port),
            })
            .collect();
        report.endpoint = endpoints.into_iter().next();
    }
    report.bound = desired.was_ready && observed.secrets.contains_key(&desired.connection_secret);
    report
}

/// Where each node answers; `None` until all have an address.
fn endpoints(
    desired: &Desired,
    spec: &KubernetesSpec,
    placement: &Placement,
    observed: &Observed,
) -> Option<Vec<Endpoint>> {
    let port = desired.plan.engine.type_.default_port();
    manifests::node_names(desired, spec)
        .into_iter()
        .map(|node| {
            let service = observed.services.get(&node)?;
            let address = service
                .spec
                .as_ref()?
                .cluster_ip
                .clone()
                .filter(|address| !address.is_empty())?;
            let host = match placement.service_host {
                ServiceHost::ClusterIp => address,
                ServiceHost::Dns => format!("{node}.{}.svc.{}", desired.namespace, placement.cluster_domain),
            };
            Some(Endpoint::new(host, port, false))
        })
        .collect()
}

/// Why a Deployment's Pod does not answer; `None` if it does.
fn unavailable(deployment: &Deployment) -> Option<String> {
    let status = deployment.status.as_ref();
    if !rolled_out(deployment) {
        let why = status
            .and_then(|status| status.conditions.as_ref())
            .and_then(|conditions| conditions.iter().find(|condition| condition.status == "False"))
            .and_then(|condition| condition.message.clone());
        return Some(why.unwrap_or_else(|| "waiting for its Pod to answer".to_owned()));
    }
    let available = status.and_then(|status| status.available_replicas).unwrap_or(0);
    (available < 1).then(|| "its Pod does not answer".to_owned())
}

fn rolled_out(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= 1
        && status.replicas == status.updated_replicas
}

fn stands(manifest: &Manifest, observed: &Observed) -> bool {
    let live = match manifest.kind {
        Kind::Deployment => observed
            .deployments
            .get(&manifest.name)
            .map(|live| serde_json::to_value(live.as_ref())),
        Kind::Service => observed
            .services
            .get(&manifest.name)
            .map(|live| serde_json::to_value(live.as_ref())),
        Kind::NetworkPolicy => observed
            .policies
            .get(&manifest.name)
            .map(|live| serde_json::to_value(live.as_ref())),
        Kind::Secret => observed
            .secrets
            .get(&manifest.name)
            .map(|live| serde_json::to_value(live.as_ref())),
    };
    let mut body = manifest.body.clone();
    // Typed objects carry neither.
    if let Value::Object(body) = &mut body {
        body.remove("apiVersion");
        body.remove("kind");
    }
    matches!(live, Some(Ok(live)) if stands_in(&body, &live))
}

fn surplus(wanted: &[Manifest], observed: &Observed) -> Vec<(Kind, String)> {
    let wanted: BTreeSet<_> = wanted
        .iter()
        .map(|manifest| (manifest.kind, manifest.name.clone()))
        .collect();
    keys(observed)
        .into_iter()
        .filter(|key| key.0 != Kind::Secret && !wanted.contains(key) && !is_deleting(observed, key.0, &key.1))
        .collect()
}

fn keys(observed: &Observed) -> BTreeSet<(Kind, String)> {
    let named = |kind: Kind, names: Vec<&String>| {
        names
            .into_iter()
            .map(move |name| (kind, name.clone()))
            .collect::<Vec<_>>()
    };
    [
        named(Kind::Deployment, observed.deployments.keys().collect()),
        named(Kind::Service, observed.services.keys().collect()),
        named(Kind::NetworkPolicy, observed.policies.keys().collect()),
        named(Kind::Secret, observed.secrets.keys().collect()),
    ]
    .concat()
    .into_iter()
    .collect()
}

fn metadata<'a>(
    observed: &'a Observed,
    kind: Kind,
    name: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> {
    match kind {
        Kind::Deployment => observed.deployments.get(name).map(|object| &object.metadata),
        Kind::Service => observed.services.get(name).map(|object| &object.metadata),
        Kind::NetworkPolicy => observed.policies.get(name).map(|object| &object.metadata),
        Kind::Secret => observed.secrets.get(name).map(|object| &object.metadata),
    }
}

fn is_deleting(observed: &Observed, kind: Kind, name: &str) -> bool {
    metadata(observed, kind, name).is_some_and(|metadata| metadata.deletion_timestamp.is_some())
}

fn is_owned(desired: &Desired, observed: &Observed, kind: Kind, name: &str) -> bool {
    metadata(observed, kind, name)
        .and_then(|metadata| metadata.owner_references.as_ref())
        .is_some_and(|owners| owners.iter().any(|owner| owner.uid == desired.uid))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
