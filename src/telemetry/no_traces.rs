//! What stands in the place of traces where they were not built in.

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Identity;

/// What cannot be begun.
#[derive(Debug)]
pub enum Traces {}

/// Says that there are none.
///
/// # Errors
/// Always.
pub fn begin<S: Subscriber>(_: &str) -> Result<(impl Layer<S> + use<S>, Traces), String> {
    let none: Result<(Identity, Traces), String> = Err(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, and this program was built without traces: build it with --features otlp, \
         or unset it"
            .to_owned(),
    );
    none
}

impl Traces {
    /// Nothing is to be ended.
    ///
    /// # Errors
    /// Never.
    pub fn end(&self) -> Result<(), String> {
        match *self {}
    }
}
