//! Real caches: processes on addresses of a sandbox.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandbox::address::Addresses;
use sandbox::certificates::Authority;
use sandbox::supervisor::{Process, Program, Supervisor, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const PASSWORD: &str = "never-to-be-shown";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the caches of a test need. They end with it.
pub struct Caches {
    addresses: Addresses,
    supervisor: Supervisor,
    authority: Authority,
}

/// A cache, and where it answers.
pub struct Cache {
    pub address: String,
    process: Process,
}

impl Caches {
    pub fn start() -> Self {
        let addresses = Addresses::claim().unwrap();
        Self {
            supervisor: Supervisor::start_on(&addresses).unwrap(),
            addresses,
            authority: Authority::new().unwrap(),
        }
    }

    /// The certificate of the authority that signed those of the caches.
    pub fn authority(&self) -> String {
        self.authority.certificate()
    }

    pub async fn memcached(&self, tls: bool) -> Cache {
        let ip = self.addresses.next_cache_node();
        let mut args = vec!["-l".to_owned(), ip.to_string(), "-U".to_owned(), "0".to_owned()];
        if tls {
            let [certificate, key] = self.certificate(ip);
            args.extend(["-Z".to_owned(), "-o".to_owned()]);
            args.push(format!(
                "ssl_chain_cert={},ssl_key={}",
                certificate.display(),
                key.display()
            ));
        }
        self.run(
            Program::new(format!("memcached-{ip}"), "memcached").args(args),
            ip,
            11211,
        )
        .await
    }

    pub async fn redis(&self, options: &[&str]) -> Cache {
        let ip = self.addresses.next_cache_node();
        let port = ["--port", "6379"].map(str::to_owned);
        self.redis_at(ip, port.to_vec(), options).await
    }

    pub async fn redis_over_tls(&self, options: &[&str]) -> Cache {
        let ip = self.addresses.next_cache_node();
        let [certificate, key] = self.certificate(ip).map(|path| path.display().to_string());
        let tls = ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"].map(str::to_owned);
        let files = [
            "--tls-cert-file".to_owned(),
            certificate,
            "--tls-key-file".to_owned(),
            key,
        ];
        self.redis_at(ip, [tls.to_vec(), files.to_vec()].concat(), options)
            .await
    }

    pub async fn replica_of(&self, primary: &Cache) -> Cache {
        let (host, port) = primary.address.rsplit_once(':').unwrap();
        self.redis(&["--replicaof", host, port, "--repl-diskless-sync-delay", "0"])
            .await
    }

    async fn redis_at(&self, ip: Ipv4Addr, ports: Vec<String>, options: &[&str]) -> Cache {
        let name = format!("redis-{ip}");
        let dir = self.supervisor.make_dir(&name, User::Unprivileged).unwrap();
        let common = [
            "--bind",
            &ip.to_string(),
            "--protected-mode",
            "no",
            "--set-proc-title",
            "no",
            "--save",
            "",
            "--dir",
            &dir.display().to_string(),
        ]
        .map(str::to_owned);
        let program = Program::new(name, "redis-server")
            .args(common)
            .args(ports)
            .args(options);
        self.run(program, ip, 6379).await
    }

    async fn run(&self, program: Program, ip: Ipv4Addr, port: u16) -> Cache {
        let program = program.user(User::Unprivileged);
        let process = self.supervisor.spawn(&program).unwrap();
        let log = process.log().to_owned();
        let start = Instant::now();
        while TcpStream::connect((ip, port)).await.is_err() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "{} does not answer: {log}", program.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Cache {
            address: format!("{ip}:{port}"),
            process,
        }
    }

    fn certificate(&self, ip: Ipv4Addr) -> [PathBuf; 2] {
        let issued = self.authority.issue([ip]).unwrap();
        [("crt", issued.certificate), ("key", issued.key)].map(|(kind, text)| {
            let path = self.supervisor.dir().join(format!("{ip}.{kind}"));
            std::fs::write(&path, text).unwrap();
            self.supervisor.give(&path, User::Unprivileged).unwrap();
            path
        })
    }

    /// The port on loopback of a relay to a cache.
    pub async fn relay_to(&self, address: &str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = address.to_owned();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        });
        port
    }

    pub async fn eventually(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !condition().await {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Cache {
    /// Sends bytes and reads as many as are expected.
    pub async fn talk(&self, request: &[u8], expected: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = vec![0; expected.len()];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply))
            .await
            .unwrap()
            .unwrap();
        reply
    }

    pub async fn kill(mut self) {
        self.process.signal(rustix::process::Signal::KILL).unwrap();
        self.process.wait().await.unwrap();
    }

    /// The address of a server that takes connections and says nothing.
    pub async fn silent() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                held.push(listener.accept().await.unwrap());
            }
        });
        address
    }
}
