//! A platform's receiver of webhooks.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::PATIENCE;
use super::http::escape;
use super::report::{Failure, Report};

/// The header with base64 of HMAC-SHA256 of the body.
const SIGNATURE: &str = "x-osb-signature";

/// Listens for webhooks; the secret that they are signed with is known to nobody else but the broker.
pub(super) struct Receiver {
    url: String,
    secret: String,
    received: mpsc::UnboundedReceiver<Received>,
}

struct Received {
    signature: Option<String>,
    body: Bytes,
}

impl Receiver {
    pub(super) async fn start(address: Ipv4Addr) -> Result<Self, String> {
        let failed = |error| format!("listening on {address}: {error}");
        let listener = TcpListener::bind((address, 0)).await.map_err(failed)?;
        let url = format!("http://{}/events", listener.local_addr().map_err(failed)?);
        let (send, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let send = send.clone();
                let service = service_fn(move |request| take(request, send.clone()));
                tokio::spawn(async move {
                    // A broken connection shows as an event that does not come.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self {
            url,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            received,
        })
    }

    /// What to add to the query of a request whose operation's end is to be told.
    pub(super) fn query(&self) -> String {
        format!("&webhook={}&secret={}", escape(&self.url), self.secret)
    }

    /// Waits for the event that tells the good end of an instance's operation, and checks that it is genuine.
    pub(super) async fn expect(&mut self, report: &Report, instance: &str, kind: &str) -> Result<(), Failure> {
        report
            .step(&format!("receive the webhook of the {kind}, verify it"), async {
                let received = tokio::time::timeout(PATIENCE, self.received.recv())
                    .await
                    .map_err(|_| format!("none came within {} s", PATIENCE.as_secs()))?
                    .ok_or("the receiver ended")?;
                let event = received.verified(&self.secret)?;
                let member = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
                if (member("instance_id"), member("kind"), member("state")) != (instance, kind, "succeeded") {
                    return Err(format!("it says something else: {event}"));
                }
                Ok(((), format!("signed, {:?}", member("description"))))
            })
            .await
    }
}

impl Received {
    fn verified(&self, secret: &str) -> Result<Value, String> {
        let signature = self
            .signature
            .as_deref()
            .ok_or_else(|| format!("it has no {SIGNATURE}"))?;
        let signature = BASE64_STANDARD
            .decode(signature)
            .map_err(|error| format!("its {SIGNATURE} is not base64: {error}"))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, &self.body, &signature)
            .map_err(|_| format!("its {SIGNATURE} is not that of its body under the secret"))?;
        serde_json::from_slice(&self.body).map_err(|error| format!("its body is not JSON: {error}"))
    }
}

async fn take(
    request: Request<Incoming>,
    send: mpsc::UnboundedSender<Received>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let signature = parts.headers.get(SIGNATURE).and_then(|value| value.to_str().ok());
    let signature = signature.map(ToOwned::to_owned);
    let mut response = Response::new(Full::default());
    match body.collect().await {
        // Nobody waits for it if the demo has ended.
        Ok(body) => drop(send.send(Received {
            signature,
            body: body.to_bytes(),
        })),
        Err(_) => *response.status_mut() = http::StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(signature: Option<&str>) -> Received {
        Received {
            signature: signature.map(ToOwned::to_owned),
            body: Bytes::from_static(br#"{"state":"succeeded"}"#),
        }
    }

    #[test]
    fn takes_only_what_is_signed_with_the_secret() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let genuine = BASE64_STANDARD.encode(hmac::sign(&key, br#"{"state":"succeeded"}"#));
        let event = received(Some(&genuine)).verified("secret").unwrap();
        assert_eq!(event, serde_json::json!({ "state": "succeeded" }));
        assert!(received(Some(&genuine)).verified("another").is_err());
        assert!(received(Some("AAAA")).verified("secret").is_err());
        assert!(received(Some("?")).verified("secret").is_err());
        assert!(received(None).verified("secret").is_err());
    }
}
