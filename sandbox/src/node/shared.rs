//! What all pods of a node share: its clients, its settings, and the register of what runs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};

use super::image::Programs;
use super::pod::Backoff;
use crate::address::Addresses;
use crate::supervisor::Supervisor;

/// An event is not worth more time than this.
const EVENT: Duration = Duration::from_secs(5);

pub(super) struct Shared {
    pub(super) name: String,
    pub(super) host: Ipv4Addr,
    pub(super) client: Client,
    pub(super) supervisor: Supervisor,
    pub(super) programs: Programs,
    pub(super) backoff: Backoff,
    pub(super) recorder: Recorder,
    pub(super) registry: Registry,
}

impl Shared {
    /// Records an event about a pod; one that cannot be recorded is not missed.
    pub(super) async fn event(&self, pod: &Pod, kind: EventType, reason: &str, note: String) {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: reason.to_owned(),
            secondary: None,
        };
        let regarding = pod.object_ref(&());
        let published = self.recorder.publish(&event, &regarding);
        match tokio::time::timeout(EVENT, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "recording an event"),
            Err(_) => tracing::debug!("recording an event took too long"),
        }
    }
}

/// A container's process on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProcess {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The process id, which is also the id of its process group.
    pub pid: u32,
}

/// A container's runs: the process of the current one, and the logs of all.
#[derive(Clone, Debug, Default)]
struct Runs {
    pid: Option<u32>,
    logs: Vec<PathBuf>,
}

#[derive(Clone, Debug)]
struct Entry {
    uid: Option<String>,
    address: Ipv4Addr,
    containers: BTreeMap<String, Runs>,
}

/// What runs on a node.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<BTreeMap<(String, String), Entry>>);

/// The log of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    /// Which run it is of.
    pub(super) run: usize,
}

fn key(pod: &Pod) -> (String, String) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address that no pod of this node has: the sandbox's addresses come round again.
    pub(super) fn free(&self, addresses: &Addresses) -> Ipv4Addr {
        let all = self.lock();
        loop {
            let address = addresses.next_pod();
            if !all.values().any(|entry| entry.address == address) {
                return address;
            }
        }
    }

    pub(super) fn add(&self, pod: &Pod, address: Ipv4Addr) {
        let entry = Entry {
            uid: pod.metadata.uid.clone(),
            address,
            containers: BTreeMap::new(),
        };
        self.lock().insert(key(pod), entry);
    }

    /// Forgets a pod, unless another one has taken its name.
    pub(super) fn remove(&self, pod: &Pod) {
        let mut all = self.lock();
        if all.get(&key(pod)).is_some_and(|entry| entry.uid == pod.metadata.uid) {
            all.remove(&key(pod));
        }
    }

    fn change(&self, pod: &Pod, container: &str, change: impl FnOnce(&mut Runs)) {
        let mut all = self.lock();
        if let Some(entry) = all.get_mut(&key(pod)).filter(|entry| entry.uid == pod.metadata.uid) {
            change(entry.containers.entry(container.to_owned()).or_default());
        }
    }

    pub(super) fn started(&self, pod: &Pod, container: &str, pid: u32, log: PathBuf) {
        self.change(pod, container, |runs| {
            runs.pid = Some(pid);
            runs.logs.push(log);
        });
    }

    pub(super) fn ended(&self, pod: &Pod, container: &str) {
        self.change(pod, container, |runs| runs.pid = None);
    }

    pub(super) fn processes(&self) -> Vec<PodProcess> {
        let all = self.lock();
        let each = all.iter().flat_map(|((namespace, pod), entry)| {
            entry.containers.iter().filter_map(|(container, runs)| {
                Some(PodProcess {
                    namespace: namespace.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    address: entry.address,
                    pid: runs.pid?,
                })
            })
        });
        each.collect()
    }

    /// The log of a container's last run, or of the one before.
    pub(super) fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogFile, String> {
        let all = self.lock();
        let entry = all.get(&(namespace.to_owned(), pod.to_owned()));
        let entry = entry.ok_or_else(|| format!("pod {namespace}/{pod} does not run on this node"))?;
        let runs = entry.containers.get(container);
        let runs = runs.ok_or_else(|| format!("container {container} of pod {namespace}/{pod} has not run yet"))?;
        let run = runs.logs.len().checked_sub(if previous { 2 } else { 1 });
        let found = run.and_then(|run| Some((run, runs.logs.get(run)?)));
        let (run, path) =
            found.ok_or_else(|| format!("container {container} of pod {namespace}/{pod} has no earlier run"))?;
        Ok(LogFile {
            path: path.clone(),
            run,
        })
    }

    /// Whether a run may still write to its log.
    pub(super) fn is_running(&self, namespace: &str, pod: &str, container: &str, run: usize) -> bool {
        let all = self.lock();
        let runs = all
            .get(&(namespace.to_owned(), pod.to_owned()))
            .and_then(|entry| entry.containers.get(container));
        runs.is_some_and(|runs| runs.pid.is_some() && runs.logs.len() == run + 1)
    }
}
