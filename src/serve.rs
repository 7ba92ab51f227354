//! Starts the roles of a serving process, waits for what they need rather than giving up, and ends them in order.

mod chores;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::ProviderKind;
use crate::cluster;
use crate::control::operator::Operator;
use crate::control::{deadlines, outbox};
use crate::ledger::Ledger;
use crate::osb::limits::{CallerLimits, Counter};
use crate::osb::tls::{self, Tls};
use crate::osb::{self, Authenticator, Facade, Quotas, Services, Tokens};
use crate::provider::elasticache::{Client as ElastiCacheClient, Defaults, Limits, Poller};
use crate::provider::kubernetes::{Placement, Stores};
use crate::provider::{ElastiCache, Providers};
use crate::settings::{Checked, Settings};
use crate::telemetry::Levels;
use crate::telemetry::health::{self, Health, Part};
use crate::telemetry::metrics::sources;
use crate::webhooks::{self, Policy};
use crate::wire::Trust;

pub use chores::keep_catalog;
use chores::{forget_ended, forget_history, keep_credentials, keep_levels, watch_cluster, watch_database};

/// How soon to look again for what a process waits for at its start.
const WAIT: Duration = Duration::from_secs(1);
/// How often the ledger is looked into for the metrics at most, and how long that may take.
const GLANCE: Duration = Duration::from_secs(3);
/// How long the parts have to end once they were asked to. Kubernetes kills after 30 s by default.
const FAREWELL: Duration = Duration::from_secs(25);

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

/// A client of ElastiCache in a region.
pub(crate) async fn elasticache(settings: &Settings, region: &str) -> ElastiCacheClient {
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
