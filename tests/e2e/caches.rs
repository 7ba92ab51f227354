//! Applications: they set a key in a cache and get it back, with the credentials they were handed.

use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::world::eventually;

/// Uses a memcached at `host:port`. The Service proxy may hear of a Pod a moment after the broker did.
pub async fn use_memcached(address: &str) {
    eventually(&format!("an answer of memcached at {address}"), async || {
        set_and_get(address).await.ok().filter(|value| value == "value")
    })
    .await;
}

async fn set_and_get(address: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream
        .get_mut()
        .write_all(b"set key 0 0 5\r\nvalue\r\nget key\r\n")
        .await?;
    let mut lines = Vec::new();
    for _ in 0..4 {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        lines.push(line.trim_end().to_owned());
    }
    assert_eq!(lines, ["STORED", "VALUE key 0 5", "value", "END"]);
    Ok(lines[2].clone())
}

/// Uses a redis by its URI; over TLS its certificate must be signed by the authority in `ca_file`.
pub async fn use_redis(uri: &str, ca_file: &Path) {
    let run = async |arguments: &[&str]| redis(uri, ca_file, arguments).await;
    eventually(&format!("an answer of the redis of {}", host_of(uri)), async || {
        (run(&["set", "key", "value"]).await == "OK").then_some(())
    })
    .await;
    assert_eq!(run(&["get", "key"]).await, "value");
}

/// What redis answers to somebody without its password.
pub async fn redis_without_password(uri: &str, ca_file: &Path) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap();
    let (_, address) = rest.rsplit_once('@').unwrap();
    redis(&format!("{scheme}://{address}"), ca_file, &["get", "key"]).await
}

/// What a redis answers to one command.
pub async fn redis(uri: &str, ca_file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["--no-auth-warning", "-u", uri]);
    if uri.starts_with("rediss:") {
        command.arg("--cacert").arg(ca_file);
    }
    let output = command.args(arguments).kill_on_drop(true).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn host_of(uri: &str) -> &str {
    uri.rsplit_once('@').map_or(uri, |(_, host)| host)
}

/// Uses the cache that credentials lead to.
pub async fn use_credentials(credentials: &Value, ca_file: &Path) {
    match credentials["MEMCACHED_URL"].as_str() {
        Some(address) => use_memcached(address).await,
        None => use_redis(credentials["REDIS_URL"].as_str().unwrap(), ca_file).await,
    }
}
