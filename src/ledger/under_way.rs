//! What is under way, for those who watch.

use super::{Ledger, LedgerError, OperationKind};
use crate::telemetry::metrics::sources::UnderWay;

impl Ledger {
    /// What is in progress, due and not applied yet: how much of it, and how old the oldest is. Answered from indexes of
    /// just that.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn under_way(&self) -> Result<UnderWay, LedgerError> {
        let attempt = async {
            let refused = LedgerError::statement("counting what is under way");
            let client = self.reader().await?;
            let rows = async {
                let statement = client
                    .prepare_cached(
                        "select kind, count(*), extract(epoch from now() - min(created_at))::double precision,
                             count(*) filter (where deadline_at < now())
                         from operations where state = 'in_progress' group by kind
                         union all
                         select 'webhooks', count(*), extract(epoch from now() - min(w.ready_at))::double precision, 0
                         from (select operations.ended_at as ready_at from webhooks
                             join operations on operations.id = webhooks.operation_id
                             where webhooks.state = 'due') w
                         union all
                         select 'outbox', count(*), extract(epoch from now() -
                             min(coalesce(operations.created_at, instances.updated_at)))::double precision, 0
                         from instances left join operations on operations.instance_id = instances.id
                             and operations.state = 'in_progress'
                         where applied_revision < instances.desired_revision",
                    )
                    .await?;
                client
                    .query(&statement, &[])
                    .await?
                    .iter()
                    .map(|row| {
                        Ok((
                            row.try_get(0)?,
                            row.try_get(1)?,
                            row.try_get::<_, Option<f64>>(2)?,
                            row.try_get(3)?,
                        ))
                    })
                    .collect::<Result<Vec<(String, i64, Option<f64>, i64)>, tokio_postgres::Error>>()
            };
            let rows = rows.await.map_err(refused)?;
            let mut found = UnderWay {
                operations: OperationKind::ALL.iter().map(|kind| (kind.as_str(), 0, 0.0)).collect(),
                ..UnderWay::default()
            };
            for (what, count, oldest, late) in rows {
                let seen = (count, oldest.unwrap_or(0.0).max(0.0));
                match what.as_str() {
                    "webhooks" => found.webhooks = seen,
                    "outbox" => found.outbox = seen,
                    kind => {
                        found.late += late;
                        if let Some(known) = found.operations.iter_mut().find(|(known, ..)| *known == kind) {
                            (known.1, known.2) = seen;
                        }
                    }
                }
            }
            Ok(found)
        };
        self.within("counting what is under way", attempt).await
    }
}
