//! Connections, and other ways than the network to open them, which a simulation has.

use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// A connection, later.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Line>>> + Send>>;

/// Another way than the network.
pub trait Dial: Send + Sync {
    /// Opens a connection to a host's port.
    fn dial(&self, host: &str, port: u16) -> Dialling;
}
