//! Requests, read leniently: unknown members are passed over, `null` is absent, a missing content type is JSON. What is
//! wrong is refused by name, with what to send instead (OSB 2.17, "Content Type", "Vendor Extension Fields").

use serde_json::{Map, Value, json};

use super::error::OsbError;
use super::json::Unambiguous;
use super::version::Version;
use crate::ledger::{BindingId, InstanceId, PlanId, ServiceId, WebhookTarget};
use crate::webhooks::{Policy, target};

/// The longest text of a member that is kept.
const MAX_TEXT: usize = 255;

/// The parameters of a query string. The first of one name that is not empty counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string as forms are encoded. What cannot be decoded stands as it is.
    pub(super) fn parse(raw: &str) -> Self {
        let decode = |text: &str| decoded(&text.replace('+', " ")).unwrap_or_else(|| text.to_owned());
        Self(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    fn accepts_incomplete(&self) -> bool {
        self.get("accepts_incomplete")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `service_id` and `plan_id`, which deletes must have.
    fn ids(&self) -> Result<(ServiceId, PlanId), OsbError> {
        let required = |name: &str| {
            self.get(name).ok_or_else(|| {
                OsbError::bad_request(format!("the query parameter {name} is missing: send ?{name}=<id>"))
            })
        };
        let (service, plan) = (required("service_id")?, required("plan_id")?);
        Ok((id("service_id", service)?, id("plan_id", plan)?))
    }

    /// Where a platform wants to be told: `?webhook=<URL>&secret=<secret>`.
    pub(super) fn webhook(&self, policy: Policy) -> Result<Option<WebhookTarget>, OsbError> {
        let Some(url) = self.get("webhook") else {
            return Ok(None);
        };
        target(url, policy).map_err(|error| OsbError::bad_request(format!("the query parameter webhook {error}")))?;
        Ok(Some(WebhookTarget {
            url: url.to_owned().into(),
            secret: self.get("secret").map(|secret| secret.to_owned().into()),
        }))
    }
}

/// Decodes `%XX` (RFC 3986, 2.1). `None` if an escape is broken or the result is no UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

fn id<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, OsbError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| OsbError::bad_request(format!("{name} {error}")))
}

/// The instance id of a path.
pub(super) fn instance_id(text: String) -> Result<InstanceId, OsbError> {
    InstanceId::try_from(text).map_err(|error| OsbError::bad_request(format!("the instance id in the path {error}")))
}

/// The binding id of a path.
pub(super) fn binding_id(text: String) -> Result<BindingId, OsbError> {
    BindingId::try_from(text).map_err(|error| OsbError::bad_request(format!("the binding id in the path {error}")))
}

/// The members of a body.
struct Body(Map<String, Value>);

impl Body {
    /// A missing body has no members; what is missing of them is then said by name.
    fn parse(bytes: &[u8]) -> Result<Self, OsbError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(bytes).map(|Unambiguous(value)| value) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(OsbError::bad_request("the body is not a JSON object: send {...}")),
            Err(error) => Err(OsbError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    fn member(&self, name: &str) -> Option<&Value> {
        member(&self.0, name)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, OsbError> {
        text(&self.0, name, name)
    }

    fn required(&self, name: &str) -> Result<&str, OsbError> {
        self.text(name)?
            .ok_or_else(|| OsbError::bad_request(format!("{name} is missing: send it as a string that is not empty")))
    }

    fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, OsbError>
    where
        T::Err: std::fmt::Display,
    {
        id(name, self.required(name)?)
    }

    fn object(&self, name: &str) -> Result<Map<String, Value>, OsbError> {
        match self.member(name) {
            None => Ok(Map::new()),
            Some(Value::Object(members)) => Ok(members.clone()),
            Some(_) => Err(OsbError::bad_request(format!(
                "{name} is not an object: send {{...}} or leave it out"
            ))),
        }
    }

    /// Postgres holds the context as JSON, which cannot have NUL there.
    fn context(&self) -> Result<Map<String, Value>, OsbError> {
        let context = self.object("context")?;
        if context.iter().any(|(key, value)| key.contains('\0') || has_nul(value)) {
            return Err(OsbError::bad_request("context has a NUL character: leave it out"));
        }
        Ok(context)
    }

    /// `maintenance_info.version`. Platforms before 2.15 do not know the member.
    fn maintenance_version(&self, version: Version) -> Result<Option<String>, OsbError> {
        const WRONG: &str = "maintenance_info is not an object with a version: send {\"version\": \"...\"} as the catalog has it, or leave it out";
        if version < Version::V15 {
            return Ok(None);
        }
        match self.member("maintenance_info") {
            None => Ok(None),
            Some(Value::Object(info)) => match info.get("version") {
                Some(Value::String(version)) => Ok(Some(version.clone())),
                _ => Err(OsbError::bad_request(WRONG)),
            },
            Some(_) => Err(OsbError::bad_request(WRONG)),
        }
    }
}

fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).filter(|value| !value.is_null())
}

/// An optional text; an empty one is absent.
fn text<'a>(members: &'a Map<String, Value>, name: &str, shown: &str) -> Result<Option<&'a str>, OsbError> {
    match member(members, name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() > MAX_TEXT => Err(OsbError::bad_request(format!(
            "{shown} is longer than {MAX_TEXT} bytes: send a shorter one"
        ))),
        Some(Value::String(text)) if text.chars().any(char::is_control) => Err(OsbError::bad_request(format!(
            "{shown} has control characters: leave them out"
        ))),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(OsbError::bad_request(format!(
            "{shown} is not a string: send it as one"
        ))),
    }
}

pub(super) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// OSB 2.17, "Provisioning".
#[derive(Clone, Debug, PartialEq)]
pub struct ProvisionRequest {
    /// `service_id`
    pub service_id: ServiceId,
    /// `plan_id`
    pub plan_id: PlanId,
    /// `organization_guid`
    pub organization_guid: String,
    /// `space_guid`
    pub space_guid: String,
    /// `context`
    pub context: Map<String, Value>,
    /// `parameters`
    pub parameters: Map<String, Value>,
    /// `maintenance_info.version`
    pub maintenance_version: Option<String>,
    /// `?accepts_incomplete=true`
    pub accepts_incomplete: bool,
    /// `?webhook=&secret=`
    pub webhook: Option<WebhookTarget>,
}

impl ProvisionRequest {
    pub(super) fn parse(body: &[u8], query: &Query, version: Version, policy: Policy) -> Result<Self, OsbError> {
        let body = Body::parse(body)?;
        Ok(Self {
            service_id: body.id("service_id")?,
            plan_id: body.id("plan_id")?,
            organization_guid: body.required("organization_guid")?.to_owned(),
            space_guid: body.required("space_guid")?.to_owned(),
            context: body.context()?,
            parameters: body.object("parameters")?,
            maintenance_version: body.maintenance_version(version)?,
            accepts_incomplete: query.accepts_incomplete(),
            webhook: query.webhook(policy)?,
        })
    }
}

/// The parameter that allows an update to replace the cache. It is the request's, and none of the plan's.
pub const ALLOW_REPLACE: &str = "allow_replace";

/// OSB 2.17, "Updating a Service Instance". `previous_values` is what the platform believes; the ledger knows.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRequest {
    /// `service_id`
    pub service_id: ServiceId,
    /// `plan_id`
    pub plan_id: Option<PlanId>,
    /// `context`
    pub context: Option<Map<String, Value>>,
    /// `parameters` without [`ALLOW_REPLACE`]; absent if nothing is left.
    pub parameters: Option<Map<String, Value>>,
    /// [`ALLOW_REPLACE`]
    pub allow_replace: bool,
    /// `maintenance_info.version`
    pub maintenance_version: Option<String>,
    /// `?accepts_incomplete=true`
    pub accepts_incomplete: bool,
    /// `?webhook=&secret=`
    pub webhook: Option<WebhookTarget>,
}

impl UpdateRequest {
    pub(super) fn parse(body: &[u8], query: &Query, version: Version, policy: Policy) -> Result<Self, OsbError> {
        let body = Body::parse(body)?;
        let service_id = body.id("service_id")?;
        let plan_id = match body.text("plan_id")? {
            Some(plan) => Some(id("plan_id", plan)?),
            None => None,
        };
        body.object("previous_values")?;
        let mut parameters = body.object("parameters")?;
        let allow_replace = match parameters.remove(ALLOW_REPLACE) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(allowed)) => allowed,
            Some(_) => {
                return Err(OsbError::bad_request(
                    "the parameter allow_replace is neither true nor false: send one of them or leave it out",
                ));
            }
        };
        Ok(Self {
            service_id,
            plan_id,
            context: body.member("context").map(|_| body.context()).transpose()?,
            parameters: Some(parameters).filter(|parameters| !parameters.is_empty()),
            allow_replace,
            maintenance_version: body.maintenance_version(version)?,
            accepts_incomplete: query.accepts_incomplete(),
            webhook: query.webhook(policy)?,
        })
    }

    /// Whether it asks for nothing of the cache.
    pub fn is_context_only(&self) -> bool {
        self.plan_id.is_none() && self.parameters.is_none() && self.maintenance_version.is_none()
    }

    /// What makes it the same request when it is sent again.
    pub fn asked(&self) -> Value {
        json!({
            "plan_id": self.plan_id,
            "context": self.context,
            "parameters": self.parameters,
            "allow_replace": self.allow_replace,
            "maintenance_version": self.maintenance_version,
        })
    }
}

/// OSB 2.17, "Deprovisioning".
#[derive(Clone, Debug, PartialEq)]
pub struct DeprovisionRequest {
    /// `?accepts_incomplete=true`
    pub accepts_incomplete: bool,
    /// `?webhook=&secret=`
    pub webhook: Option<WebhookTarget>,
}

impl DeprovisionRequest {
    /// `service_id` and `plan_id` must be there and are hints: after a lost answer of an update a platform may know
    /// another plan than the broker does, and its delete must not fail for that.
    pub(super) fn parse(query: &Query, policy: Policy) -> Result<Self, OsbError> {
        query.ids()?;
        Ok(Self {
            accepts_incomplete: query.accepts_incomplete(),
            webhook: query.webhook(policy)?,
        })
    }
}

/// Where a binding begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// With what the request says.
    Fresh {
        /// `service_id`
        service_id: ServiceId,
        /// `plan_id`
        plan_id: PlanId,
    },
    /// With what another binding has (OSB 2.17, "Binding Rotation").
    Successor {
        /// `predecessor_binding_id`
        predecessor: BindingId,
    },
}

/// OSB 2.17, "Binding".
#[derive(Clone, Debug, PartialEq)]
pub struct BindRequest {
    /// `service_id` and `plan_id`, or `predecessor_binding_id`
    pub origin: Origin,
    /// `bind_resource.app_guid`, or the older `app_guid`
    pub app_guid: Option<String>,
    /// `context`
    pub context: Map<String, Value>,
    /// `parameters`
    pub parameters: Map<String, Value>,
    /// `?accepts_incomplete=true`
    pub accepts_incomplete: bool,
    /// `?webhook=&secret=`
    pub webhook: Option<WebhookTarget>,
}

impl BindRequest {
    /// Platforms before 2.17 do not know `predecessor_binding_id`.
    pub(super) fn parse(body: &[u8], query: &Query, version: Version, policy: Policy) -> Result<Self, OsbError> {
        let body = Body::parse(body)?;
        let resource = body.object("bind_resource")?;
        let app_guid = match text(&resource, "app_guid", "bind_resource.app_guid")? {
            Some(app) => Some(app),
            None => body.text("app_guid")?,
        };
        const PREDECESSOR: &str = "predecessor_binding_id";
        let predecessor = if version >= Version::V17 {
            body.text(PREDECESSOR)?
        } else {
            None
        };
        Ok(Self {
            origin: match predecessor {
                Some(predecessor) => Origin::Successor {
                    predecessor: id(PREDECESSOR, predecessor)?,
                },
                None => Origin::Fresh {
                    service_id: body.id("service_id")?,
                    plan_id: body.id("plan_id")?,
                },
            },
            app_guid: app_guid.map(str::to_owned),
            context: body.context()?,
            parameters: body.object("parameters")?,
            accepts_incomplete: query.accepts_incomplete(),
            webhook: query.webhook(policy)?,
        })
    }

    /// The binding that it names as its predecessor.
    pub fn predecessor(&self) -> Option<&BindingId> {
        match &self.origin {
            Origin::Fresh { .. } => None,
            Origin::Successor { predecessor } => Some(predecessor),
        }
    }
}

/// OSB 2.17, "Unbinding".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnbindRequest {
    /// `?accepts_incomplete=true`
    pub accepts_incomplete: bool,
    /// What is wrong with it; a binding that is not there is gone whatever else is wrong.
    pub fault: Option<OsbError>,
}

impl UnbindRequest {
    /// The ids must be there and are hints, as in [`DeprovisionRequest`].
    pub(super) fn parse(query: &Query) -> Self {
        Self {
            accepts_incomplete: query.accepts_incomplete(),
            fault: query.ids().err(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn provision(body: &str, query: &str) -> Result<ProvisionRequest, OsbError> {
        ProvisionRequest::parse(body.as_bytes(), &Query::parse(query), Version::V17, Policy::Public)
    }

    fn complete() -> Value {
        json!({ "service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "sp" })
    }

    #[test]
    fn unknown_members_and_nulls_are_passed_over() {
        let mut body = complete();
        for name in ["context", "parameters", "maintenance_info", "new_in_2_99"] {
            body[name] = Value::Null;
        }
        body["vendor"] = json!({ "deep": [1] });
        let request = provision(&body.to_string(), "").unwrap();
        assert_eq!((request.parameters, request.maintenance_version), (Map::new(), None));
    }

    #[test]
    fn a_query_is_read_leniently() {
        let query = Query::parse("a=&a=1&a=2&&=x&b&c=%2F+%zz&accepts_incomplete=True");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), None);
        assert_eq!(query.get("c"), Some("%2F+%zz"));
        assert!(query.accepts_incomplete());
        assert_eq!(Query::parse("d=a+b%26c").get("d"), Some("a b&c"));
    }

    #[test]
    fn what_is_missing_or_mistyped_is_named() {
        let with = |name: &str, value: Value| {
            let mut body = complete();
            body[name] = value;
            body.to_string()
        };
        for (body, part) in [
            (String::new(), "service_id is missing"),
            ("{".to_owned(), "the body is not JSON"),
            ("[]".to_owned(), "not a JSON object"),
            ("\"x\"".to_owned(), "not a JSON object"),
            (with("service_id", Value::Null), "service_id is missing"),
            (with("service_id", json!("")), "service_id is missing"),
            (with("plan_id", json!(7)), "plan_id is not a string"),
            (with("organization_guid", json!("")), "organization_guid is missing"),
            (with("space_guid", json!("a\u{0}")), "space_guid has control characters"),
            (
                with("space_guid", json!("a".repeat(256))),
                "space_guid is longer than 255",
            ),
            (with("parameters", json!("x")), "parameters is not an object"),
            (with("context", json!([])), "context is not an object"),
            (with("context", json!({ "a": [{ "b": "\u{0}" }] })), "context has a NUL"),
            (with("maintenance_info", json!({})), "maintenance_info is not"),
        ] {
            let error = provision(&body, "").unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(error.description().contains(part), "{body}: {}", error.description());
        }
    }

    #[test]
    fn a_webhook_is_checked_when_it_is_asked_for() {
        let body = complete().to_string();
        let request = provision(&body, "webhook=https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc&secret=s").unwrap();
        assert!(request.webhook.is_some_and(|webhook| webhook.secret.is_some()));
        assert_eq!(provision(&body, "webhook=&secret=s").unwrap().webhook, None);
        for url in ["nonsense", "http://example.com/", "https://127.0.0.1/?token=hunter2"] {
            let error = provision(&body, &format!("webhook={url}")).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{url}");
            assert!(!error.description().contains("hunter2"));
        }
    }

    #[test]
    fn maintenance_info_means_nothing_before_2_15() {
        let mut body = complete();
        body["maintenance_info"] = json!("garbled");
        let read =
            |version| ProvisionRequest::parse(body.to_string().as_bytes(), &Query::default(), version, Policy::Public);
        assert!(read(Version::V14).is_ok());
        assert!(read(Version::V15).is_err());
    }

    #[test]
    fn an_update_needs_its_service_only() {
        let parse = |body: Value| {
            UpdateRequest::parse(
                body.to_string().as_bytes(),
                &Query::default(),
                Version::V17,
                Policy::Public,
            )
        };
        let least = parse(json!({ "service_id": "s", "plan_id": null, "parameters": {}, "context": null })).unwrap();
        assert!(least.is_context_only());
        assert_eq!((least.context, least.parameters), (None, None));
        let replacing = parse(json!({ "service_id": "s", "parameters": { "allow_replace": true } })).unwrap();
        assert!(replacing.allow_replace && replacing.parameters.is_none());
        for (body, part) in [
            (json!({}), "service_id is missing"),
            (json!({ "service_id": "s", "plan_id": 1 }), "plan_id is not a string"),
            (
                json!({ "service_id": "s", "previous_values": [] }),
                "previous_values is not an object",
            ),
            (
                json!({ "service_id": "s", "parameters": { "allow_replace": "yes" } }),
                "allow_replace is neither",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(error.description().contains(part), "{}", error.description());
        }
    }

    fn bind(body: &Value, version: Version) -> Result<BindRequest, OsbError> {
        BindRequest::parse(body.to_string().as_bytes(), &Query::default(), version, Policy::Public)
    }

    /// OSB 2.17, "Request (Rotating a Service Binding)": the predecessor alone is enough.
    #[test]
    fn a_successor_needs_its_predecessor_only_and_platforms_before_2_17_know_none() {
        let body = json!({ "predecessor_binding_id": "b" });
        let request = bind(&body, Version::V17).unwrap();
        assert_eq!(request.predecessor().map(BindingId::as_str), Some("b"));
        let error = bind(&body, Version::V16).unwrap_err();
        assert!(error.description().contains("service_id is missing"));
        for wrong in [json!(7), json!("a\u{0}")] {
            let error = bind(&json!({ "predecessor_binding_id": wrong }), Version::V17).unwrap_err();
            assert!(error.description().contains("predecessor_binding_id"));
        }
        let empty = json!({ "predecessor_binding_id": "", "service_id": "s", "plan_id": "p" });
        assert_eq!(bind(&empty, Version::V17).unwrap().predecessor(), None);
    }

    #[test]
    fn an_application_is_named_in_either_place() {
        let bind = |body: Value| bind(&body, Version::V17).unwrap().app_guid;
        assert_eq!(bind(json!({ "service_id": "s", "plan_id": "p" })), None);
        assert_eq!(
            bind(json!({ "service_id": "s", "plan_id": "p", "app_guid": "a", "bind_resource": null })).as_deref(),
            Some("a")
        );
        assert_eq!(
            bind(json!({ "service_id": "s", "plan_id": "p", "app_guid": "a", "bind_resource": { "app_guid": "b" } }))
                .as_deref(),
            Some("b")
        );
    }

    #[test]
    fn deletes_need_both_ids() {
        let parse = |query| DeprovisionRequest::parse(&Query::parse(query), Policy::Public);
        assert!(parse("service_id=s&plan_id=p").is_ok_and(|request| !request.accepts_incomplete));
        for (query, part) in [
            ("", "service_id"),
            ("service_id=s", "plan_id"),
            ("service_id=s&plan_id=", "plan_id"),
        ] {
            assert!(parse(query).unwrap_err().description().contains(part), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_bad_request(bytes: Vec<u8>, query: String) {
            let parsed = ProvisionRequest::parse(&bytes, &Query::parse(&query), Version::V17, Policy::Public);
            if let Err(error) = parsed {
                prop_assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            }
            let _ = BindRequest::parse(&bytes, &Query::parse(&query), Version::V17, Policy::Public);
            let _ = UpdateRequest::parse(&bytes, &Query::parse(&query), Version::V17, Policy::Public);
        }

        #[test]
        fn decoding_undoes_encoding(text: String) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decoded(&encoded), Some(text));
        }
    }
}
