//! Traces reach a collector: `make traces`, as the feature is not built otherwise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::convert::Infallible;
use std::net::TcpListener as Listener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(90);

/// What a collector was sent: where to, as what, and the bytes.
struct Sent {
    path: String,
    content_type: String,
    body: Bytes,
}

/// A collector of OTLP over HTTP on a loopback port.
async fn collector() -> (String, mpsc::UnboundedReceiver<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, sent) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let send = send.clone();
            let take = service_fn(move |request: Request<Incoming>| {
                let send = send.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let taken = Sent {
                        path: head.uri.path().to_owned(),
                        content_type: head.headers["content-type"].to_str().unwrap().to_owned(),
                        body: body.collect().await.unwrap().to_bytes(),
                    };
                    let _ = send.send(taken);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), take));
        }
    });
    (url, sent)
}

/// The broker, with a database and a cluster that nobody answers at, refuses a stranger; and that is a span.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_that_reaches_a_collector() {
    let (collector, mut sent) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let kubeconfig = file(
        "kubeconfig",
        r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}"#,
    );
    let keys = file("keys", "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
    let credentials = file("credentials", "platform:of-many-letters\n");
    let free = || Listener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = free();
    let mut broker = Command::new(env!("CARGO_BIN_EXE_cache-broker"))
        .args(["--role=api", "--insecure", "--listen-address=127.0.0.1"])
        .env_clear()
        .env("PORT", port.to_string())
        .env("HEALTH_PORT", free().to_string())
        .env("HEALTH_ADDRESS", "127.0.0.1")
        .env("DATABASE_URL", "postgres://u:p@127.0.0.1:9/d?sslmode=disable")
        .env("KUBECONFIG", kubeconfig)
        .env("USE_LOCAL_KUBE_CONTEXT", "true")
        .env("USE_KUBERNETES", "true")
        .env("NAME_PREFIX", "traces")
        .env("LEDGER_KEYS_FILE", keys)
        .env("OSB_CREDENTIALS_FILE", credentials)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let began = Instant::now();
    let answer = loop {
        let request = Request::get(format!("http://127.0.0.1:{port}/v2/catalog"))
            .header("x-broker-api-version", "2.17")
            .header("x-broker-api-request-identity", "the-traced-one")
            .body(Full::default())
            .unwrap();
        match client.request(request).await {
            Ok(answer) => break answer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answer.status(), 401);
    // What is waiting to be told is told at the end.
    let id = rustix::process::Pid::from_raw(broker.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, broker.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    let batch = tokio::time::timeout(PATIENCE, sent.recv()).await.unwrap().unwrap();
    assert_eq!(
        (batch.path.as_str(), batch.content_type.as_str()),
        ("/v1/traces", "application/x-protobuf")
    );
    // Strings stand in protobuf as they are, their length before them.
    for text in ["service.name", "cache-broker", "request", "identity", "the-traced-one"] {
        let field = [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
        assert!(
            batch.body.windows(field.len()).any(|window| window == field),
            "no {text} in {:?}",
            batch.body
        );
    }
    assert!(!batch.body.windows(15).any(|window| window == b"of-many-letters"));
}
