//! One delivery: resolve, check, dial, send, read the status.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::target::{Policy, Target, TargetError, target};
use crate::ambient;
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
/// How long opening the connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// How many of a host's addresses are tried.
const MAX_ADDRESSES: usize = 4;
/// How much of an answer is read, so that the connection ends in order.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a delivery failed. It names the host and not the URL, which may carry a token.
#[derive(Debug, thiserror::Error)]
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

/// A connection to a receiver.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// A connection to a receiver, later.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Line>>> + Send>>;

/// Another way than the network to reach receivers.
pub trait Dial: Send + Sync {
    /// Opens a connection to a target.
    fn dial(&self, target: &Target) -> Dialling;
}

/// Delivers webhooks.
#[derive(Clone)]
pub struct Deliverer {
    policy: Policy,
    tls: TlsConnector,
    dial: Option<Arc<dyn Dial>>,
}

impl std::fmt::Debug for Deliverer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliverer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Deliverer {
    /// A deliverer that trusts the machine's certificate authorities.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(policy: Policy) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            policy,
            tls: TlsConnector::from(Arc::new(config)),
            dial: None,
        })
    }

    /// The same, that reaches receivers in another way.
    #[must_use]
    pub fn dialling(self, dial: Arc<dyn Dial>) -> Self {
        Self {
            dial: Some(dial),
            ..self
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
        let host = || target.host.clone();
        let request = request(target, secret, body, ambient::now())?;
        let connect = self.connect(target);
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .unwrap_or_else(|_| Err(connecting(target, &format!("not done within {} s", CONNECT.as_secs()))))?;
        let status = if target.tls {
            let name = ServerName::try_from(host()).map_err(|error| connecting(target, &error))?;
            let handshake = tokio::time::timeout(CONNECT, self.tls.connect(name, stream))
                .await
                .map_err(|_| connecting(target, &"TLS took too long"))?;
            exchange(target, handshake.map_err(|error| connecting(target, &error))?, request).await?
        } else {
            exchange(target, stream, request).await?
        };
        if status.is_success() {
            Ok(())
        } else {
            Err(DeliveryError::Refused { host: host(), status })
        }
    }

    /// Dials an address that was checked: a second look-up could give another one.
    async fn connect(&self, target: &Target) -> Result<Box<dyn Line>, DeliveryError> {
        if let Some(dial) = &self.dial {
            let line = dial.dial(target).await;
            return line.map_err(|error| connecting(target, &error));
        }
        let unresolved = |reason: String| DeliveryError::Resolve {
            host: target.host.clone(),
            reason,
        };
        let addresses: Vec<SocketAddr> = lookup_host((target.host.as_str(), target.port))
            .await
            .map_err(|error| unresolved(error.to_string()))?
            .collect();
        let first = addresses
            .first()
            .ok_or_else(|| unresolved("it has no address".to_owned()))?
            .ip();
        let mut refusal = DeliveryError::Forbidden {
            host: target.host.clone(),
            address: first,
        };
        let allowed = addresses.iter().filter(|address| self.policy.allows(address.ip()));
        for address in allowed.take(MAX_ADDRESSES) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => refusal = connecting(target, &error),
            }
        }
        Err(refusal)
    }
}

fn connecting(target: &Target, reason: &dyn std::fmt::Display) -> DeliveryError {
    DeliveryError::Connect {
        host: target.host.clone(),
        reason: reason.to_string(),
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
    let timestamp = now.as_second().to_string();
    let mut request = Request::post(target.path.as_str())
        .header(HOST, &target.authority)
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
        .map_err(|error| DeliveryError::Request {
            host: target.host.clone(),
            reason: error.to_string(),
        })
}

async fn exchange<S>(target: &Target, stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, DeliveryError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| DeliveryError::Exchange {
        host: target.host.clone(),
        reason: chain(&error),
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_ANSWER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let mut body = response.into_body();
        let mut read = 0;
        while read < MAX_ANSWER {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => break,
            }
        }
        Ok(status)
    };
    // The connection is driven here rather than in a task, so that it ends with the attempt.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        status = talk => status,
        never = connection => match never {},
    }
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
        assert_eq!(unsigned.uri(), "/a?b=c");
        assert_eq!(unsigned.headers()[HOST], "example.com");
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
