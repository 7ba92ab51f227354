//! A generator of HTTP load: keep-alive connections that send prepared requests on a thread of their own, so that it takes
//! as little as possible from what it measures.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// As much as goes in that time.
    For(Duration),
    /// That many requests, as fast as they go.
    Count(u64),
    /// That many requests, so many a second, whether answers come or not as long as a connection is free.
    Paced { count: u64, per_second: f64 },
}

/// Makes the bytes of the request of that number.
pub type Make = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The number of its request.
    pub number: u64,
    /// When it was there.
    pub at: Instant,
    /// How long it took; of a paced request since it was to be sent.
    pub took: Duration,
}

/// What came back.
#[derive(Debug)]
pub struct Measured {
    /// The answers, in no order.
    pub answers: Vec<Answer>,
    /// How many had which status.
    pub statuses: BTreeMap<u16, u64>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Measured {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The time within which that share of the answers came, in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let times: Vec<_> = self.answers.iter().map(|answer| millis(answer.took)).collect();
        quantile(times, share)
    }

    /// The same, if every answer had that status.
    ///
    /// # Errors
    /// When one had not: then something else was measured.
    pub fn all(self, status: u16) -> Result<Self, String> {
        if self.statuses.keys().all(|found| *found == status) && !self.answers.is_empty() {
            Ok(self)
        } else {
            Err(format!("expected {status} only, and got {:?}", self.statuses))
        }
    }
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value that a share of the values does not exceed.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let index = ((last as f64) * share).ceil() as usize;
    values.get(index.min(last)).copied().unwrap_or(f64::NAN)
}

/// A request with a body, if any.
pub fn request(method: &str, path: &str, host: SocketAddr, authorization: &str, body: &str) -> Vec<u8> {
    let body_headers = if body.is_empty() {
        String::new()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\n\
         x-broker-api-version: 2.17\r\n{body_headers}\r\n{body}"
    )
    .into_bytes()
}

/// Sends requests over that many connections, and waits for all answers.
///
/// # Errors
/// When the server does not answer, or not as HTTP says.
pub async fn run(address: SocketAddr, connections: usize, work: Work, make: Make) -> Result<Measured, String> {
    let load = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("starting the generator: {error}"))?;
        runtime.block_on(all(address, connections, work, make))
    };
    tokio::task::spawn_blocking(load)
        .await
        .map_err(|error| format!("the generator: {error}"))?
}

async fn all(address: SocketAddr, connections: usize, work: Work, make: Make) -> Result<Measured, String> {
    let mut lines = Vec::new();
    for _ in 0..connections {
        lines.push(Line::open(address).await?);
    }
    let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for line in lines {
        running.spawn(line.drive(work, start, next.clone(), make.clone()));
    }
    let (mut answers, mut statuses) = (Vec::new(), BTreeMap::new());
    while let Some(ended) = running.join_next().await {
        let (more, counted) = ended.map_err(|error| format!("the generator: {error}"))??;
        answers.extend(more);
        for (status, count) in counted {
            *statuses.entry(status).or_default() += count;
        }
    }
    Ok(Measured {
        answers,
        statuses,
        elapsed: start.elapsed(),
    })
}

/// One connection.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

type Driven = Result<(Vec<Answer>, BTreeMap<u16, u64>), String>;

impl Line {
    async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("connecting to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    async fn drive(mut self, work: Work, start: Instant, next: Arc<AtomicU64>, make: Make) -> Driven {
        let (mut answers, mut statuses) = (Vec::new(), BTreeMap::new());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let from = match work {
                Work::For(time) if start.elapsed() >= time => break,
                Work::Count(count) | Work::Paced { count, .. } if number >= count => break,
                Work::For(_) | Work::Count(_) => Instant::now(),
                Work::Paced { per_second, .. } => {
                    let due = start + Duration::from_secs_f64(number as f64 / per_second);
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
            };
            let status = tokio::time::timeout(PATIENCE, self.exchange(&make(number)))
                .await
                .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))??;
            let at = Instant::now();
            answers.push(Answer {
                number,
                at,
                took: at - from,
            });
            *statuses.entry(status).or_default() += 1;
        }
        Ok((answers, statuses))
    }

    /// Sends a request and reads its answer, the status of which it returns.
    async fn exchange(&mut self, request: &[u8]) -> Result<u16, String> {
        let broken = |error: std::io::Error| format!("a connection broke: {error}");
        self.stream.write_all(request).await.map_err(broken)?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|(_, length)| self.buffer.len() < length) {
            if self.stream.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err("the server closed a connection".to_owned());
            }
            if whole.is_none() {
                whole = head(&self.buffer)?;
            }
        }
        whole.map(|(status, _)| status).ok_or_else(|| "no answer".to_owned())
    }
}

/// The status of an answer, and its length with its body, once its headers are there.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Some(0), |(_, value)| value.trim().parse::<usize>().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4 + length))),
        _ => Err(format!("not an answer that has a length: {text}")),
    }
}
