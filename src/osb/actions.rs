//! What an instance can be asked for beside the specification, at the paths of the broker that this one replaces:
//! `/v2/service_instances/ID/actions/...`. Each action has an OpenAPI document at `.../actions/NAME/schema`.

use http::Method;
use serde_json::{Value, json};

use super::decide::Answer;
use super::version::Version;
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
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flush, Self::Stats, Self::Restart];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Stats => "stats",
            Self::Restart => "restart",
        }
    }

    /// The action of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Its path below `actions/`.
    pub fn path(self) -> &'static str {
        self.name()
    }

    /// Its methods. What changes nothing may be read as well.
    pub fn methods(self) -> &'static [Method] {
        match self {
            Self::Flush | Self::Restart => &[Method::POST],
            Self::Stats => &[Method::POST, Method::GET],
        }
    }

    /// Whether it is an operation, to be polled.
    pub fn takes_time(self) -> bool {
        match self {
            Self::Flush | Self::Stats => false,
            Self::Restart => true,
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Flush => "Forgets everything the cache holds.",
            Self::Stats => "Tells what each node of the cache counts.",
            Self::Restart => "Restarts the nodes of the cache. What they hold in memory only is lost.",
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
        let mut responses = match self {
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
            Self::Restart => {
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
            json!({ "operationId": id, "tags": [self.name()], "summary": self.summary(), "responses": responses })
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
pub fn listed(mut answer: Answer, instance: &InstanceId, version: Version) -> Answer {
    if let Some(body) = answer.body.as_object_mut().filter(|_| version >= Version::V16) {
        let base = base(instance);
        let apis: Vec<Value> = Action::ALL
            .into_iter()
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
pub fn metadata() -> Value {
    Action::ALL
        .into_iter()
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
        let body = |version| listed(Answer::done(), &instance, version).body;
        assert_eq!(body(Version::V15), json!({}));
        assert_eq!(
            body(Version::V16)["extension_apis"][0]["server_url"],
            json!("/v2/service_instances/i/actions/flush")
        );
    }
}
