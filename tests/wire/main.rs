//! The protocols against real memcached and redis processes, and against servers that behave badly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/caches.rs"]
mod caches;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cache_broker::api::{Connection, EngineType, ProviderKind};
use cache_broker::wire::{
    self, AclChange, AclUser, DEFAULT_USER, Flush, Flushed, PasswordHash, Reason, Reply, Target, Trust,
};
use caches::{Cache, Caches, PASSWORD};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn connection(engine: EngineType, nodes: &[&str]) -> Connection {
    let (host, port) = nodes[0].rsplit_once(':').unwrap();
    Connection {
        engine,
        provider: ProviderKind::Kubernetes,
        host: host.to_owned(),
        port: port.parse().unwrap(),
        tls: false,
        username: None,
        password: None,
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
    }
}

fn plain(engine: EngineType, nodes: &[&str]) -> Target {
    Target::new(&connection(engine, nodes), &Trust::new(None).unwrap())
}

/// The one reply of a cache of one node.
fn only<T: std::fmt::Debug>(mut replies: Vec<Reply<T>>) -> Result<T, wire::Error> {
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies.remove(0).outcome
}

async fn keys(target: &Target) -> Vec<u64> {
    let count = |stats: BTreeMap<String, String>| {
        let of = |name: &str| stats.get(name).map(|number| number.parse().unwrap());
        let redis = || {
            let databases = stats.iter().filter(|(name, _)| {
                name.strip_prefix("db")
                    .is_some_and(|number| number.parse::<u16>().is_ok())
            });
            databases
                .map(|(_, text)| {
                    let text = text.strip_prefix("keys=").unwrap();
                    text.split(',').next().unwrap().parse::<u64>().unwrap()
                })
                .sum()
        };
        of("curr_items").unwrap_or_else(redis)
    };
    let replies = wire::stats(target).await;
    replies.into_iter().map(|reply| count(reply.outcome.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_memcached_is_emptied_and_tells_its_statistics() {
    let caches = Caches::start();
    let (a, b) = (caches.memcached(false).await, caches.memcached(false).await);
    let nodes = [a.address.as_str(), b.address.as_str()];
    let target = plain(EngineType::Memcached, &nodes);
    for reply in wire::ping(&target).await {
        reply.outcome.unwrap();
    }
    for node in [&a, &b] {
        let stored = node.talk(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n").await;
        assert_eq!(stored, b"STORED\r\n");
    }
    let stats = wire::stats(&target).await;
    assert_eq!(stats.iter().map(|reply| &reply.node).collect::<Vec<_>>(), nodes);
    for reply in stats {
        let stats = reply.outcome.unwrap();
        assert_eq!((&*stats["curr_items"], &*stats["cmd_set"]), ("1", "1"));
        assert!(stats["version"].starts_with("1."), "{stats:?}");
    }
    for reply in wire::flush(&target, Flush::All).await {
        assert_eq!(reply.outcome.unwrap(), Flushed::Emptied);
    }
    for node in [&a, &b] {
        assert_eq!(node.talk(b"get key\r\n", b"END\r\n").await, b"END\r\n");
    }
    let replies = wire::flush(&target, Flush::Database(0)).await;
    let message = replies[1].outcome.as_ref().unwrap_err().to_string();
    assert_eq!(
        message,
        format!("emptying {}: memcached has no databases: flush all", b.address)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_emptied_wholly_or_by_the_database() {
    let caches = Caches::start();
    let node = caches.redis(&[]).await;
    let target = plain(EngineType::Redis, &[&node.address]);
    only(wire::ping(&target).await).unwrap();
    let fill = b"SET a 1\r\nSELECT 3\r\nSET b 1\r\nSET c 1\r\n";
    let filled = b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n";
    assert_eq!(node.talk(fill, filled).await, filled);
    assert_eq!(keys(&target).await, [3]);
    let emptied = only(wire::flush(&target, Flush::Database(3)).await).unwrap();
    assert_eq!((emptied, keys(&target).await), (Flushed::Emptied, vec![1]));
    only(wire::flush(&target, Flush::All).await).unwrap();
    assert_eq!(keys(&target).await, [0]);
    let refused = only(wire::flush(&target, Flush::Database(999)).await)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        format!("emptying {}: it refused: ERR DB index is out of range", node.address)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_given_alone_or_with_a_user_and_never_told() {
    let caches = Caches::start();
    let alone = caches.redis(&["--requirepass", PASSWORD]).await;
    let with_user = caches.redis(&[]).await;
    let users = format!("ACL SETUSER app on >{PASSWORD} ~* &* +@all -role\r\nACL SETUSER default off\r\n");
    assert_eq!(
        with_user.talk(users.as_bytes(), b"+OK\r\n+OK\r\n").await,
        b"+OK\r\n+OK\r\n"
    );
    let trust = Trust::new(None).unwrap();
    for (node, username) in [(&alone, None), (&alone, Some("default")), (&with_user, Some("app"))] {
        let mut connection = connection(EngineType::Valkey, &[&node.address]);
        connection.username = username.map(str::to_owned);
        let message = |error: wire::Error| {
            let message = format!("{error} {error:?}");
            assert!(message.contains(&node.address), "{message}");
            assert!(
                !message.contains(PASSWORD) && !message.contains("wrong-word"),
                "{message}"
            );
            message
        };
        let without = message(only(wire::ping(&Target::new(&connection, &trust)).await).unwrap_err());
        assert!(without.contains("does not let us in (NOAUTH)"), "{without}");
        connection.password = Some("wrong-word".to_owned().into());
        let wrong = message(only(wire::stats(&Target::new(&connection, &trust)).await).unwrap_err());
        assert!(wrong.contains("does not let us in (WRONGPASS)"), "{wrong}");
        connection.password = Some(PASSWORD.to_owned().into());
        let target = Target::new(&connection, &trust);
        assert!(!format!("{target:?}").contains(PASSWORD));
        only(wire::ping(&target).await).unwrap();
        assert!(only(wire::stats(&target).await).unwrap().contains_key("redis_version"));
        // The one user may not ask for the role.
        assert_eq!(only(wire::flush(&target, Flush::All).await).unwrap(), Flushed::Emptied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_and_removed_while_a_redis_runs() {
    let caches = Caches::start();
    let node = caches.redis(&["--requirepass", PASSWORD]).await;
    let trust = Trust::new(None).unwrap();
    let target = |username: &str, password: &str| {
        let mut connection = connection(EngineType::Redis, &[&node.address]);
        connection.username = Some(username.to_owned());
        connection.password = Some(password.to_owned().into());
        Target::new(&connection, &trust)
    };
    let operator = target(DEFAULT_USER, PASSWORD);
    let user = |name: &str, password: &str| AclUser {
        name: name.to_owned(),
        password: PasswordHash::of(&password.to_owned().into()),
    };
    let wanted = [user("a", "one"), user("b", "two")];
    let difference = async |wanted: &[AclUser]| {
        let seen = only(wire::users(&operator).await).unwrap();
        AclChange::between(&seen, wanted)
    };
    let change = difference(&wanted).await;
    assert_eq!((change.set.len(), change.remove.len()), (2, 0));
    only(wire::change_users(&operator, &change).await).unwrap();
    assert!(difference(&wanted).await.is_empty(), "it has what it was given");
    for (name, password) in [("a", "one"), ("b", "two")] {
        only(wire::ping(&target(name, password)).await).unwrap();
    }
    only(wire::ping(&target("a", "two")).await).unwrap_err();
    let forbidden = only(wire::users(&target("a", "one")).await).unwrap_err();
    assert!(matches!(forbidden.reason, Reason::Refused(_)), "{forbidden}");

    // One goes, one gets another password.
    let wanted = [user("b", "three")];
    let change = difference(&wanted).await;
    only(wire::change_users(&operator, &change).await).unwrap();
    assert!(difference(&wanted).await.is_empty());
    for (name, password) in [("a", "one"), ("b", "two")] {
        let refused = only(wire::ping(&target(name, password)).await).unwrap_err();
        assert!(matches!(refused.reason, Reason::Login(_)), "{refused}");
    }
    only(wire::ping(&target("b", "three")).await).unwrap();
    // Again is no difference.
    only(wire::change_users(&operator, &change).await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_certificate_is_verified() {
    let caches = Caches::start();
    let redis = caches.redis_over_tls(&["--requirepass", PASSWORD]).await;
    let memcached = caches.memcached(true).await;
    for (engine, node) in [(EngineType::Redis, &redis), (EngineType::Memcached, &memcached)] {
        let mut connection = connection(engine, &[&node.address]);
        connection.tls = true;
        if engine == EngineType::Redis {
            connection.password = Some(PASSWORD.to_owned().into());
        }
        let trust = Trust::new(Some(caches.authority().as_bytes())).unwrap();
        let target = Target::new(&connection, &trust);
        only(wire::ping(&target).await).unwrap();
        assert!(!only(wire::stats(&target).await).unwrap().is_empty());
        only(wire::flush(&target, Flush::All).await).unwrap();

        let stranger = Target::new(&connection, &Trust::new(None).unwrap());
        let refused = only(wire::ping(&stranger).await).unwrap_err();
        assert!(matches!(refused.reason, Reason::Tls(_)), "{refused}");
        assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
        // The certificate is of another name: it was issued for the address.
        connection.nodes.clear();
        connection.host = "localhost".to_owned();
        connection.port = caches.relay_to(&node.address).await;
        let misnamed = only(wire::ping(&Target::new(&connection, &trust)).await).unwrap_err();
        assert!(misnamed.to_string().contains("not valid for name"), "{misnamed}");
        // A server without TLS.
        let plain = caches.redis(&[]).await;
        connection.host = plain.address.rsplit_once(':').unwrap().0.to_owned();
        connection.port = 6379;
        let refused = only(wire::ping(&Target::new(&connection, &trust).within(Duration::from_secs(2))).await);
        assert!(refused.is_err());
    }
    for no in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(Trust::new(Some(no.as_bytes())).is_err(), "{no}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_replication_group_the_primary_is_emptied() {
    let caches = Caches::start();
    let primary = caches.redis(&[]).await;
    let replica = caches.replica_of(&primary).await;
    let target = plain(EngineType::Redis, &[&replica.address, &primary.address]);
    assert_eq!(primary.talk(b"SET a 1\r\n", b"+OK\r\n").await, b"+OK\r\n");
    caches
        .eventually("the key on the replica", async || keys(&target).await == [1, 1])
        .await;
    let replies = wire::flush(&target, Flush::All).await;
    let outcomes: Vec<_> = replies.into_iter().map(|reply| reply.outcome.unwrap()).collect();
    assert_eq!(outcomes, [Flushed::Replica, Flushed::Emptied]);
    caches
        .eventually("the replica to be empty", async || keys(&target).await == [0, 0])
        .await;

    // The nodes that are known are replicas; the endpoint leads to the primary.
    let mut connection = connection(EngineType::Redis, &[&primary.address]);
    connection.nodes = vec![replica.address.clone()];
    let trust = Trust::new(None).unwrap();
    let replies = wire::flush(&Target::new(&connection, &trust), Flush::All).await;
    let outcomes: Vec<_> = replies
        .into_iter()
        .map(|reply| (reply.node, reply.outcome.unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [
            (replica.address.clone(), Flushed::Replica),
            (primary.address.clone(), Flushed::Emptied)
        ]
    );
    let lost = only(wire::flush(&plain(EngineType::Redis, &[&replica.address]), Flush::All).await).unwrap_err();
    assert!(matches!(lost.reason, Reason::NoPrimary), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_is_named_and_hides_no_other() {
    let caches = Caches::start();
    let mut nodes = vec![caches.memcached(false).await, caches.memcached(false).await];
    let silent = Cache::silent().await;
    let addresses: Vec<_> = [&nodes[0].address, &silent, &nodes[1].address]
        .map(String::as_str)
        .to_vec();
    let mut connection = connection(EngineType::Memcached, &addresses);
    connection.nodes.push("no-address".to_owned());
    let target = Target::new(&connection, &Trust::new(None).unwrap()).within(Duration::from_millis(700));
    let gone = nodes.pop().unwrap();
    let gone_address = gone.address.clone();
    gone.kill().await;
    let start = Instant::now();
    let replies = wire::flush(&target, Flush::All).await;
    assert!(start.elapsed() < Duration::from_millis(1400), "{:?}", start.elapsed());
    let told: Vec<_> = replies
        .iter()
        .map(|reply| reply.outcome.as_ref().map_err(ToString::to_string))
        .collect();
    assert_eq!(told[0], Ok(&Flushed::Emptied));
    assert_eq!(
        told[1],
        Err(format!("emptying {silent}: no complete answer within 700 ms"))
    );
    let refused = told[2].as_ref().unwrap_err();
    assert!(
        refused.starts_with(&format!("emptying {gone_address}: connecting: ")),
        "{refused}"
    );
    assert_eq!(
        told[3].as_ref().unwrap_err(),
        "emptying no-address: this is not host:port"
    );
}

/// A server that answers each connection's first bytes with the same bytes for ever, or by repeating them.
async fn bad_server(answer: Option<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                match answer {
                    Some(answer) => while stream.write_all(&answer).await.is_ok() {},
                    None => {
                        let repeated = String::from_utf8_lossy(&request[..length]).replace("\r\n", " ");
                        let line = format!("-ERR unknown command, with args beginning with: {repeated}\r\n");
                        let _ = stream.write_all(line.as_bytes()).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_says_too_much_or_what_it_should_not_is_not_believed() {
    let endless = plain(
        EngineType::Redis,
        &[&bad_server(Some(b"$900000000\r\naaaaaaaaaaaaaaaaaa".repeat(1000))).await],
    );
    let error = only(wire::stats(&endless).await).unwrap_err();
    assert!(matches!(error.reason, Reason::TooLong), "{error}");
    let endless = plain(
        EngineType::Memcached,
        &[&bad_server(Some(b"STAT a b\r\n".to_vec())).await],
    );
    let error = only(wire::stats(&endless).await).unwrap_err();
    assert!(matches!(error.reason, Reason::TooLong), "{error}");
    let web = plain(
        EngineType::Redis,
        &[&bad_server(Some(b"HTTP/1.1 400 Bad Request\r\n".to_vec())).await],
    );
    let error = only(wire::ping(&web).await).unwrap_err();
    assert!(error.to_string().ends_with("is it a redis?"), "{error}");

    let mut connection = connection(EngineType::Redis, &[&bad_server(None).await]);
    connection.password = Some(PASSWORD.to_owned().into());
    let target = Target::new(&connection, &Trust::new(None).unwrap());
    let error = only(wire::ping(&target).await).unwrap_err();
    assert!(matches!(error.reason, Reason::Login(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error:?}");
}
