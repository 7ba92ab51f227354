//! Objects as the API server keeps them.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::apply::Managers;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Its API group; empty for the core.
    pub group: &'static str,
    /// The group's version.
    pub version: &'static str,
    /// Its name.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// Whether a CustomResourceDefinition defines it.
    pub custom: bool,
    /// Whether `status` is written apart from the rest.
    pub status: bool,
    /// Whether it counts the changes of its spec.
    pub generation: bool,
}

impl Kind {
    /// A kind that Kubernetes has by itself.
    pub const fn built_in(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            namespaced: true,
            custom: false,
            status: false,
            generation: false,
        }
    }

    /// A kind of a CustomResourceDefinition with a status subresource.
    pub const fn custom(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            custom: true,
            status: true,
            generation: true,
            ..Self::built_in(group, version, kind, plural)
        }
    }

    /// The same, in no namespace.
    #[must_use]
    pub const fn cluster_wide(mut self) -> Self {
        self.namespaced = false;
        self
    }

    /// The same, with a status subresource.
    #[must_use]
    pub const fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    /// The same, with a generation.
    #[must_use]
    pub const fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    /// Its `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Its name in errors.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind's name in paths.
    pub plural: &'static str,
    /// Its namespace; empty if it lives in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object, and who manages which of its fields.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub value: Value,
    pub managers: Managers,
}

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    pub(super) fn invalid(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is invalid: {why}", kind.kind);
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", why)
    }

    /// As a `Status` object.
    pub(super) fn body(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
        })
    }
}

/// A member of an object's metadata.
pub(super) fn meta<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(name).filter(|value| !value.is_null())
}

/// A member of an object's metadata, as text.
pub(super) fn meta_text<'a>(object: &'a Value, name: &str) -> &'a str {
    meta(object, name).and_then(Value::as_str).unwrap_or_default()
}

/// An object's metadata, to be changed.
pub(super) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    let object = members(object);
    members(object.entry("metadata").or_insert_with(|| json!({})))
}

/// A value's members, to be changed; what is no object becomes an empty one.
pub(super) fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it was made an object"),
    }
}

/// The finalizers of an object.
pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let list = meta(object, "finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Gives an object a finalizer more.
pub(super) fn hold(object: &mut Value, finalizer: &str) {
    let mut held: Vec<_> = finalizers(object).into_iter().map(str::to_owned).collect();
    held.push(finalizer.to_owned());
    meta_mut(object).insert("finalizers".to_owned(), json!(held));
}

/// Whether an object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    meta(object, "deletionTimestamp").is_some()
}

/// The owner references of an object.
pub(super) fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    meta(object, "ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A time as `metav1.Time` has it.
pub(super) fn time(now: Timestamp) -> Value {
    json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// What of an object its generation counts: all but metadata and status.
pub(super) fn counted(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(rest) = rest.as_object_mut() {
        for name in ["metadata", "status", "apiVersion", "kind"] {
            rest.remove(name);
        }
    }
    rest
}

/// An object's metadata alone.
pub(super) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
