//! A Deployment of a node as it stands, and what its Pods say.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::observed::{Observed, is_of};
use crate::api::annotations;
use crate::api::labels::NODE;

/// How much of somebody else's message is passed on, in characters.
const QUOTED: usize = 500;

/// A Deployment of a node.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Its name.
    pub name: &'a str,
    live: &'a Deployment,
    pods: &'a BTreeMap<String, Arc<Pod>>,
}

/// The Deployments that belong to the owner with a uid, by node. Those of version 0.1 are named like theirs.
pub fn workloads<'a>(observed: &'a Observed, uid: &str) -> BTreeMap<&'a str, Vec<Workload<'a>>> {
    let mut of_nodes: BTreeMap<&str, Vec<Workload<'_>>> = BTreeMap::new();
    for (name, live) in &observed.deployments {
        if !is_of(uid, &live.metadata) {
            continue;
        }
        let node = live.metadata.labels.as_ref().and_then(|labels| labels.get(NODE));
        of_nodes.entry(node.unwrap_or(name)).or_default().push(Workload {
            name,
            live,
            pods: &observed.pods,
        });
    }
    of_nodes
}

impl<'a> Workload<'a> {
    /// The Deployment.
    pub fn live(&self) -> &'a Deployment {
        self.live
    }

    fn annotation(&self, name: &str) -> Option<&'a str> {
        Some(self.live.metadata.annotations.as_ref()?.get(name)?.as_str())
    }

    /// The version of the rendering that it was made by; `None` if that was version 0.1 of the operator.
    pub fn template(&self) -> Option<&'a str> {
        self.annotation(annotations::TEMPLATE)
    }

    /// The `restartAt` that it was made after.
    pub fn restarted_at(&self) -> Option<Timestamp> {
        self.annotation(annotations::RESTARTED_AT)?.parse().ok()
    }

    /// Whether it only tries if a Pod starts.
    pub fn is_trial(&self) -> bool {
        self.annotation(annotations::TRIAL).is_some()
    }

    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.live.metadata.deletion_timestamp.is_some()
    }

    /// The labels that tell its Pods from others.
    pub fn selector(&self) -> BTreeMap<String, String> {
        let selector = self.live.spec.as_ref().map(|spec| &spec.selector);
        selector
            .and_then(|selector| selector.match_labels.clone())
            .unwrap_or_default()
    }

    /// The port that its Pods say they answer at.
    pub fn port(&self) -> Option<u16> {
        let pod = self.live.spec.as_ref()?.template.spec.as_ref()?;
        let ports = pod.containers.first()?.ports.as_ref()?;
        u16::try_from(ports.first()?.container_port).ok()
    }

    /// Whether it is to have one Pod.
    pub fn has_one_replica(&self) -> bool {
        self.live.spec.as_ref().is_some_and(|spec| spec.replicas == Some(1))
    }

    /// Whether a Pod of it, as it is to be now, answers.
    pub fn is_available(&self) -> bool {
        let Some(status) = &self.live.status else { return false };
        !self.is_deleting()
            && status.observed_generation >= self.live.metadata.generation
            && status.updated_replicas.unwrap_or(0) >= 1
            && status.replicas == status.updated_replicas
            && status.available_replicas.unwrap_or(0) >= 1
    }

    /// Whether a Pod of it ever answered.
    pub fn was_available(&self) -> bool {
        self.is_available()
            || self
                .condition("Progressing")
                .is_some_and(|(_, reason, _)| reason == Some("NewReplicaSetAvailable"))
    }

    fn condition(&self, type_: &str) -> Option<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let mut conditions = self.live.status.as_ref()?.conditions.iter().flatten();
        let found = conditions.find(|condition| condition.type_ == type_)?;
        Some((&found.status, found.reason.as_deref(), found.message.as_deref()))
    }

    /// Whether its Pods use a claim.
    pub fn uses(&self, claim: &str) -> bool {
        let template = self.live.spec.as_ref().map(|spec| &spec.template);
        let pod = template.and_then(|template| template.spec.as_ref());
        let mut volumes = pod.and_then(|pod| pod.volumes.as_ref()).into_iter().flatten();
        volumes.any(|volume| {
            let of = volume.persistent_volume_claim.as_ref();
            of.is_some_and(|of| of.claim_name == claim)
        })
    }

    /// The names of its Pods.
    pub fn pod_names(&self) -> Vec<String> {
        self.own_pods().filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    fn own_pods(&self) -> impl Iterator<Item = &'a Pod> {
        let selector = self.selector();
        self.pods.values().map(Arc::as_ref).filter(move |pod| {
            let labels = pod.metadata.labels.as_ref();
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
        })
    }

    /// Whether a Pod of it may hold data: it answers, or a container of it runs.
    pub fn holds_data(&self) -> bool {
        let runs = |pod: &Pod| {
            let statuses = pod
                .status
                .iter()
                .flat_map(|status| &status.container_statuses)
                .flatten();
            let mut states = statuses.filter_map(|status| status.state.as_ref());
            states.any(|state| state.running.is_some())
        };
        self.is_available() || self.own_pods().any(runs)
    }

    /// Why no Pod of it starts, and what can be done; `None` if nothing is known to be in the way.
    pub fn trouble(&self) -> Option<String> {
        if let Some(("True", _, message)) = self.condition("ReplicaFailure") {
            return Some(format!(
                "Kubernetes refuses its Pod: {}: raise the quota of the namespace, or correct the plan",
                quote(message.unwrap_or_default())
            ));
        }
        let newest = self
            .own_pods()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        if let Some(trouble) = newest.and_then(trouble_of) {
            return Some(trouble);
        }
        match self.condition("Progressing") {
            Some(("False", _, message)) => Some(format!(
                "{}: see kubectl describe deployment {}",
                quote(message.unwrap_or_default()),
                self.name
            )),
            _ => None,
        }
    }
}

/// Whether a Pod that is none of a workload's still uses a claim.
pub fn in_use(observed: &Observed, claim: &str, except: &BTreeMap<String, String>) -> bool {
    observed.pods.values().any(|pod| {
        let labels = pod.metadata.labels.as_ref();
        let excepted = except
            .iter()
            .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
        let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(ended, Some("Succeeded" | "Failed"));
        let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        !excepted && !ended && claims.any(|of| of.claim_name == claim)
    })
}

fn quote(message: &str) -> String {
    let quoted: String = message.chars().take(QUOTED).collect();
    quoted.trim().trim_end_matches('.').to_owned()
}

fn trouble_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    if let Some(unscheduled) =
        conditions.find(|one| one.type_ == "PodScheduled" && one.status == "False" && one.message.is_some())
    {
        return Some(format!(
            "no machine takes its Pod: {}: ask for less memory and cpu, correct the plan's placement, or add machines",
            quote(unscheduled.message.as_deref().unwrap_or_default())
        ));
    }
    let container = status.container_statuses.as_ref()?.first()?;
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let message = waiting
        .and_then(|waiting| waiting.message.as_deref())
        .unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            // While it waits before the next try, the kubelet puts the cause behind this.
            let cause = message.split_once("ErrImagePull: ").map_or(message, |(_, cause)| cause);
            return Some(format!(
                "its image {} cannot be pulled: {}: correct the image or the engine version of the plan",
                container.image,
                quote(cause)
            ));
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError" => {
            return Some(format!(
                "its container cannot be started: {}: correct the image of the plan",
                quote(message)
            ));
        }
        _ => {}
    }
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let now = state.and_then(|state| state.terminated.as_ref());
    let ended = now.or(last.filter(|_| !container.ready))?;
    Some(ended_so(pod, ended))
}

fn ended_so(pod: &Pod, ended: &ContainerStateTerminated) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if ended.reason.as_deref() == Some("OOMKilled") {
        "it was killed for want of memory: give the plan more memory".to_owned()
    } else {
        format!(
            "it ended with exit code {}: see kubectl logs {name} --previous, and correct the image of the plan",
            ended.exit_code
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn observed(status: &Value, pods: &[Value]) -> Observed {
        let deployment = json!({
            "metadata": { "name": "i-1", "generation": 2, "labels": { NODE: "i" }, "ownerReferences": [
                { "apiVersion": "v", "kind": "k", "name": "i", "uid": "u" },
            ] },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "a": "b" } }, "template": {} },
            "status": status,
        });
        let pods = pods.iter().enumerate().map(|(index, status)| {
            let pod = json!({ "metadata": { "name": format!("p{index}"), "labels": { "a": "b", "c": "d" } }, "status": status });
            (format!("p{index}"), Arc::new(serde_json::from_value(pod).unwrap()))
        });
        Observed {
            pods: pods.collect(),
            deployments: [("i-1".to_owned(), Arc::new(serde_json::from_value(deployment).unwrap()))].into(),
            ..Observed::default()
        }
    }

    fn trouble(status: &Value, pods: &[Value]) -> Option<String> {
        let observed = observed(status, pods);
        workloads(&observed, "u")["i"][0].trouble()
    }

    fn container(state: &Value, last: &Value, ready: bool) -> Value {
        json!({ "containerStatuses": [{
            "name": "c", "image": "redis:9", "imageID": "", "ready": ready, "restartCount": 0, "state": state, "lastState": last,
        }] })
    }

    #[test]
    fn what_keeps_a_pod_from_starting_is_found() {
        let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
        let ended = |reason: &str, code: i32| json!({ "terminated": { "reason": reason, "exitCode": code } });
        let none = json!({});
        let quota = json!({ "conditions": [{ "type": "ReplicaFailure", "status": "True", "message": "pods \"x\" is forbidden: exceeded quota: q" }] });
        let late = json!({ "conditions": [{ "type": "Progressing", "status": "False", "message": "it timed out." }] });
        let nowhere = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory." }] });
        let pulled = "Back-off pulling image \"redis:9\": ErrImagePull: not found";
        for (status, pod, part) in [
            (&quota, None, Some("exceeded quota: q: raise the quota")),
            (&none, Some(nowhere), Some("1 Insufficient memory: ask for less memory")),
            (
                &none,
                Some(container(&waiting("ErrImagePull", "not found"), &none, false)),
                Some("its image redis:9 cannot be pulled: not found: correct the image"),
            ),
            (
                &none,
                Some(container(&waiting("ImagePullBackOff", pulled), &none, false)),
                Some("its image redis:9 cannot be pulled: not found: correct the image"),
            ),
            (
                &none,
                Some(container(
                    &waiting("CreateContainerConfigError", "no user"),
                    &none,
                    false,
                )),
                Some("no user"),
            ),
            (
                &none,
                Some(container(
                    &waiting("CrashLoopBackOff", "back-off"),
                    &ended("OOMKilled", 137),
                    false,
                )),
                Some("want of memory: give the plan more memory"),
            ),
            (
                &none,
                Some(container(&json!({ "running": {} }), &ended("Error", 3), false)),
                Some("exit code 3: see kubectl logs p0"),
            ),
            (
                &none,
                Some(container(&ended("Error", 1), &none, false)),
                Some("exit code 1"),
            ),
            (
                &none,
                Some(container(&json!({ "running": {} }), &ended("Error", 3), true)),
                None,
            ),
            (
                &none,
                Some(container(&waiting("ContainerCreating", ""), &none, false)),
                None,
            ),
            (&late, None, Some("it timed out: see kubectl describe deployment i-1")),
            (&none, None, None),
        ] {
            let pods: Vec<_> = pod.into_iter().collect();
            let found = trouble(status, &pods);
            assert_eq!(found.is_some(), part.is_some(), "{pods:?}: {found:?}");
            assert!(
                found.as_deref().unwrap_or_default().contains(part.unwrap_or_default()),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_deployment_is_available_when_it_is_so_as_it_is_to_be_now() {
        for (status, available) in [
            (
                json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 }),
                true,
            ),
            (
                json!({ "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 }),
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1 }),
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1 }),
                false,
            ),
            (json!({}), false),
        ] {
            let observed = observed(&status, &[]);
            assert_eq!(workloads(&observed, "u")["i"][0].is_available(), available, "{status}");
        }
        assert!(workloads(&observed(&json!({}), &[]), "another").is_empty());
    }
}
