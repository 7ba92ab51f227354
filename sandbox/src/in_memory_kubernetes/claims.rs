//! Claims to volumes: when they are bound, and when they may grow.

use http::StatusCode;
use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::controllers::Work;
use super::object::{Key, Kind, Refusal, Stored, hold, is_deleting, members, meta, meta_text};
use crate::quantity::number;

/// The finalizer that holds a claim as long as a Pod uses it.
pub(super) const IN_USE: &str = "kubernetes.io/pvc-protection";
/// The annotation of the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// How a class says that its claims are bound once a Pod that uses them has a place.
const WAITS: &str = "WaitForFirstConsumer";

const REQUESTED: &str = "/spec/resources/requests/storage";
const CAPACITY: &str = "/status/capacity/storage";

fn size(claim: &Value, at: &str) -> f64 {
    claim
        .pointer(at)
        .and_then(Value::as_str)
        .and_then(number)
        .unwrap_or(0.0)
}

/// The class that a claim names; empty for a volume of no class.
fn class_name(claim: &Value) -> &str {
    claim
        .pointer("/spec/storageClassName")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn is_bound(claim: &Value) -> bool {
    claim.pointer("/status/phase") == Some(&json!("Bound"))
}

/// The spec of a claim as far as it never changes.
fn settled(claim: &Value, but_size: bool) -> Value {
    let mut spec = claim.get("spec").cloned().unwrap_or_default();
    if but_size && let Some(requests) = spec.pointer_mut("/resources/requests") {
        members(requests).remove("storage");
    }
    spec
}

impl ApiServer {
    /// What the server fills in of a new claim.
    pub(super) fn begin_claim(&self, claim: &mut Value) {
        hold(claim, IN_USE);
        let default = self.classes().find(|class| {
            let annotations = meta(class, "annotations");
            annotations.and_then(|of| of.get(DEFAULT_CLASS)) == Some(&json!("true"))
        });
        let default = default.map(|class| meta_text(class, "name").to_owned());
        let spec = members(members(claim).entry("spec").or_insert_with(|| json!({})));
        spec.entry("volumeMode").or_insert_with(|| json!("Filesystem"));
        if let Some(default) = default {
            spec.entry("storageClassName").or_insert_with(|| json!(default));
        }
        members(claim).insert("status".to_owned(), json!({ "phase": "Pending" }));
    }

    /// Whether a claim may become another one: once it is bound it may grow, if its class has volumes that do.
    pub(super) fn check_claim(&self, kind: &Kind, name: &str, before: &Value, after: &Value) -> Result<(), Refusal> {
        let (old, new) = (size(before, REQUESTED), size(after, REQUESTED));
        let but_size = is_bound(before) || old == new;
        if settled(before, but_size) != settled(after, but_size) {
            let why = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                       volumeAttributesClassName for bound claims";
            return Err(Refusal::invalid(kind, name, why));
        }
        // What it has not got yet it may do without.
        if new < old && new <= size(before, CAPACITY) {
            let why = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
            return Err(Refusal::invalid(kind, name, why));
        }
        if new > old && !self.grows(after) {
            let why = format!(
                "{} \"{name}\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that \
                 provisions the pvc must support resize",
                kind.resource()
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", why));
        }
        Ok(())
    }

    fn classes(&self) -> impl Iterator<Item = &Value> {
        let classes = self.objects().filter(|(key, _)| key.plural == "storageclasses");
        classes.map(|(_, class)| class)
    }

    fn class_of(&self, claim: &Value) -> Option<&Value> {
        self.classes()
            .find(|class| meta_text(class, "name") == class_name(claim))
    }

    /// Whether the class of a claim has volumes that grow.
    fn grows(&self, claim: &Value) -> bool {
        let class = self.class_of(claim);
        class.and_then(|class| class.get("allowVolumeExpansion")) == Some(&json!(true))
    }

    /// What there is to do about a claim that stays.
    pub(super) fn work_on_claim(&self, key: &Key, claim: &Value) -> Option<Work> {
        if !is_bound(claim) {
            let wanted = match self.class_of(claim) {
                Some(class) if class.get("volumeBindingMode") == Some(&json!(WAITS)) => {
                    self.mounting(key).any(|pod| !is_deleting(pod))
                }
                Some(_) => true,
                None => class_name(claim).is_empty(),
            };
            return wanted.then(|| Work::Bind(key.clone()));
        }
        (size(claim, REQUESTED) > size(claim, CAPACITY)).then(|| Work::Grow(key.clone()))
    }

    /// A claim gets a volume of its size.
    pub(super) fn bind(&mut self, key: &Key, mut stored: Stored) {
        let claim = &mut stored.value;
        let volume = format!("pvc-{}", meta_text(claim, "uid"));
        let modes = claim.pointer("/spec/accessModes").cloned().unwrap_or_default();
        let size = claim.pointer(REQUESTED).cloned().unwrap_or_default();
        let spec = members(members(claim).entry("spec").or_insert_with(|| json!({})));
        spec.insert("volumeName".to_owned(), json!(volume));
        let status = json!({ "phase": "Bound", "accessModes": modes, "capacity": { "storage": size } });
        members(claim).insert("status".to_owned(), status);
        self.put(key.clone(), stored);
    }

    /// The volume of a claim grows to what is asked for.
    pub(super) fn grow(&mut self, key: &Key, mut stored: Stored) {
        let size = stored.value.pointer(REQUESTED).cloned().unwrap_or_default();
        if let Some(capacity) = stored.value.pointer_mut(CAPACITY) {
            *capacity = size;
        }
        self.put(key.clone(), stored);
    }

    /// The Pods that mount a claim.
    fn mounting(&self, claim: &Key) -> impl Iterator<Item = &Value> {
        let pods = self.objects().filter(|(key, _)| key.plural == "pods");
        let here = pods.filter(|(key, _)| key.namespace == claim.namespace);
        here.map(|(_, pod)| pod)
            .filter(|pod| claims(pod).any(|name| name == claim.name))
    }

    /// Whether a Pod that has a place mounts a claim.
    pub(super) fn is_used(&self, claim: &Key) -> bool {
        self.mounting(claim).any(|pod| pod.pointer("/status/podIP").is_some())
    }

    /// Whether all that a Pod mounts is there.
    pub(super) fn has_volumes(&self, key: &Key, pod: &Value) -> bool {
        claims(pod).all(|name| {
            let claim = self.objects().find(|(found, _)| {
                found.plural == "persistentvolumeclaims" && found.namespace == key.namespace && found.name == name
            });
            claim.is_some_and(|(_, claim)| is_bound(claim) && !is_deleting(claim))
        })
    }
}

/// The names of the claims that a Pod mounts.
fn claims(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let volumes = volumes.into_iter().flatten();
    volumes.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str())
}
