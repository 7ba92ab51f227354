//! `sandbox up` brings a whole environment up and keeps it until Ctrl-C; `sandbox build` does what is slow about it;
//! `sandbox demo` shows a broker at work in one.

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use sandbox::prerequisites::{self, Needs};
use sandbox::{Error, Sandbox, control_plane, demo, elasticache, node, shell};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A whole cache-broker environment on one machine, without root and without containers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

/// What stands behind a pod or a cache node.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Made {
    /// Real servers, each a process.
    #[default]
    Processes,
    /// Nothing: states change with time alone, for tests of scale.
    Simulated,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Starts everything, prints the variables to export, and runs until Ctrl-C.
    Up {
        /// Use this existing cluster instead of a control plane of the sandbox's own.
        #[arg(long, value_name = "PATH")]
        kubeconfig: Option<PathBuf>,
        /// What pods are.
        #[arg(long, value_enum, default_value_t)]
        pods: Made,
        /// What the nodes of ElastiCache clusters are.
        #[arg(long, value_enum, default_value_t)]
        clusters: Made,
    },
    /// Plays every user of the broker on a sandbox of its own, and says what is left in the end.
    Demo {
        /// The broker's release binary; the one beside this program if absent.
        #[arg(long, env = "CACHE_BROKER", value_name = "PATH")]
        broker: Option<PathBuf>,
        /// Leave sandbox and broker running in the end, until Ctrl-C.
        #[arg(long)]
        keep: bool,
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
        Subcommands::Up {
            kubeconfig,
            pods,
            clusters,
        } => up(kubeconfig, pods, clusters).await,
        Subcommands::Demo { broker, keep } => {
            return match demonstrate(demo::Options { broker, keep }).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    eprintln!("{failure}");
                    ExitCode::FAILURE
                }
            };
        }
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

async fn demonstrate(options: demo::Options) -> Result<(), demo::Failure> {
    let asked_to_end = asked_to_end().map_err(|error| demo::Failure::new("the start", error))?;
    demo::run(options, asked_to_end).await
}

/// Ends when Ctrl-C was pressed or the process is to terminate.
fn asked_to_end() -> Result<impl Future<Output = ()>, Error> {
    let listen = |kind| {
        signal(kind).map_err(|source| Error::Io {
            attempt: "listening for signals".to_owned(),
            source,
        })
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn up(kubeconfig: Option<PathBuf>, pods: Made, clusters: Made) -> Result<(), Error> {
    let mut asked_to_end = pin!(asked_to_end()?);
    let mut builder = Sandbox::builder();
    if let Made::Simulated = pods {
        let options = node::Options {
            pods: node::Pods::simulated(),
            capacity: node::Capacity {
                pods: 20_000,
                ..node::Capacity::default()
            },
            ..node::Options::default()
        };
        builder = builder.node(options);
    }
    if let Made::Simulated = clusters {
        let options = elasticache::Options {
            nodes: elasticache::Nodes::Simulated,
            ..elasticache::Options::default()
        };
        builder = builder.elasticache(options);
    }
    if let Some(kubeconfig) = kubeconfig {
        builder = builder.existing_cluster(kubeconfig);
    }
    let mut missing = builder.missing();
    missing.extend(prerequisites::missing(&[Needs::Caches, Needs::Shell]));
    require(missing)?;

    let start = Instant::now();
    let sandbox = tokio::select! {
        sandbox = builder.start() => sandbox?,
        () = &mut asked_to_end => return Ok(()),
    };
    if let Err(error) = announce(&sandbox, start) {
        tracing::debug!(%error, "nobody reads standard output");
    }
    asked_to_end.await;
    sandbox.stop().await;
    Ok(())
}

fn announce(sandbox: &Sandbox, start: Instant) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, value) in sandbox.environment() {
        writeln!(out, "export {name}={}", shell::quote(&value))?;
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
