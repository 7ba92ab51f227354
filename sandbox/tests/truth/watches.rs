//! Watches: what happens is told in the same events, in the same order.

use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request};
use jiff::Timestamp;
use kube::Client;
use kube::core::WatchEvent;
use sandbox::in_memory_kubernetes::{Answer, ApiServer, Kind, Request as Asked, Watch};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{collection, told};

pub const WHOLE: &str = "application/json";
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The object that ends the comparison; it is of the color that is watched.
pub const END: &str = "end";
const PATIENCE: Duration = Duration::from_secs(60);

/// A watch of the same on both sides.
pub struct Pair {
    what: String,
    real: mpsc::UnboundedReceiver<Value>,
    imagined: Watch,
}

fn query(selector: &str, from: &str) -> String {
    let selector = if selector.is_empty() {
        String::new()
    } else {
        format!("&labelSelector={selector}")
    };
    format!("watch=true&allowWatchBookmarks=true&resourceVersion={from}{selector}")
}

fn event(type_: &str, object: &Value) -> Value {
    let mut told = told(http::StatusCode::OK, object);
    told["type"] = json!(type_);
    told["name"] = object["metadata"]["name"].clone();
    told
}

fn ask(server: &mut ApiServer, path: &str, query: &str, accept: &str) -> Answer {
    server.handle(&Asked {
        method: &Method::GET,
        path,
        query,
        accept,
        content_type: "",
        body: &[],
        now: Timestamp::now(),
    })
}

async fn stream(
    client: &Client,
    path: &str,
    query: &str,
    accept: &str,
) -> impl futures::Stream<Item = kube::Result<WatchEvent<Value>>> + use<> {
    let request = Request::get(format!("{path}?{query}"))
        .header("accept", accept)
        .body(Vec::new())
        .unwrap();
    client.request_events::<Value>(request).await.unwrap()
}

/// Opens watches of a kind: of all, of a color, and of metadata alone.
pub async fn open(client: &Client, server: &mut ApiServer, kind: &Kind) -> Vec<Pair> {
    let path = collection(kind);
    let listed: Value = client
        .request(Request::get(&path).body(Vec::new()).unwrap())
        .await
        .unwrap();
    let truth = listed["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let Answer::Once(_, listed) = ask(server, &path, "", WHOLE) else {
        panic!("no list");
    };
    let memory = listed["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut pairs = Vec::new();
    for (selector, accept) in [("", WHOLE), ("color%3Dred", WHOLE), ("", METADATA)] {
        let (send, real) = mpsc::unbounded_channel();
        let events = stream(client, &path, &query(selector, &truth), accept).await;
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut last = 0;
            while let Some(next) = events.next().await {
                let (type_, object) = match next.unwrap() {
                    WatchEvent::Added(object) => ("ADDED", object),
                    WatchEvent::Modified(object) => ("MODIFIED", object),
                    WatchEvent::Deleted(object) => ("DELETED", object),
                    // They tell nothing but how far a watch is, and may not come.
                    WatchEvent::Bookmark(_) => continue,
                    WatchEvent::Error(status) => panic!("{status:?}"),
                };
                let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                assert!(version > last, "versions go back");
                last = version;
                if send.send(event(type_, &object)).is_err() {
                    return;
                }
            }
        });
        let Answer::Watch(imagined) = ask(server, &path, &query(selector, &memory), accept) else {
            panic!("no watch");
        };
        pairs.push(Pair {
            what: format!("{} {selector} {accept}", kind.plural),
            real,
            imagined,
        });
    }
    pairs
}

impl Pair {
    /// In what the two told otherwise, once the end was made on both sides; and how many events there were.
    pub async fn disagreements(mut self, server: &ApiServer) -> (usize, Vec<String>) {
        let mut truth = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, self.real.recv()).await;
            let next = next.unwrap_or_else(|_| panic!("{}: the end was not told", self.what));
            let next = next.unwrap_or_else(|| panic!("{}: the watch ended", self.what));
            let is_end = next["name"] == json!(END);
            truth.push(next);
            if is_end {
                break;
            }
        }
        let (mut memory, mut last) = (Vec::new(), 0);
        while let Some(next) = server.next_event(&mut self.imagined) {
            let version: u64 = next["object"]["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!(version > last, "versions go back");
            last = version;
            memory.push(event(next["type"].as_str().unwrap(), &next["object"]));
        }
        let mut wrong = Vec::new();
        for (nth, (truth, memory)) in truth.iter().zip(&memory).enumerate() {
            let members = truth.as_object().unwrap().iter();
            let differ = members.filter(|(name, value)| memory[name.as_str()] != **value);
            wrong.extend(differ.map(|(name, value)| {
                format!(
                    "watch of {}, event {nth} of {}: {name}: {value} in truth, {} in memory",
                    self.what,
                    truth["name"],
                    memory[name.as_str()]
                )
            }));
        }
        if truth.len() != memory.len() {
            wrong.push(format!(
                "watch of {}: {} events in truth, {} in memory",
                self.what,
                truth.len(),
                memory.len()
            ));
        }
        (truth.len(), wrong)
    }
}

/// What of a bookmark must agree.
fn mark(event: &Value) -> Value {
    let object = &event["object"];
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    json!({
        "type": event["type"], "kind": object["kind"], "apiVersion": object["apiVersion"],
        "name": object["metadata"]["name"], "version": version.parse::<u64>().is_ok(),
    })
}

/// What a watch of nothing is told while other objects are made, and that it ends when its time is over: in truth it is told
/// some moments before that.
pub async fn bookmark_in_truth(client: &Client, kind: &Kind, accept: &str) -> Value {
    let path = collection(kind);
    let listed: Value = client
        .request(Request::get(&path).body(Vec::new()).unwrap())
        .await
        .unwrap();
    let from = listed["metadata"]["resourceVersion"].as_str().unwrap();
    let request = Request::get(format!("{path}?{}&timeoutSeconds=5", query("color%3Dnone", from)))
        .header("accept", accept)
        .body(Vec::new())
        .unwrap();
    let lines = client.request_stream(request).await.unwrap();
    let made = crate::object(kind, &format!("seen-{}", accept.len()), "red", &mut crate::Chance(1));
    let request = Request::post(&path)
        .header("content-type", WHOLE)
        .body(made.to_string().into_bytes())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
    let text = tokio::time::timeout(PATIENCE, read_to_end(lines)).await.unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    match events.as_slice() {
        [.., last] => mark(last),
        [] => Value::Null,
    }
}

/// The same in memory.
pub fn bookmark_in_memory(server: &mut ApiServer, kind: &Kind, accept: &str) -> Value {
    let path = collection(kind);
    let query = format!(
        "{}&timeoutSeconds=5",
        query("color%3Dnone", &server.revision().to_string())
    );
    let Answer::Watch(mut watch) = ask(server, &path, &query, accept) else {
        panic!("no watch");
    };
    assert_eq!(watch.lasts(), Some(Duration::from_secs(5)));
    server.bookmark(&mut watch).map_or(Value::Null, |event| mark(&event))
}

async fn read_to_end(lines: impl futures::AsyncRead) -> String {
    let mut lines = std::pin::pin!(lines);
    let mut text = String::new();
    futures::AsyncReadExt::read_to_string(&mut lines, &mut text)
        .await
        .unwrap();
    text
}

/// What a watch is told that begins before what is remembered: on the real server from its first version, in memory from
/// before the history was forgotten.
pub async fn too_old(client: &Client, server: &mut ApiServer, kind: &Kind) -> (Value, Value) {
    let path = collection(kind);
    let mut events = std::pin::pin!(stream(client, &path, &query("", "1"), WHOLE).await);
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    let truth = match first {
        Some(Ok(WatchEvent::Error(status))) => json!({ "code": status.code, "reason": status.reason }),
        other => json!(format!("{other:?}")),
    };
    server.forget_history();
    let Answer::Watch(mut watch) = ask(server, &path, &query("", "1"), WHOLE) else {
        panic!("no watch");
    };
    let first = server.next_event(&mut watch).unwrap();
    assert_eq!(first["type"], "ERROR");
    assert!(server.next_event(&mut watch).is_none() && ApiServer::is_over(&watch));
    (
        truth,
        json!({ "code": first["object"]["code"], "reason": first["object"]["reason"] }),
    )
}
