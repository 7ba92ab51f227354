//! One delivery: sign, send, read the status.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::Scheme;
use http::{Extensions, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::connect::{Connector, Used};
use super::target::{Policy, Target, TargetError, target};
use crate::ambient;
use crate::dial::Dial;
use crate::ledger::WebhookTarget;
use crate::ledger::error::chain;

/// The signature of a body: base64 of HMAC-SHA256 under the secret that was given with the URL. A request without a
/// secret is delivered without a signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-osb-signature");

/// When the request was signed, in seconds since 1970. It is not that of the event: a repetition has a time of its own.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("x-osb-timestamp");

/// The signature of [`TIMESTAMP`], a full stop and the body: base64 of HMAC-SHA256 under the same secret. Whoever verifies
/// it and refuses old timestamps cannot be sent a request that somebody kept.
pub const SIGNATURE_V2: HeaderName = HeaderName::from_static("x-osb-signature-v2");

/// How long a delivery may take in all.
pub(super) const TOTAL: Duration = Duration::from_secs(10);
/// How long a connection is kept that carries nothing: shorter than receivers keep theirs.
const IDLE: Duration = Duration::from_secs(2);
/// How many such connections to one receiver are kept.
const KEPT: usize = 16;
/// How much of an answer is read, so that the connection can be kept, or ends in order.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a delivery failed. It names the host and not the URL, which may carry a token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The URL does not fit the policy, which may have changed since it was accepted.
    #[error("the webhook's URL {0}")]
    Target(#[from] TargetError),
    /// The host has no address.
    #[error("resolving {host}: {reason}")]
    Resolve {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// All addresses of the host are forbidden.
    #[error("{host} resolves to {address}, an address that is not on the public network")]
    Forbidden {
        /// The host.
        host: String,
        /// One of them.
        address: IpAddr,
    },
    /// No connection.
    #[error("connecting to {host}: {reason}")]
    Connect {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// The request could not be made of the URL.
    #[error("making the request to {host}: {reason}")]
    Request {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// The exchange broke.
    #[error("sending to {host}: {reason}")]
    Exchange {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// The receiver refused.
    #[error("{host} answered {status}")]
    Refused {
        /// The host.
        host: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It took too long.
    #[error("{host} did not answer within {} s", TOTAL.as_secs())]
    Late {
        /// The host.
        host: String,
    },
}

/// Delivers webhooks.
#[derive(Clone)]
pub struct Deliverer {
    policy: Policy,
    connector: Connector,
    client: Client<Connector, Full<Bytes>>,
}

impl std::fmt::Debug for Deliverer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliverer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Deliverer {
    /// A deliverer that trusts the machine's certificate authorities. It keeps connections for a short while.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(policy: Policy) -> Result<Self, rustls::Error> {
        let connector = Connector::new(policy)?;
        Ok(Self {
            policy,
            client: client(connector.clone(), KEPT),
            connector,
        })
    }

    /// The same, that reaches receivers in another way, and anew each time.
    #[must_use]
    pub fn dialling(self, dial: Arc<dyn Dial>) -> Self {
        let connector = self.connector.dialling(dial);
        Self {
            policy: self.policy,
            client: client(connector.clone(), 0),
            connector,
        }
    }

    /// Makes one attempt. Redirects are not followed: a receiver must answer 2xx itself.
    ///
    /// # Errors
    /// When the receiver did not take it, and why.
    pub async fn deliver(&self, to: &WebhookTarget, body: &str) -> Result<(), DeliveryError> {
        let target = target(to.url.expose_secret(), self.policy)?;
        let attempt = self.attempt(&target, to.secret.as_ref(), body);
        tokio::time::timeout(TOTAL, attempt).await.unwrap_or_else(|_| {
            Err(DeliveryError::Late {
                host: target.host.clone(),
            })
        })
    }

    async fn attempt(&self, target: &Target, secret: Option<&SecretString>, body: &str) -> Result<(), DeliveryError> {
        let request = request(target, secret, body, ambient::now())?;
        let response = match self.send(request.clone()).await {
            // The receiver may have closed it as we wrote to it. Whether it saw the event or not, it sees it now.
            Err(Broken { was_kept: true, .. }) => self.send(request).await,
            outcome => outcome,
        };
        let response = response.map_err(|broken| failed(target, &broken.error))?;
        let status = response.status();
        let mut body = response.into_body();
        let mut read = 0;
        while read < MAX_ANSWER {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => break,
            }
        }
        if status.is_success() {
            Ok(())
        } else {
            Err(DeliveryError::Refused {
                host: target.host.clone(),
                status,
            })
        }
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        let connection = capture_connection(&mut request);
        let outcome = self.client.request(request).await;
        let mut extras = Extensions::new();
        if let Some(connected) = &*connection.connection_metadata() {
            connected.get_extras(&mut extras);
        }
        let was_kept = extras.get::<Used>().is_some_and(Used::again);
        outcome.map_err(|error| Broken { error, was_kept })
    }
}

/// An exchange that broke.
struct Broken {
    error: hyper_util::client::legacy::Error,
    /// Whether the connection had carried another request before.
    was_kept: bool,
}

/// A client that keeps that many idle connections to a receiver.
fn client(connector: Connector, kept: usize) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(kept)
        .http1_max_buf_size(MAX_ANSWER)
        .build(connector)
}

/// What came of an exchange: why there is no connection, or how it broke.
fn failed(target: &Target, error: &(dyn std::error::Error + 'static)) -> DeliveryError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(delivery) = error.downcast_ref::<DeliveryError>() {
            return delivery.clone();
        }
        cause = error.source();
    }
    DeliveryError::Exchange {
        host: target.host.clone(),
        reason: chain(error),
    }
}

/// The signature of a body.
pub fn signature(secret: &SecretString, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    BASE64_STANDARD.encode(hmac::sign(&key, body.as_bytes()))
}

fn request(
    target: &Target,
    secret: Option<&SecretString>,
    body: &str,
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, DeliveryError> {
    let unmade = |error: http::Error| DeliveryError::Request {
        host: target.host.clone(),
        reason: error.to_string(),
    };
    let timestamp = now.as_second().to_string();
    let uri = Uri::builder()
        .scheme(if target.tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(target.authority.as_str())
        .path_and_query(target.path.clone())
        .build();
    let mut request = Request::post(uri.map_err(&unmade)?)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(USER_AGENT, HeaderValue::from_static("cache-broker"))
        .header(TIMESTAMP, &timestamp);
    if let Some(secret) = secret {
        request = request
            .header(SIGNATURE, signature(secret, body))
            .header(SIGNATURE_V2, signature(secret, &format!("{timestamp}.{body}")));
    }
    request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(unmade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_receivers_of_the_old_broker_verify() {
        // RFC 4231, test case 2.
        assert_eq!(
            signature(&"Jefe".to_owned().into(), "what do ya want for nothing?"),
            "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn without_a_secret_there_is_no_signature() {
        let target = target("https://example.com/a?b=c", Policy::Public).unwrap();
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let unsigned = request(&target, None, "{}", at).unwrap();
        assert_eq!(unsigned.headers().get(SIGNATURE), None);
        assert_eq!(unsigned.headers().get(SIGNATURE_V2), None);
        assert_eq!(unsigned.uri(), "https://example.com/a?b=c");
        let secret = "s".to_owned().into();
        let signed = request(&target, Some(&secret), "{}", at).unwrap();
        assert_eq!(signed.headers()[TIMESTAMP], "1700000000");
        assert_eq!(signed.headers()[SIGNATURE], signature(&secret, "{}"));
        assert_eq!(signed.headers()[SIGNATURE_V2], signature(&secret, "1700000000.{}"));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_dialled() {
        let deliverer = Deliverer::new(Policy::Public).unwrap();
        let to = WebhookTarget {
            url: "https://localhost:1/?token=hunter2".to_owned().into(),
            secret: None,
        };
        let error = deliverer.deliver(&to, "{}").await.unwrap_err();
        assert!(matches!(error, DeliveryError::Forbidden { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
}
