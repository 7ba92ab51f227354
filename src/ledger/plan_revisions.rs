use serde_json::Value;

use super::{Ledger, LedgerError, PlanId};

impl Ledger {
    /// The revision of a plan's spec, known by its digest: the newest one if that is the same spec, else the next. The
    /// spec is kept, for requests about instances that run from an older one.
    ///
    /// A spec that comes back after another one counts anew, so revisions follow edits and never go back.
    /// `kept` is the newest revision that the cluster keeps, which the ledger may not know if it was restored from an
    /// older backup: the count goes on from whichever is further.
    ///
    /// # Errors
    /// When Postgres cannot be reached or refuses.
    pub async fn plan_revision(
        &self,
        plan: &PlanId,
        spec: &Value,
        digest: &[u8],
        kept: Option<(i64, Vec<u8>)>,
    ) -> Result<i64, LedgerError> {
        self.within("counting the revision of a plan", async {
            let refused = || LedgerError::statement(format!("counting the revision of plan {plan}"));
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(refused())?;
            // Two operators may see an edit at one time; the second waits and finds the first one's row.
            transaction
                .execute(
                    "select pg_advisory_xact_lock(hashtextextended($1, 0))",
                    &[&plan.as_str()],
                )
                .await
                .map_err(refused())?;
            let newest = transaction
                .query_opt(
                    "select revision, digest, spec is not null from plan_revisions
                     where plan_id = $1 order by revision desc limit 1",
                    &[&plan.as_str()],
                )
                .await
                .map_err(refused())?
                .map(|row| (row.get::<_, i64>(0), row.get::<_, Vec<u8>>(1), row.get::<_, bool>(2)));
            let in_ledger = newest.as_ref().filter(|newest| newest.2).map(|newest| newest.0);
            let newest = newest.map(|(revision, digest, _)| (revision, digest));
            let revision = match newest.into_iter().chain(kept).max_by_key(|(revision, _)| *revision) {
                Some((revision, known)) if known == digest => revision,
                Some((revision, _)) => revision + 1,
                None => 1,
            };
            if in_ledger == Some(revision) {
                return Ok(revision);
            }
            transaction
                .execute(
                    "insert into plan_revisions (plan_id, revision, digest, spec) values ($1, $2, $3, $4)
                     on conflict (plan_id, revision) do update set spec = excluded.spec",
                    &[&plan.as_str(), &revision, &digest, &spec],
                )
                .await
                .map_err(refused())?;
            transaction.commit().await.map_err(refused())?;
            Ok(revision)
        })
        .await
    }
}
