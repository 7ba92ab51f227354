//! The protocols of memcached and redis, as far as emptying a cache, its statistics, its health and its users need them.
//!
//! Own code for both: of memcached's clients none is kept up that speaks TLS from rustls, and the `redis` crate takes a
//! reply of any length the other side announces, while three commands and a parser with a bound are less than its
//! dependencies.
//!
//! Every question goes to every node of a cache, some at a time, and each node has an answer of its own: one that fails
//! is named and hides no other. All of a conversation with a node, from looking up its name to the last byte of its
//! reply, has one deadline.

mod acl;
mod memcached;
mod redis;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use tokio_rustls::TlsConnector;

pub use acl::{AclChange, AclUser, DEFAULT_USER, PasswordHash, SeenUser};

use crate::api::{Connection, EngineType};
use crate::dial::Dial;
use crate::tls;
use session::Session;

/// How long a conversation with one node may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many nodes of a cache are spoken to at one time.
const AT_ONCE: usize = 16;

/// Whose certificates are trusted, and how nodes are reached. Clones share it.
#[derive(Clone)]
pub struct Trust {
    tls: TlsConnector,
    dial: Option<Arc<dyn Dial>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// Why certificates cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// What should be a certificate authority is none.
    #[error("the certificate authority for caches: {0}; give certificates in PEM")]
    Authority(String),
    /// rustls refuses its own defaults.
    #[error("setting up TLS for caches: {0}")]
    Setup(#[from] rustls::Error),
}

impl Trust {
    /// Trusts the authorities of the operating system and, if given, those in a PEM text.
    ///
    /// # Errors
    /// When the PEM text holds no certificate, or one that cannot be read.
    pub fn new(authority: Option<&[u8]>) -> Result<Self, TrustError> {
        let mut roots = tls::authorities();
        if let Some(pem) = authority {
            let certificates = CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| TrustError::Authority(error.to_string()))?;
            if certificates.is_empty() {
                return Err(TrustError::Authority("it has no certificate".to_owned()));
            }
            for certificate in certificates {
                Arc::make_mut(&mut roots)
                    .add(certificate)
                    .map_err(|error| TrustError::Authority(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            dial: None,
        })
    }

    /// The same, that reaches nodes in another way than over the network.
    #[must_use]
    pub fn dialling(self, dial: Arc<dyn Dial>) -> Self {
        Self {
            dial: Some(dial),
            ..self
        }
    }
}

/// A cache to speak to: its protocol, its nodes, and what they ask for.
#[derive(Clone, Debug)]
pub struct Target {
    protocol: Protocol,
    /// `host:port` of where clients are sent.
    endpoint: String,
    /// `host:port` of every node, the endpoint if there is no more to know.
    nodes: Vec<String>,
    trust: Trust,
    tls: bool,
    login: Option<Login>,
    deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Memcached,
    Redis,
}

/// What a redis asks for before anything else.
#[derive(Clone, Debug)]
struct Login {
    username: Option<String>,
    password: SecretString,
}

impl Target {
    /// The cache that a connection leads to.
    pub fn new(connection: &Connection, trust: &Trust) -> Self {
        let endpoint = if connection.host.contains(':') {
            format!("[{}]:{}", connection.host, connection.port)
        } else {
            format!("{}:{}", connection.host, connection.port)
        };
        let protocol = match connection.engine {
            EngineType::Memcached => Protocol::Memcached,
            EngineType::Redis | EngineType::Valkey => Protocol::Redis,
        };
        Self {
            protocol,
            nodes: match connection.nodes.as_slice() {
                [] => vec![endpoint.clone()],
                nodes => nodes.to_vec(),
            },
            endpoint,
            trust: trust.clone(),
            tls: connection.tls,
            login: connection.password.clone().map(|password| Login {
                username: connection.username.clone(),
                password,
            }),
            deadline: DEADLINE,
        }
    }

    /// The same, with another deadline for a conversation with a node; five seconds otherwise.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}

/// What is to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything.
    All,
    /// One database of a redis; memcached has none.
    Database(u16),
}

/// What became of a node that was asked to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// It was emptied.
    Emptied,
    /// It is a replica, which its primary empties.
    Replica,
}

/// The answer of one node.
#[derive(Debug)]
pub struct Reply<T> {
    /// Its `host:port`.
    pub node: String,
    /// What it said.
    pub outcome: Result<T, Error>,
}

/// A node did not do what it was asked for. The message names the node and never a password.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {node}: {reason}")]
pub struct Error {
    attempt: &'static str,
    node: String,
    /// Why.
    #[source]
    pub reason: Reason,
}

/// Why a node did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It is written otherwise than `host:port`.
    #[error("this is not host:port")]
    Address,
    /// It cannot be reached.
    #[error("connecting: {0}; it may be starting, or the network may not lead there from here")]
    Connect(#[source] std::io::Error),
    /// It speaks no TLS, or its certificate is not trusted.
    #[error("setting up TLS: {0}")]
    Tls(#[source] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[source] std::io::Error),
    /// It ended the connection before it had answered.
    #[error("it ended the connection before it had answered")]
    Closed,
    /// Its answer was not complete in time.
    #[error("no complete answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// Its answer is longer than any that is expected.
    #[error("its answer is longer than {} KiB", session::LONGEST_REPLY / 1024)]
    TooLong,
    /// Its answer is not of its protocol.
    #[error("its answer is not understood; is it a {0}?")]
    Malformed(&'static str),
    /// It does not accept the password, or asks for one that is not known.
    #[error("it does not let us in ({0}): the password it has is not the one in the connection")]
    Login(String),
    /// It refused.
    #[error("it refused: {0}")]
    Refused(String),
    /// It has nothing of the kind.
    #[error("memcached has no databases: flush all")]
    NoDatabases,
    /// It has nothing of the kind.
    #[error("memcached has no users")]
    NoUsers,
    /// None of the cache's nodes takes writes.
    #[error("it takes no writes, and no other node of the cache does")]
    NoPrimary,
}

/// Empties every node. Replicas of a redis refuse to be emptied; their primaries pass it on, so those are.
pub async fn flush(target: &Target, flush: Flush) -> Vec<Reply<Flushed>> {
    const ATTEMPT: &str = "emptying";
    let empty = |node: String| async move {
        ask(target, ATTEMPT, node, async |session: &mut Session| {
            match target.protocol {
                Protocol::Memcached if flush != Flush::All => Err(Reason::NoDatabases),
                Protocol::Memcached => memcached::flush(session).await.map(|()| Flushed::Emptied),
                Protocol::Redis => redis::flush(session, flush).await,
            }
        })
        .await
    };
    let mut replies = each(&target.nodes, empty).await;
    // The nodes may have been listed before a failover; the endpoint leads to the primary of now.
    let only_replicas = replies
        .iter()
        .all(|reply| matches!(reply.outcome, Ok(Flushed::Replica)));
    if only_replicas {
        let mut reply = empty(target.endpoint.clone()).await;
        if matches!(reply.outcome, Ok(Flushed::Replica)) {
            reply.outcome = Err(Error {
                attempt: ATTEMPT,
                node: reply.node.clone(),
                reason: Reason::NoPrimary,
            });
        }
        replies.retain(|known| known.node != reply.node);
        replies.push(reply);
    }
    replies
}

/// The statistics of every node, as it names them itself: `stats` of memcached, `INFO` of redis.
pub async fn stats(target: &Target) -> Vec<Reply<BTreeMap<String, String>>> {
    each(&target.nodes, |node| {
        ask(
            target,
            "asking for statistics of",
            node,
            async |session: &mut Session| match target.protocol {
                Protocol::Memcached => memcached::stats(session).await,
                Protocol::Redis => redis::stats(session).await,
            },
        )
    })
    .await
}

/// Whether every node answers, and lets us in.
pub async fn ping(target: &Target) -> Vec<Reply<()>> {
    each(&target.nodes, |node| {
        ask(
            target,
            "asking for a sign of life of",
            node,
            async |session: &mut Session| match target.protocol {
                Protocol::Memcached => memcached::ping(session).await,
                Protocol::Redis => redis::ping(session).await,
            },
        )
    })
    .await
}

/// The users of every node of a redis.
pub async fn users(target: &Target) -> Vec<Reply<BTreeMap<String, SeenUser>>> {
    each(&target.nodes, |node| {
        ask(
            target,
            "asking for the users of",
            node,
            async |session: &mut Session| match target.protocol {
                Protocol::Memcached => Err(Reason::NoUsers),
                Protocol::Redis => acl::list(session).await,
            },
        )
    })
    .await
}

/// Changes the users of every node of a redis.
pub async fn change_users(target: &Target, change: &AclChange) -> Vec<Reply<()>> {
    each(&target.nodes, |node| {
        ask(
            target,
            "changing the users of",
            node,
            async |session: &mut Session| match target.protocol {
                Protocol::Memcached => Err(Reason::NoUsers),
                Protocol::Redis => acl::change(session, change).await,
            },
        )
    })
    .await
}

/// The answers of all nodes, in the order of the nodes.
async fn each<T, F: Future<Output = Reply<T>>>(nodes: &[String], ask: impl Fn(String) -> F) -> Vec<Reply<T>> {
    futures::stream::iter(nodes.iter().cloned())
        .map(ask)
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// One conversation with one node, within the deadline.
async fn ask<T>(
    target: &Target,
    attempt: &'static str,
    node: String,
    talk: impl AsyncFnOnce(&mut Session) -> Result<T, Reason>,
) -> Reply<T> {
    let conversation = async {
        let mut session = Session::open(&node, &target.trust, target.tls).await?;
        if let (Protocol::Redis, Some(login)) = (target.protocol, &target.login) {
            redis::log_in(&mut session, login).await?;
        }
        talk(&mut session).await
    };
    let outcome = tokio::time::timeout(target.deadline, conversation)
        .await
        .unwrap_or(Err(Reason::Late(target.deadline)))
        .map_err(|reason| Error {
            attempt,
            node: node.clone(),
            reason,
        });
    Reply { node, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers ask from tasks of their own.
    #[test]
    fn questions_can_be_asked_from_any_task() {
        fn can_move<T: Send>(_: T) {}
        let connection: Connection = serde_json::from_str(
            r#"{ "engine": "redis", "provider": "kubernetes", "host": "h", "port": 1, "tls": false }"#,
        )
        .unwrap();
        let target = Target::new(&connection, &Trust::new(None).unwrap());
        can_move(async move {
            flush(&target, Flush::All).await;
            stats(&target).await;
            ping(&target).await;
        });
    }
}
