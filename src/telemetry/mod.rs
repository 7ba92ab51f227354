//! What the broker says of itself: logs, metrics and health.

pub mod health;
pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::settings::LogFormat;

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

/// Begins logging to standard error, panics included: they are told like everything else, with what was going on.
///
/// # Errors
/// When the directives cannot be understood.
pub fn log(directives: &str, format: LogFormat) -> Result<Levels, String> {
    let (filter, handle) = reload::Layer::new(filter(directives)?);
    let registry = tracing_subscriber::registry().with(filter);
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
    Ok(Levels {
        filter: handle,
        own: directives.to_owned(),
    })
}
