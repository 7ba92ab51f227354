//! The part of a kubelet's HTTPS API that `kubectl logs` needs.
//!
//! It asks for no credentials: it serves only the logs of this sandbox, and only on loopback.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};

use super::shared::{LogFile, Shared};

/// A kubelet's port.
pub(super) const PORT: u16 = 10250;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long a client has to finish its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

const CHUNK: usize = 64 * 1024;

type Body = BoxBody<Bytes, std::io::Error>;

/// Listens on the usual port, or on a free one if another node of the sandbox has it.
pub(super) async fn listen(address: Ipv4Addr) -> std::io::Result<(TcpListener, u16)> {
    let listener = match TcpListener::bind((address, PORT)).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => TcpListener::bind((address, 0)).await?,
        other => other?,
    };
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// A certificate of its own, made anew at each start.
pub(super) fn tls(address: Ipv4Addr, name: &str) -> Result<TlsAcceptor, String> {
    let names = vec![address.to_string(), name.to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
        })
        .map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                connections.spawn(async move {
                    if let Err(message) = connection(stream, acceptor, shared).await {
                        tracing::debug!(%peer, %message, "a connection to the node's API ended");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection to the node's API");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) -> Result<(), String> {
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = handshake
        .map_err(|_| "no TLS handshake in time")?
        .map_err(|error| error.to_string())?;
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&request, shared).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    serving.await.map_err(|error| error.to_string())
}

async fn answer(request: &Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    match path.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] => {
            let wanted = Wanted::parse(request.uri().query().unwrap_or_default());
            let of = [*namespace, *pod, *container].map(str::to_owned);
            match logs(shared, of, wanted).await {
                Ok(response) => response,
                Err(message) => text(StatusCode::NOT_FOUND, &message),
            }
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "the sandbox's node serves only containerLogs: its containers are processes",
        ),
    }
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{message}\n")))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    follow: bool,
    previous: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<u64>,
}

impl Wanted {
    fn parse(query: &str) -> Self {
        let mut wanted = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "follow" => wanted.follow = value == "true",
                "previous" => wanted.previous = value == "true",
                "tailLines" => wanted.tail_lines = value.parse().ok(),
                "limitBytes" => wanted.limit_bytes = value.parse().ok(),
                _ => {}
            }
        }
        wanted
    }
}

/// Where the last `lines` lines of a text begin.
fn tail_start(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => text.len(),
        Some(before) => breaks.nth(before).map_or(0, |(at, _)| at + 1),
    }
}

async fn logs(shared: Arc<Shared>, of: [String; 3], wanted: Wanted) -> Result<Response<Body>, String> {
    let [namespace, pod, container] = &of;
    let log = shared.registry.log(namespace, pod, container, wanted.previous)?;
    let failed = |error: std::io::Error| format!("reading {}: {error}", log.path.display());
    let mut file = File::open(&log.path).await.map_err(failed)?;
    if let Some(lines) = wanted.tail_lines {
        let mut all = Vec::new();
        file.read_to_end(&mut all).await.map_err(failed)?;
        let start = u64::try_from(tail_start(&all, lines)).unwrap_or_default();
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    }
    let reading = Reading {
        left: wanted.limit_bytes.unwrap_or(u64::MAX),
        follow: wanted.follow,
        file,
        shared,
        of,
        log,
    };
    let frames = stream::unfold(reading, |mut reading| async move {
        let chunk = reading.next().await.transpose()?;
        Some((chunk.map(Frame::data), reading))
    });
    Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}

struct Reading {
    file: File,
    left: u64,
    follow: bool,
    shared: Arc<Shared>,
    of: [String; 3],
    log: LogFile,
}

impl Reading {
    /// The next part of the log; none at its end, which a followed log reaches when its process does.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            let [namespace, pod, container] = &self.of;
            // Asked before reading, so that the last words of a process that ends meanwhile are still read.
            let more = self.follow && self.shared.registry.is_running(namespace, pod, container, self.log.run);
            let mut chunk = vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK))];
            let length = self.file.read(&mut chunk).await?;
            if length > 0 {
                chunk.truncate(length);
                self.left = self.left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                return Ok(Some(chunk.into()));
            }
            if !more {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log_are_found() {
        let text = b"one\ntwo\nthree\n";
        for (lines, expected) in [
            (0, ""),
            (1, "three\n"),
            (2, "two\nthree\n"),
            (3, "one\ntwo\nthree\n"),
            (9, "one\ntwo\nthree\n"),
        ] {
            assert_eq!(&text[tail_start(text, lines)..], expected.as_bytes(), "{lines}");
        }
        assert_eq!(tail_start(b"one\ntwo", 1), 4, "an unfinished line is a line");
        assert_eq!(tail_start(b"", 1), 0);
    }

    #[test]
    fn a_query_says_what_is_wanted() {
        assert_eq!(Wanted::parse(""), Wanted::default());
        let all = Wanted {
            follow: true,
            previous: true,
            tail_lines: Some(5),
            limit_bytes: Some(99),
        };
        assert_eq!(
            Wanted::parse("follow=true&previous=true&tailLines=5&limitBytes=99&timestamps=true"),
            all
        );
    }
}
