//! Who asked for what, when, and what was answered. What changes something is recorded with the change, in one
//! transaction. No values of parameters and no secrets stand here.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::{BindingId, InstanceId, Ledger, LedgerError};

/// A user of a platform, as the platform names them (OSB 2.17, "Originating Identity").
#[derive(Clone, Debug, PartialEq)]
pub struct Originating {
    /// The kind of platform.
    pub platform: String,
    /// What it says of the user.
    pub identity: Map<String, Value>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asker {
    /// The name that the caller's credentials belong to.
    pub caller: String,
    /// The user behind the caller.
    pub originating: Option<Originating>,
    /// The platform's id of the request.
    pub request_identity: Option<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An instance.
    Provision,
    /// A change of it.
    Update,
    /// Its end.
    Deprovision,
    /// A restart of its nodes.
    Restart,
    /// A backup.
    Backup,
    /// That it is filled from one.
    Restore,
    /// That it forgets what it holds.
    Flush,
    /// A binding.
    Bind,
    /// Its end.
    Unbind,
}

impl Request {
    /// As it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Update => "update",
            Self::Deprovision => "deprovision",
            Self::Restart => "restart",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Flush => "flush",
            Self::Bind => "bind",
            Self::Unbind => "unbind",
        }
    }
}

/// A request as it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Who asks.
    pub asker: Asker,
    /// What for.
    pub request: Request,
    /// The binding it is about.
    pub binding: Option<BindingId>,
    /// The plan it names.
    pub plan: Option<String>,
    /// The names of the parameters it has.
    pub parameters: Vec<String>,
}

/// What was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Why not.
    pub refusal: Option<&'a str>,
    /// The operation that was named.
    pub operation: Option<Uuid>,
}

/// One line of an instance's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it was asked for.
    pub at: Timestamp,
    /// What.
    pub request: String,
    /// The binding it was about.
    pub binding: Option<String>,
    /// Who asked.
    pub caller: String,
    /// The kind of platform, and what that says of the user.
    pub platform: Option<String>,
    /// What the platform says of the user.
    pub identity: Option<Value>,
    /// The platform's id of the request.
    pub request_identity: Option<String>,
    /// The plan that was named.
    pub plan: Option<String>,
    /// The names of the parameters.
    pub parameters: Vec<String>,
    /// The HTTP status that was answered.
    pub status: i16,
    /// Why it was refused.
    pub refusal: Option<String>,
    /// How its operation stands: state, description, since when.
    pub outcome: Option<(String, Option<String>, Option<Timestamp>)>,
}

/// One line for people: when, what, who, what was answered, how it ended.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}  {}", self.at, self.request)?;
        for (name, value) in [("binding", &self.binding), ("plan", &self.plan)] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        if !self.parameters.is_empty() {
            write!(f, " parameters={}", self.parameters.join(","))?;
        }
        write!(f, "  by {}", self.caller)?;
        if let (Some(platform), Some(identity)) = (&self.platform, &self.identity) {
            write!(f, " for {platform} {identity}")?;
        }
        if let Some(identity) = &self.request_identity {
            write!(f, " request={identity}")?;
        }
        write!(f, "  {}", self.status)?;
        if let Some(refusal) = &self.refusal {
            write!(f, " {refusal}")?;
        }
        if let Some((state, description, ended)) = &self.outcome {
            write!(f, "  {state}")?;
            if let Some(ended) = ended {
                write!(f, " {ended:.3}")?;
            }
            if let Some(description) = description {
                write!(f, ": {description}")?;
            }
        }
        Ok(())
    }
}

/// Records a request, in the caller's transaction if it is one.
pub(super) async fn write(
    client: &impl GenericClient,
    instance: &InstanceId,
    asked: &Asked,
    answered: &Answered<'_>,
) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("recording a request about instance {instance}"));
    let statement = client
        .prepare_cached(
            "insert into audit (instance_id, binding_id, request, caller, platform, identity, request_identity, plan_id,
                parameters, status, refusal, operation_id)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .await
        .map_err(refused())?;
    let originating = asked.asker.originating.as_ref();
    client
        .execute(
            &statement,
            &[
                &instance.as_str(),
                &asked.binding.as_ref().map(BindingId::as_str),
                &asked.request.as_str(),
                &asked.asker.caller,
                &originating.map(|originating| &originating.platform),
                &originating.map(|originating| Json(&originating.identity)),
                &asked.asker.request_identity,
                &asked.plan,
                &asked.parameters,
                &i16::try_from(answered.status).unwrap_or_default(),
                &answered.refusal,
                &answered.operation,
            ],
        )
        .await
        .map_err(refused())?;
    Ok(())
}

impl Ledger {
    /// Records a request that changed nothing.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn note(&self, instance: &InstanceId, asked: &Asked, answered: &Answered<'_>) -> Result<(), LedgerError> {
        let attempt = async { write(&self.client().await?, instance, asked, answered).await };
        self.within("recording a request", attempt).await
    }

    /// What was asked of an instance, from the first request on, with how it stands.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn history(&self, instance: &InstanceId) -> Result<Vec<Entry>, LedgerError> {
        let attempt = async {
            let refused = || LedgerError::statement(format!("reading the history of instance {instance}"));
            let rows = self
                .client()
                .await?
                .query(
                    "select audit.*, operations.state, operations.description, operations.ended_at from audit
                     left join operations on operations.id = audit.operation_id
                     where audit.instance_id = $1 order by audit.id",
                    &[&instance.as_str()],
                )
                .await
                .map_err(refused())?;
            let entry = |row: &tokio_postgres::Row| -> Result<Entry, tokio_postgres::Error> {
                let state: Option<String> = row.try_get("state")?;
                let (description, ended) = (row.try_get("description")?, row.try_get("ended_at")?);
                Ok(Entry {
                    at: row.try_get("at")?,
                    request: row.try_get("request")?,
                    binding: row.try_get("binding_id")?,
                    caller: row.try_get("caller")?,
                    platform: row.try_get("platform")?,
                    identity: row.try_get("identity")?,
                    request_identity: row.try_get("request_identity")?,
                    plan: row.try_get("plan_id")?,
                    parameters: row.try_get("parameters")?,
                    status: row.try_get("status")?,
                    refusal: row.try_get("refusal")?,
                    outcome: state.map(|state| (state, description, ended)),
                })
            };
            rows.iter().map(entry).collect::<Result<_, _>>().map_err(refused())
        };
        self.within("reading a history", attempt).await
    }

    /// Forgets what was asked longer ago than that. Returns how many lines.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn forget_history(&self, older_than: Duration) -> Result<u64, LedgerError> {
        let attempt = async {
            self.client()
                .await?
                .execute(
                    "delete from audit where id in (
                        select id from audit where at < now() - make_interval(secs => $1) order by at limit 10000)",
                    &[&older_than.as_secs_f64()],
                )
                .await
                .map_err(LedgerError::statement("forgetting old requests"))
        };
        self.within("forgetting old requests", attempt).await
    }
}
