//! Who may speak to the broker (OSB 2.17, "Platform to Service Broker Authentication"): platforms that send one of the
//! configured pairs of user and password over HTTP Basic.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};

use super::error::OsbError;

/// Padding is often left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Tells platforms from strangers.
pub struct Authenticator {
    /// Digests of `user:password`; `None` lets everybody in.
    basic: Option<Vec<Digest>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("credentials", &self.basic.as_ref().map(Vec::len))
            .finish()
    }
}

impl Authenticator {
    /// An authenticator for those pairs of user and password, several of which may hold at once; `None` lets everybody
    /// in.
    pub fn new(credentials: Option<&[(String, SecretString)]>) -> Self {
        Self {
            basic: credentials.map(|pairs| {
                pairs
                    .iter()
                    .map(|(user, password)| digest(&SHA256, format!("{user}:{}", password.expose_secret()).as_bytes()))
                    .collect()
            }),
        }
    }

    /// Lets a request in or not. The time it takes does not tell which pair came close: digests of one length are
    /// compared, and always all of them.
    ///
    /// # Errors
    /// When the request has no credentials that are known.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<(), OsbError> {
        let Some(known) = &self.basic else {
            return Ok(());
        };
        let given = basic(headers).ok_or_else(OsbError::unauthorized)?;
        let given = digest(&SHA256, &given);
        let matches = known.iter().fold(false, |matches, digest| {
            matches | verify_slices_are_equal(digest.as_ref(), given.as_ref()).is_ok()
        });
        if matches { Ok(()) } else { Err(OsbError::unauthorized()) }
    }
}

/// The text `user:password` of a Basic header (RFC 7617).
fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use http::HeaderValue;

    use super::*;

    fn authenticator() -> Authenticator {
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned().into());
        Authenticator::new(Some(&[pair("old", "a:b"), pair("new", "pässword")]))
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[test]
    fn several_pairs_hold_at_once() {
        for pair in ["old:a:b", "new:pässword"] {
            let encoded = BASE64_STANDARD.encode(pair);
            for value in [
                format!("Basic {encoded}"),
                format!("basic {encoded}"),
                format!("BASIC  {}", encoded.trim_end_matches('=')),
            ] {
                assert_eq!(authenticator().authenticate(&with(&value)), Ok(()), "{value}");
            }
        }
    }

    #[test]
    fn everybody_else_is_a_stranger() {
        let encoded = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for value in [
            encoded("old:pässword"),
            encoded("old:a:b "),
            encoded("old"),
            encoded(""),
            "Basic".to_owned(),
            "Basic %%%".to_owned(),
            format!("Bearer {}", BASE64_STANDARD.encode("old:a:b")),
            String::new(),
        ] {
            assert_eq!(
                authenticator().authenticate(&with(&value)),
                Err(OsbError::unauthorized()),
                "{value}"
            );
        }
        assert!(authenticator().authenticate(&HeaderMap::new()).is_err());
        assert!(Authenticator::new(None).authenticate(&HeaderMap::new()).is_ok());
        assert!(
            Authenticator::new(Some(&[]))
                .authenticate(&with(&encoded(":")))
                .is_err()
        );
    }
}
