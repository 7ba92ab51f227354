//! What is looked up when somebody asks for the metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{InstanceLabels, KindLabels, METRICS, PartLabels, PlanLabels, StateLabels};

/// Looks at something and sets gauges.
type Look = Arc<dyn Fn() + Send + Sync>;

static LOOKS: Mutex<BTreeMap<u64, Look>> = Mutex::new(BTreeMap::new());

/// A source of gauges. Dropping it ends the looking, and tells the gauges that nobody looks any more.
#[must_use]
pub struct Source {
    id: u64,
    gone: fn(),
}

impl Drop for Source {
    fn drop(&mut self) {
        LOOKS.lock().remove(&self.id);
        (self.gone)();
    }
}

fn source(look: impl Fn() + Send + Sync + 'static, gone: fn()) -> Source {
    let mut looks = LOOKS.lock();
    let id = looks.last_key_value().map_or(0, |(last, _)| last + 1);
    looks.insert(id, Arc::new(look));
    Source { id, gone }
}

/// Looks at everything that is in memory.
pub fn look() {
    let looks: Vec<Look> = LOOKS.lock().values().cloned().collect();
    for look in looks {
        look();
    }
}

/// What is true of an instance, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// It does what it is to do.
    Ready,
    /// Something is going on.
    Reconciling,
    /// It needs a person.
    Stalled,
    /// Nothing was said of it yet.
    Unknown,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Ready, Self::Reconciling, Self::Stalled, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Unknown => "Unknown",
        }
    }
}

/// What the leader knows of plans, instances and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many instances of each plan are in which condition.
    pub instances: HashMap<(String, Condition), i64>,
    /// How many are kept ready ahead, and how many are to be, of each plan that has a pool.
    pub pools: HashMap<String, (i64, i64)>,
    /// How many objects of a kind wait because their last try failed.
    pub failing: Vec<(&'static str, usize)>,
}

/// Has what this process leads over looked at while it leads.
pub fn leads(standing: impl Fn() -> Standing + Send + Sync + 'static) -> Source {
    METRICS.leader.set(1);
    METRICS.leader_terms.inc();
    source(
        move || show(&standing()),
        || {
            METRICS.leader.set(0);
            show(&Standing::default());
            METRICS.queue_depth.clear();
            METRICS.failing.clear();
        },
    )
}

fn show(standing: &Standing) {
    // What is gone must not stay.
    METRICS.instances.clear();
    let plans: std::collections::BTreeSet<&String> = standing.instances.keys().map(|(plan, _)| plan).collect();
    for plan in plans {
        for condition in Condition::ALL {
            let count = standing.instances.get(&(plan.clone(), condition)).copied();
            let labels = InstanceLabels {
                plan: plan.clone(),
                condition: condition.as_str(),
            };
            METRICS.instances.get_or_create(&labels).set(count.unwrap_or(0));
        }
    }
    METRICS.pool_wanted.clear();
    METRICS.pool_ready.clear();
    for (plan, (ready, wanted)) in &standing.pools {
        let labels = PlanLabels { plan: plan.clone() };
        METRICS.pool_ready.get_or_create(&labels).set(*ready);
        METRICS.pool_wanted.get_or_create(&labels).set(*wanted);
        // Shown from the first look on, so that rates have a beginning.
        drop(METRICS.pool_claims.get_or_create(&labels));
    }
    for (kind, count) in &standing.failing {
        METRICS
            .failing
            .get_or_create(&KindLabels { kind })
            .set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
}

/// Has looked at what of a kind waits to be reconciled: nudges in queues, and objects that changed since the last look.
pub fn queue<T: Send + 'static>(
    kind: &'static str,
    queues: Vec<mpsc::WeakSender<T>>,
    behind: impl Fn() -> usize + Send + Sync + 'static,
) -> Source {
    let depth = |queue: &mpsc::WeakSender<T>| {
        let queue = queue.upgrade()?;
        Some(queue.max_capacity().saturating_sub(queue.capacity()))
    };
    source(
        move || {
            let waiting = queues.iter().filter_map(depth).sum::<usize>() + behind();
            METRICS
                .queue_depth
                .get_or_create(&KindLabels { kind })
                .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        },
        || {},
    )
}

/// Says whether a part of the process is ready.
pub fn ready(part: &'static str, is_ready: bool) {
    METRICS
        .ready
        .get_or_create(&PartLabels { part })
        .set(i64::from(is_ready));
}

/// The connections of a process to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// How many are open.
    pub open: usize,
    /// How many of those nobody uses.
    pub idle: usize,
    /// How many there may be.
    pub max: usize,
    /// How many callers wait for one.
    pub waiting: usize,
}

/// Has connections looked at.
pub fn database(connections: impl Fn() -> Connections + Send + Sync + 'static) -> Source {
    source(
        move || {
            let now = connections();
            let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            let used = now.open.saturating_sub(now.idle);
            for (state, number) in [("used", used), ("idle", now.idle.min(now.open))] {
                METRICS
                    .database_connections
                    .get_or_create(&StateLabels { state })
                    .set(count(number));
            }
            METRICS.database_connections_max.set(count(now.max));
            METRICS.database_waiting.set(count(now.waiting));
        },
        || {},
    )
}

/// What is under way, by the ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnderWay {
    /// Operations in progress by kind: how many, and for how many seconds the oldest.
    pub operations: Vec<(&'static str, i64, f64)>,
    /// How many of them are past their deadline.
    pub late: i64,
    /// Webhooks that are due: how many, and since how many seconds the oldest.
    pub webhooks: (i64, f64),
    /// Accepted changes that were not written to the cluster: how many, and since how many seconds the first.
    pub outbox: (i64, f64),
}

/// Shows what the ledger said, or that it could not be asked; then the gauges stay as they are.
pub fn under_way(asked: Option<&UnderWay>) {
    let Some(now) = asked else {
        METRICS.scrape_errors.inc();
        return;
    };
    for (kind, count, oldest) in &now.operations {
        METRICS
            .operations_in_progress
            .get_or_create(&KindLabels { kind })
            .set(*count);
        METRICS
            .operation_oldest
            .get_or_create(&KindLabels { kind })
            .set(*oldest);
    }
    METRICS.operations_late.set(now.late);
    METRICS.webhooks_due.set(now.webhooks.0);
    METRICS.webhook_oldest.set(now.webhooks.1);
    METRICS.outbox_waiting.set(now.outbox.0);
    METRICS.outbox_oldest.set(now.outbox.1);
}
