use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::elasticache::{Phase, SnapshotState};
use super::{
    Cluster, Decision, Desired, Done, Existence, Fault, Next, Place, Step, elasticache, kubernetes, succession,
};
use crate::api::conditions::{Progress, Reason};
use crate::api::{CacheInstance, ProviderKind, ProviderSpec};
use crate::wire::Trust;

/// Every provider that is switched on, with what it needs to work.
#[derive(Clone)]
pub struct Providers {
    /// The cluster.
    pub kube: kube::Client,
    /// What stands in the cluster.
    pub stores: kubernetes::Stores,
    /// How in-cluster caches are placed; `None` where that provider is switched off.
    pub kubernetes: Option<kubernetes::Placement>,
    /// ElastiCache; `None` where that provider is switched off.
    pub elasticache: Option<ElastiCache>,
    /// Whose certificates caches may have.
    pub trust: Trust,
    /// What Pods said that they run.
    pub versions: Arc<kubernetes::Versions>,
}

/// ElastiCache, switched on.
#[derive(Clone)]
pub struct ElastiCache {
    /// What ElastiCache holds.
    pub poller: elasticache::Poller,
    /// What fills plans.
    pub defaults: elasticache::Defaults,
}

/// Which providers are switched on, and the settings that decisions there depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// How in-cluster caches are placed.
    pub kubernetes: Option<kubernetes::Placement>,
    /// What fills plans of ElastiCache.
    pub elasticache: Option<elasticache::Defaults>,
}

impl Switches {
    /// Whether a provider is switched on.
    pub fn enabled(&self, kind: ProviderKind) -> bool {
        match kind {
            ProviderKind::Kubernetes => self.kubernetes.is_some(),
            ProviderKind::ElastiCache => self.elasticache.is_some(),
        }
    }
}

/// What was observed of one of an instance's caches.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// In the cluster.
    Kubernetes(Box<kubernetes::Observed>),
    /// On ElastiCache.
    ElastiCache(Box<elasticache::Observed>),
    /// Nowhere: its provider is switched off.
    Disabled(ProviderKind),
}

/// What was observed of an instance's caches, beside its record of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The one that serves, or is to serve first.
    pub serving: Seen,
    /// The one that is being made to take its place.
    pub replacement: Option<Seen>,
    /// Those whose place was taken, in the record's order.
    pub superseded: Vec<Seen>,
    /// Snapshots that such caches are filled from, by name, while there is more than one cache.
    pub seeds: BTreeMap<String, SnapshotState>,
}

impl Providers {
    /// The same, with nothing remembered of what ElastiCache holds.
    pub fn renewed(&self) -> Self {
        Self {
            elasticache: self.elasticache.as_ref().map(|elasticache| ElastiCache {
                poller: elasticache.poller.renewed(),
                defaults: elasticache.defaults.clone(),
            }),
            ..self.clone()
        }
    }

    /// Whether a provider is switched on.
    pub fn enabled(&self, kind: ProviderKind) -> bool {
        match kind {
            ProviderKind::Kubernetes => self.kubernetes.is_some(),
            ProviderKind::ElastiCache => self.elasticache.is_some(),
        }
    }

    fn switches(&self) -> Switches {
        Switches {
            kubernetes: self.kubernetes.clone(),
            elasticache: self
                .elasticache
                .as_ref()
                .map(|elasticache| elasticache.defaults.clone()),
        }
    }

    /// Gathers what there is of an instance.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn observe(&self, desired: &Desired) -> Result<Observed, Fault> {
        let record = &desired.record;
        let serving = match &record.serving {
            Some(place) => self.observe_at(desired, place).await?,
            None => match desired.plan.provider() {
                Some(ProviderSpec::ElastiCache(_)) => self.observe_cluster(desired, None).await?,
                // A plan always has a provider; one that had none would be found out as disabled.
                Some(ProviderSpec::Kubernetes(_)) | None => self.observe_first(desired).await?,
            },
        };
        let replacement = match &record.replacement {
            Some(place) => Some(self.observe_at(desired, place).await?),
            None => None,
        };
        let mut superseded = Vec::new();
        let going = Desired {
            existence: Existence::Superseded,
            ..desired.clone()
        };
        for each in &record.superseded {
            superseded.push(self.observe_at(&going, &each.place).await?);
        }
        Ok(Observed {
            serving,
            replacement,
            superseded,
            seeds: self.observe_seeds(desired).await?,
        })
    }

    async fn observe_seeds(&self, desired: &Desired) -> Result<BTreeMap<String, SnapshotState>, Fault> {
        let record = &desired.record;
        let alone = record.replacement.is_none() && record.superseded.is_empty();
        let Some(elasticache) = self.elasticache.as_ref().filter(|_| !alone) else {
            return Ok(BTreeMap::new());
        };
        let mut seeds = BTreeMap::new();
        // Nothing was there before the first.
        for cluster in record.clusters().filter(|cluster| cluster.generation > 0) {
            let name = elasticache::seed_name(&cluster.target.id);
            if let Some(found) = elasticache.poller.client().snapshot(&name).await? {
                seeds.insert(name, found.state);
            }
        }
        Ok(seeds)
    }

    async fn observe_at(&self, desired: &Desired, place: &Place) -> Result<Seen, Fault> {
        match place {
            Place::Kubernetes => self.observe_objects(desired).await,
            Place::ElastiCache(cluster) => self.observe_cluster(desired, Some(cluster)).await,
        }
    }

    async fn observe_objects(&self, desired: &Desired) -> Result<Seen, Fault> {
        if self.kubernetes.is_none() {
            return Ok(Seen::Disabled(ProviderKind::Kubernetes));
        }
        let mut observed = self.stores.observe(&desired.namespace, &desired.name)?;
        if desired.existence == Existence::Present {
            kubernetes::ask(&self.kube, &self.trust, desired, &mut observed).await?;
            self.versions.ask(&self.trust, desired, &mut observed).await;
        }
        Ok(Seen::Kubernetes(Box::new(observed)))
    }

    /// The objects of an instance that has none on record.
    async fn observe_first(&self, desired: &Desired) -> Result<Seen, Fault> {
        let mut seen = self.observe_objects(desired).await?;
        if let Seen::Kubernetes(observed) = &mut seen
            && desired.took_over_workload()
            && desired.existence == Existence::Present
        {
            observed.found = Some(kubernetes::adopt::find(&self.kube, desired).await?);
        }
        Ok(seen)
    }

    async fn observe_cluster(&self, desired: &Desired, at: Option<&Cluster>) -> Result<Seen, Fault> {
        let Some(elasticache) = &self.elasticache else {
            return Ok(Seen::Disabled(ProviderKind::ElastiCache));
        };
        let secrets = self.stores.secrets_of(&desired.namespace, &desired.name)?;
        let seen = elasticache::observe(
            &self.kube,
            &elasticache.poller,
            desired,
            at,
            &elasticache.defaults,
            secrets,
        )
        .await?;
        Ok(Seen::ElastiCache(Box::new(seen)))
    }

    /// What to do next. Pure: it does no I/O.
    pub fn decide(&self, desired: &Desired, observed: &Observed, now: Timestamp) -> Decision<Step> {
        succession::decide(&self.switches(), desired, observed, now)
    }

    /// Does a step. Returns when to decide anew.
    ///
    /// # Errors
    /// When the provider refuses or does not answer.
    pub async fn act(&self, desired: &Desired, step: &Step) -> Result<Done, Fault> {
        match (step, &self.elasticache) {
            (Step::Kubernetes(step), _) => kubernetes::act(&self.kube, &self.trust, desired, &self.stores, step).await,
            (Step::ElastiCache(step), Some(elasticache)) => {
                elasticache::act(&self.kube, &self.stores, elasticache, desired, step).await
            }
            (Step::ElastiCache(_), None) => Err(Fault::refused("ElastiCache is switched off: set AWS_REGION")),
        }
    }

    /// Tells the providers whether an instance still waits for something there.
    pub fn settle(&self, desired: &Desired, observed: &Observed, decision: &Decision<Step>) {
        let Some(elasticache) = &self.elasticache else { return };
        let waits = matches!(
            decision.report.progress,
            Progress::Reconciling | Progress::ReadyAndReconciling
        ) && decision.report.reason != Reason::AwaitingMaintenance
            || matches!(
                decision.report.reason,
                Reason::Snapshotting | Reason::ProviderStateOverdue
            )
            || desired.existence != Existence::Present;
        let beside = observed.replacement.iter().map(|seen| (seen, waits));
        // The instance is at rest while what it superseded goes.
        let going = observed.superseded.iter().map(|seen| (seen, waits || is_passing(seen)));
        for (seen, waits) in std::iter::once((&observed.serving, waits)).chain(beside).chain(going) {
            let Seen::ElastiCache(seen) = seen else { continue };
            let target = &seen.place.target;
            if decision.step == Next::Release {
                elasticache.poller.forget(target);
            } else {
                let instance = ObjectRef::<CacheInstance>::new(&desired.name).within(&desired.namespace);
                let in_flight = waits && seen.live.is_some();
                elasticache.poller.interest(target, instance, in_flight);
            }
        }
    }
}

/// Whether a cache is in a state that ends by itself.
fn is_passing(seen: &Seen) -> bool {
    let Seen::ElastiCache(seen) = seen else {
        return false;
    };
    seen.live.as_ref().is_some_and(|live| {
        matches!(
            live.phase,
            Phase::Creating | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting | Phase::Deleting
        )
    })
}
