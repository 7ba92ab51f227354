//! What exists already, as far as an import must know: caches on ElastiCache and in the cluster, plans, and what was
//! imported before.

use std::collections::BTreeMap;

use super::plans::OldProvider;
use crate::api::EngineType;
use crate::ledger::import::Holdings;
use crate::provider::kubernetes::adopt::Found;

/// All of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Cache clusters of the region, by id.
    pub clusters: Looked<BTreeMap<String, Cluster>>,
    /// Deployments and Services of the old broker's namespaces, by namespace and name.
    pub workloads: Looked<BTreeMap<(String, String), Found>>,
    /// Namespaces whose instances are looked after; all if `None`.
    pub watched: Option<std::collections::BTreeSet<String>>,
    /// Where instances on ElastiCache go.
    pub namespaces: crate::api::Namespaces,
    /// What the ledger holds.
    pub holdings: Holdings,
    /// Whether webhooks may go to private addresses.
    pub webhooks: crate::webhooks::Policy,
}

/// What was found where it was looked, or why it was not.
#[derive(Clone, Debug)]
pub enum Looked<T> {
    /// This was found.
    Found(T),
    /// It was not looked: what to do.
    Not(String),
}

/// A cache cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its engine.
    pub engine: Option<EngineType>,
    /// How many nodes it has.
    pub nodes: usize,
    /// The replication group that it is a member of.
    pub group: Option<String>,
    /// Where it answers: `host:port`.
    pub address: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its tag `BillingCode`: the organization that it was ordered for.
    pub billing_code: Option<String>,
    /// The uid of the `CacheInstance` that it belongs to, by our tag.
    pub owner: Option<String>,
}

/// A plan of the old broker, as its instances need it.
#[derive(Clone, Debug)]
pub struct PlanFate {
    /// The OSB id of its service.
    pub service_id: String,
    /// The name of its `CachePlan`.
    pub name: String,
    /// What its instances are taken over by, or why they are not.
    pub usable: Result<Usable, String>,
}

/// A plan whose instances can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Who made its instances.
    pub provider: OldProvider,
    /// The revision that describes them.
    pub revision: i64,
    /// How many its pool keeps.
    pub preprovision: usize,
    /// How long an operation may take.
    pub deadline: std::time::Duration,
}
