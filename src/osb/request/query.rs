//! The query string of a request, and percent-encoding.

use super::id;
use crate::ledger::{PlanId, ServiceId, WebhookTarget};
use crate::osb::error::OsbError;
use crate::webhooks::{Policy, target};

/// The parameters of a query string. The first of one name that is not empty counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::osb) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string as forms are encoded. What cannot be decoded stands as it is.
    pub(in crate::osb) fn parse(raw: &str) -> Self {
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
    pub(in crate::osb) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn accepts_incomplete(&self) -> bool {
        self.get("accepts_incomplete")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `service_id` and `plan_id`, which deletes must have.
    pub(super) fn ids(&self) -> Result<(ServiceId, PlanId), OsbError> {
        let required = |name: &str| {
            self.get(name).ok_or_else(|| {
                OsbError::bad_request(format!("the query parameter {name} is missing: send ?{name}=<id>"))
            })
        };
        let (service, plan) = (required("service_id")?, required("plan_id")?);
        Ok((id("service_id", service)?, id("plan_id", plan)?))
    }

    /// Where a platform wants to be told: `?webhook=<URL>&secret=<secret>`.
    pub(in crate::osb) fn webhook(&self, policy: Policy) -> Result<Option<WebhookTarget>, OsbError> {
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
pub(in crate::osb) fn decoded(text: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_read_leniently() {
        let query = Query::parse("a=&a=1&a=2&&=x&b&c=%2F+%zz&accepts_incomplete=True");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), None);
        assert_eq!(query.get("c"), Some("%2F+%zz"));
        assert!(query.accepts_incomplete());
        assert_eq!(Query::parse("d=a+b%26c").get("d"), Some("a b&c"));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text: String) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decoded(&encoded), Some(text));
        }
    }
}
