//! The members of a request's body.

use serde_json::{Map, Value};

use super::id;
use crate::osb::error::OsbError;
use crate::osb::json::Unambiguous;
use crate::osb::version::Version;

/// The longest text of a member that is kept.
const MAX_TEXT: usize = 255;

/// The members of a body.
pub(super) struct Body(Map<String, Value>);

impl Body {
    /// A missing body has no members; what is missing of them is then said by name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, OsbError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(bytes).map(|Unambiguous(value)| value) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(OsbError::bad_request("the body is not a JSON object: send {...}")),
            Err(error) => Err(OsbError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    pub(super) fn member(&self, name: &str) -> Option<&Value> {
        member(&self.0, name)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, OsbError> {
        text(&self.0, name, name)
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, OsbError> {
        self.text(name)?
            .ok_or_else(|| OsbError::bad_request(format!("{name} is missing: send it as a string that is not empty")))
    }

    pub(super) fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, OsbError>
    where
        T::Err: std::fmt::Display,
    {
        id(name, self.required(name)?)
    }

    pub(super) fn object(&self, name: &str) -> Result<Map<String, Value>, OsbError> {
        match self.member(name) {
            None => Ok(Map::new()),
            Some(Value::Object(members)) => Ok(members.clone()),
            Some(_) => Err(OsbError::bad_request(format!(
                "{name} is not an object: send {{...}} or leave it out"
            ))),
        }
    }

    /// Postgres holds the context as JSON, which cannot have NUL there.
    pub(super) fn context(&self) -> Result<Map<String, Value>, OsbError> {
        let context = self.object("context")?;
        if context.iter().any(|(key, value)| key.contains('\0') || has_nul(value)) {
            return Err(OsbError::bad_request("context has a NUL character: leave it out"));
        }
        Ok(context)
    }

    /// `maintenance_info.version`. Platforms before 2.15 do not know the member.
    pub(super) fn maintenance_version(&self, version: Version) -> Result<Option<String>, OsbError> {
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
pub(super) fn text<'a>(members: &'a Map<String, Value>, name: &str, shown: &str) -> Result<Option<&'a str>, OsbError> {
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

pub(in crate::osb) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
