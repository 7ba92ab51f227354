//! A whole cache-broker environment on one machine, without root and without containers.
//!
//! ```no_run
//! # async fn example() -> Result<(), sandbox::Error> {
//! let sandbox = sandbox::Sandbox::start().await?;
//! let cluster = sandbox.kube().await?;
//! let ledger = sandbox.postgres().database_url("cache_broker");
//! sandbox.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Everything it starts listens on loopback addresses and writes to one temporary folder, and is gone when the
//! [`Sandbox`] is dropped or its process ends, in whatever way.

pub mod address;
mod api_calls;
pub mod certificates;
pub mod control_plane;
mod error;
pub mod node;
pub mod postgres;
pub mod prerequisites;
pub mod service_proxy;
pub mod supervisor;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use address::Addresses;
use certificates::Authority;
use control_plane::ControlPlane;
pub use error::Error;
use postgres::Postgres;
use prerequisites::Needs;
use supervisor::Supervisor;

/// The database that [`Sandbox::environment`] leads to.
const DATABASE: &str = "cache_broker";

/// How long to wait for another sandbox to end when all slots are taken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says which parts a sandbox is made of. Postgres is always one of them.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    cluster: Cluster,
}

#[derive(Clone, Debug)]
enum Cluster {
    Own,
    Existing(PathBuf),
    None,
}

impl Builder {
    /// Leaves the Kubernetes control plane out, and with it all that needs one.
    pub fn without_control_plane(mut self) -> Self {
        self.cluster = Cluster::None;
        self
    }

    /// Uses the cluster that a kubeconfig file leads to instead of a control plane of its own.
    pub fn existing_cluster(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.cluster = Cluster::Existing(kubeconfig.into());
        self
    }

    /// The programs that are missing on this machine for such a sandbox.
    pub fn missing(&self) -> Vec<prerequisites::Missing> {
        prerequisites::missing(match self.cluster {
            Cluster::Own => &[Needs::Base, Needs::ControlPlane],
            Cluster::Existing(_) | Cluster::None => &[Needs::Base],
        })
    }

    /// Starts the parts and waits until all of them answer. A control plane that is not built yet is built first, with
    /// progress on standard error.
    ///
    /// # Errors
    /// When a program is missing, all slots are taken, or a part does not start.
    pub async fn start(self) -> Result<Sandbox, Error> {
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(Error::Missing(missing));
        }
        if matches!(self.cluster, Cluster::Own) {
            control_plane::build().await?;
        }
        let addresses = claim_addresses().await?;
        let supervisor = Supervisor::start_on(&addresses).map_err(Error::io("making the sandbox's folder"))?;
        let authority = Authority::new()?;

        let postgres = async {
            let postgres = Postgres::create(&supervisor, &addresses).await?;
            postgres.create_database(DATABASE).await?;
            Ok(postgres)
        };
        let control_plane = async {
            match self.cluster {
                Cluster::Own => ControlPlane::start(&supervisor, &addresses, &authority).await.map(Some),
                Cluster::Existing(_) | Cluster::None => Ok(None),
            }
        };
        let (postgres, control_plane) = tokio::try_join!(postgres, control_plane)?;

        let kubeconfig = match (&self.cluster, &control_plane) {
            (Cluster::Existing(path), _) => Some(path.clone()),
            (_, Some(control_plane)) => Some(control_plane.kubeconfig().to_owned()),
            (_, None) => None,
        };
        Ok(Sandbox {
            control_plane,
            postgres,
            kubeconfig,
            authority,
            addresses,
            supervisor,
        })
    }
}

/// A running sandbox; dropping it ends all of it.
#[derive(Debug)]
pub struct Sandbox {
    control_plane: Option<ControlPlane>,
    postgres: Postgres,
    kubeconfig: Option<PathBuf>,
    authority: Authority,
    addresses: Addresses,
    supervisor: Supervisor,
}

impl Sandbox {
    /// Starts a sandbox with all its parts.
    ///
    /// # Errors
    /// See [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// A sandbox to be, with all its parts.
    pub fn builder() -> Builder {
        Builder { cluster: Cluster::Own }
    }

    /// The kubeconfig file of the cluster; empty if the sandbox was started without one.
    pub fn kubeconfig(&self) -> &Path {
        self.kubeconfig.as_deref().unwrap_or(Path::new(""))
    }

    /// A client with all rights in the cluster.
    ///
    /// # Errors
    /// When there is no cluster, or its kubeconfig cannot be used.
    pub async fn kube(&self) -> Result<kube::Client, Error> {
        match &self.kubeconfig {
            Some(kubeconfig) => control_plane::client(kubeconfig).await,
            None => Err(Error::Absent("a cluster")),
        }
    }

    /// The control plane.
    ///
    /// # Errors
    /// When the sandbox has none of its own.
    pub fn control_plane(&self) -> Result<&ControlPlane, Error> {
        self.control_plane
            .as_ref()
            .ok_or(Error::Absent("a control plane of its own"))
    }

    /// The Postgres server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The loopback addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What starts and ends the sandbox's processes.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// What issues the certificates of the sandbox's servers.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The environment variables with which a broker, or a shell, uses this sandbox.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("DATABASE_URL", self.postgres.database_url(DATABASE)),
            ("NAME_PREFIX", "sandbox".to_owned()),
            ("SERVICE_HOST", "cluster-ip".to_owned()),
            ("WEBHOOK_ALLOW_PRIVATE", "true".to_owned()),
        ];
        if let Some(kubeconfig) = &self.kubeconfig {
            variables.extend([
                ("KUBECONFIG", kubeconfig.display().to_string()),
                ("USE_KUBERNETES", "true".to_owned()),
                ("USE_LOCAL_KUBE_CONTEXT", "true".to_owned()),
            ]);
        }
        variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Ends all of it and waits until it is gone.
    pub async fn stop(self) {
        let supervisor = self.supervisor.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || supervisor.close()).await {
            tracing::warn!(%error, "ending a sandbox");
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.supervisor.close();
    }
}

/// Claims a slot, waiting a while for one: tests may run in many processes.
async fn claim_addresses() -> Result<Addresses, Error> {
    let start = Instant::now();
    loop {
        match Addresses::claim() {
            Ok(addresses) => return Ok(addresses),
            Err(error) if start.elapsed() > PATIENCE => return Err(Error::io("claiming loopback addresses")(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Writes a file that nobody but its owner can read.
pub(crate) fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content.as_bytes())
}
