//! The outbox: what the ledger accepted becomes custom resources.
//!
//! Any process may write any row, and one that was slow may come late. So a resource carries the ledger revision it was
//! written from, is written only on condition that it is still as it was read, and never from an older revision.

mod reach;
mod resource;

use std::collections::HashMap;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{Error, deadline, pool, users};
use crate::api::{BackupDeletionPolicy, CacheBackup, CacheBackupSpec, CacheInstance, LocalRef, annotations};
use crate::ledger::{BindingUser, Desired, Ledger, OutboxItem, listen, resource_name};

use reach::{Reach, Reached};
pub use resource::later;
use resource::{change, resource, set_revision};

/// Who we are in the managed fields of the resources that the ledger writes.
const FIELD_MANAGER: &str = "cache-broker-ledger";
/// How many rows are written at one time.
const AT_ONCE: usize = 48;
/// For how many there must be room before more are taken, unless none is being written.
const BATCH: usize = 16;
/// How long a taken row is left to whoever took it and does not hold on to it: what a process that died had taken waits
/// so long.
const LEASE: Duration = Duration::from_secs(6);
/// How often it is held on to.
const RENEWAL: Duration = Duration::from_secs(2);
/// How often due rows are looked for although nobody told of any.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon they are looked for again when others told of some: taking a few costs nearly what taking many does.
const PACE: Duration = Duration::from_millis(10);
/// How soon they are looked for again at the soonest.
const SOONEST: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The rows that a process is writing, what each was taken with, and whether that goes anywhere.
#[derive(Default)]
struct Writing {
    tasks: JoinSet<Reached>,
    claims: HashMap<Id, Uuid>,
    reach: Reach,
}

impl Writing {
    /// How many rows may be taken: one, to see whether it can be written, while the API server is away.
    fn room(&self) -> usize {
        let free = AT_ONCE.saturating_sub(self.tasks.len());
        match self.reach.is_away() {
            true => usize::from(self.tasks.is_empty()),
            false if free >= BATCH => free,
            false => 0,
        }
    }

    fn start(&mut self, ledger: &Ledger, client: &Client, item: OutboxItem) {
        let claim = item.claim;
        let task = self.tasks.spawn(work(ledger.clone(), client.clone(), item));
        self.claims.insert(task.id(), claim);
    }

    /// Waits until one was written, or not; for ever if none is. Returns in how long to look for more, if that is not as it
    /// was.
    async fn ended(&mut self) -> Option<Duration> {
        let (id, reached) = match self.tasks.join_next_with_id().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => (error.id(), Reached::Unknown),
            None => std::future::pending().await,
        };
        self.claims.remove(&id);
        self.reach.found(reached, self.tasks.is_empty())
    }

    /// Holds on to what is being written.
    async fn hold(&self, ledger: &Ledger) {
        let mut claims: Vec<_> = self.claims.values().copied().collect();
        claims.sort_unstable();
        claims.dedup();
        if claims.is_empty() {
            return;
        }
        if let Err(error) = ledger.renew_outbox(&claims, LEASE).await {
            tracing::warn!(%error, "rows that are being written are not held; others may write them too");
        }
    }
}

/// Writes due rows until the process shuts down; what was taken by then is written to the end.
pub async fn run(ledger: Ledger, client: Client, mut shutdown: watch::Receiver<bool>) {
    let others = ledger.listen(listen::OUTBOX);
    let mut writing = Writing::default();
    let mut renewals = tokio::time::interval_at(Instant::now() + RENEWAL, RENEWAL);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut look, mut not_before) = (Instant::now(), Instant::now());
    while !*shutdown.borrow() {
        if look <= Instant::now() && writing.room() > 0 {
            look = Instant::now() + take(&ledger, &client, &mut writing).await;
            not_before = not_before.max(Instant::now() + PACE);
        }
        let room = writing.room() > 0;
        tokio::select! {
            biased;
            _ = renewals.tick() => writing.hold(&ledger).await,
            next = writing.ended() => if let Some(wait) = next {
                not_before = Instant::now() + wait;
                look = not_before;
            },
            () = ledger.outbox_wakeup().notified() => look = not_before.max(Instant::now()),
            () = others.notified() => look = not_before.max(Instant::now()),
            () = tokio::time::sleep_until(look), if room => {}
            _ = shutdown.changed() => {}
        }
    }
    while !writing.tasks.is_empty() {
        tokio::select! {
            _ = writing.ended() => {}
            _ = renewals.tick() => writing.hold(&ledger).await,
        }
    }
}

/// Takes due rows, as many as there is room for, and begins to write them. Returns in how long to look for more.
async fn take(ledger: &Ledger, client: &Client, writing: &mut Writing) -> Duration {
    let room = writing.room();
    let items = match ledger.claim_outbox(room, LEASE).await {
        Ok(items) => items,
        Err(error) => {
            tracing::warn!(%error, "the outbox waits");
            return SWEEP;
        }
    };
    let taken = items.len();
    for item in items {
        writing.start(ledger, client, item);
    }
    if taken == room {
        return Duration::ZERO;
    }
    match ledger.next_outbox().await {
        Ok(Some(next)) => next.clamp(SOONEST, SWEEP),
        Ok(None) | Err(_) => SWEEP,
    }
}

async fn work(ledger: Ledger, client: Client, item: OutboxItem) -> Reached {
    let written = write(&ledger, &client, &item).await;
    let reached = Reached::of(&written);
    if let Err(error) = written {
        tracing::warn!(instance = %item.instance, attempts = item.attempts, %error, "writing a resource");
        let wait = retry_in(item.attempts);
        if let Err(error) = ledger.mark_unapplied(&item, &error.to_string(), wait).await {
            tracing::warn!(instance = %item.instance, %error, "noting why a resource was not written");
        }
    }
    reached
}

fn retry_in(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY)
}

async fn write(ledger: &Ledger, client: &Client, item: &OutboxItem) -> Result<(), Error> {
    let api: Api<CacheInstance> = Api::namespaced(client.clone(), &item.namespace);
    let users = users::of(ledger, item).await?;
    if is_first(item)
        && let Some(created) = create(&api, &resource(item)).await?
    {
        return Ok(ledger
            .mark_applied(&item.instance, item.revision, created.uid().as_deref())
            .await?);
    }
    let existing = match deadline(api.get_opt(&item.name)).await? {
        Some(member) if pool::is_member(&member) => Some(claimed(ledger, client, member, item, &users).await?),
        existing => existing,
    };
    match (item.desired, existing) {
        (_, Some(existing)) if existing.annotation(annotations::INSTANCE_ID) != Some(item.instance.as_str()) => {
            match item.desired {
                Desired::Absent => Ok(ledger.applied_absence(&item.instance, item.revision).await?),
                Desired::Present => Err(Error::Resource(format!(
                    "CacheInstance {}/{} belongs to somebody else: delete or rename it",
                    item.namespace, item.name
                ))),
            }
        }
        (Desired::Absent, None) => Ok(ledger.applied_absence(&item.instance, item.revision).await?),
        (Desired::Absent, Some(existing)) => {
            let existing = ask_deletion(&api, existing, item).await?;
            delete(&api, &existing).await?;
            Ok(ledger
                .mark_applied(&item.instance, item.revision, existing.uid().as_deref())
                .await?)
        }
        (Desired::Present, Some(existing)) if existing.metadata.deletion_timestamp.is_some() => {
            Err(Error::Resource(format!(
                "CacheInstance {}/{} is being deleted by somebody else: deprovision the instance, or wait for the end of the old resource",
                item.namespace, item.name
            )))
        }
        (Desired::Present, Some(existing)) => write_over(ledger, client, &existing, item, &users).await,
        (Desired::Present, None) => {
            let mut first = resource(item);
            if !users.is_empty() {
                // Their Secrets belong to it, so it comes first, from an earlier revision than names them.
                set_revision(&mut first, item.revision - 1);
            }
            let Some(created) = create(&api, &first).await? else {
                return Err(Error::Resource(format!(
                    "CacheInstance {}/{} was made by somebody else meanwhile",
                    item.namespace, item.name
                )));
            };
            write_over(ledger, client, &created, item, &users).await
        }
    }
}

/// Whether a row is an order that nobody has tried to write and that has no resource by all likelihood, so that asking for
/// it can be spared.
fn is_first(item: &OutboxItem) -> bool {
    let made_ahead = item.name != resource_name(&item.instance);
    item.desired == Desired::Present && item.revision == 1 && item.attempts == 1 && item.backup.is_none() && !made_ahead
}

/// `None` if there is one of that name.
async fn create(api: &Api<CacheInstance>, wanted: &CacheInstance) -> Result<Option<CacheInstance>, Error> {
    let how = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match deadline(api.create(&how, wanted)).await {
        Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Makes a resource that exists say what the row says, unless it was written from that revision or a later one.
async fn write_over(
    ledger: &Ledger,
    client: &Client,
    existing: &CacheInstance,
    item: &OutboxItem,
    users: &[BindingUser],
) -> Result<(), Error> {
    let written = existing.ledger_revision();
    if let Some(found) = written.filter(|found| *found > item.revision)
        && ledger.catch_up(&item.instance, &later(existing, found)).await?
    {
        tracing::warn!(instance = %item.instance, found, ours = item.revision, "the ledger is older than the cluster");
        return Ok(());
    }
    if written.is_none_or(|revision| revision < item.revision) {
        users::make_secrets(client, existing, users).await?;
        let how = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api: Api<CacheInstance> = Api::namespaced(client.clone(), &item.namespace);
        let change = Patch::Merge(change(existing, item, users)?);
        deadline(api.patch(&item.name, &how, &change)).await?;
    }
    make_backup(client, item).await?;
    Ok(ledger
        .mark_applied(&item.instance, item.revision, existing.uid().as_deref())
        .await?)
}

/// Makes a member of a pool the row's, if that has claimed it. It is done also before the resource is deleted, since
/// until then it says how unclaimed ones are deleted.
async fn claimed(
    ledger: &Ledger,
    client: &Client,
    member: CacheInstance,
    item: &OutboxItem,
    users: &[BindingUser],
) -> Result<CacheInstance, Error> {
    let uid = member.uid().unwrap_or_default();
    if !ledger
        .is_claimed(&item.namespace, &item.name, &uid, &item.instance)
        .await?
    {
        return Ok(member);
    }
    users::make_secrets(client, &member, users).await?;
    let how = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut wanted = resource(item);
    wanted.spec.users = users::wanted(&member, users);
    let change = Patch::Merge(pool::take_over(&member, &wanted)?);
    let api: Api<CacheInstance> = Api::namespaced(client.clone(), &item.namespace);
    deadline(api.patch(&item.name, &how, &change)).await
}

/// Makes the backup that a row asks for. It is written before the row counts as applied, and is one however often it is
/// written.
async fn make_backup(client: &Client, item: &OutboxItem) -> Result<(), Error> {
    let Some((name, operation)) = &item.backup else {
        return Ok(());
    };
    let spec = CacheBackupSpec {
        instance_ref: LocalRef {
            name: item.name.clone(),
        },
        snapshot: None,
        deletion_policy: BackupDeletionPolicy::default(),
    };
    let mut backup = CacheBackup::new(name, spec);
    backup.metadata.annotations = Some(
        [
            (annotations::INSTANCE_ID, item.instance.to_string()),
            (annotations::OPERATION_ID, operation.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    );
    let api: Api<CacheBackup> = Api::namespaced(client.clone(), &item.namespace);
    let how = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match deadline(api.create(&how, &backup)).await {
        Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Says in a resource that its deletion was asked for over OSB: one that somebody else deleted is held until then.
async fn ask_deletion(
    api: &Api<CacheInstance>,
    existing: CacheInstance,
    item: &OutboxItem,
) -> Result<CacheInstance, Error> {
    if existing.annotation(annotations::APPROVE_DELETION) == Some("true") {
        return Ok(existing);
    }
    let how = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let change = Patch::Merge(json!({ "metadata": {
        "resourceVersion": existing.resource_version(),
        "annotations": {
            annotations::APPROVE_DELETION: "true",
            annotations::OPERATION_ID: item.operation,
            annotations::REQUEST_IDENTITY: item.request_identity,
        },
    } }));
    deadline(api.patch(&existing.name_any(), &how, &change)).await
}

async fn delete(api: &Api<CacheInstance>, existing: &CacheInstance) -> Result<(), Error> {
    let how = DeleteParams {
        preconditions: Some(Preconditions {
            uid: existing.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match deadline(api.delete(&existing.name_any(), &how)).await {
        Err(Error::Kube(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later_up_to_a_minute() {
        assert_eq!(retry_in(1), FIRST_RETRY);
        assert_eq!(retry_in(3), FIRST_RETRY * 4);
        assert_eq!(retry_in(i32::MAX), LONGEST_RETRY);
    }
}
