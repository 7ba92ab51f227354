//! The ElastiCache API as this provider uses it: typed calls, a rate limit, deadlines, and errors sorted into faults.
//!
//! Error codes on the wire are irregular (some carry `Fault`, some do not), so errors are told apart by the SDK's typed
//! variants and never by their text.

mod access;
mod change;
mod counting;
mod describe;
mod snapshots;
mod survey;
mod users;
mod view;

pub use snapshots::{Snapshot, SnapshotState};
pub use survey::{Found, FoundKind, FoundOwner};

use std::fmt::Debug;
use std::time::Duration;

use aws_sdk_elasticache::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Fault;
use crate::telemetry::metrics::record;

/// How long a call may take, with the tries that the SDK makes of it.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(45);

/// Bounds on calls to AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls a second on average; twice as many may come at once.
    pub calls_per_second: u32,
}

/// The API of one region and account.
#[derive(Debug)]
pub struct Client {
    sdk: aws_sdk_elasticache::Client,
    bucket: Mutex<Bucket>,
    rate: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Client {
    /// A client by the SDK's credential chain, for a region and perhaps an endpoint that is not AWS's own.
    pub async fn new(region: String, endpoint: Option<String>, limits: Limits) -> Self {
        let timeouts = aws_config::timeout::TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(Duration::from_secs(15))
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(region))
            .timeout_config(timeouts)
            .retry_config(aws_config::retry::RetryConfig::standard().with_max_attempts(3));
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        let config = aws_sdk_elasticache::config::Builder::from(&config.load().await)
            .interceptor(counting::Counting)
            .build();
        Self::from_sdk(aws_sdk_elasticache::Client::from_conf(config), limits)
    }

    /// A client over one of the SDK's.
    pub fn from_sdk(sdk: aws_sdk_elasticache::Client, limits: Limits) -> Self {
        let rate = f64::from(limits.calls_per_second);
        Self {
            sdk,
            bucket: Mutex::new(Bucket {
                tokens: 2.0 * rate,
                filled: Instant::now(),
            }),
            rate,
        }
    }

    /// Waits for a place under the rate limit.
    async fn turn(&self) {
        let wait = {
            let mut bucket = self.bucket.lock().await;
            let now = Instant::now();
            let refill = now.duration_since(bucket.filled).as_secs_f64() * self.rate;
            bucket.tokens = (bucket.tokens + refill).min(2.0 * self.rate) - 1.0;
            bucket.filled = now;
            (bucket.tokens < 0.0).then(|| Duration::from_secs_f64(-bucket.tokens / self.rate))
        };
        if let Some(wait) = wait {
            record::aws_rate_waited(wait);
            tokio::time::sleep(wait).await;
        }
    }
}

fn passing<E, R>(what: impl Into<String>, error: &SdkError<E, R>) -> Fault
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: Debug,
{
    sorted(what.into(), error, false)
}

fn sorted<E, R>(what: String, error: &SdkError<E, R>, hopeless: bool) -> Fault
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: Debug,
{
    let reason = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => DisplayErrorContext(error).to_string(),
    };
    if hopeless {
        Fault::refused(format!(
            "{what}: ElastiCache refuses: {reason}; change the plan or the instance"
        ))
    } else {
        let message = format!("{what}: {reason}; trying again");
        let of_room = |code: &str| code.contains("Quota") || code.contains("Capacity");
        if error.code().is_some_and(of_room) {
            Fault::no_room(message)
        } else {
            Fault::transient(message)
        }
    }
}
