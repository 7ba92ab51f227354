//! The broker that is shown: the release binary, with the sandbox's environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::http::Http;
use super::{LOOK, PATIENCE};
use crate::supervisor::{Process, Program};
use crate::{Error, Sandbox, prerequisites};

const PORT: u16 = 8443;
const HEALTH_PORT: u16 = 8081;

/// A running broker; it ends with the sandbox.
pub(super) struct Broker {
    url: String,
    user: String,
    password: String,
    process: Process,
}

/// The broker's binary: the one that was named, or the one beside this program.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    let path = match named {
        Some(path) => std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => std::env::current_exe()
            .map_err(|error| format!("finding this program: {error}"))?
            .with_file_name("cache-broker"),
    };
    if prerequisites::is_program(&path) {
        Ok(path)
    } else {
        Err(format!(
            "{} is no program; build it with `cargo build --release -p cache-broker -p sandbox`, or name another with --broker",
            path.display()
        ))
    }
}

impl Broker {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(sandbox: &Sandbox, binary: &Path) -> Result<Self, String> {
        let environment = sandbox.environment();
        let (user, password) = credentials(&environment)?;
        let mut program = Program::new("cache-broker", binary);
        for (name, value) in environment {
            program = program.env(name, value);
        }
        // What the shell of whoever runs the demo may have set otherwise.
        for (name, value) in [
            ("ROLE", "all"),
            ("PORT", &PORT.to_string()),
            ("HEALTH_PORT", &HEALTH_PORT.to_string()),
            ("RUST_LOG", "info"),
            ("LOG_FORMAT", "text"),
        ] {
            program = program.env(name, value);
        }
        let mut process = sandbox
            .supervisor()
            .spawn(&program)
            .map_err(|error| format!("starting {}: {error}", binary.display()))?;
        let guest = sandbox.addresses().guest();
        wait_until_ready(&mut process, &format!("http://{guest}:{HEALTH_PORT}/readyz")).await?;
        Ok(Self {
            url: format!("http://{guest}:{PORT}"),
            user,
            password,
            process,
        })
    }

    /// Where it serves the Open Service Broker API.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The value of the header that a platform authenticates with.
    pub(super) fn authorization(&self) -> String {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.user, self.password);
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
    }

    /// Variables with which a shell reaches it.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        [
            ("BROKER_URL", &self.url),
            ("BROKER_USER", &self.user),
            ("BROKER_PASSWORD", &self.password),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .to_vec()
    }

    /// Its log file.
    pub(super) fn log(&self) -> &Path {
        self.process.log()
    }
}

async fn wait_until_ready(process: &mut Process, url: &str) -> Result<(), String> {
    let (http, start) = (Http::new(Vec::new()), Instant::now());
    loop {
        Error::unless_running(process).map_err(|error| error.to_string())?;
        let why = match http.get(url).await {
            Ok(reply) if reply.status.is_success() => return Ok(()),
            Ok(reply) => format!("{}: {}", reply.status, reply.body.as_str().unwrap_or_default()),
            Err(error) => error,
        };
        if start.elapsed() > PATIENCE {
            return Err(Error::late("a ready broker", &why, PATIENCE, process.log()).to_string());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The user and the password of the platform, from the file that the broker reads them from.
fn credentials(environment: &[(String, String)]) -> Result<(String, String), String> {
    let file = environment
        .iter()
        .find(|(name, _)| name == "OSB_CREDENTIALS_FILE")
        .map(|(_, file)| file)
        .ok_or("the sandbox names no OSB_CREDENTIALS_FILE")?;
    let text = fs::read_to_string(file).map_err(|error| format!("reading {file}: {error}"))?;
    let (user, password) = text
        .trim()
        .split_once(':')
        .ok_or_else(|| format!("{file} has no line USER:PASSWORD"))?;
    Ok((user.to_owned(), password.to_owned()))
}
