//! The outbox: what the ledger accepted becomes custom resources.
//!
//! Any process may write any row, and one that was slow may come late. So a resource carries the ledger revision it was
//! written from, is written only on condition that it is still as it was read, and never from an older revision.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{Error, deadline, pool, users};
use crate::api::{
    Adopt, BackupDeletionPolicy, CacheBackup, CacheBackupSpec, CacheInstance, CacheInstanceSpec, LocalRef, Owner,
    PlanRef, Restore, annotations,
};
use crate::ledger::{BindingUser, Desired, Later, LaterPlan, Ledger, OutboxItem, listen, resource_name};

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
/// How soon they are looked for again at the soonest.
const SOONEST: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The rows that a process is writing, and what each was taken with.
#[derive(Default)]
struct Writing {
    tasks: JoinSet<()>,
    claims: HashMap<Id, Uuid>,
}

impl Writing {
    fn room(&self) -> usize {
        let free = AT_ONCE.saturating_sub(self.tasks.len());
        if free >= BATCH { free } else { 0 }
    }

    fn start(&mut self, ledger: &Ledger, client: &Client, item: OutboxItem) {
        let claim = item.claim;
        let task = self.tasks.spawn(work(ledger.clone(), client.clone(), item));
        self.claims.insert(task.id(), claim);
    }

    /// Waits until one was written, or not; for ever if none is.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.claims.remove(&id)),
            Some(Err(error)) => drop(self.claims.remove(&error.id())),
            None => std::future::pending().await,
        }
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
    let mut look = Instant::now();
    while !*shutdown.borrow() {
        if look <= Instant::now() && writing.room() > 0 {
            look = Instant::now() + take(&ledger, &client, &mut writing).await;
        }
        let room = writing.room() > 0;
        tokio::select! {
            biased;
            _ = renewals.tick() => writing.hold(&ledger).await,
            () = writing.ended() => {}
            () = ledger.outbox_wakeup().notified() => look = Instant::now(),
            () = others.notified() => look = Instant::now(),
            () = tokio::time::sleep_until(look), if room => {}
            _ = shutdown.changed() => {}
        }
    }
    while !writing.tasks.is_empty() {
        tokio::select! {
            () = writing.ended() => {}
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

async fn work(ledger: Ledger, client: Client, item: OutboxItem) {
    if let Err(error) = write(&ledger, &client, &item).await {
        tracing::warn!(instance = %item.instance, attempts = item.attempts, %error, "writing a resource");
        let wait = retry_in(item.attempts);
        if let Err(error) = ledger.mark_unapplied(&item, &error.to_string(), wait).await {
            tracing::warn!(instance = %item.instance, %error, "noting why a resource was not written");
        }
    }
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

fn set_revision(resource: &mut CacheInstance, revision: i64) {
    let annotations = resource.metadata.annotations.get_or_insert_default();
    annotations.insert(annotations::LEDGER_REVISION.to_owned(), revision.to_string());
}

/// What a resource says that was written from a later revision than the ledger has.
pub fn later(resource: &CacheInstance, revision: i64) -> Later {
    let spec = &resource.spec;
    let plan = resource.status.as_ref().and_then(|status| status.plan.as_ref());
    let plan = plan.filter(|plan| plan.name == spec.plan_ref.name);
    Later {
        revision,
        plan: plan.and_then(|plan| {
            Some(LaterPlan {
                id: plan.id.parse().ok()?,
                name: plan.name.clone(),
                revision: spec.plan_ref.revision.unwrap_or(plan.revision),
            })
        }),
        parameters: spec.parameters.clone(),
        restart_at: spec.restart_at.as_ref().map(|time| time.0),
        restore: spec.restore.as_ref().map(|restore| restore.backup.clone()),
    }
}

/// What makes a resource say what the row says, on condition that it is still as it was read. A merge patch (RFC 7396)
/// leaves alone what somebody else has set; what is not wanted any more is taken away by name.
fn change(existing: &CacheInstance, item: &OutboxItem, users: &[BindingUser]) -> Result<Value, Error> {
    let unwritable = |error: serde_json::Error| Error::Resource(format!("the resource of an order: {error}"));
    let mut wanted = resource(item);
    // A cache that is made anew has nothing to restart.
    wanted.spec.restart_at = item.restart_at.map(Time);
    wanted.spec.restore = item.restore.clone().map(|backup| Restore { backup });
    wanted.spec.users = users::wanted(existing, users);
    let digest = wanted.spec.digest();
    wanted
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(annotations::LEDGER_SPEC.to_owned(), digest);
    let before = serde_json::to_value(&existing.spec).map_err(unwritable)?;
    let mut spec = serde_json::to_value(&wanted.spec).map_err(unwritable)?;
    for name in ["parameters", "owner"] {
        let (Some(before), Some(spec)) = (before.get(name).and_then(Value::as_object), spec.as_object_mut()) else {
            continue;
        };
        let wanted = spec.entry(name).or_insert_with(|| json!({}));
        for member in before.keys() {
            if let Some(wanted) = wanted.as_object_mut() {
                wanted.entry(member).or_insert(Value::Null);
            }
        }
    }
    let mut annotations = json!(wanted.metadata.annotations);
    // Not those of an earlier request.
    for name in [
        annotations::OPERATION_ID,
        annotations::REQUEST_IDENTITY,
        annotations::ORIGINATING_IDENTITY,
    ] {
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.entry(name).or_insert(Value::Null);
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        // A restore that failed is taken back, and so is the last user.
        for name in ["restore", "users"] {
            spec.entry(name).or_insert(Value::Null);
        }
    }
    Ok(json!({
        "metadata": {
            "resourceVersion": existing.resource_version(),
            "annotations": annotations,
        },
        "spec": spec,
    }))
}

/// The resource of an accepted instance.
fn resource(item: &OutboxItem) -> CacheInstance {
    let instance_name = item
        .context
        .get("instance_name")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let spec = CacheInstanceSpec {
        plan_ref: PlanRef {
            name: item.plan_name.clone(),
            revision: Some(item.plan_revision),
        },
        parameters: item.parameters.clone(),
        owner: Some(Owner {
            organization: Some(item.organization.clone()),
            space: Some(item.space.clone()),
            instance_name: instance_name.map(|name| name.chars().take(256).collect()),
            labels: BTreeMap::new(),
        }),
        deletion_policy: None,
        connection_secret: None,
        restart_at: None,
        restore: None,
        adopt: item.adopt.as_ref().map(|adoption| Adopt {
            provider_id: adoption.provider_id.clone(),
            as_of: Some(PlanRef {
                name: adoption.plan_name.clone(),
                revision: Some(adoption.plan_revision),
            }),
        }),
        users: Vec::new(),
    };
    let originating = item.originating.as_ref().map(|originating| {
        let identity = Value::Object(originating.identity.clone());
        format!("{} {identity}", originating.platform)
    });
    let digest = spec.digest();
    let mut resource = CacheInstance::new(&item.name, spec);
    resource.metadata = ObjectMeta {
        name: Some(item.name.clone()),
        namespace: Some(item.namespace.clone()),
        annotations: Some(
            [
                (annotations::INSTANCE_ID, Some(item.instance.to_string())),
                (annotations::LEDGER_REVISION, Some(item.revision.to_string())),
                (annotations::LEDGER_SPEC, Some(digest)),
                (annotations::OPERATION_ID, item.operation.map(|id| id.to_string())),
                (annotations::REQUEST_IDENTITY, item.request_identity.clone()),
                (annotations::ORIGINATING_IDENTITY, originating),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        ),
        ..ObjectMeta::default()
    };
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(parameters: Value) -> OutboxItem {
        OutboxItem {
            instance: "i".parse().unwrap(),
            plan: "p".parse().unwrap(),
            plan_name: "large".to_owned(),
            plan_revision: 2,
            organization: "o".to_owned(),
            space: "s".to_owned(),
            context: json!({}),
            parameters: parameters.as_object().unwrap().clone(),
            restart_at: None,
            restore: None,
            adopt: None,
            backup: None,
            operation: Some(Uuid::nil()),
            request_identity: Some("request-1".to_owned()),
            originating: None,
            namespace: "n".to_owned(),
            name: "osb-1".to_owned(),
            desired: Desired::Present,
            revision: 7,
            attempts: 1,
            claim: Uuid::nil(),
        }
    }

    #[test]
    fn a_change_takes_away_what_is_not_wanted_and_leaves_alone_what_is_not_ours() {
        let existing: CacheInstance = serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "osb-1", "namespace": "n", "resourceVersion": "41" },
            "spec": {
                "planRef": { "name": "small", "revision": 1 },
                "parameters": { "connectionLimit": 5, "maxItemSize": "2Mi" },
                "owner": { "organization": "o", "space": "s", "instanceName": "old" },
                "deletionPolicy": "Retain",
            },
        }))
        .unwrap();
        let change = change(&existing, &item(json!({ "connectionLimit": 9 })), &[]).unwrap();
        let digest = resource(&item(json!({ "connectionLimit": 9 }))).spec.digest();
        assert_eq!(
            change,
            json!({
                "metadata": {
                    "resourceVersion": "41",
                    "annotations": {
                        "cache.akkeris.io/instance-id": "i", "cache.akkeris.io/ledger-revision": "7",
                        "cache.akkeris.io/ledger-spec": digest,
                        "cache.akkeris.io/operation-id": "00000000-0000-0000-0000-000000000000",
                        "cache.akkeris.io/request-identity": "request-1",
                        "cache.akkeris.io/originating-identity": null,
                    },
                },
                "spec": {
                    "planRef": { "name": "large", "revision": 2 },
                    "parameters": { "connectionLimit": 9, "maxItemSize": null },
                    "owner": { "organization": "o", "space": "s", "instanceName": null },
                    "restore": null, "users": null,
                },
            })
        );
        let restarting = OutboxItem {
            restart_at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            ..item(json!({}))
        };
        assert_eq!(
            super::change(&existing, &restarting, &[]).unwrap()["spec"]["restartAt"],
            json!("2026-01-02T03:04:05Z")
        );
        assert_eq!(resource(&restarting).spec.restart_at, None);
        // The last of the parameters, too.
        let none = super::change(&existing, &item(json!({})), &[]).unwrap();
        assert_eq!(
            none["spec"]["parameters"],
            json!({ "connectionLimit": null, "maxItemSize": null })
        );
    }

    #[test]
    fn retries_come_later_and_later_up_to_a_minute() {
        assert_eq!(retry_in(1), FIRST_RETRY);
        assert_eq!(retry_in(3), FIRST_RETRY * 4);
        assert_eq!(retry_in(i32::MAX), LONGEST_RETRY);
    }
}
