//! Reads the command line and starts what it asks for.

use std::process::ExitCode;

use cache_broker::import::Report;
use cache_broker::settings::{Command, CommandLine, Settings, SettingsError, document};
use cache_broker::telemetry::Levels;
use cache_broker::{api, commands, serve, telemetry};

/// The exit code for settings that cannot be understood or do not suffice.
const BAD_SETTINGS: u8 = 2;
/// The exit code for an import some rows of which need a decision, or wait.
const UNDECIDED: u8 = 3;

fn main() -> ExitCode {
    let line = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line,
        Err(error) => {
            // Help and version are printed the same way; clap's code for errors is 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_SETTINGS));
        }
    };
    match &line.command {
        Some(Command::Crds { out, apply: false }) => return told(api::write_manifests(out.as_deref())),
        Some(Command::Completions { shell }) => return printed(&document::completions(*shell)),
        Some(Command::SettingsDocument) => return printed(&document::settings()),
        Some(Command::Man) => {
            return match document::manual() {
                Ok(page) => printed(&page),
                Err(error) => told(Err(format!("writing the manual page: {error}"))),
            };
        }
        _ => {}
    }
    // Fails only if a provider is installed already, which does as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return told(Err(format!("starting the runtime: {error}"))),
    };
    let telemetry = {
        let _within = runtime.enter();
        let settings = &line.settings;
        match telemetry::log(&settings.log, settings.log_format, settings.otlp_endpoint.as_deref()) {
            Ok(telemetry) => telemetry,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(BAD_SETTINGS);
            }
        }
    };
    let done = runtime.block_on(run(line.command, line.settings, telemetry.levels.clone()));
    telemetry.end();
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => told(Err(error)),
        Err(error) => {
            for message in error.0 {
                eprintln!("error: {message}");
            }
            ExitCode::from(BAD_SETTINGS)
        }
    }
}

async fn run(
    command: Option<Command>,
    settings: Settings,
    levels: Levels,
) -> Result<Result<ExitCode, String>, SettingsError> {
    let done = match command {
        None => serve::serve(settings.check()?, levels).await,
        Some(Command::Migrate) => commands::migrate(settings.check_database()?).await,
        Some(Command::Audit { instance }) => commands::audit(settings.check_database()?, &instance).await,
        Some(Command::Check) => commands::check(settings).await,
        Some(Command::Plans) => commands::plans(&settings).await,
        Some(Command::Instances { namespace }) => commands::instances(&settings, namespace.as_deref()).await,
        Some(Command::Crds { .. }) => commands::apply_definitions(&settings).await,
        Some(Command::Probe(probe)) => commands::probe(&probe).await,
        Some(Command::Webhooks(command)) => commands::webhooks(settings.check_database()?, command).await,
        Some(Command::Doctor { fix }) => {
            let database = settings.clone().check_database()?;
            return Ok(commands::doctor(settings, database, fix).await.map(ExitCode::from));
        }
        Some(Command::Import(asked)) => {
            let database = settings.clone().check_database()?;
            return Ok(commands::import(settings, database, *asked)
                .await
                .map(|report| imported(&report)));
        }
        // Done before anything was started.
        Some(Command::Completions { .. } | Command::Man | Command::SettingsDocument) => Ok(()),
    };
    Ok(done.map(|()| ExitCode::SUCCESS))
}

fn imported(report: &Report) -> ExitCode {
    print!("{report}");
    if report.undecided() == 0 && report.waiting.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNDECIDED)
    }
}

fn printed(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn told(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
