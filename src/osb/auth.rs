//! Who may speak to the broker (OSB 2.17, "Platform to Service Broker Authentication"): platforms that send one of the
//! configured pairs of user and password over HTTP Basic, and, where that is switched on, whoever has a Kubernetes token
//! and may by RBAC, or a client certificate of an authority that is trusted with that.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};

use super::error::OsbError;
use super::tls::Subject;
use super::tokens::Tokens;

/// Padding is often left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Whom a request is from when everybody is let in.
const ANYBODY: &str = "anybody";

/// A user, and the digest of `user:password`.
struct Known {
    user: String,
    digest: Digest,
}

/// Tells platforms from strangers.
pub struct Authenticator {
    basic: Option<RwLock<Vec<Known>>>,
    tokens: Option<Tokens>,
    certificates: Option<Allowed>,
}

/// Which certificates of the trusted authorities let in.
#[derive(Debug)]
enum Allowed {
    /// All.
    Any,
    /// Those that are made out to one of these names.
    Named(Vec<String>),
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("credentials", &self.basic.as_ref().map(|basic| basic.read().len()))
            .field("tokens", &self.tokens)
            .field("certificates", &self.certificates)
            .finish()
    }
}

impl Authenticator {
    /// An authenticator for those pairs of user and password, several of which may hold at once, and for tokens. Without
    /// either it lets everybody in.
    pub fn new(credentials: Option<&[(String, SecretString)]>, tokens: Option<Tokens>) -> Self {
        Self {
            basic: credentials.map(|pairs| RwLock::new(known(pairs))),
            tokens,
            certificates: None,
        }
    }

    /// Lets in who has a client certificate, too: of one of those names, or of any if there are none.
    #[must_use]
    pub fn and_certificates(self, names: &[String]) -> Self {
        Self {
            certificates: Some(if names.is_empty() {
                Allowed::Any
            } else {
                Allowed::Named(names.to_vec())
            }),
            ..self
        }
    }

    /// Has other pairs hold from now on.
    pub fn replace(&self, credentials: &[(String, SecretString)]) {
        if let Some(basic) = &self.basic {
            *basic.write() = known(credentials);
        }
    }

    /// The name of whom a request is from. Credentials that are sent are the ones that count, before a certificate. The
    /// time it takes does not tell which pair came close: digests of one length are compared, and always all of them.
    ///
    /// # Errors
    /// When the request has no credentials that are known, or those of somebody who may not, or nobody can be asked.
    pub(super) async fn authenticate(
        &self,
        method: &Method,
        headers: &HeaderMap,
        subject: Option<&Subject>,
    ) -> Result<String, OsbError> {
        if self.basic.is_none() && self.tokens.is_none() && self.certificates.is_none() {
            return Ok(ANYBODY.to_owned());
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer(headers)) {
            return tokens.caller(token, method).await;
        }
        if let Some(pairs) = self.basic.as_ref().filter(|_| headers.contains_key(AUTHORIZATION)) {
            return given(headers, &pairs.read());
        }
        match (&self.certificates, subject) {
            (Some(allowed), Some(subject)) => allowed.caller(subject),
            _ => Err(OsbError::unauthorized()),
        }
    }
}

impl Allowed {
    /// The name of who has a certificate.
    fn caller(&self, subject: &Subject) -> Result<String, OsbError> {
        match self {
            Self::Named(names) if !names.iter().any(|name| subject.is_named(name)) => {
                Err(OsbError::forbidden(format!(
                    "the certificate of {} is not one of those that are let in: have one of its names put into OSB_CLIENT_NAMES",
                    subject.as_str()
                )))
            }
            Self::Named(_) | Self::Any => Ok(format!("certificate:{}", subject.as_str())),
        }
    }
}

/// Whose pair is sent.
fn given(headers: &HeaderMap, pairs: &[Known]) -> Result<String, OsbError> {
    let given = digest(&SHA256, &basic(headers).ok_or_else(OsbError::unauthorized)?);
    let mut caller = None;
    for known in pairs {
        if verify_slices_are_equal(known.digest.as_ref(), given.as_ref()).is_ok() {
            caller = Some(known.user.clone());
        }
    }
    caller.ok_or_else(OsbError::unauthorized)
}

fn known(pairs: &[(String, SecretString)]) -> Vec<Known> {
    pairs
        .iter()
        .map(|(user, password)| Known {
            user: user.clone(),
            digest: digest(&SHA256, format!("{user}:{}", password.expose_secret()).as_bytes()),
        })
        .collect()
}

/// The token of a Bearer header (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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
        Authenticator::new(Some(&[pair("old", "a:b"), pair("new", "pässword")]), None)
    }

    async fn caller(authenticator: &Authenticator, headers: &HeaderMap) -> Result<String, OsbError> {
        authenticator.authenticate(&Method::GET, headers, None).await
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[tokio::test]
    async fn several_pairs_hold_at_once() {
        for (pair, user) in [("old:a:b", "old"), ("new:pässword", "new")] {
            let encoded = BASE64_STANDARD.encode(pair);
            for value in [
                format!("Basic {encoded}"),
                format!("basic {encoded}"),
                format!("BASIC  {}", encoded.trim_end_matches('=')),
            ] {
                assert_eq!(
                    caller(&authenticator(), &with(&value)).await.as_deref(),
                    Ok(user),
                    "{value}"
                );
            }
        }
    }

    #[tokio::test]
    async fn everybody_else_is_a_stranger() {
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
                caller(&authenticator(), &with(&value)).await,
                Err(OsbError::unauthorized()),
                "{value}"
            );
        }
        assert!(caller(&authenticator(), &HeaderMap::new()).await.is_err());
        let open = Authenticator::new(None, None);
        assert_eq!(caller(&open, &HeaderMap::new()).await.as_deref(), Ok(ANYBODY));
        let closed = Authenticator::new(Some(&[]), None);
        assert!(caller(&closed, &with(&encoded(":"))).await.is_err());
    }

    #[tokio::test]
    async fn a_pair_that_was_replaced_holds_no_longer() {
        let authenticator = authenticator();
        let header = |pair: &str| with(&format!("Basic {}", BASE64_STANDARD.encode(pair)));
        authenticator.replace(&[("next".to_owned(), "c".to_owned().into())]);
        assert!(caller(&authenticator, &header("old:a:b")).await.is_err());
        assert_eq!(caller(&authenticator, &header("next:c")).await.as_deref(), Ok("next"));
    }
}
