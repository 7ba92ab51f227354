use proptest::prelude::*;

use super::*;

const DEADLINE: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);

fn keep(count: usize) -> Want {
    Want::Keep(Keep {
        revision: 3,
        count,
        deadline: DEADLINE,
    })
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A member on record, without a resource.
fn recorded(number: u128, state: MemberState) -> Member {
    Member {
        id: id(number),
        revision: 3,
        state,
        age: Duration::from_secs(5),
        uid: None,
        message: None,
        verified: true,
        seen: None,
    }
}

/// A member with a resource.
fn seen(number: u128, state: MemberState, verdict: Verdict) -> Member {
    let uid = format!("uid-{number}");
    Member {
        uid: Some(uid.clone()),
        seen: Some(Seen {
            uid,
            deleting: false,
            verdict,
        }),
        ..recorded(number, state)
    }
}

fn ready(number: u128) -> Member {
    seen(number, MemberState::Ready, Verdict::Ready)
}

fn failed(why: &str) -> Verdict {
    Verdict::Failed(why.to_owned())
}

fn steps(want: Want, members: &[Member]) -> Vec<Step> {
    decide(want, members, 0).steps
}

#[test]
fn a_pool_is_filled_and_not_overfilled() {
    assert_eq!(steps(keep(2), &[]), [Step::Make, Step::Make]);
    assert_eq!(steps(keep(2), &[ready(1)]), [Step::Make]);
    assert_eq!(steps(keep(2), &[ready(1), ready(2)]), []);
    // One on record counts, whether its resource was seen or not.
    assert_eq!(
        steps(keep(1), &[recorded(1, MemberState::Making)]),
        [Step::Write(id(1))]
    );
    // One that was claimed, or is going, does not.
    assert_eq!(
        steps(keep(1), &[seen(1, MemberState::Claimed, Verdict::Ready)]),
        [Step::Make]
    );
    assert_eq!(
        steps(keep(1), &[seen(1, MemberState::Retired, Verdict::Ready)]),
        [Step::Remove(id(1)), Step::Make]
    );
    assert_eq!(steps(keep(0), &[]), []);
    assert_eq!(steps(Want::Hold, &[]), []);
}

#[test]
fn what_is_seen_is_noted_once() {
    for (what, member, noted) in [
        (
            "first sight",
            Member {
                uid: None,
                ..seen(1, MemberState::Making, Verdict::No)
            },
            Some(Verdict::No),
        ),
        ("still being made", seen(1, MemberState::Making, Verdict::No), None),
        (
            "became ready",
            seen(1, MemberState::Making, Verdict::Ready),
            Some(Verdict::Ready),
        ),
        ("still ready", ready(1), None),
        (
            "not ready any more",
            seen(1, MemberState::Ready, Verdict::No),
            Some(Verdict::No),
        ),
        (
            "stalled",
            seen(1, MemberState::Making, failed("no")),
            Some(failed("no")),
        ),
        (
            "stalled after it was ready",
            seen(1, MemberState::Ready, failed("no")),
            Some(failed("no")),
        ),
        ("still stalled", seen(1, MemberState::Failed, failed("no")), None),
        ("tries again", seen(1, MemberState::Failed, Verdict::No), None),
        (
            "mended",
            seen(1, MemberState::Failed, Verdict::Ready),
            Some(Verdict::Ready),
        ),
    ] {
        let expected: Vec<_> = noted.into_iter().map(|verdict| Step::Note(id(1), verdict)).collect();
        for want in [keep(1), Want::Hold] {
            assert_eq!(steps(want, std::slice::from_ref(&member)), expected, "{what}");
        }
    }
}

#[test]
fn one_that_is_not_ready_in_time_failed() {
    let mut slow = seen(1, MemberState::Making, Verdict::No);
    slow.age = DEADLINE - Duration::from_secs(1);
    assert_eq!(
        decide(keep(1), std::slice::from_ref(&slow), 0).again,
        Some(Duration::from_secs(1))
    );
    slow.age = DEADLINE;
    let why = "not ready within 600 s";
    let decision = decide(keep(1), std::slice::from_ref(&slow), 0);
    assert_eq!(decision.steps, [Step::Note(id(1), failed(why))]);
    assert_eq!(decision.failures, [(id(1), why.to_owned())]);
    // Its resource may never have come into being; that goes on being tried.
    let never = Member {
        age: DEADLINE,
        ..recorded(1, MemberState::Making)
    };
    assert_eq!(steps(keep(1), &[never]), [Step::Write(id(1))]);
}

#[test]
fn one_that_failed_is_shown_for_a_while_and_then_replaced_ever_later() {
    let after = |age, failures| {
        let mut member = seen(1, MemberState::Failed, Verdict::No);
        member.message = Some("no image".to_owned());
        member.age = age;
        decide(keep(1), &[member], failures)
    };
    let shown = after(Duration::from_secs(29), 1);
    assert_eq!((shown.steps, shown.again), (vec![], Some(Duration::from_secs(1))));
    assert_eq!(shown.failures, [(id(1), "no image".to_owned())]);
    let replaced = [Step::Retire(id(1)), Step::Make];
    assert_eq!(after(Duration::from_secs(30), 1).steps, replaced);
    assert_eq!(after(MINUTE, 3).again, Some(MINUTE));
    assert_eq!(after(MINUTE * 2, 3).steps, replaced);
    assert_eq!(after(MINUTE * 59, u32::MAX).again, Some(MINUTE));
    assert_eq!(after(MINUTE * 60, u32::MAX).steps, replaced);
}

#[test]
fn another_revision_replaces_all_members_and_another_count_the_least_useful() {
    let mut old = ready(1);
    old.revision = 2;
    assert_eq!(
        steps(keep(2), &[old.clone(), ready(2)]),
        [Step::Retire(id(1)), Step::Make]
    );
    assert_eq!(steps(Want::Hold, std::slice::from_ref(&old)), []);
    assert_eq!(
        steps(keep(0), &[old, ready(2)]),
        [Step::Retire(id(1)), Step::Retire(id(2))]
    );
    let members = [
        seen(1, MemberState::Failed, failed("no")),
        ready(2),
        seen(3, MemberState::Making, Verdict::No),
        ready(4),
    ];
    assert_eq!(steps(keep(3), &members), [Step::Retire(id(1))]);
    assert_eq!(steps(keep(2), &members), [Step::Retire(id(3)), Step::Retire(id(1))]);
    assert_eq!(
        steps(keep(1), &members),
        [Step::Retire(id(4)), Step::Retire(id(3)), Step::Retire(id(1))]
    );
}

#[test]
fn one_whose_resource_was_deleted_or_made_by_somebody_else_is_replaced() {
    let lost = Member { seen: None, ..ready(1) };
    let mut going = ready(1);
    going.seen.as_mut().unwrap().deleting = true;
    let mut other = ready(1);
    other.seen.as_mut().unwrap().uid = "another".to_owned();
    for member in [lost, going, other] {
        assert_eq!(
            steps(keep(1), std::slice::from_ref(&member)),
            [Step::Retire(id(1)), Step::Make],
            "{member:?}"
        );
        assert_eq!(steps(Want::Hold, &[member]), [Step::Retire(id(1))]);
    }
}

#[test]
fn a_retired_one_is_forgotten_only_when_no_late_call_can_make_its_resource() {
    let mut member = recorded(1, MemberState::Retired);
    member.age = LATE - Duration::from_secs(1);
    let early = decide(keep(0), std::slice::from_ref(&member), 0);
    assert_eq!((early.steps, early.again), (vec![], Some(Duration::from_secs(1))));
    member.age = LATE;
    assert_eq!(steps(keep(0), std::slice::from_ref(&member)), [Step::Remove(id(1))]);
    let mut going = seen(1, MemberState::Retired, Verdict::No);
    going.seen.as_mut().unwrap().deleting = true;
    let waits = decide(keep(0), &[going], 0);
    assert_eq!((waits.steps, waits.again), (vec![], None), "its end wakes the keeper");
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::No), Just(Verdict::Ready), Just(failed("no"))]
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let state = prop::sample::select(vec![
        MemberState::Making,
        MemberState::Ready,
        MemberState::Failed,
        MemberState::Retired,
        MemberState::Claimed,
    ]);
    let member = (state, verdicts(), 0_u64..4000, 2_i64..4, 0_u8..5);
    prop::collection::vec(member, 0..8).prop_map(|members| {
        (1_u128..)
            .zip(members)
            .map(|(number, (state, verdict, age, revision, kind))| {
                let mut member = seen(number, state, verdict);
                member.age = Duration::from_secs(age);
                member.revision = revision;
                match kind {
                    0 => member.seen = None,
                    1 => (member.seen, member.uid) = (None, None),
                    2 => member.seen.as_mut().unwrap().deleting = true,
                    _ => {}
                }
                member
            })
            .collect()
    })
}

/// What the ledger and the cluster hold after a decision was carried out.
fn carried_out(members: &[Member], steps: &[Step]) -> Vec<Member> {
    let mut members = members.to_vec();
    for step in steps {
        let at = |members: &[Member], id: &Uuid| members.iter().position(|member| member.id == *id).unwrap();
        match step {
            Step::Make => {
                let number = members.iter().map(|member| member.id.as_u128()).max().unwrap_or(0) + 1;
                members.push(seen(number, MemberState::Making, Verdict::No));
            }
            Step::Write(id) => {
                let index = at(&members, id);
                members[index] = seen(id.as_u128(), members[index].state, Verdict::No);
            }
            Step::Note(id, verdict) => {
                let index = at(&members, id);
                assert!(members[index].seen.is_some(), "nothing is noted that was not seen");
                members[index].uid = members[index].seen.as_ref().map(|seen| seen.uid.clone());
                members[index].state = match verdict {
                    Verdict::No => MemberState::Making,
                    Verdict::Ready => MemberState::Ready,
                    Verdict::Failed(_) => MemberState::Failed,
                };
                members[index].age = Duration::ZERO;
            }
            Step::Retire(id) => {
                let index = at(&members, id);
                members[index].state = MemberState::Retired;
                members[index].age = Duration::ZERO;
            }
            Step::Remove(id) => {
                let index = at(&members, id);
                assert_eq!(
                    members[index].state,
                    MemberState::Retired,
                    "what is deleted was retired before"
                );
                members.remove(index);
            }
        }
    }
    members
}

fn is_kept(member: &Member) -> bool {
    matches!(
        member.state,
        MemberState::Making | MemberState::Ready | MemberState::Failed
    )
}

proptest! {
    #[test]
    fn from_whatever_there_is_a_pool_becomes_what_it_is_to_be(members in members(), count in 0_usize..5, failures in 0_u32..4) {
        let decision = decide(keep(count), &members, failures);
        let touched: std::collections::BTreeSet<_> = decision.steps.iter().filter_map(|step| match step {
            Step::Make => None,
            Step::Write(id) | Step::Note(id, _) | Step::Retire(id) | Step::Remove(id) => Some(*id),
        }).collect();
        // Claimed ones are nobody's business here.
        prop_assert!(members.iter().all(|member| member.state != MemberState::Claimed || !touched.contains(&member.id)));
        let after = carried_out(&members, &decision.steps);
        let kept: Vec<_> = after.iter().filter(|member| is_kept(member)).collect();
        prop_assert_eq!(kept.len(), count);
        prop_assert!(kept.iter().all(|member| member.revision == 3));
        prop_assert!(decision.ready <= count);

        // Once all are ready and what was retired is gone, nothing is left to do.
        let mut settled: Vec<_> = after.into_iter().filter(|member| member.state != MemberState::Retired).collect();
        for member in settled.iter_mut().filter(|member| is_kept(member)) {
            *member = ready(member.id.as_u128());
        }
        let rest = decide(keep(count), &settled, failures);
        prop_assert_eq!((rest.steps, rest.again, rest.ready), (vec![], None, count));
    }

    #[test]
    fn a_pool_on_hold_loses_and_gains_none_that_can_be_used(members in members()) {
        let decision = decide(Want::Hold, &members, 0);
        prop_assert!(!decision.steps.contains(&Step::Make));
        for step in &decision.steps {
            if let Step::Retire(id) = step {
                let member = members.iter().find(|member| member.id == *id).unwrap();
                prop_assert!(is_gone(member));
            }
        }
    }
}

/// A ledger that was restored may say of members that they are free that were handed out since.
#[test]
fn a_member_is_handed_out_only_when_it_was_seen_in_this_term() {
    let unverified = Member {
        verified: false,
        ..ready(1)
    };
    assert_eq!(
        steps(keep(1), std::slice::from_ref(&unverified)),
        [Step::Note(id(1), Verdict::Ready)]
    );
    assert!(steps(keep(1), &[ready(1)]).is_empty());
    // Its resource is somebody's by now, and no member's any more.
    let handed_out = Member {
        seen: None,
        ..unverified
    };
    assert_eq!(steps(keep(1), &[handed_out]), [Step::Retire(id(1)), Step::Make]);
}
