//! A client of HTTP APIs that speak JSON.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::PATIENCE;

/// A client with the headers that it adds to every request.
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    headers: Vec<(&'static str, String)>,
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// As JSON, or as a string if it is none.
    pub(super) body: Value,
}

impl Http {
    pub(super) fn new(headers: Vec<(&'static str, String)>) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            headers,
        }
    }

    pub(super) async fn get(&self, url: &str) -> Result<Reply, String> {
        self.send(Method::GET, url, None).await
    }

    pub(super) async fn send(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Reply, String> {
        let what = format!("{method} {}", url.split('?').next().unwrap_or(url));
        let failed = |error: &dyn std::fmt::Display| format!("{what}: {error}");
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|error| failed(&error))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| failed(&error))?;
            let status = response.status();
            let bytes = response.into_body().collect().await.map_err(|error| failed(&error))?;
            Ok::<_, String>((status, bytes.to_bytes()))
        };
        let (status, bytes) = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| failed(&format!("no answer within {} s", PATIENCE.as_secs())))??;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Reply { status, body })
    }
}

impl Reply {
    /// Fails unless the status is one of those. Bodies of good answers have credentials in them and are not shown.
    pub(super) fn expect(self, what: &str, wanted: &[StatusCode]) -> Result<Self, String> {
        if wanted.contains(&self.status) {
            Ok(self)
        } else if self.status.is_success() {
            Err(format!("{what} was answered {}, expected {wanted:?}", self.status))
        } else {
            Err(format!("{what} was answered {}: {}", self.status, self.body))
        }
    }

    /// A member of the body that is a string.
    pub(super) fn text(&self, member: &str) -> Option<&str> {
        self.body.get(member)?.as_str()
    }
}

/// Escapes a value for a query.
pub(super) fn escape(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_query_would_read_as_more() {
        assert_eq!(escape("http://a:1/?b=c&d"), "http%3A%2F%2Fa%3A1%2F%3Fb%3Dc%26d");
        assert_eq!(escape("é+"), "%C3%A9%2B");
    }

    #[test]
    fn an_unexpected_answer_says_what_it_was() {
        let reply = Reply {
            status: StatusCode::CONFLICT,
            body: serde_json::json!({ "description": "no" }),
        };
        let error = reply.expect("bind", &[StatusCode::CREATED]).err();
        assert_eq!(
            error.as_deref(),
            Some(r#"bind was answered 409 Conflict: {"description":"no"}"#)
        );
    }
}
