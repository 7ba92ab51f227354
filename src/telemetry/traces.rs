//! Traces: which steps a request or a reconcile consisted of, told to a collector by OTLP (protobuf over HTTP).
//!
//! Spans leave in batches, from a queue that is bounded: what a collector is too slow for is lost, and nothing waits for it.
//! The SDK's own `OTEL_*` variables say the rest: sampling, the name of the service, headers, sizes of batches.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::tls;

/// How long a collector has for a batch.
const DEADLINE: Duration = Duration::from_secs(10);
/// How much is read of what a collector answers, in bytes.
const ANSWER: usize = 64 * 1024;
/// How long the last batch may take when the process ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What was begun, and is to be ended.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

/// Begins to tell the collector at a base URL, such as `http://collector:4318`, from within a runtime.
///
/// # Errors
/// When the URL is none, or TLS cannot be set up.
pub fn begin<S>(endpoint: &str) -> Result<(impl Layer<S> + use<S>, Traces), String>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let attempt = |error: &dyn std::fmt::Display| format!("OTEL_EXPORTER_OTLP_ENDPOINT {endpoint}: {error}");
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new().map_err(|error| attempt(&error))?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(DEADLINE)
        .build()
        .map_err(|error| attempt(&error))?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).build())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(env!("CARGO_PKG_NAME")));
    Ok((layer, Traces(provider)))
}

impl Traces {
    /// What the log is to say of them as soon as there is one.
    pub fn remark(&self) -> Option<&'static str> {
        None
    }

    /// Tells what was not told yet. The runtime that it began in must be there still.
    ///
    /// # Errors
    /// When the collector does not take it in time.
    pub fn end(&self) -> Result<(), String> {
        self.0
            .shutdown_with_timeout(FAREWELL)
            .map_err(|error| format!("telling the last traces: {error}"))
    }
}

/// The way to a collector. Batches are made by a thread that has no runtime, so requests are made on the process's.
#[derive(Clone, Debug)]
struct Collector {
    runtime: Handle,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Collector {
    fn new() -> Result<Self, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(tls::authorities())
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            runtime,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let work = async {
            let response = self.client.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(DEADLINE, work).await?
    }
}

impl HttpClient for Collector {
    fn send_bytes<'life, 'sending>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sending>>
    where
        'life: 'sending,
        Self: 'sending,
    {
        let sending = self.runtime.spawn(self.clone().send(request));
        Box::pin(async move { sending.await? })
    }
}
