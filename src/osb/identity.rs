//! Whom a request is from, as its headers say (OSB 2.17, "Originating Identity", "Request Identity").

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::error::OsbError;
use super::request::has_nul;
use crate::ledger::{Asker, Originating};

/// The header by which platforms find a request in our log.
pub(super) const REQUEST: HeaderName = HeaderName::from_static("x-broker-api-request-identity");
/// The header that names a platform's user.
const ORIGINATING: HeaderName = HeaderName::from_static("x-broker-api-originating-identity");
/// The longest request identity that is kept.
const MAX_REQUEST: usize = 255;
/// The longest name of a platform, and the longest description of a user, in bytes.
const MAX_PLATFORM: usize = 255;
const MAX_USER: usize = 8 * 1024;

/// Padding is often left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The request identity as it is kept.
pub(super) fn request(headers: &HeaderMap) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(REQUEST)?.as_bytes());
    let text: String = text
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_REQUEST)
        .collect();
    (!text.is_empty()).then_some(text)
}

/// By what the log names a request, and the header that its reply echoes: the platform's name for it, or else one of
/// ours, which is no platform's and is echoed only where it helps.
pub(super) fn shown(headers: &HeaderMap) -> (String, Option<HeaderValue>) {
    static PROCESS: LazyLock<u32> = LazyLock::new(rand::random);
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let given = headers.get(REQUEST).cloned();
    let name =
        request(headers).unwrap_or_else(|| format!("{:08x}-{}", *PROCESS, REQUESTS.fetch_add(1, Ordering::Relaxed)));
    (name, given)
}

/// Who asks.
///
/// # Errors
/// When the originating identity is not as the specification has it.
pub(super) fn asker(caller: String, headers: &HeaderMap) -> Result<Asker, OsbError> {
    Ok(Asker {
        caller,
        originating: originating(headers)?,
        request_identity: request(headers),
    })
}

fn originating(headers: &HeaderMap) -> Result<Option<Originating>, OsbError> {
    let Some(value) = headers.get(ORIGINATING) else {
        return Ok(None);
    };
    let wrong = |why: &str| {
        OsbError::bad_request(format!(
            "X-Broker-API-Originating-Identity {why}: send the platform, a space, and a JSON object in base64, or leave it out"
        ))
    };
    let text = value.to_str().map_err(|_| wrong("has characters beyond ASCII"))?;
    let (platform, encoded) = text.trim().split_once(' ').ok_or_else(|| wrong("has no two parts"))?;
    if platform.is_empty() || platform.len() > MAX_PLATFORM {
        return Err(wrong("has no platform, or one that is too long"));
    }
    let decoded = BASE64.decode(encoded.trim()).map_err(|_| wrong("is not base64"))?;
    if decoded.len() > MAX_USER {
        return Err(wrong("is too long"));
    }
    match serde_json::from_slice(&decoded) {
        Ok(Value::Object(identity)) if !has_nul(&Value::Object(identity.clone())) => Ok(Some(Originating {
            platform: platform.to_owned(),
            identity,
        })),
        Ok(Value::Object(_)) => Err(wrong("has a NUL character")),
        Ok(_) => Err(wrong("is no JSON object")),
        Err(_) => Err(wrong("is not JSON")),
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use http::StatusCode;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn with(name: HeaderName, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn a_user_is_read_as_the_platform_says() {
        let user = json!({ "user_id": "683ea748", "groups": ["a"] });
        let encoded = BASE64_STANDARD.encode(user.to_string());
        for value in [
            format!("cloudfoundry {encoded}"),
            format!("cloudfoundry  {}", encoded.trim_end_matches('=')),
        ] {
            let asker = asker("u".to_owned(), &with(ORIGINATING, value.as_bytes())).unwrap();
            let originating = asker.originating.unwrap();
            assert_eq!(originating.platform, "cloudfoundry");
            assert_eq!(Value::Object(originating.identity), user);
        }
        assert_eq!(asker("u".to_owned(), &HeaderMap::new()).unwrap().originating, None);
    }

    #[test]
    fn every_request_has_a_name_and_only_the_platforms_is_its_own() {
        let (name, echoed) = shown(&with(REQUEST, b"request-1"));
        assert_eq!(
            (name.as_str(), echoed.unwrap().as_bytes()),
            ("request-1", &b"request-1"[..])
        );
        let (first, second) = (shown(&HeaderMap::new()), shown(&HeaderMap::new()));
        assert_ne!(first.0, second.0);
        assert_eq!((first.1, second.1), (None, None));
        assert_eq!(request(&HeaderMap::new()), None);
    }

    #[test]
    fn anything_else_is_a_bad_request() {
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        for value in [
            String::new(),
            "cloudfoundry".to_owned(),
            "cloudfoundry %%%".to_owned(),
            format!("cloudfoundry {}", encoded("not json")),
            format!("cloudfoundry {}", encoded("[1]")),
            format!("cloudfoundry {}", encoded("{\"a\":\"\\u0000\"}")),
            format!(
                "cloudfoundry {}",
                encoded(&json!({ "a": "x".repeat(MAX_USER) }).to_string())
            ),
            format!("{} {}", "p".repeat(MAX_PLATFORM + 1), encoded("{}")),
            encoded("{}"),
        ] {
            let error = originating(&with(ORIGINATING, value.as_bytes())).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_judged_without_a_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(ORIGINATING, value.clone()), (REQUEST, value)]);
                if let Err(error) = asker(String::new(), &headers) {
                    prop_assert_eq!(error.status(), StatusCode::BAD_REQUEST);
                }
                prop_assert!(request(&headers).is_none_or(|text| !text.is_empty() && !text.contains('\n')));
            }
        }
    }
}
