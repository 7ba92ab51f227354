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
use super::catalog::ParameterGroup;
use super::error::{ApiError, Outcome};
use super::model::{Cluster, Event, Group, Limits, Node, Snapshot, SubnetGroup};
use super::nodes::{Job, Step};
use super::query::Params;
use super::users::{User, UserGroup};

/// The account everything belongs to.
pub(crate) const ACCOUNT: &str = "000000000000";

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
    /// A final snapshot is ready: what was saved goes now.
    Saved(String, Vec<Step>, Box<Then>),
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
    pub fn finished(&mut self, job: u64, result: &Result<(), String>) {
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

    /// Makes a cluster or group show a status. Whether it exists.
    pub fn force_status(&mut self, id: &str, status: &str) -> bool {
        let known = self.groups.contains_key(id) || self.clusters.contains_key(id);
        if let Some(group) = self.groups.get_mut(id) {
            group.status = status.to_owned();
        } else {
            self.set_status(id, status);
        }
        known
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
