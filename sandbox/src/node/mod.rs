//! A Node whose pods are processes of this machine.
//!
//! It does what a kubelet does, with an address of the loopback range in the place of a network namespace and a folder
//! in the place of a file system: init containers, sidecars and containers in their order, restarts with backoff, probes,
//! volumes and environments from Secrets, ConfigMaps and the downward API, graceful ends, statuses, events and logs.
//! PersistentVolumeClaims get a folder that outlives pods. So a Deployment becomes available because something answers.
//!
//! What it cannot be is a container runtime:
//!
//! - An image stands for a program of this machine (`memcached`; `redis` and `valkey` for `redis-server`; `cache-broker`
//!   for the one in the options); any other cannot be pulled. The tag chooses nothing.
//! - There is no file system of the pod's own. Paths below a `mountPath` are rewritten to the volume's folder in command
//!   lines, variables, probes and files named `*.conf`; a path that a program makes up itself is not.
//! - There is no network of the pod's own. `0.0.0.0`, `127.0.0.1` and `localhost` are rewritten to the pod's address in
//!   command lines, variables and probes; servers and clients that are given no address get it added (a `bind` in a
//!   configuration file gives way to it); `POD_IP` holds it.
//! - Processes run as an unprivileged user whatever `securityContext` says, inherit the sandbox's environment, and share
//!   the machine's CPU. A memory limit is enforced by looking twice a second and killing (`OOMKilled`).
//! - Files of Secrets and ConfigMaps follow their source within 20 seconds; keys that are taken away stay as files.
//! - Names of Services (`NAME.NAMESPACE.svc`) are rewritten to their ClusterIP in command lines; there is no other DNS, no `kubectl exec`, no `postStart`, and no gRPC probe.

mod claims;
mod container;
mod image;
mod kubelet_api;
mod launch;
mod pod;
mod probes;
mod registration;
mod runner;
mod shared;
mod simulated;
mod status;
mod volumes;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::address::Addresses;
use crate::api_calls;
use crate::control_plane::API_SERVER_PORT;
use crate::supervisor::Supervisor;
pub use pod::Backoff;
pub use shared::PodProcess;
use shared::{Registry, Shared};

/// What stands behind the pods of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// A process for each container.
    Processes,
    /// Nothing: a pod is Running and Ready after `delay`, and gone as soon as it is deleted. For tests of scale.
    Simulated {
        /// How long a pod takes to become Ready.
        delay: Duration,
        /// How many statuses are written at one time.
        writes: usize,
    },
}

impl Pods {
    /// Simulated pods that are Ready after half a second.
    pub fn simulated() -> Self {
        Self::Simulated {
            delay: Duration::from_millis(500),
            writes: 16,
        }
    }
}

/// What a node says it has room for; nothing is held back for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How many pods.
    pub pods: u32,
    /// CPU, as a Kubernetes quantity.
    pub cpu: String,
    /// Memory, as a Kubernetes quantity.
    pub memory: String,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            pods: 1000,
            cpu: "1000".to_owned(),
            memory: "1Ti".to_owned(),
        }
    }
}

/// How a [`Node`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name in the cluster.
    pub name: String,
    /// What its pods are.
    pub pods: Pods,
    /// What it says it has room for.
    pub capacity: Capacity,
    /// How long a crashed container waits.
    pub backoff: Backoff,
    /// The program that the image `cache-broker` stands for, if any.
    pub broker: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "sandbox".to_owned(),
            pods: Pods::Processes,
            capacity: Capacity::default(),
            backoff: Backoff::default(),
            broker: None,
        }
    }
}

/// Why a [`Node`] could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Node object could not be written.
    #[error("registering node {node}: {message}; the sandbox's API server must be up and the client an administrator")]
    Register {
        /// The node.
        node: String,
        /// What went wrong.
        message: String,
    },
    /// The address for `kubectl logs` is not to be had.
    #[error("listening on {address} for the API of node {node}: {source}")]
    Listen {
        /// The node.
        node: String,
        /// The address.
        address: Ipv4Addr,
        /// The system's error.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("making a certificate for the API of node {node}: {message}")]
    Certificate {
        /// The node.
        node: String,
        /// What went wrong.
        message: String,
    },
    /// The folder of programs could not be written.
    #[error("writing the programs of node {node} below {}: {source}", .dir.display())]
    Programs {
        /// The node.
        node: String,
        /// The sandbox's folder.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A running node. Dropping it kills its processes; [`Node::stop`] also waits for their end.
pub struct Node {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Node {
    /// Registers the node and starts to run the pods that are given to it.
    ///
    /// # Errors
    /// When it cannot be registered, or its folder, certificate or port is not to be had.
    pub async fn start(
        client: Client,
        supervisor: &Supervisor,
        addresses: &Addresses,
        options: Options,
    ) -> Result<Self, Error> {
        let node = options.name.clone();
        let host = addresses.control_plane();
        let programs = image::Programs::install(supervisor.dir().join("nodes").join(&node).join("bin"));
        let unwritable = |source| Error::Programs {
            node: node.clone(),
            dir: supervisor.dir().to_owned(),
            source,
        };
        let programs = programs.map_err(unwritable)?;
        if let Some(broker) = &options.broker {
            let api_server = format!("https://{host}:{API_SERVER_PORT}");
            programs.install_broker(broker, &api_server).map_err(unwritable)?;
        }
        let listening = kubelet_api::listen(host).await;
        let (listener, port) = listening.map_err(|source| Error::Listen {
            node: node.clone(),
            address: host,
            source,
        })?;
        let acceptor = kubelet_api::tls(host, &node).map_err(|message| Error::Certificate {
            node: node.clone(),
            message,
        })?;
        let registration = registration::Registration::new(client.clone(), &options, host, port);
        registration.register().await.map_err(|error| Error::Register {
            node: node.clone(),
            message: error.to_string(),
        })?;
        let reporter = Reporter {
            controller: "cache-broker-sandbox/node".to_owned(),
            instance: Some(node.clone()),
        };
        let shared = Arc::new(Shared {
            name: node,
            host,
            supervisor: supervisor.clone(),
            programs,
            backoff: options.backoff,
            recorder: Recorder::new(client.clone(), reporter),
            registry: Registry::default(),
            client,
        });
        let (stop, stopped) = oneshot::channel();
        let mut aside = JoinSet::new();
        aside.spawn(kubelet_api::serve(listener, acceptor, shared.clone()));
        aside.spawn(registration.keep_alive());
        aside.spawn(claims::serve(shared.clone()));
        let (with, addresses) = (shared.clone(), addresses.clone());
        let task = tokio::spawn(async move {
            let _aside = aside;
            match options.pods {
                Pods::Processes => processes(with, addresses, stopped).await,
                Pods::Simulated { delay, writes } => {
                    tokio::select! {
                        () = simulated::run(with, addresses, delay, writes) => {}
                        _ = stopped => {}
                    }
                }
            }
        });
        Ok(Self {
            shared,
            stop: Some(stop),
            task: Some(task),
        })
    }

    /// The node's name in the cluster.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The processes that run now, by pod and container.
    pub fn processes(&self) -> Vec<PodProcess> {
        self.shared.registry.processes()
    }

    /// Kills all processes of the node and waits for their end. Its Node object and pods stay in the API, as those of a
    /// machine that lost its power do.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(mut task) = self.task.take()
            && let Err(error) = (&mut task).await
        {
            tracing::warn!(%error, node = %self.shared.name, "a node's task failed");
        }
    }
}

/// The pods of one node, as a watch tells of them.
fn own_pods(shared: &Shared) -> impl futures::Stream<Item = watcher::Event<Pod>> + Send + use<> {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.name));
    api_calls::watch(Api::<Pod>::all(shared.client.clone()), config)
}

type Inboxes = HashMap<String, watch::Sender<Option<Arc<Pod>>>>;

/// Gives every pod a worker, and every worker the news of its pod.
async fn processes(shared: Arc<Shared>, addresses: Addresses, mut stopped: oneshot::Receiver<()>) {
    let mut events = std::pin::pin!(own_pods(&shared));
    let mut inboxes = Inboxes::new();
    let mut workers = JoinSet::new();
    let mut listed: Option<Vec<String>> = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(ended) = workers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a pod's worker failed");
                }
                continue;
            }
            // Stopped, or dropped: the workers are told by the end of their inboxes.
            _ = &mut stopped => break,
        };
        match event {
            None => break,
            Some(watcher::Event::Init) => listed = Some(Vec::new()),
            Some(watcher::Event::InitDone) => {
                if let Some(listed) = listed.take() {
                    inboxes.retain(|uid, _| listed.contains(uid));
                }
            }
            Some(watcher::Event::Delete(pod)) => {
                inboxes.remove(&pod.metadata.uid.unwrap_or_default());
            }
            Some(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if let Some(listed) = &mut listed {
                    listed.push(uid.clone());
                }
                let pod = Some(Arc::new(pod));
                match inboxes.get(&uid) {
                    Some(inbox) => {
                        inbox.send_replace(pod);
                    }
                    None => {
                        let (inbox, news) = watch::channel(pod);
                        let address = shared.registry.free(&addresses);
                        workers.spawn(worker::run(shared.clone(), address, news));
                        inboxes.insert(uid, inbox);
                    }
                }
            }
        }
    }
    inboxes.clear();
    while workers.join_next().await.is_some() {}
}
