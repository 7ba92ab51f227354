//! The lease that elects the one operator that works; the others stand by.
//!
//! The protocol is that of client-go's `leaderelection`: whoever holds the Lease renews it, every write is on condition
//! that nobody wrote in between, and a lease has run out when it was seen unchanged for its duration, by the clock of
//! whoever looks, so clocks need not agree. It is own code because it is one pure function and four calls, and what
//! the crates add to that (their own controllers, panics, a lease kept when the API server is away) is not wanted.
//!
//! A lease elects; it does not fence. What a former leader still has under way is refused by the ledger's epoch and by
//! resource versions, and steps towards AWS are safe to repeat.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use super::{Error, deadline};
use crate::ambient;

/// The name of the Lease, in the operator's own namespace.
pub const LEASE: &str = "cache-broker-operator";
/// How long a lease holds that is not renewed, in seconds.
const DURATION_SECONDS: i32 = 9;
/// How long after the last renewal a leader stops. It is over before the lease is, so that what was begun has ended.
const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// How often the lease is renewed, or looked at.
const RETRY: Duration = Duration::from_secs(1);

/// A lease, and since when it was seen so.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What it says.
    pub spec: LeaseSpec,
    /// When it was first seen to say that.
    pub since: Instant,
}

/// What a candidate does about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is none: make it.
    Create,
    /// It is free, run out, or our own of an earlier process: write ourselves into it.
    Take,
    /// Another one leads.
    Wait,
}

/// What a candidate does about the lease it sees.
pub fn decide(lease: Option<&Seen>, me: &str, now: Instant) -> Action {
    let Some(seen) = lease else {
        return Action::Create;
    };
    let holder = seen.spec.holder_identity.as_deref().unwrap_or_default();
    // The holder's word counts, which may be of another version than we are.
    let duration = seen.spec.lease_duration_seconds.unwrap_or(DURATION_SECONDS);
    let duration = Duration::from_secs(u64::try_from(duration).unwrap_or(0));
    let expired = now.saturating_duration_since(seen.since) >= duration;
    if holder.is_empty() || holder == me || expired {
        Action::Take
    } else {
        Action::Wait
    }
}

/// The lease of a holder, after what it was before.
fn held_by(me: &str, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let goes_on = before.holder_identity.as_deref() == Some(me);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        acquire_time: before.acquire_time.filter(|_| goes_on).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(
            before
                .lease_transitions
                .map_or(0, |count| count.saturating_add(i32::from(!goes_on))),
        ),
        ..LeaseSpec::default()
    }
}

/// A lease that nobody holds.
fn released(before: &LeaseSpec) -> LeaseSpec {
    LeaseSpec {
        lease_transitions: before.lease_transitions,
        ..LeaseSpec::default()
    }
}

/// A process that may lead.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    me: String,
}

/// A lease that is held.
pub struct Held {
    lease: Lease,
    /// When the write that won or renewed it was sent: others count from then at the earliest.
    since: Instant,
}

/// How a lease was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It could not be renewed in time.
    #[error("the lease could not be renewed for {} s", RENEW_DEADLINE.as_secs())]
    Late,
    /// Somebody else has it.
    #[error("the lease is held by {0:?}")]
    Taken(String),
}

impl Candidate {
    /// A candidate for the lease in a namespace, by a name that no other process has at the same time.
    pub fn new(client: Client, namespace: &str, me: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
        }
    }

    /// Waits until the lease is ours. Whoever waits beside it is told with each look whether the election works.
    pub async fn win(&self, told: impl Fn(Result<(), String>)) -> Held {
        let mut seen: Option<Seen> = None;
        let mut leader = None;
        loop {
            let next = Instant::now() + RETRY;
            let look = tokio::time::timeout(RENEW_DEADLINE, self.try_win(&mut seen)).await;
            match look.unwrap_or(Err(Error::Deadline)) {
                Ok(Some(held)) => return held,
                Ok(None) => {
                    told(Ok(()));
                    let holder = seen.as_ref().and_then(|seen| seen.spec.holder_identity.clone());
                    if leader != holder {
                        tracing::info!(me = %self.me, leader = holder.as_deref().unwrap_or_default(), "standing by");
                        leader = holder;
                    }
                }
                Err(error) => told(Err(format!("asking for the lease {LEASE}: {error}"))),
            }
            tokio::time::sleep_until(next).await;
        }
    }

    async fn try_win(&self, seen: &mut Option<Seen>) -> Result<Option<Held>, Error> {
        let found = deadline(self.api.get_opt(LEASE)).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let now = Instant::now();
        *seen = spec.map(|spec| match seen.take() {
            Some(before) if before.spec == spec => before,
            _ => Seen { spec, since: now },
        });
        let action = decide(seen.as_ref(), &self.me, now);
        let before = seen.as_ref().map(|seen| &seen.spec);
        let spec = Some(held_by(&self.me, before, ambient::now()));
        let written = match (action, found) {
            (Action::Wait, _) => return Ok(None),
            (Action::Take, Some(lease)) => self.replace(&Lease { spec, ..lease }).await,
            (Action::Create | Action::Take, _) => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(LEASE.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec,
                };
                deadline(self.api.create(&PostParams::default(), &lease)).await
            }
        };
        match written {
            Ok(lease) => Ok(Some(Held { lease, since: now })),
            // Somebody was faster.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Renews a lease for as long as that works. When this returns, leading has to stop at once.
    pub async fn keep(&self, mut held: Held) -> Lost {
        let mut next = held.since + RETRY;
        loop {
            let end = held.since + RENEW_DEADLINE;
            tokio::time::sleep_until(next.min(end)).await;
            let now = Instant::now();
            if now >= end {
                return Lost::Late;
            }
            next = now + RETRY;
            match tokio::time::timeout_at(end, self.renew(&held.lease)).await {
                Ok(Ok(Ok(lease))) => held = Held { lease, since: now },
                Ok(Ok(Err(lost))) => return lost,
                Ok(Err(error)) => tracing::warn!(lease = LEASE, %error, "renewing the lease"),
                Err(_) => return Lost::Late,
            }
        }
    }

    async fn renew(&self, held: &Lease) -> Result<Result<Lease, Lost>, Error> {
        let renewed = |lease: &Lease| Lease {
            spec: Some(held_by(&self.me, lease.spec.as_ref(), ambient::now())),
            metadata: lease.metadata.clone(),
        };
        match self.replace(&renewed(held)).await {
            // Somebody wrote it: to take it, or to label it; or it was our last try, whose answer was lost.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {}
            outcome => return outcome.map(Ok),
        }
        let found = deadline(self.api.get_opt(LEASE)).await?;
        let holder = |lease: &Lease| lease.spec.as_ref()?.holder_identity.clone();
        match found {
            Some(lease) if holder(&lease).as_deref() == Some(&self.me) => self.replace(&renewed(&lease)).await.map(Ok),
            other => Ok(Err(Lost::Taken(other.as_ref().and_then(holder).unwrap_or_default()))),
        }
    }

    /// Lets go of the lease, if it is ours, so that another one need not wait until it has run out. To be called when
    /// nothing is under way any more. It fails silently but for the log: the lease runs out anyway.
    pub async fn release(&self) {
        let release = async {
            let Some(lease) = deadline(self.api.get_opt(LEASE)).await? else {
                return Ok(());
            };
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            let lease = Lease {
                spec: Some(released(&spec)),
                ..lease
            };
            self.replace(&lease).await?;
            tracing::info!(me = %self.me, "the lease is let go of");
            Ok(())
        };
        let released = tokio::time::timeout(RENEW_DEADLINE, release).await;
        match released.unwrap_or(Err(Error::Deadline)) {
            Ok(()) => {}
            Err(error) => tracing::warn!(lease = LEASE, %error, "letting go of the lease"),
        }
    }

    /// Writes on condition that nobody else wrote since it was read.
    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        deadline(self.api.replace(LEASE, &PostParams::default(), lease)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn whoever_holds_it_keeps_it_for_its_duration_as_seen_from_here() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let decide = |holder, seconds, now| {
            let seen = Seen {
                spec: spec(holder, seconds),
                since: start,
            };
            decide(Some(&seen), "me", at(now))
        };
        assert_eq!(super::decide(None, "me", start), Action::Create);
        for (what, holder, seconds, now, action) in [
            ("held", Some("b"), Some(9), 0, Action::Wait),
            ("held to the last moment", Some("b"), Some(9), 8_999, Action::Wait),
            ("run out", Some("b"), Some(9), 9_000, Action::Take),
            (
                "held for longer than we would",
                Some("b"),
                Some(15),
                14_999,
                Action::Wait,
            ),
            ("run out then", Some("b"), Some(15), 15_000, Action::Take),
            ("held without a duration", Some("b"), None, 8_999, Action::Wait),
            ("run out without a duration", Some("b"), None, 9_000, Action::Take),
            ("a duration that is none", Some("b"), Some(-1), 0, Action::Take),
            ("let go of", Some(""), Some(1), 0, Action::Take),
            ("never held", None, None, 0, Action::Take),
            ("ours from before a restart", Some("me"), Some(9), 0, Action::Take),
        ] {
            assert_eq!(decide(holder, seconds, now), action, "{what}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_behind_takes_nothing() {
        let now = Instant::now();
        let seen = Seen {
            spec: spec(Some("b"), Some(9)),
            since: now + Duration::from_secs(60),
        };
        assert_eq!(decide(Some(&seen), "me", now), Action::Wait);
    }

    #[test]
    fn changes_of_hands_are_counted_and_renewals_are_not() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held_by("a", None, at(1));
        assert_eq!(
            (first.lease_transitions, first.lease_duration_seconds),
            (Some(0), Some(9))
        );
        let renewed = held_by("a", Some(&first), at(2));
        assert_eq!(renewed.lease_transitions, Some(0));
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(2))));
        let free = released(&renewed);
        assert_eq!(free.holder_identity, None);
        let second = held_by("b", Some(&free), at(4));
        assert_eq!(second.lease_transitions, Some(1));
        assert_eq!(second.acquire_time, Some(MicroTime(at(4))));
        let again = held_by("a", Some(&second), at(5));
        assert_eq!(
            (again.lease_transitions, again.holder_identity.as_deref()),
            (Some(2), Some("a"))
        );
    }

    #[test]
    fn a_leader_stops_before_its_lease_has_run_out() {
        assert!(RETRY * 3 < RENEW_DEADLINE);
        let duration = Duration::from_secs(u64::try_from(DURATION_SECONDS).unwrap());
        assert!(RENEW_DEADLINE + Duration::from_secs(2) < duration);
        // A crash, looked at a retry late, and the time to begin.
        assert!(duration + RETRY * 2 < Duration::from_secs(15));
    }
}
