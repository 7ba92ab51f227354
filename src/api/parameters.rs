use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CachePlanSpec, ProviderKind, schema};

/// The draft of JSON schema that documents are written in.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// What a tenant may set when ordering from a plan: a JSON schema (draft-07) of an object whose members are
/// [known parameters](Parameter). Members it does not name are refused.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.properties) || self.properties.all(name, name in ['nodes', 'replicas', 'shards', 'multiAz', 'maintenanceWindow', 'snapshotWindow', 'snapshotRetentionDays', 'connectionLimit', 'maxItemSize', 'evictionPolicy'])")
    .message("unknown parameter: offer some of nodes, replicas, shards, multiAz, maintenanceWindow, snapshotWindow, snapshotRetentionDays (elasticache), replicas, maintenanceWindow, connectionLimit, maxItemSize, evictionPolicy (kubernetes)"))]
#[x_kube(validation = Rule::new("!has(self.required) || (has(self.properties) && self.required.all(name, name in self.properties))")
    .message("required names a parameter that properties does not have"))]
pub struct Schema {
    /// The parameters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub properties: BTreeMap<String, ParameterSpec>,
    /// Names of the parameters that must be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub required: Vec<String>,
}

/// What may be sent along with a binding: a JSON schema (draft-07) of an object. Nothing of a cache depends on it; it is
/// kept with the binding and told to who fetches that. Members it does not name are refused.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.properties) || self.properties.all(name, name.size() > 0 && name.size() <= 64)")
    .message("a name has 1 to 64 characters"))]
#[x_kube(validation = Rule::new("!has(self.required) || (has(self.properties) && self.required.all(name, name in self.properties))")
    .message("required names a parameter that properties does not have"))]
pub struct BindingSchema {
    /// The parameters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub properties: BTreeMap<String, ParameterSpec>,
    /// Names of the parameters that must be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub required: Vec<String>,
}

/// The JSON type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// What one parameter may be; the members have their JSON-schema meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParameterSpec {
    /// The type of its value.
    #[serde(rename = "type")]
    pub type_: ParameterType,
    /// A short name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub title: Option<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// The values it may have.
    #[serde(default, rename = "enum", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::list_of_any")]
    pub enum_: Option<Vec<Value>>,
    /// Shown to people as the value that holds if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub default: Option<Value>,
    /// The least number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// The greatest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
    /// A regular expression that text must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub pattern: Option<String>,
}

/// A parameter that the broker knows how to apply. It takes the place of the field of the same name in the plan's
/// provider part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Parameter {
    /// `elasticache.nodes`
    Nodes,
    /// `elasticache.replicas`, `kubernetes.replicas`
    Replicas,
    /// `elasticache.shards`
    Shards,
    /// `elasticache.multiAz`
    MultiAz,
    /// `elasticache.maintenanceWindow`, `kubernetes.maintenanceWindow`
    MaintenanceWindow,
    /// `elasticache.snapshotWindow`
    SnapshotWindow,
    /// `elasticache.snapshotRetentionDays`
    SnapshotRetentionDays,
    /// `kubernetes.connectionLimit`
    ConnectionLimit,
    /// `kubernetes.maxItemSize`
    MaxItemSize,
    /// `kubernetes.evictionPolicy`
    EvictionPolicy,
}

impl Parameter {
    /// Whether a provider's part of a plan has the field.
    pub fn applies_to(self, provider: ProviderKind) -> bool {
        match self {
            Self::Replicas | Self::MaintenanceWindow => true,
            Self::Nodes | Self::Shards | Self::MultiAz | Self::SnapshotWindow | Self::SnapshotRetentionDays => {
                provider == ProviderKind::ElastiCache
            }
            Self::ConnectionLimit | Self::MaxItemSize | Self::EvictionPolicy => provider == ProviderKind::Kubernetes,
        }
    }
}

/// Why parameters cannot be applied to a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// The plan takes none.
    #[error("this plan takes no parameters: remove {0}")]
    NoneTaken(String),
    /// They do not fit the plan's schema.
    #[error("{0}")]
    Refused(String),
    /// The plan's schema is no JSON schema.
    #[error("the plan's own parameter schema is broken: {0}; ask whoever keeps the plan to mend it")]
    Schema(String),
    /// The plan offers a parameter that its provider does not have, or a value its provider part cannot hold.
    #[error("parameter {name} cannot be applied to this plan: {reason}")]
    Inapplicable {
        /// The parameter.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl Schema {
    /// As a JSON schema document, as OSB catalogs carry it.
    pub fn document(&self) -> Value {
        closed(&self.properties, &self.required)
    }
}

impl BindingSchema {
    /// As a JSON schema document, as OSB catalogs carry it.
    pub fn document(&self) -> Value {
        closed(&self.properties, &self.required)
    }

    /// Whether what is sent along with a binding fits.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, values: &Map<String, Value>) -> Result<(), ParametersError> {
        validate(&self.document(), values)
    }

    /// The document of a plan that says nothing of it: anything may be sent.
    pub fn open() -> Value {
        json!({ "$schema": DRAFT, "type": "object" })
    }
}

/// The schema of an object with those members and no others.
fn closed(properties: &BTreeMap<String, ParameterSpec>, required: &[String]) -> Value {
    json!({
        "$schema": DRAFT,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The plan as it is once a tenant's parameters have taken the place of its own values.
///
/// # Errors
/// When the parameters do not fit the plan's schema, or a value cannot stand in the plan's provider part.
pub fn effective(plan: &CachePlanSpec, values: &Map<String, Value>) -> Result<CachePlanSpec, ParametersError> {
    if values.is_empty() && plan.parameters.as_ref().is_none_or(|schema| schema.required.is_empty()) {
        return Ok(plan.clone());
    }
    let Some(schema) = &plan.parameters else {
        let names: Vec<_> = values.keys().map(String::as_str).collect();
        return Err(ParametersError::NoneTaken(names.join(", ")));
    };
    validate(&schema.document(), values)?;
    let mut plan = plan.clone();
    plan.elasticache = plan.elasticache.map(|spec| overlay(spec, values)).transpose()?;
    plan.kubernetes = plan.kubernetes.map(|spec| overlay(spec, values)).transpose()?;
    Ok(plan)
}

fn validate(schema: &Value, values: &Map<String, Value>) -> Result<(), ParametersError> {
    let validator = jsonschema::draft7::new(schema).map_err(|error| ParametersError::Schema(error.to_string()))?;
    let values = Value::Object(values.clone());
    let errors: Vec<_> = validator
        .iter_errors(&values)
        .take(5)
        .map(|error| match error.instance_path().as_str() {
            "" => error.to_string(),
            path => format!("parameter {}: {error}", path.trim_start_matches('/')),
        })
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ParametersError::Refused(errors.join("; ")))
    }
}

fn overlay<T: Serialize + DeserializeOwned>(spec: T, values: &Map<String, Value>) -> Result<T, ParametersError> {
    let inapplicable = |name: &str, reason: String| ParametersError::Inapplicable {
        name: name.to_owned(),
        reason,
    };
    let mut current = spec;
    for (name, value) in values {
        serde_json::from_value::<Parameter>(Value::String(name.clone()))
            .map_err(|_| inapplicable(name, "the broker does not know it".to_owned()))?;
        let mut fields = serde_json::to_value(&current).map_err(|error| inapplicable(name, error.to_string()))?;
        if let Some(fields) = fields.as_object_mut() {
            fields.insert(name.clone(), value.clone());
        }
        current = serde_json::from_value(fields).map_err(|error| inapplicable(name, error.to_string()))?;
        let applied = serde_json::to_value(&current).map_err(|error| inapplicable(name, error.to_string()))?;
        if applied.get(name).is_none() {
            return Err(inapplicable(name, "the plan's provider does not have it".to_owned()));
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(parameters: Value) -> CachePlanSpec {
        serde_json::from_value(json!({
            "service": "akkeris-memcached", "id": "p", "description": "d",
            "engine": { "type": "memcached", "version": "1.6" },
            "parameters": parameters,
            "kubernetes": { "memory": "64Mi", "connectionLimit": 10 },
        }))
        .unwrap()
    }

    fn values(values: Value) -> Map<String, Value> {
        values.as_object().unwrap().clone()
    }

    #[test]
    fn a_parameter_takes_the_place_of_the_plans_value() {
        let plan = plan(json!({ "properties": { "connectionLimit": { "type": "integer", "maximum": 100 } } }));
        let effective = effective(&plan, &values(json!({ "connectionLimit": 50 }))).unwrap();
        assert_eq!(effective.kubernetes.unwrap().connection_limit, Some(50));
    }

    #[test]
    fn without_parameters_the_plan_stands() {
        let plan = plan(Value::Null);
        assert_eq!(effective(&plan, &Map::new()).unwrap(), plan);
    }

    #[test]
    fn refuses_what_the_schema_does_not_allow_and_names_it() {
        let plan = plan(json!({
            "properties": { "connectionLimit": { "type": "integer", "maximum": 100 } },
            "required": ["connectionLimit"],
        }));
        for (given, part) in [
            (
                json!({ "connectionLimit": 101 }),
                "parameter connectionLimit: 101 is greater than",
            ),
            (
                json!({ "connectionLimit": "many" }),
                "parameter connectionLimit: \"many\" is not of type",
            ),
            (
                json!({ "colour": "red", "connectionLimit": 1 }),
                "'colour' was unexpected",
            ),
            (json!({}), "\"connectionLimit\" is a required property"),
        ] {
            let message = effective(&plan, &values(given)).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_plan_without_schema_takes_nothing() {
        let refusal = effective(&plan(Value::Null), &values(json!({ "a": 1, "b": 2 }))).unwrap_err();
        assert_eq!(refusal.to_string(), "this plan takes no parameters: remove a, b");
    }

    #[test]
    fn a_parameter_that_the_provider_lacks_is_refused_by_name() {
        let plan = plan(json!({ "properties": { "snapshotWindow": { "type": "string" } } }));
        let refusal = effective(&plan, &values(json!({ "snapshotWindow": "01:00-02:00" }))).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "parameter snapshotWindow cannot be applied to this plan: the plan's provider does not have it"
        );
    }
}
