//! What the broker does, measured beside the limit of the same machine in the same run.
//!
//! `make bench` runs the short measures, `make bench LONG=1` those that take longer; words behind `--` choose by name. The
//! table is printed and kept in `target/bench.json`; rows that were not measured this time stay there with their date.
//!
//! Postgres keeps what it committed, as in production. Pods and caches are simulated: what takes their time is not ours.

#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

mod ends;
mod instances;
mod load;
mod orders;
mod pgbench;
mod process;
mod reads;
mod resync;
mod rows;
mod stage;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jiff::Timestamp;

use stage::Stage;
use table::Row;

/// Measures the broker beside the limits of this machine.
#[derive(Parser)]
struct Arguments {
    /// Measures to take, by words of their names; all if absent.
    only: Vec<String>,
    /// Take the measures that last longer than five minutes, and only those.
    #[arg(long)]
    long: bool,
    /// How often each short measure is taken.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Cargo says that this is a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    /// Serve the bytes of a file, and measure nothing.
    #[arg(long, hide = true, value_name = "ADDRESS=FILE")]
    bare: Option<String>,
}

/// The measures, in their order.
const SHORT: &[&str] = &[
    "size",
    "start",
    "reads",
    "orders",
    "pool",
    "outbox",
    "readiness",
    "webhooks",
    "instances",
];
const LONG: &[&str] = &["resync", "many", "build"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match &arguments.bare {
        Some(what) => runtime.block_on(reads::serve_bare(what)),
        None => runtime.block_on(all(&arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the measures one after the other, and keeps each as soon as it is taken: a run that is broken off loses only
/// what was under way.
async fn all(arguments: &Arguments) -> Result<(), String> {
    let begin = Timestamp::now();
    let file = target().join("bench.json");
    let measures = if arguments.long { LONG } else { SHORT };
    let chosen =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|word| name.contains(word.as_str()));
    let mut failed = Vec::new();
    for name in measures.iter().filter(|name| chosen(name)) {
        eprintln!("== {name}");
        let start = std::time::Instant::now();
        let keep = |rows: &[Row]| {
            table::print(rows, begin);
            table::keep(&file, rows).map(drop)
        };
        let measured = measure(name, arguments.rounds.max(1), &keep).await;
        match measured.and_then(|rows| keep(&rows)) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("{name}: {error}");
                failed.push(*name);
            }
        }
        eprintln!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    println!();
    table::print(&table::keep(&file, &[])?, begin);
    println!("\nkept in {}", file.display());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("not measured: {}", failed.join(", ")))
    }
}

/// The folder that cargo builds into.
fn target() -> PathBuf {
    let folder = stage::release().ok();
    let folder = folder.as_deref().and_then(Path::parent);
    folder.map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// Takes one measure, on a stage of its own. `keep` takes what is known before all of it is.
async fn measure(name: &str, rounds: usize, keep: &impl Fn(&[Row]) -> Result<(), String>) -> Result<Vec<Row>, String> {
    match name {
        "size" => return Ok(vec![process::size()?]),
        "build" => {
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            return Ok(vec![process::build(folder.path()).await?]);
        }
        "instances" => {
            instances::measure(rounds, 1_000, Duration::from_secs(60), keep).await?;
            return Ok(Vec::new());
        }
        "resync" => return resync::measure(rounds, 10_000).await,
        "many" => return Ok(vec![many(rounds, keep).await?]),
        _ => {}
    }
    let stage = Stage::start(rounds).await?;
    let plans = stage.plans().await?;
    let plan = plans
        .get(stage::PLAN)
        .ok_or_else(|| format!("there is no plan {}", stage::PLAN))?;
    let rows = match name {
        "start" => vec![process::start(&stage).await?],
        "reads" => reads::measure(&stage, plan).await?,
        "orders" => orders::accepted(&stage, plan).await?,
        "pool" => orders::from_the_pool(&stage).await?,
        "outbox" => orders::outbox(&stage, plan).await?,
        "readiness" => ends::readiness(&stage, plan).await?,
        "webhooks" => ends::webhooks(&stage, plan).await?,
        other => return Err(format!("there is no measure {other}")),
    };
    stage.sandbox.stop().await;
    Ok(rows)
}

async fn many(rounds: usize, keep: &impl Fn(&[Row]) -> Result<(), String>) -> Result<Row, String> {
    let few = instances::measure(rounds, 1_000, Duration::from_secs(60), keep).await?;
    let many = instances::measure(rounds, 10_000, Duration::from_secs(600), keep).await?;
    Ok(instances::growth(few, many))
}
