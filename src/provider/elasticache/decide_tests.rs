use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use proptest::prelude::*;
use serde_json::json;

use super::super::fixtures::{
    self, UID, at, auth, cluster, defaults, desired, made, observed as observed_at, plan, proven, redis,
};
use super::*;
use crate::api::{DeletionPolicy, EngineType, Topology};
use crate::provider::elasticache::{
    Modification, OWNER_TAG, Tagged, Target, TokenStrategy, must_replace, provider_id, remove,
};
use crate::provider::{Existence, Next, RestoreFrom};

#[path = "password_tests.rs"]
mod password;

const GROUP: Topology = Topology::ReplicationGroup;

fn live(phase: Phase) -> Live {
    Live {
        phase,
        ..made(&redis(), 0)
    }
}

fn observed(live: Option<Live>) -> Observed {
    observed_at(cluster(0, GROUP), live)
}

fn with_auth(mut observed: Observed) -> Observed {
    observed.secrets.insert("i-auth".to_owned(), auth());
    observed
}

fn secret(name: &str, data: BTreeMap<String, k8s_openapi::ByteString>) -> (String, Arc<Secret>) {
    (name.to_owned(), fixtures::secret(data))
}

/// Runs a decision as the process does: from where the record says that the cache is.
fn run(desired: &Desired, observed: &Observed) -> Decision<Step> {
    run_at(desired, observed, Timestamp::UNIX_EPOCH)
}

fn run_at(desired: &Desired, observed: &Observed, now: Timestamp) -> Decision<Step> {
    let mut observed = observed.clone();
    if let Some(place) = desired.record.cluster() {
        observed.place = place.clone();
    }
    let spec = desired.plan.elasticache.clone().unwrap();
    match desired.existence {
        Existence::Present => present(desired, &spec, &defaults(), &observed, now),
        _ => remove(desired, &observed),
    }
}

/// A cache that answers, with everything in its place.
fn serving(desired: &Desired, live: Live) -> Observed {
    let mut observed = with_auth(observed_at(cluster(0, live.topology), Some(live)));
    if let Next::Act(Step::Secret(SecretStep::ApplyConnection(data))) = run(desired, &observed).step {
        observed.secrets.extend([secret("i-connection", data)]);
    }
    observed
}

#[test]
fn the_password_stands_in_a_secret_before_the_create_call() {
    let desired = desired(redis());
    let first = run(&desired, &observed(None));
    assert_eq!(first.step, Next::Act(Step::Secret(SecretStep::CreateAuth)));
    let Next::Act(Step::Create(create)) = run(&desired, &with_auth(observed(None))).step else {
        panic!()
    };
    assert!(create.authentication);
}

#[test]
fn a_create_is_on_record_first_under_an_id_that_follows_from_the_uid() {
    let desired = desired(redis());
    let decision = run(&desired, &with_auth(observed(None)));
    let Next::Act(Step::Create(create)) = decision.step else {
        panic!()
    };
    assert_eq!(decision.report.record.cluster().unwrap().target.id, create.id);
    assert_eq!(create.id, provider_id("test", UID, 0));
    assert_eq!(create.tags[OWNER_TAG], UID);
    assert_eq!(create.tags["cache.akkeris.io/organization"], "org- drop");
    assert_eq!(create.subnet_group.as_deref(), Some("redis-subnets"));
    assert_eq!(create.security_group_ids, ["sg-1"]);
}

#[test]
fn the_plans_own_groups_win_over_the_settings() {
    let plan = plan(
        "memcached",
        "1.6.22",
        &json!({ "nodeType": "cache.t4g.micro", "nodes": 2, "subnetGroup": "own", "securityGroupIds": ["sg-2"] }),
    );
    let place = cluster(0, Topology::CacheCluster);
    let Next::Act(Step::Create(create)) = run(&desired(plan), &observed_at(place, None)).step else {
        panic!()
    };
    assert_eq!((create.topology, create.nodes), (Topology::CacheCluster, 2));
    assert_eq!(create.subnet_group.as_deref(), Some("own"));
    assert_eq!(create.security_group_ids, ["sg-2"]);
}

#[test]
fn each_phase_of_a_new_cache_is_said_as_it_is() {
    let unknown = Phase::Unknown("pondering".to_owned());
    for (phase, progress, reason) in [
        (Phase::Creating, Progress::Reconciling, Reason::Creating),
        (Phase::Deleting, Progress::Reconciling, Reason::Unavailable),
        (
            Phase::Failed("create-failed".to_owned()),
            Progress::Stalled,
            Reason::Failed,
        ),
        (unknown, Progress::Reconciling, Reason::ProviderStateUnknown),
    ] {
        let decision = run(&desired(redis()), &with_auth(observed(Some(live(phase.clone())))));
        assert_eq!(decision.step, Next::Rest, "{phase:?}");
        assert_eq!(
            (decision.report.progress, decision.report.reason),
            (progress, reason),
            "{phase:?}"
        );
    }
}

#[test]
fn a_state_that_is_not_known_is_waited_for_and_not_for_ever() {
    let mut desired = desired(redis());
    desired.plan.operation_deadline = Some(kube::core::Duration::from(Duration::from_secs(60)));
    let pondering = with_auth(observed(Some(live(Phase::Unknown("pondering".to_owned())))));
    let (first, later, over) = (
        at("2026-11-25T00:00:00Z"),
        at("2026-11-25T00:00:59Z"),
        at("2026-11-25T00:01:00Z"),
    );
    let decision = run_at(&desired, &pondering, first);
    assert_eq!(decision.report.record.unknown_since, Some(first));
    assert_eq!(decision.again, Again::After(Duration::from_secs(60)));
    desired.record = decision.report.record;
    let decision = run_at(&desired, &pondering, later);
    assert_eq!(decision.report.reason, Reason::ProviderStateUnknown);
    assert_eq!(decision.report.record.unknown_since, Some(first));
    let decision = run_at(&desired, &pondering, over);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Stalled, Reason::ProviderStateOverdue)
    );
    let message = &decision.report.message;
    assert!(
        message.contains("pondering") && message.contains("2026-11-25T00:00:00Z"),
        "{message}"
    );
    // It comes back by itself.
    desired.record = decision.report.record;
    let decision = run_at(&desired, &with_auth(observed(Some(live(Phase::Available)))), over);
    assert_eq!(decision.report.record.unknown_since, None);
    assert_ne!(decision.report.progress, Progress::Stalled);
}

#[test]
fn a_failed_creation_tells_its_cause() {
    let mut observed = with_auth(observed(Some(live(Phase::Failed("create-failed".to_owned())))));
    observed.failure = Some("no capacity in zone b".to_owned());
    assert!(
        run(&desired(redis()), &observed)
            .report
            .message
            .contains("no capacity in zone b")
    );
}

#[test]
fn an_available_cache_gets_its_connection_secret_and_is_ready_with_it() {
    let desired = desired(redis());
    let mut observed = with_auth(observed(Some(live(Phase::Available))));
    observed.ownership = Ownership::Ours;
    let decision = run(&desired, &observed);
    let Next::Act(Step::Secret(SecretStep::ApplyConnection(data))) = decision.step else {
        panic!()
    };
    assert_eq!(data["uri"].0, b"rediss://default:hunter2hunter2hunter2@h0:6379");
    assert_eq!(decision.report.record.cluster().unwrap().arn.as_deref(), Some("arn:0"));
    observed.secrets.extend([secret("i-connection", data)]);
    let decision = run(&desired, &observed);
    assert_eq!(decision.step, Next::Rest);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Ready, Reason::Available)
    );
    assert!(decision.report.bound);
}

#[test]
fn whose_tags_name_another_is_left_alone_also_when_deleting() {
    let mut observed = with_auth(observed(Some(live(Phase::Available))));
    observed.ownership = Ownership::Foreign;
    let mut desired = desired(redis());
    let decision = run(&desired, &observed);
    assert_eq!(
        (decision.step, decision.report.reason),
        (Next::Rest, Reason::NameConflict)
    );
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    assert_eq!(run(&desired, &observed).step, Next::Release);
}

#[test]
fn what_was_proven_and_is_gone_is_not_made_again() {
    let mut desired = desired(redis());
    desired.record.serving = Some(Place::ElastiCache(proven(0, GROUP)));
    let decision = run(&desired, &with_auth(observed(None)));
    assert_eq!(
        (decision.step, decision.report.reason),
        (Next::Rest, Reason::ProviderResourceMissing)
    );
}

#[test]
fn what_is_gone_is_made_anew_under_another_id_only_if_the_instance_says_so() {
    let mut desired = desired(redis());
    desired.record.serving = Some(Place::ElastiCache(proven(0, GROUP)));
    desired.recreate = true;
    let decision = run(&desired, &with_auth(observed(None)));
    assert_eq!(
        (decision.step, decision.again),
        (Next::Rest, Again::After(Duration::ZERO))
    );
    desired.record = decision.report.record;
    assert_eq!(desired.record.cluster(), Some(&cluster(1, GROUP)));
    let Next::Act(Step::Create(create)) = run(&desired, &with_auth(observed_at(cluster(1, GROUP), None))).step else {
        panic!()
    };
    assert_eq!((create.id, create.snapshot), (provider_id("test", UID, 1), None));
}

#[test]
fn tags_are_corrected_when_all_else_is_as_wanted() {
    let mut wanted = desired(redis());
    let before = serving(&wanted, live(Phase::Available));
    let spec = wanted.plan.elasticache.clone().unwrap();
    let mut seen = before.clone();
    seen.tags = Some(tags::wanted(&wanted, &spec));
    let decision = run(&wanted, &seen);
    assert_eq!(decision.report.progress, Progress::Ready);
    wanted.record = decision.report.record;
    let proven =
        |desired: &Desired| tags::is_proven(&desired.record.cluster().unwrap().tagged, &tags::wanted(desired, &spec));
    assert!(proven(&wanted));
    wanted.owner.organization = Some("another".to_owned());
    assert!(!proven(&wanted));
    // While they cannot be read, it is ready all the same.
    assert_eq!(run(&wanted, &before).report.progress, Progress::Ready);
    let decision = run(&wanted, &seen);
    let Next::Act(Step::Tag { tags, .. }) = decision.step else {
        panic!()
    };
    assert_eq!(
        tags,
        [("cache.akkeris.io/organization".to_owned(), "another".to_owned())].into()
    );
    assert_eq!(decision.report.progress, Progress::ReadyAndReconciling);
}

#[test]
fn a_version_whose_support_ended_is_said_beside_readiness() {
    let wanted = desired(redis());
    let mut running = live(Phase::Available);
    running.config.version = Some("7.1.0".to_owned());
    let seen = serving(&wanted, running.clone());
    let report = run(&wanted, &seen).report;
    assert!(report.support.unwrap().supported);
    assert_eq!(report.engine.unwrap().version, "7.1.0");
    let mut seen = seen;
    seen.offered = Some(Arc::new([(EngineType::Redis, vec!["8.0".to_owned()])].into()));
    let report = run(&wanted, &seen).report;
    assert_eq!(
        (report.progress, report.support.unwrap().reason),
        (Progress::Ready, "NotOffered")
    );
}

#[test]
fn a_lost_password_stalls_and_never_makes_another() {
    let decision = run(&desired(redis()), &observed(Some(live(Phase::Available))));
    assert_eq!(
        (decision.step, decision.report.progress),
        (Next::Rest, Progress::Stalled)
    );
    assert!(decision.report.message.contains("i-auth"));
}

#[test]
fn a_change_in_place_is_made_at_once_and_one_that_loses_data_waits_for_leave() {
    let mut wanted = desired(redis());
    let before = serving(&wanted, live(Phase::Available));
    wanted.plan.elasticache.as_mut().unwrap().node_type = "cache.r7g.large".to_owned();
    let decision = run(&wanted, &before);
    assert!(matches!(
        decision.step,
        Next::Act(Step::Modify(_, Modification::Settings(_)))
    ));
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::ReadyAndReconciling, Reason::Updating)
    );
    assert!(decision.report.endpoint.is_some() && decision.report.bound);

    let mut wanted = desired(fixtures::memcached());
    let before = serving(&wanted, made(&fixtures::memcached(), 0));
    wanted.plan.elasticache.as_mut().unwrap().node_type = "cache.r7g.large".to_owned();
    // Its window is Monday, one to two.
    let sunday = run_at(&wanted, &before, at("2026-11-22T12:00:00Z"));
    assert_eq!(
        (sunday.step, sunday.report.reason),
        (Next::Rest, Reason::AwaitingMaintenance)
    );
    assert!(
        sunday.report.message.contains("2026-11-23T01:00:00Z"),
        "{}",
        sunday.report.message
    );
    assert_eq!(sunday.again, Again::After(Duration::from_secs(13 * 3600)));
    let monday = run_at(&wanted, &before, at("2026-11-23T01:30:00Z"));
    assert!(matches!(monday.step, Next::Act(Step::Modify(..))));
    wanted.consent = crate::provider::Consent::Given;
    let consented = run_at(&wanted, &before, at("2026-11-22T12:00:00Z"));
    assert!(matches!(consented.step, Next::Act(Step::Modify(..))));
}

#[test]
fn what_needs_another_cache_says_so_and_what_cannot_be_stalls_while_it_serves() {
    let mut wanted = desired(redis());
    let before = serving(&wanted, live(Phase::Available));
    wanted.plan.elasticache.as_mut().unwrap().subnet_group = Some("other".to_owned());
    assert_eq!(
        run_at(&wanted, &before, at("2026-11-22T12:00:00Z")).report.reason,
        Reason::AwaitingMaintenance
    );
    wanted.consent = crate::provider::Consent::Given;
    assert_eq!(run(&wanted, &before).step, Next::Replace);

    let mut wanted = desired(redis());
    wanted.plan.engine.version = "6.2".to_owned();
    let decision = run(&wanted, &before);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Stalled, Reason::PlanMismatch)
    );
    assert!(decision.report.endpoint.is_some() && decision.report.bound);
}

#[test]
fn a_cache_is_filled_from_its_backup_when_it_is_made_and_replaced_when_one_is_named_later() {
    let mut wanted = desired(redis());
    let before = serving(&wanted, live(Phase::Available));
    wanted.restore = Some(RestoreFrom {
        backup: "b".to_owned(),
        snapshot: "snap".to_owned(),
    });
    let decision = run(&wanted, &with_auth(observed(None)));
    let Next::Act(Step::Create(create)) = decision.step else {
        panic!()
    };
    assert_eq!(create.snapshot.as_deref(), Some("snap"));
    assert_eq!(decision.report.record.restored_from.as_deref(), Some("b"));
    // Asking for what stands in a backup is consent to lose the rest.
    assert_eq!(run(&wanted, &before).step, Next::Replace);
    wanted.record.restored_from = Some("b".to_owned());
    assert_eq!(run(&wanted, &before).step, Next::Rest);
}

#[test]
fn a_cache_is_taken_over_only_once_its_tags_say_that_it_is_nobodys() {
    let mut wanted = desired(redis());
    wanted.adopt = Some("Old-Redis".to_owned());
    let place = Cluster {
        target: Target {
            topology: GROUP,
            id: "old-redis".to_owned(),
        },
        arn: None,
        generation: 0,
        tagged: Tagged::default(),
    };
    let mut seen = with_auth(observed_at(place, Some(live(Phase::Available))));
    for (ownership, step, reason) in [
        (Ownership::Unreadable, Next::Rest, Reason::Creating),
        (Ownership::Foreign, Next::Rest, Reason::NameConflict),
        (
            Ownership::Unowned,
            Next::Act(Step::Tag {
                arn: "arn:0".to_owned(),
                tags: tags::wanted(&wanted, wanted.plan.elasticache.as_ref().unwrap()),
            }),
            Reason::Creating,
        ),
    ] {
        seen.ownership = ownership;
        let decision = run(&wanted, &seen);
        assert_eq!((decision.step, decision.report.reason), (step, reason), "{ownership:?}");
        let asks_again = matches!(decision.again, Again::After(_));
        assert_eq!(asks_again, ownership == Ownership::Unreadable);
    }
    let mut gone = seen.clone();
    gone.live = None;
    let decision = run(&wanted, &gone);
    assert_eq!(
        (decision.step, decision.report.reason),
        (Next::Rest, Reason::ProviderResourceMissing)
    );
    // What was never taken over is not deleted with the instance.
    wanted.existence = Existence::Absent(DeletionPolicy::Delete);
    assert_eq!(run(&wanted, &seen).step, Next::Release);
    seen.ownership = Ownership::Ours;
    assert!(matches!(run(&wanted, &seen).step, Next::Act(Step::Delete { .. })));
}

#[test]
fn what_was_taken_over_as_it_was_found_is_changed_by_an_update_and_nothing_else() {
    let mut wanted = desired(fixtures::memcached());
    (wanted.was_ready, wanted.consent) = (true, crate::provider::Consent::Given);
    let mut found = made(&wanted.plan, 0);
    found.config.version = Some("1.4.5".to_owned());
    found.config.node_type = Some("cache.r5.large".to_owned());
    found.config.subnet_group = Some("elsewhere".to_owned());
    let mut seen = serving(&wanted, found);
    seen.ownership = Ownership::Ours;
    wanted.plan.elasticache.as_mut().unwrap().subnet_group = Some("here".to_owned());
    wanted.as_found = true;
    let decision = run(&wanted, &seen);
    assert_eq!(decision.step, Next::Rest);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Ready, Reason::Available)
    );
    assert!(
        decision.report.message.contains("otherwise than its plan says"),
        "{:?}",
        decision.report
    );
    wanted.as_found = false;
    assert_eq!(run(&wanted, &seen).step, Next::Replace);
}

/// Whether its clients need a password is told as it is, so that nobody waits for users that it will not have.
#[test]
fn what_was_taken_over_open_stays_open_whatever_its_plan_says() {
    let mut wanted = desired(redis());
    wanted.was_ready = true;
    wanted.plan.binding_credentials = crate::api::BindingCredentials::PerBinding;
    wanted.plan.elasticache.as_mut().unwrap().authentication = None;
    let mut found = made(&wanted.plan, 0);
    found.config.authentication = false;
    let mut seen = serving(&wanted, found);
    seen.ownership = Ownership::Ours;
    seen.secrets.clear();
    wanted.as_found = true;
    let Next::Act(Step::Secret(SecretStep::ApplyConnection(data))) = run(&wanted, &seen).step else {
        panic!("{:?}", run(&wanted, &seen));
    };
    assert_eq!(data.get("password"), None);
    wanted.as_found = false;
    wanted.adopt = Some("found".to_owned());
    let report = run(&wanted, &seen).report;
    assert_eq!(
        (report.progress, report.reason),
        (Progress::Stalled, Reason::PlanMismatch)
    );
    for says in [
        "asks nobody for a password",
        "bindingCredentials are shared",
        "spec.adopt.asOf",
    ] {
        assert!(report.message.contains(says), "{}", report.message);
    }
    // One that asks for users is one whose password is gone.
    seen.live
        .as_mut()
        .unwrap()
        .config
        .user_groups
        .insert("users".to_owned());
    assert_eq!(run(&wanted, &seen).report.reason, Reason::Failed);
}

#[test]
fn what_is_asked_for_while_a_snapshot_is_taken_has_not_happened_yet() {
    let at = |progress, desired: &Desired| {
        let decision = run(desired, &serving(desired, live(Phase::Snapshotting)));
        assert_eq!(
            (&decision.step, decision.report.progress, decision.report.reason),
            (&Next::Rest, progress, Reason::Snapshotting),
            "{}",
            decision.report.message
        );
        decision.report
    };
    let mut desired = desired(redis());
    desired.was_ready = true;
    desired.record.serving = Some(Place::ElastiCache(proven(0, GROUP)));
    at(Progress::Ready, &desired);
    // A restart that is due, or another node type.
    let mut restarted = desired.clone();
    restarted.restart_at = Some(Timestamp::UNIX_EPOCH);
    let report = at(Progress::ReadyAndReconciling, &restarted);
    assert!(report.message.contains("restarting node"), "{}", report.message);
    assert_eq!(report.record.restart, None, "nothing was begun");
    let mut resized = desired.clone();
    let spec = resized.plan.elasticache.as_mut().unwrap();
    spec.node_type = "cache.t4g.small".to_owned();
    at(Progress::ReadyAndReconciling, &resized);
}

#[test]
fn a_delete_waits_until_elasticache_allows_it_and_ends_when_nothing_is_left() {
    let mut desired = desired(redis());
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    for phase in [
        Phase::Creating,
        Phase::Modifying,
        Phase::Snapshotting,
        Phase::Rebooting,
        Phase::Deleting,
    ] {
        assert_eq!(
            run(&desired, &observed(Some(live(phase.clone())))).step,
            Next::Rest,
            "{phase:?}"
        );
    }
    for phase in [Phase::Available, Phase::Failed("create-failed".to_owned())] {
        let step = run(&desired, &observed(Some(live(phase.clone())))).step;
        assert!(
            matches!(
                step,
                Next::Act(Step::Delete {
                    final_snapshot: None,
                    ..
                })
            ),
            "{phase:?}"
        );
    }
    let mut gone = observed(None);
    gone.may_appear = Some(Duration::from_secs(7));
    let decision = run(&desired, &gone);
    assert_eq!(
        (decision.step, decision.again),
        (Next::Rest, Again::After(Duration::from_secs(7))),
        "a call that makes it may be on its way"
    );
    assert_eq!(run(&desired, &observed(None)).step, Next::Release);
}

#[test]
fn the_deletion_policy_counts_for_what_was_ready_only() {
    let mut desired = desired(redis());
    let cases = [
        (
            DeletionPolicy::Snapshot,
            true,
            Some(format!("{}-final", provider_id("test", UID, 0))),
        ),
        (DeletionPolicy::Snapshot, false, None),
        (DeletionPolicy::Delete, true, None),
    ];
    for (policy, was_ready, snapshot) in cases {
        (desired.existence, desired.was_ready) = (Existence::Absent(policy), was_ready);
        let Next::Act(Step::Delete { final_snapshot, .. }) =
            run(&desired, &observed(Some(live(Phase::Available)))).step
        else {
            panic!()
        };
        assert_eq!(final_snapshot, snapshot, "{policy:?} {was_ready}");
    }
    (desired.existence, desired.was_ready) = (Existence::Absent(DeletionPolicy::Retain), true);
    let mut seen = observed(Some(live(Phase::Available)));
    seen.ownership = Ownership::Ours;
    let release = Next::Act(Step::Release {
        arn: "arn:0".to_owned(),
    });
    assert_eq!(run(&desired, &seen).step, release);
    // Of one that exists the API may tell no tags, as if it were gone. It is not let go without the tag.
    seen.ownership = Ownership::Unreadable;
    assert_eq!(run(&desired, &seen).step, release);
    seen.ownership = Ownership::Unowned;
    assert_eq!(run(&desired, &seen).step, Next::Release);
    seen.live = None;
    assert_eq!(run(&desired, &seen).step, Next::Release);
    // What is busy tells and takes no tags: it is let go with the tag, later.
    for phase in [
        Phase::Creating,
        Phase::Modifying,
        Phase::Snapshotting,
        Phase::Rebooting,
        Phase::Unknown("pondering".to_owned()),
    ] {
        let decision = run(&desired, &observed(Some(live(phase.clone()))));
        assert_eq!(decision.step, Next::Rest, "{phase:?}");
        assert!(decision.report.message.contains("once it is available"), "{phase:?}");
    }
    for phase in [Phase::Deleting, Phase::Failed("restore-failed".to_owned())] {
        assert_eq!(run(&desired, &observed(Some(live(phase)))).step, Next::Release);
    }
}

#[test]
fn its_secrets_go_with_a_cache_and_stay_with_one_that_stays() {
    let mut desired = desired(redis());
    desired.was_ready = true;
    let owned = |uid: &str| -> Observed {
        let mut observed = with_auth(observed(None));
        let secret = Arc::make_mut(observed.secrets.get_mut("i-auth").unwrap());
        secret.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            uid: uid.to_owned(),
            ..Default::default()
        }]);
        observed
    };
    let names = vec!["i-auth".to_owned()];

    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    let mut seen = owned(UID);
    assert_eq!(
        run(&desired, &seen).step,
        Next::Act(Step::Secret(SecretStep::Delete(names.clone())))
    );
    seen.live = Some(live(Phase::Deleting));
    assert_eq!(run(&desired, &seen).step, Next::Rest, "not before the cache");
    assert_eq!(run(&desired, &owned("another")).step, Next::Release);

    desired.existence = Existence::Absent(DeletionPolicy::Retain);
    (seen.live, seen.ownership) = (Some(live(Phase::Available)), Ownership::Unowned);
    assert_eq!(
        run(&desired, &seen).step,
        Next::Act(Step::Secret(SecretStep::Disown(names)))
    );
}

fn phases() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Creating),
        Just(Phase::Available),
        Just(Phase::Modifying),
        Just(Phase::Snapshotting),
        Just(Phase::Rebooting),
        Just(Phase::Deleting),
        "[a-z]{0,9}".prop_map(Phase::Failed),
        ".{0,9}".prop_map(Phase::Unknown),
    ]
}

proptest! {
    /// Whatever is seen: nothing is deleted that is to exist, nothing is made that is to go, nothing is made twice, and
    /// what another owner's tags claim is never touched.
    #[test]
    fn never_does_what_would_lose_or_leak(
        phase in proptest::option::of(phases()),
        ownership in prop_oneof![Just(Ownership::Ours), Just(Ownership::Foreign), Just(Ownership::Unreadable)],
        auth: bool, was_ready: bool, known: bool,
        policy in proptest::option::of(prop_oneof![
            Just(DeletionPolicy::Delete), Just(DeletionPolicy::Retain), Just(DeletionPolicy::Snapshot)
        ]),
    ) {
        let mut desired = desired(redis());
        desired.was_ready = was_ready;
        desired.record.serving = known.then(|| Place::ElastiCache(proven(0, GROUP)));
        desired.existence = policy.map_or(Existence::Present, Existence::Absent);
        let mut seen = observed(phase.map(live));
        seen.ownership = ownership;
        let seen = if auth { with_auth(seen) } else { seen };
        let decision = run(&desired, &seen);
        match &decision.step {
            Next::Act(Step::Create(create)) => {
                prop_assert!(policy.is_none() && seen.live.is_none() && !known && auth);
                prop_assert_eq!(decision.report.record.cluster().map(|cluster| &cluster.target.id), Some(&create.id));
            }
            Next::Act(Step::Delete { .. }) => {
                prop_assert!(policy.is_some() && (known || ownership != Ownership::Foreign));
                prop_assert!(policy != Some(DeletionPolicy::Retain) || !was_ready);
            }
            Next::Act(Step::Secret(SecretStep::CreateAuth)) => prop_assert!(!auth && seen.live.is_none()),
            Next::Act(Step::Secret(_)) => prop_assert!(policy.is_none() && seen.live.is_some()),
            Next::Release => prop_assert!(policy.is_some()),
            Next::Act(Step::Release { .. }) => prop_assert!(policy == Some(DeletionPolicy::Retain)),
            Next::Act(step) => prop_assert!(false, "{step:?}"),
            Next::Rest | Next::Replace => {}
        }
    }
}
