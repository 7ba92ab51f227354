//! An ElastiCache endpoint: the Query protocol of API version 2015-02-02, over caches that are real processes.
//!
//! The states, refusals, paging and pending changes are those of the real service; how long states take is set by
//! [`Times`]. A pure core ([`state::Cloud`]) answers requests and says what shall run; a thin shell runs it. Nodes of
//! Redis and of Valkey are both `redis-server` processes as the machine has them (7.0 on Debian 12), whatever version
//! a cluster shows. What cannot be as in the real service:
//!
//! - endpoints are addresses, not names, so the primary endpoint of a group changes with its primary;
//! - the configuration endpoint of Memcached is its first node, which does not know `config get cluster`;
//! - nothing is encrypted at rest.
//!
//! Parameters that the sandbox does not support are refused, never ignored.

mod catalog;
mod certificates;
mod cluster_changes;
mod cluster_view;
mod clusters;
mod complete;
mod error;
mod faults;
mod group_changes;
mod group_size;
mod group_view;
mod in_memory;
mod model;
mod names;
mod nodes;
mod operations;
mod processes;
mod query;
mod relay;
mod replication_groups;
mod resp;
mod server;
mod shards;
mod snapshots;
mod state;
mod tags;
#[cfg(test)]
mod tests;
mod upkeep;
mod users;
mod xml;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use catalog::ParameterGroup;
pub use error::ApiError;
pub use faults::{Fault, FaultKind};
pub use in_memory::InMemory;
pub use model::{Limits, SubnetGroup};
pub use operations::{Remaining, Reply};
pub use query::Request;

use crate::address::Addresses;
use crate::supervisor::{Supervisor, User};
use certificates::Authority;
use faults::FaultList;
use processes::Fleet;
use state::Cloud;

/// The port the endpoint listens on.
pub const PORT: u16 = 4566;

/// What cache nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nodes {
    /// `memcached` and `redis-server` processes.
    #[default]
    Real,
    /// Nothing: states change with time alone, for tests of scale.
    Simulated,
}

/// How long states take at the least; with real nodes, processes may make it longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Times {
    /// `creating`.
    #[serde(with = "milliseconds")]
    pub creating: Duration,
    /// `modifying`.
    #[serde(with = "milliseconds")]
    pub modifying: Duration,
    /// `deleting`.
    #[serde(with = "milliseconds")]
    pub deleting: Duration,
    /// `snapshotting`, and a snapshot's `creating` and `copying`.
    #[serde(with = "milliseconds")]
    pub snapshotting: Duration,
    /// A snapshot's `deleting`.
    #[serde(with = "milliseconds")]
    pub deleting_snapshot: Duration,
    /// `rebooting cluster nodes`.
    #[serde(with = "milliseconds")]
    pub rebooting: Duration,
    /// `modifying` after tags were written; zero leaves the state alone.
    #[serde(with = "milliseconds")]
    pub tagging: Duration,
    /// How much longer than their group members are `modifying`.
    #[serde(with = "milliseconds")]
    pub members: Duration,
    /// How long what was created does not show in Describe answers.
    #[serde(with = "milliseconds")]
    pub visible: Duration,
    /// Changes of users and user groups.
    #[serde(with = "milliseconds")]
    pub users: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            creating: Duration::from_millis(800),
            modifying: Duration::from_millis(500),
            deleting: Duration::from_millis(500),
            snapshotting: Duration::from_millis(500),
            deleting_snapshot: Duration::from_millis(300),
            rebooting: Duration::from_millis(500),
            tagging: Duration::from_millis(300),
            members: Duration::from_millis(200),
            visible: Duration::ZERO,
            users: Duration::from_millis(300),
        }
    }
}

impl Times {
    /// Every state takes this long; what is created shows at once.
    pub fn all(time: Duration) -> Self {
        Self {
            creating: time,
            modifying: time,
            deleting: time,
            snapshotting: time,
            deleting_snapshot: time,
            rebooting: time,
            tagging: time,
            members: time,
            visible: Duration::ZERO,
            users: time,
        }
    }
}

/// Durations as whole milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// How an endpoint shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// What cache nodes are.
    pub nodes: Nodes,
    /// How long states take.
    pub times: Times,
    /// The only region that requests may be signed for.
    pub region: String,
    /// Quotas.
    pub limits: Limits,
    /// Subnet groups that exist.
    pub subnet_groups: Vec<SubnetGroup>,
    /// Parameter groups that exist beside the default ones.
    pub parameter_groups: Vec<ParameterGroup>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: Nodes::Real,
            times: Times::default(),
            region: "us-west-2".into(),
            limits: Limits::default(),
            subnet_groups: ["default", "redis-subnets", "memcached-subnets"]
                .map(SubnetGroup::new)
                .to_vec(),
            parameter_groups: Vec::new(),
        }
    }
}

/// Why an endpoint could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address could not be listened on, or its folder not be made.
    #[error("starting the ElastiCache endpoint: {0}")]
    Io(#[from] io::Error),
    /// The authority for the nodes' certificates could not be made.
    #[error("making the certificate authority of the ElastiCache endpoint: {0}")]
    Authority(Box<dyn std::error::Error + Send + Sync>),
}

/// One call the endpoint saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The operation.
    pub operation: String,
    /// Its parameters as they stood on the wire.
    pub parameters: BTreeMap<String, String>,
    /// When it was answered.
    pub time: Timestamp,
    /// `ok`, the code of the refusal, or `(no answer)`.
    pub outcome: String,
    /// Whether the connection broke before the answer.
    pub lost: bool,
}

impl Call {
    fn new(request: &Request, time: Timestamp, outcome: &str) -> Self {
        Self {
            operation: request.operation.clone(),
            parameters: request.parameters.clone(),
            time,
            outcome: outcome.to_owned(),
            lost: false,
        }
    }
}

/// A running endpoint. Dropping it ends the server; its nodes end with the supervisor.
pub struct ElastiCache {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for ElastiCache {
    fn drop(&mut self) {
        self.shared.closing.send_replace(());
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl ElastiCache {
    /// Starts an endpoint on the sandbox's address for it.
    ///
    /// # Errors
    /// When the address is taken, or files cannot be written.
    pub async fn start(supervisor: &Supervisor, addresses: &Addresses, options: Options) -> Result<Self, Error> {
        let dir = supervisor.make_dir("elasticache", User::Own)?;
        supervisor.make_dir("elasticache/snapshots", User::Own)?;
        let authority = Authority::new(dir.join("ca.crt")).map_err(Error::Authority)?;
        let ca_file = authority.file().to_owned();
        let listener = TcpListener::bind(SocketAddrV4::new(addresses.elasticache(), PORT)).await?;
        let next = addresses.clone();
        let cloud = Cloud::new(
            options.region.clone(),
            options.times,
            options.limits,
            options.subnet_groups,
            options.parameter_groups,
            Box::new(move || next.next_cache_node()),
        );
        let shared = Arc::new(Shared {
            url: format!("http://{}:{PORT}", addresses.elasticache()),
            region: options.region,
            ca_file,
            cloud: Mutex::new(cloud),
            faults: Mutex::default(),
            calls: Mutex::default(),
            fleet: (options.nodes == Nodes::Real).then(|| Arc::new(Fleet::new(supervisor.clone(), authority, dir))),
            changed: Notify::new(),
            closing: watch::Sender::new(()),
            _addresses: addresses.clone(),
        });
        let tasks = vec![
            tokio::spawn(server::serve(listener, shared.clone())),
            tokio::spawn(turn(shared.clone())),
        ];
        Ok(Self { shared, tasks })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// The certificate of the authority that signed the nodes' certificates, as a PEM file.
    pub fn ca_file(&self) -> &Path {
        &self.shared.ca_file
    }

    /// Sets how long states take from now on.
    pub fn set_times(&self, times: Times) {
        self.shared.set_times(times);
    }

    /// Sets the quotas.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.with_cloud(|cloud| cloud.limits = limits);
    }

    /// The faults on demand.
    pub fn faults(&self) -> Faults<'_> {
        Faults(&self.shared)
    }

    /// Every call of the API since the start, or since they were forgotten, refused ones included.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.shared.forget_calls();
    }

    /// What exists.
    pub fn remaining(&self) -> Remaining {
        self.shared.remaining()
    }

    /// Lets the maintenance window of a cluster or group come, or of all: waiting changes are applied.
    pub fn maintenance(&self, id: Option<&str>) {
        self.shared.with_cloud(|cloud| cloud.maintenance(id));
    }

    /// Makes a cluster or group show any status, known or not, as outages and service updates do. Whether it exists.
    pub fn force_status(&self, id: &str, status: &str) -> bool {
        self.shared.with_cloud(|cloud| cloud.force_status(id, status))
    }

    /// Lets the snapshot window of a cluster or group come, if it keeps automatic snapshots.
    pub fn backup(&self, id: &str) {
        self.shared.with_cloud(|cloud| cloud.backup(id));
    }
}

/// The faults of an endpoint.
pub struct Faults<'a>(&'a Shared);

impl Faults<'_> {
    /// Adds one.
    pub fn add(&self, fault: Fault) {
        self.0.add_fault(fault);
    }

    /// Takes all away.
    pub fn clear(&self) {
        self.0.set_faults(Vec::new());
    }

    /// Those that are set and not used up.
    pub fn list(&self) -> Vec<Fault> {
        self.0.faults()
    }
}

/// What the server, the turning of time and the handle share.
pub(crate) struct Shared {
    url: String,
    region: String,
    ca_file: PathBuf,
    cloud: Mutex<Cloud>,
    faults: Mutex<FaultList>,
    calls: Mutex<Vec<Call>>,
    fleet: Option<Arc<Fleet>>,
    changed: Notify,
    closing: watch::Sender<()>,
    /// Given back after the processes are gone: fields are dropped in their order.
    _addresses: Addresses,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn region(&self) -> &str {
        &self.region
    }

    fn real(&self) -> bool {
        self.fleet.is_some()
    }

    /// The API shows times to the millisecond.
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    fn with_cloud<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut cloud = lock(&self.cloud);
        cloud.advance(self.now());
        let result = act(&mut cloud);
        drop(cloud);
        self.changed.notify_one();
        result
    }

    fn handle(&self, request: &Request, fault: Option<&FaultKind>) -> Result<Reply, ApiError> {
        self.with_cloud(|cloud| {
            if let Some(FaultKind::CreateFailed { status, message }) = fault {
                let usual = if request.operation == "CreateCacheCluster" {
                    "incompatible-network"
                } else {
                    "create-failed"
                };
                cloud.doom = Some((
                    status.clone().unwrap_or_else(|| usual.into()),
                    message.clone().unwrap_or_else(|| {
                        "The creation failed: insufficient capacity in the availability zone.".to_owned()
                    }),
                ));
            }
            cloud.handle(request, self.now())
        })
    }

    fn strike(&self, request: &Request) -> Option<FaultKind> {
        lock(&self.faults).strike(request)
    }

    fn add_fault(&self, fault: Fault) {
        lock(&self.faults).faults.push(fault);
    }

    fn set_faults(&self, faults: Vec<Fault>) {
        lock(&self.faults).faults = faults;
    }

    fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).faults.clone()
    }

    fn record(&self, call: Call) {
        tracing::debug!(
            operation = call.operation,
            outcome = call.outcome,
            lost = call.lost,
            "a call of the ElastiCache endpoint"
        );
        lock(&self.calls).push(call);
    }

    fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    fn forget_calls(&self) {
        lock(&self.calls).clear();
    }

    fn remaining(&self) -> Remaining {
        self.with_cloud(|cloud| cloud.remaining())
    }

    fn times(&self) -> Times {
        lock(&self.cloud).times
    }

    fn set_times(&self, times: Times) {
        self.with_cloud(|cloud| cloud.times = times);
    }
}

/// Lets time pass for the cloud and does its jobs.
async fn turn(shared: Arc<Shared>) {
    loop {
        let (jobs, due) = {
            let mut cloud = lock(&shared.cloud);
            cloud.advance(shared.now());
            (cloud.take_jobs(), cloud.next_due())
        };
        for job in jobs {
            let shared = shared.clone();
            tokio::spawn(async move {
                let id = job.id;
                let result = match &shared.fleet {
                    Some(fleet) => fleet.perform(job).await,
                    None => Ok(()),
                };
                lock(&shared.cloud).finished(id, &result);
                shared.changed.notify_one();
            });
        }
        let wait = due.and_then(|due| Duration::try_from(due.duration_since(Timestamp::now())).ok());
        let pause = match (due, wait) {
            (None, _) => Duration::MAX,
            (Some(_), wait) => wait.unwrap_or_default() + Duration::from_millis(1),
        };
        tokio::select! {
            () = shared.changed.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

async fn sleep(pause: Duration) {
    if pause == Duration::MAX {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(pause).await;
}

impl std::fmt::Debug for ElastiCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ElastiCache")
            .field("url", &self.shared.url)
            .finish_non_exhaustive()
    }
}
