//! Webhooks waiting to be delivered. Deliveries of one instance keep their order; those of different instances do not
//! wait for each other.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use deadpool_postgres::Transaction;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::events::Event;
use super::{InstanceId, Ledger, LedgerError, listen};
use crate::ambient;

/// Where events go. It stands in the ledger sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebhookTarget {
    /// The URL; it may carry a token of the receiver's, so it is kept like a secret.
    #[serde(serialize_with = "exposed")]
    pub url: SecretString,
    /// What bodies are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "exposed_option")]
    pub secret: Option<SecretString>,
}

impl PartialEq for WebhookTarget {
    fn eq(&self, other: &Self) -> bool {
        let secret = |target: &Self| target.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        self.url.expose_secret() == other.url.expose_secret() && secret(self) == secret(other)
    }
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    secret.expose_secret().serialize(serializer)
}

fn exposed_option<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(ExposeSecret::expose_secret).serialize(serializer)
}

/// A webhook that was claimed for one attempt.
#[derive(Clone, Debug)]
pub struct DueWebhook {
    /// The event's id.
    pub id: Uuid,
    /// The instance it tells of.
    pub instance_id: InstanceId,
    /// Where it goes.
    pub target: WebhookTarget,
    /// What is sent.
    pub body: String,
    /// How many attempts were completed.
    pub attempts: i32,
    /// Which receiver it goes to, as a digest: two with the same one wait for the same server.
    pub receiver: Option<Vec<u8>>,
    /// It proves the claim.
    pub claim: Uuid,
}

/// What a process has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many more webhooks it may attempt.
    pub free: usize,
    /// The receivers of those under way, one entry each.
    pub busy: Vec<Vec<u8>>,
}

/// How many places must be left for each that a receiver has already. So slow receivers never take all of them, however
/// much is due for them: one alone has a fifth, and four together have half.
const LEFT_FOR_OTHERS: i64 = 4;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The receiver took it.
    Delivered,
    /// It did not, and is not asked again.
    Dead {
        /// Why it did not.
        error: String,
    },
    /// It did not, and is asked again.
    Again {
        /// In how long.
        after: Duration,
        /// Why it did not.
        error: String,
    },
}

/// Where a webhook's target is sealed.
pub(super) fn target_place(event: Uuid) -> String {
    format!("webhooks.target/{event}")
}

/// What two targets have in common that wait for the same server: a digest of host and port. The URL itself may carry
/// a token, so nothing of it stands in clear.
pub(super) fn receiver(target: &WebhookTarget) -> Option<Vec<u8>> {
    let uri: http::Uri = target.url.expose_secret().parse().ok()?;
    let authority = uri.authority()?.as_str().to_ascii_lowercase();
    digest(&SHA256, authority.as_bytes())
        .as_ref()
        .get(..16)
        .map(<[u8]>::to_vec)
}

/// Arms a webhook for the end of an operation.
pub(super) async fn arm(
    ledger: &Ledger,
    tx: &Transaction<'_>,
    instance: &InstanceId,
    operation: Uuid,
    target: &WebhookTarget,
) -> Result<(), LedgerError> {
    let refused = |error| LedgerError::statement(format!("arming a webhook for operation {operation}"))(error);
    let event = ambient::id();
    let receiver = receiver(target);
    let target = ledger.seal_json(&target_place(event), target)?;
    let statement = tx
        .prepare_cached(
            "insert into webhooks (id, instance_id, operation_id, target, receiver) values ($1, $2, $3, $4, $5)",
        )
        .await
        .map_err(refused)?;
    tx.execute(
        &statement,
        &[&event, &instance.as_str(), &operation, &target, &receiver],
    )
    .await
    .map_err(refused)?;
    Ok(())
}

/// Makes a webhook due that was armed for what has ended now.
pub(super) async fn fire(tx: &Transaction<'_>, event: &Event) -> Result<(), LedgerError> {
    let refused = || LedgerError::statement(format!("making webhook {} due", event.id));
    let statement = tx
        .prepare_cached(
            "update webhooks set state = 'due', due_at = now(), body = $2 where id = $1 and state = 'armed'",
        )
        .await
        .map_err(refused())?;
    tx.execute(&statement, &[&event.id, &event.body()])
        .await
        .map_err(refused())?;
    listen::notify(tx, listen::WEBHOOKS).await
}

impl Ledger {
    /// Claims webhooks that are due, the first of an instance only, for as long as the lease. The receivers take turns; of
    /// one receiver's, those never tried come first, and the more it has the more places must be left for others. Whoever
    /// claimed one and does not renew the claim loses it to the next.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn claim_webhooks(&self, room: &Room, lease: Duration) -> Result<Vec<DueWebhook>, LedgerError> {
        let attempt = async {
            let refused = LedgerError::statement("claiming webhooks");
            let client = self.client().await?;
            let rows = async {
                // What is read of each receiver is bounded, so that a claim costs the same however much is due.
                let statement = client
                    .prepare_cached(
                        "with recursive receivers as (
                             (select coalesce(receiver, '') as receiver from webhooks
                              where state = 'due' order by coalesce(receiver, '') limit 1)
                             union all
                             select (
                                 select coalesce(later.receiver, '') from webhooks later
                                 where later.state = 'due' and coalesce(later.receiver, '') > receivers.receiver
                                 order by coalesce(later.receiver, '') limit 1)
                             from receivers where receivers.receiver is not null
                         ), busy as (
                             select receiver, count(*) as taken from unnest($3::bytea[]) under_way (receiver)
                             group by receiver
                         ), first as (
                             select id, attempts, due_at, coalesce(taken, 0) + row_number() over (
                                 partition by receivers.receiver order by attempts > 0, due_at, sequence) as nth
                             from receivers left join busy using (receiver) cross join lateral (
                                 select id, attempts, due_at, sequence from webhooks candidate
                                 where state = 'due' and coalesce(candidate.receiver, '') = receivers.receiver
                                     and due_at <= now()
                                     and (leased_until is null or leased_until <= now()) and not exists (
                                         select from webhooks earlier
                                         where earlier.instance_id = candidate.instance_id and earlier.state = 'due'
                                             and earlier.sequence < candidate.sequence)
                                 order by attempts > 0, due_at, sequence
                                 limit greatest(2, $1 / ($4 + (select count(receiver) from receivers)))) due
                         ), turns as (
                             select id, nth, row_number() over (order by nth, attempts > 0, due_at, id) as turn from first
                         ), chosen as (
                             select id from turns where $1 - turn >= $4 * (nth - 1)
                         )
                         update webhooks
                         set leased_until = clock_timestamp() + make_interval(secs => $2::double precision), claim = $5
                         where id in (
                             select id from webhooks
                             where id in (select id from chosen) and state = 'due' and due_at <= clock_timestamp()
                                 and (leased_until is null or leased_until <= clock_timestamp())
                             for update skip locked)
                         returning id, instance_id, target, body, attempts, receiver",
                    )
                    .await?;
                let free = i64::try_from(room.free).unwrap_or(i64::MAX);
                let claim = ambient::id();
                let rows = client
                    .query(
                        &statement,
                        &[&free, &lease.as_secs_f64(), &room.busy, &LEFT_FOR_OTHERS, &claim],
                    )
                    .await?;
                Ok((claim, rows))
            };
            let (claim, rows) = rows.await.map_err(refused)?;
            Ok(rows.iter().filter_map(|row| self.due_webhook(claim, row)).collect())
        };
        self.within("claiming webhooks", attempt).await
    }

    /// Goes on holding what was claimed and is not settled, for as long as the lease.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn renew_webhooks(&self, claims: &[Uuid], lease: Duration) -> Result<(), LedgerError> {
        let attempt = async {
            self.client()
                .await?
                .execute(
                    "update webhooks set leased_until = clock_timestamp() + make_interval(secs => $2::double precision)
                     where claim = any($1) and state = 'due'",
                    &[&claims, &lease.as_secs_f64()],
                )
                .await
                .map_err(LedgerError::statement("holding webhooks"))?;
            Ok(())
        };
        self.within("holding webhooks", attempt).await
    }

    /// A webhook that cannot be opened stays leased and comes up again: the key that is missing may be put back.
    fn due_webhook(&self, claim: Uuid, row: &tokio_postgres::Row) -> Option<DueWebhook> {
        let read = || {
            let refused = LedgerError::statement("reading a webhook");
            let columns = || {
                let id: Uuid = row.try_get(0)?;
                let instance: String = row.try_get(1)?;
                let target: &[u8] = row.try_get(2)?;
                let body: String = row.try_get(3)?;
                Ok((id, instance, target, body, row.try_get(4)?, row.try_get(5)?))
            };
            let (id, instance, target, body, attempts, receiver) = columns().map_err(refused)?;
            Ok(DueWebhook {
                id,
                instance_id: InstanceId::try_from(instance).map_err(|error| LedgerError::Row {
                    place: format!("webhook {id}"),
                    reason: error.to_string(),
                })?,
                target: self.open_json(&target_place(id), target)?,
                body,
                attempts,
                receiver,
                claim,
            })
        };
        read()
            .inspect_err(|error: &LedgerError| tracing::error!(%error, "a webhook cannot be delivered for now"))
            .ok()
    }

    /// Records what became of attempts, together. A failure counts only while the claim holds.
    ///
    /// # Errors
    /// When Postgres is away or refuses; the webhooks are then attempted again once the lease ends.
    pub async fn settle_webhooks(&self, attempts: &[(DueWebhook, Attempted)]) -> Result<(), LedgerError> {
        let attempt = async {
            let refused = LedgerError::statement(format!("recording {} attempts of webhooks", attempts.len()));
            // Whoever writes some of the same rows writes them in the same order.
            let mut sorted: Vec<_> = attempts.iter().collect();
            sorted.sort_unstable_by_key(|(claimed, _)| claimed.id);
            let of = |(_, attempted): &&(DueWebhook, Attempted)| match attempted {
                Attempted::Delivered => ("delivered", None, None),
                Attempted::Dead { error } => ("dead", None, Some(error.clone())),
                Attempted::Again { after, error } => ("due", Some(after.as_secs_f64()), Some(error.clone())),
            };
            let ids: Vec<_> = sorted.iter().map(|(claimed, _)| claimed.id).collect();
            let claims: Vec<_> = sorted.iter().map(|(claimed, _)| claimed.claim).collect();
            let states: Vec<_> = sorted.iter().map(|attempt| of(attempt).0).collect();
            let pauses: Vec<_> = sorted.iter().map(|attempt| of(attempt).1).collect();
            let errors: Vec<_> = sorted.iter().map(|attempt| of(attempt).2).collect();
            let client = self.client().await?;
            let written = async {
                let statement = client
                    .prepare_cached(
                        "update webhooks
                         set state = told.state, attempts = attempts + 1, last_error = told.error, claim = null,
                             leased_until = null,
                             due_at = case when told.state = 'due'
                                 then clock_timestamp() + make_interval(secs => told.after) end,
                             ended_at = case when told.state = 'due' then null else clock_timestamp() end
                         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::double precision[], $5::text[])
                             as told (id, claim, state, after, error)
                         where webhooks.id = told.id and webhooks.state = 'due'
                             and (webhooks.claim = told.claim or told.state = 'delivered')",
                    )
                    .await?;
                client
                    .execute(&statement, &[&ids, &claims, &states, &pauses, &errors])
                    .await
            };
            written.await.map_err(refused)?;
            Ok(())
        };
        self.within("recording attempts of webhooks", attempt).await
    }

    /// In how long the next webhook is due, of those that wait behind no other and nobody holds; `held` if there are only
    /// others, since who holds them may die; `None` if nothing is due at all.
    ///
    /// # Errors
    /// When Postgres is away or refuses.
    pub async fn next_webhook(&self, held: Duration) -> Result<Option<Duration>, LedgerError> {
        let attempt = async {
            let refused = LedgerError::statement("looking for the next webhook");
            let client = self.client().await?;
            let next = async {
                let statement = client
                    .prepare_cached(
                        "select (select extract(epoch from due_at - clock_timestamp())::double precision
                             from webhooks candidate
                             where state = 'due' and (leased_until is null or leased_until <= clock_timestamp())
                                 and not exists (
                                     select from webhooks earlier
                                     where earlier.instance_id = candidate.instance_id and earlier.state = 'due'
                                         and earlier.sequence < candidate.sequence)
                             order by due_at limit 1),
                             exists (select from webhooks where state = 'due')",
                    )
                    .await?;
                let row = client.query_one(&statement, &[]).await?;
                Ok((row.try_get::<_, Option<f64>>(0)?, row.try_get::<_, bool>(1)?))
            };
            let (seconds, any) = next.await.map_err(refused)?;
            let next = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
            Ok(next.or(any.then_some(held)))
        };
        self.within("looking for the next webhook", attempt).await
    }
}
