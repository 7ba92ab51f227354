use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{CachePlanSpec, Endpoint, Node};
use crate::provider::{Consent, Next};

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn defaults() -> Defaults {
    Defaults {
        name_prefix: "Test".to_owned(),
        security_group: Some("sg-1".to_owned()),
        redis_subnet_group: Some("redis-subnets".to_owned()),
        memcached_subnet_group: Some("memcached-subnets".to_owned()),
    }
}

fn plan(engine: &str, elasticache: &Value) -> CachePlanSpec {
    serde_json::from_value(json!({
        "service": "s", "id": "p", "description": "d",
        "engine": { "type": engine, "version": "7.1" }, "elasticache": elasticache,
    }))
    .unwrap()
}

fn redis() -> CachePlanSpec {
    plan(
        "redis",
        &json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true, "authentication": "token" }),
    )
}

fn desired(plan: CachePlanSpec) -> Desired {
    Desired {
        namespace: "n".to_owned(),
        name: "i".to_owned(),
        uid: UID.to_owned(),
        existence: Existence::Present,
        plan_name: "plan".to_owned(),
        plan,
        owner: Owner {
            organization: Some("org; drop".to_owned()),
            ..Owner::default()
        },
        connection_secret: "i-connection".to_owned(),
        was_ready: false,
        consent: Consent::Withheld,
        restart_at: None,
        record: Record::default(),
    }
}

fn live(phase: Phase) -> Live {
    Live {
        topology: Topology::ReplicationGroup,
        id: provider_id("test", UID, 0),
        arn: Some("arn:g".to_owned()),
        phase,
        endpoint: Some(Endpoint::new("h", 6379, true)),
        reader_endpoint: None,
        nodes: vec![Node {
            id: "g-001".to_owned(),
            host: Some("h".to_owned()),
            port: Some(6379),
        }],
        node_type: Some("cache.t4g.micro".to_owned()),
        authentication: true,
    }
}

fn proven() -> Cluster {
    Cluster {
        target: Target {
            topology: Topology::ReplicationGroup,
            id: provider_id("test", UID, 0),
        },
        arn: Some("arn:g".to_owned()),
        generation: 0,
    }
}

fn observed(live: Option<Live>) -> Observed {
    Observed {
        live,
        ownership: Ownership::Unreadable,
        failure: None,
        secrets: BTreeMap::new(),
    }
}

fn secret(name: &str, data: BTreeMap<String, k8s_openapi::ByteString>) -> (String, Arc<Secret>) {
    (
        name.to_owned(),
        Arc::new(Secret {
            data: Some(data),
            ..Secret::default()
        }),
    )
}

fn with_auth(mut observed: Observed) -> Observed {
    let data = [(
        "password".to_owned(),
        k8s_openapi::ByteString(b"hunter2hunter2hunter2".to_vec()),
    )]
    .into();
    observed.secrets.extend([secret("i-auth", data)]);
    observed
}

fn run(desired: &Desired, observed: &Observed) -> Decision<Step> {
    let spec = desired.plan.elasticache.clone().unwrap();
    decide(desired, &spec, &defaults(), observed)
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
        &json!({ "nodeType": "cache.t4g.micro", "nodes": 2, "subnetGroup": "own", "securityGroupIds": ["sg-2"] }),
    );
    let Next::Act(Step::Create(create)) = run(&desired(plan), &observed(None)).step else {
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
        (Phase::Rebooting, Progress::Reconciling, Reason::Restarting),
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
    assert_eq!(data["uri"].0, b"rediss://default:hunter2hunter2hunter2@h:6379");
    assert_eq!(decision.report.record.cluster().unwrap().arn.as_deref(), Some("arn:g"));
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
    desired.record.serving = Some(Place::ElastiCache(proven()));
    let decision = run(&desired, &with_auth(observed(None)));
    assert_eq!(
        (decision.step, decision.report.reason),
        (Next::Rest, Reason::ProviderResourceMissing)
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
fn a_difference_that_cannot_be_changed_is_said_while_the_cache_goes_on_serving() {
    let mut desired = desired(redis());
    let mut observed = with_auth(observed(Some(live(Phase::Available))));
    let Next::Act(Step::Secret(SecretStep::ApplyConnection(data))) = run(&desired, &observed).step else {
        panic!()
    };
    observed.secrets.extend([secret("i-connection", data)]);
    desired.plan.elasticache.as_mut().unwrap().node_type = "cache.r7g.large".to_owned();
    let decision = run(&desired, &observed);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Stalled, Reason::Unsupported)
    );
    assert!(decision.report.endpoint.is_some() && decision.report.bound);
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
    assert_eq!(
        run(&desired, &observed(Some(live(Phase::Available)))).step,
        Next::Release
    );
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
    seen.live = Some(live(Phase::Available));
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
        desired.record.serving = known.then(|| Place::ElastiCache(proven()));
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
            Next::Rest => {}
        }
    }
}
