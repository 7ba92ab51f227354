//! Kinds that the cluster's controllers write to: after each request both are let come to rest, and then an object stands as it
//! does in truth; a Deployment says the same of its Pods, and those say the same of themselves, as far as an operator reads it;
//! a claim says the same of its volume.

use std::collections::BTreeMap;
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
    Kind::built_in("storage.k8s.io", "v1", "StorageClass", "storageclasses").cluster_wide(),
];
const REQUESTS: usize = 160;
const SIZES: &[&str] = &["1Gi", "2Gi", "3Gi"];
/// How long the controllers may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Classes of storage: what volumes of each may do, and when claims are bound.
fn classes() -> [Value; 3] {
    [
        ("grows", true, "Immediate"),
        ("fixed", false, "Immediate"),
        ("waits", true, "WaitForFirstConsumer"),
    ]
    .map(|(name, grows, mode)| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": name, "annotations": {
                "storageclass.kubernetes.io/is-default-class": (name == "grows").to_string(),
            } },
            "provisioner": "truth.example.org/folders", "allowVolumeExpansion": grows, "volumeBindingMode": mode,
        })
    })
}

fn spec(kind: &Kind, name: &str, chance: &mut Chance) -> Value {
    let selector = json!({ "matchLabels": { "app": name } });
    match kind.plural {
        "deployments" => {
            let mut pod = json!({ "terminationGracePeriodSeconds": 2, "containers": [{
                "name": "c", "image": chance.one_of(&["memcached:1.6", "memcached:1.6", "example.org/broken:1"]),
            }] });
            if chance.below(3) == 0 {
                pod["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": name } }]);
            }
            json!({
                "replicas": chance.below(3), "selector": selector, "strategy": { "type": "Recreate" },
                "template": {
                    "metadata": { "labels": { "app": name, "size": chance.one_of(&["small", "large"]) } },
                    "spec": pod,
                },
            })
        }
        "persistentvolumeclaims" => {
            let mut spec = json!({
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": chance.one_of(SIZES) } },
            });
            // Else it is of the class of those that name none.
            let class = chance.one_of(&["", "grows", "fixed", "waits", "none"]);
            if !class.is_empty() {
                spec["storageClassName"] = json!(class);
            }
            spec
        }
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
                1 | 2 if kind.plural == "persistentvolumeclaims" => resized(chance.one_of(SIZES)),
                _ => json!({ "metadata": { "labels": { "color": "green" } } }),
            };
        }
        // Of what is asked of volumes, most is that they be larger or smaller.
        5 | 6 if kind.plural == "persistentvolumeclaims" => {
            sent.method = Method::PATCH;
            sent.content_type = "application/merge-patch+json";
            sent.body = resized(chance.one_of(SIZES));
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

fn resized(size: &str) -> Value {
    json!({ "spec": { "resources": { "requests": { "storage": size } } } })
}

/// A claim of each class that is made, and is to be larger, and smaller.
fn sized() -> Vec<Sent> {
    let kind = &KINDS[1];
    let of = |class: &str| {
        let name = format!("of-{class}");
        let claim = json!({
            "apiVersion": "v1", "kind": kind.kind, "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": { "requests": { "storage": "2Gi" } },
            },
        });
        let mut made = Sent::get(collection(kind));
        made.method = Method::POST;
        made.body = claim;
        let patched = ["3Gi", "1Gi"].map(|size| {
            let mut sent = Sent::get(format!("{}/{name}", collection(kind)));
            sent.method = Method::PATCH;
            sent.content_type = "application/merge-patch+json";
            sent.body = resized(size);
            sent
        });
        [made].into_iter().chain(patched)
    };
    ["grows", "fixed", "waits", "none"].into_iter().flat_map(of).collect()
}

/// What kind of change of a claim's size is asked for, if one is.
fn resize(sent: &Sent, stood: &Value) -> Option<&'static str> {
    let at = "/spec/resources/requests/storage";
    let asked = sent
        .body
        .pointer(at)
        .filter(|_| sent.method == Method::PATCH)?
        .as_str()?;
    match stood.pointer("/status/capacity/storage").and_then(Value::as_str) {
        Some(has) if asked > has => Some("larger"),
        Some(has) if asked < has => Some("smaller"),
        None if stood["status"]["phase"] == "Pending" && stood.pointer(at)? != asked => Some("not bound"),
        _ => None,
    }
}

/// What must agree of an object at rest.
fn stands(status: StatusCode, object: &Value) -> Value {
    let mut stands = told(status, object);
    if let Some(annotations) = stands["annotations"].as_object_mut() {
        annotations.remove("deployment.kubernetes.io/revision");
        // How a claim came to be bound.
        annotations.retain(|name, _| {
            !["pv.", "volume.", "volume.beta."].iter().any(|of| {
                name.strip_prefix(of)
                    .is_some_and(|rest| rest.starts_with("kubernetes.io/"))
            })
        });
        if annotations.is_empty() {
            stands["annotations"] = Value::Null;
        }
    }
    stands["said"] = said(object);
    stands["forbidden"] = if status == StatusCode::FORBIDDEN {
        object["message"].clone()
    } else {
        Value::Null
    };
    let spec = &object["spec"];
    stands["spec"] = json!({
        "replicas": spec["replicas"], "selector": spec["selector"], "maxUnavailable": spec["maxUnavailable"],
        "template": spec["template"]["metadata"]["labels"], "requests": spec["resources"]["requests"],
        "class": spec["storageClassName"], "mode": spec["volumeMode"], "has a volume": spec["volumeName"].is_string(),
    });
    stands
}

/// What an operator reads of the status of a Deployment, or of a claim.
fn said(object: &Value) -> Value {
    let status = &object["status"];
    if object["kind"] == "PersistentVolumeClaim" {
        return json!({ "phase": status["phase"], "capacity": status["capacity"] });
    }
    if object["kind"] != "Deployment" {
        return Value::Null;
    }
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

/// What the claims of a list say.
fn claims(list: &Value) -> Vec<Value> {
    let claims = list["items"].as_array().into_iter().flatten();
    let told = claims.map(|claim| {
        let metadata = &claim["metadata"];
        json!([
            metadata["name"],
            metadata["deletionTimestamp"].is_string(),
            claim["status"]["phase"],
            claim["status"]["capacity"]
        ])
    });
    told.collect()
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
    for class in classes() {
        let sent = Sent {
            method: Method::POST,
            body: class.clone(),
            ..Sent::get("/apis/storage.k8s.io/v1/storageclasses".to_owned())
        };
        assert_eq!(imagined(&mut server, &sent, &class).0, StatusCode::CREATED);
        assert_eq!(real(client, &sent, &class).await.0, StatusCode::CREATED);
    }
    let mut chance = Chance(11);
    let (ours, theirs) = (Side::new(), Side::new());
    let mut wrong = Vec::new();
    // How changes of the sizes of claims ended, by what they were of.
    let mut resizes = BTreeMap::new();
    // Pods are made by Deployments alone.
    let generated = (0..REQUESTS).map(|_| request(&KINDS[chance.below(3)], &mut chance));
    for (nth, sent) in sized().into_iter().chain(generated).enumerate() {
        let (_, stood) = imagined(&mut server, &Sent::get(sent.path.clone()), &Value::Null);
        let memory = imagined(&mut server, &sent, &ours.fill(&sent));
        if let Some(kind) = resize(&sent, &stood) {
            *resizes.entry((kind, memory.0.as_u16())).or_insert(0) += 1;
        }
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
        let all = |kind: &Kind| Sent {
            path: collection(kind),
            ..look.clone()
        };
        let (all_claims, all_pods) = (all(&KINDS[1]), all(&KINDS[3]));
        let mut memory = stands(status, &object);
        memory["pods"] = json!(pods(&imagined(&mut server, &all_pods, &Value::Null).1));
        memory["claims"] = json!(claims(&imagined(&mut server, &all_claims, &Value::Null).1));
        let began = Instant::now();
        loop {
            let (status, object) = real(client, &look, &Value::Null).await;
            let mut truth = stands(status, &object);
            truth["pods"] = json!(pods(&real(client, &all_pods, &Value::Null).await.1));
            truth["claims"] = json!(claims(&real(client, &all_claims, &Value::Null).await.1));
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
    for tried in [("larger", 200), ("larger", 403), ("smaller", 422), ("not bound", 422)] {
        assert!(resizes.contains_key(&tried), "{tried:?} is not among {resizes:?}");
    }
    wrong
}
