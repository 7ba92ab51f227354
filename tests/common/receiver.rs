//! A receiver of webhooks on a loopback port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Longer than a delivery takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct Received {
    #[allow(dead_code, reason = "not every crate of tests reads it")]
    pub path: String,
    pub headers: HeaderMap,
    pub text: String,
}

impl Received {
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

pub struct Receiver {
    pub url: String,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    /// A receiver that gives those answers first, then 200.
    pub async fn start(answers: impl IntoIterator<Item = u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (send, received) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<u16>>> = Arc::new(Mutex::new(answers.into_iter().collect()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (send, answers) = (send.clone(), answers.clone());
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                    TokioIo::new(stream),
                    service_fn(move |request: Request<Incoming>| answer(request, send.clone(), answers.clone())),
                ));
            }
        });
        Self { url, received }
    }

    pub async fn next(&mut self) -> Received {
        tokio::time::timeout(PATIENCE, self.received.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// What came since the last look.
    #[allow(dead_code, reason = "not every crate of tests asks")]
    pub fn drain(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }

    /// Asserts that nothing comes for a while.
    #[allow(dead_code, reason = "not every crate of tests asserts it")]
    pub async fn silent(&mut self, time: Duration) {
        if let Ok(received) = tokio::time::timeout(time, self.received.recv()).await {
            panic!("{received:?}");
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    send: mpsc::UnboundedSender<Received>,
    answers: Arc<Mutex<VecDeque<u16>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let _ = send.send(Received {
        path: parts.uri.to_string(),
        headers: parts.headers,
        text,
    });
    let status = answers.lock().unwrap().pop_front().unwrap_or(200);
    Ok(Response::builder().status(status).body(Full::default()).unwrap())
}
