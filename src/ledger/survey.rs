//! The whole ledger at a glance, for `cache-broker doctor`, and what that mends here.

use serde_json::{Map, Value};

use super::instances::parameters_place;
use super::{Desired, InstanceId, Ledger, LedgerError, updates};

/// An instance as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Surveyed {
    /// The OSB instance.
    pub id: InstanceId,
    /// The name of the `CachePlan`.
    pub plan_name: String,
    /// Its revision.
    pub plan_revision: i64,
    /// The tenant's parameters; absent if they cannot be opened.
    pub parameters: Option<Map<String, Value>>,
    /// The platform's organization.
    pub organization: String,
    /// The platform's space.
    pub space: String,
    /// Namespace of its resource.
    pub namespace: String,
    /// Name of its resource.
    pub name: String,
    /// Whether its resource is to exist.
    pub desired: Desired,
    /// The revision that the row is at.
    pub desired_revision: i64,
    /// The revision that was written to the cluster.
    pub applied_revision: i64,
    /// Why it could not be written.
    pub outbox_error: Option<String>,
    /// Whether it was given back.
    pub returned: bool,
    /// The operation in progress that outlived its deadline.
    pub overdue: Option<String>,
}

/// All that the ledger has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Instances, those that were given back included.
    pub instances: Vec<Surveyed>,
    /// Namespace and name of the members of pools.
    pub members: Vec<(String, String)>,
}

impl Ledger {
    /// Reads all instances and members of pools.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn survey(&self) -> Result<Survey, LedgerError> {
        self.within("reading the whole ledger", async {
            let refused = || LedgerError::statement("reading the whole ledger");
            let client = self.client().await?;
            let rows = client
                .query(
                    "select i.id, plan_name, plan_revision, parameters, organization_guid, space_guid, namespace, name,
                        desired, i.desired_revision, applied_revision, outbox_error, deleted_at is not null as returned,
                        o.kind as overdue
                     from instances i left join operations o
                        on o.instance_id = i.id and o.binding_id is null and o.state = 'in_progress' and o.deadline_at < now() - interval '1 minute'
                     order by i.created_at",
                    &[],
                )
                .await
                .map_err(refused())?;
            let members = client
                .query("select namespace, name from pool_members", &[])
                .await
                .map_err(refused())?;
            Ok(Survey {
                instances: rows.iter().map(|row| self.surveyed(row)).collect::<Result<_, _>>()?,
                members: members.iter().map(|row| (row.get(0), row.get(1))).collect(),
            })
        })
        .await
    }

    fn surveyed(&self, row: &tokio_postgres::Row) -> Result<Surveyed, LedgerError> {
        let id: String = row.get("id");
        let id: InstanceId = id.parse().map_err(|error| LedgerError::Row {
            place: format!("instances/{id}"),
            reason: format!("id {error}"),
        })?;
        Ok(Surveyed {
            plan_name: row.get("plan_name"),
            plan_revision: row.get("plan_revision"),
            parameters: self.open_json(&parameters_place(&id), row.get("parameters")).ok(),
            organization: row.get("organization_guid"),
            space: row.get("space_guid"),
            namespace: row.get("namespace"),
            name: row.get("name"),
            desired: match row.get("desired") {
                "absent" => Desired::Absent,
                _ => Desired::Present,
            },
            desired_revision: row.get("desired_revision"),
            applied_revision: row.get("applied_revision"),
            outbox_error: row.get("outbox_error"),
            returned: row.get("returned"),
            overdue: row.get("overdue"),
            id,
        })
    }

    /// Has an instance's resource written, or deleted, from its row again: the row gets a new revision, as if more had
    /// been asked. One that was given back is deleted.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn write_again(&self, instance: &InstanceId) -> Result<(), LedgerError> {
        self.within("having a resource written again", async {
            let refused =
                || LedgerError::statement(format!("having the resource of instance {instance} written again"));
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused())?;
            tx.execute(
                "update instances set desired = 'absent' where id = $1 and deleted_at is not null",
                &[&instance.as_str()],
            )
            .await
            .map_err(refused())?;
            updates::rewrite(&tx, instance).await?;
            tx.commit().await.map_err(refused())
        })
        .await
    }
}
