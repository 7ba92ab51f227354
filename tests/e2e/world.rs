//! A sandbox with the custom resources and default plans in it, and a broker as a process of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{LazyLock, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use sandbox::Sandbox;
use sandbox::supervisor::{Process, Program};
use tokio::process::Command;
use tokio::sync::watch;

use crate::canary::{self, Canary};
use crate::osb::{self, Osb};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const BROKER: &str = env!("CARGO_BIN_EXE_cache-broker");
/// The folder of the project.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// A sandbox and the broker in it.
pub struct World {
    pub sandbox: Sandbox,
    pub broker: Broker,
    canary: Canary,
}

/// A broker process, and how to start it again.
pub struct Broker {
    program: Program,
    process: Option<Process>,
    url: String,
    health: String,
    authorization: String,
    log: PathBuf,
}

thread_local! {
    /// Ends with the test that it is made by, since each has a thread of its own.
    static USE: RefCell<Option<Use>> = const { RefCell::new(None) };
    /// The clients of API servers that the test has, by their kubeconfig. Connections end with the test's runtime.
    static CLIENTS: RefCell<HashMap<PathBuf, kube::Client>> = RefCell::default();
}

/// How many tests are using the shared world.
static USES: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// A test's use of the shared world.
struct Use;

impl Use {
    fn begin() -> Self {
        USES.send_modify(|uses| *uses += 1);
        Self
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        USES.send_modify(|uses| *uses -= 1);
    }
}

/// Waits until no other test than the one that waits uses the shared world.
pub async fn alone() {
    USES.subscribe().wait_for(|uses| *uses <= 1).await.unwrap();
}

/// The world of all tests that take nothing away. It ends with the process.
pub async fn shared() -> &'static World {
    USE.with_borrow_mut(|own| {
        own.get_or_insert_with(Use::begin);
    });
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = || {
        let (send, receive) = std::sync::mpsc::channel();
        // Its tasks need a runtime that outlives the test that came first.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                send.send(World::start(&[]).await).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receive.recv().unwrap()
    };
    tokio::task::spawn_blocking(move || WORLD.get_or_init(world))
        .await
        .unwrap()
}

impl World {
    /// A world of a test's own, its broker started with some variables more.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::on(Sandbox::start().await.unwrap(), variables).await
    }

    /// A world on a sandbox.
    pub async fn on(sandbox: Sandbox, variables: &[(&str, &str)]) -> Self {
        let canary = Canary::start(&sandbox).await;
        let project = Path::new(PROJECT);
        let apply = async |options: &[&str], path: &str| {
            let path = project.join(path);
            kubectl(
                &sandbox,
                &[&["apply", "--server-side"], options, &[path.to_str().unwrap()]].concat(),
            )
            .await;
        };
        tokio::join!(apply(&["-k"], "crds"), apply(&["-f"], "deploy/base/namespaces.yaml"));
        kubectl(
            &sandbox,
            &["wait", "--for=condition=Established", "crd", "--all", "--timeout=90s"],
        )
        .await;
        tokio::join!(
            apply(&["-k"], "deploy/plans"),
            apply(&["-f"], "deploy/base/plan-in-use.yaml")
        );
        let mut broker = Broker::new(&sandbox, "broker", 8443, variables);
        broker.start(&sandbox).await;
        let plans = kubectl(&sandbox, &["get", "cplan", "-o", "name"]).await.lines().count();
        let osb = broker.osb();
        eventually("a catalog with every plan", async || {
            let catalog = osb.get("/v2/catalog").await;
            let services = catalog.body["services"].as_array().unwrap();
            let offered = services
                .iter()
                .map(|service| service["plans"].as_array().unwrap().len());
            (offered.sum::<usize>() == plans).then_some(())
        })
        .await;
        Self {
            sandbox,
            broker,
            canary,
        }
    }

    /// Ends it, once it is sure that no secret of it was told.
    pub async fn stop(self) {
        self.search().await;
        self.sandbox.stop().await;
    }

    /// Looks for its secrets in all that was told of it.
    pub async fn search(&self) {
        let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let logs: Vec<_> = logs
            .into_iter()
            .filter(|log| canary::is_of(log, &self.sandbox))
            .collect();
        let metrics = self.broker.health().try_get("/metrics").await;
        let metrics: Vec<_> = metrics.map(|reply| reply.text).into_iter().collect();
        self.canary.search(&self.sandbox, &logs, &metrics).await;
    }

    pub fn osb(&self) -> Osb {
        self.broker.osb()
    }

    /// A client of the API server, one for all that a test asks.
    pub async fn kube(&self) -> kube::Client {
        let kubeconfig = self.sandbox.kubeconfig();
        if let Some(client) = CLIENTS.with_borrow(|clients| clients.get(kubeconfig).cloned()) {
            return client;
        }
        let client = self.sandbox.kube().await.unwrap();
        CLIENTS.with_borrow_mut(|clients| clients.insert(kubeconfig.to_owned(), client.clone()));
        client
    }

    /// A connection to the ledger.
    pub async fn sql(&self) -> tokio_postgres::Client {
        let client = self.sandbox.postgres().connect("cache_broker").await.unwrap();
        client.batch_execute("set search_path = cache_broker").await.unwrap();
        client
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.sandbox, arguments).await
    }

    pub async fn kill_broker(&mut self) {
        self.broker.kill().await;
    }

    pub async fn start_broker(&mut self) {
        self.broker.start(&self.sandbox).await;
    }
}

impl Broker {
    /// A broker to be, on two ports of the sandbox's guest address: `port` for the API, the next one for health.
    pub fn new(sandbox: &Sandbox, name: &str, port: u16, variables: &[(&str, &str)]) -> Self {
        let guest: Ipv4Addr = sandbox.addresses().guest();
        let mut program = Program::new(name, BROKER)
            .env("PORT", port.to_string())
            .env("HEALTH_PORT", (port + 1).to_string())
            .env("POD_NAME", name)
            .env("RUST_LOG", "info,cache_broker=debug");
        let environment = sandbox.environment();
        let credentials = &environment
            .iter()
            .find(|(name, _)| name == "OSB_CREDENTIALS_FILE")
            .unwrap()
            .1;
        let authorization = osb::basic(fs::read_to_string(credentials).unwrap().trim());
        program.env.extend(
            environment
                .into_iter()
                .map(|(name, value)| (OsString::from(name), value.into())),
        );
        program
            .env
            .extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
        let log = sandbox.supervisor().log_of(name);
        shown_on_panic(log.clone());
        Self {
            program,
            process: None,
            url: format!("http://{guest}:{port}"),
            health: format!("http://{guest}:{}", port + 1),
            authorization,
            log,
        }
    }

    /// The same, started with arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.program.args.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Starts it, and waits until it is ready.
    pub async fn start(&mut self, sandbox: &Sandbox) {
        self.launch(sandbox);
        let health = self.health();
        eventually("readiness of the broker", async || {
            let reply = health.try_get("/readyz").await?;
            (reply.status == StatusCode::OK).then_some(())
        })
        .await;
    }

    pub fn launch(&mut self, sandbox: &Sandbox) {
        self.process = Some(sandbox.supervisor().spawn(&self.program).unwrap());
    }

    /// Kills it as a crash would.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(rustix::process::Signal::KILL).unwrap();
        process.wait().await.unwrap();
    }

    /// Asks it to end, and waits for that.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        process.signal(rustix::process::Signal::TERM).unwrap();
        tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap()
    }

    /// Stops it where it stands, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().unwrap().signal(signal).unwrap();
    }

    pub fn osb(&self) -> Osb {
        Osb::new(&self.url, &self.authorization)
    }

    /// A client that is somebody else.
    pub fn osb_as(&self, authorization: &str) -> Osb {
        Osb::new(&self.url, authorization)
    }

    /// A client of `/livez` and `/readyz`.
    pub fn health(&self) -> Osb {
        Osb::new(&self.health, "")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

pub async fn kubectl(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = kubectl_command(sandbox).args(arguments).output().await.unwrap();
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn kubectl_command(sandbox: &Sandbox) -> Command {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", sandbox.kubeconfig()).kill_on_drop(true);
    command
}

/// Waits until a condition holds, and returns what it found.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition).await
}

/// The same, for what may take longer.
pub async fn within<T>(patience: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < patience, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The logs of all brokers.
static LOGS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// When a test fails, the end of every broker's log is printed: the files go with their sandbox.
fn shown_on_panic(log: PathBuf) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for log in logs {
                let Ok(text) = fs::read_to_string(&log) else { continue };
                let lines: Vec<_> = text
                    .lines()
                    .filter(|line| {
                        !["last_operation", "last_binding_operation"]
                            .iter()
                            .any(|poll| line.contains(poll))
                    })
                    .collect();
                eprintln!("--- the end of {}", log.display());
                eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }));
    });
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).push(log);
}
