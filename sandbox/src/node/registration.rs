//! The Node object and its Lease.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as ApiNode, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::Options;
use crate::api_calls::{CallError, call};

/// How often the Lease is renewed; the node controller gives up a node after 50 seconds without news.
const RENEW: Duration = Duration::from_secs(10);

/// How soon a failed renewal is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a Lease holds.
const LEASE_SECONDS: i32 = 40;

/// How old the heartbeat in the Node's status may become.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// Keeps one Node registered.
pub(super) struct Registration {
    client: Client,
    name: String,
    node: Value,
    status: Value,
}

impl Registration {
    pub(super) fn new(client: Client, options: &Options, host: Ipv4Addr, port: u16) -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let name = options.name.clone();
        let labels = BTreeMap::from([
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]);
        let capacity = &options.capacity;
        let resources = json!({
            "pods": capacity.pods.to_string(),
            "cpu": capacity.cpu,
            "memory": capacity.memory,
            "ephemeral-storage": "1Ti",
        });
        let version = concat!("v1.37.2-sandbox.", env!("CARGO_PKG_VERSION"));
        let status = json!({
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": host}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": {
                "architecture": arch,
                "operatingSystem": "linux",
                "osImage": "cache-broker sandbox",
                "kubeletVersion": version,
                "kubeProxyVersion": "",
                "containerRuntimeVersion": concat!("process://", env!("CARGO_PKG_VERSION")),
                "kernelVersion": kernel(),
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        });
        Self {
            client,
            node: json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "spec": {},
            }),
            status,
            name,
        }
    }

    /// Makes the Node, or takes over one of the same name, and reports it Ready.
    pub(super) async fn register(&self) -> Result<(), CallError> {
        let nodes = Api::<ApiNode>::all(self.client.clone());
        let patch = Patch::Apply(&self.node);
        let params = PatchParams::apply("cache-broker-sandbox").force();
        call(
            format!("applying node {}", self.name),
            nodes.patch(&self.name, &params, &patch),
        )
        .await?;
        self.report(None).await?;
        // On a very young API server the Leases' namespace may not be there yet; the next renewal makes up for it.
        if let Err(error) = self.renew().await {
            tracing::debug!(%error, "the node's first lease");
        }
        Ok(())
    }

    /// Renews the Lease, and the Node's status when it is old or wrong, until it is dropped.
    pub(super) async fn keep_alive(self) {
        let mut wait = AGAIN;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.keep().await {
                Ok(()) => RENEW,
                Err(error) => {
                    tracing::debug!(%error, "keeping the node alive");
                    AGAIN
                }
            };
        }
    }

    async fn keep(&self) -> Result<(), CallError> {
        let nodes = Api::<ApiNode>::all(self.client.clone());
        let node = call(format!("reading node {}", self.name), nodes.get_opt(&self.name)).await?;
        match node {
            None => self.register().await?,
            Some(node) if !is_fresh(node.status.as_ref(), Timestamp::now()) => {
                self.report(node.status.as_ref()).await?;
            }
            Some(_) => {}
        }
        self.renew().await
    }

    async fn report(&self, previous: Option<&NodeStatus>) -> Result<(), CallError> {
        let mut status = self.status.clone();
        let now = Timestamp::now();
        let conditions = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("Ready", "True", "KubeletReady"),
        ]
        .map(|(type_, value, reason)| {
            let before = previous.iter().flat_map(|status| status.conditions.iter().flatten());
            let same = before.filter(|one| one.type_ == type_ && one.status == value);
            let since = same
                .filter_map(|one| one.last_transition_time.clone())
                .next()
                .unwrap_or(Time(now));
            json!({
                "type": type_, "status": value, "reason": reason, "message": "the sandbox's node is running",
                "lastHeartbeatTime": Time(now), "lastTransitionTime": since,
            })
        });
        if let Some(fields) = status.as_object_mut() {
            fields.insert("conditions".to_owned(), json!(conditions));
        }
        let nodes = Api::<ApiNode>::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": status}));
        let params = PatchParams::default();
        call(
            format!("writing the status of node {}", self.name),
            nodes.patch_status(&self.name, &params, &patch),
        )
        .await?;
        Ok(())
    }

    async fn renew(&self) -> Result<(), CallError> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
        let what = format!("renewing the lease of node {}", self.name);
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"spec": spec})));
        match call(what.clone(), leases.patch(&self.name, &params, &patch)).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
        let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name}, "spec": spec});
        let Ok(lease) = serde_json::from_value::<Lease>(body) else {
            return Ok(());
        };
        call(what, leases.create(&PostParams::default(), &lease))
            .await
            .map(drop)
    }
}

/// The node shows as Ready, and has said so not too long ago.
fn is_fresh(status: Option<&NodeStatus>, now: Timestamp) -> bool {
    let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|one| {
        let heartbeat = one
            .last_heartbeat_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |Time(at)| *at);
        let young = now <= heartbeat.checked_add(HEARTBEAT).unwrap_or(heartbeat);
        one.type_ == "Ready" && one.status == "True" && young
    })
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}
