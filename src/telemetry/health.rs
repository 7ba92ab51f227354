//! `/livez`, `/readyz` and `/metrics`, on a port of their own and without TLS, as kubelets ask for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use warp::Filter;
use warp::http::StatusCode;

use super::metrics;

/// A part of the process that must work before the process is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Postgres answers.
    Database,
    /// The API server answers and has our CustomResourceDefinitions.
    Cluster,
    /// The OSB API is served.
    Facade,
    /// The operator leads and has listed everything, or stands by.
    Operator,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Cluster => "cluster",
            Self::Facade => "facade",
            Self::Operator => "operator",
        }
    }
}

/// How it is with a part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Works,
    /// Another process does the work, and this one is ready to take over.
    StandsBy,
    Fails(String),
}

impl State {
    fn as_str(&self) -> &str {
        match self {
            Self::Works => "ok",
            Self::StandsBy => "standby",
            Self::Fails(reason) => reason,
        }
    }
}

/// Which parts work, and why others do not. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<Part, State>>>);

impl Health {
    /// Health of a process with these parts, none of which works yet.
    pub fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        let starting = parts.into_iter().map(|part| {
            metrics::sources::ready(part.as_str(), false);
            (part, State::Fails("starting".to_owned()))
        });
        Self(Arc::new(Mutex::new(starting.collect())))
    }

    /// Notes that a part works, or why it does not. A part that the process does not have is passed over.
    pub fn set(&self, part: Part, state: Result<(), String>) {
        self.put(part, state.map_or_else(State::Fails, |()| State::Works));
    }

    /// Notes that a part is ready to take over from the process that does its work.
    pub fn stand_by(&self, part: Part) {
        self.put(part, State::StandsBy);
    }

    fn put(&self, part: Part, state: State) {
        let mut parts = self.0.lock();
        if let Some(known) = parts.get_mut(&part)
            && *known != state
        {
            match &state {
                State::Works => tracing::info!(part = part.as_str(), "ready"),
                State::StandsBy => tracing::info!(part = part.as_str(), "ready to take over"),
                State::Fails(reason) => tracing::warn!(part = part.as_str(), %reason, "not ready"),
            }
            metrics::sources::ready(part.as_str(), !matches!(state, State::Fails(_)));
            *known = state;
        }
    }

    /// Whether every part works or stands by.
    pub fn is_ready(&self) -> bool {
        !self.0.lock().values().any(|state| matches!(state, State::Fails(_)))
    }

    /// Whether a part of the process works.
    pub fn works(&self, part: Part) -> bool {
        self.0.lock().get(&part) == Some(&State::Works)
    }

    /// One line a part.
    pub fn report(&self) -> String {
        self.0.lock().iter().fold(String::new(), |mut report, (part, state)| {
            // Writing to a String cannot fail.
            let _ = writeln!(report, "{}: {}", part.as_str(), state.as_str());
            report
        })
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` until `stop` ends. Before the metrics are given out, `look` brings those up to
/// date that are looked up.
pub async fn serve<L: Future<Output = ()> + Send>(
    listener: TcpListener,
    health: Health,
    look: impl Fn() -> L + Clone + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let livez = warp::path!("livez").map(|| warp::reply::with_status("ok\n".to_owned(), StatusCode::OK));
    let readyz = warp::path!("readyz").map(move || {
        let status = if health.is_ready() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        warp::reply::with_status(health.report(), status)
    });
    let scrape = warp::path!("metrics").then(move || {
        let looked = look();
        async move {
            looked.await;
            metrics::sources::look();
            warp::reply::with_header(metrics::text(), CONTENT_TYPE, metrics::CONTENT_TYPE)
        }
    });
    warp::serve(warp::get().and(livez.or(readyz).or(scrape)))
        .incoming(listener)
        .graceful(stop)
        .run()
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_part_is_and_says_which_is_not() {
        let health = Health::of([Part::Database, Part::Operator]);
        health.set(Part::Operator, Ok(()));
        health.set(Part::Facade, Err("not a part of this process".to_owned()));
        assert!(!health.is_ready());
        assert_eq!(health.report(), "database: starting\noperator: ok\n");
        health.set(Part::Database, Ok(()));
        assert!(health.is_ready());
        health.stand_by(Part::Operator);
        assert!(health.is_ready());
        assert_eq!(health.report(), "database: ok\noperator: standby\n");
    }
}
