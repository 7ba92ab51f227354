//! The world that the broker's processes live in: Kubernetes and ElastiCache in memory, receivers of webhooks, the time of
//! day, and the gate that every call to any of them passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache_broker::ambient::Ambient;
use cache_broker::ledger::Ledger;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use sandbox::elasticache::{InMemory, Options, Times};
use sandbox::in_memory_kubernetes::{Answer, ApiServer, Key, Kind, Request, Watch};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::caches::Cache;
use crate::gate::{Call, System, Ticket, Verdict};
use crate::idle::Idle;
use crate::process::Facade;
use crate::receiver::Receiver;
use crate::truth::{self, Happened};

/// The processes' number of those who are not the broker's.
pub const OUTSIDE: usize = 0;
/// The time of day at which a run begins.
const BEGINNING: i64 = 1_767_600_000;

/// The kinds that the broker meets.
pub const KINDS: &[Kind] = &[
    Kind::custom("cache.akkeris.io", "v1alpha1", "CacheInstance", "cacheinstances"),
    Kind::custom("cache.akkeris.io", "v1alpha1", "CacheBackup", "cachebackups"),
    Kind::custom("cache.akkeris.io", "v1alpha1", "CachePlan", "cacheplans").cluster_wide(),
    Kind::built_in("apps", "v1", "Deployment", "deployments")
        .with_status()
        .with_generation(),
    Kind::built_in("apps", "v1", "ControllerRevision", "controllerrevisions"),
    Kind::built_in("", "v1", "Secret", "secrets"),
    Kind::built_in("", "v1", "Service", "services").with_status(),
    Kind::built_in("", "v1", "Pod", "pods"),
    Kind::built_in("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").with_status(),
    Kind::built_in("storage.k8s.io", "v1", "StorageClass", "storageclasses").cluster_wide(),
    Kind::built_in("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies").with_generation(),
    Kind::built_in("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .with_status()
        .with_generation(),
    Kind::built_in("coordination.k8s.io", "v1", "Lease", "leases"),
    Kind::built_in("events.k8s.io", "v1", "Event", "events"),
];

/// Where classes of storage are.
pub const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

/// The classes of storage of the cluster: the one of claims that name none, whose volumes grow, and one whose volumes do not.
pub fn classes() -> [Value; 2] {
    [("standard", true), ("fixed", false)].map(|(name, grows)| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": name, "annotations": {
                "storageclass.kubernetes.io/is-default-class": grows.to_string(),
            } },
            "provisioner": "volumes.example.org", "allowVolumeExpansion": grows,
            "volumeBindingMode": "WaitForFirstConsumer",
        })
    })
}

/// A watch that somebody reads.
pub struct OpenWatch {
    pub id: u64,
    pub process: usize,
    pub path: String,
    pub watch: Watch,
    pub lines: mpsc::UnboundedSender<Bytes>,
    pub opened: Instant,
    pub held_until: Option<Instant>,
}

/// A call that has its effect after its caller gave it up.
#[derive(Debug)]
pub enum Late {
    /// A request to the API server, and how often objects had been made when it was sent.
    Kubernetes(KubeRequest, BTreeMap<Key, u64>),
    ElastiCache(sandbox::elasticache::Request),
    /// A command to the server of a Pod.
    Cache(String, Vec<String>),
    /// A call whose caller is held for it: a task of its process, or all of one that is as if dead, and then dies.
    Postgres(String, oneshot::Sender<()>),
}

/// A request to the API server.
#[derive(Clone, Debug)]
pub struct KubeRequest {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub accept: String,
    pub content_type: String,
    pub body: Bytes,
}

impl KubeRequest {
    /// One of somebody who asks for nothing in particular.
    pub fn new(method: Method, path: String, body: &Value) -> Self {
        Self {
            method,
            path,
            query: String::new(),
            accept: String::new(),
            content_type: "application/json".to_owned(),
            body: if body.is_null() {
                Bytes::new()
            } else {
                Bytes::from(body.to_string())
            },
        }
    }
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that had their turn.
    pub calls: u64,
    /// Questions to ElastiCache, which change nothing.
    pub questions: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Successful creations on ElastiCache, by id.
    pub created: BTreeMap<String, u64>,
}

pub struct State {
    pub api: ApiServer,
    pub elasticache: InMemory,
    pub receiver: Receiver,
    /// The servers in Pods, by the Pods' uids.
    pub caches: BTreeMap<String, Cache>,
    /// Connections to them, and whose they are.
    pub conversations: Vec<(usize, AbortHandle)>,
    pub tickets: Vec<Ticket>,
    pub watches: Vec<OpenWatch>,
    pub late: Vec<Late>,
    /// What such a call made that somebody else had made since it was sent, and deleted: nothing keeps the API server from it.
    pub made_late: BTreeSet<Key>,
    pub facades: BTreeMap<usize, Facade>,
    pub wakeups: BTreeMap<(usize, &'static str), Arc<Notify>>,
    pub counts: Counts,
    pub trace: Vec<String>,
    /// What happened to the API server, if that is kept.
    pub happened: Option<Vec<Happened>>,
    /// Processes that are to die now.
    pub dying: BTreeSet<usize>,
    /// Processes that are dead but for a call to Postgres that is on its way.
    pub outlived: BTreeSet<usize>,
    /// Whoever writes the lease in vain until then, and does not know.
    pub deluded: Option<(usize, Instant)>,
    /// Nobody reaches Postgres until then.
    pub postgres_away: Option<Instant>,
    /// Who does not reach it until then.
    pub cut_off: Option<(usize, Instant)>,
    /// How far the clocks were set.
    pub jump: SignedDuration,
    /// What was found wrong.
    pub wrong: Vec<String>,
    /// When something was last written.
    pub last_write: Instant,
    pub writes: u64,
    /// Caches that were let go on purpose.
    pub let_go: BTreeSet<String>,
    /// Instances, by namespace and name, whose Deployments somebody scaled to nothing.
    pub scaled_down: BTreeSet<(String, String)>,
    /// Whether calls are faults' to strike.
    pub exposed: bool,
    next: u64,
    ids: u64,
}

pub struct World {
    state: Mutex<State>,
    pub idle: Arc<Idle>,
    pub ledger: Ledger,
    began: Instant,
}

impl World {
    pub fn new(idle: Arc<Idle>, ledger: Ledger) -> Arc<Self> {
        let began = Instant::now();
        let times = Times {
            creating: Duration::from_secs(40),
            modifying: Duration::from_secs(20),
            deleting: Duration::from_secs(20),
            snapshotting: Duration::from_secs(15),
            deleting_snapshot: Duration::from_secs(5),
            rebooting: Duration::from_secs(10),
            tagging: Duration::from_secs(3),
            members: Duration::from_secs(4),
            visible: Duration::from_secs(2),
            users: Duration::from_secs(5),
        };
        let options = Options {
            times,
            ..Options::default()
        };
        let world = Arc::new(Self {
            state: Mutex::new(State {
                api: ApiServer::new(KINDS),
                elasticache: InMemory::new(options),
                receiver: Receiver::default(),
                caches: BTreeMap::new(),
                conversations: Vec::new(),
                tickets: Vec::new(),
                watches: Vec::new(),
                late: Vec::new(),
                made_late: BTreeSet::new(),
                facades: BTreeMap::new(),
                wakeups: BTreeMap::new(),
                counts: Counts::default(),
                trace: Vec::new(),
                happened: None,
                dying: BTreeSet::new(),
                outlived: BTreeSet::new(),
                deluded: None,
                postgres_away: None,
                cut_off: None,
                jump: SignedDuration::ZERO,
                wrong: Vec::new(),
                last_write: began,
                writes: 0,
                let_go: BTreeSet::new(),
                scaled_down: BTreeSet::new(),
                exposed: false,
                next: 0,
                ids: 0,
            }),
            idle,
            ledger,
            began,
        });
        for class in classes() {
            let request = KubeRequest::new(Method::POST, CLASSES.to_owned(), &class);
            assert!(matches!(
                world.kubernetes(&request),
                Answer::Once(StatusCode::CREATED, _)
            ));
        }
        world
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How long the run has taken, by its own clock.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.elapsed()).unwrap();
        Timestamp::from_second(BEGINNING).unwrap() + elapsed + self.state().jump
    }

    /// Waits at the gate.
    pub async fn pass(&self, process: usize, call: Call) -> Verdict {
        let turn = {
            let mut state = self.state();
            let (answer, turn) = oneshot::channel();
            state.next += 1;
            let id = state.next;
            state.tickets.push(Ticket {
                id,
                process,
                call,
                answer,
                held_until: None,
                batch: None,
            });
            turn
        };
        match turn.await {
            Ok(verdict) => verdict,
            // The run is over.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends a process, when it has had its effect outside.
    pub async fn die<T>(&self, process: usize) -> T {
        self.state().dying.insert(process);
        std::future::pending().await
    }

    /// Ends a process but for a call to Postgres, and waits until that comes.
    pub async fn outlive(&self, process: usize, attempt: &str) {
        {
            let mut state = self.state();
            state.outlived.insert(process);
            state.facades.remove(&process);
            state.wakeups.retain(|(whose, _), _| *whose != process);
        }
        self.linger(attempt).await;
    }

    /// Holds a call to Postgres until it is to come late.
    pub async fn linger(&self, attempt: &str) {
        let (come, comes) = oneshot::channel();
        self.state().late.push(Late::Postgres(attempt.to_owned(), come));
        if comes.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Has a request to the API server take effect.
    pub fn kubernetes(&self, request: &KubeRequest) -> Answer {
        let now = self.now();
        let mut state = self.state();
        let before = state.api.revision();
        let stood = state
            .happened
            .as_ref()
            .and_then(|_| truth::standing(&state.api, &request.path));
        let answer = state.api.handle(&Request {
            method: &request.method,
            path: &request.path,
            query: &request.query,
            accept: &request.accept,
            content_type: &request.content_type,
            body: &request.body,
            now,
        });
        if state.api.revision() != before && !is_quiet(&request.path) {
            state.wrote();
        }
        if let (Some(happened), Answer::Once(status, answer)) = (&mut state.happened, &answer) {
            happened.push(Happened::Asked {
                request: request.clone(),
                stood,
                status: *status,
                answer: answer.clone(),
            });
        }
        if request.path.contains("/cacheinstances/")
            && request.path.ends_with("/status")
            && let Answer::Once(_, object) = &answer
        {
            let said: Vec<_> = object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|condition| {
                    let word = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
                    format!("{}={} {}", word("type"), word("status"), word("reason"))
                })
                .collect();
            state.trace.push(format!(
                "{:9} which says {} at revision {} of the ledger",
                "",
                said.join(", "),
                object["status"]["ledgerRevision"]
            ));
        }
        answer
    }

    /// Has a request to ElastiCache take effect.
    pub fn elasticache(&self, request: &sandbox::elasticache::Request) -> (StatusCode, String) {
        let now = self.now();
        if let Some(id) = ["ReplicationGroupId", "CacheClusterId"]
            .iter()
            .find_map(|name| request.parameters.get(*name))
            && request.operation.starts_with("Delete")
            && let Some(instance) = crate::watchman::serves(self, id)
        {
            self.accuse(format!("{id} is to be deleted while it serves {instance}"));
        }
        let mut state = self.state();
        if request.operation == "AddTagsToResource" && request.parameters.values().any(|value| value == "released") {
            let arn = request.parameters.get("ResourceName").cloned().unwrap_or_default();
            state
                .let_go
                .insert(arn.rsplit(':').next().unwrap_or_default().to_owned());
        }
        let answer = state.elasticache.answer(request, now);
        state.counts.questions += u64::from(!writes(&request.operation));
        if writes(&request.operation) && answer.0.is_success() {
            state.wrote();
            if let Some(id) = ["ReplicationGroupId", "CacheClusterId", "SnapshotName"]
                .into_iter()
                .filter(|_| request.operation.starts_with("Create"))
                .find_map(|name| request.parameters.get(name))
            {
                let id = format!("{} {id}", request.operation);
                *state.counts.created.entry(id).or_default() += 1;
            }
        }
        answer
    }

    /// Opens a watch.
    pub fn open(&self, process: usize, path: String, watch: Watch) -> mpsc::UnboundedReceiver<Bytes> {
        let (lines, read) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state.watches.push(OpenWatch {
            id,
            process,
            path,
            watch,
            lines,
            opened: Instant::now(),
            held_until: None,
        });
        read
    }

    /// An object, as it is.
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.state();
        let found = state
            .api
            .objects()
            .find(|(key, _)| key.plural == plural && key.namespace == namespace && key.name == name);
        found.map(|(_, object)| object.clone())
    }

    /// All objects of a kind.
    pub fn objects(&self, plural: &str) -> Vec<(Key, Value)> {
        let state = self.state();
        let found = state.api.objects().filter(|(key, _)| key.plural == plural);
        found.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Notes something that must not be.
    pub fn accuse(&self, what: impl Into<String>) {
        let what = what.into();
        let mut state = self.state();
        state.trace.push(format!("WRONG: {what}"));
        state.wrong.push(what);
    }
}

impl State {
    /// Whether a process does not reach Postgres now.
    pub fn is_postgres_away(&self, process: usize) -> bool {
        let now = Instant::now();
        let cut_off = self.cut_off.is_some_and(|(who, until)| who == process && now < until);
        cut_off || self.postgres_away.is_some_and(|until| now < until)
    }

    pub fn wrote(&mut self) {
        self.writes += 1;
        self.last_write = Instant::now();
    }

    pub fn strike(&mut self, fault: impl Into<String>) {
        self.counts.strike(fault);
    }
}

impl Counts {
    pub fn strike(&mut self, fault: impl Into<String>) {
        *self.faults.entry(fault.into()).or_default() += 1;
    }
}

/// Whether a path is of elections or Events.
pub fn is_quiet(path: &str) -> bool {
    path.contains("/leases") || path.starts_with("/apis/events.k8s.io")
}

/// Whether an operation of ElastiCache changes something.
pub fn writes(operation: &str) -> bool {
    !operation.starts_with("Describe") && !operation.starts_with("List")
}

/// The time of day and chance of a run.
pub struct Surroundings(pub Arc<World>);

impl Ambient for Surroundings {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn id(&self) -> Uuid {
        let mut state = self.0.state();
        state.ids += 1;
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &state.ids.to_le_bytes())
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

/// Whether a call is of Postgres.
pub fn is_postgres(call: &Call) -> bool {
    call.system == System::Postgres
}
