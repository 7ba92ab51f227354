use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::{Decision, Desired, Existence, Fault, Next, Report, Step, elasticache, kubernetes};
use crate::api::conditions::{Progress, Reason};
use crate::api::{CacheInstance, ProviderKind, ProviderSpec};

/// How soon to decide anew after a step in the cluster, unless its objects change before.
const AFTER_CLUSTER_STEP: Duration = Duration::from_secs(1);

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
}

/// ElastiCache, switched on.
#[derive(Clone)]
pub struct ElastiCache {
    /// What ElastiCache holds.
    pub poller: elasticache::Poller,
    /// What fills plans.
    pub defaults: elasticache::Defaults,
}

/// What was observed for one instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// In the cluster.
    Kubernetes(kubernetes::Observed),
    /// On ElastiCache.
    ElastiCache(elasticache::Target, Box<elasticache::Observed>),
    /// Nowhere: its provider is switched off.
    Disabled(ProviderKind),
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

    /// Gathers what there is of an instance.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn observe(&self, desired: &Desired) -> Result<Observed, Fault> {
        match desired.plan.provider() {
            Some(ProviderSpec::ElastiCache(_)) => match &self.elasticache {
                Some(elasticache) => {
                    let secrets = self.stores.secrets_of(&desired.namespace, &desired.name);
                    let (target, observed) =
                        elasticache::observe(&elasticache.poller, desired, &elasticache.defaults, secrets).await?;
                    Ok(Observed::ElastiCache(target, Box::new(observed)))
                }
                None => Ok(Observed::Disabled(ProviderKind::ElastiCache)),
            },
            // A plan always has a provider; one that had none would be found out as disabled.
            Some(ProviderSpec::Kubernetes(_)) | None if self.kubernetes.is_some() => Ok(Observed::Kubernetes(
                self.stores.observe(&desired.namespace, &desired.name),
            )),
            Some(ProviderSpec::Kubernetes(_)) | None => Ok(Observed::Disabled(ProviderKind::Kubernetes)),
        }
    }

    /// What to do next. Pure: it does no I/O.
    pub fn decide(&self, desired: &Desired, observed: &Observed, now: Timestamp) -> Decision<Step> {
        match (observed, desired.plan.provider()) {
            (Observed::Kubernetes(observed), Some(ProviderSpec::Kubernetes(spec))) => match &self.kubernetes {
                Some(placement) => kubernetes::decide(desired, spec, placement, observed, now).map(Step::Kubernetes),
                None => disabled(desired, ProviderKind::Kubernetes),
            },
            (Observed::ElastiCache(_, observed), Some(ProviderSpec::ElastiCache(spec))) => match &self.elasticache {
                Some(elasticache) => {
                    elasticache::decide(desired, spec, &elasticache.defaults, observed).map(Step::ElastiCache)
                }
                None => disabled(desired, ProviderKind::ElastiCache),
            },
            (Observed::Disabled(kind), _) => disabled(desired, *kind),
            (Observed::Kubernetes(_), _) => disabled(desired, ProviderKind::Kubernetes),
            (Observed::ElastiCache(..), _) => disabled(desired, ProviderKind::ElastiCache),
        }
    }

    /// Does a step. Returns how soon to decide anew.
    ///
    /// # Errors
    /// When the provider refuses or does not answer.
    pub async fn act(&self, desired: &Desired, observed: &Observed, step: &Step) -> Result<Duration, Fault> {
        match (step, observed, &self.elasticache) {
            (Step::Kubernetes(step), _, _) => {
                kubernetes::act(&self.kube, desired, step).await?;
                Ok(AFTER_CLUSTER_STEP)
            }
            (Step::ElastiCache(step), Observed::ElastiCache(_, observed), Some(elasticache)) => {
                elasticache::act(&self.kube, &elasticache.poller, desired, observed, step).await?;
                Ok(match step {
                    elasticache::Step::Secret(_) => AFTER_CLUSTER_STEP,
                    _ => Duration::ZERO,
                })
            }
            (Step::ElastiCache(_), _, _) => Err(Fault::refused("ElastiCache is switched off: set AWS_REGION")),
        }
    }

    /// Tells the providers whether an instance still waits for something there.
    pub fn settle(&self, desired: &Desired, observed: &Observed, decision: &Decision<Step>) {
        let (Observed::ElastiCache(target, seen), Some(elasticache)) = (observed, &self.elasticache) else {
            return;
        };
        if decision.step == Next::Release {
            elasticache.poller.forget(target);
        } else {
            let in_flight = seen.live.is_some() && decision.report.progress == Progress::Reconciling
                || decision.report.progress == Progress::ReadyAndReconciling
                || decision.report.reason == Reason::Snapshotting;
            let instance = ObjectRef::<CacheInstance>::new(&desired.name).within(&desired.namespace);
            elasticache.poller.interest(target, instance, in_flight);
        }
    }
}

fn disabled(desired: &Desired, kind: ProviderKind) -> Decision<Step> {
    let variable = match kind {
        ProviderKind::ElastiCache => "AWS_REGION",
        ProviderKind::Kubernetes => "USE_KUBERNETES=true",
    };
    let what = match desired.existence {
        Existence::Present => "made",
        Existence::Absent(_) | Existence::Superseded => "deleted",
    };
    let message = format!(
        "the plan is made by {}, which the operator's settings switch off: nothing is {what} until {variable} is set",
        kind.as_str()
    );
    let report = Report::new(
        Progress::Stalled,
        Reason::ProviderDisabled,
        message,
        desired.record.clone(),
    );
    Decision::rest(report)
}
