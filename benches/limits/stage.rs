//! Where it is measured: a sandbox whose Postgres keeps what it committed and whose pods and caches are simulated, and
//! release builds of the broker on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cache_broker::ledger::{KeyRing, Ledger};
use sandbox::supervisor::{Process, Program};
use sandbox::{Sandbox, elasticache, node, postgres};
use tokio::process::Command;

use crate::rows::{self, Plan};

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The longest anything is waited for that says nothing of how far it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// How soon to look again.
const LOOK: Duration = Duration::from_millis(2);

/// The plan that is ordered: memcached in the cluster.
pub const SERVICE: &str = "8cccbf79-3e08-4607-ad9f-193bd5f7ff83";
pub const PLAN: &str = "memcached-hobby-dev";
pub const NAMESPACE: &str = "memcached-system";

/// The stage.
pub struct Stage {
    pub sandbox: Sandbox,
    pub folder: tempfile::TempDir,
    /// How often each short measure is taken.
    pub rounds: usize,
    ports: std::sync::atomic::AtomicU16,
}

/// A broker's process.
pub struct Broker {
    pub process: Process,
    /// Where it serves the API.
    pub address: SocketAddr,
    health: SocketAddr,
    pub authorization: String,
}

impl Stage {
    /// A stage with the custom resources and the default plans on it.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(rounds: usize) -> Result<Self, String> {
        let sandbox = Sandbox::builder()
            .durability(postgres::Durability::Machine)
            .node(node::Options {
                pods: node::Pods::simulated(),
                capacity: node::Capacity {
                    pods: 20_000,
                    cpu: "100000".to_owned(),
                    memory: "100Ti".to_owned(),
                },
                ..node::Options::default()
            })
            .elasticache(elasticache::Options {
                nodes: elasticache::Nodes::Simulated,
                ..elasticache::Options::default()
            })
            .start()
            .await
            .map_err(|error| error.to_string())?;
        let stage = Self {
            sandbox,
            folder: tempfile::tempdir().map_err(|error| error.to_string())?,
            rounds,
            ports: std::sync::atomic::AtomicU16::new(9000),
        };
        let project = Path::new(PROJECT);
        let path = |path: &str| project.join(path).display().to_string();
        stage.kubectl(&["apply", "--server-side", "-k", &path("crds")]).await?;
        stage
            .kubectl(&["apply", "--server-side", "-f", &path("deploy/base/namespaces.yaml")])
            .await?;
        stage
            .kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=90s"])
            .await?;
        stage
            .kubectl(&["apply", "--server-side", "-k", &path("deploy/plans")])
            .await?;
        Ok(stage)
    }

    /// Has an operator record the revisions of all plans, and returns them by the names of their resources.
    ///
    /// # Errors
    /// When it does not.
    pub async fn plans(&self) -> Result<BTreeMap<String, Plan>, String> {
        let name = format!("plans{}", self.ports.load(std::sync::atomic::Ordering::Relaxed));
        let url = self.database(&name).await?;
        let broker = self.broker(&[("DATABASE_URL", &url)]).await?;
        let start = Instant::now();
        loop {
            let list = self.kubectl(&["get", "cacheplans", "-o", "json"]).await?;
            let list: serde_json::Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
            let (plans, all) = (
                rows::plans(&list),
                list.get("items").and_then(|items| items.as_array()).map_or(0, Vec::len),
            );
            if all > 0 && plans.len() == all {
                broker.end().await?;
                return Ok(plans);
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{} of {all} plans have a revision", plans.len()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Applies a resource.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, resource: &serde_json::Value) -> Result<(), String> {
        let file = self.folder.path().join("resource.json");
        std::fs::write(&file, resource.to_string()).map_err(|error| format!("writing {}: {error}", file.display()))?;
        let path = file.display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &path]).await.map(drop)
    }

    /// Runs kubectl as the cluster's administrator.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("kubectl")
            .env("KUBECONFIG", self.sandbox.kubeconfig())
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("running kubectl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "kubectl {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }

    /// Makes a database, migrated, and returns its URL.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn database(&self, name: &str) -> Result<String, String> {
        let postgres = self.sandbox.postgres();
        postgres
            .create_database(name)
            .await
            .map_err(|error| error.to_string())?;
        let url = postgres.database_url(name);
        self.ledger(&url)?.migrate().await.map_err(|error| error.to_string())?;
        Ok(url)
    }

    /// The ledger in a database, with the keys that the broker has.
    ///
    /// # Errors
    /// When the sandbox's files cannot be read.
    pub fn ledger(&self, url: &str) -> Result<Ledger, String> {
        let keys = std::fs::read_to_string(self.variable("LEDGER_KEYS_FILE")?).map_err(|error| error.to_string())?;
        let keys = KeyRing::parse(&keys.into()).map_err(|error| error.to_string())?;
        let url = url.parse().map_err(|error| format!("{error}"))?;
        Ledger::new(url, keys, 32).map_err(|error| error.to_string())
    }

    /// A connection to a database, in the ledger's schema.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn sql(&self, name: &str) -> Result<tokio_postgres::Client, String> {
        let client = self
            .sandbox
            .postgres()
            .connect(name)
            .await
            .map_err(|error| error.to_string())?;
        client
            .batch_execute("set search_path = cache_broker")
            .await
            .map_err(|error| error.to_string())?;
        Ok(client)
    }

    fn variable(&self, name: &str) -> Result<PathBuf, String> {
        let environment = self.sandbox.environment();
        let found = environment.into_iter().find(|(variable, _)| variable == name);
        found
            .map(|(_, value)| value.into())
            .ok_or_else(|| format!("the sandbox sets no {name}"))
    }

    /// Starts a broker with those variables besides the sandbox's, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn broker(&self, variables: &[(&str, &str)]) -> Result<Broker, String> {
        let mut broker = self.launch(variables)?;
        broker.ready().await?;
        Ok(broker)
    }

    /// Starts a broker, and does not wait.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn launch(&self, variables: &[(&str, &str)]) -> Result<Broker, String> {
        let port = self.ports.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
        let guest = self.sandbox.addresses().guest();
        let credentials =
            std::fs::read_to_string(self.variable("OSB_CREDENTIALS_FILE")?).map_err(|error| error.to_string())?;
        let mut program = Program::new(format!("broker-{port}"), broker()?)
            .env("PORT", port.to_string())
            .env("HEALTH_PORT", (port + 1).to_string())
            .env("POD_NAME", format!("broker-{port}"))
            .env("RUST_LOG", "info")
            // As in the image.
            .env("MALLOC_ARENA_MAX", "2");
        let given = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        program.env.extend(
            self.sandbox
                .environment()
                .into_iter()
                .chain(given)
                .map(|(name, value)| (OsString::from(name), value.into())),
        );
        Ok(Broker {
            process: self
                .sandbox
                .supervisor()
                .spawn(&program)
                .map_err(|error| format!("starting the broker: {error}"))?,
            address: SocketAddr::new(guest.into(), port),
            health: SocketAddr::new(guest.into(), port + 1),
            authorization: format!("Basic {}", BASE64_STANDARD.encode(credentials.trim())),
        })
    }
}

impl Broker {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready for a long time.
    pub async fn ready(&mut self) -> Result<(), String> {
        let request = crate::load::request("GET", "/readyz", self.health, "-", "");
        let make: crate::load::Make = std::sync::Arc::new(move |_| request.clone());
        let start = Instant::now();
        loop {
            let health = crate::load::run(self.health, 1, crate::load::Work::Count(1), make.clone()).await;
            match health {
                Ok(measured) if measured.statuses.contains_key(&200) => return Ok(()),
                answer if start.elapsed() > PATIENCE => {
                    return Err(format!(
                        "{} is not ready: {answer:?}; see {}",
                        self.health,
                        self.process.log().display()
                    ));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Asks for something again and again until the answer has that status.
    ///
    /// # Errors
    /// When it does not for a long time.
    pub async fn until(&self, path: &str, status: u16) -> Result<(), String> {
        let request = self.request("GET", path, "");
        let make: crate::load::Make = std::sync::Arc::new(move |_| request.clone());
        let start = Instant::now();
        loop {
            let got = crate::load::run(self.address, 1, crate::load::Work::Count(1), make.clone()).await?;
            if got.statuses.contains_key(&status) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{path} answers {:?}", got.statuses));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it in order, so that the next one need not wait for its Lease.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(self) -> Result<(), String> {
        let ended = self.process.stop(Duration::from_secs(30)).await;
        ended.map(drop).map_err(|error| format!("ending a broker: {error}"))
    }

    /// The bytes of a request to it.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        crate::load::request(method, path, self.address, &self.authorization, body)
    }

    /// The memory that it has resident, in MiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {path}: {error}"))?;
        text.lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<f64>()
                    .ok()
            })
            .map(|kib| kib / 1024.0)
            .ok_or_else(|| format!("{path} has no VmRSS"))
    }

    /// The processor time that it has taken, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/stat", self.process.pid());
        let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {path}: {error}"))?;
        // Behind the name of the program: proc(5). The kernel counts in hundredths for us.
        let ticks = text.rsplit(')').next().map(|rest| {
            rest.split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|ticks| ticks.parse::<f64>().ok())
                .sum::<f64>()
        });
        ticks
            .map(|ticks| ticks / 100.0)
            .ok_or_else(|| format!("{path} cannot be read"))
    }
}

/// The folder that cargo builds release builds into.
///
/// # Errors
/// When this program is not in it.
pub fn release() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    // It stands in `deps` there.
    let folder = this.parent().and_then(Path::parent);
    folder
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} is not where cargo puts it", this.display()))
}

/// The broker, built as it is shipped.
///
/// # Errors
/// When it was not built.
pub fn broker() -> Result<PathBuf, String> {
    let broker = release()?.with_file_name("dist").join("cache-broker");
    if broker.is_file() {
        Ok(broker)
    } else {
        Err(format!("{} is not there: `make bench` builds it", broker.display()))
    }
}

/// The body of an order.
pub fn order(plan_id: &str) -> String {
    format!(
        r#"{{"service_id":"{SERVICE}","plan_id":"{plan_id}","organization_guid":"bench-organization","space_guid":"bench-space","context":{{"platform":"bench","instance_name":"bench"}}}}"#
    )
}
