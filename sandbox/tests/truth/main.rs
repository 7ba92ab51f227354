//! The API server in memory is held to the real one: the same requests go to both, and the answers agree in status,
//! reason, generation, what is left of an object, and whether its resource version moved; and watches tell of them in the
//! same events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod settled;
mod watches;

use std::time::Duration;

use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use sandbox::Sandbox;
use sandbox::in_memory_kubernetes::{Answer, ApiServer, Kind, Request as Asked};
use serde_json::{Value, json};

const GROUP: &str = "truth.example.org";
const KINDS: &[Kind] = &[
    Kind::custom(GROUP, "v1", "Thing", "things"),
    Kind::custom(GROUP, "v1", "World", "worlds").cluster_wide(),
    Kind::built_in("apps", "v1", "ControllerRevision", "controllerrevisions"),
    Kind::built_in("events.k8s.io", "v1", "Event", "events"),
    Kind::built_in("", "v1", "Secret", "secrets"),
    Kind::built_in("", "v1", "Service", "services").with_status(),
    Kind::built_in("coordination.k8s.io", "v1", "Lease", "leases"),
    Kind::built_in("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies").with_generation(),
];
const REQUESTS: usize = 800;

/// Numbers that look random and are the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_of<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Which resource version or uid a request names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    None,
    Present,
    Stale,
}

/// A request, in which the versions and uids of each side are filled in.
#[derive(Clone, Debug)]
struct Sent {
    method: Method,
    path: String,
    query: &'static str,
    content_type: &'static str,
    accept: &'static str,
    body: Value,
    version: Named,
    uid: Named,
}

impl Sent {
    /// One that reads a path; the rest is set by whoever wants it otherwise.
    fn get(path: String) -> Self {
        Self {
            method: Method::GET,
            path,
            query: "",
            content_type: "application/json",
            accept: "application/json",
            body: Value::Null,
            version: Named::None,
            uid: Named::None,
        }
    }
}

/// What one side is asked through, and what it answered before.
struct Side {
    present: Value,
    stale: Value,
}

impl Side {
    fn new() -> Self {
        Self {
            present: json!({}),
            stale: json!({ "metadata": { "uid": "00000000-0000-0000-0000-000000000000" } }),
        }
    }

    fn fill(&self, sent: &Sent) -> Value {
        let mut body = sent.body.clone();
        let mut put = |which: Named, at: &str, member: &str| {
            let from = match which {
                Named::None => return,
                Named::Present => &self.present,
                Named::Stale => &self.stale,
            };
            let value = from["metadata"][member].clone();
            if !value.is_null() {
                body[at][member] = value;
            }
        };
        let at = if sent.method == Method::DELETE {
            "preconditions"
        } else {
            "metadata"
        };
        put(sent.version, at, "resourceVersion");
        put(sent.uid, at, "uid");
        body
    }
}

async fn real(client: &Client, sent: &Sent, body: &Value) -> (StatusCode, Value) {
    let path = if sent.query.is_empty() {
        sent.path.clone()
    } else {
        format!("{}?{}", sent.path, sent.query)
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(sent.method.clone())
        .uri(path)
        .header("content-type", sent.content_type)
        .header("accept", sent.accept)
        .body(Body::from(bytes))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn imagined(server: &mut ApiServer, sent: &Sent, body: &Value) -> (StatusCode, Value) {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let answer = server.handle(&Asked {
        method: &sent.method,
        path: &sent.path,
        query: sent.query,
        accept: sent.accept,
        content_type: sent.content_type,
        body: &bytes,
        now: Timestamp::now(),
    });
    match answer {
        Answer::Once(status, body) => (status, body),
        Answer::Watch(_) => panic!("no watch was asked for"),
    }
}

/// What must agree of two answers.
fn told(status: StatusCode, body: &Value) -> Value {
    let metadata = &body["metadata"];
    let list = |value: &Value| {
        let items = value.as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["uid"].clone()).collect::<Vec<_>>()
    };
    let object = body["kind"] != "Status";
    json!({
        "status": status.as_u16(),
        "kind": body["kind"],
        "reason": body["reason"],
        "items": body["items"].as_array().map(|items| {
            items.iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>()
        }),
        "generation": if object { metadata["generation"].clone() } else { Value::Null },
        "deleting": object && !metadata["deletionTimestamp"].is_null(),
        "finalizers": metadata["finalizers"],
        "labels": metadata["labels"],
        "annotations": metadata["annotations"],
        "owners": list(&metadata["ownerReferences"]),
        "data": body["data"],
        "revision": body["revision"],
        "note": body["note"],
        "series": body["series"]["count"],
        "said": body["status"].as_object().map(|status| json!({ "said": status.get("said") })),
        "spec": {
            "size": body["spec"]["size"], "list": body["spec"]["list"], "nested": body["spec"]["nested"],
            "selector": body["spec"]["selector"], "podSelector": body["spec"]["podSelector"], "holderIdentity": body["spec"]["holderIdentity"],
        },
    })
}

/// Where objects are, but Events: the cluster's own parts tell of objects by Events beside them.
const NAMESPACE: &str = "truth";
/// Where Events are.
const EVENTS: &str = "truth-events";

fn collection(kind: &Kind) -> String {
    let Kind {
        group, version, plural, ..
    } = kind;
    let namespace = if *plural == "events" { EVENTS } else { NAMESPACE };
    if !kind.namespaced {
        format!("/apis/{group}/{version}/{plural}")
    } else if group.is_empty() {
        format!("/api/{version}/namespaces/{namespace}/{plural}")
    } else {
        format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}")
    }
}

/// A body of a kind.
fn object(kind: &Kind, name: &str, color: &str, chance: &mut Chance) -> Value {
    let mut body = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": { "name": name, "labels": { "color": color } },
    });
    match chance.below(4) {
        0 => body["metadata"]["finalizers"] = json!(["truth.example.org/held"]),
        1 => body["metadata"]["annotations"] = json!({ "truth.example.org/a": "b" }),
        _ => {}
    }
    let word = chance.one_of(&["one", "two"]);
    match kind.plural {
        "controllerrevisions" => {
            body["revision"] = json!(chance.below(3));
            body["data"] = json!({ "of": word });
        }
        // What is said once of an object; that it is said again is a series.
        "events" => {
            body["eventTime"] = json!("2026-01-05T08:00:00.000000Z");
            body["type"] = json!("Normal");
            body["reason"] = json!(word);
            body["note"] = json!(format!("{word}."));
            body["action"] = json!("Reconcile");
            body["reportingController"] = json!("truth.example.org");
            body["reportingInstance"] = json!("truth");
            body["regarding"] = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "Thing", "namespace": EVENTS, "name": "a",
            });
        }
        "things" | "worlds" => {
            body["spec"] = json!({ "size": chance.below(3), "list": [word], "nested": { word: chance.below(2) } });
            if chance.below(3) == 0 {
                body["status"] = json!({ "said": word });
            }
        }
        "secrets" => body["stringData"] = json!({ word: word }),
        "services" => body["spec"] = json!({ "selector": { "app": word }, "ports": [{ "name": "p", "port": 80 }] }),
        "networkpolicies" => {
            body["spec"] = json!({ "podSelector": { "matchLabels": { "app": word } }, "policyTypes": ["Ingress"] });
        }
        _ => body["spec"] = json!({ "holderIdentity": word }),
    }
    body
}

fn request(kind: &Kind, chance: &mut Chance) -> Sent {
    let name = chance.one_of(&["a", "b"]);
    let at = format!("{}/{name}", collection(kind));
    let mut sent = Sent::get(at.clone());
    let color = chance.one_of(&["red", "blue"]);
    let version = match chance.below(4) {
        0 => Named::Stale,
        1 => Named::None,
        _ => Named::Present,
    };
    let asked = match kind.plural {
        // What an operator asks of them; of what it never changes the server has rules that it never meets.
        "events" => [0, 2, 7, 7, 11][chance.below(5)],
        "controllerrevisions" => [0, 1, 2, 3, 4, 6, 11][chance.below(7)],
        _ => chance.below(12),
    };
    match asked {
        0 | 1 => {
            sent.method = Method::POST;
            sent.path = collection(kind);
            sent.body = object(kind, name, color, chance);
        }
        2 => {
            sent.path = collection(kind);
            sent.query = chance.one_of(&["labelSelector=color%3Dred", "", "fieldSelector=metadata.name%3Da"]);
        }
        3 => sent.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        4 | 5 => {
            sent.method = Method::PUT;
            sent.body = object(kind, name, color, chance);
            sent.version = version;
        }
        // Kubernetes has one rule for all custom kinds, and others for its own.
        6 if kind.custom => {
            sent.method = Method::PUT;
            sent.path = format!("{at}/status");
            sent.body = object(kind, name, color, chance);
            sent.body["status"] = json!({ "said": chance.one_of(&["this", "that"]) });
            sent.version = version;
        }
        6..=8 => {
            sent.method = Method::PATCH;
            sent.content_type = "application/merge-patch+json";
            sent.body = match chance.below(4) {
                _ if kind.plural == "events" => json!({
                    "series": { "count": 2 + chance.below(3), "lastObservedTime": "2026-01-05T09:00:00.000000Z" },
                }),
                0 => json!({ "metadata": { "finalizers": [] } }),
                1 => json!({ "metadata": { "finalizers": ["truth.example.org/held"] } }),
                2 => json!({ "metadata": { "labels": { "color": chance.one_of(&["red", "green"]) } } }),
                _ => json!({ "metadata": { "annotations": { "truth.example.org/a": null } } }),
            };
            sent.version = if version == Named::Stale { version } else { Named::None };
        }
        9 | 10 => {
            sent.method = Method::PATCH;
            sent.content_type = "application/apply-patch+yaml";
            sent.query = "fieldManager=truth&force=true";
            sent.body = object(kind, name, color, chance);
            // Secrets are applied with their data.
            if let Some(texts) = sent.body.as_object_mut().unwrap().remove("stringData") {
                let key = texts.as_object().unwrap().keys().next().unwrap().clone();
                sent.body["data"] = json!({ key: "eA==" });
            }
            sent.body.as_object_mut().unwrap().remove("status");
        }
        _ => {
            sent.method = Method::DELETE;
            sent.body = match chance.below(3) {
                0 => json!({ "propagationPolicy": "Background" }),
                _ => json!({}),
            };
            if chance.below(2) == 0 {
                sent.body["preconditions"] = json!({});
                sent.uid = if chance.below(2) == 0 {
                    Named::Stale
                } else {
                    Named::None
                };
                sent.version = if chance.below(3) == 0 {
                    Named::Stale
                } else {
                    Named::None
                };
            }
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_in_memory_answers_as_the_real_one() {
    let sandbox = Sandbox::builder().without_elasticache().start().await.unwrap();
    let client = sandbox.kube().await.unwrap();
    let make = async |path: &str, body: Value| {
        let sent = Sent {
            method: Method::POST,
            ..Sent::get(path.to_owned())
        };
        let (status, answer) = real(&client, &sent, &body).await;
        assert!(status.is_success(), "{answer}");
    };
    for namespace in [NAMESPACE, EVENTS] {
        make("/api/v1/namespaces", json!({ "metadata": { "name": namespace } })).await;
    }
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut server = ApiServer::new(KINDS);
    for kind in KINDS.iter().filter(|kind| kind.custom) {
        make(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json!({
                "metadata": { "name": format!("{}.{GROUP}", kind.plural) },
                "spec": {
                    "group": GROUP, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                    "names": { "kind": kind.kind, "plural": kind.plural, "singular": kind.kind.to_lowercase() },
                    "versions": [{
                        "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                        "schema": { "openAPIV3Schema": {
                            "type": "object", "properties": { "spec": open, "status": open },
                        } },
                    }],
                },
            }),
        )
        .await;
        // The definition takes a moment to be served.
        let served = async {
            let sent = Sent::get(collection(kind));
            while real(&client, &sent, &Value::Null).await.0 != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), served).await.unwrap();
    }

    let mut pairs = Vec::new();
    for kind in KINDS {
        pairs.extend(watches::open(&client, &mut server, kind).await);
    }
    let mut chance = Chance(7);
    let mut sides = std::collections::BTreeMap::new();
    let mut disagreements = Vec::new();
    for nth in 0..REQUESTS {
        let kind = &KINDS[[0, 0, 0, 1, 2, 3, 4, 5, 6, 7][chance.below(10)]];
        let sent = request(kind, &mut chance);
        let name = sent.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let name = if name.is_empty() {
            sent.path.rsplit('/').find(|part| *part != "status").unwrap().to_owned()
        } else {
            name
        };
        let (ours, theirs) = sides
            .entry((kind.plural, name.clone()))
            .or_insert_with(|| (Side::new(), Side::new()));
        let answered = imagined(&mut server, &sent, &ours.fill(&sent));
        let truth = real(&client, &sent, &theirs.fill(&sent)).await;
        let (imagined_told, truth_told) = (told(answered.0, &answered.1), told(truth.0, &truth.1));
        let names = truth_told.as_object().unwrap().keys();
        for name in names.filter(|name| truth_told[*name] != imagined_told[*name]) {
            disagreements.push(format!(
                "{nth}: {} {}?{} {} ({:?}, {:?}) {}\n  {name}: {} in truth, {} in memory",
                sent.method,
                sent.path,
                sent.query,
                sent.content_type,
                sent.version,
                sent.uid,
                sent.body,
                truth_told[name],
                imagined_told[name]
            ));
        }
        // Whether the resource version moved.
        let moved = |side: &Side, answer: &Value| {
            let version = &answer["metadata"]["resourceVersion"];
            (answer["metadata"]["name"] == json!(name) && !version.is_null())
                .then(|| *version != side.present["metadata"]["resourceVersion"])
        };
        let (moved_here, moved_there) = (moved(ours, &answered.1), moved(theirs, &truth.1));
        if moved_here != moved_there {
            disagreements.push(format!(
                "{nth}: {} {}?{} {} ({:?}, {:?}) {}\n  the version moved: {moved_there:?} in truth, {moved_here:?} in memory",
                sent.method, sent.path, sent.query, sent.content_type, sent.version, sent.uid, sent.body,
            ));
        }
        for (side, (status, answer)) in [(ours, answered), (theirs, truth)] {
            if status.is_success() && answer["metadata"]["name"] == json!(name) {
                if answer["metadata"]["resourceVersion"] != side.present["metadata"]["resourceVersion"]
                    && !side.present["metadata"]["resourceVersion"].is_null()
                {
                    side.stale["metadata"]["resourceVersion"] = side.present["metadata"]["resourceVersion"].clone();
                }
                side.present = answer;
            }
        }
    }
    // The last of each kind tells both sides' watches that all was told.
    for kind in KINDS {
        let sent = Sent {
            method: Method::POST,
            path: collection(kind),
            query: "",
            content_type: "application/json",
            accept: "application/json",
            body: object(kind, watches::END, "red", &mut Chance(1)),
            version: Named::None,
            uid: Named::None,
        };
        assert_eq!(imagined(&mut server, &sent, &sent.body).0, StatusCode::CREATED);
        assert_eq!(real(&client, &sent, &sent.body).await.0, StatusCode::CREATED);
    }
    let mut events = 0;
    for pair in pairs {
        let (told, wrong) = pair.disagreements(&server).await;
        events += told;
        disagreements.extend(wrong);
    }
    let marks = KINDS
        .iter()
        .flat_map(|kind| [(kind, watches::WHOLE), (kind, watches::METADATA)]);
    let truths = marks
        .clone()
        .map(|(kind, accept)| watches::bookmark_in_truth(&client, kind, accept));
    for ((kind, accept), truth) in marks.zip(futures::future::join_all(truths).await) {
        let memory = watches::bookmark_in_memory(&mut server, kind, accept);
        if truth != memory {
            disagreements.push(format!(
                "bookmark of {} as {accept}: {truth} in truth, {memory} in memory",
                kind.plural
            ));
        }
    }
    let (truth, memory) = watches::too_old(&client, &mut server, &KINDS[0]).await;
    assert_eq!(truth, memory, "a watch from too far back");
    disagreements.extend(settled::disagreements(&client).await);
    sandbox.stop().await;
    assert!(
        disagreements.is_empty(),
        "{} members of {REQUESTS} answers disagree:\n{}",
        disagreements.len(),
        disagreements.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
    println!("{REQUESTS} requests were answered alike, and {events} events told");
}
