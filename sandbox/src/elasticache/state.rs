//! The state of the cloud: what exists, what is under way, and when it will be done.
//!
//! Nothing here reads a clock or touches a process. Time is an argument, and what shall happen to processes comes out
//! as [`Job`]s whose results are reported back.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::Times;
use super::catalog::{Engine, NodeType, ParameterGroup, Version};
use super::error::{ApiError, Outcome};
use super::nodes::{Job, Slots, Step, Tls};
use super::query::Params;
use super::users::{User, UserGroup};

/// The account everything belongs to.
pub(crate) const ACCOUNT: &str = "000000000000";

/// How much an account may have (Service Quotas; every one can be set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Cache nodes in the region.
    pub nodes: usize,
    /// Nodes of one Memcached cluster.
    pub nodes_per_cluster: usize,
    /// Shards of one group.
    pub shards_per_group: usize,
    /// Manual snapshots.
    pub snapshots: usize,
    /// Users.
    pub users: usize,
    /// User groups.
    pub user_groups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 300,
            nodes_per_cluster: 40,
            shards_per_group: 90,
            snapshots: 500,
            users: 1000,
            user_groups: 100,
        }
    }
}

/// A subnet group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetGroup {
    /// Its name.
    pub name: String,
    /// The ids of its subnets, one an availability zone.
    pub subnets: Vec<String>,
}

impl SubnetGroup {
    /// A subnet group over three availability zones.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subnets: ["a", "b", "c"]
                .map(|zone| format!("subnet-0000000000000000{zone}"))
                .to_vec(),
        }
    }
}

/// What clusters and groups have in common and may be changed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upkeep {
    pub maintenance: String,
    pub snapshot_window: String,
    pub retention: usize,
    pub topic: Option<String>,
    pub topic_status: String,
    pub auto_minor: bool,
    pub security_groups: Vec<String>,
    pub parameter_group: String,
    pub subnet_group: String,
    pub network: String,
    pub discovery: String,
}

/// One cache node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub id: String,
    pub key: u64,
    pub address: Ipv4Addr,
    pub zone: String,
    pub status: &'static str,
    pub created: Timestamp,
}

/// Changes of a cluster that wait (CacheCluster, `PendingModifiedValues`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterPending {
    pub nodes: Option<usize>,
    pub remove: Vec<String>,
    pub zones: Vec<String>,
    pub version: Option<Version>,
    pub node_type: Option<NodeType>,
    pub scale: Option<(i64, i64)>,
    pub parameter_group: Option<String>,
}

/// A cache cluster: of Memcached, of one Redis node, or a member of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub id: String,
    pub group: Option<String>,
    pub status: String,
    pub version: Version,
    pub node_type: NodeType,
    pub port: u16,
    pub nodes: Vec<Node>,
    pub cross_az: bool,
    pub tls: Tls,
    pub at_rest: bool,
    pub upkeep: Upkeep,
    pub pending: ClusterPending,
    pub tags: BTreeMap<String, String>,
    pub created: Timestamp,
    pub restore: Option<u64>,
}

/// The data partitions of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub id: String,
    pub slots: Vec<Slots>,
    /// Cluster ids, the primary first.
    pub members: Vec<String>,
}

/// How an AUTH token comes in (`AuthTokenUpdateStrategy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthChange {
    Rotate(String),
    Set(String),
    Delete,
}

/// The AUTH tokens of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Auth {
    /// Valid ones, oldest first; two after a rotation.
    pub tokens: Vec<String>,
    /// Whether one may still do without, after the first rotation.
    pub optional: bool,
    pub changed: Option<Timestamp>,
}

/// Changes of a group that wait (ReplicationGroup, `PendingModifiedValues`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupPending {
    pub failover: Option<bool>,
    pub multi_az: Option<bool>,
    pub tls: Option<Tls>,
    pub auth: Option<AuthChange>,
    pub add_users: Vec<String>,
    pub remove_users: Vec<String>,
    pub node_type: Option<NodeType>,
    pub version: Option<Version>,
    pub parameter_group: Option<String>,
    pub primary: Option<String>,
    /// Shards as they shall be after a change of their number.
    pub shards: Option<Vec<Shard>>,
}

/// A replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub id: String,
    pub description: String,
    pub status: String,
    pub version: Version,
    pub node_type: NodeType,
    pub port: u16,
    pub shards: Vec<Shard>,
    /// Cluster mode enabled.
    pub sharded: bool,
    pub failover: bool,
    pub multi_az: bool,
    pub tls: Tls,
    pub at_rest: bool,
    pub kms_key: Option<String>,
    pub auth: Auth,
    pub user_groups: Vec<String>,
    pub snapshotting: Option<String>,
    pub upkeep: Upkeep,
    pub pending: GroupPending,
    pub tags: BTreeMap<String, String>,
    pub created: Timestamp,
}

impl Group {
    /// The ids of its clusters.
    pub fn members(&self) -> impl Iterator<Item = &String> {
        self.shards.iter().flat_map(|shard| &shard.members)
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub name: String,
    pub status: &'static str,
    pub automatic: bool,
    pub group: Option<Group>,
    pub cluster: Cluster,
    /// For each node saved: shard, slots, cluster, file.
    pub parts: Vec<Part>,
    pub tags: BTreeMap<String, String>,
    pub kms_key: Option<String>,
    pub created: Timestamp,
}

/// What one node gave to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub shard: String,
    pub slots: Vec<Slots>,
    pub replicas: usize,
    pub cluster: String,
    pub file: u64,
}

/// Something that happened (DescribeEvents).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub source: String,
    pub kind: &'static str,
    pub message: String,
    pub date: Timestamp,
}

/// What becomes of things when time and processes are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    ClusterCreated(String),
    ClusterModified(String),
    ClusterReady(String),
    ClusterDeleted(String),
    GroupCreated(String),
    GroupModified(String),
    GroupReady(String),
    GroupDeleted(String, bool),
    MembersReady(Vec<String>),
    SnapshotReady(String),
    SnapshotDeleted(String),
    UserActive(String),
    UserDeleted(String),
    UserGroupActive(String),
    UserGroupDeleted(String),
    Nothing,
}

#[derive(Clone, Debug)]
struct Work {
    due: Timestamp,
    job: Option<u64>,
    failed: Option<String>,
    then: Then,
}

/// Gives every node an address of its own.
pub type NextAddress = Box<dyn FnMut() -> Ipv4Addr + Send>;

/// Everything that exists, and what is under way.
pub struct Cloud {
    pub(crate) region: String,
    pub(crate) times: Times,
    pub(crate) limits: Limits,
    pub(crate) now: Timestamp,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) user_groups: BTreeMap<String, UserGroup>,
    pub(crate) subnet_groups: BTreeMap<String, SubnetGroup>,
    pub(crate) parameter_groups: Vec<ParameterGroup>,
    pub(crate) events: Vec<Event>,
    /// Why the next creation shall fail, and in which state: set by a fault.
    pub(crate) doom: Option<(String, String)>,
    /// What is being created and will end in the given state for the given reason.
    pub(crate) doomed: BTreeMap<String, (String, String)>,
    next_address: NextAddress,
    works: Vec<Work>,
    jobs: Vec<Job>,
    counter: u64,
}

impl Cloud {
    /// An account with nothing in it but its parameter groups, the given ones included, and subnet groups.
    pub fn new(
        region: impl Into<String>,
        times: Times,
        limits: Limits,
        subnet_groups: Vec<SubnetGroup>,
        parameter_groups: Vec<ParameterGroup>,
        next_address: NextAddress,
    ) -> Self {
        let mut all = ParameterGroup::defaults();
        all.extend(parameter_groups);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            region: region.into(),
            times,
            limits,
            now: Timestamp::UNIX_EPOCH,
            clusters: BTreeMap::new(),
            groups: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            users: User::defaults(),
            user_groups: BTreeMap::new(),
            subnet_groups: subnet_groups
                .into_iter()
                .map(|group| (group.name.clone(), group))
                .collect(),
            parameter_groups: all,
            events: Vec::new(),
            doom: None,
            doomed: BTreeMap::new(),
            next_address,
            works: Vec::new(),
            jobs: Vec::new(),
            counter: 0,
        }
    }

    /// Jobs that have come up since the last call.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Records how a job ended.
    pub fn finished(&mut self, job: u64, result: Result<(), String>) {
        for work in self.works.iter_mut().filter(|work| work.job == Some(job)) {
            work.job = None;
            work.failed = result.clone().err();
        }
    }

    /// Lets time come to `now`: completes what is due and whose processes are ready.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        loop {
            let ready = (self.works.iter().enumerate())
                .filter(|(_, work)| work.job.is_none() && work.due <= self.now)
                .min_by_key(|(_, work)| work.due)
                .map(|(index, _)| index);
            let Some(index) = ready else { return };
            let work = self.works.remove(index);
            self.complete(work.then, work.failed);
        }
    }

    /// When [`Cloud::advance`] has something to do next, as far as time alone decides it.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.works
            .iter()
            .filter(|work| work.job.is_none())
            .map(|work| work.due)
            .min()
    }

    /// Something that takes `time`, and processes for `steps`.
    pub(crate) fn start(&mut self, time: std::time::Duration, steps: Vec<Step>, then: Then) {
        let job = (!steps.is_empty()).then(|| {
            let id = self.next();
            self.jobs.push(Job { id, steps });
            id
        });
        self.works.push(Work {
            due: self.now + time,
            job,
            failed: None,
            then,
        });
    }

    /// Whether the creation of `id` shall fail; its processes are then never started.
    pub(crate) fn dooms(&mut self, id: &str) -> bool {
        let doom = self.doom.take();
        doom.map(|doom| self.doomed.insert(id.to_owned(), doom)).is_some()
    }

    /// A number that is never given twice.
    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A new node in the given availability zone, or the next one round.
    pub(crate) fn new_node(&mut self, id: String, zone: Option<&String>, nth: usize) -> Node {
        let zone = zone.cloned().unwrap_or_else(|| self.zone(nth));
        Node {
            id,
            key: self.next(),
            address: (self.next_address)(),
            zone,
            status: "creating",
            created: self.now,
        }
    }

    /// The availability zones of the region, three, by turns.
    pub(crate) fn zone(&self, nth: usize) -> String {
        let letter = ["a", "b", "c"].into_iter().cycle().nth(nth % 3).unwrap_or("a");
        format!("{}{letter}", self.region)
    }

    pub(crate) fn check_zones(&self, zones: &[String]) -> Outcome<()> {
        match zones.iter().find(|zone| !(0..3).any(|nth| self.zone(nth) == **zone)) {
            Some(zone) => Err(ApiError::value(format!("{zone} is not a valid availability zone."))),
            None => Ok(()),
        }
    }

    /// An ARN of this account (Service Authorization Reference, ElastiCache).
    pub(crate) fn arn(&self, kind: &str, id: &str) -> String {
        format!("arn:aws:elasticache:{}:{ACCOUNT}:{kind}:{id}", self.region)
    }

    pub(crate) fn event(&mut self, kind: &'static str, source: &str, message: impl Into<String>) {
        self.events.push(Event {
            source: source.to_owned(),
            kind,
            message: message.into(),
            date: self.now,
        });
    }

    /// Finds a cluster by an id in any case.
    pub(crate) fn cluster(&self, id: &str) -> Outcome<&Cluster> {
        self.clusters
            .get(&id.to_ascii_lowercase())
            .ok_or_else(|| ApiError::no_cluster(id))
    }

    /// Finds a group by an id in any case.
    pub(crate) fn group(&self, id: &str) -> Outcome<&Group> {
        self.groups
            .get(&id.to_ascii_lowercase())
            .ok_or_else(|| ApiError::no_group(id))
    }

    /// Whether something made at `created` shows in Describe answers yet.
    pub(crate) fn visible(&self, created: Timestamp) -> bool {
        created + self.times.visible <= self.now
    }

    /// How many nodes the account has.
    pub(crate) fn node_count(&self) -> usize {
        self.clusters.values().map(|cluster| cluster.nodes.len()).sum()
    }

    /// Refuses more nodes than the account may have.
    pub(crate) fn room_for(&self, more: usize) -> Outcome<()> {
        if self.node_count() + more > self.limits.nodes {
            return Err(ApiError::new(
                "NodeQuotaForCustomerExceeded",
                format!(
                    "The request would exceed the quota of {} nodes of this account.",
                    self.limits.nodes
                ),
            ));
        }
        Ok(())
    }

    /// One page of a list that is in the order of its keys: `MaxRecords` from 20 to 100, 100 unless told, and a
    /// `Marker` to go on from.
    pub(crate) fn page<T>(&self, p: Params, all: Vec<(String, T)>) -> Outcome<(Option<String>, Vec<T>)> {
        self.page_of(p, all, 100)
    }

    /// As [`Cloud::page`], with another upper bound of `MaxRecords`.
    pub(crate) fn page_of<T>(
        &self,
        p: Params,
        all: Vec<(String, T)>,
        most: usize,
    ) -> Outcome<(Option<String>, Vec<T>)> {
        let size = p.count("MaxRecords")?.unwrap_or(most);
        if !(20..=most).contains(&size) {
            return Err(ApiError::value(format!(
                "Invalid value {size} for MaxRecords. Must be between 20 and {most}"
            )));
        }
        let after = match p.text("Marker") {
            None => None,
            Some(marker) => {
                let decoded = BASE64_URL_SAFE_NO_PAD.decode(marker).ok();
                let key = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
                Some(key.ok_or_else(|| ApiError::value("The Marker is not one that this service gave."))?)
            }
        };
        let rest = all
            .into_iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        let mut page: Vec<(String, T)> = rest.take(size + 1).collect();
        let more = page.len() > size;
        page.truncate(size);
        let marker = page
            .last()
            .filter(|_| more)
            .map(|(key, _)| BASE64_URL_SAFE_NO_PAD.encode(key));
        Ok((marker, page.into_iter().map(|(_, item)| item).collect()))
    }

    /// Finds the subnet group asked for; without one it is `default`, which need not be listed.
    pub(crate) fn subnet_group(&self, name: Option<&str>) -> Outcome<String> {
        let name = name.unwrap_or("default").to_ascii_lowercase();
        if name != "default" && !self.subnet_groups.contains_key(&name) {
            return Err(ApiError::new(
                "CacheSubnetGroupNotFoundFault",
                format!("Cache Subnet Group {name} does not exist."),
            ));
        }
        Ok(name)
    }
}

impl Engine {
    /// Whether replication, snapshots and AUTH exist for it.
    pub(crate) fn replicates(self) -> bool {
        self != Engine::Memcached
    }
}
