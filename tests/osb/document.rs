//! Every answer is held against docs/openapi.yaml, and so is every request that was taken; the document itself against the
//! OpenAPI Initiative's schema of such documents.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use http::{Method, StatusCode};
use jsonschema::Validator;
use serde_json::{Value, json};

static TEXT: &str = include_str!("../../docs/openapi.yaml");

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_yaml::from_str(TEXT).unwrap())
}

/// The template that a path is of; one without variables goes first.
fn template(path: &str) -> Option<&'static str> {
    let given: Vec<_> = path.split('/').collect();
    let fits = |template: &str| {
        let parts: Vec<_> = template.split('/').collect();
        parts.len() == given.len()
            && parts
                .iter()
                .zip(&given)
                .all(|(part, given)| part.starts_with('{') || part == given)
    };
    let mut found: Vec<_> = document()["paths"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|path| fits(path))
        .collect();
    found.sort_by_key(|template| template.matches('{').count());
    found.first().map(|template| template.as_str())
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => document().pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// Whether an answer is one that the document has. What is no path or method of it is refused.
pub fn check(method: &Method, path: &str, status: StatusCode, body: &Value) {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, Validator>>> = OnceLock::new();
    let path = path.split('?').next().unwrap();
    let operation = template(path).map(|template| {
        let name = method.as_str().to_ascii_lowercase();
        (template, &document()["paths"][template][name.as_str()])
    });
    let (key, response) = match operation {
        Some((template, operation)) if operation.is_object() => {
            let responses = &operation["responses"];
            let code = status.as_u16().to_string();
            let (code, response) = match responses.get(&code) {
                Some(response) => (code, response),
                None => {
                    assert!(
                        !status.is_success(),
                        "{method} {path} does not answer {status} by the document"
                    );
                    ("default".to_owned(), &responses["default"])
                }
            };
            (format!("{method} {template} {code}"), resolved(response))
        }
        _ => {
            assert!(status.is_client_error(), "{method} {path}: {status}");
            ("refusal".to_owned(), &document()["components"]["responses"]["Refusal"])
        }
    };
    let schema = &response["content"]["application/json"]["schema"];
    if schema.is_null() {
        assert!(body.is_null(), "{key}: {body}");
        return;
    }
    let mut validators = VALIDATORS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|broken| broken.into_inner());
    let validator = validators.entry(key.clone()).or_insert_with(|| {
        let whole = json!({ "allOf": [schema], "components": document()["components"] });
        jsonschema::draft4::new(&whole).unwrap()
    });
    let errors: Vec<_> = validator.iter_errors(body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{key}: {errors:?} in {body}");
}

/// Whether a request that was taken is one that the document has.
pub fn check_request(method: &Method, path: &str, body: &Value) {
    let path = path.split('?').next().unwrap();
    let Some(template) = template(path) else { return };
    let name = method.as_str().to_ascii_lowercase();
    let schema = &document()["paths"][template][name.as_str()]["requestBody"]["content"]["application/json"]["schema"];
    if schema.is_null() || body.is_null() {
        return;
    }
    let whole = json!({ "allOf": [schema], "components": document()["components"] });
    let validator = jsonschema::draft4::new(&whole).unwrap();
    let body = without_nulls(body);
    let errors: Vec<_> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path} was taken: {errors:?} in {body}");
}

/// What is `nullable` in the document, draft 4 of JSON schema cannot say: such a member is as good as none.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        other => other.clone(),
    }
}

/// Holds an OpenAPI document against the OpenAPI Initiative's schema for version 3.0.
pub fn check_document(document: &Value) {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        let schema: Value = serde_json::from_str(include_str!("openapi-3.0.schema.json")).unwrap();
        jsonschema::draft4::new(&schema).unwrap()
    });
    let errors: Vec<_> = schema
        .iter_errors(document)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn the_document_is_one_of_openapi() {
    check_document(document());
}

/// OpenAPI 3.0.3: what a document must have beyond its schema, and that every reference leads somewhere.
#[test]
fn the_document_is_whole() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    found.push(reference.clone());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(document(), &mut found);
    for reference in found {
        assert!(
            document().pointer(reference.trim_start_matches('#')).is_some(),
            "{reference}"
        );
    }
    assert_eq!(document()["openapi"], json!("3.0.3"));
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "parameters")
        {
            let responses = operation["responses"].as_object().unwrap();
            for response in responses.values() {
                assert!(resolved(response)["description"].is_string(), "{method} {path}");
            }
            assert!(responses.contains_key("default"), "{method} {path}");
        }
        let variables = path.matches('{').count();
        let named = item["parameters"].as_array().map_or(0, |parameters| {
            parameters
                .iter()
                .filter(|parameter| resolved(parameter)["in"] == json!("path"))
                .count()
        });
        assert_eq!(variables, named, "{path}");
    }
}
