//! Kinds that the cluster's controllers write to: after each request both are let come to rest, and then an object stands as it
//! does in truth; a Deployment says the same of its Pods, and those say the same of themselves, as far as an operator reads it.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use jiff::Timestamp;
use kube::Client;
use sandbox::in_memory_kubernetes::{ApiServer, Kind};
use serde_json::{Value, json};

use crate::{Chance, Named, Sent, Side, collection, imagined, real, told};

pub const KINDS: &[Kind] = &[
    Kind::built_in("apps", "v1", "Deployment", "deployments")
        .with_status()
        .with_generation(),
    Kind::built_in("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").with_status(),
    Kind::built_in("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .with_status()
        .with_generation(),
    Kind::built_in("", "v1", "Pod", "pods").with_status(),
];
const REQUESTS: usize = 120;
/// How long the controllers may take.
const PATIENCE: Duration = Duration::from_secs(90);

fn spec(kind: &Kind, name: &str, chance: &mut Chance) -> Value {
    let selector = json!({ "matchLabels": { "app": name } });
    match kind.plural {
        "deployments" => json!({
            "replicas": chance.below(3), "selector": selector, "strategy": { "type": "Recreate" },
            "template": {
                "metadata": { "labels": { "app": name, "size": chance.one_of(&["small", "large"]) } },
                "spec": { "terminationGracePeriodSeconds": 2, "containers": [{
                    "name": "c", "image": chance.one_of(&["memcached:1.6", "memcached:1.6", "example.org/broken:1"]),
                }] },
            },
        }),
        "persistentvolumeclaims" => json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": { "requests": { "storage": "1Gi" } },
        }),
        _ => json!({ "selector": selector, "maxUnavailable": chance.below(3) }),
    }
}

fn request(kind: &Kind, chance: &mut Chance) -> Sent {
    let name = chance.one_of(&["a", "b"]);
    let mut object = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": { "name": name, "labels": { "color": chance.one_of(&["red", "blue"]) } },
        "spec": spec(kind, name, chance),
    });
    if chance.below(4) == 0 {
        object["metadata"]["finalizers"] = json!(["truth.example.org/held"]);
    }
    let mut sent = Sent::get(format!("{}/{name}", collection(kind)));
    match chance.below(8) {
        0 | 1 => {
            sent.method = Method::POST;
            sent.path = collection(kind);
            sent.body = object;
        }
        2 | 3 => {
            sent.method = Method::PATCH;
            sent.content_type = "application/apply-patch+yaml";
            sent.query = "fieldManager=truth&force=true";
            sent.body = object;
        }
        4 => {
            sent.method = Method::PATCH;
            sent.content_type = "application/merge-patch+json";
            sent.body = match chance.below(3) {
                0 => json!({ "metadata": { "finalizers": [] } }),
                1 if kind.plural == "deployments" => json!({ "spec": { "replicas": chance.below(3) } }),
                _ => json!({ "metadata": { "labels": { "color": "green" } } }),
            };
        }
        5 => {}
        _ => {
            sent.method = Method::DELETE;
            sent.body = json!({ "propagationPolicy": chance.one_of(&["Background", "Foreground"]) });
            if chance.below(4) == 0 {
                sent.body["preconditions"] = json!({});
                sent.uid = Named::Stale;
            }
        }
    }
    sent
}

/// What must agree of an object at rest.
fn stands(status: StatusCode, object: &Value) -> Value {
    let mut stands = told(status, object);
    if let Some(annotations) = stands["annotations"].as_object_mut() {
        annotations.remove("deployment.kubernetes.io/revision");
        // A claim was bound, which is so in memory from the first.
        annotations.retain(|name, _| !name.starts_with("pv.kubernetes.io/"));
        if annotations.is_empty() {
            stands["annotations"] = Value::Null;
        }
    }
    stands["said"] = said(object);
    let spec = &object["spec"];
    stands["spec"] = json!({
        "replicas": spec["replicas"], "selector": spec["selector"], "maxUnavailable": spec["maxUnavailable"],
        "template": spec["template"]["metadata"]["labels"], "requests": spec["resources"]["requests"],
    });
    stands
}

/// What an operator reads of a Deployment's status.
fn said(object: &Value) -> Value {
    if object["kind"] != "Deployment" {
        return Value::Null;
    }
    let status = &object["status"];
    let count = |name: &str| status[name].as_u64().unwrap_or(0);
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let condition = |type_: &str| {
        let found = conditions.clone().find(|condition| condition["type"] == type_)?;
        Some(json!([found["status"], found["reason"]]))
    };
    json!({
        "seen": status["observedGeneration"] == object["metadata"]["generation"],
        "replicas": count("replicas"), "updated": count("updatedReplicas"), "ready": count("readyReplicas"),
        "available": count("availableReplicas"),
        "progressing": condition("Progressing"), "failing": condition("ReplicaFailure"),
    })
}

/// What an operator reads of the Pods of a list, whatever they are called.
fn pods(list: &Value) -> Vec<String> {
    let pods = list["items"].as_array().into_iter().flatten();
    let told = pods.map(|pod| {
        let (status, labels) = (&pod["status"], &pod["metadata"]["labels"]);
        let container = &status["containerStatuses"][0];
        let waits = container["state"]["waiting"]["reason"]
            .as_str()
            .map(|reason| match reason {
                // By turns, as long as it is tried again.
                "ImagePullBackOff" => "ErrImagePull",
                other => other,
            });
        json!({
            "app": labels["app"], "size": labels["size"], "of a template": labels["pod-template-hash"].is_string(),
            "deleting": pod["metadata"]["deletionTimestamp"].is_string(), "phase": status["phase"],
            "has an address": status["podIP"].as_str().is_some_and(|address| !address.is_empty()),
            "container": container["name"], "image": container["image"], "ready": container["ready"],
            "runs": container["state"]["running"].is_object(), "waits": waits, "restarts": container["restartCount"],
        })
        .to_string()
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}

fn differences(nth: usize, what: &str, sent: &Sent, truth: &Value, memory: &Value) -> Vec<String> {
    let names = truth.as_object().unwrap().keys();
    let differ = names.filter(|name| truth[*name] != memory[*name]);
    differ
        .map(|name| {
            format!(
                "{nth}, {what}: {} {}?{} {}\n  {name}: {} in truth, {} in memory",
                sent.method, sent.path, sent.query, sent.body, truth[name], memory[name]
            )
        })
        .collect()
}

/// Sends requests to both, and returns in what they disagree.
pub async fn disagreements(client: &Client) -> Vec<String> {
    let mut server = ApiServer::new(KINDS);
    let mut chance = Chance(11);
    let (ours, theirs) = (Side::new(), Side::new());
    let mut wrong = Vec::new();
    for nth in 0..REQUESTS {
        // Pods are made by Deployments alone.
        let kind = &KINDS[chance.below(3)];
        let sent = request(kind, &mut chance);
        let memory = imagined(&mut server, &sent, &ours.fill(&sent));
        let truth = real(client, &sent, &theirs.fill(&sent)).await;
        // What is answered while something is on its way to be deleted, its controllers may have changed already.
        let (mut memory, mut truth) = (stands(memory.0, &memory.1), stands(truth.0, &truth.1));
        for answer in [&mut memory, &mut truth] {
            answer["finalizers"] = Value::Null;
            answer["said"] = Value::Null;
        }
        wrong.extend(differences(nth, "the answer", &sent, &truth, &memory));

        for _ in 0..1000 {
            let Some(work) = server.work().into_iter().next() else {
                break;
            };
            server.perform(&work, Timestamp::now());
        }
        let name = sent.body["metadata"]["name"].as_str();
        let path = match name {
            Some(name) if sent.method == Method::POST => format!("{}/{name}", sent.path),
            _ => sent.path.clone(),
        };
        let look = Sent {
            method: Method::GET,
            path,
            query: "",
            body: Value::Null,
            uid: Named::None,
            ..sent.clone()
        };
        let (status, object) = imagined(&mut server, &look, &Value::Null);
        let all_pods = Sent {
            path: collection(&KINDS[3]),
            ..look.clone()
        };
        let mut memory = stands(status, &object);
        memory["pods"] = json!(pods(&imagined(&mut server, &all_pods, &Value::Null).1));
        let began = Instant::now();
        loop {
            let (status, object) = real(client, &look, &Value::Null).await;
            let mut truth = stands(status, &object);
            truth["pods"] = json!(pods(&real(client, &all_pods, &Value::Null).await.1));
            if truth == memory {
                break;
            }
            if began.elapsed() > PATIENCE {
                wrong.extend(differences(nth, "at rest", &sent, &truth, &memory));
                return wrong;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    wrong
}
