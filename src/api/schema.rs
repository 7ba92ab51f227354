//! Schemas for fields that hold JSON of a user's own.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Any JSON value, kept as it was written.
pub fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// A JSON object with any members, kept as it was written.
pub fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A JSON object with at most 32 members of any kind.
pub fn parameter_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 32, "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of JSON values of any kind, at most 64.
pub fn list_of_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
        "items": { "x-kubernetes-preserve-unknown-fields": true },
    })
}
