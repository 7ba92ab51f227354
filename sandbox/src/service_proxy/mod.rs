//! The Service path, made real: what kube-proxy does with packet rules, done with listeners.
//!
//! The sandbox's Services have ClusterIPs of the loopback range, so each ClusterIP and port can simply be listened on.
//! A connection is forwarded to a Ready pod of the selector, in turn. Where there is none, nobody listens, and the
//! connection is refused, as kube-proxy has it. An established connection outlives a change of the selector and ends
//! with its pod.
//!
//! Only TCP, and only from this machine. All listeners are worked out anew from all Services and pods shortly after a
//! change; that is cheap up to some thousands of them.

mod forward;
mod table;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::api_calls;
use forward::Forwarder;
pub use table::{Table, table};

/// Changes within this time lead to one new table.
const SETTLE: Duration = Duration::from_millis(20);

/// How long after a failed listen it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How a [`ServiceProxy`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many connections one Service address carries at one time; further ones wait.
    pub connections_per_address: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_per_address: 1024,
        }
    }
}

/// Forwards connections to Services to their pods. Dropping it closes all listeners and connections.
#[derive(Debug)]
pub struct ServiceProxy {
    task: AbortHandle,
    listening: watch::Receiver<BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>>,
}

/// Why a [`ServiceProxy`] could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Services or pods cannot be listed.
    #[error(
        "starting the service proxy: {0}; the sandbox's API server must be up and the client allowed to read all namespaces"
    )]
    List(String),
}

impl Drop for ServiceProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServiceProxy {
    /// Starts it, after a first look at the API server.
    ///
    /// # Errors
    /// When Services or pods cannot be listed.
    pub async fn start(client: Client, options: Options) -> Result<Self, Error> {
        let few = kube::api::ListParams::default().limit(1);
        let refused = |error: api_calls::CallError| Error::List(error.to_string());
        api_calls::call(
            "listing Services",
            Api::<Service>::all(client.clone()).list_metadata(&few),
        )
        .await
        .map_err(refused)?;
        api_calls::call("listing pods", Api::<Pod>::all(client.clone()).list_metadata(&few))
            .await
            .map_err(refused)?;
        let (publish, listening) = watch::channel(BTreeMap::new());
        let task = tokio::spawn(run(client, options, publish)).abort_handle();
        Ok(Self { task, listening })
    }

    /// The addresses that are listened on, and the pods behind them, as they are now.
    pub fn listeners(&self) -> BTreeMap<SocketAddrV4, Vec<SocketAddrV4>> {
        self.listening.borrow().clone()
    }

    /// Waits until a Service address leads to pods for which `condition` holds.
    pub async fn wait_for(&self, address: SocketAddrV4, condition: impl Fn(&[SocketAddrV4]) -> bool) {
        let mut listening = self.listening.clone();
        let holds = |all: &BTreeMap<_, Vec<_>>| condition(all.get(&address).map_or(&[], Vec::as_slice));
        if listening.wait_for(holds).await.is_err() {
            // It was dropped: nothing will ever hold.
            std::future::pending::<()>().await;
        }
    }
}

/// All objects of one kind, as a watch tells of them.
struct Known<K> {
    current: BTreeMap<String, K>,
    listed: Option<BTreeMap<String, K>>,
    complete: bool,
}

impl<K: ResourceExt> Known<K> {
    fn new() -> Self {
        Self {
            current: BTreeMap::new(),
            listed: None,
            complete: false,
        }
    }

    fn take(&mut self, event: watcher::Event<K>) {
        let key = |object: &K| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        match event {
            watcher::Event::Init => self.listed = Some(BTreeMap::new()),
            watcher::Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key(&object), object);
                }
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed.take() {
                    self.current = listed;
                    self.complete = true;
                }
            }
            watcher::Event::Apply(object) => {
                self.current.insert(key(&object), object);
            }
            watcher::Event::Delete(object) => {
                self.current.remove(&key(&object));
            }
        }
    }
}

async fn run(client: Client, options: Options, publish: watch::Sender<BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>>) {
    let mut service_events = std::pin::pin!(api_calls::watch(
        Api::<Service>::all(client.clone()),
        watcher::Config::default()
    ));
    let mut pod_events = std::pin::pin!(api_calls::watch(Api::<Pod>::all(client), watcher::Config::default()));
    let (mut services, mut pods) = (Known::new(), Known::new());
    let mut forwarder = Forwarder::new(options.connections_per_address);
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(event) = service_events.next() => services.take(event),
            Some(event) = pod_events.next() => pods.take(event),
            () = wait => {
                due = None;
                if services.complete && pods.complete {
                    let table = table(services.current.values(), pods.current.values());
                    if !forwarder.apply(&table) {
                        due = Some(tokio::time::Instant::now() + AGAIN);
                    }
                    publish.send_replace(forwarder.listening());
                }
                continue;
            }
        }
        let soon = tokio::time::Instant::now() + SETTLE;
        due = Some(due.map_or(soon, |at| at.min(soon)));
    }
}
