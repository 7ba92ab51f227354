//! What the broker says of itself: logs, metrics, traces and health.

pub mod health;
pub mod metrics;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "no_traces.rs"]
mod traces;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::settings::LogFormat;
use traces::Traces;

/// What is logged, which can be changed while the process runs.
#[derive(Clone, Debug)]
pub struct Levels {
    filter: reload::Handle<EnvFilter, Registry>,
    own: String,
}

impl Levels {
    /// Changes what is logged; without directives it is what the process was started with. Returns what holds now.
    ///
    /// # Errors
    /// When the directives cannot be understood; then nothing is changed.
    pub fn set<'a>(&'a self, directives: Option<&'a str>) -> Result<&'a str, String> {
        let directives = directives.map_or(self.own.as_str(), str::trim);
        let changed = self.filter.reload(filter(directives)?);
        changed.map_err(|error| format!("changing what is logged: {error}"))?;
        Ok(directives)
    }
}

fn filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives)
        .map_err(|error| format!("RUST_LOG {directives:?}: {error}; use a level such as info, or module=level"))
}

/// What was begun.
#[derive(Debug)]
pub struct Telemetry {
    /// What is logged.
    pub levels: Levels,
    traces: Option<Traces>,
}

impl Telemetry {
    /// Tells what was not told yet. The runtime must be there still.
    pub fn end(&self) {
        if let Some(Err(error)) = self.traces.as_ref().map(Traces::end) {
            tracing::warn!(%error, "the end");
        }
    }
}

/// Begins logging to standard error, panics included: they are told like everything else, with what was going on. What goes
/// on is told to a collector of traces, too, if there is one; that takes a runtime.
///
/// # Errors
/// When the directives cannot be understood, or traces cannot be told.
pub fn log(directives: &str, format: LogFormat, collector: Option<&str>) -> Result<Telemetry, String> {
    let (filter, handle) = reload::Layer::new(filter(directives)?);
    let (layer, traces) = collector.map(traces::begin).transpose()?.unzip();
    let registry = tracing_subscriber::registry().with(filter).with(layer);
    let begun = match format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    begun.map_err(|error| format!("beginning to log: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, reason = panic.payload_as_str(), "panic");
    }));
    if let Some(remark) = traces.as_ref().and_then(Traces::remark) {
        tracing::warn!("{remark}");
    }
    let own = directives.to_owned();
    Ok(Telemetry {
        levels: Levels { filter: handle, own },
        traces,
    })
}
