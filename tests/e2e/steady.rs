//! A client that goes on setting and getting a key, and counts for how long it could not.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::world::World;

/// How long an answer may take before it counts as none: a slow machine is not a refusal, a cache that hangs is.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it rests between two questions.
const REST: Duration = Duration::from_millis(10);

/// A cache in the cluster: `host:port`, and its password if it has one.
#[derive(Clone, Debug)]
pub struct Cache {
    pub address: String,
    pub redis: bool,
    pub password: Option<String>,
}

/// What a steady client met with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub questions: u32,
    pub refused: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { questions, refused } = self;
        write!(f, "refused for {:.2} s in {questions} questions", refused.as_secs_f64())
    }
}

/// A client at work.
pub struct Steady {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Tally>,
}

impl Cache {
    /// The cache of a connection Secret.
    pub async fn of(world: &World, namespace: &str, secret: &str) -> Self {
        let template = "go-template={{range $key, $value := .data}}{{$key}}={{$value | base64decode}}\n{{end}}";
        let data = world
            .kubectl(&["get", "secret", "-n", namespace, secret, "-o", template])
            .await;
        let of = |key: &str| {
            let mut lines = data.lines().filter_map(|line| line.split_once('='));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
        };
        Self {
            address: format!("{}:{}", of("host").unwrap(), of("port").unwrap()),
            redis: of("type").unwrap() != "memcached",
            password: of("password"),
        }
    }

    /// One that asks for no password.
    pub fn open(address: &str, redis: bool) -> Self {
        Self {
            address: address.to_owned(),
            redis,
            password: None,
        }
    }

    /// A connection that has shown the password.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await?;
        if let Some(password) = &self.password {
            stream.write_all(format!("AUTH {password}\r\n").as_bytes()).await?;
            until(&mut stream, b"+OK\r\n").await?;
        }
        Ok(stream)
    }

    pub async fn set(&self, key: &str, value: &str) -> std::io::Result<()> {
        let mut stream = self.connect().await?;
        let (question, answer) = match self.redis {
            true => (format!("SET {key} {value}\r\n"), &b"+OK\r\n"[..]),
            false => (
                format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()),
                &b"STORED\r\n"[..],
            ),
        };
        stream.write_all(question.as_bytes()).await?;
        until(&mut stream, answer).await.map(drop)
    }

    /// Whether a key is there.
    pub async fn has(&self, key: &str) -> std::io::Result<bool> {
        let mut stream = self.connect().await?;
        if self.redis {
            stream.write_all(format!("EXISTS {key}\r\n").as_bytes()).await?;
            Ok(until(&mut stream, b"\r\n").await? == b":1\r\n")
        } else {
            stream.write_all(format!("get {key}\r\n").as_bytes()).await?;
            Ok(until(&mut stream, b"END\r\n").await?.starts_with(b"VALUE"))
        }
    }

    /// Begins to use it all the time, each time over a new connection.
    pub fn use_steadily(&self) -> Steady {
        let (cache, (stop, mut stopped)) = (self.clone(), oneshot::channel());
        let work = tokio::spawn(async move {
            let mut tally = Tally::default();
            let mut refused_since: Option<Instant> = None;
            loop {
                let question = async {
                    cache.set("steady", "value").await?;
                    cache.has("steady").await
                };
                let answered = matches!(tokio::time::timeout(ANSWER, question).await, Ok(Ok(_)));
                tally.questions += 1;
                if answered {
                    tally.refused += refused_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                } else {
                    refused_since.get_or_insert_with(Instant::now);
                }
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    _ = &mut stopped => break,
                }
            }
            tally.refused += refused_since.map_or(Duration::ZERO, |since| since.elapsed());
            tally
        });
        Steady { stop, work }
    }
}

impl Steady {
    /// Ends it, and says what it met with.
    pub async fn end(self) -> Tally {
        let _ = self.stop.send(());
        let tally = self.work.await.unwrap();
        assert!(tally.questions > 5, "{tally:?}");
        tally
    }
}

/// Reads until the answer ends so.
pub async fn until(stream: &mut TcpStream, end: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(end) {
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(answer)
}
