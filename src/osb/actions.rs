//! What an instance can be asked for beside the specification, at the paths of the broker that this one replaces:
//! `/v2/service_instances/ID/actions/...`. Each action has an OpenAPI document at `.../actions/NAME/schema`.

use http::Method;
use serde_json::{Value, json};

use super::decide::Answer;
use super::version::Version;
use crate::api::CachePlanSpec;
use crate::ledger::InstanceId;

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forgets everything the cache holds.
    Flush,
    /// What the nodes count.
    Stats,
    /// Restarts the nodes.
    Restart,
    /// The backups that were asked for here.
    ListBackups,
    /// Makes one more.
    CreateBackup,
    /// One of them.
    GetBackup,
    /// Fills the cache from one.
    RestoreBackup,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Flush,
        Self::Stats,
        Self::Restart,
        Self::ListBackups,
        Self::CreateBackup,
        Self::GetBackup,
        Self::RestoreBackup,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Stats => "stats",
            Self::Restart => "restart",
            Self::ListBackups => "list_backups",
            Self::CreateBackup => "create_backup",
            Self::GetBackup => "get_backup",
            Self::RestoreBackup => "restore_backup",
        }
    }

    /// The action of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Its path below `actions/`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Flush | Self::Stats | Self::Restart => self.name(),
            Self::ListBackups | Self::CreateBackup => "backups",
            Self::GetBackup | Self::RestoreBackup => "backups/{backup}",
        }
    }

    /// Its methods. What changes nothing may be read as well.
    pub fn methods(self) -> &'static [Method] {
        match self {
            Self::Flush | Self::Restart | Self::CreateBackup => &[Method::POST],
            Self::Stats => &[Method::POST, Method::GET],
            Self::ListBackups | Self::GetBackup => &[Method::GET],
            Self::RestoreBackup => &[Method::PUT],
        }
    }

    /// Whether it is an operation, to be polled.
    pub fn takes_time(self) -> bool {
        match self {
            Self::Flush | Self::Stats | Self::ListBackups | Self::GetBackup => false,
            Self::Restart | Self::CreateBackup | Self::RestoreBackup => true,
        }
    }

    /// Whether only caches with backups have it: redis and valkey on ElastiCache.
    fn needs_backups(self) -> bool {
        match self {
            Self::Flush | Self::Stats | Self::Restart => false,
            Self::ListBackups | Self::CreateBackup | Self::GetBackup | Self::RestoreBackup => true,
        }
    }

    /// Those that instances of a plan have.
    fn of(plan: &CachePlanSpec) -> impl Iterator<Item = Self> {
        let backups = plan.engine.type_.is_redis_like() && plan.elasticache.is_some();
        Self::ALL
            .into_iter()
            .filter(move |action| backups || !action.needs_backups())
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Flush => "Forgets everything the cache holds.",
            Self::Stats => "Tells what each node of the cache counts.",
            Self::Restart => "Restarts the nodes of the cache. What they hold in memory only is lost.",
            Self::ListBackups => "Lists the backups that were asked for here, the latest first.",
            Self::CreateBackup => "Makes a backup.",
            Self::GetBackup => "Tells how a backup is.",
            Self::RestoreBackup => "Fills the cache from a backup. Its address changes: bind again afterwards.",
        }
    }

    /// How it answers.
    fn responses(self) -> Value {
        let object = |properties: Value, required: Value| {
            json!({
                "description": "Done.",
                "content": { "application/json": { "schema": {
                    "type": "object", "properties": properties, "required": required,
                } } },
            })
        };
        let backup = json!({
            "type": "object", "required": ["resource", "id", "progress", "status", "created_at"],
            "properties": {
                "resource": { "type": "object", "properties": { "name": { "type": "string" } } },
                "id": { "type": "string" },
                "progress": { "type": "integer" },
                "status": { "type": "string", "enum": ["creating", "available", "failed"] },
                "created_at": { "type": "string", "format": "date-time" },
            },
        });
        let content =
            |schema: Value| json!({ "description": "Done.", "content": { "application/json": { "schema": schema } } });
        let mut responses = match self {
            Self::ListBackups => json!({ "200": content(json!({ "type": "array", "items": backup })) }),
            Self::GetBackup => json!({ "200": content(backup) }),
            Self::Flush => json!({
                "200": object(json!({ "flush_all": { "type": "string", "enum": ["ok"] } }), json!(["flush_all"])),
            }),
            Self::Stats => {
                let stat = json!({
                    "type": "object", "required": ["key", "value"],
                    "properties": { "key": { "type": "string" }, "value": { "type": "string" } },
                });
                let node = json!({
                    "type": "object", "required": ["node"],
                    "properties": {
                        "node": { "type": "string", "description": "Its host and port." },
                        "stats": { "type": "object", "additionalProperties": { "type": "string" } },
                        "error": { "type": "string", "description": "Why it did not answer." },
                    },
                });
                json!({ "200": object(
                    json!({
                        "stats": {
                            "type": "array", "items": stat, "description": "Of the first node that answered.",
                        },
                        "nodes": { "type": "array", "items": node },
                    }),
                    json!(["stats", "nodes"]),
                ) })
            }
            Self::Restart | Self::CreateBackup | Self::RestoreBackup => {
                let mut accepted = object(json!({ "operation": { "type": "string" } }), json!(["operation"]));
                if let Some(accepted) = accepted.as_object_mut() {
                    let text = "Accepted: poll last_operation with this operation.";
                    accepted.insert("description".to_owned(), json!(text));
                }
                json!({ "202": accepted })
            }
        };
        let refusal = json!({
            "description": "Not done; the description says why.",
            "content": { "application/json": { "schema": {
                "type": "object",
                "properties": { "error": { "type": "string" }, "description": { "type": "string" } },
            } } },
        });
        if let Some(responses) = responses.as_object_mut() {
            for status in ["401", "404", "422", "503"] {
                responses.insert(status.to_owned(), refusal.clone());
            }
        }
        responses
    }

    /// The OpenAPI document of the action on an instance (OpenAPI 3.0.3).
    pub fn document(self, instance: &InstanceId) -> Value {
        let method = |method: &Method| {
            let id = format!("{}_{}", method.as_str().to_ascii_lowercase(), self.name());
            let responses = self.responses();
            let mut parameters = Vec::new();
            if self.path().contains("{backup}") {
                parameters.push(json!({
                    "name": "backup", "in": "path", "required": true, "schema": { "type": "string" },
                }));
            }
            if self.takes_time() {
                for (name, description) in [
                    ("webhook", "Where to tell that the work ended."),
                    ("secret", "What signs that."),
                ] {
                    parameters.push(json!({
                        "name": name, "in": "query", "description": description, "schema": { "type": "string" },
                    }));
                }
            }
            json!({
                "operationId": id, "tags": [self.name()], "summary": self.summary(), "parameters": parameters,
                "responses": responses,
            })
        };
        let methods: serde_json::Map<String, Value> = self
            .methods()
            .iter()
            .map(|name| (name.as_str().to_ascii_lowercase(), method(name)))
            .collect();
        json!({
            "openapi": "3.0.3",
            "info": { "title": self.name(), "description": self.summary(), "version": "1.0.0" },
            "servers": [{ "url": "/" }],
            "paths": { format!("{}/{}", base(instance), self.path()): methods },
            "components": { "securitySchemes": { "basic": { "type": "http", "scheme": "basic" } } },
            "security": [{ "basic": [] }],
        })
    }
}

fn base(instance: &InstanceId) -> String {
    let id: String = instance
        .as_str()
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    format!("/v2/service_instances/{id}/actions")
}

/// Lists the actions in the reply to an order, as the broker that this one replaces did. Before 2.16 there are platforms
/// that take no member they do not know.
pub fn listed(mut answer: Answer, instance: &InstanceId, plan: Option<&CachePlanSpec>, version: Version) -> Answer {
    if let (Some(body), Some(plan)) = (answer.body.as_object_mut().filter(|_| version >= Version::V16), plan) {
        let base = base(instance);
        let apis: Vec<Value> = Action::of(plan)
            .map(|action| {
                json!({
                    "discovery_url": format!("{base}/{}/schema", action.name()),
                    "server_url": format!("{base}/{}", action.path()),
                    "adheres_to": "https://spec.openapis.org/oas/v3.0.3",
                })
            })
            .collect();
        body.insert("extension_apis".to_owned(), json!(apis));
    }
    answer
}

/// The actions as a plan's metadata lists them.
pub fn metadata(plan: &CachePlanSpec) -> Value {
    Action::of(plan)
        .map(|action| {
            let methods: Vec<&str> = action.methods().iter().map(Method::as_str).collect();
            json!({
                "name": action.name(),
                "path": format!("/v2/service_instances/{{instance_id}}/actions/{}", action.path()),
                "methods": methods,
                "description": action.summary(),
                "asynchronous": action.takes_time(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::osb::decide::fixtures::plan;

    /// OpenAPI 3.0.3, "OpenAPI Object", "Paths Object", "Operation Object", "Responses Object": what must be there.
    #[test]
    fn each_action_has_a_document_with_what_openapi_requires() {
        let instance: InstanceId = "a/b".parse().unwrap();
        for action in Action::ALL {
            let document = action.document(&instance);
            assert!(document["openapi"].as_str().unwrap().starts_with("3.0."));
            for text in ["title", "version"] {
                assert!(!document["info"][text].as_str().unwrap().is_empty());
            }
            let paths = document["paths"].as_object().unwrap();
            assert_eq!(paths.len(), 1);
            let (path, methods) = paths.iter().next().unwrap();
            assert_eq!(path, &format!("/v2/service_instances/a%2Fb/actions/{}", action.path()));
            let methods = methods.as_object().unwrap();
            assert_eq!(methods.len(), action.methods().len());
            for method in methods.values() {
                assert!(!method["operationId"].as_str().unwrap().is_empty());
                let responses = method["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')));
                for response in responses.values() {
                    assert!(!response["description"].as_str().unwrap().is_empty());
                    let schema = &response["content"]["application/json"]["schema"];
                    jsonschema::draft7::new(schema).unwrap();
                }
            }
            assert_eq!(Action::named(action.name()), Some(action));
        }
    }

    #[test]
    fn old_platforms_are_not_told_of_what_they_do_not_know() {
        let instance: InstanceId = "i".parse().unwrap();
        let plan = plan(json!({})).spec;
        let body = |version| listed(Answer::done(), &instance, Some(&plan), version).body;
        assert_eq!(body(Version::V17)["extension_apis"].as_array().unwrap().len(), 3);
        assert_eq!(body(Version::V15), json!({}));
        assert_eq!(
            body(Version::V16)["extension_apis"][0]["server_url"],
            json!("/v2/service_instances/i/actions/flush")
        );
    }
}
