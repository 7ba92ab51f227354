//! What was seen of custom resources, written into the ledger: readiness, connection, the end of operations.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::acceptance;
use super::instances::connection_place;
use super::operations::{self, Operation, OperationKind, Outcome, Remains};
use super::outbox::Later;
use super::{Connection, InstanceId, Ledger, LedgerError, bindings, listen, updates};
use crate::api::is_later;

/// A leader's number. Writes of an earlier leader are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(i64);

impl Epoch {
    pub(super) fn number(self) -> i64 {
        self.0
    }
}

/// What an observed resource means for the operation that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Work goes on.
    No,
    /// It is as the revision wants it.
    Ready,
    /// It cannot become so; why.
    Failed(String),
}

/// One observation of an instance's custom resource.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The OSB instance it carries.
    pub instance: InstanceId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
    /// What it says, for a ledger that is behind.
    pub later: Later,
    /// Whether it takes over a cache that exists.
    pub adopts: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it means for a waiting operation.
    pub verdict: Verdict,
    /// Whether the cache answers.
    pub ready: bool,
    /// The reason of its `Ready` condition.
    pub reason: String,
    /// The message of its `Ready` condition.
    pub message: String,
    /// How to reach it, if known.
    pub connection: Option<Connection>,
    /// Whether it is encrypted at rest, if its provider says so.
    pub encrypted_at_rest: Option<bool>,
    /// The users that its cache lets in, or may let in.
    pub users: Vec<SeenUser>,
    /// Whether its status speaks of its present spec.
    pub current: bool,
}

/// A user as a resource's status tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUser {
    /// Its name.
    pub name: String,
    /// Whether the cache lets it in.
    pub ready: bool,
}

/// What became of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projected {
    /// It is in the ledger.
    Written,
    /// It is in the ledger, and of an earlier revision than was applied: it comes late, or somebody put the resource back. One
    /// that takes over a cache is not, once its instance is to go.
    Earlier,
    /// The ledger has it, or something newer, already.
    Stale,
    /// The ledger does not know the instance.
    Unknown,
    /// The instance was given back: its resource was put up for deletion again.
    Tombstone,
    /// The instance was given back, and somebody had its resource take over a cache that exists: it is left alone.
    Kept,
    /// The instance's resource is another one: this is a copy, which says nothing to the ledger.
    Copy,
}

/// A row whose resource was written at some time, as the projector compares it with a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedRow {
    /// The OSB instance.
    pub instance: InstanceId,
    /// The uid its resource had when it was last seen.
    pub uid: Option<String>,
    /// The resource version last seen by an earlier or the present leader.
    pub resource_version: Option<String>,
}

/// A resource that was there and is not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, if it was known.
    pub uid: Option<String>,
}

impl Ledger {
    /// Begins to lead: every write of an earlier leader is refused from now on.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn next_epoch(&self) -> Result<Epoch, LedgerError> {
        self.within("taking the next epoch", async {
            let row = self
                .client()
                .await?
                .query_one("update leader set epoch = epoch + 1 returning epoch", &[])
                .await
                .map_err(LedgerError::statement("taking the next epoch"))?;
            Ok(Epoch(row.get(0)))
        })
        .await
    }

    /// The live rows whose present revision was applied, by namespace and name of their resource.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn applied_rows(&self) -> Result<BTreeMap<(String, String), AppliedRow>, LedgerError> {
        self.within("listing the instances that were applied", async {
            let rows = self
                .client()
                .await?
                .query(
                    "select id, namespace, name, uid, observed_version from instances
                  where deleted_at is null and applied_revision = desired_revision",
                    &[],
                )
                .await
                .map_err(LedgerError::statement("listing the instances that were applied"))?;
            rows.iter()
                .map(|row| {
                    let id: String = row.get("id");
                    let instance = id.parse().map_err(|error| LedgerError::Row {
                        place: format!("instances/{id}"),
                        reason: format!("id {error}"),
                    })?;
                    let row_of = AppliedRow {
                        instance,
                        uid: row.get("uid"),
                        resource_version: row.get("observed_version"),
                    };
                    Ok(((row.get("namespace"), row.get("name")), row_of))
                })
                .collect()
        })
        .await
    }

    /// Writes an observation, and ends the operation that waited for it.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn project(&self, epoch: Epoch, observation: &Observation) -> Result<Projected, LedgerError> {
        self.within("projecting an instance", async {
            let id = observation.instance.as_str();
            let refused = || LedgerError::statement(format!("projecting instance {id}"));
            let connection = observation
                .connection
                .as_ref()
                .map(|connection| self.seal_json(&connection_place(&observation.instance), connection))
                .transpose()?;
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            guard(&transaction, epoch).await?;
            let lock = transaction
                .prepare_cached(
                    "select deleted_at is not null as tombstone, namespace, name, uid, observed_epoch, observed_version,
                        applied_revision > $2 and (desired = 'present' or not $3) as earlier
                   from instances where id = $1 for update",
                )
                .await
                .map_err(refused())?;
            let Some(row) = transaction
                .query_opt(&lock, &[&id, &observation.later.revision, &observation.adopts])
                .await
                .map_err(refused())?
            else {
                return Ok(Projected::Unknown);
            };
            if (row.get::<_, &str>("namespace"), row.get::<_, &str>("name"))
                != (observation.namespace.as_str(), observation.name.as_str())
            {
                return Ok(Projected::Copy);
            }
            if row.get("tombstone") {
                if observation.adopts {
                    return Ok(Projected::Kept);
                }
                if observation.deleting {
                    return Ok(Projected::Stale);
                }
                transaction
                    .execute(
                        "update instances set desired = 'absent', desired_revision = desired_revision + 1,
                            outbox_due_at = now(), uid = $2, updated_at = now() where id = $1",
                        &[&id, &observation.uid],
                    )
                    .await
                    .map_err(refused())?;
                transaction.commit().await.map_err(refused())?;
                self.outbox_wakeup().notify_one();
                return Ok(Projected::Tombstone);
            }
            let seen = (row.get::<_, i64>("observed_epoch") == epoch.0
                && row.get::<_, Option<String>>("uid").as_deref() == Some(&observation.uid))
            .then(|| row.get::<_, Option<String>>("observed_version"))
            .flatten();
            if seen.is_some_and(|seen| !is_later(&observation.resource_version, &seen)) {
                return Ok(Projected::Stale);
            }
            if self
                .take_up(&transaction, &observation.instance, &observation.later)
                .await?
            {
                tracing::warn!(
                    instance = id,
                    revision = observation.later.revision,
                    "the ledger is older than the cluster"
                );
            }
            let update = transaction
            .prepare_cached(
                "update instances set uid = $2, observed_epoch = $3, observed_version = $4, ready = $5, reason = $6,
                        message = $7, connection = coalesce($8, connection), updated_at = now(),
                        encrypted_at_rest = coalesce($9, encrypted_at_rest),
                        provisioned_at = case when $5 then coalesce(provisioned_at, now()) else provisioned_at end
                  where id = $1",
            )
            .await
            .map_err(refused())?;
            transaction
                .execute(
                    &update,
                    &[
                        &id,
                        &observation.uid,
                        &epoch.0,
                        &observation.resource_version,
                        &observation.ready,
                        &observation.reason,
                        &observation.message,
                        &connection,
                        &observation.encrypted_at_rest,
                    ],
                )
                .await
                .map_err(refused())?;
            let running = acceptance::latest_operation(&transaction, &observation.instance).await?;
            if let Some(running) = running.filter(Operation::is_running)
                && observation.later.revision >= running.desired_revision
                // The end of those is seen elsewhere: the resource is gone, the backup is complete.
                && !matches!(running.kind, OperationKind::Deprovision | OperationKind::Backup)
            {
                let outcome = match &observation.verdict {
                    Verdict::No => None,
                    Verdict::Ready => Some(Outcome::Succeeded),
                    // Stalled: nothing changes until somebody changes something.
                    Verdict::Failed(why) => Some(Outcome::Failed {
                        description: why.clone(),
                        remains: Remains {
                            usable: true,
                            repeatable: false,
                        },
                    }),
                };
                if let Some(outcome) = outcome {
                    operations::end(&transaction, running.id, &outcome).await?;
                    if outcome != Outcome::Succeeded && running.kind.is_put_back() {
                        updates::rewrite(&transaction, &observation.instance).await?;
                        self.outbox_wakeup().notify_one();
                    }
                }
            }
            if bindings::settle(&transaction, observation).await? {
                updates::rewrite(&transaction, &observation.instance).await?;
                self.outbox_wakeup().notify_one();
            }
            transaction.commit().await.map_err(refused())?;
            Ok(if row.get("earlier") && !observation.deleting {
                Projected::Earlier
            } else {
                Projected::Written
            })
        })
        .await
    }

    /// Has a resource written again, or deleted again, that is of an earlier revision than was applied: somebody put it back,
    /// or its cluster, or a call that made it came late.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn put_back(&self, epoch: Epoch, instance: &InstanceId, revision: i64) -> Result<(), LedgerError> {
        self.within("having a resource written again", async {
            let refused =
                || LedgerError::statement(format!("having the resource of instance {instance} written again"));
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            guard(&transaction, epoch).await?;
            let written = transaction
                .execute(
                    "update instances set applied_revision = $2, outbox_due_at = now(), outbox_attempts = 0
                      where id = $1 and deleted_at is null and applied_revision > $2",
                    &[&instance.as_str(), &revision],
                )
                .await
                .map_err(refused())?;
            if written > 0 {
                listen::notify(&transaction, listen::OUTBOX).await?;
            }
            transaction.commit().await.map_err(refused())
        })
        .await
    }

    /// Notes that an instance's resource is gone, if it is that one. An instance that is to be gone becomes a tombstone and its
    /// deprovision succeeds; any other is noted as missing, and an operation that waited for it fails.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn project_absent(
        &self,
        epoch: Epoch,
        instance: &InstanceId,
        gone: Option<&Gone>,
    ) -> Result<(), LedgerError> {
        self.within("projecting the absence of an instance", async {
            let id = instance.as_str();
            let refused = || LedgerError::statement(format!("projecting the absence of instance {id}"));
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            guard(&transaction, epoch).await?;
            absent(&transaction, instance, gone).await?;
            transaction.commit().await.map_err(refused())
        })
        .await
    }

    /// Ends an absence that the outbox itself found: there was nothing to delete.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn applied_absence(&self, instance: &InstanceId, revision: i64) -> Result<(), LedgerError> {
        self.mark_applied(instance, revision, None).await?;
        self.within("noting that an instance is gone", async {
            let id = instance.as_str();
            let refused = || LedgerError::statement(format!("noting that instance {id} is gone"));
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            absent(&transaction, instance, None).await?;
            transaction.commit().await.map_err(refused())
        })
        .await
    }

    /// Ends an operation whose backup was seen to be complete, or to fail. One that ended already stays as it is.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn project_backup(&self, epoch: Epoch, operation: Uuid, outcome: &Outcome) -> Result<(), LedgerError> {
        self.within("projecting a backup", async {
            let refused = || LedgerError::statement(format!("projecting the backup of operation {operation}"));
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            guard(&transaction, epoch).await?;
            operations::end(&transaction, operation, outcome).await?;
            transaction.commit().await.map_err(refused())
        })
        .await
    }

    /// Fails every operation that has outlived its deadline. Returns how many.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn expire_operations(&self) -> Result<usize, LedgerError> {
        self.within("ending operations past their deadline", async {
            let refused = || LedgerError::statement("ending operations past their deadline");
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            let due = transaction
                .query(
                    "select o.id, o.kind, o.instance_id, i.message
                   from operations o join instances i on i.id = o.instance_id
                  where o.state = 'in_progress' and o.deadline_at <= now()
                  order by o.deadline_at limit 100 for update of o, i skip locked",
                    &[],
                )
                .await
                .map_err(refused())?;
            let mut ended = 0;
            for row in &due {
                let (kind, last): (String, Option<String>) = (row.get("kind"), row.get("message"));
                let last = last
                    .filter(|message| !message.is_empty())
                    .map_or_else(String::new, |last| format!("; last seen: {last}"));
                let outcome = Outcome::Failed {
                    description: format!("{kind} took longer than the plan allows{last}"),
                    remains: Remains {
                        usable: true,
                        repeatable: true,
                    },
                };
                ended += usize::from(operations::end(&transaction, row.get("id"), &outcome).await?);
                if OperationKind::parse(&kind).is_some_and(OperationKind::is_put_back) {
                    let id: String = row.get("instance_id");
                    let instance = id.parse().map_err(|error| LedgerError::Row {
                        place: format!("instances/{id}"),
                        reason: format!("id {error}"),
                    })?;
                    updates::rewrite(&transaction, &instance).await?;
                }
            }
            transaction.commit().await.map_err(refused())?;
            self.outbox_wakeup().notify_one();
            Ok(ended)
        })
        .await
    }
}

/// Refuses the writes of an earlier leader.
pub(super) async fn guard(transaction: &deadpool_postgres::Transaction<'_>, epoch: Epoch) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement("reading the present epoch");
    let statement = transaction
        .prepare_cached("select epoch from leader for share")
        .await
        .map_err(refused())?;
    let current: i64 = transaction.query_one(&statement, &[]).await.map_err(refused())?.get(0);
    if current == epoch.0 {
        Ok(())
    } else {
        Err(LedgerError::Fenced { ours: epoch.0, current })
    }
}

async fn absent(
    transaction: &deadpool_postgres::Transaction<'_>,
    instance: &InstanceId,
    gone: Option<&Gone>,
) -> Result<(), LedgerError> {
    let id = instance.as_str();
    let refused = || LedgerError::statement(format!("noting that instance {id} is gone"));
    let Some(row) = transaction
        .query_opt(
            "select desired, applied_revision = desired_revision as applied, namespace, name, uid
               from instances where id = $1 and deleted_at is null for update",
            &[&id],
        )
        .await
        .map_err(refused())?
    else {
        return Ok(());
    };
    let known: Option<String> = row.get("uid");
    let another = gone.is_some_and(|gone| {
        let elsewhere = (row.get::<_, &str>("namespace"), row.get::<_, &str>("name")) != (&gone.namespace, &gone.name);
        let came_after = matches!((&gone.uid, &known), (Some(uid), Some(known)) if uid != known);
        elsewhere || came_after
    });
    let wanted_gone = row.get::<_, String>("desired") == "absent";
    // A row that is still to be applied will make its resource; one that is to be gone needs no more applying.
    if another || !(wanted_gone || row.get::<_, bool>("applied")) {
        return Ok(());
    }
    // Read after the lock: one that was accepted while the lock was waited for is the one that ends.
    let running = acceptance::latest_operation(transaction, instance)
        .await?
        .filter(Operation::is_running);
    let outcome = if wanted_gone {
        bindings::lost(transaction, instance, "the instance was deleted").await?;
        transaction
            .execute(
                "update instances set deleted_at = now(), updated_at = now(), ready = false, reason = 'Deleted',
                        message = null, connection = null, applied_revision = desired_revision where id = $1",
                &[&id],
            )
            .await
            .map_err(refused())?;
        transaction
            .execute(
                "update bindings set deleted_at = now(), credentials = '' where instance_id = $1 and deleted_at is null",
                &[&id],
            )
            .await
            .map_err(refused())?;
        Outcome::Succeeded
    } else {
        let message = "its CacheInstance was deleted from the cluster by somebody else; deprovision it";
        bindings::lost(transaction, instance, message).await?;
        transaction
            .execute(
                "update instances set updated_at = now(), ready = false, reason = 'Missing', message = $2
                  where id = $1",
                &[&id, &message],
            )
            .await
            .map_err(refused())?;
        Outcome::Failed {
            description: message.to_owned(),
            remains: Remains {
                usable: false,
                repeatable: false,
            },
        }
    };
    if let Some(running) = running {
        operations::end(transaction, running.id, &outcome).await?;
    }
    Ok(())
}
