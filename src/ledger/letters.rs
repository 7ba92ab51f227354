//! Webhooks as people look at them: what is waiting, what was given up, and giving it another day.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio_postgres::Row;
use uuid::Uuid;

use super::webhooks::{WebhookTarget, target_place};
use super::{InstanceId, Ledger, LedgerError, listen};

/// The most that are listed at one time.
const MOST: i64 = 1000;

/// How far a webhook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LetterState {
    /// What it is to tell of has not ended.
    Armed,
    /// It is to be delivered.
    Due,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Dead,
}

impl LetterState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Armed, Self::Due, Self::Delivered, Self::Dead];

    /// As it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::Due => "due",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A webhook, without what is secret about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The event's id.
    pub id: Uuid,
    /// The instance it tells of.
    pub instance: String,
    /// What it tells of.
    pub kind: String,
    /// How far it is.
    pub state: LetterState,
    /// Host and port of the receiver; absent if its target cannot be opened.
    pub receiver: Option<String>,
    /// How many attempts were completed.
    pub attempts: i32,
    /// Why the last one failed.
    pub last_error: Option<String>,
    /// When it was armed.
    pub created_at: Timestamp,
    /// When it is attempted next.
    pub due_at: Option<Timestamp>,
    /// When it was delivered, or given up.
    pub ended_at: Option<Timestamp>,
}

/// One line for people.
impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.state {
            LetterState::Armed => self.created_at,
            LetterState::Due => self.due_at.unwrap_or(self.created_at),
            LetterState::Delivered | LetterState::Dead => self.ended_at.unwrap_or(self.created_at),
        };
        write!(
            f,
            "{}  {:<9}  {when:.0}  {:<11}  {}  to {}  attempts={}",
            self.id,
            self.state.as_str(),
            self.kind,
            self.instance,
            self.receiver
                .as_deref()
                .unwrap_or("(sealed with a key that is missing)"),
            self.attempts
        )?;
        match &self.last_error {
            Some(error) => write!(f, "  {error}"),
            None => Ok(()),
        }
    }
}

/// Which of those that were given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letters {
    /// All of them.
    All,
    /// Those of an instance.
    Of(InstanceId),
    /// One event.
    One(Uuid),
}

/// How many webhooks there are, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// To be delivered.
    pub due: i64,
    /// Given up, and not forgotten yet.
    pub dead: i64,
    /// How long the oldest that is to be delivered has been waiting since it was first due, in whole seconds.
    pub oldest_due: Duration,
}

impl Ledger {
    /// The webhooks in some states, of one instance or of all, the latest first; a thousand at most.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn letters(
        &self,
        states: &[LetterState],
        instance: Option<&InstanceId>,
    ) -> Result<Vec<Letter>, LedgerError> {
        let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        self.within("listing webhooks", async {
            let rows = self
                .client()
                .await?
                .query(
                    "select w.id, w.instance_id, o.kind, w.state, w.target, w.attempts,
                        w.last_error, w.created_at, w.due_at, w.ended_at
                     from webhooks w join operations o on o.id = w.operation_id
                     where w.state = any($1) and ($2::text is null or w.instance_id = $2)
                     order by w.sequence desc limit $3",
                    &[&states, &instance.map(InstanceId::as_str), &MOST],
                )
                .await
                .map_err(LedgerError::statement("listing webhooks"))?;
            rows.iter().map(|row| self.letter(row)).collect()
        })
        .await
    }

    fn letter(&self, row: &Row) -> Result<Letter, LedgerError> {
        let id: Uuid = row.get("id");
        let state: &str = row.get("state");
        let target = self.open_json::<WebhookTarget>(&target_place(id), row.get("target"));
        let host = |target: WebhookTarget| {
            let uri: http::Uri = target.url.expose_secret().parse().ok()?;
            uri.authority().map(ToString::to_string)
        };
        Ok(Letter {
            id,
            instance: row.get("instance_id"),
            kind: row.get("kind"),
            state: LetterState::parse(state).ok_or_else(|| LedgerError::Row {
                place: format!("webhooks/{id}"),
                reason: format!("state {state:?} is not known"),
            })?,
            receiver: target.ok().and_then(host),
            attempts: row.get("attempts"),
            last_error: row.get("last_error"),
            created_at: row.get("created_at"),
            due_at: row.get("due_at"),
            ended_at: row.get("ended_at"),
        })
    }

    /// Makes webhooks that were given up due again, as if they had never been attempted. Returns how many.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn retry_letters(&self, which: &Letters) -> Result<u64, LedgerError> {
        let (instance, id) = match which {
            Letters::All => (None, None),
            Letters::Of(instance) => (Some(instance.as_str()), None),
            Letters::One(id) => (None, Some(id)),
        };
        self.within("making webhooks due again", async {
            let refused = || LedgerError::statement("making webhooks due again");
            let mut client = self.client().await?;
            let tx = client.transaction().await.map_err(refused())?;
            let again = tx
                .execute(
                    "update webhooks set state = 'due', due_at = now(), attempts = 0, ended_at = null, claim = null,
                         leased_until = null
                     where state = 'dead' and ($1::text is null or instance_id = $1) and ($2::uuid is null or id = $2)",
                    &[&instance, &id],
                )
                .await
                .map_err(refused())?;
            listen::notify(&tx, listen::WEBHOOKS).await?;
            tx.commit().await.map_err(refused())?;
            Ok(again)
        })
        .await
    }

    /// How many webhooks wait, and how many were given up.
    ///
    /// # Errors
    /// When Postgres cannot be read.
    pub async fn letter_counts(&self) -> Result<LetterCounts, LedgerError> {
        self.within("counting webhooks", async {
            let row = self
                .client()
                .await?
                .query_one(
                    "select (select count(*) from webhooks where state = 'due') as due,
                        (select count(*) from webhooks where state = 'dead') as dead,
                        (select extract(epoch from clock_timestamp() - min(o.ended_at))::double precision
                         from webhooks w join operations o on o.id = w.operation_id
                         where w.state = 'due') as oldest",
                    &[],
                )
                .await
                .map_err(LedgerError::statement("counting webhooks"))?;
            Ok(LetterCounts {
                due: row.get("due"),
                dead: row.get("dead"),
                oldest_due: Duration::from_secs_f64(
                    row.get::<_, Option<f64>>("oldest").unwrap_or(0.0).max(0.0).floor(),
                ),
            })
        })
        .await
    }
}
