//! What the cluster's own controllers and kubelets do: Deployments get Pods, Pods answer or do not, what is owned by
//! nobody goes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api_server::{ApiServer, FOREGROUND};
use super::apply::Managers;
use super::claims::IN_USE;
use super::object::{Key, Stored, finalizers, hold, is_deleting, members, meta, meta_mut, meta_text, owners, time};

/// Something that a controller is about to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The garbage collector deletes what has no owner any more.
    Collect(Key),
    /// It lets go of what is deleted in the foreground, or deletes its dependents.
    Foreground(Key),
    /// A claim gets its volume.
    Bind(Key),
    /// The volume of a claim becomes as large as it is asked for.
    Grow(Key),
    /// A claim is held as long as it may be used.
    Hold(Key),
    /// A claim that no Pod uses is let go.
    LetGo(Key),
    /// A Deployment gets its Pods, or loses surplus ones.
    Scale(Key),
    /// A kubelet starts a Pod.
    Start(Key),
    /// A kubelet has ended a Pod.
    End(Key),
    /// A Deployment's status says how its Pods are.
    Report(Key),
}

impl Work {
    /// The object that it is done to.
    pub fn key(&self) -> &Key {
        let (Self::Collect(key)
        | Self::Foreground(key)
        | Self::Bind(key)
        | Self::Grow(key)
        | Self::Hold(key)
        | Self::LetGo(key)
        | Self::Scale(key)
        | Self::Start(key)
        | Self::End(key)
        | Self::Report(key)) = self;
        key
    }
}

/// The label of a Pod that says which template it is of.
const HASH: &str = "pod-template-hash";
/// Images whose name has this in it cannot be pulled.
const BROKEN: &str = "broken";

impl ApiServer {
    /// What there is to do.
    pub fn work(&self) -> Vec<Work> {
        let mut work = Vec::new();
        for (key, stored) in &self.objects {
            let object = &stored.value;
            let has_owners = owners(object).next().is_some();
            if has_owners && !is_deleting(object) && !owners(object).any(|owner| self.stands(owner)) {
                work.push(Work::Collect(key.clone()));
            }
            if finalizers(object).contains(&FOREGROUND) {
                let dependents = self.dependents(meta_text(object, "uid"));
                let standing = dependents.iter().any(|key| !self.is_going(key));
                if standing || dependents.is_empty() {
                    work.push(Work::Foreground(key.clone()));
                }
            }
            match key.plural {
                "deployments" => {
                    let unlike = self.pods_of(object).len() != wanted(object) || self.outdated(object).is_some();
                    if unlike && !is_deleting(object) {
                        work.push(Work::Scale(key.clone()));
                    } else if object.get("status") != Some(&self.status_of(object)) {
                        work.push(Work::Report(key.clone()));
                    }
                }
                "persistentvolumeclaims" if !is_deleting(object) && !finalizers(object).contains(&IN_USE) => {
                    work.push(Work::Hold(key.clone()));
                }
                "persistentvolumeclaims"
                    if is_deleting(object) && finalizers(object).contains(&IN_USE) && !self.is_used(key) =>
                {
                    work.push(Work::LetGo(key.clone()));
                }
                "persistentvolumeclaims" if !is_deleting(object) => work.extend(self.work_on_claim(key, object)),
                "pods" if is_deleting(object) => work.push(Work::End(key.clone())),
                "pods" if object.pointer("/status/podIP").is_none() && self.has_volumes(key, object) => {
                    work.push(Work::Start(key.clone()));
                }
                _ => {}
            }
        }
        work
    }

    /// Does one thing.
    pub fn perform(&mut self, work: &Work, now: Timestamp) {
        let key = work.key();
        let Some(mut stored) = self.objects.get(key).cloned() else {
            return;
        };
        match work {
            Work::Collect(_) => self.put_up_for_deletion(key, now),
            Work::Foreground(_) => {
                let dependents = self.dependents(meta_text(&stored.value, "uid"));
                if dependents.is_empty() {
                    self.let_go(key, stored, FOREGROUND);
                }
                for dependent in dependents {
                    self.put_up_for_deletion(&dependent, now);
                }
            }
            Work::Hold(_) => {
                hold(&mut stored.value, IN_USE);
                self.put(key.clone(), stored);
            }
            Work::Bind(_) => self.bind(key, stored),
            Work::Grow(_) => self.grow(key, stored),
            Work::LetGo(_) => self.let_go(key, stored, IN_USE),
            Work::Scale(_) => self.scale(key, &stored.value, now),
            Work::Start(_) => {
                start(&mut stored.value, self.revision(), now);
                self.put(key.clone(), stored);
            }
            Work::End(_) => drop(self.remove(key)),
            Work::Report(_) => {
                let status = self.status_of(&stored.value);
                members(&mut stored.value).insert("status".to_owned(), status);
                self.put(key.clone(), stored);
            }
        }
    }

    /// Takes a finalizer off what is being deleted.
    fn let_go(&mut self, key: &Key, mut stored: Stored, finalizer: &str) {
        let held: Vec<_> = finalizers(&stored.value)
            .into_iter()
            .filter(|held| *held != finalizer)
            .map(str::to_owned)
            .collect();
        if held.is_empty() {
            self.remove(key);
        } else {
            meta_mut(&mut stored.value).insert("finalizers".to_owned(), json!(held));
            self.put(key.clone(), stored);
        }
    }

    fn stands(&self, owner: &Value) -> bool {
        let uid = owner.get("uid").and_then(Value::as_str);
        self.objects
            .values()
            .any(|stored| Some(meta_text(&stored.value, "uid")) == uid)
    }

    fn is_going(&self, key: &Key) -> bool {
        self.objects.get(key).is_none_or(|stored| is_deleting(&stored.value))
    }

    fn put_up_for_deletion(&mut self, key: &Key, now: Timestamp) {
        let Some(mut stored) = self.objects.get(key).cloned() else {
            return;
        };
        if is_deleting(&stored.value) {
            return;
        }
        let generation = self.kind(key).is_some_and(|kind| kind.generation);
        if key.plural != "pods" && finalizers(&stored.value).is_empty() {
            self.remove(key);
            return;
        }
        let old = meta(&stored.value, "generation").and_then(Value::as_i64).unwrap_or(0);
        let metadata = meta_mut(&mut stored.value);
        metadata.insert("deletionTimestamp".to_owned(), time(now));
        if generation {
            metadata.insert("generation".to_owned(), json!(old + 1));
        }
        self.put(key.clone(), stored);
    }

    fn pods_of(&self, deployment: &Value) -> Vec<(&Key, &Stored)> {
        let uid = meta_text(deployment, "uid");
        let own =
            |stored: &Stored| owners(&stored.value).any(|owner| owner.get("uid").and_then(Value::as_str) == Some(uid));
        self.objects
            .iter()
            .filter(|(key, stored)| key.plural == "pods" && own(stored) && !is_deleting(&stored.value))
            .collect()
    }

    /// A Pod of a Deployment that is not as it is to be now.
    fn outdated(&self, deployment: &Value) -> Option<Key> {
        let hash = json!(template_hash(deployment));
        let mut pods = self.pods_of(deployment).into_iter();
        let found =
            pods.find(|(_, stored)| meta(&stored.value, "labels").and_then(|labels| labels.get(HASH)) != Some(&hash));
        found.map(|(key, _)| key.clone())
    }

    fn scale(&mut self, key: &Key, deployment: &Value, now: Timestamp) {
        // As with the strategy Recreate, the old ones go first.
        if let Some(outdated) = self.outdated(deployment) {
            self.put_up_for_deletion(&outdated, now);
            return;
        }
        let pods: Vec<_> = self
            .pods_of(deployment)
            .into_iter()
            .map(|(key, _)| key.clone())
            .collect();
        if let Some(surplus) = pods.get(wanted(deployment)) {
            let surplus = surplus.clone();
            self.put_up_for_deletion(&surplus, now);
            return;
        }
        let nth = (0..)
            .find(|nth| !self.objects.contains_key(&pod(key, *nth)))
            .unwrap_or(0);
        let key = pod(key, nth);
        let template = deployment.pointer("/spec/template");
        let labels = template.and_then(|template| template.pointer("/metadata/labels"));
        let mut labels = labels.cloned().unwrap_or_default();
        members(&mut labels).insert(HASH.to_owned(), json!(template_hash(deployment)));
        let made = self.revision();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": key.name, "namespace": key.namespace, "labels": labels,
                "uid": uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{}#{made}", key.name).as_bytes()).to_string(),
                "creationTimestamp": time(now),
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": meta_text(deployment, "name"),
                    "uid": meta_text(deployment, "uid"), "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": template.and_then(|template| template.get("spec")).cloned().unwrap_or_default(),
            "status": { "phase": "Pending" },
        });
        let stored = Stored {
            value: object,
            managers: Managers::default(),
        };
        self.put(key, stored);
    }

    /// What a Deployment's controller says of it.
    fn status_of(&self, deployment: &Value) -> Value {
        let pods = self.pods_of(deployment);
        let ready = pods.iter().filter(|(_, stored)| answers(&stored.value)).count();
        // Once all Pods of a template have answered it stays said, whatever becomes of them.
        let of = format!(
            "ReplicaSet \"{}-{}\"",
            meta_text(deployment, "name"),
            template_hash(deployment)
        );
        let came = format!("{of} has successfully progressed.");
        let before = deployment.pointer("/status/conditions/0/message") == Some(&json!(came));
        let (reason, message) = if before || ready == wanted(deployment) {
            ("NewReplicaSetAvailable", came)
        } else {
            ("ReplicaSetUpdated", format!("{of} is progressing."))
        };
        let mut status = json!({
            "observedGeneration": meta(deployment, "generation"),
            "conditions": [{ "type": "Progressing", "status": "True", "reason": reason, "message": message }],
        });
        // Of one that is being deleted only the Pods are counted.
        if let Some(conditions) = deployment
            .pointer("/status/conditions")
            .filter(|_| is_deleting(deployment))
        {
            members(&mut status).insert("conditions".to_owned(), conditions.clone());
        }
        for (name, count) in [
            ("replicas", pods.len()),
            ("updatedReplicas", pods.len()),
            ("availableReplicas", ready),
            ("readyReplicas", ready),
        ] {
            // What is none is not said.
            if count > 0 {
                members(&mut status).insert(name.to_owned(), json!(count));
            }
        }
        status
    }
}

/// What tells the Pods of one template from those of another.
fn template_hash(deployment: &Value) -> String {
    let template = deployment.pointer("/spec/template").unwrap_or(&Value::Null).to_string();
    let mut hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, template.as_bytes())
        .simple()
        .to_string();
    hash.truncate(10);
    hash
}

fn pod(deployment: &Key, nth: usize) -> Key {
    Key {
        plural: "pods",
        namespace: deployment.namespace.clone(),
        name: format!("{}-{nth}", deployment.name),
    }
}

fn wanted(deployment: &Value) -> usize {
    let replicas = deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    usize::try_from(replicas).unwrap_or(usize::MAX)
}

fn answers(pod: &Value) -> bool {
    pod.pointer("/status/containerStatuses/0/ready") == Some(&json!(true))
}

fn start(pod: &mut Value, revision: usize, now: Timestamp) {
    let image = pod
        .pointer("/spec/containers/0/image")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let name = pod
        .pointer("/spec/containers/0/name")
        .cloned()
        .unwrap_or_else(|| json!("c"));
    let ready = !image.contains(BROKEN);
    let state = if ready {
        json!({ "running": { "startedAt": time(now) } })
    } else {
        json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } })
    };
    let status = json!({
        "phase": if ready { "Running" } else { "Pending" },
        "podIP": format!("10.244.{}.{}", revision / 256 % 256, revision % 256),
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        "containerStatuses": [{
            "name": name, "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state,
        }],
    });
    members(pod).insert("status".to_owned(), status);
}
