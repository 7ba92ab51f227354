//! What can go wrong with a sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::prerequisites::Missing;
use crate::supervisor::Process;

/// Why a sandbox, or a part of it, could not be started, stopped or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Programs that the sandbox runs are not on this machine.
    #[error("the sandbox needs what is not installed:{}", .0.iter().map(|m| format!("\n  {m}")).collect::<String>())]
    Missing(Vec<Missing>),

    /// The control plane could not be built.
    #[error("building the control plane with {} failed ({status}); what it said stands above", script.display())]
    Build {
        /// The script that builds it.
        script: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
    },

    /// A file, a process or an address could not be had.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted, and on what.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },

    /// A certificate could not be made.
    #[error("making the sandbox's certificates: {0}")]
    Certificates(#[from] rcgen::Error),

    /// The process node could not start.
    #[error(transparent)]
    Node(#[from] crate::node::Error),

    /// The Service proxy could not start.
    #[error(transparent)]
    ServiceProxy(#[from] crate::service_proxy::Error),

    /// The ElastiCache endpoint could not start.
    #[error(transparent)]
    ElastiCache(#[from] crate::elasticache::Error),

    /// A program of the sandbox ended by itself.
    #[error("{name} ended by itself ({status}); the end of {}:\n{tail}", log.display())]
    Ended {
        /// The program.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its log file, gone when the sandbox is.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },

    /// Something did not happen in time.
    #[error("{what} did not happen within {} s ({why}); the end of {}:\n{tail}", waited.as_secs(), log.display())]
    Late {
        /// What was waited for.
        what: String,
        /// What the last look at it said.
        why: String,
        /// How long it was waited for.
        waited: Duration,
        /// The log file of the program that should have made it happen.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },

    /// The Kubernetes API server refused or could not be reached.
    #[error("{attempt}: {source}")]
    Kubernetes {
        /// What was attempted, and on what.
        attempt: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },

    /// A kubeconfig file could not be used.
    #[error("reading the kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: Box<kube::config::KubeconfigError>,
    },

    /// Postgres refused or could not be reached.
    #[error("{attempt}: {}", describe(source))]
    Postgres {
        /// What was attempted, and on what.
        attempt: String,
        /// Why it failed.
        source: Box<tokio_postgres::Error>,
    },

    /// The sandbox was started without the part that was asked for.
    #[error("this sandbox was started without {0}; leave the part in when building it")]
    Absent(&'static str),
}

/// tokio-postgres says just "db error" for whatever the server refused.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => refusal.to_string(),
        None => error.to_string(),
    }
}

impl Error {
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source }
    }

    pub(crate) fn kubernetes(attempt: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Kubernetes {
            attempt,
            source: Box::new(source),
        }
    }

    pub(crate) fn postgres(attempt: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Postgres {
            attempt,
            source: Box::new(source),
        }
    }

    /// Fails if the process, which is meant to stay, has ended.
    pub(crate) fn unless_running(process: &mut Process) -> Result<(), Self> {
        let status = process
            .try_wait()
            .map_err(Self::io(format!("looking after {}", process.name())))?;
        match status {
            None => Ok(()),
            Some(status) => Err(Self::Ended {
                name: process.name().to_owned(),
                status,
                log: process.log().to_owned(),
                tail: tail(process.log()),
            }),
        }
    }

    pub(crate) fn late(what: &str, why: &(impl ToString + ?Sized), waited: Duration, log: &Path) -> Self {
        Self::Late {
            what: what.to_owned(),
            why: why.to_string(),
            waited,
            log: log.to_owned(),
            tail: tail(log),
        }
    }
}

/// The last lines of a log, for an error that outlives it.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(LINES)..)
        .unwrap_or_default()
        .join("\n")
}
