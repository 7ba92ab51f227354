//! What a serving process does again and again beside its roles: files that change are read again, what is long over is
//! forgotten, Postgres and the API server are looked at, and the catalog follows the plans.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::api::{CacheInstance, CachePlan, ProviderKind};
use crate::ledger::{Kept, Ledger};
use crate::osb::catalog::Source;
use crate::osb::{Authenticator, Catalog, Services};
use crate::settings::read_credentials;
use crate::telemetry::Levels;
use crate::telemetry::health::{Health, Part};

/// How often a process that works looks whether Postgres and the API server still answer.
const WATCH: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);
/// How long after a change of a plan the catalog is built anew; more changes in that time count as one.
const SETTLE: Duration = Duration::from_millis(50);
/// How often what was asked long ago is forgotten, some of it each time.
const FORGET: Duration = Duration::from_secs(600);
/// How often the file of credentials is looked at.
const RELOAD: Duration = Duration::from_secs(5);

/// Reads the file of credentials again from time to time: a mounted Secret changes under the process. What cannot be read
/// leaves the old ones in place.
pub async fn keep_credentials(
    path: PathBuf,
    authenticator: Arc<Authenticator>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut seen = None;
    loop {
        let contents = tokio::fs::read(&path).await.ok();
        if contents != seen {
            match read_credentials(Some(&path)) {
                Ok(credentials) => {
                    authenticator.replace(&credentials);
                    if seen.is_some() {
                        tracing::info!(file = %path.display(), "credentials loaded again");
                    }
                }
                Err(error) => tracing::warn!(%error, "the changed credentials do not hold; the old ones still do"),
            }
            seen = contents;
        }
        tokio::select! {
            () = tokio::time::sleep(RELOAD) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

/// Has the levels of the log follow a file.
pub async fn keep_levels(path: PathBuf, levels: Levels, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
    let mut seen = None;
    loop {
        let directives = tokio::fs::read_to_string(&path).await.ok();
        if directives != seen {
            match levels.set(directives.as_deref()) {
                Ok(now) => tracing::info!(file = %path.display(), directives = now, "levels of the log"),
                Err(error) => tracing::warn!(file = %path.display(), %error, "the levels of the log stay as they were"),
            }
            seen = directives;
        }
        tokio::select! {
            () = tokio::time::sleep(RELOAD) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

/// Forgets what was asked too long ago, from time to time.
pub async fn forget_history(ledger: Ledger, kept: Duration, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
    loop {
        match ledger.forget_history(kept).await {
            Ok(0) => {}
            Ok(lines) => tracing::info!(lines, "forgot what was asked long ago"),
            Err(error) => tracing::warn!(%error, "forgetting what was asked long ago"),
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

/// Forgets what ended too long ago, from time to time.
pub async fn forget_ended(ledger: Ledger, kept: Kept, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
    loop {
        match ledger.forget(kept).await {
            Ok(forgotten) if forgotten.is_nothing() => {}
            Ok(forgotten) => tracing::info!(?forgotten, "forgot what ended long ago"),
            Err(error) => tracing::warn!(%error, "forgetting what ended long ago"),
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

/// Says from time to time whether Postgres answers.
pub async fn watch_database(ledger: Ledger, health: Health, stopped: watch::Receiver<bool>) -> Result<(), String> {
    looking(stopped, || async {
        let state = match tokio::time::timeout(LOOK, ledger.ping()).await {
            Ok(state) => state.map_err(|error| error.to_string()),
            Err(_) => Err(format!("Postgres did not answer within {} s", LOOK.as_secs())),
        };
        health.set(Part::Database, state);
    })
    .await;
    Ok(())
}

/// Says from time to time whether the API server answers.
pub async fn watch_cluster(client: Client, health: Health, stopped: watch::Receiver<bool>) -> Result<(), String> {
    looking(stopped, || async {
        let one = ListParams::default().limit(1);
        let look = async {
            Api::<CachePlan>::all(client.clone()).list_metadata(&one).await?;
            Api::<CacheInstance>::all(client.clone())
                .list_metadata(&one)
                .await
                .map(|_| ())
        };
        let state = match tokio::time::timeout(LOOK, look).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
                Err("the CustomResourceDefinitions are missing: apply crds/".to_owned())
            }
            // It answers; what it lets us list is a matter of roles, and watches say so where it matters.
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Ok(()),
            Ok(Err(error)) => Err(format!("the API server: {error}")),
            Err(_) => Err(format!("the API server did not answer within {} s", LOOK.as_secs())),
        };
        health.set(Part::Cluster, state);
    })
    .await;
    Ok(())
}

async fn looking<F: Future<Output = ()>>(mut stopped: watch::Receiver<bool>, look: impl Fn() -> F) {
    loop {
        look().await;
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Builds the catalog anew whenever a plan changes.
pub async fn keep_catalog(
    client: Client,
    services: Services,
    enabled: impl Fn(ProviderKind) -> bool + Send + 'static,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    health: Health,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let (plans, writer) = reflector::store();
    let events = reflector::reflector(
        writer,
        watcher(Api::<CachePlan>::all(client), watcher::Config::default()),
    );
    let mut events = std::pin::pin!(events.default_backoff());
    let mut problems: Vec<String> = Vec::new();
    let mut built_from = None;
    // When it is to be built anew: changes without end must not put it off.
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(_)) => {
                    due.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching CachePlans");
                    if catalog.borrow().is_none() {
                        health.set(Part::Facade, Err(format!("the plans cannot be read: {error}")));
                    }
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                due = None;
                if !listed(&plans) {
                    continue;
                }
                let state = plans.state();
                let sources: BTreeSet<_> = state.iter().map(|plan| Source::of(plan)).collect();
                if built_from.as_ref() == Some(&sources) {
                    continue;
                }
                built_from = Some(sources);
                let built = Catalog::new(&services, state.iter().map(|plan| &**plan), &enabled);
                for problem in built.problems().iter().filter(|problem| !problems.contains(problem)) {
                    tracing::warn!("{problem}");
                }
                problems = built.problems().to_vec();
                catalog.send_replace(Some(Arc::new(built)));
                health.set(Part::Facade, Ok(()));
            }
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        }
    }
}

fn listed(plans: &Store<CachePlan>) -> bool {
    plans.wait_until_ready().now_or_never().is_some()
}
