//! The objects of an in-cluster cache beside its Deployments and Secrets, as pure functions of what is desired.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::objects::metadata;
use super::super::{Desired, Place};
use super::{Kind, Manifest, Observed, Placement, adopt};
use crate::api::{KubernetesSpec, Persistence, annotations};
use crate::digest::sha256_hex;

/// The names of an instance's nodes, each that of a Service. The first is named like the instance, however many there
/// are, and keeps its address when others come and go; version 0.1 named the first of several otherwise.
pub fn node_names(desired: &Desired, spec: &KubernetesSpec, observed: &Observed) -> Vec<String> {
    let name = &desired.name;
    let numbered = |index: u16| format!("{name}-{index}");
    let first = if observed.services.contains_key(&numbered(0)) && !observed.services.contains_key(name) {
        numbered(0)
    } else {
        name.clone()
    };
    let others = (1..spec.replicas.unwrap_or(1)).map(numbered);
    std::iter::once(first).chain(others).collect()
}

/// An object that says from what it was applied: a field that is no longer wanted differs in nothing else.
pub fn manifest(kind: Kind, metadata: Value, spec: Value) -> Manifest {
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut body = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": metadata,
        "spec": spec,
    });
    let mark = sha256_hex(body.to_string(), 8);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let notes = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(notes) = notes.as_object_mut() {
            notes.insert(annotations::APPLIED_DIGEST.to_owned(), json!(mark));
        }
    }
    Manifest { kind, name, body }
}

/// The labels that all Pods of an instance have, and no others.
pub fn instance_selector(desired: &Desired) -> BTreeMap<String, String> {
    use crate::api::labels::{INSTANCE, NAME};
    [(NAME, desired.plan.engine.type_.as_str()), (INSTANCE, &desired.name)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What is there once for an instance.
pub fn shared(desired: &Desired, spec: &KubernetesSpec, placement: &Placement) -> Vec<Manifest> {
    let named = || metadata(desired, &desired.name);
    let policy = network_policy(desired, spec, placement);
    let mut shared = vec![manifest(Kind::NetworkPolicy, named(), policy)];
    // For a single node it would forbid to drain the machine that it runs on.
    if spec.replicas.unwrap_or(1) > 1 {
        let budget = json!({ "maxUnavailable": 1, "selector": { "matchLabels": instance_selector(desired) } });
        shared.push(manifest(Kind::PodDisruptionBudget, named(), budget));
    }
    shared
}

/// The Service of a node at a port, leading to a port of the Pods with these labels.
pub fn service(
    desired: &Desired,
    node: &str,
    (port, target): (u16, u16),
    selector: &BTreeMap<String, String>,
) -> Manifest {
    let engine = desired.plan.engine.type_;
    let spec = json!({
        "type": "ClusterIP",
        "selector": selector,
        "ports": [{ "name": engine.as_str(), "protocol": "TCP", "port": port, "targetPort": target }],
    });
    manifest(Kind::Service, metadata(desired, node), spec)
}

/// The port that a node's Service answers at. Those who use the cache were told one, and it stays; before that it is the
/// plan's or the engine's. Pods always answer at the engine's.
pub fn port(desired: &Desired, observed: &Observed, node: &str) -> u16 {
    let told = || {
        let here = desired.was_ready && desired.record.serving == Some(Place::Kubernetes);
        let known = desired
            .published
            .endpoint
            .as_ref()
            .filter(|_| here || desired.took_over_workload());
        known.map(|known| known.port)
    };
    let found = || {
        let service = observed.services.get(node).filter(|_| desired.took_over_workload());
        service.and_then(|service| adopt::port(service))
    };
    let planned = || desired.plan.kubernetes.as_ref().and_then(|spec| spec.port);
    found()
        .or_else(told)
        .or_else(planned)
        .unwrap_or_else(|| desired.plan.engine.type_.default_port())
}

/// The claim to a volume for the data of a node.
pub fn claim(desired: &Desired, name: &str, persistence: &Persistence) -> Manifest {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": persistence.size } },
    });
    if let (Some(spec), Some(class)) = (spec.as_object_mut(), &persistence.storage_class) {
        spec.insert("storageClassName".to_owned(), json!(class));
    }
    manifest(Kind::PersistentVolumeClaim, metadata(desired, name), spec)
}

fn network_policy(desired: &Desired, spec: &KubernetesSpec, placement: &Placement) -> Value {
    let mut from = match &spec.allowed_from {
        Some(from) => vec![json!({
            "namespaceSelector": from.namespace_selector.clone().unwrap_or_default(),
            "podSelector": from.pod_selector.clone().unwrap_or_default(),
        })],
        None => vec![json!({ "namespaceSelector": {} })],
    };
    // The operator tells Pods of their users.
    if spec.allowed_from.is_some() && desired.plan.has_users() {
        let labels = json!({ "kubernetes.io/metadata.name": placement.operator_namespace });
        from.push(json!({ "namespaceSelector": { "matchLabels": labels } }));
    }
    json!({
        "podSelector": { "matchLabels": instance_selector(desired) },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": from,
            "ports": [{ "protocol": "TCP", "port": desired.plan.engine.type_.default_port() }],
        }],
    })
}

impl Kind {
    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Secret => "Secret",
        }
    }

    /// Its API group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Deployment => "apps/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::PodDisruptionBudget => "policy/v1",
            Self::Service | Self::PersistentVolumeClaim | Self::Secret => "v1",
        }
    }
}
