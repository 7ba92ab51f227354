//! What the status of an instance says: pure functions over resources, with time as an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{PlanLookup, PlanRevision, unheeded_revision};
use super::status_record::recorded;
use super::update::update;
use crate::api::conditions::{self, ENGINE_SUPPORTED, Progress, Reason, UPDATE_AVAILABLE};
use crate::api::{CacheInstance, CacheInstanceStatus, LastBackup, LocalRef, PlanStatus};
use crate::provider::{Published, Report};

/// What the status tells those who use the cache.
pub fn published(instance: &CacheInstance) -> Published {
    instance
        .status
        .as_ref()
        .map_or_else(Published::default, |status| Published {
            endpoint: status.endpoint.clone(),
            reader_endpoint: status.reader_endpoint.clone(),
            nodes: status.nodes.clone(),
            bound: status.binding.is_some(),
        })
}

/// A report on an instance that was not observed keeps the addresses that were known.
pub fn carried(instance: &CacheInstance, report: Report) -> Report {
    report.publishing(&published(instance))
}

/// Whether a status says the same as another, though it may say it in other words.
pub fn is_reworded(said: &CacheInstanceStatus, status: &CacheInstanceStatus) -> bool {
    let plain = |status: &CacheInstanceStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.message.clear();
        }
        status
    };
    plain(said) == plain(status)
}

/// Whether a plan that was found is the one that an instance runs from, or moves to, from now on. What an instance without
/// one is stopped by keeps it from no plan; one that has a plan goes on by that.
fn is_taken_up(reason: Reason, is_new: bool) -> bool {
    match reason {
        Reason::PlanMismatch | Reason::PlanDeprecated => false,
        Reason::Paused | Reason::ParametersInvalid | Reason::BackupNotReady | Reason::BackupMismatch => is_new,
        _ => true,
    }
}

/// The status that says a report. `later` is the newest revision of the plan, where the instance runs from an older one.
pub fn status(
    instance: &CacheInstance,
    plan: &PlanLookup,
    report: &Report,
    later: Option<&PlanRevision>,
    latest: Option<LastBackup>,
    now: Timestamp,
) -> CacheInstanceStatus {
    let before = instance.status.clone().unwrap_or_default();
    let generation = instance.metadata.generation.unwrap_or_default();
    let running = match plan {
        PlanLookup::Found(revision) if is_taken_up(report.reason, before.plan.is_none()) => {
            revision.spec.provider().map(|provider| PlanStatus {
                name: revision.name.clone(),
                id: revision.spec.id.clone(),
                engine: revision.spec.engine.type_,
                version: revision.spec.engine.version.clone(),
                provider: provider.kind(),
                revision: revision.revision,
                unheeded_revision: unheeded_revision(instance),
                binding_credentials: revision.spec.binding_credentials,
            })
        }
        _ => None,
    };
    let ready = matches!(report.progress, Progress::Ready | Progress::ReadyAndReconciling);
    let mut conditions = conditions::standard(
        &before.conditions,
        report.progress,
        report.reason,
        &report.message,
        generation,
        now,
    );
    match plan {
        PlanLookup::Found(from) => {
            let update = update(instance, from, later);
            conditions.push(conditions::condition(
                &before.conditions,
                UPDATE_AVAILABLE,
                if update.available { "True" } else { "False" },
                update.reason,
                &update.message,
                generation,
                now,
            ));
        }
        PlanLookup::NoPlan | PlanLookup::NoRevision(_) => {
            conditions.extend(conditions::find(&before.conditions, UPDATE_AVAILABLE).cloned());
        }
    }
    conditions.extend(match &report.support {
        Some(support) => Some(conditions::condition(
            &before.conditions,
            ENGINE_SUPPORTED,
            if support.supported { "True" } else { "False" },
            support.reason,
            &support.message,
            generation,
            now,
        )),
        None => conditions::find(&before.conditions, ENGINE_SUPPORTED).cloned(),
    });
    CacheInstanceStatus {
        observed_generation: Some(generation),
        conditions,
        plan: running.or(before.plan),
        engine: report.engine.clone().or(before.engine),
        encrypted_at_rest: report.encrypted_at_rest.or(before.encrypted_at_rest),
        endpoint: report.endpoint.clone(),
        reader_endpoint: report.reader_endpoint.clone(),
        nodes: report.nodes.clone(),
        binding: report.bound.then(|| LocalRef {
            name: instance.connection_secret_name(),
        }),
        first_ready_time: before.first_ready_time.or(ready.then_some(Time(now))),
        last_backup: latest.or(before.last_backup),
        ledger_revision: before.ledger_revision.max(instance.ledger_revision()),
        ..recorded(instance, &report.record)
    }
}
