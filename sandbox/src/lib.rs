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
pub mod demo;
pub mod elasticache;
mod error;
pub mod in_memory_kubernetes;

pub mod node;
pub mod postgres;
pub mod prerequisites;
mod quantity;
pub mod service_proxy;
pub mod shell;
pub mod supervisor;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use address::Addresses;
use certificates::Authority;
use control_plane::ControlPlane;
use elasticache::ElastiCache;
pub use error::Error;
use node::Node;
use postgres::Postgres;
use prerequisites::Needs;
use service_proxy::ServiceProxy;
use supervisor::Supervisor;

/// The database that [`Sandbox::environment`] leads to.
const DATABASE: &str = "cache_broker";

/// The files with the platform's credentials and the ledger's keys, in the sandbox's folder.
const CREDENTIALS: &str = "osb.credentials";
const KEYS: &str = "ledger.keys";

/// The user that platforms are in [`CREDENTIALS`].
const PLATFORM: &str = "platform";

/// The region that the ElastiCache endpoint stands for, unless its options say otherwise.
const REGION: &str = "us-west-2";

/// How long to wait for another sandbox to end when all slots are taken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says which parts a sandbox is made of. Postgres is always one of them.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    cluster: Cluster,
    node: Option<node::Options>,
    elasticache: Option<elasticache::Options>,
    durability: postgres::Durability,
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

    /// Leaves the process node and the Service proxy out: Pods stay pending.
    pub fn without_node(mut self) -> Self {
        self.node = None;
        self
    }

    /// Says what the node's pods are.
    pub fn node(mut self, options: node::Options) -> Self {
        self.node = Some(options);
        self
    }

    /// Leaves the ElastiCache endpoint out.
    pub fn without_elasticache(mut self) -> Self {
        self.elasticache = None;
        self
    }

    /// Says what the ElastiCache endpoint's caches are and how long their states take.
    pub fn elasticache(mut self, options: elasticache::Options) -> Self {
        self.elasticache = Some(options);
        self
    }

    /// Says what a commit in Postgres survives.
    pub fn durability(mut self, durability: postgres::Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Uses the cluster that a kubeconfig file leads to instead of a control plane of its own.
    pub fn existing_cluster(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.cluster = Cluster::Existing(kubeconfig.into());
        self
    }

    /// The programs that are missing on this machine for such a sandbox.
    pub fn missing(&self) -> Vec<prerequisites::Missing> {
        let mut needs = vec![Needs::Base];
        if matches!(self.cluster, Cluster::Own) {
            needs.push(Needs::ControlPlane);
        }
        if self.elasticache.is_some() || (self.node.is_some() && matches!(self.cluster, Cluster::Own)) {
            needs.push(Needs::Caches);
        }
        prerequisites::missing(&needs)
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
            let postgres = Postgres::create(&supervisor, &addresses, self.durability).await?;
            postgres.create_database(DATABASE).await?;
            Ok(postgres)
        };
        let control_plane = async {
            match self.cluster {
                Cluster::Own => ControlPlane::start(&supervisor, &addresses, &authority).await.map(Some),
                Cluster::Existing(_) | Cluster::None => Ok(None),
            }
        };
        let elasticache = async {
            match self.elasticache {
                Some(options) => Ok(Some(ElastiCache::start(&supervisor, &addresses, options).await?)),
                None => Ok(None),
            }
        };
        let (postgres, control_plane, elasticache) = tokio::try_join!(postgres, control_plane, elasticache)?;

        let kubeconfig = match (&self.cluster, &control_plane) {
            (Cluster::Existing(path), _) => Some(path.clone()),
            (_, Some(control_plane)) => Some(control_plane.kubeconfig().to_owned()),
            (_, None) => None,
        };
        // The node and the proxy stand in for machines: a cluster of somebody else's has its own.
        let (node, proxy) = match (&control_plane, self.node) {
            (Some(control_plane), Some(options)) => {
                let client = control_plane::client(control_plane.kubeconfig()).await?;
                let node = Node::start(client.clone(), &supervisor, &addresses, options).await?;
                let proxy = ServiceProxy::start(client, service_proxy::Options::default()).await?;
                (Some(node), Some(proxy))
            }
            _ => (None, None),
        };
        write_private(
            &supervisor.dir().join(CREDENTIALS),
            &format!("{PLATFORM}:{}\n", random_text()),
        )
        .and_then(|()| write_private(&supervisor.dir().join(KEYS), &format!("sandbox:{}\n", random_text())))
        .map_err(Error::io("writing the broker's credentials and keys"))?;
        Ok(Sandbox {
            node,
            proxy,
            elasticache,
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
    // Ended in this order.
    node: Option<Node>,
    proxy: Option<ServiceProxy>,
    elasticache: Option<ElastiCache>,
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

    /// Starts one whose cluster has no node and that has no ElastiCache, for what only asks the API server.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start_bare() -> Result<Self, Error> {
        Self::builder().without_node().without_elasticache().start().await
    }

    /// A sandbox to be, with all its parts.
    pub fn builder() -> Builder {
        Builder {
            cluster: Cluster::Own,
            node: Some(node::Options::default()),
            elasticache: Some(elasticache::Options::default()),
            durability: postgres::Durability::default(),
        }
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

    /// The process node.
    ///
    /// # Errors
    /// When the sandbox has none.
    pub fn node(&self) -> Result<&Node, Error> {
        self.node.as_ref().ok_or(Error::Absent("a process node"))
    }

    /// The Service proxy.
    ///
    /// # Errors
    /// When the sandbox has none.
    pub fn proxy(&self) -> Result<&ServiceProxy, Error> {
        self.proxy.as_ref().ok_or(Error::Absent("a Service proxy"))
    }

    /// The ElastiCache endpoint.
    ///
    /// # Errors
    /// When the sandbox has none.
    pub fn elasticache(&self) -> Result<&ElastiCache, Error> {
        self.elasticache
            .as_ref()
            .ok_or(Error::Absent("an ElastiCache endpoint"))
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
            ("LISTEN_ADDRESS", self.addresses.guest().to_string()),
            ("HEALTH_ADDRESS", self.addresses.guest().to_string()),
            ("INSECURE", "true".to_owned()),
            (
                "OSB_CREDENTIALS_FILE",
                self.supervisor.dir().join(CREDENTIALS).display().to_string(),
            ),
            (
                "LEDGER_KEYS_FILE",
                self.supervisor.dir().join(KEYS).display().to_string(),
            ),
        ];
        if let Some(elasticache) = &self.elasticache {
            variables.extend([
                ("AWS_REGION", REGION.to_owned()),
                ("AWS_ACCESS_KEY_ID", "AKIASANDBOXSANDBOX00".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "sandbox".to_owned()),
                ("AWS_ENDPOINT_URL_ELASTICACHE", elasticache.url()),
                ("AWS_CALLS_PER_SECOND", "100".to_owned()),
                ("ELASTICACHE_POLL_MS", "200".to_owned()),
                ("ELASTICACHE_SECURITY_GROUP", "sg-0123456789abcdef0".to_owned()),
                ("REDIS_SUBNET_GROUP", "redis-subnets".to_owned()),
                ("MEMCACHED_SUBNET_GROUP", "memcached-subnets".to_owned()),
                ("ELASTICACHE_CA_FILE", elasticache.ca_file().display().to_string()),
            ]);
        }
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

/// 32 random bytes in base64.
fn random_text() -> String {
    use base64::Engine as _;
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    base64::prelude::BASE64_STANDARD.encode([a.into_bytes(), b.into_bytes()].concat())
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
