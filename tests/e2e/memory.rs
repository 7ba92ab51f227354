//! The memory limit of a cache in the cluster, filled until items are evicted by as many clients as may come.

use std::fs;

use futures::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cluster::ready;
use crate::steady::{Cache, until};
use crate::world::{World, eventually, shared};

const MEBIBYTE: u64 = 1 << 20;
/// Fewer than what a Service address of the sandbox carries at one time.
const CLIENTS: u64 = 400;
/// How much is written, in memory limits.
const TIMES: u64 = 3;

/// Sizes of items that suit no class of an allocator.
fn sizes(client: u64) -> impl Iterator<Item = usize> {
    let mut state = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 8 {
            0 => 20_000 + (state >> 32) as usize % 60_000,
            1..4 => 2_000 + (state >> 32) as usize % 8_000,
            _ => 50 + (state >> 32) as usize % 1_500,
        }
    })
}

/// Writes that many bytes over one connection, and keeps it.
async fn fill(cache: &Cache, client: u64, bytes: u64) -> TcpStream {
    let mut stream = eventually("a connection", async || {
        let mut stream = cache.connect().await.ok()?;
        // What refuses a client does so at its first question.
        let question = if cache.password.is_some() {
            "PING\r\n"
        } else {
            "version\r\n"
        };
        stream.write_all(question.as_bytes()).await.ok()?;
        let answer = until(&mut stream, b"\r\n").await.ok()?;
        (!answer.starts_with(b"ERR")).then_some(stream)
    })
    .await;
    let (mut written, mut number) = (0, 0);
    for size in sizes(client) {
        let value = vec![b'v'; size];
        let (head, answer) = match cache.password {
            Some(_) => (
                format!("*3\r\n$3\r\nSET\r\n$16\r\n{client:08}{number:08}\r\n${size}\r\n"),
                &b"+OK\r\n"[..],
            ),
            None => (format!("set {client:08}{number:08} 0 0 {size}\r\n"), &b"STORED\r\n"[..]),
        };
        stream
            .write_all(&[head.as_bytes(), &value, b"\r\n"].concat())
            .await
            .unwrap();
        until(&mut stream, answer).await.unwrap();
        (written, number) = (written + size as u64, number + 1);
        if written > bytes {
            break;
        }
    }
    stream
}

/// A number in what an engine says of itself.
async fn figure(stream: &mut TcpStream, redis: bool, name: &str) -> u64 {
    let (question, end, prefix) = match redis {
        true => ("INFO all\r\n", &b"\r\n\r\n"[..], format!("{name}:")),
        false => ("stats\r\n", &b"END\r\n"[..], format!("STAT {name} ")),
    };
    stream.write_all(question.as_bytes()).await.unwrap();
    // What redis says ends with a list of figures, whose last line is followed by the end of the reply.
    let answer = match redis {
        true => until_quiet(stream).await,
        false => until(stream, end).await.unwrap(),
    };
    let text = String::from_utf8(answer).unwrap();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .map(str::to_owned);
    found
        .unwrap_or_else(|| panic!("{name} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

async fn until_quiet(stream: &mut TcpStream) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let length: usize = String::from_utf8(head)
        .unwrap()
        .trim()
        .trim_start_matches('$')
        .parse()
        .unwrap();
    let mut body = vec![0; length + 2];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// The most memory that a process ever held, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

async fn keeps_within_its_limit(engine: &str, memory: u64, persistent: bool) {
    let world: &World = shared().await;
    let redis = engine != "memcached";
    let mut spec = json!({ "memory": format!("{memory}Mi"), "connectionLimit": CLIENTS });
    if persistent {
        spec["persistence"] = json!({ "size": "1Gi" });
    }
    let version = if redis { "8.2" } else { "1.6.45" };
    let plan = world
        .plan(json!({ "type": engine, "version": version }), "kubernetes", spec)
        .await;
    let place = world.order_by_yaml(&plan, json!({})).await;
    world.until_ready(&place).await;
    let cache = Cache::of(world, &place.namespace, &format!("{}-connection", place.name)).await;
    let process = || {
        let all = world.sandbox.node().unwrap().processes();
        let mut ours = all.into_iter().filter(|process| process.pod.starts_with(&place.name));
        ours.next().unwrap().pid
    };
    let pid = process();

    let limit = memory * MEBIBYTE;
    let each = limit * TIMES / CLIENTS;
    let mut clients = join_all((0..CLIENTS).map(|client| fill(&cache, client, each))).await;
    let (connected, evicted) = match redis {
        true => ("connected_clients", "evicted_keys"),
        false => ("curr_connections", "evictions"),
    };
    let first = &mut clients[0];
    let connections = figure(first, redis, connected).await;
    let evictions = figure(first, redis, evicted).await;
    let mut most = peak(pid);
    let mut copied = 0;
    if persistent {
        eventually("the rewriting of the log", async || {
            (figure(first, true, "aof_last_cow_size").await > 0).then_some(())
        })
        .await;
        // Its child shares all pages but those that changed while it ran.
        copied = figure(first, true, "aof_last_cow_size").await;
        most = peak(pid) + copied;
    }
    println!(
        "{engine}{}: limit {memory} Mi, {connections} connections, {evictions} evictions: at most {:.1} Mi resident, {:.1} Mi of it copied, {:.0} %",
        if persistent { " with a volume" } else { "" },
        most as f64 / MEBIBYTE as f64,
        copied as f64 / MEBIBYTE as f64,
        most as f64 * 100.0 / limit as f64,
    );
    assert!(connections >= CLIENTS && evictions > 100, "{connections}, {evictions}");
    assert_eq!(process(), pid, "it was killed");
    assert!(most * 10 <= limit * 9, "{most} of {limit}");
    // Full, and with as many clients as it takes, it still answers its probes.
    let instance = world.instance(&place).await.unwrap();
    assert_eq!(ready(&instance).unwrap().status, "True");
    drop(clients);
    world.delete(&place).await;
    world.until_nothing_is_left(&place, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_keeps_within_its_limit() {
    keeps_within_its_limit("memcached", 64, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_within_its_limit() {
    keeps_within_its_limit("redis", 64, false).await;
    keeps_within_its_limit("redis", 96, true).await;
}

/// redis-server stands in for it on the sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn valkey_keeps_within_its_limit() {
    keeps_within_its_limit("valkey", 128, false).await;
}
