//! Calls of the Kubernetes API: every one has a deadline, and every watch comes back by itself.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// The default client waits for an answer without end.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why a call of the Kubernetes API brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It was refused, or the API server could not be reached.
    #[error("{what}: {source}")]
    Refused {
        /// What was attempted, on which object.
        what: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("{what}: the API server did not answer within {} s", DEADLINE.as_secs())]
    Silent {
        /// What was attempted, on which object.
        what: String,
    },
}

impl CallError {
    fn has_code(&self, code: u16) -> bool {
        match self {
            Self::Refused { source, .. } => matches!(source.as_ref(), kube::Error::Api(status) if status.code == code),
            Self::Silent { .. } => false,
        }
    }

    /// The object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.has_code(404)
    }

    /// The object is another one, or a newer one, than the call was meant for.
    pub(crate) fn is_conflict(&self) -> bool {
        self.has_code(409)
    }
}

/// Makes one call; `what` says what is attempted, on which object.
pub(crate) async fn call<T>(
    what: impl Into<String>,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CallError::Refused {
            what: what.into(),
            source: Box::new(source),
        }),
        Err(_) => Err(CallError::Silent { what: what.into() }),
    }
}

/// How long a broken watch waits before it starts again: from 0.1 to 2 seconds.
#[derive(Default)]
struct Patience(u32);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = (self.0 + 1).min(20);
        Some(Duration::from_millis(100) * self.0)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Watches objects until it is dropped. Failures are logged and tried again within 2 seconds at most, so that a
/// sandbox whose API server was away is itself again soon after.
pub(crate) fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config)
        .backoff(Patience::default())
        .filter_map(async |event| match event {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::debug!(%error, "a watch broke off and starts again");
                None
            }
        })
}
