//! A connection to one node: requests out, replies in, within a bound.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Reason, Trust};
use crate::dial::Line;

/// The longest reply that is read, in bytes. `INFO` and `stats` say some thousands.
pub(super) const LONGEST_REPLY: usize = 1024 * 1024;

/// A connection, and what was read of the next reply.
pub(super) struct Session {
    stream: Box<dyn Line>,
    buffer: Vec<u8>,
}

/// What a parser makes of the bytes so far: a reply and how many bytes it had, or `None` if there is more to come.
pub(super) type Parsed<T> = Result<Option<(T, usize)>, Reason>;

impl Session {
    /// Connects to `host:port`, with or without TLS.
    pub(super) async fn open(node: &str, trust: &Trust, tls: bool) -> Result<Self, Reason> {
        let (host, port) = address(node).ok_or(Reason::Address)?;
        let connecting = async {
            if let Some(dial) = &trust.dial {
                return dial.dial(host, port).await;
            }
            let stream = TcpStream::connect((host, port)).await?;
            // A request is one write, and its reply is waited for.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Line>)
        };
        let mut stream = connecting.await.map_err(Reason::Connect)?;
        if tls {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| Reason::Address)?;
            stream = Box::new(trust.tls.connect(name, stream).await.map_err(Reason::Tls)?);
        }
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends a request and reads its reply.
    pub(super) async fn exchange<T>(
        &mut self,
        request: &[u8],
        parse: impl Fn(&[u8]) -> Parsed<T>,
    ) -> Result<T, Reason> {
        self.stream.write_all(request).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;
        loop {
            if let Some((reply, used)) = parse(&self.buffer)? {
                self.buffer.drain(..used.min(self.buffer.len()));
                return Ok(reply);
            }
            if self.buffer.len() >= LONGEST_REPLY {
                return Err(Reason::TooLong);
            }
            if self.stream.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(Reason::Closed);
            }
        }
    }
}

/// A TLS connection that ends without saying so is as closed as any other.
fn broken(error: io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Reason::Closed,
        _ => Reason::Broken(error),
    }
}

fn address(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// The first line of a text, without its end, and how many bytes it has with it.
pub(super) fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// What a node says, cut to what fits into a message.
pub(super) fn said(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_host_and_port() {
        assert_eq!(address("a.example:6379"), Some(("a.example", 6379)));
        assert_eq!(address("[::1]:6379"), Some(("::1", 6379)));
        for no in ["", "a", "a:", ":1", "a:65536", "a:b"] {
            assert_eq!(address(no), None, "{no}");
        }
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(said(b"ERR\r\nno\x1b[31m"), "ERRno[31m");
        assert_eq!(said(&[b'a'; 1000]).len(), 200);
    }
}
