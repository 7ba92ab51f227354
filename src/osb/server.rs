//! The HTTP server: TLS or plain, bounded in every direction, and polite when it ends.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use warp::reply::Response;

use super::{Facade, filter};

/// How many connections are served at one time; more wait.
const MAX_CONNECTIONS: usize = 4096;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for the next request, or take over its headers: a little longer than Go's clients
/// keep idle connections, so that it is them who close.
const HEADER_TIMEOUT: Duration = Duration::from_secs(100);
/// How large request line and headers may be together, and how much of a body is held at once.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// How long requests under way may go on when the server is to end.
const FAREWELL: Duration = Duration::from_secs(20);
/// How often certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(30);
/// The pause when no connection can be taken, for want of file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// A certificate and key from files, read again when they change.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    files: (Vec<u8>, Vec<u8>),
    config: Arc<ServerConfig>,
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no PEM file with {expected}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it should have.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not go together.
    #[error("serving {} with {}: {source}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads a certificate chain and its key (`TLS_CERT_FILE`, `TLS_KEY_FILE`).
    ///
    /// # Errors
    /// When a file cannot be read, or they are no certificate and key that go together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = (contents(certificate)?, contents(key)?);
        let config = config(certificate, key, &files)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            files,
            config,
        })
    }

    /// Reads the files again if they changed. What cannot be served leaves the old ones in place.
    fn reload(&mut self) {
        let read = || {
            let files = (contents(&self.certificate)?, contents(&self.key)?);
            if files == self.files {
                return Ok(None);
            }
            let config = config(&self.certificate, &self.key, &files)?;
            Ok::<_, TlsError>(Some((files, config)))
        };
        match read() {
            Ok(None) => {}
            Ok(Some((files, config))) => {
                tracing::info!(certificate = %self.certificate.display(), "certificate loaded again");
                (self.files, self.config) = (files, config);
            }
            Err(error) => tracing::warn!(%error, "the changed certificate is not served; the old one still is"),
        }
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn config(certificate: &Path, key: &Path, files: &(Vec<u8>, Vec<u8>)) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |path: &Path, expected: &'static str, reason: String| TlsError::Refused {
        path: path.to_owned(),
        expected,
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&files.0)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(certificate, "certificates", error.to_string()))?;
    if chain.is_empty() {
        return Err(refused(certificate, "certificates", "it has none".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_slice(&files.1).map_err(|error| refused(key, "a private key", error.to_string()))?;
    let mismatch = |source| TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves the API until told to stop, then lets requests under way end. Without TLS it is plain HTTP.
pub async fn serve(
    facade: Arc<Facade>,
    listener: TcpListener,
    mut tls: Option<Tls>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let filter = filter(facade);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut reload = tokio::time::interval(RELOAD);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            // It is closed only with the server.
            let permit = room.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            _ = reload.tick() => {
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
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config.clone()));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(reason) = connection(stream, acceptor, TowerToHyperService::new(service), watcher).await {
                tracing::debug!(%peer, %reason, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(FAREWELL, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

async fn connection<S>(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    service: S,
    watcher: Watcher,
) -> Result<(), String>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    // Replies are short: they must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    match acceptor {
        None => http(stream, service, watcher).await,
        Some(acceptor) => {
            let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
                .await
                .map_err(|_| "TLS handshake took too long".to_owned())?
                .map_err(|error| format!("TLS handshake: {error}"))?;
            http(stream, service, watcher).await
        }
    }
}

async fn http<T, S>(stream: T, service: S, watcher: Watcher) -> Result<(), String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use sandbox::certificates::Authority;

    use super::*;

    #[test]
    fn a_changed_certificate_is_served_and_a_broken_one_is_not() {
        let authority = Authority::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
        let write = |issued: &sandbox::certificates::Certificate| {
            std::fs::write(&certificate, &issued.certificate).unwrap();
            std::fs::write(&key, &issued.key).unwrap();
        };
        let (first, second) = (authority.issue(["a"]).unwrap(), authority.issue(["b"]).unwrap());
        write(&first);
        let mut tls = Tls::read(&certificate, &key).unwrap();
        let served = tls.config.clone();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config), "nothing changed");
        // Half a renewal: the certificate without its key.
        std::fs::write(&certificate, &second.certificate).unwrap();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config));
        std::fs::remove_file(&key).unwrap();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config));
        write(&second);
        tls.reload();
        assert!(!Arc::ptr_eq(&served, &tls.config));
    }

    #[test]
    fn what_cannot_be_served_is_said_with_its_file() {
        let issued = Authority::new().unwrap().issue(["a"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
        let message = || Tls::read(&certificate, &key).unwrap_err().to_string();
        assert!(message().starts_with("reading "), "{}", message());
        std::fs::write(&certificate, "").unwrap();
        std::fs::write(&key, "").unwrap();
        assert!(message().contains("certificates: it has none"), "{}", message());
        std::fs::write(&certificate, &issued.certificate).unwrap();
        assert!(message().contains("a private key"), "{}", message());
    }
}
