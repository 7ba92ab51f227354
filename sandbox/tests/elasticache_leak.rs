//! No cache node outlives its sandbox, whatever state it is in.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::time::Duration;

use sandbox::address::Addresses;
use sandbox::elasticache::{ElastiCache, Options};
use sandbox::supervisor::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Processes that work below a folder.
fn below(folder: &str) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let cwd = |entry: std::fs::DirEntry| std::fs::read_link(entry.path().join("cwd")).ok();
    processes
        .filter_map(cwd)
        .filter(|cwd| cwd.to_string_lossy().starts_with(folder))
        .collect()
}

async fn post(url: &str, body: &str) -> String {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\nX-Amz-Date: 20260101T000000Z\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/us-west-2/elasticache/aws4_request, SignedHeaders=host, \
         Signature={}\r\n\r\n{body}",
        body.len(),
        "0".repeat(64)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_end_with_their_sandbox() {
    let addresses = Addresses::claim().unwrap();
    let supervisor = Supervisor::start_on(&addresses).unwrap();
    let folder = supervisor.dir().to_string_lossy().into_owned();
    let endpoint = ElastiCache::start(&supervisor, &addresses, Options::default())
        .await
        .unwrap();
    for body in [
        "Action=CreateReplicationGroup&Version=2015-02-02&ReplicationGroupId=g&ReplicationGroupDescription=d\
         &CacheNodeType=cache.t4g.micro&NumCacheClusters=2",
        "Action=CreateCacheCluster&Version=2015-02-02&CacheClusterId=c&CacheNodeType=cache.t4g.micro&Engine=memcached",
    ] {
        let answer = post(&endpoint.url(), body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let describe = "Action=DescribeCacheClusters&Version=2015-02-02";
    while post(&endpoint.url(), describe)
        .await
        .matches("<CacheClusterStatus>available")
        .count()
        < 3
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(below(&folder).len() >= 3, "the nodes run below the sandbox's folder");
    drop(endpoint);
    drop(supervisor);
    while !below(&folder).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
