//! Every refusal a platform can get: a status and the body of OSB 2.17, "Service Broker Errors".

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::ledger::LedgerError;

/// The error codes of OSB 2.17, "Error Codes", that this broker uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The platform must allow asynchronous work.
    AsyncRequired,
    /// Another operation works on the instance.
    Concurrency,
    /// The plan's maintenance version differs from the platform's.
    MaintenanceInfoConflict,
}

impl Code {
    /// As platforms read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsyncRequired => "AsyncRequired",
            Self::Concurrency => "ConcurrencyError",
            Self::MaintenanceInfoConflict => "MaintenanceInfoConflict",
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsbError {
    status: StatusCode,
    code: Option<Code>,
    /// Empty where the body must be `{}`.
    description: String,
    instance_usable: Option<bool>,
    update_repeatable: Option<bool>,
    /// The methods that a path has.
    allowed: Option<&'static str>,
    /// When to ask again.
    retry_after: Option<Duration>,
}

impl OsbError {
    fn new(status: StatusCode, description: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            description: description.into(),
            instance_usable: None,
            update_repeatable: None,
            allowed: None,
            retry_after: None,
        }
    }

    /// 400: the request is malformed, incomplete, or asks for what is not there.
    pub fn bad_request(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, description)
    }

    /// 401: nobody is known by these credentials.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "not authenticated: send HTTP Basic credentials that this broker knows",
        )
    }

    /// 403: somebody who may not.
    pub fn forbidden(description: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, description)
    }

    /// 404: there is no such thing.
    pub fn not_found(description: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, description)
    }

    /// 405: the path is known, the method on it is not.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self {
            allowed: Some(allowed),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path does not have that method: use {allowed}"),
            )
        }
    }

    /// 408: the body did not come.
    pub fn late_body() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request's body did not arrive in time: send it again",
        )
    }

    /// 409: the id is taken.
    pub fn conflict(description: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, description)
    }

    /// 410 with `{}`: it does not exist, which is what the platform wanted.
    pub fn gone() -> Self {
        Self::new(StatusCode::GONE, "")
    }

    /// 412: the API version is not served.
    pub fn version(description: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, description)
    }

    /// 413: the body is too long.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request's body is longer than {limit} bytes: send less"),
        )
    }

    /// 422: understood, and not possible.
    pub fn unprocessable(code: Option<Code>, description: impl Into<String>) -> Self {
        Self {
            code,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, description)
        }
    }

    /// 422 `AsyncRequired`.
    pub fn async_required() -> Self {
        Self::unprocessable(
            Some(Code::AsyncRequired),
            "this takes a while: send ?accepts_incomplete=true and poll the last operation",
        )
    }

    /// 422 `ConcurrencyError`.
    pub fn concurrency(description: impl Into<String>) -> Self {
        Self::unprocessable(Some(Code::Concurrency), description)
    }

    /// 429: more than a caller may ask for.
    pub fn too_many(description: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, description)
        }
    }

    /// 431: more before the body than anybody has to say.
    pub fn head_too_large(bytes: usize, headers: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the request line and headers are more than {bytes} bytes or {headers} headers: send less"),
        )
    }

    /// 500: the broker's own fault.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the broker failed at this request: its log says why",
        )
    }

    /// The same, with the name by which the log's lines on the request are found.
    pub fn of_request(self, identity: &str) -> Self {
        Self {
            description: format!("{}, at request {identity}", self.description),
            ..self
        }
    }

    /// 503: something the broker needs is away; nothing was recorded.
    pub fn unavailable(description: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, description)
    }

    /// The same, of an update that was not begun: the instance is as it was; may the same request succeed later?
    pub fn of_update(self, repeatable: bool) -> Self {
        Self {
            instance_usable: Some(true),
            update_repeatable: Some(repeatable),
            ..self
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The methods to use instead, of a 405.
    pub fn allowed(&self) -> Option<&'static str> {
        self.allowed
    }

    /// When to ask again, of a 429.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The error code.
    pub fn code(&self) -> Option<Code> {
        self.code
    }

    /// What a platform shows to people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The body, with the members that the platform's version knows.
    pub fn body(&self, version: Version) -> Value {
        let mut body = Map::new();
        if let Some(code) = self.code {
            body.insert("error".to_owned(), json!(code.as_str()));
        }
        if !self.description.is_empty() {
            body.insert("description".to_owned(), json!(self.description));
        }
        if version >= Version::V16 {
            for (name, value) in [
                ("instance_usable", self.instance_usable),
                ("update_repeatable", self.update_repeatable),
            ] {
                if let Some(value) = value {
                    body.insert(name.to_owned(), json!(value));
                }
            }
        }
        Value::Object(body)
    }
}

impl From<LedgerError> for OsbError {
    /// What Postgres said is for the log; a platform hears whether trying again makes sense.
    fn from(error: LedgerError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "a request could not be served");
            Self::unavailable("the broker's database cannot be reached and nothing was recorded: try again")
        } else {
            tracing::error!(%error, "a request could not be served");
            Self::internal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_no_empty_strings_and_only_members_its_reader_knows() {
        assert_eq!(OsbError::gone().body(Version::V17), json!({}));
        assert_eq!(
            OsbError::async_required().body(Version::V13)["error"],
            json!("AsyncRequired")
        );
        let error = OsbError {
            instance_usable: Some(false),
            ..OsbError::bad_request("no")
        };
        assert_eq!(error.body(Version::V15), json!({ "description": "no" }));
        assert_eq!(
            error.body(Version::V16),
            json!({ "description": "no", "instance_usable": false })
        );
    }

    #[test]
    fn postgres_away_is_503_and_says_nothing_of_where_it_is() {
        let error = OsbError::from(LedgerError::Unavailable("db.internal:5432/x: refused".to_owned()));
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!error.description().contains("db.internal"));
        let error = OsbError::from(LedgerError::Migration("x".to_owned()));
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
