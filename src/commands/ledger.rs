//! Commands about the ledger: its tables, what was asked, webhooks, an import, a comparison with what exists.

use crate::cluster;
use crate::doctor::Doctor;
use crate::import::{self, Report};
use crate::ledger::{DatabaseUrl, InstanceId, KeyRing, Ledger, LetterState, Letters};
use crate::serve::elasticache;
use crate::settings::{self, ImportArguments, Namespaces, Settings, Webhooks};
use crate::webhooks::{self, Policy};

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
