//! The HTTP server: TLS or plain, bounded in every direction, and polite when it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Interval;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use warp::reply::Response;

use super::tls::{Subject, Tls};
use super::{Facade, filter};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// About how large request line and headers may be together, and how much of a body is held at once. The facade takes
/// less, and says so; what is beyond this gets hyper's own answer, without a body and without an identity.
const MAX_HEAD: usize = 2 * super::MAX_HEAD;
const MAX_HEADERS: usize = 2 * super::MAX_HEADERS;
/// How long requests under way may go on when the server is to end.
const FAREWELL: Duration = Duration::from_secs(20);
/// The pause when no connection can be taken, for want of file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// What one server, and one client, may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many connections are served at one time; more wait.
    pub connections: usize,
    /// How long a connection may wait for the next request, or take over its headers.
    pub header: Duration,
    /// How long a client may take nothing of a reply.
    pub write: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 4096,
            // A little longer than Go's clients keep idle connections, so that it is them who close.
            header: Duration::from_secs(100),
            write: Duration::from_secs(30),
        }
    }
}

/// Serves the API until told to stop, then lets requests under way end. Without TLS it is plain HTTP.
pub async fn serve(
    facade: Arc<Facade>,
    listener: TcpListener,
    tls: Option<Tls>,
    shutdown: impl Future<Output = ()> + Send,
) {
    serve_within(Bounds::default(), facade, listener, tls, shutdown).await;
}

/// The same, within bounds of one's own.
pub async fn serve_within(
    bounds: Bounds,
    facade: Arc<Facade>,
    listener: TcpListener,
    mut tls: Option<Tls>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let filter = filter(facade);
    let room = Arc::new(Semaphore::new(bounds.connections));
    let graceful = GracefulShutdown::new();
    let mut reload = tls.as_ref().map(|tls| tokio::time::interval(tls.period()));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            // It is closed only with the server.
            let permit = room.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            () = due(&mut reload) => {
                if let Some(tls) = &mut tls {
                    tls.reload();
                }
                continue;
            }
            (permit, accepted) = accept => match accepted {
                Ok((stream, peer)) => (permit, stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            },
        };
        let (service, watcher) = (warp::service(filter.clone()), graceful.watcher());
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(reason) = connection(stream, acceptor, TowerToHyperService::new(service), bounds, watcher).await
            {
                tracing::debug!(%peer, %reason, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(FAREWELL, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

/// The next tick of a clock; never, without one.
async fn due(clock: &mut Option<Interval>) {
    match clock {
        Some(clock) => drop(clock.tick().await),
        None => std::future::pending().await,
    }
}

async fn connection<S>(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    service: S,
    bounds: Bounds,
    watcher: Watcher,
) -> Result<(), String>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    // Replies are short: they must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    match acceptor {
        None => http(stream, service, None, bounds, watcher).await,
        Some(acceptor) => {
            let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
                .await
                .map_err(|_| "TLS handshake took too long".to_owned())?
                .map_err(|error| format!("TLS handshake: {error}"))?;
            let certificates = stream.get_ref().1.peer_certificates();
            let subject = certificates.and_then(|chain| Subject::of(chain.first()?));
            http(stream, service, subject, bounds, watcher).await
        }
    }
}

async fn http<T, S>(
    stream: T,
    service: S,
    subject: Option<Subject>,
    bounds: Bounds,
    watcher: Watcher,
) -> Result<(), String>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.write));
    let service = service_fn(move |mut request: Request<Incoming>| {
        // A target without a path (RFC 9112, 3.2.3, or nonsense) is none of the API's, and warp would panic at it.
        if request.uri().path_and_query().is_none() {
            *request.uri_mut() = Uri::from_static("/");
        }
        if let Some(subject) = &subject {
            request.extensions_mut().insert(subject.clone());
        }
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    watcher.watch(connection).await.map_err(|error| error.to_string())
}
