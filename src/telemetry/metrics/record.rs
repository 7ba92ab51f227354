//! What is counted when it happens.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::{
    CallLabels, CallTimeLabels, ErrorLabels, KindLabels, METRICS, OperationLabels, OutcomeLabels, PlanLabels,
    ReconcileLabels, RequestLabels, RouteLabels, SavedLabels,
};

/// A request of the OSB API was answered. `plan` is the name of the CachePlan it is about, empty where it names none.
pub fn request(route: &'static str, plan: Cow<'static, str>, code: u16, took: Duration) {
    METRICS
        .requests
        .get_or_create(&RequestLabels { route, plan, code })
        .inc();
    METRICS
        .request_seconds
        .get_or_create(&RouteLabels { route })
        .observe(took.as_secs_f64());
}

/// An operation ended.
pub fn operation_ended(kind: &'static str, outcome: &'static str, took: Duration) {
    METRICS
        .operations
        .get_or_create(&OperationLabels { kind, outcome })
        .inc();
    METRICS
        .operation_seconds
        .get_or_create(&KindLabels { kind })
        .observe(took.as_secs_f64());
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// It did what it was to do, or found nothing to do.
    Done,
    /// It failed, and is tried again.
    Failed,
    /// Its process lost the lease, or ends.
    Dropped,
}

impl Reconciled {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A reconcile under way. It counts as dropped unless it is told how it ended.
#[derive(Debug)]
pub struct Reconcile {
    kind: &'static str,
    began: Instant,
    ended: Reconciled,
}

/// Begins a reconcile of an object of a kind.
pub fn reconcile(kind: &'static str) -> Reconcile {
    METRICS.reconciles_in_progress.get_or_create(&KindLabels { kind }).inc();
    Reconcile {
        kind,
        began: Instant::now(),
        ended: Reconciled::Dropped,
    }
}

impl Reconcile {
    /// Ends it.
    pub fn end(mut self, how: Reconciled) {
        self.ended = how;
    }
}

impl Drop for Reconcile {
    fn drop(&mut self) {
        let (kind, outcome) = (self.kind, self.ended.as_str());
        METRICS.reconciles_in_progress.get_or_create(&KindLabels { kind }).dec();
        METRICS
            .reconciles
            .get_or_create(&ReconcileLabels { kind, outcome })
            .inc();
        METRICS
            .reconcile_seconds
            .get_or_create(&KindLabels { kind })
            .observe(self.began.elapsed().as_secs_f64());
    }
}

/// A reconcile of a kind, or a step of it, failed; `error` is a word for what failed.
pub fn reconcile_error(kind: &'static str, error: &'static str) {
    METRICS
        .reconcile_errors
        .get_or_create(&ErrorLabels { kind, error })
        .inc();
}

/// How a request to AWS ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Well.
    Done,
    /// AWS refused it as one too many.
    Throttled,
    /// What it names is not there.
    NotFound,
    /// A quota of the account is used up.
    Quota,
    /// AWS does not allow this to whoever asks, or does not know them.
    Denied,
    /// AWS refused it for another reason, such as a cache that is busy.
    Refused,
    /// AWS failed.
    Failed,
    /// There was no answer.
    Lost,
}

impl Answer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Throttled => "throttled",
            Self::NotFound => "not_found",
            Self::Quota => "quota",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Lost => "no_answer",
        }
    }
}

/// One try of a call of AWS was answered, or not. `operation` is a name of the SDK's.
pub fn aws_call(operation: &str, answer: Answer) {
    if answer == Answer::Throttled {
        METRICS.aws_throttles.inc();
    }
    let labels = CallLabels {
        operation: Cow::Owned(operation.to_owned()),
        outcome: answer.as_str(),
    };
    METRICS.aws_calls.get_or_create(&labels).inc();
}

/// A call of AWS ended, all its tries together.
pub fn aws_call_ended(operation: &str, took: Duration) {
    METRICS
        .aws_call_seconds
        .get_or_create(&CallTimeLabels {
            operation: Cow::Owned(operation.to_owned()),
        })
        .observe(took.as_secs_f64());
}

/// A call of AWS waited for its turn.
pub fn aws_rate_waited(wait: Duration) {
    METRICS.aws_rate_wait_seconds.inc_by(wait.as_secs_f64());
}

/// What spared calls of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedBy {
    /// A list told of many caches in a call.
    List,
    /// What was last seen still held.
    Memory,
}

/// Calls of AWS were not needed.
pub fn aws_calls_saved(by: SavedBy, calls: usize) {
    let by = match by {
        SavedBy::List => "list",
        SavedBy::Memory => "memory",
    };
    METRICS
        .aws_calls_saved
        .get_or_create(&SavedLabels { by })
        .inc_by(u64::try_from(calls).unwrap_or(u64::MAX));
}

/// What became of an attempt to deliver a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver took it.
    Delivered,
    /// It did not, and is asked again.
    Failed,
    /// It did not, and is not asked again.
    Dead,
}

/// An attempt to deliver a webhook ended.
pub fn webhook(delivery: Delivery) {
    let outcome = match delivery {
        Delivery::Delivered => "delivered",
        Delivery::Failed => "failed",
        Delivery::Dead => "dead",
    };
    METRICS.webhook_attempts.get_or_create(&OutcomeLabels { outcome }).inc();
}

/// An order was answered with a member of a pool.
pub fn pool_claim(plan: &str) {
    let plan = plan.to_owned();
    METRICS.pool_claims.get_or_create(&PlanLabels { plan }).inc();
}
