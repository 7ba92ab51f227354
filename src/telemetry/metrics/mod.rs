//! What the broker counts and measures, in the Prometheus text format at `/metrics` of the health port.
//!
//! Names and units follow Prometheus' conventions: seconds, totals, and one prefix. Labels are bounded: routes, kinds and
//! outcomes are words of this program, and plans are what an administrator made; no label is what a caller sent.
//!
//! Events are counted where they happen, by the functions of [`record`]. What can be looked up is looked up when somebody
//! asks ([`sources`]): from memory, and with one statement of the ledger that is answered from partial indexes.

mod process;
pub mod record;
pub mod sources;

#[cfg(test)]
mod queries_tests;

use std::borrow::Cow;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Begins the name of every metric but those of the process.
const PREFIX: &str = "cache_broker";
/// From a reply out of memory to one that Postgres keeps waiting.
const REQUEST_SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a restart in the cluster to a large cluster on ElastiCache.
const OPERATION_SECONDS: [f64; 12] = [
    1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0,
];
/// From a look that finds nothing to do to a step that waits for an API's deadline.
const STEP_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 45.0];

/// A gauge with fractions.
type Seconds = Gauge<f64, AtomicU64>;
/// Histograms by labels, each with the same buckets.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($label:ident: $type:ty),* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
            struct $name { $($label: $type),* }
        )*
    };
}

labels! {
    RequestLabels { route: &'static str, plan: Cow<'static, str>, code: u16 }
    RouteLabels { route: &'static str }
    OperationLabels { kind: &'static str, outcome: &'static str }
    KindLabels { kind: &'static str }
    ReconcileLabels { kind: &'static str, outcome: &'static str }
    ErrorLabels { kind: &'static str, error: &'static str }
    CallLabels { operation: Cow<'static, str>, outcome: &'static str }
    CallTimeLabels { operation: Cow<'static, str> }
    SavedLabels { by: &'static str }
    OutcomeLabels { outcome: &'static str }
    PlanLabels { plan: String }
    InstanceLabels { plan: String, condition: &'static str }
    PartLabels { part: &'static str }
    StateLabels { state: &'static str }
}

/// Everything that is counted.
struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms<RouteLabels>,
    operations: Family<OperationLabels, Counter>,
    operation_seconds: Histograms<KindLabels>,
    operations_in_progress: Family<KindLabels, Gauge>,
    operation_oldest: Family<KindLabels, Seconds>,
    operations_late: Gauge,
    outbox_waiting: Gauge,
    outbox_oldest: Seconds,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_seconds: Histograms<KindLabels>,
    reconciles_in_progress: Family<KindLabels, Gauge>,
    reconcile_errors: Family<ErrorLabels, Counter>,
    queue_depth: Family<KindLabels, Gauge>,
    failing: Family<KindLabels, Gauge>,
    aws_calls: Family<CallLabels, Counter>,
    aws_call_seconds: Histograms<CallTimeLabels>,
    aws_throttles: Counter,
    aws_calls_saved: Family<SavedLabels, Counter>,
    aws_rate_wait_seconds: Counter<f64, AtomicU64>,
    webhook_attempts: Family<OutcomeLabels, Counter>,
    webhooks_due: Gauge,
    webhook_oldest: Seconds,
    pool_wanted: Family<PlanLabels, Gauge>,
    pool_ready: Family<PlanLabels, Gauge>,
    pool_claims: Family<PlanLabels, Counter>,
    instances: Family<InstanceLabels, Gauge>,
    leader: Gauge,
    leader_terms: Counter,
    ready: Family<PartLabels, Gauge>,
    database_connections: Family<StateLabels, Gauge>,
    database_connections_max: Gauge,
    database_waiting: Gauge,
    scrape_errors: Counter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

fn histograms<L>(buckets: fn() -> Histogram) -> Histograms<L>
where
    L: Clone + std::hash::Hash + Eq,
{
    Family::new_with_constructor(buckets)
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: histograms(|| Histogram::new(REQUEST_SECONDS)),
            operations: Family::default(),
            operation_seconds: histograms(|| Histogram::new(OPERATION_SECONDS)),
            operations_in_progress: Family::default(),
            operation_oldest: Family::default(),
            operations_late: Gauge::default(),
            outbox_waiting: Gauge::default(),
            outbox_oldest: Seconds::default(),
            reconciles: Family::default(),
            reconcile_seconds: histograms(|| Histogram::new(STEP_SECONDS)),
            reconciles_in_progress: Family::default(),
            reconcile_errors: Family::default(),
            queue_depth: Family::default(),
            failing: Family::default(),
            aws_calls: Family::default(),
            aws_call_seconds: histograms(|| Histogram::new(STEP_SECONDS)),
            aws_throttles: Counter::default(),
            aws_calls_saved: Family::default(),
            aws_rate_wait_seconds: Counter::default(),
            webhook_attempts: Family::default(),
            webhooks_due: Gauge::default(),
            webhook_oldest: Seconds::default(),
            pool_wanted: Family::default(),
            pool_ready: Family::default(),
            pool_claims: Family::default(),
            instances: Family::default(),
            leader: Gauge::default(),
            leader_terms: Counter::default(),
            ready: Family::default(),
            database_connections: Family::default(),
            database_connections_max: Gauge::default(),
            database_waiting: Gauge::default(),
            scrape_errors: Counter::default(),
        };
        metrics.register();
        metrics
    }

    /// Gives every metric its name and its sentence.
    fn register(&mut self) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let own = registry.sub_registry_with_prefix(PREFIX);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        own.register("build", "The version of the broker", build);

        own.register(
            "osb_requests",
            "Requests of the OSB API that were answered",
            self.requests.clone(),
        );
        own.register_with_unit(
            "osb_request_duration",
            "How long requests of the OSB API took until they were answered",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        own.register(
            "operations",
            "Operations that ended in this process",
            self.operations.clone(),
        );
        own.register_with_unit(
            "operation_duration",
            "How long operations took from their acceptance to their end",
            Unit::Seconds,
            self.operation_seconds.clone(),
        );
        own.register(
            "operations_in_progress",
            "Operations that were accepted and did not end yet",
            self.operations_in_progress.clone(),
        );
        own.register_with_unit(
            "operation_oldest",
            "Age of the oldest operation in progress",
            Unit::Seconds,
            self.operation_oldest.clone(),
        );
        own.register(
            "operations_late",
            "Operations in progress that are past their deadline",
            self.operations_late.clone(),
        );
        own.register(
            "outbox_waiting",
            "Accepted changes that were not written to the cluster yet",
            self.outbox_waiting.clone(),
        );
        own.register_with_unit(
            "outbox_oldest",
            "For how long the first accepted change has been waiting to be written to the cluster",
            Unit::Seconds,
            self.outbox_oldest.clone(),
        );

        own.register("reconciles", "Reconciles that ended", self.reconciles.clone());
        own.register_with_unit(
            "reconcile_duration",
            "How long reconciles took",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        own.register(
            "reconciles_in_progress",
            "Reconciles under way",
            self.reconciles_in_progress.clone(),
        );
        own.register(
            "reconcile_errors",
            "Reconciles and steps that failed, by what failed",
            self.reconcile_errors.clone(),
        );
        own.register(
            "queue_depth",
            "Objects that changed since they were looked at last, and nudges that wait",
            self.queue_depth.clone(),
        );
        own.register(
            "failing_objects",
            "Objects whose last try failed and that are tried again",
            self.failing.clone(),
        );

        own.register(
            "aws_calls",
            "Requests that were sent to AWS, each try of a call counted",
            self.aws_calls.clone(),
        );
        own.register_with_unit(
            "aws_call_duration",
            "How long calls of AWS took, their tries together",
            Unit::Seconds,
            self.aws_call_seconds.clone(),
        );
        own.register(
            "aws_throttles",
            "Requests that AWS refused as too many",
            self.aws_throttles.clone(),
        );
        own.register(
            "aws_calls_saved",
            "Calls of AWS that were not needed, since a list told of many caches or nothing had changed",
            self.aws_calls_saved.clone(),
        );
        own.register_with_unit(
            "aws_rate_limit_wait",
            "For how long calls of AWS waited for their turn under AWS_CALLS_PER_SECOND",
            Unit::Seconds,
            self.aws_rate_wait_seconds.clone(),
        );

        own.register(
            "webhook_attempts",
            "Attempts to deliver a webhook: delivered, failed and tried again, or dead",
            self.webhook_attempts.clone(),
        );
        own.register(
            "webhooks_due",
            "Webhooks that wait to be delivered",
            self.webhooks_due.clone(),
        );
        own.register_with_unit(
            "webhook_oldest_due",
            "Age of the oldest webhook that waits to be delivered",
            Unit::Seconds,
            self.webhook_oldest.clone(),
        );

        own.register(
            "pool_wanted",
            "Instances that are to be kept ready ahead of orders",
            self.pool_wanted.clone(),
        );
        own.register(
            "pool_ready",
            "Instances that stand ready ahead of orders",
            self.pool_ready.clone(),
        );
        own.register(
            "pool_claims",
            "Orders that were answered at once with an instance that stood ready",
            self.pool_claims.clone(),
        );
        own.register(
            "instances",
            "Instances by plan and by the condition that describes them: Ready, Reconciling, Stalled or Unknown",
            self.instances.clone(),
        );

        own.register(
            "leader",
            "Whether this process leads the operators",
            self.leader.clone(),
        );
        own.register(
            "leader_terms",
            "How often this process began to lead",
            self.leader_terms.clone(),
        );
        own.register("ready", "Whether a part of this process is ready", self.ready.clone());
        own.register(
            "database_connections",
            "Connections to Postgres",
            self.database_connections.clone(),
        );
        own.register(
            "database_connections_max",
            "Connections to Postgres that this process may open",
            self.database_connections_max.clone(),
        );
        own.register(
            "database_waiting",
            "Callers that wait for a connection to Postgres",
            self.database_waiting.clone(),
        );
        own.register(
            "scrape_errors",
            "Times that the ledger could not be asked for what is in progress and due",
            self.scrape_errors.clone(),
        );
        self.registry = registry;
    }
}

/// The content type of [`text()`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as they stand, in the OpenMetrics text format.
pub fn text() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut text, &METRICS.registry);
    text
}
