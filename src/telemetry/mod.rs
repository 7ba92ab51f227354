//! What the broker says of itself: logs and health.

pub mod health;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::LogFormat;

/// Begins logging to standard error, panics included: they are told like everything else, with what was going on.
///
/// # Errors
/// When the directives cannot be understood.
pub fn log(directives: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| format!("RUST_LOG {directives:?}: {error}; use a level such as info, or module=level"))?;
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
    Ok(())
}
