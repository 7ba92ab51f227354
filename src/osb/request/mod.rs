//! Requests, read leniently: unknown members are passed over, `null` is absent, a missing content type is JSON. What is
//! wrong is refused by name, with what to send instead (OSB 2.17, "Content Type", "Vendor Extension Fields").

mod body;
mod query;

use serde_json::{Map, Value, json};

pub(super) use body::has_nul;
use body::{Body, text};
pub(super) use query::{Query, decoded};

use super::error::OsbError;
use super::version::Version;
use crate::ledger::{BindingId, InstanceId, PlanId, ServiceId, WebhookTarget};
use crate::webhooks::Policy;

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
    }
}
