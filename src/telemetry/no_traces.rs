//! What stands in the place of traces where they were not built in.

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Identity;

/// Traces that nobody is told.
#[derive(Debug)]
pub struct Traces;

/// Tells nobody: the variable is often set for every program of a cluster.
///
/// # Errors
/// Never.
pub fn begin<S: Subscriber>(_: &str) -> Result<(impl Layer<S> + use<S>, Traces), String> {
    Ok::<_, String>((Identity::new(), Traces))
}

impl Traces {
    /// What the log is to say of them as soon as there is one.
    pub fn remark(&self) -> Option<&'static str> {
        Some(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and this program was built without traces (--features otlp): none are told",
        )
    }

    /// Nothing is to be ended.
    ///
    /// # Errors
    /// Never.
    pub fn end(&self) -> Result<(), String> {
        Ok(())
    }
}
