//! What the broker asks of the API server in memory is asked of a real one, too, in the same order, and the answers agree: the
//! requests are those of the operations themselves, so every kind of request that any of them makes is held to the truth.
//!
//! Versions and uids of the one side are put in place of the other's. Of built-in kinds the server fills in more than the one
//! in memory does: there all that this one says must be said. What controllers write of their own (statuses of built-in
//! kinds, Pods) is compared elsewhere (`sandbox/tests/truth`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use kube::Client;
use kube::client::Body;
use sandbox::Sandbox;
use sandbox::in_memory_kubernetes::{ApiServer, Key, Work};
use sandbox::node::{self, Pods};
use serde_json::{Value, json};

use crate::process::HOME;
use crate::world::{self, KubeRequest};

/// How long the cluster may take to do what its controllers do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that happened to the API server in memory.
#[derive(Clone, Debug)]
pub enum Happened {
    /// It was asked: how the object stood, and what it answered.
    Asked {
        request: KubeRequest,
        stood: Option<Value>,
        status: StatusCode,
        answer: Value,
    },
    /// The cluster did something, and an object was still there, or not.
    Done { work: Work, key: Key, stands: bool },
}

impl Happened {
    /// What was asked, if it was, in words: which kind of request it was.
    pub fn shape(&self) -> Option<String> {
        match self {
            Self::Asked { request, status, .. } => Some(shape(request, *status)),
            Self::Done { .. } => None,
        }
    }
}

fn shape(request: &KubeRequest, status: StatusCode) -> String {
    let mut parts: Vec<_> = request.path.trim_matches('/').split('/').collect();
    if let Some(at) = parts.iter().position(|part| *part == "namespaces") {
        parts.drain(at..(at + 2).min(parts.len()));
    }
    // What is left is `api/v1/PLURAL/NAME/status` or `apis/GROUP/VERSION/PLURAL/NAME/status`.
    let after = if parts.first() == Some(&"api") { 2 } else { 3 };
    let (plural, name, part) = (parts.get(after), parts.get(after + 1), parts.get(after + 2));
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let named = |pointer: &str| body.pointer(pointer).is_some_and(|value| !value.is_null());
    let mut words = vec![request.method.to_string(), (*plural.unwrap_or(&"")).to_owned()];
    words.extend(part.map(|part| (*part).to_owned()));
    match request.method {
        Method::GET if name.is_none() => words.push("all".to_owned()),
        Method::PATCH => words.push(request.content_type.clone()),
        _ => {}
    }
    if request.accept.contains("PartialObjectMetadata") {
        words.push("metadata".to_owned());
    }
    if request.query.contains("labelSelector") {
        words.push("by label".to_owned());
    }
    for (pointer, word) in [
        ("/metadata/resourceVersion", "version"),
        ("/metadata/uid", "uid"),
        ("/preconditions/uid", "of uid"),
        ("/preconditions/resourceVersion", "of version"),
    ] {
        words.extend(named(pointer).then(|| word.to_owned()));
    }
    words.extend(body["propagationPolicy"].as_str().map(str::to_owned));
    words.push(status.as_u16().to_string());
    words.join(" ")
}

/// The object that a path names.
pub fn standing(api: &ApiServer, path: &str) -> Option<Value> {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let (namespace, plural, name) = match parts.iter().position(|part| *part == "namespaces") {
        Some(at) => (*parts.get(at + 1)?, *parts.get(at + 2)?, *parts.get(at + 3)?),
        None => ("", *parts.get(3)?, *parts.get(4)?),
    };
    let is_it = |key: &Key| key.plural == plural && key.namespace == namespace && key.name == name;
    let found = api.objects().find(|(key, _)| is_it(key));
    found.map(|(_, object)| object.clone())
}

/// Numbers the rounds of a sandbox: each has namespaces of its own.
static ROUND: AtomicUsize = AtomicUsize::new(0);

/// A real API server.
pub struct Truth {
    sandbox: Sandbox,
    client: Client,
}

/// The same things on the other side.
struct Round {
    number: usize,
    uids: BTreeMap<String, String>,
    versions: BTreeMap<String, String>,
    /// Objects that controllers took away sooner than those in memory.
    sooner: BTreeSet<String>,
    wrong: Vec<String>,
    compared: usize,
}

impl Truth {
    pub async fn start() -> Self {
        // Claims are bound on a node.
        let pods = node::Options {
            pods: Pods::simulated(),
            ..node::Options::default()
        };
        let sandbox = Sandbox::builder()
            .node(pods)
            .without_elasticache()
            .start()
            .await
            .unwrap();
        let client = sandbox.kube().await.unwrap();
        let truth = Self { sandbox, client };
        for class in world::classes() {
            let (status, answer) = truth.send(Method::POST, world::CLASSES, "", &class).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
        for (_, manifest) in cache_broker::api::manifests().unwrap() {
            let definition: Value = serde_yaml::from_str(&manifest).unwrap();
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let (status, answer) = truth.send(Method::POST, path, "", &definition).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
            let spec = &definition["spec"];
            let path = format!(
                "/apis/{}/v1alpha1/{}",
                spec["group"].as_str().unwrap(),
                spec["names"]["plural"].as_str().unwrap()
            );
            truth
                .until(&format!("{path} is served"), async || {
                    truth.send(Method::GET, &path, "", &Value::Null).await.0 == StatusCode::OK
                })
                .await;
        }
        truth
    }

    pub async fn stop(self) {
        self.sandbox.stop().await;
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: &Value) -> (StatusCode, Value) {
        let content_type = if content_type.is_empty() {
            "application/json"
        } else {
            content_type
        };
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Body::from(bytes))
            .unwrap();
        self.answer(request).await
    }

    async fn answer(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.client.send(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Does what happened again. Returns how many answers were compared, and in what they disagreed.
    pub async fn replay(&self, happened: &[Happened]) -> (usize, Vec<String>) {
        let mut round = Round {
            number: ROUND.fetch_add(1, Ordering::Relaxed),
            uids: BTreeMap::new(),
            versions: BTreeMap::new(),
            sooner: BTreeSet::new(),
            wrong: Vec::new(),
            compared: 0,
        };
        for namespace in [HOME, "memcached-system", "redis-system"] {
            let name = round.text(namespace);
            let body = json!({ "metadata": { "name": name } });
            let (status, answer) = self.send(Method::POST, "/api/v1/namespaces", "", &body).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
        for happened in happened {
            match happened {
                Happened::Asked {
                    request,
                    stood,
                    status,
                    answer,
                } => self.ask(&mut round, request, stood.as_ref(), *status, answer).await,
                Happened::Done { work, key, stands } => self.follow(&mut round, work, key, *stands).await,
            }
        }
        self.clear_away().await;
        (round.compared, round.wrong)
    }

    /// Asks the real one the same.
    async fn ask(
        &self,
        round: &mut Round,
        request: &KubeRequest,
        stood: Option<&Value>,
        status: StatusCode,
        answer: &Value,
    ) {
        let path = round.text(&request.path);
        let body = match request.body.as_ref() {
            [] => Value::Null,
            bytes => serde_json::from_str(&round.text(&String::from_utf8_lossy(bytes))).unwrap(),
        };
        let uri = if request.query.is_empty() {
            path.clone()
        } else {
            format!("{path}?{}", request.query)
        };
        let began = Instant::now();
        let (their_status, truth) = loop {
            let mut sent = Request::builder().method(request.method.clone()).uri(&uri);
            for (name, value) in [("content-type", &request.content_type), ("accept", &request.accept)] {
                if !value.is_empty() {
                    sent = sent.header(name, value);
                }
            }
            let body = self.with_versions(round, &path, &body, stood).await;
            let bytes = if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            };
            let (their_status, truth) = self.answer(sent.body(Body::from(bytes)).unwrap()).await;
            // A claim cannot be changed before it is bound, which takes its time.
            let unbound = path.contains("/persistentvolumeclaims/") && their_status == StatusCode::UNPROCESSABLE_ENTITY;
            // And its controllers write a Deployment whenever they like.
            let passed_by = their_status == StatusCode::CONFLICT && request.path.contains("/deployments/");
            if !(unbound || passed_by) || their_status == status || began.elapsed() > PATIENCE {
                break (their_status, truth);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let going = stood.is_some_and(|stood| !stood["metadata"]["deletionTimestamp"].is_null());
        if going && their_status == StatusCode::NOT_FOUND {
            round.sooner.insert(path);
            return;
        }
        round.compared += 1;
        let what = format!("{} {path}?{}: {body}", request.method, request.query);
        if their_status != status {
            let said = if their_status.is_success() {
                &answer["message"]
            } else {
                &truth["message"]
            };
            round
                .wrong
                .push(format!("{what}\n  {their_status} in truth, {status} in memory: {said}"));
            return;
        }
        if !status.is_success() {
            if truth["reason"] != answer["reason"] {
                let (truth, memory) = (&truth["reason"], &answer["reason"]);
                round
                    .wrong
                    .push(format!("{what}\n  {truth} in truth, {memory} in memory"));
            }
            return;
        }
        round.learn(answer, &truth);
        if answer["items"].is_array() {
            let (truth, memory) = (round.named(&truth, false), round.named(answer, true));
            if truth != memory && !request.path.ends_with("/pods") {
                round
                    .wrong
                    .push(format!("{what}\n  {truth:?} in truth, {memory:?} in memory"));
            }
            return;
        }
        let memory: Value = serde_json::from_str(&round.text(&answer.to_string())).unwrap();
        let custom = request.path.starts_with("/apis/cache.akkeris.io/");
        let mut wrong = Vec::new();
        compare("", &memory, &truth, custom, &mut wrong);
        round
            .wrong
            .extend(wrong.into_iter().map(|wrong| format!("{what}\n  {wrong}")));
    }

    /// A body whose versions are those of this side: of the object as it stands if it was so on the other.
    async fn with_versions(&self, round: &Round, path: &str, body: &Value, stood: Option<&Value>) -> Value {
        let mut body = body.clone();
        for place in ["/metadata/resourceVersion", "/preconditions/resourceVersion"] {
            let Some(named) = body.pointer_mut(place).filter(|named| named.is_string()) else {
                continue;
            };
            let ours = named.as_str().unwrap_or_default().to_owned();
            let present = stood.is_some_and(|stood| stood["metadata"]["resourceVersion"] == *ours);
            *named = if present {
                let at = path.strip_suffix("/status").unwrap_or(path);
                let (_, object) = self.send(Method::GET, at, "", &Value::Null).await;
                object["metadata"]["resourceVersion"].clone()
            } else {
                json!(round.versions.get(&ours).map_or("1", String::as_str))
            };
        }
        body
    }

    /// Waits until the cluster has done what it did in memory.
    async fn follow(&self, round: &mut Round, work: &Work, key: &Key, stands: bool) {
        if stands || !matches!(work, Work::Collect(_) | Work::Foreground(_) | Work::LetGo(_)) {
            return;
        }
        let group = match key.plural {
            "deployments" => "apis/apps/v1",
            "networkpolicies" => "apis/networking.k8s.io/v1",
            "poddisruptionbudgets" => "apis/policy/v1",
            "cachebackups" | "cacheinstances" => "apis/cache.akkeris.io/v1alpha1",
            _ => "api/v1",
        };
        let path = format!(
            "/{group}/namespaces/{}/{}/{}",
            round.text(&key.namespace),
            key.plural,
            key.name
        );
        // Pods have other names, and go with what they belong to.
        if key.plural == "pods" {
            return;
        }
        let began = Instant::now();
        while self.send(Method::GET, &path, "", &Value::Null).await.0 != StatusCode::NOT_FOUND {
            if began.elapsed() > PATIENCE {
                round.wrong.push(format!("{work:?}: {path} does not go in truth"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes away what is in no namespace, and the Events of that.
    async fn clear_away(&self) {
        let all = "/apis/cache.akkeris.io/v1alpha1/cacheplans";
        let (_, plans) = self.send(Method::GET, all, "", &Value::Null).await;
        for plan in plans["items"].as_array().into_iter().flatten() {
            let path = format!("{all}/{}", plan["metadata"]["name"].as_str().unwrap());
            let free = json!({ "metadata": { "finalizers": null } });
            self.send(Method::PATCH, &path, "application/merge-patch+json", &free)
                .await;
            self.send(Method::DELETE, &path, "", &Value::Null).await;
        }
        let events = "/apis/events.k8s.io/v1/namespaces/default/events";
        let (status, answer) = self.send(Method::DELETE, events, "", &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

impl Round {
    /// A text of the side in memory as it is on the other.
    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for namespace in [HOME, "memcached-system", "redis-system"] {
            text = text.replace(namespace, &format!("{namespace}-{}", self.number));
        }
        for (ours, theirs) in &self.uids {
            text = text.replace(ours, theirs);
        }
        text
    }

    fn learn(&mut self, ours: &Value, theirs: &Value) {
        for (name, known) in [("uid", &mut self.uids), ("resourceVersion", &mut self.versions)] {
            if let (Some(ours), Some(theirs)) = (ours["metadata"][name].as_str(), theirs["metadata"][name].as_str()) {
                known.insert(ours.to_owned(), theirs.to_owned());
            }
        }
    }

    /// The objects of a list.
    fn named(&self, list: &Value, ours: bool) -> BTreeSet<String> {
        let items = list["items"].as_array().into_iter().flatten();
        let named = items.map(|item| {
            let of = |name: &str| item["metadata"][name].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", of("namespace"), of("name"))
        });
        if ours {
            named.map(|name| self.text(&name)).collect()
        } else {
            named.collect()
        }
    }
}

/// Members that differ by their nature.
const OTHERWISE: &[&str] = &[
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "clusterIP",
    "clusterIPs",
    // Of a claim that is bound, which takes its time.
    "volumeName",
];

/// In what two objects disagree. What is custom says the same, but for defaults of its definition in its spec; of others the
/// real one may say more, and its status is its controllers' matter.
fn compare(at: &str, memory: &Value, truth: &Value, custom: bool, wrong: &mut Vec<String>) {
    match (memory, truth) {
        (Value::Object(memory), Value::Object(truth)) => {
            for (name, value) in memory {
                if OTHERWISE.contains(&name.as_str()) || (at.is_empty() && name == "status" && !custom) {
                    continue;
                }
                // The finalizers of the cluster itself come and go in their own time.
                if name == "finalizers" && !custom {
                    continue;
                }
                let there = truth.get(name).unwrap_or(&Value::Null);
                compare(&format!("{at}/{name}"), value, there, custom, wrong);
            }
            if custom && at.starts_with("/status") {
                for (name, value) in truth.iter().filter(|(name, _)| !memory.contains_key(*name)) {
                    wrong.push(format!("{at}/{name}: {value} in truth, nothing in memory"));
                }
            }
        }
        (Value::Array(memory), Value::Array(truth)) if memory.len() == truth.len() => {
            for (nth, (memory, truth)) in memory.iter().zip(truth).enumerate() {
                compare(&format!("{at}/{nth}"), memory, truth, custom, wrong);
            }
        }
        _ if memory == truth => {}
        // What is empty may not be said.
        (Value::Object(members), Value::Null) if members.is_empty() => {}
        (Value::Array(items), Value::Null) if items.is_empty() => {}
        _ => wrong.push(format!("{at}: {truth} in truth, {memory} in memory")),
    }
}
