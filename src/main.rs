//! Reads the command line and starts what it asks for.

use std::process::ExitCode;

use cache_broker::import::Report;
use cache_broker::settings::{Command, CommandLine};
use cache_broker::{api, serve, telemetry};

/// The exit code for settings that cannot be understood or do not suffice.
const BAD_SETTINGS: u8 = 2;
/// The exit code for an import some rows of which need a decision.
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
    if let Some(Command::Crds { out }) = &line.command {
        return told(api::write_manifests(out.as_deref()));
    }
    if let Err(error) = telemetry::log(&line.settings.log, line.settings.log_format) {
        eprintln!("error: {error}");
        return ExitCode::from(BAD_SETTINGS);
    }
    // Fails only if a provider is installed already, which does as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return told(Err(format!("starting the runtime: {error}"))),
    };
    let outcome = match line.command {
        Some(Command::Migrate) => line
            .settings
            .check_database()
            .map(|database| runtime.block_on(serve::migrate(database))),
        Some(Command::Audit { instance }) => line
            .settings
            .check_database()
            .map(|database| runtime.block_on(serve::audit(database, &instance))),
        Some(Command::Import(asked)) => {
            let settings = line.settings.clone();
            match line.settings.check_database() {
                Ok(database) => return imported(runtime.block_on(serve::import(settings, database, *asked))),
                Err(error) => Err(error),
            }
        }
        Some(Command::Webhooks(command)) => line
            .settings
            .check_database()
            .map(|database| runtime.block_on(serve::webhooks(database, command))),
        Some(Command::Doctor { fix }) => {
            let settings = line.settings.clone();
            match line.settings.check_database() {
                Ok(database) => match runtime.block_on(serve::doctor(settings, database, fix)) {
                    Ok(code) => return ExitCode::from(code),
                    Err(error) => Ok(Err(error)),
                },
                Err(error) => Err(error),
            }
        }
        Some(Command::Crds { .. }) => Ok(Ok(())),
        None => line
            .settings
            .check()
            .map(|checked| runtime.block_on(serve::serve(checked))),
    };
    match outcome {
        Ok(outcome) => told(outcome),
        Err(error) => {
            for message in error.0 {
                eprintln!("error: {message}");
            }
            ExitCode::from(BAD_SETTINGS)
        }
    }
}

fn imported(outcome: Result<Report, String>) -> ExitCode {
    match outcome {
        Ok(report) => {
            print!("{report}");
            if report.undecided() == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(UNDECIDED)
            }
        }
        Err(error) => told(Err(error)),
    }
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
