//! The API version a platform speaks (OSB 2.17, "API Version Header").

use http::{HeaderMap, HeaderName};

use super::error::OsbError;

/// The header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-broker-api-version");

/// A minor version of API 2 that is served. A platform of a later one is served as the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 2.13
    V13,
    /// 2.14: fetching instances and bindings.
    V14,
    /// 2.15: maintenance info, endpoints, polling durations.
    V15,
    /// 2.16: usability in errors, metadata, conditional catalog requests.
    V16,
    /// 2.17: rotation of bindings.
    V17,
}

impl Version {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17];

    /// The version a request asks for.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, OsbError> {
        let Some(value) = headers.get(HEADER) else {
            return Err(OsbError::version(
                "the header X-Broker-API-Version is missing: send 2.17",
            ));
        };
        value.to_str().ok().and_then(Self::parse).ok_or_else(|| {
            OsbError::version("this X-Broker-API-Version is not supported: send 2.13 or a later 2.x, such as 2.17")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let minor = text.trim().strip_prefix("2.")?;
        if minor.is_empty() || minor.len() > 3 || !minor.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match minor.parse::<u16>().ok()? {
            ..13 => None,
            13 => Some(Self::V13),
            14 => Some(Self::V14),
            15 => Some(Self::V15),
            16 => Some(Self::V16),
            17.. => Some(Self::V17),
        }
    }

    /// As it stands in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V13 => "2.13",
            Self::V14 => "2.14",
            Self::V15 => "2.15",
            Self::V16 => "2.16",
            Self::V17 => "2.17",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serves_2_13_and_all_after_it() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert_eq!(Version::parse("2.18"), Some(Version::V17));
        assert_eq!(Version::parse(" 2.99 "), Some(Version::V17));
        for text in [
            "", "2", "2.", "2.12", "2.0", "1.17", "3.0", "2.x", "2.17.1", "2.-14", "2.+14", "v2.17", "2.99999",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_judged_without_a_panic(bytes: Vec<u8>) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
                headers.insert(HEADER, value);
            }
            if let Err(error) = Version::of(&headers) {
                prop_assert_eq!(error.status(), http::StatusCode::PRECONDITION_FAILED);
            }
        }
    }
}
