//! Probes and hooks: one question put to a container, and the rhythm in which it is put.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::container::Rewriting;
use crate::supervisor::{Process, Program, Supervisor};

/// How much of a command's output a message quotes.
const QUOTED: usize = 1024;

/// How long the first question of a run is repeated before it counts as unanswered: a server takes a moment to listen,
/// and a sandbox should not wait a whole period for it.
const FIRST: Duration = Duration::from_secs(1);

/// A question to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Does it accept a connection?
    Tcp(SocketAddrV4),
    /// Does this command succeed?
    Exec(Vec<String>),
    /// Does it answer this request with a status from 200 to 399?
    Http { address: SocketAddrV4, request: String },
    /// One this node cannot put.
    Unknown(String),
}

/// What a probe asks.
pub(super) fn check(probe: &Probe, container: &Container, address: Ipv4Addr, rewriting: &Rewriting) -> Check {
    action(
        (probe.exec.as_ref(), probe.tcp_socket.as_ref(), probe.http_get.as_ref()),
        container,
        address,
        rewriting,
    )
}

/// What a probe or a hook asks.
pub(super) fn action(
    of: (Option<&ExecAction>, Option<&TCPSocketAction>, Option<&HTTPGetAction>),
    container: &Container,
    address: Ipv4Addr,
    rewriting: &Rewriting,
) -> Check {
    let at = |port: &IntOrString, host: Option<&String>| {
        let address = host
            .and_then(|host| rewriting.text(host).parse().ok())
            .unwrap_or(address);
        number(port, container).map(|port| SocketAddrV4::new(address, port))
    };
    match of {
        (Some(exec), ..) => Check::Exec(exec.command.iter().flatten().map(|word| rewriting.text(word)).collect()),
        (_, Some(tcp), _) => at(&tcp.port, tcp.host.as_ref()).map_or_else(Check::Unknown, Check::Tcp),
        (.., Some(http)) if http.scheme.as_deref().unwrap_or("HTTP") == "HTTP" => {
            let path = http.path.as_deref().unwrap_or("/");
            let slash = if path.starts_with('/') { "" } else { "/" };
            let headers = http
                .http_headers
                .iter()
                .flatten()
                .map(|one| format!("{}: {}\r\n", one.name, one.value));
            let headers: String = headers.collect();
            match at(&http.port, http.host.as_ref()) {
                Ok(address) => Check::Http {
                    address,
                    request: format!(
                        "GET {slash}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
                    ),
                },
                Err(message) => Check::Unknown(message),
            }
        }
        _ => Check::Unknown("the sandbox's node knows only exec, tcpSocket and plain httpGet".to_owned()),
    }
}

fn number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port);
            named
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("the container has no port named {name}"))?
        }
    };
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

/// A process that is killed when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Tied(pub(super) Process);

impl Drop for Tied {
    fn drop(&mut self) {
        // A process that has been waited for has given its id back; another may carry it.
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        if let Err(error) = self.0.signal(Signal::KILL) {
            tracing::warn!(%error, name = self.0.name(), "killing a process");
        }
    }
}

/// Runs commands in the place of one container.
#[derive(Clone, Debug)]
pub(super) struct Shell {
    pub(super) supervisor: Supervisor,
    /// The container's own program: its environment, user and folder hold for the commands too.
    pub(super) program: Program,
    pub(super) scratch: PathBuf,
}

impl Shell {
    /// Runs one command; the error says how it ended and what it wrote.
    async fn run(&self, command: &[String]) -> Result<(), String> {
        let (first, args) = command.split_first().ok_or("the command is empty")?;
        let id = uuid::Uuid::new_v4().simple();
        let log = self.scratch.join(format!("exec-{id}.log"));
        let program = Program {
            name: format!("{}-exec-{id}", self.program.name),
            command: first.into(),
            args: args.iter().map(Into::into).collect(),
            log: Some(log.clone()),
            ..self.program.clone()
        };
        let _remove = Scratch(log.clone());
        let process = self
            .supervisor
            .spawn(&program)
            .map_err(|error| format!("starting {first}: {error}"))?;
        let status = Tied(process)
            .0
            .wait()
            .await
            .map_err(|error| format!("waiting for {first}: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let output = tokio::fs::read(&log).await.unwrap_or_default();
        let output = String::from_utf8_lossy(output.get(..QUOTED).unwrap_or(&output))
            .trim()
            .to_owned();
        Err(format!("{first}: {status}: {output}"))
    }
}

/// Removes a file when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Puts a question once; the error says what came instead of the wanted answer.
pub(super) async fn ask(check: &Check, shell: &Shell, timeout: Duration) -> Result<(), String> {
    let answer = async {
        match check {
            Check::Tcp(address) => {
                let connected = TcpStream::connect(SocketAddr::from(*address)).await;
                connected
                    .map(drop)
                    .map_err(|error| format!("dial tcp {address}: {error}"))
            }
            Check::Http { address, request } => http(*address, request).await,
            Check::Exec(command) => shell.run(command).await,
            Check::Unknown(why) => Err(why.clone()),
        }
    };
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

async fn http(address: SocketAddrV4, request: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("Get http://{address}: {error}");
    let mut stream = TcpStream::connect(SocketAddr::from(address)).await.map_err(failed)?;
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // "HTTP/1.1 200"
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.map_err(failed)?;
    let head = String::from_utf8_lossy(&head);
    match head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()) {
        Some(200..400) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get http://{address}: no HTTP answer")),
    }
}

/// Puts a question again and again in the probe's rhythm, and tells each answer, until nobody listens.
pub(super) async fn repeat<T>(
    probe: Probe,
    check: Check,
    shell: Shell,
    since: Timestamp,
    tell: mpsc::Sender<T>,
    wrap: impl Fn(Result<(), String>) -> T,
) {
    let seconds =
        |value: Option<i32>, default| Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or(1));
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let age = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0).saturating_sub(age)).await;
    let begun = tokio::time::Instant::now();
    let mut answer = ask(&check, &shell, timeout).await;
    while answer.is_err() && begun.elapsed() < FIRST && !matches!(check, Check::Unknown(_)) {
        tokio::time::sleep(FIRST / 10).await;
        answer = ask(&check, &shell, timeout).await;
    }
    let mut rhythm = tokio::time::interval_at(begun + period, period);
    rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if tell.send(wrap(answer)).await.is_err() {
            return;
        }
        rhythm.tick().await;
        answer = ask(&check, &shell, timeout).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 96, 78, 1);

    fn shell(supervisor: &Supervisor) -> Shell {
        Shell {
            supervisor: supervisor.clone(),
            program: Program::new("p", "p").env("POD_IP", ADDRESS.to_string()),
            scratch: supervisor.dir().to_owned(),
        }
    }

    fn checked(probe: serde_json::Value) -> Check {
        let container = json!({"name": "c", "ports": [{"name": "cache", "containerPort": 6379}]});
        let container = serde_json::from_value(container).unwrap();
        let rewriting = Rewriting::new(Vec::new(), ADDRESS);
        check(&serde_json::from_value(probe).unwrap(), &container, ADDRESS, &rewriting)
    }

    #[test]
    fn a_probe_is_a_question() {
        let to = |port| SocketAddrV4::new(ADDRESS, port);
        assert_eq!(checked(json!({"tcpSocket": {"port": 7}})), Check::Tcp(to(7)));
        assert_eq!(
            checked(json!({"tcpSocket": {"port": "cache", "host": "localhost"}})),
            Check::Tcp(to(6379))
        );
        assert!(matches!(
            checked(json!({"tcpSocket": {"port": "other"}})),
            Check::Unknown(_)
        ));
        assert!(matches!(checked(json!({"grpc": {"port": 7}})), Check::Unknown(_)));
        let command = ["redis-cli", "-h", "127.96.78.1", "ping"].map(str::to_owned).to_vec();
        assert_eq!(
            checked(json!({"exec": {"command": ["redis-cli", "-h", "127.0.0.1", "ping"]}})),
            Check::Exec(command)
        );
        let Check::Http { address, request } = checked(json!({"httpGet": {"port": 7, "path": "live"}})) else {
            panic!("an HTTP probe")
        };
        assert_eq!(address, to(7));
        assert!(
            request.starts_with("GET /live HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let supervisor = Supervisor::start().unwrap();
        let shell = shell(&supervisor);
        let second = Duration::from_secs(5);
        let exec = |script: &str| Check::Exec(["sh", "-c", script].map(str::to_owned).to_vec());
        assert_eq!(ask(&exec("test $POD_IP = 127.96.78.1"), &shell, second).await, Ok(()));
        let said = ask(&exec("echo no such key; exit 3"), &shell, second)
            .await
            .unwrap_err();
        assert!(said.contains("no such key") && said.contains('3'), "{said}");
        let slow = ask(&exec("sleep 60"), &shell, Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(slow.contains("no answer"), "{slow}");

        let listener = tokio::net::TcpListener::bind((ADDRESS, 0)).await.unwrap();
        let address = SocketAddrV4::new(ADDRESS, listener.local_addr().unwrap().port());
        assert_eq!(ask(&Check::Tcp(address), &shell, second).await, Ok(()));
        let server = tokio::spawn(async move {
            for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Away\r\n\r\n"] {
                // The first connection is the TCP probe's.
                let mut stream = loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    if stream.read(&mut [0; 256]).await.unwrap() > 0 {
                        break stream;
                    }
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let request = "GET / HTTP/1.1\r\n\r\n".to_owned();
        let http = Check::Http { address, request };
        assert_eq!(ask(&http, &shell, second).await, Ok(()));
        assert!(ask(&http, &shell, second).await.unwrap_err().contains("503"));
        server.await.unwrap();
        assert!(
            ask(&Check::Tcp(address), &shell, second)
                .await
                .unwrap_err()
                .contains("dial tcp")
        );
    }
}
