//! How much there is already, counted while a request that would add to it is judged.

use deadpool_postgres::Transaction;

use super::{Ledger, LedgerError, PlanId};

/// What is to be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Instances of this organization.
    pub organization: Option<String>,
    /// Instances of this plan.
    pub plan: Option<PlanId>,
}

/// How many instances there are that are not gone, as far as they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the organization.
    pub organization: i64,
    /// Of the plan.
    pub plan: i64,
}

impl Scope {
    /// Whether nothing is to be counted.
    pub fn is_empty(&self) -> bool {
        self.organization.is_none() && self.plan.is_none()
    }
}

impl Ledger {
    /// Counts, and lets nobody else who counts the same go on until the transaction ends.
    pub(super) async fn usage(tx: &Transaction<'_>, scope: &Scope) -> Result<Usage, LedgerError> {
        let refused = || LedgerError::statement("counting instances");
        let count = async |kind: &str, value: Option<&str>, query: &str| -> Result<i64, LedgerError> {
            let Some(value) = value else {
                return Ok(0);
            };
            let lock = tx
                .prepare_cached("select pg_advisory_xact_lock(hashtextextended($1, 1))")
                .await
                .map_err(refused())?;
            tx.execute(&lock, &[&format!("{kind}/{value}")])
                .await
                .map_err(refused())?;
            let statement = tx.prepare_cached(query).await.map_err(refused())?;
            let row = tx.query_one(&statement, &[&value]).await.map_err(refused())?;
            row.try_get(0).map_err(refused())
        };
        Ok(Usage {
            organization: count(
                "organization",
                scope.organization.as_deref(),
                "select count(*) from instances where organization_guid = $1 and deleted_at is null",
            )
            .await?,
            plan: count(
                "plan",
                scope.plan.as_ref().map(PlanId::as_str),
                "select count(*) from instances where plan_id = $1 and deleted_at is null",
            )
            .await?,
        })
    }
}
