//! Instances made ahead. A member is on record before its resource is made, and is never handed out again once it was
//! claimed or retired: both are one conditional write of its row.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::instances;
use super::projection::guard;
use super::{
    Asked, Connection, Epoch, InstanceId, Ledger, LedgerError, NewInstance, OperationKind, OperationState, PlanId,
};
use crate::telemetry::metrics::record;

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// It is not ready yet, or not at the moment.
    Making,
    /// It can be handed out.
    Ready,
    /// It did not become ready.
    Failed,
    /// It is not handed out any more, and its resource is deleted.
    Retired,
    /// It belongs to an instance, whose resource is about to say so.
    Claimed,
}

impl MemberState {
    const ALL: [Self; 5] = [Self::Making, Self::Ready, Self::Failed, Self::Retired, Self::Claimed];

    /// As it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Retired => "retired",
            Self::Claimed => "claimed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// An instance made ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMember {
    /// Its id.
    pub id: Uuid,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan that it runs from.
    pub plan_revision: i64,
    /// Namespace of its resource.
    pub namespace: String,
    /// Name of its resource.
    pub name: String,
    /// The uid of its resource, once that was seen.
    pub uid: Option<String>,
    /// The id in the provider of the cache that it takes over, if it was not made for it.
    pub adopt: Option<String>,
    /// How far it is.
    pub state: MemberState,
    /// For how long it is in that state.
    pub age: Duration,
    /// Why it failed.
    pub message: Option<String>,
    /// Whether the present leader has seen it: only then it is handed out.
    pub verified: bool,
}

/// A member to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its id.
    pub id: Uuid,
    /// The OSB plan.
    pub plan_id: PlanId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// The revision of the plan to run from.
    pub plan_revision: i64,
    /// Where its resource goes.
    pub namespace: String,
    /// What its resource is called.
    pub name: String,
}

/// What was seen of a member's resource.
#[derive(Clone, Debug)]
pub enum Noted {
    /// It is not ready.
    Making,
    /// It is ready, and reached so.
    Ready(Connection),
    /// It did not become ready; why.
    Failed(String),
}

/// What became of an order that a member would do for.
pub(super) enum Claim {
    /// A member is the instance now.
    Taken,
    /// None is ready.
    Empty,
    /// The instance's id was taken meanwhile.
    IdTaken,
}

/// A member that is handed out, as the instance that it becomes.
pub(super) struct MadeAhead {
    /// Its id.
    pub member: Uuid,
    /// Namespace of its resource.
    pub namespace: String,
    /// Name of its resource.
    pub name: String,
    /// Uid of its resource.
    pub uid: String,
    /// How it is reached, sealed in the instance's place.
    pub connection: Vec<u8>,
    /// When it is handed out.
    pub at: Timestamp,
}

/// Where a member's connection is sealed.
fn connection_place(id: Uuid) -> String {
    format!("pool_members.connection/{id}")
}

fn member(row: &Row) -> Result<PoolMember, LedgerError> {
    let id: Uuid = row.get("id");
    let state: &str = row.get("state");
    Ok(PoolMember {
        id,
        plan_name: row.get("plan_name"),
        plan_revision: row.get("plan_revision"),
        namespace: row.get("namespace"),
        name: row.get("name"),
        uid: row.get("uid"),
        adopt: row.get("adopt"),
        state: MemberState::parse(state).ok_or_else(|| LedgerError::Row {
            place: format!("pool_members/{id}"),
            reason: format!("state {state:?} is not known"),
        })?,
        age: Duration::from_secs_f64(row.get::<_, f64>("age").max(0.0)),
        message: row.get("message"),
        verified: row.get("verified"),
    })
}

impl Ledger {
    /// Every member that is to be looked after: those that nobody claimed, and those claimed a short while ago or whose
    /// resource does not say so yet.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn pool_members(&self) -> Result<Vec<PoolMember>, LedgerError> {
        self.within("reading the pools", async {
            let rows = self
                .client()
                .await?
                .query(
                    "select m.id, m.plan_name, m.plan_revision, m.namespace, m.name, m.uid, m.adopt, m.state, m.message,
                        m.verified_epoch = (select epoch from leader) as verified,
                        extract(epoch from clock_timestamp() - m.since)::double precision as age
                   from pool_members m left join instances i on i.id = m.claimed_by
                  where m.state <> 'claimed' or m.since > now() - interval '5 minutes' or i.applied_revision = 0
                  order by m.created_at, m.id",
                    &[],
                )
                .await
                .map_err(LedgerError::statement("reading the pools"))?;
            rows.iter().map(member).collect()
        })
        .await
    }

    /// Records a member before its resource is made.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn add_member(&self, epoch: Epoch, new: &NewMember) -> Result<(), LedgerError> {
        self.pool_write(
            epoch,
            "recording a member of a pool",
            "insert into pool_members (id, plan_id, plan_name, plan_revision, namespace, name)
                 values ($1, $2, $3, $4, $5, $6)",
            &[
                &new.id,
                &new.plan_id.as_str(),
                &new.plan_name,
                &new.plan_revision,
                &new.namespace,
                &new.name,
            ],
        )
        .await
        .map(drop)
    }

    /// Notes what was seen of a member's resource. `false` if it was claimed or retired meanwhile.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn note_member(&self, epoch: Epoch, id: Uuid, uid: &str, noted: &Noted) -> Result<bool, LedgerError> {
        let (state, message, connection) = match noted {
            Noted::Making => (MemberState::Making, None, None),
            Noted::Ready(connection) => (
                MemberState::Ready,
                None,
                Some(self.seal_json(&connection_place(id), connection)?),
            ),
            Noted::Failed(message) => (MemberState::Failed, Some(message), None),
        };
        let written = self
            .pool_write(
                epoch,
                "noting how a member of a pool is",
                "update pool_members
                    set state = $2, message = $3, connection = coalesce($4, connection), uid = $5,
                        verified_epoch = $6, since = case when state = $2 then since else now() end
                  where id = $1 and state in ('making', 'ready', 'failed')",
                &[&id, &state.as_str(), &message, &connection, &uid, &epoch.number()],
            )
            .await?;
        Ok(written > 0)
    }

    /// Takes a member out of its pool, before its resource is deleted. `false` if it was claimed meanwhile, and must not
    /// be deleted.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn retire_member(&self, epoch: Epoch, id: Uuid) -> Result<bool, LedgerError> {
        let written = self
            .pool_write(
                epoch,
                "retiring a member of a pool",
                "update pool_members set state = 'retired', since = now(), connection = null
                  where id = $1 and state in ('making', 'ready', 'failed')",
                &[&id],
            )
            .await?;
        Ok(written > 0)
    }

    /// Forgets a retired member whose resource is gone.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn forget_member(&self, epoch: Epoch, id: Uuid) -> Result<(), LedgerError> {
        self.pool_write(
            epoch,
            "forgetting a member of a pool",
            "delete from pool_members where id = $1 and state = 'retired'",
            &[&id],
        )
        .await
        .map(drop)
    }

    /// Forgets members that have long been instances.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses, or a later leader has begun.
    pub async fn forget_claimed_members(&self, epoch: Epoch) -> Result<(), LedgerError> {
        self.pool_write(
            epoch,
            "forgetting claimed members of pools",
            "delete from pool_members m using instances i
                  where m.state = 'claimed' and m.since < now() - interval '1 day'
                    and i.id = m.claimed_by and i.applied_revision > 0",
            &[],
        )
        .await
        .map(drop)
    }

    /// Whether a resource of a pool was claimed by an instance.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn is_claimed(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        instance: &InstanceId,
    ) -> Result<bool, LedgerError> {
        self.within("asking whose a member of a pool is", async {
            let row = self
                .client()
                .await?
                .query_opt(
                    "select from pool_members where namespace = $1 and name = $2 and uid = $3 and claimed_by = $4",
                    &[&namespace, &name, &uid, &instance.as_str()],
                )
                .await
                .map_err(LedgerError::statement("asking whose a member of a pool is"))?;
            Ok(row.is_some())
        })
        .await
    }

    /// One write of the leader. Returns how many rows it changed.
    async fn pool_write(
        &self,
        epoch: Epoch,
        attempt: &str,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, LedgerError> {
        self.within(attempt, async {
            let refused = || LedgerError::statement(attempt);
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused())?;
            guard(&tx, epoch).await?;
            let written = tx.execute(statement, values).await.map_err(refused())?;
            tx.commit().await.map_err(refused())?;
            Ok(written)
        })
        .await
    }

    /// Makes a ready member the instance, in one transaction: the instance's row with the member's connection, its
    /// operation, ended well, and its webhook, due.
    pub(super) async fn claim_member(
        &self,
        client: &mut impl GenericClient,
        id: &InstanceId,
        asked: &Asked,
        new: &NewInstance,
    ) -> Result<Claim, LedgerError> {
        let refused = |error| LedgerError::statement(format!("claiming a member of a pool for instance {id}"))(error);
        let tx = client.transaction().await.map_err(refused)?;
        let statement = tx
            .prepare_cached(
                "select id, namespace, name, uid, connection, clock_timestamp() as at from pool_members
                  where state = 'ready' and plan_id = $1 and plan_revision = $2 and plan_name = $3
                      and verified_epoch = (select epoch from leader)
                  order by created_at limit 1 for update skip locked",
            )
            .await
            .map_err(refused)?;
        let ready = tx
            .query_opt(&statement, &[&new.plan_id.as_str(), &new.plan_revision, &new.plan_name])
            .await
            .map_err(refused)?;
        let Some(ready) = ready else {
            return Ok(Claim::Empty);
        };
        let member: Uuid = ready.try_get("id").map_err(refused)?;
        let sealed: &[u8] = ready.try_get("connection").map_err(refused)?;
        let connection: Connection = self.open_json(&connection_place(member), sealed)?;
        let ahead = MadeAhead {
            member,
            namespace: ready.try_get("namespace").map_err(refused)?,
            name: ready.try_get("name").map_err(refused)?,
            uid: ready.try_get("uid").map_err(refused)?,
            connection: self.seal_json(&instances::connection_place(id), &connection)?,
            at: ready.try_get("at").map_err(refused)?,
        };
        if self.insert_instance(&tx, id, asked, new, Some(&ahead)).await?.is_none() {
            return Ok(Claim::IdTaken);
        }
        tx.commit().await.map_err(refused)?;
        let (kind, state) = (OperationKind::Provision, OperationState::Succeeded);
        record::operation_ended(kind.as_str(), state.as_str(), Duration::ZERO);
        Ok(Claim::Taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in MemberState::ALL {
            assert_eq!(MemberState::parse(state.as_str()), Some(state));
        }
        assert_eq!(MemberState::parse("gone"), None);
    }
}
