//! Connections to receivers: the host is looked up, its addresses are checked, one is dialled, and TLS is spoken where the
//! URL says so.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::deliver::DeliveryError;
use super::target::{Policy, Target, target};
use crate::dial::{Dial, Line};
use crate::tls;

/// How long opening the connection may take, and TLS on it.
const CONNECT: Duration = Duration::from_secs(5);
/// How many of a host's addresses are tried.
const MAX_ADDRESSES: usize = 4;

/// Whether a connection has carried a request.
#[derive(Clone, Default)]
pub(super) struct Used(Arc<AtomicBool>);

impl Used {
    /// Notes that it has; returns whether it had before.
    pub(super) fn again(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }
}

/// A connection as the HTTP client holds it.
pub(super) struct Held {
    line: Box<dyn Line>,
    used: Used,
}

impl Connection for Held {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.used.clone())
    }
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_read(context, into)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(context)
    }
}

/// Opens connections to receivers.
#[derive(Clone)]
pub(super) struct Connector {
    policy: Policy,
    tls: TlsConnector,
    dial: Option<Arc<dyn Dial>>,
}

impl Connector {
    /// One that trusts the machine's certificate authorities.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(policy: Policy) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls::authorities())
            .with_no_client_auth();
        Ok(Self {
            policy,
            tls: TlsConnector::from(Arc::new(config)),
            dial: None,
        })
    }

    /// The same, that reaches receivers in another way.
    pub(super) fn dialling(self, dial: Arc<dyn Dial>) -> Self {
        Self {
            dial: Some(dial),
            ..self
        }
    }

    async fn open(&self, target: &Target) -> Result<Box<dyn Line>, DeliveryError> {
        let line = tokio::time::timeout(CONNECT, self.connect(target))
            .await
            .unwrap_or_else(|_| Err(connecting(target, &format!("not done within {} s", CONNECT.as_secs()))))?;
        if !target.tls {
            return Ok(line);
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|error| connecting(target, &error))?;
        let handshake = tokio::time::timeout(CONNECT, self.tls.connect(name, line))
            .await
            .map_err(|_| connecting(target, &"TLS took too long"))?;
        Ok(Box::new(handshake.map_err(|error| connecting(target, &error))?))
    }

    /// Dials an address that was checked: a second look-up could give another one.
    async fn connect(&self, target: &Target) -> Result<Box<dyn Line>, DeliveryError> {
        if let Some(dial) = &self.dial {
            let line = dial.dial(&target.host, target.port).await;
            return line.map_err(|error| connecting(target, &error));
        }
        let unresolved = |reason: String| DeliveryError::Resolve {
            host: target.host.clone(),
            reason,
        };
        let addresses: Vec<SocketAddr> = lookup_host((target.host.as_str(), target.port))
            .await
            .map_err(|error| unresolved(error.to_string()))?
            .collect();
        let first = addresses
            .first()
            .ok_or_else(|| unresolved("it has no address".to_owned()))?
            .ip();
        let mut refusal = DeliveryError::Forbidden {
            host: target.host.clone(),
            address: first,
        };
        let allowed = addresses.iter().filter(|address| self.policy.allows(address.ip()));
        for address in allowed.take(MAX_ADDRESSES) {
            match dial(address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => refusal = connecting(target, &error),
            }
        }
        Err(refusal)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Held>;
    type Error = DeliveryError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DeliveryError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DeliveryError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let target = match target(&uri.to_string(), self.policy) {
            Ok(target) => target,
            Err(error) => return Box::pin(ready(Err(error.into()))),
        };
        let connector = self.clone();
        Box::pin(async move {
            Ok(TokioIo::new(Held {
                line: connector.open(&target).await?,
                used: Used::default(),
            }))
        })
    }
}

async fn dial(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connecting(target: &Target, reason: &dyn std::fmt::Display) -> DeliveryError {
    DeliveryError::Connect {
        host: target.host.clone(),
        reason: reason.to_string(),
    }
}
