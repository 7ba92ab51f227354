//! What is to be done about a plan's pool: a pure function of what the ledger and the cluster hold.

use std::time::Duration;

use uuid::Uuid;

use crate::ledger::{MemberState, Verdict};

/// How long a member that failed is left to be looked at before the first replacement; doubled with each failure in a
/// row.
const FIRST_REPLACEMENT: Duration = Duration::from_secs(30);
const LONGEST_REPLACEMENT: Duration = Duration::from_secs(3600);
/// For how long the resource of a retired member may still come into being: a leader's last call may be under way.
const LATE: Duration = Duration::from_secs(60);

/// What a plan wants of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// That it stays as it is: the plan is being recorded, or cannot be offered just now.
    Hold,
    /// So many members; none if the plan is gone.
    Keep(Keep),
}

/// A pool as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The plan's present revision.
    pub revision: i64,
    /// How many members it is to have.
    pub count: usize,
    /// How long a member may take to become ready.
    pub deadline: Duration,
}

/// A member, in the ledger and in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: Uuid,
    /// The revision of the plan that it runs from.
    pub revision: i64,
    /// How far it is, by the ledger.
    pub state: MemberState,
    /// For how long the ledger says so.
    pub age: Duration,
    /// The uid of its resource, once that is in the ledger.
    pub uid: Option<String>,
    /// Why it failed, by the ledger.
    pub message: Option<String>,
    /// Whether it was seen in this term: until then it is not handed out.
    pub verified: bool,
    /// Its resource.
    pub seen: Option<Seen>,
}

/// A member's resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its uid.
    pub uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it became ready.
    pub verdict: Verdict,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record one member more and make its resource.
    Make,
    /// Make the resource of a member on record.
    Write(Uuid),
    /// Note that a member is not ready, is ready, or failed.
    Note(Uuid, Verdict),
    /// Take a member out of the pool.
    Retire(Uuid),
    /// Delete the resource of a retired member, or forget the member if it has none.
    Remove(Uuid),
}

/// What to do about a pool, and what to say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub steps: Vec<Step>,
    /// How many members can be handed out.
    pub ready: usize,
    /// Why members failed.
    pub failures: Vec<(Uuid, String)>,
    /// When to look again although nothing happened.
    pub again: Option<Duration>,
}

impl Decision {
    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |again| again.min(after)));
    }
}

/// What to do about a pool, after so many failures in a row.
pub fn decide(want: Want, members: &[Member], failures: u32) -> Decision {
    let mut decision = Decision::default();
    let mut kept = Vec::new();
    for member in members {
        match member.state {
            MemberState::Claimed => {}
            MemberState::Retired => remove(member, &mut decision),
            MemberState::Making | MemberState::Ready | MemberState::Failed if is_gone(member) => {
                decision.steps.push(Step::Retire(member.id));
            }
            MemberState::Making | MemberState::Ready | MemberState::Failed => kept.push(member),
        }
    }
    let Want::Keep(keep) = want else {
        for member in kept {
            stay(member, None, &mut decision);
        }
        return decision;
    };
    let (mut current, outdated): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|member| member.revision == keep.revision);
    decision
        .steps
        .extend(outdated.iter().map(|member| Step::Retire(member.id)));
    // What is least of use goes first: what failed, what is being made, and of the rest the youngest.
    current.sort_by_key(|member| match (verdict(member, Some(keep.deadline)), member.state) {
        (_, MemberState::Failed) | (Verdict::Failed(_), _) => 2,
        (Verdict::No, _) => 1,
        (Verdict::Ready, _) => 0,
    });
    let surplus = current.split_off(keep.count.min(current.len()));
    decision
        .steps
        .extend(surplus.iter().map(|member| Step::Retire(member.id)));
    let missing = keep.count - current.len();
    let wait = replacement(failures);
    for member in current {
        let failed_for = (member.state == MemberState::Failed).then_some(member.age);
        match failed_for {
            Some(age) if verdict(member, None) != Verdict::Ready && age >= wait => {
                decision.steps.push(Step::Retire(member.id));
                decision.steps.push(Step::Make);
            }
            failed_for => {
                if let Some(age) = failed_for {
                    decision.look_again(wait - age.min(wait));
                }
                stay(member, Some(keep.deadline), &mut decision);
            }
        }
    }
    decision.steps.extend(std::iter::repeat_n(Step::Make, missing));
    decision
}

/// Whether a member's resource was there and is not any more, or is going.
fn is_gone(member: &Member) -> bool {
    match (&member.seen, &member.uid) {
        (Some(seen), known) => seen.deleting || known.as_ref().is_some_and(|known| *known != seen.uid),
        (None, known) => known.is_some(),
    }
}

fn remove(member: &Member, decision: &mut Decision) {
    match &member.seen {
        // Its end wakes us.
        Some(seen) if seen.deleting => {}
        Some(_) => decision.steps.push(Step::Remove(member.id)),
        None if member.age >= LATE => decision.steps.push(Step::Remove(member.id)),
        None => decision.look_again(LATE - member.age),
    }
}

/// How a member is, as far as its resource and its time tell.
fn verdict(member: &Member, deadline: Option<Duration>) -> Verdict {
    let seen = member.seen.as_ref().map_or(Verdict::No, |seen| seen.verdict.clone());
    match deadline {
        Some(deadline) if seen == Verdict::No && member.state == MemberState::Making && member.age >= deadline => {
            Verdict::Failed(format!("not ready within {} s", deadline.as_secs()))
        }
        _ => seen,
    }
}

/// A member that stays in the pool: its resource is made, and what became of it noted.
fn stay(member: &Member, deadline: Option<Duration>, decision: &mut Decision) {
    let verdict = verdict(member, deadline);
    if member.seen.is_none() {
        decision.steps.push(Step::Write(member.id));
    }
    if let (Some(deadline), MemberState::Making, Verdict::No) = (deadline, member.state, &verdict) {
        decision.look_again(deadline.saturating_sub(member.age));
    }
    if verdict == Verdict::Ready {
        decision.ready += 1;
    }
    match (&verdict, member.state) {
        (Verdict::Failed(why), _) => decision.failures.push((member.id, why.clone())),
        // It failed, and goes on trying until it is replaced.
        (Verdict::No, MemberState::Failed) => {
            decision
                .failures
                .push((member.id, member.message.clone().unwrap_or_default()));
        }
        _ => {}
    }
    let news = match (member.state, &verdict) {
        (MemberState::Ready, Verdict::Ready) => !member.verified,
        (MemberState::Failed, Verdict::Failed(_) | Verdict::No) => false,
        // The uid is noted with the first sight.
        (MemberState::Making, Verdict::No) => member.uid.is_none() && member.seen.is_some(),
        _ => member.seen.is_some(),
    };
    if news {
        decision.steps.push(Step::Note(member.id, verdict));
    }
}

/// How long a member that failed stands before it is replaced.
fn replacement(failures: u32) -> Duration {
    FIRST_REPLACEMENT
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(LONGEST_REPLACEMENT)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
