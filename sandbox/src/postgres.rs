//! A Postgres server with a data folder of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::address::Addresses;
use crate::error::Error;
use crate::prerequisites::{self, Missing};
use crate::supervisor::{Process, Program, Supervisor, User};
use crate::write_private;

const PORT: u16 = 5432;
const USER: &str = "sandbox";

/// The machine may be busy with other sandboxes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections come from the loopback block of whoever opens them.
const HBA: &str = "host all all 127.0.0.0/8 scram-sha-256\n";

/// Everything it takes stands in its data folder: dynamic shared memory too, which would else outlive a killed server.
const SETTINGS: &[&str] = &[
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_connections=200",
    "dynamic_shared_memory_type=mmap",
    "unix_socket_directories=",
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the server, but not of the machine: what tests need, and much faster.
    #[default]
    Process,
    /// The end of the machine, with the memory that a small server has: what a measurement needs.
    Machine,
}

impl Durability {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Process => &[
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "shared_buffers=64MB",
            ],
            Self::Machine => &["shared_buffers=256MB", "max_wal_size=4GB"],
        }
    }
}

/// A running, or stopped, Postgres server of a sandbox.
#[derive(Debug)]
pub struct Postgres {
    supervisor: Supervisor,
    address: Ipv4Addr,
    password: String,
    program: Program,
    process: Mutex<Option<Process>>,
}

impl Postgres {
    /// Makes a data folder and starts a server on it.
    ///
    /// # Errors
    /// When Postgres is not installed, or does not start.
    pub async fn create(supervisor: &Supervisor, addresses: &Addresses, durability: Durability) -> Result<Self, Error> {
        let Some(binaries) = binaries() else {
            return Err(Error::Missing(vec![Missing {
                program: "initdb and postgres",
                install: "sudo apt install postgresql",
            }]));
        };
        let address = addresses.postgres();
        let password = uuid::Uuid::new_v4().simple().to_string();
        let data = initialise(supervisor, &binaries, &password).await?;
        let program = Program::new("postgres", binaries.join("postgres"))
            .args(["-D".into(), data.into_os_string()])
            .args(["-c".to_owned(), format!("listen_addresses={address}")])
            .args(["-c".to_owned(), format!("port={PORT}")])
            .args(
                SETTINGS
                    .iter()
                    .chain(durability.settings())
                    .flat_map(|setting| ["-c", setting]),
            )
            // An immediate shutdown: it still takes its segment of System V shared memory along.
            .last_signal(Signal::QUIT)
            .user(User::Unprivileged);
        let postgres = Self {
            supervisor: supervisor.clone(),
            address,
            password,
            program,
            process: Mutex::new(None),
        };
        postgres.start().await?;
        Ok(postgres)
    }

    /// The URL of a database, with user and password.
    pub fn database_url(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@{}:{PORT}/{database}?sslmode=disable",
            self.password, self.address
        )
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// When there is one of that name, or the server does not answer.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        let client = self.connect("postgres").await?;
        client
            .batch_execute(&statement)
            .await
            .map_err(Error::postgres(format!("creating the database {name}")))
    }

    /// Opens a connection to a database; it closes when the client is dropped.
    ///
    /// # Errors
    /// When there is no such database, or the server does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client, Error> {
        self.open(database).await.map_err(Error::postgres(format!(
            "connecting to the database {database} of the sandbox's Postgres at {}:{PORT}",
            self.address
        )))
    }

    async fn open(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.database_url(database), NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the sandbox's Postgres ended");
            }
        });
        Ok(client)
    }

    /// Starts the server again after [`Postgres::stop`], with the same data. Does nothing while it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<(), Error> {
        let mut process = self.process.lock().await;
        if process.is_some() {
            return Ok(());
        }
        let started = self
            .supervisor
            .spawn(&self.program)
            .map_err(Error::io("starting Postgres"))?;
        self.wait_until_it_answers(process.insert(started)).await
    }

    /// Stops the server; open connections are cut. Does nothing while it is stopped.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop(&self) -> Result<(), Error> {
        let Some(mut process) = self.process.lock().await.take() else {
            return Ok(());
        };
        let stopped = async {
            // SIGTERM would wait for the clients to leave.
            process.signal(Signal::INT)?;
            match tokio::time::timeout(Duration::from_secs(20), process.wait()).await {
                Ok(status) => status,
                Err(_) => process.stop(Duration::ZERO).await,
            }
        };
        stopped.await.map(drop).map_err(Error::io("stopping Postgres"))
    }

    async fn wait_until_it_answers(&self, process: &mut Process) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            Error::unless_running(process)?;
            let Err(error) = self.open("postgres").await else {
                return Ok(());
            };
            if error
                .code()
                .is_some_and(|code| *code != SqlState::CANNOT_CONNECT_NOW && *code != SqlState::TOO_MANY_CONNECTIONS)
            {
                return Err(Error::postgres("connecting to the sandbox's Postgres")(error));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::late(
                    "a first connection to Postgres",
                    &error,
                    PATIENCE,
                    process.log(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Makes the data folder and returns its path.
async fn initialise(supervisor: &Supervisor, binaries: &Path, password: &str) -> Result<PathBuf, Error> {
    let attempt = || Error::io("preparing Postgres's data folder");
    let home = supervisor.make_dir("postgres", User::Unprivileged).map_err(attempt())?;
    let (data, password_file) = (home.join("data"), home.join("password"));
    write_private(&password_file, password).map_err(attempt())?;
    supervisor.give(&password_file, User::Unprivileged).map_err(attempt())?;
    let program = Program::new("initdb", binaries.join("initdb"))
        .args(["--no-sync", "--no-instructions", "--no-locale", "--encoding=UTF8"])
        .args(["--auth=scram-sha-256", "--username", USER, "--pwfile"])
        .args([password_file.as_os_str(), "-D".as_ref(), data.as_os_str()])
        .last_signal(Signal::INT)
        .user(User::Unprivileged);
    let mut initdb = supervisor.spawn(&program).map_err(Error::io("starting initdb"))?;
    match tokio::time::timeout(PATIENCE, initdb.wait()).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(_)) => Error::unless_running(&mut initdb)?,
        Ok(Err(error)) => return Err(Error::io("waiting for initdb")(error)),
        Err(_) => {
            return Err(Error::late(
                "the end of initdb",
                "still running",
                PATIENCE,
                initdb.log(),
            ));
        }
    }
    fs::write(data.join("pg_hba.conf"), HBA).map_err(attempt())?;
    fs::remove_file(&password_file).map_err(attempt())?;
    Ok(data)
}

/// The folder of the newest `initdb` and `postgres` on this machine.
pub fn binaries() -> Option<PathBuf> {
    let configured = std::process::Command::new("pg_config")
        .arg("--bindir")
        .output()
        .ok()
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let packaged = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    let mut newest: Option<(u32, PathBuf)> = None;
    for folder in configured.into_iter().chain(packaged).chain(prerequisites::folders()) {
        let version = version(&folder);
        // Of equal ones the first is kept: in PATH there may be a wrapper of the real one.
        if let Some(version) = version
            && newest.as_ref().is_none_or(|(newest, _)| version > *newest)
        {
            newest = Some((version, folder));
        }
    }
    newest.map(|(_, folder)| folder)
}

/// The major version of the server in a folder, if it has one and an `initdb` beside it.
fn version(folder: &Path) -> Option<u32> {
    let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
    if !prerequisites::is_program(&initdb) || !prerequisites::is_program(&postgres) {
        return None;
    }
    let output = std::process::Command::new(postgres).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_releases_and_of_betas() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_version("pg_ctl (PostgreSQL) 15"), None);
    }
}
