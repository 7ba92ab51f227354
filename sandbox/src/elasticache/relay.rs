//! One port for both plain and TLS connections, as `TransitEncryptionMode` preferred has it: the first byte of a
//! connection tells which it is.

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// A listener that passes connections on until it is dropped; those that are open then live on.
pub(crate) struct Relay(JoinHandle<()>);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    pub(crate) async fn start(listen: SocketAddrV4, plain: PathBuf, tls: SocketAddrV4) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let plain = plain.clone();
                tokio::spawn(async move {
                    let mut first = [0];
                    let _ = client.set_nodelay(true);
                    match client.peek(&mut first).await {
                        Ok(1..) if first == [HANDSHAKE] => join(client, TcpStream::connect(tls).await).await,
                        Ok(1..) => join(client, UnixStream::connect(plain).await).await,
                        _ => {}
                    }
                });
            }
        });
        Ok(Self(task))
    }

    /// Gives the port back.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

async fn join<S: AsyncRead + AsyncWrite + Unpin>(mut client: TcpStream, server: io::Result<S>) {
    if let Ok(mut server) = server {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
