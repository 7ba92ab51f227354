//! Applications: they use a cache with what they were handed.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use uuid::Uuid;

use super::PATIENCE;
use super::report::{Failure, Report};

/// The key that is set and read back.
const KEY: &str = "demo";

/// Sets and reads a key in a memcached, with credentials of a binding.
pub(super) async fn use_memcached(report: &Report, credentials: &Map<String, Value>) -> Result<(), Failure> {
    report
        .step("set and get a key with these credentials", async {
            let host = credentials.get("host").and_then(Value::as_str);
            let port = credentials.get("port").and_then(Value::as_u64);
            let (host, port) = host.zip(port).ok_or("they name no host and port")?;
            let address = format!("{host}:{port}");
            Ok(((), memcached(&address).await?))
        })
        .await
}

/// Sets and reads a key in the memcached at an address.
pub(super) async fn memcached(address: &str) -> Result<String, String> {
    let value = Uuid::new_v4().to_string();
    let talk = async {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let set = format!("set {KEY} 0 60 {}\r\n{value}\r\nget {KEY}\r\nquit\r\n", value.len());
        stream.write_all(set.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut lines = stream.lines();
        while let Some(line) = lines.next_line().await? {
            answer.push(line);
        }
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| format!("{address} did not answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("talking to {address}: {error}"))?;
    let wanted = ["STORED", &format!("VALUE {KEY} 0 {}", value.len()), &value, "END"];
    if answer == wanted {
        Ok(format!("{address} gave it back"))
    } else {
        Err(format!("{address} answered {answer:?}, expected {wanted:?}"))
    }
}

/// Sets and reads a key in a redis with `redis-cli` and the URL of a binding, and sees that the redis refuses who has no
/// password. `authority` is the file with the certificate that the server's is checked against.
pub(super) async fn use_redis(
    report: &Report,
    credentials: &Map<String, Value>,
    authority: &Path,
) -> Result<(), Failure> {
    let text = |name: &str| credentials.get(name).and_then(Value::as_str);
    let (Some(url), Some(host), Some(port)) = (
        text("REDIS_URL"),
        text("host"),
        credentials.get("port").and_then(Value::as_u64),
    ) else {
        return Err(Failure::new("bind", "the credentials lack REDIS_URL, host or port"));
    };
    let (port, authority) = (port.to_string(), authority.to_string_lossy());
    report
        .step("redis-cli -u $REDIS_URL --cacert …, SET and GET", async {
            if !url.starts_with("rediss://") {
                return Err("REDIS_URL is not one of TLS (rediss://)".to_owned());
            }
            let value = Uuid::new_v4().to_string();
            let with_url = ["-u", url, "--no-auth-warning", "--cacert", &authority];
            redis_cli(&with_url, &["SET", KEY, &value, "EX", "60"], "OK").await?;
            redis_cli(&with_url, &["GET", KEY], &value).await?;
            Ok(((), format!("{host}:{port} gave it back")))
        })
        .await?;
    report
        .step("the same without the password", async {
            let without = ["-h", host, "-p", &port, "--tls", "--cacert", &authority];
            redis_cli(&without, &["GET", KEY], "NOAUTH Authentication required.").await?;
            Ok(((), "refused".to_owned()))
        })
        .await
}

/// Runs a command of redis and fails unless it is answered as expected. The arguments, which may have a password in
/// them, are never shown.
async fn redis_cli(connection: &[&str], command: &[&str], expected: &str) -> Result<(), String> {
    let what = || format!("redis-cli {}", command.join(" "));
    let running = Command::new("redis-cli")
        .args(connection)
        .args(command)
        .env_remove("REDISCLI_AUTH")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running)
        .await
        .map_err(|_| format!("{} did not end within {} s", what(), PATIENCE.as_secs()))?
        .map_err(|error| format!("running {}: {error}", what()))?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if said.iter().any(|text| text == expected) {
        Ok(())
    } else {
        Err(format!("{} printed {said:?}, expected {expected:?}", what()))
    }
}
