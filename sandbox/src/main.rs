//! `sandbox up` brings a whole environment up and keeps it until Ctrl-C; `sandbox build` does what is slow about it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use sandbox::prerequisites::{self, Needs};
use sandbox::{Error, Sandbox, control_plane};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A whole cache-broker environment on one machine, without root and without containers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Starts everything, prints the variables to export, and runs until Ctrl-C.
    Up {
        /// Use this existing cluster instead of a control plane of the sandbox's own.
        #[arg(long, value_name = "PATH")]
        kubeconfig: Option<PathBuf>,
    },
    /// Builds the control plane, which takes some minutes the first time.
    Build,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off")))
        .with_writer(io::stderr)
        .init();
    let done = match Arguments::parse().command {
        Subcommands::Up { kubeconfig } => up(kubeconfig).await,
        Subcommands::Build => build().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn build() -> Result<(), Error> {
    require(prerequisites::missing(&[Needs::ControlPlane]))?;
    let folder = control_plane::build().await?;
    println!("the control plane is in {}", folder.display());
    Ok(())
}

async fn up(kubeconfig: Option<PathBuf>) -> Result<(), Error> {
    let listen = |kind| {
        signal(kind).map_err(|source| Error::Io {
            attempt: "listening for signals".to_owned(),
            source,
        })
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut asked_to_end = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };

    let mut builder = Sandbox::builder();
    if let Some(kubeconfig) = kubeconfig {
        builder = builder.existing_cluster(kubeconfig);
    }
    let mut missing = builder.missing();
    missing.extend(prerequisites::missing(&[Needs::Caches, Needs::Shell]));
    require(missing)?;

    let start = Instant::now();
    let sandbox = tokio::select! {
        sandbox = builder.start() => sandbox?,
        () = asked_to_end() => return Ok(()),
    };
    if let Err(error) = announce(&sandbox, start) {
        tracing::debug!(%error, "nobody reads standard output");
    }
    asked_to_end().await;
    sandbox.stop().await;
    Ok(())
}

fn announce(sandbox: &Sandbox, start: Instant) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, value) in sandbox.environment() {
        writeln!(out, "export {name}={}", quote(&value))?;
    }
    writeln!(
        out,
        "# The sandbox is ready after {:.1} s; its logs are in {}. Ctrl-C ends it.",
        start.elapsed().as_secs_f64(),
        sandbox.supervisor().dir().join("logs").display()
    )
}

fn require(missing: Vec<prerequisites::Missing>) -> Result<(), Error> {
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::Missing(missing))
    }
}

/// Quotes a value for a POSIX shell.
fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quotes_what_a_shell_would_read_as_more_than_a_word() {
        assert_eq!(quote("us-east-1"), "us-east-1");
        assert_eq!(quote("postgres://a?b=c"), "'postgres://a?b=c'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
