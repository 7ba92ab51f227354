//! The nodes as real processes: `memcached`, and `redis-server` for both Redis and Valkey.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::catalog::Engine;
use super::certificates::Authority;
use super::nodes::{Job, NodeSpec, Step, Tls};
use super::relay::Relay;
use super::resp::Client;
use crate::supervisor::{Process, Program, Supervisor, User};

/// The user behind which the service itself reaches the nodes; replicas follow their primaries as it, too.
const SERVICE_USER: &str = "sandbox-service";
/// How far above a node's own port its TLS listener is while it takes both plain and TLS connections.
const TLS_OFFSET: u16 = 20_000;
/// How long a process may take to answer, or a replica to catch up.
const PATIENCE: Duration = Duration::from_secs(20);

/// All processes of one endpoint.
pub(crate) struct Fleet {
    supervisor: Supervisor,
    authority: Authority,
    dir: PathBuf,
    secret: String,
    running: Mutex<HashMap<u64, Running>>,
}

struct Running {
    spec: NodeSpec,
    process: Process,
    relay: Option<Relay>,
}

impl Fleet {
    pub(crate) fn new(supervisor: Supervisor, authority: Authority, dir: PathBuf) -> Self {
        Self {
            supervisor,
            authority,
            dir,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            running: Mutex::default(),
        }
    }

    /// Does the steps of a job, one after the other.
    pub(crate) async fn perform(&self, job: Job) -> Result<(), String> {
        for step in job.steps {
            let what = format!("{step:?}");
            let what = what.split(['(', '{']).next().unwrap_or_default().trim().to_owned();
            self.step(step).await.map_err(|error| format!("{what}: {error}"))?;
        }
        Ok(())
    }

    async fn step(&self, step: Step) -> io::Result<()> {
        match step {
            Step::Run(spec) => {
                let before = self.running.lock().await.remove(&spec.key);
                let running = match before {
                    None => self.start(spec, true).await?,
                    Some(running) if running.spec.engine == Engine::Memcached => running,
                    Some(running) => self.adjust(running, spec).await?,
                };
                self.running.lock().await.insert(running.spec.key, running);
                Ok(())
            }
            Step::Restart(spec) => {
                self.end(spec.key).await?;
                let running = self.start(spec, false).await?;
                self.running.lock().await.insert(running.spec.key, running);
                Ok(())
            }
            Step::Stop(key) => self.end(key).await,
            Step::Save { node, file } => {
                self.client(node).await?.call(&["SAVE"]).await?;
                fs::copy(self.node_dir(node).join("data/dump.rdb"), self.snapshot(file)).map(drop)
            }
            Step::Copy { from, to } => fs::copy(self.snapshot(from), self.snapshot(to)).map(drop),
            Step::Remove(file) => match fs::remove_file(self.snapshot(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Step::Shard { shards, leaving } => super::shards::form(self, &shards, &leaving).await,
        }
    }

    fn node_dir(&self, key: u64) -> PathBuf {
        self.dir.join(format!("nodes/{key}"))
    }

    fn snapshot(&self, file: u64) -> PathBuf {
        self.dir.join(format!("snapshots/{file}.rdb"))
    }

    /// A connection to a Redis node as the service.
    pub(crate) async fn client(&self, key: u64) -> io::Result<Client> {
        Client::connect(&self.node_dir(key).join("redis.sock"), SERVICE_USER, &self.secret).await
    }

    /// The node's address, the port its cluster peers dial, and the service's user and password.
    pub(crate) async fn peer(&self, key: u64) -> io::Result<(String, u16, &'static str, &str)> {
        let running = self.running.lock().await;
        let spec = &running.get(&key).ok_or(io::ErrorKind::NotFound)?.spec;
        let (_, tls_port) = ports(spec);
        let port = if tls_port == 0 { spec.port } else { tls_port };
        Ok((spec.address.to_string(), port, SERVICE_USER, &self.secret))
    }

    async fn end(&self, key: u64) -> io::Result<()> {
        let Some(running) = self.running.lock().await.remove(&key) else {
            return Ok(());
        };
        if let Some(relay) = running.relay {
            relay.stop().await;
        }
        running.process.stop(Duration::from_secs(5)).await?;
        match fs::remove_dir_all(self.node_dir(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn start(&self, spec: NodeSpec, restore: bool) -> io::Result<Running> {
        let relative = self.node_dir(spec.key);
        let dir = self.supervisor.make_dir(&relative, User::Unprivileged)?;
        self.supervisor.make_dir(relative.join("data"), User::Unprivileged)?;
        let (certificate, key) = self.authority.issue(spec.address).map_err(io::Error::other)?;
        self.write(&dir.join("node.crt"), &certificate)?;
        self.write(&dir.join("node.key"), &key)?;
        let name = format!("elasticache-{}", spec.name);
        let program = if spec.engine == Engine::Memcached {
            Program::new(name, "memcached").args(memcached_args(&spec, &dir))
        } else {
            if let Some(file) = spec.restore.filter(|_| restore) {
                let target = dir.join("data/dump.rdb");
                fs::copy(self.snapshot(file), &target)?;
                self.supervisor.give(&target, User::Unprivileged)?;
            }
            self.write(&dir.join("redis.conf"), &self.redis_conf(&spec, &dir))?;
            Program::new(name, "redis-server").args([dir.join("redis.conf")])
        };
        free(&spec).await?;
        let mut process = self.supervisor.spawn(&program.user(User::Unprivileged))?;
        let relay = match spec.tls {
            Tls::Preferred if spec.engine != Engine::Memcached => Some(self.relay(&spec).await?),
            _ => None,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.answers(&spec).await {
            if let Some(status) = process.try_wait()? {
                let log = fs::read_to_string(process.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_owned();
                return Err(io::Error::other(format!("{} ended with {status}: {last}", spec.name)));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not answer: {error}", spec.name)));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Running { spec, process, relay })
    }

    async fn relay(&self, spec: &NodeSpec) -> io::Result<Relay> {
        let plain = self.node_dir(spec.key).join("redis.sock");
        let tls = SocketAddrV4::new(spec.address, spec.port + TLS_OFFSET);
        Relay::start(SocketAddrV4::new(spec.address, spec.port), plain, tls).await
    }

    /// Whether a node serves, and a replica has caught up with its primary.
    async fn answers(&self, spec: &NodeSpec) -> io::Result<()> {
        if spec.engine == Engine::Memcached {
            return TcpStream::connect(SocketAddrV4::new(spec.address, spec.port))
                .await
                .map(drop);
        }
        let mut client = self.client(spec.key).await?;
        client.call(&["PING"]).await?;
        let info = client.call(&["INFO", "replication"]).await?;
        match spec.replica_of.is_none() || info.text().contains("master_link_status:up") {
            true => Ok(()),
            false => Err(io::Error::other("it has not caught up with its primary")),
        }
    }

    /// Brings a running Redis node to another state, and keeps its data and, where it can, its connections.
    async fn adjust(&self, mut running: Running, spec: NodeSpec) -> io::Result<Running> {
        let mut client = self.client(spec.key).await?;
        self.write(
            &self.node_dir(spec.key).join("redis.conf"),
            &self.redis_conf(&spec, &self.node_dir(spec.key)),
        )?;
        if spec.users != running.spec.users {
            for old in &running.spec.users {
                if old.name != "default" && !spec.users.iter().any(|user| user.name == old.name) {
                    client.call(&["ACL", "DELUSER", &old.name]).await?;
                }
            }
            for user in acl(&spec) {
                let words: Vec<&str> = ["ACL", "SETUSER", &user.0, "reset"]
                    .into_iter()
                    .chain(user.1.iter().map(String::as_str))
                    .collect();
                client.call(&words).await?;
            }
        }
        if spec.mib != running.spec.mib {
            client
                .call(&["CONFIG", "SET", "maxmemory", &format!("{}mb", spec.mib)])
                .await?;
        }
        if spec.tls != running.spec.tls {
            if let Some(relay) = running.relay.take() {
                relay.stop().await;
            }
            let (plain, tls) = ports(&spec);
            let peers = if tls == 0 { "no" } else { "yes" };
            let (plain, tls) = (plain.to_string(), tls.to_string());
            client
                .call(&[
                    "CONFIG",
                    "SET",
                    "port",
                    &plain,
                    "tls-port",
                    &tls,
                    "tls-replication",
                    peers,
                ])
                .await?;
            if spec.tls == Tls::Preferred {
                running.relay = Some(self.relay(&spec).await?);
            }
        }
        if spec.replica_of != running.spec.replica_of && !spec.sharded {
            let (host, port) = match spec.replica_of {
                None => ("NO".to_owned(), "ONE".to_owned()),
                Some((address, port)) => (address.to_string(), port.to_string()),
            };
            client.call(&["REPLICAOF", &host, &port]).await?;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.answers(&spec).await {
            if Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.spec = spec;
        Ok(running)
    }

    /// The title of a process would overwrite its environment, by which the watchdog knows what is the sandbox's.
    fn redis_conf(&self, spec: &NodeSpec, dir: &Path) -> String {
        let (port, tls_port) = ports(spec);
        let dir = dir.display();
        let tls = if tls_port == 0 { "no" } else { "yes" };
        let mut conf = format!(
            "bind {address}\nbind-source-addr {address}\nport {port}\ntls-port {tls_port}\nprotected-mode no\ndaemonize no\nset-proc-title no\nsave \"\"\nappendonly no\n\
             unixsocket {dir}/redis.sock\nunixsocketperm 700\ndir {dir}/data\nmaxmemory {mib}mb\n\
             maxmemory-policy volatile-lru\ntls-cert-file {dir}/node.crt\ntls-key-file {dir}/node.key\n\
             tls-ca-cert-file {ca}\ntls-auth-clients no\ntls-replication {tls}\ntls-cluster {tls}\n\
             repl-diskless-sync-delay 0\nrepl-ping-replica-period 1\nmasteruser {SERVICE_USER}\nmasterauth {secret}\n\
             user {SERVICE_USER} on >{secret} ~* &* +@all\n",
            address = spec.address,
            mib = spec.mib,
            ca = self.authority.file().display(),
            secret = self.secret,
        );
        for (name, rules) in acl(spec) {
            let rules: Vec<String> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
            conf.push_str(&format!("user {name} {}\n", rules.join(" ")));
        }
        if spec.sharded {
            conf.push_str(&format!(
                "cluster-enabled yes\ncluster-allow-replica-migration no\ncluster-node-timeout 5000\ncluster-config-file nodes.conf\n\
                 cluster-announce-ip {}\ncluster-port {}\n",
                spec.address,
                spec.port + 10_000
            ));
            if spec.tls == Tls::Preferred {
                conf.push_str(&format!(
                    "cluster-announce-port {0}\ncluster-announce-tls-port {0}\n",
                    spec.port
                ));
            }
        } else if let Some((address, port)) = spec.replica_of {
            conf.push_str(&format!("replicaof {address} {port}\n"));
        }
        conf
    }

    /// Writes a file that only the nodes' user may read.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        self.supervisor.give(path, User::Unprivileged)
    }
}

/// Waits until nobody listens where a node shall: what was killed just now may not be gone yet.
async fn free(spec: &NodeSpec) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::net::TcpListener::bind((spec.address, spec.port)) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The plain and the TLS port of a Redis node; 0 is none.
fn ports(spec: &NodeSpec) -> (u16, u16) {
    match spec.tls {
        Tls::Off => (spec.port, 0),
        Tls::Preferred => (0, spec.port + TLS_OFFSET),
        Tls::Required => (0, spec.port),
    }
}

/// Users and their rules; without any, everyone may do everything.
fn acl(spec: &NodeSpec) -> Vec<(String, Vec<String>)> {
    let everyone = || {
        vec![
            "on".to_owned(),
            "nopass".to_owned(),
            "~*".to_owned(),
            "&*".to_owned(),
            "+@all".to_owned(),
        ]
    };
    if spec.users.is_empty() {
        return vec![("default".to_owned(), everyone())];
    }
    let mut users: Vec<(String, Vec<String>)> = (spec.users.iter())
        .map(|user| {
            let mut rules = vec!["&*".to_owned()];
            match user.passwords.as_slice() {
                [] => rules.push("nopass".to_owned()),
                passwords => rules.extend(passwords.iter().map(|password| format!(">{password}"))),
            }
            rules.extend(user.access.split_whitespace().map(str::to_owned));
            (user.name.clone(), rules)
        })
        .collect();
    if !users.iter().any(|(name, _)| name == "default") {
        users.push(("default".to_owned(), vec!["off".to_owned()]));
    }
    users
}

fn memcached_args(spec: &NodeSpec, dir: &Path) -> Vec<String> {
    let mut args: Vec<String> = ["-l", &spec.address.to_string(), "-p", &spec.port.to_string(), "-U", "0"]
        .into_iter()
        .chain(["-m", &spec.mib.to_string(), "-t", "2"])
        .map(str::to_owned)
        .collect();
    if spec.tls != Tls::Off {
        let dir = dir.display();
        args.extend(["-Z".to_owned(), "-o".to_owned()]);
        args.push(format!("ssl_chain_cert={dir}/node.crt,ssl_key={dir}/node.key"));
    }
    args
}
