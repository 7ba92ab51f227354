//! Starts the roles of a serving process, waits for what they need rather than giving up, and ends them in order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{CacheInstance, CachePlan, ProviderKind};
use crate::cluster;
use crate::control::operator::Operator;
use crate::control::{deadlines, outbox};
use crate::doctor::Doctor;
use crate::import::{self, Report};
use crate::ledger::{DatabaseUrl, InstanceId, Kept, KeyRing, Ledger, LetterState, Letters};
use crate::osb::catalog::Source;
use crate::osb::limits::{CallerLimits, Counter};
use crate::osb::tls::{self, Tls};
use crate::osb::{self, Authenticator, Catalog, Facade, Quotas, Services, Tokens};
use crate::provider::elasticache::{Client as ElastiCacheClient, Defaults, Limits, Poller};
use crate::provider::kubernetes::{Placement, Stores};
use crate::provider::{ElastiCache, Providers};
use crate::settings::{self, Checked, ImportArguments, Namespaces, Settings, Webhooks, read_credentials};
use crate::telemetry::Levels;
use crate::telemetry::health::{self, Health, Part};
use crate::telemetry::metrics::sources;
use crate::webhooks::{self, Policy};
use crate::wire::Trust;

/// How soon to look again for what a process waits for at its start.
const WAIT: Duration = Duration::from_secs(1);
/// How often a process that works looks whether Postgres and the API server still answer.
const WATCH: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);
/// How long after a change of a plan the catalog is built anew; more changes in that time count as one.
const SETTLE: Duration = Duration::from_millis(50);
/// How often what was asked long ago is forgotten, some of it each time.
const FORGET: Duration = Duration::from_secs(600);
/// How often the ledger is looked into for the metrics at most, and how long that may take.
const GLANCE: Duration = Duration::from_secs(3);
/// How often the file of credentials is looked at.
const RELOAD: Duration = Duration::from_secs(5);
/// How long the parts have to end once they were asked to. Kubernetes kills after 30 s by default.
const FAREWELL: Duration = Duration::from_secs(25);

/// Brings a database up to date.
///
/// # Errors
/// When Postgres does not answer or refuses.
pub async fn migrate((url, keys): (DatabaseUrl, KeyRing)) -> Result<(), String> {
    let ledger = Ledger::new(url, keys, 2).map_err(|error| error.to_string())?;
    ledger.migrate().await.map_err(|error| error.to_string())
}

/// Prints who asked what of an instance.
///
/// # Errors
/// When Postgres does not answer or refuses, or nothing was ever asked.
pub async fn audit((url, keys): (DatabaseUrl, KeyRing), instance: &InstanceId) -> Result<(), String> {
    let ledger = Ledger::new(url, keys, 2).map_err(|error| error.to_string())?;
    let history = ledger.history(instance).await.map_err(|error| error.to_string())?;
    if history.is_empty() {
        return Err(format!(
            "nobody asked anything of an instance {instance}, as far as is remembered"
        ));
    }
    for entry in history {
        println!("{entry}");
    }
    Ok(())
}

/// Takes over what the old broker made.
///
/// # Errors
/// When something that it needs does not answer.
pub async fn import(
    settings: Settings,
    (url, keys): (DatabaseUrl, KeyRing),
    asked: ImportArguments,
) -> Result<Report, String> {
    let client = cluster::client(&settings).await?;
    let elasticache = match &settings.aws_region {
        Some(region) => Some(elasticache(&settings, region).await),
        None => None,
    };
    let options = import::Options {
        from: asked.from.unwrap_or_else(|| url.clone()),
        dry_run: asked.dry_run,
        out: asked.out,
        apply: asked.apply,
        wait: asked.wait,
        ledger: Ledger::new(url, keys, 2).map_err(|error| error.to_string())?,
        client,
        elasticache,
        kubernetes: settings.use_kubernetes,
        variable: settings::variable,
        watched: match settings.watched() {
            Namespaces::All => None,
            Namespaces::Named(names) => Some(names),
        },
        namespaces: settings.namespaces(),
        webhooks: Policy::new(settings.webhook_allow_private),
    };
    import::run(&options).await
}

/// Shows webhooks, or has some delivered anew.
///
/// # Errors
/// When Postgres does not answer or refuses, or there is nothing to deliver anew.
pub async fn webhooks((url, keys): (DatabaseUrl, KeyRing), command: Webhooks) -> Result<(), String> {
    let ledger = Ledger::new(url, keys, 2).map_err(|error| error.to_string())?;
    match command {
        Webhooks::List { state, instance } => {
            let states: Vec<_> = state.into_iter().map(LetterState::from).collect();
            webhooks::command::list(&ledger, &states, instance.as_ref()).await
        }
        Webhooks::Retry { instance, event, .. } => {
            let which = match (instance, event) {
                (Some(instance), _) => Letters::Of(instance),
                (None, Some(event)) => Letters::One(event),
                (None, None) => Letters::All,
            };
            webhooks::command::retry(&ledger, &which).await
        }
    }
}

/// Compares what the ledger, the cluster and ElastiCache say, and returns the exit code.
///
/// # Errors
/// When something could not be looked at, or mended.
pub async fn doctor(settings: Settings, (url, keys): (DatabaseUrl, KeyRing), fix: bool) -> Result<u8, String> {
    let prefix = settings
        .name_prefix
        .clone()
        .ok_or("NAME_PREFIX is not set: it tells which of what is on ElastiCache is ours")?;
    let elasticache = match &settings.aws_region {
        Some(region) => Some((elasticache(&settings, region).await, prefix)),
        None => None,
    };
    let doctor = Doctor {
        ledger: Ledger::new(url, keys, 2).map_err(|error| error.to_string())?,
        client: cluster::client(&settings).await?,
        namespaces: settings.watched(),
        elasticache,
    };
    doctor.run(fix).await
}

/// Serves until told to stop.
///
/// # Errors
/// When something fails that waiting does not mend: a port in use, a file that cannot be read.
pub async fn serve(checked: Checked, levels: Levels) -> Result<(), String> {
    let Checked {
        settings,
        role,
        database_url,
        keys,
        name_prefix,
        osb_credentials,
        watch_namespaces,
    } = checked;
    if settings.stackimpact.is_some() {
        tracing::warn!("STACKIMPACT is set and does nothing: metrics are at /metrics of HEALTH_PORT");
    }
    let mut parts = vec![Part::Database, Part::Cluster];
    parts.extend(role.serves_api().then_some(Part::Facade));
    parts.extend(role.reconciles().then_some(Part::Operator));
    let health = Health::of(parts);

    let health_listener = listen(
        SocketAddr::new(settings.health_address, settings.health_port),
        "HEALTH_PORT",
    )
    .await?;
    let services = Services::read(settings.services_file.as_deref()).map_err(|error| error.to_string())?;
    let facade_listener = if role.serves_api() {
        let tls = tls_paths(&settings).map(Tls::read).transpose();
        let tls = tls.map_err(|error| error.to_string())?;
        Some((
            listen(SocketAddr::new(settings.listen_address, settings.port), "PORT").await?,
            tls,
        ))
    } else {
        None
    };
    let client = cluster::client(&settings).await?;
    let ledger = Ledger::new(database_url, keys, usize::from(settings.database_connections))
        .map_err(|error| error.to_string())?;

    let _connections = {
        let ledger = ledger.clone();
        sources::database(move || ledger.connections())
    };

    let (stop, stopped) = watch::channel(false);
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    {
        let (health, stopped) = (health.clone(), until(stopped.clone()));
        let look = looking_into(&ledger, &health);
        tasks.spawn(async move {
            health::serve(health_listener, health, look, stopped).await;
            Ok(())
        });
    }
    tasks.spawn(watch_cluster(client.clone(), health.clone(), stopped.clone()));
    if let Some(path) = settings.log_file.clone() {
        tasks.spawn(keep_levels(path, levels, stopped.clone()));
    }
    if let Some((listener, tls)) = facade_listener {
        let (catalog_changes, catalog) = watch::channel(None);
        let tokens = (settings.osb_token_review && !settings.insecure_no_auth)
            .then(|| Tokens::new(client.clone(), settings.osb_token_audience.clone()));
        let mut authenticator = Authenticator::new(osb_credentials.as_deref(), tokens);
        if settings.osb_client_ca_file.is_some() && !settings.insecure_no_auth {
            authenticator = authenticator.and_certificates(&settings.osb_client_names);
        }
        let authenticator = Arc::new(authenticator);
        if let (Some(_), Some(path)) = (&osb_credentials, &settings.osb_credentials_file) {
            tasks.spawn(keep_credentials(path.clone(), authenticator.clone(), stopped.clone()));
        }
        let facade = Arc::new(Facade {
            ledger: ledger.clone(),
            catalog,
            authenticator,
            namespaces: settings.namespaces(),
            webhook_policy: Policy::new(settings.webhook_allow_private),
            quotas: Quotas {
                organization: (settings.organization_quota > 0).then_some(settings.organization_quota),
                plans: settings.plan_quotas.iter().cloned().collect(),
            },
            trust: trust(settings.elasticache_ca_file.as_deref())?,
            limits: Counter::new(CallerLimits {
                rate: settings.osb_rate,
                concurrency: settings.osb_concurrency,
            }),
        });
        let stop = until(stopped.clone());
        tasks.spawn(async move {
            osb::server::serve(facade, listener, tls, stop).await;
            Ok(())
        });
        let enabled = enabled(&settings);
        tasks.spawn(keep_catalog(
            client.clone(),
            services,
            enabled,
            catalog_changes,
            health.clone(),
            stopped.clone(),
        ));
    }
    // What needs the tables begins once they are there.
    {
        let (ledger, health, stopped, client) = (ledger.clone(), health.clone(), stopped.clone(), client.clone());
        let webhook_settings = webhooks::Settings {
            policy: Policy::new(settings.webhook_allow_private),
            retry: settings.retry_webhooks,
        };
        let settings = settings.clone();
        tasks.spawn(async move {
            if !wait_for_tables(&ledger, &health, stopped.clone()).await {
                return Ok(());
            }
            let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
            tasks.spawn(watch_database(ledger.clone(), health.clone(), stopped.clone()));
            {
                let (ledger, client, stopped) = (ledger.clone(), client.clone(), stopped.clone());
                tasks.spawn(async move {
                    outbox::run(ledger, client, stopped).await;
                    Ok(())
                });
            }
            {
                let (ledger, stopped) = (ledger.clone(), until(stopped.clone()));
                tasks.spawn(async move {
                    deadlines::run(ledger, stopped).await;
                    Ok(())
                });
            }
            if settings.audit_days > 0 {
                let kept = Duration::from_secs(86_400) * settings.audit_days;
                tasks.spawn(forget_history(ledger.clone(), kept, stopped.clone()));
            }
            tasks.spawn(forget_ended(ledger.clone(), settings.kept(), stopped.clone()));
            {
                let (ledger, stopped) = (ledger.clone(), until(stopped.clone()));
                tasks.spawn(async move {
                    webhooks::run(ledger, webhook_settings, stopped)
                        .await
                        .map_err(|error| error.to_string())
                });
            }
            if role.reconciles() {
                let operator = Operator {
                    providers: providers(&settings, &name_prefix, client.clone()).await?,
                    client,
                    ledger,
                    namespaces: watch_namespaces,
                    pool_namespaces: settings.namespaces(),
                    namespace: settings.namespace.clone(),
                    identity: settings.identity(),
                    resync: settings.resync(),
                    health,
                };
                tasks.spawn(async move { operator.run(stopped).await.map_err(|error| error.to_string()) });
            }
            first_failure(tasks).await
        });
    }
    tasks.spawn(async move {
        signalled().await?;
        tracing::info!("ending");
        stop.send_replace(true);
        tokio::time::sleep(FAREWELL).await;
        Err(format!("not everything ended within {} s", FAREWELL.as_secs()))
    });
    let ending = stopped;
    let outcome = all_ended(&mut tasks, &ending).await;
    tasks.abort_all();
    outcome
}

/// The files that TLS is served from, if it is.
pub(crate) fn tls_paths(settings: &Settings) -> Option<tls::Paths> {
    if settings.insecure {
        return None;
    }
    Some(tls::Paths {
        certificate: settings.tls_cert_file.clone()?,
        key: settings.tls_key_file.clone()?,
        client_authority: settings.osb_client_ca_file.clone(),
        client_revocations: settings.osb_client_crl_file.clone(),
    })
}

/// Waits for every task, or the first that fails.
async fn first_failure(mut tasks: JoinSet<Result<(), String>>) -> Result<(), String> {
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Waits for the first task that fails, or, once told to stop, for all but the one that counts the time.
async fn all_ended(tasks: &mut JoinSet<Result<(), String>>, ending: &watch::Receiver<bool>) -> Result<(), String> {
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|error| error.to_string())??;
        if *ending.borrow() && tasks.len() <= 1 {
            break;
        }
    }
    Ok(())
}

/// Looks into the ledger for those who watch, while Postgres answers. Who asks often is told what was seen a moment ago.
fn looking_into(ledger: &Ledger, health: &Health) -> impl Fn() -> BoxFuture<'static, ()> + Clone + Send + Sync + use<> {
    let (ledger, health) = (ledger.clone(), health.clone());
    let last: Arc<Mutex<Option<Instant>>> = Arc::default();
    move || {
        let (ledger, health, last) = (ledger.clone(), health.clone(), last.clone());
        async move {
            {
                let mut last = last.lock();
                if last.is_some_and(|last| last.elapsed() < GLANCE) || !health.works(Part::Database) {
                    return;
                }
                *last = Some(Instant::now());
            }
            let asked = tokio::time::timeout(GLANCE, ledger.under_way()).await;
            match asked {
                Ok(Ok(seen)) => sources::under_way(Some(&seen)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "looking into the ledger for the metrics");
                    sources::under_way(None);
                }
                Err(_) => sources::under_way(None),
            }
        }
        .boxed()
    }
}

async fn listen(address: SocketAddr, variable: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("listening on {address}: {error}; end what listens there, or set {variable} to another port")
    })
}

/// Reads the file of credentials again from time to time: a mounted Secret changes under the process. What cannot be read
/// leaves the old ones in place.
async fn keep_credentials(
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
async fn keep_levels(path: PathBuf, levels: Levels, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
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
async fn forget_history(ledger: Ledger, kept: Duration, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
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
async fn forget_ended(ledger: Ledger, kept: Kept, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
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

/// Whose certificates caches may have.
fn trust(authority: Option<&Path>) -> Result<Trust, String> {
    let authority = authority
        .map(|path| {
            std::fs::read(path).map_err(|error| format!("reading ELASTICACHE_CA_FILE {}: {error}", path.display()))
        })
        .transpose()?;
    Trust::new(authority.as_deref()).map_err(|error| error.to_string())
}

fn enabled(settings: &Settings) -> impl Fn(ProviderKind) -> bool + Send + Sync + 'static {
    let (kubernetes, elasticache) = (settings.use_kubernetes, settings.aws_region.is_some());
    move |kind| match kind {
        ProviderKind::Kubernetes => kubernetes,
        ProviderKind::ElastiCache => elasticache,
    }
}

async fn elasticache(settings: &Settings, region: &str) -> ElastiCacheClient {
    let limits = Limits {
        calls_per_second: settings.aws_calls_per_second,
    };
    ElastiCacheClient::new(region.to_owned(), settings.aws_endpoint_url.clone(), limits).await
}

async fn providers(settings: &Settings, name_prefix: &str, client: Client) -> Result<Providers, String> {
    let elasticache = match &settings.aws_region {
        Some(region) => {
            let client = elasticache(settings, region).await;
            Some(ElastiCache {
                poller: Poller::new(client, name_prefix, settings.elasticache_poll(), settings.resync()),
                defaults: Defaults {
                    name_prefix: name_prefix.to_owned(),
                    security_group: settings.elasticache_security_group.clone(),
                    redis_subnet_group: settings.redis_subnet_group.clone(),
                    memcached_subnet_group: settings.memcached_subnet_group.clone(),
                },
            })
        }
        None => None,
    };
    Ok(Providers {
        kube: client,
        stores: Stores::default(),
        kubernetes: settings.use_kubernetes.then(|| Placement {
            service_host: settings.service_host,
            cluster_domain: settings.cluster_domain.clone(),
            operator_namespace: settings.namespace.clone(),
        }),
        elasticache,
        trust: trust(settings.elasticache_ca_file.as_deref())?,
        versions: Arc::default(),
    })
}

/// Migrates, however long Postgres keeps us waiting. Returns whether it was done before the process was told to stop.
async fn wait_for_tables(ledger: &Ledger, health: &Health, mut stopped: watch::Receiver<bool>) -> bool {
    loop {
        match ledger.migrate().await {
            Ok(()) => {
                health.set(Part::Database, Ok(()));
                return true;
            }
            Err(error) => health.set(Part::Database, Err(error.to_string())),
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return false,
        }
    }
}

async fn watch_database(ledger: Ledger, health: Health, stopped: watch::Receiver<bool>) -> Result<(), String> {
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

async fn watch_cluster(client: Client, health: Health, stopped: watch::Receiver<bool>) -> Result<(), String> {
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

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the process ends.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn signalled() -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("listening for signals: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
