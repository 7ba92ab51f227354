use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::super::elasticache::fixtures::{at, auth, defaults, desired, made, modified, plan, redis};
use super::super::elasticache::{self as ec, Live, Ownership, SnapshotState};
use super::super::secrets::SecretStep;
use super::super::seeding::SEED_POLL;
use super::super::users::{Credential, UserRecord, UserRef};
use super::super::{Consent, RestoreFrom};
use super::*;
use crate::api::{BindingCredentials, CachePlanSpec};
use crate::wire::PasswordHash;

const NOW: &str = "2026-11-22T12:00:00Z";

fn switches() -> Switches {
    Switches {
        kubernetes: None,
        elasticache: Some(defaults()),
    }
}

/// ElastiCache, and what the cluster holds of one instance.
#[derive(Clone, Debug, Default)]
struct World {
    caches: BTreeMap<String, (Live, Option<String>)>,
    secrets: BTreeMap<String, std::sync::Arc<k8s_openapi::api::core::v1::Secret>>,
    snapshots: BTreeMap<String, SnapshotState>,
    /// Every call that changed a cache.
    calls: Vec<String>,
    users: BTreeMap<String, ec::UserPhase>,
    group: Option<ec::UserGroup>,
}

impl World {
    fn see(&self, desired: &Desired, place: Option<&Place>) -> Seen {
        let first = || Cluster {
            target: ec::Target {
                topology: desired.plan.topology(),
                id: ec::provider_id("test", &desired.uid, 0),
            },
            arn: None,
            generation: 0,
            tagged: ec::Tagged::default(),
        };
        let place = place.and_then(Place::cluster).cloned().unwrap_or_else(first);
        Seen::ElastiCache(Box::new(ec::Observed {
            live: self.caches.get(&place.target.id).map(|(live, _)| live.clone()),
            place,
            may_appear: None,
            ownership: Ownership::Ours,
            tags: None,
            failure: None,
            offered: None,
            secrets: self.secrets.clone(),
            access: ec::may_have_users(desired).then(|| self.access(desired)),
            credentials: desired
                .users
                .iter()
                .map(|user| {
                    let credential = Credential {
                        version: "1".to_owned(),
                        hash: PasswordHash::of(&user.name.clone().into()),
                        suits_elasticache: true,
                    };
                    (user.name.clone(), credential)
                })
                .collect(),
        }))
    }

    fn access(&self, desired: &Desired) -> ec::Access {
        let leaving = desired.existence != Existence::Present;
        let asked = ec::asked_users(&defaults(), desired, self.group.as_ref(), leaving);
        let users = self.users.iter().filter(|(id, _)| asked.contains(*id));
        ec::Access {
            group: self.group.clone(),
            users: users.map(|(id, phase)| (id.clone(), *phase)).collect(),
        }
    }

    fn change_users(&mut self, step: &ec::AccessStep) {
        let group = |world: &mut Self| world.group.as_mut().unwrap().users.clone();
        match step {
            ec::AccessStep::CreateUsers(new) => {
                for user in new {
                    let before = self.users.insert(user.id.clone(), ec::UserPhase::Active);
                    assert_eq!(before, None, "made twice");
                }
            }
            ec::AccessStep::DeleteUsers(ids) => {
                for id in ids {
                    self.users.remove(id).unwrap();
                    if let Some(group) = &mut self.group {
                        group.users.remove(id);
                    }
                }
            }
            ec::AccessStep::CreateGroup { engine, users } => {
                assert!(self.group.is_none() && users.iter().all(|id| self.users.contains_key(id)));
                self.group = Some(ec::UserGroup {
                    engine: *engine,
                    phase: ec::UserPhase::Active,
                    users: users.iter().cloned().collect(),
                });
            }
            ec::AccessStep::AddUsers(ids) => {
                assert!(
                    ids.iter()
                        .all(|id| self.users.contains_key(id) && !group(self).contains(id))
                );
                self.group.as_mut().unwrap().users.extend(ids.clone());
            }
            ec::AccessStep::DeleteGroup => {
                let used = self
                    .caches
                    .values()
                    .any(|(live, _)| !live.config.user_groups.is_empty());
                assert!(!used, "a group that a cache uses cannot be deleted");
                self.group = None;
            }
        }
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let record = &desired.record;
        Observed {
            serving: self.see(desired, record.serving.as_ref()),
            replacement: record.replacement.as_ref().map(|place| self.see(desired, Some(place))),
            superseded: record
                .superseded
                .iter()
                .map(|superseded| self.see(desired, Some(&superseded.place)))
                .collect(),
            seeds: self.snapshots.clone(),
        }
    }

    /// Does a step as the API would, with everything that takes time done at once.
    fn act(&mut self, plan: &CachePlanSpec, step: &Step) {
        let Step::ElastiCache(step) = step else {
            panic!("{step:?}")
        };
        match step {
            ec::Step::Secret(SecretStep::CreateAuth) => {
                self.secrets.insert("i-auth".to_owned(), auth());
            }
            ec::Step::Secret(SecretStep::ApplyConnection(data)) => {
                self.secrets
                    .insert("i-connection".to_owned(), ec::fixtures::secret(data.clone()));
            }
            ec::Step::Secret(SecretStep::Delete(names) | SecretStep::Disown(names)) => {
                self.secrets.retain(|name, _| !names.contains(name));
            }
            ec::Step::Users(step) => self.change_users(step),
            ec::Step::TakeSeed { name, of } => {
                assert_eq!(
                    self.caches[&of.id].0.phase,
                    Phase::Available,
                    "a snapshot of what is busy"
                );
                assert!(self.snapshots.insert(name.clone(), SnapshotState::Available).is_none());
                self.calls.push("seed".to_owned());
            }
            ec::Step::DropSeed { name } => {
                self.snapshots.remove(name).unwrap();
                self.calls.push("drop seed".to_owned());
            }
            ec::Step::Create(create) => {
                assert!(!self.caches.contains_key(&create.id), "made twice");
                if let Some(seed) = create.snapshot.as_ref().filter(|name| name.ends_with("-seed")) {
                    assert!(self.snapshots.contains_key(seed), "filled from nothing");
                }
                let mut live = made(plan, 0);
                live.id.clone_from(&create.id);
                live.arn = Some(format!("arn:{}", create.id));
                assert!(
                    create.user_group.is_none() || self.group.is_some(),
                    "the group comes first"
                );
                live.config.user_groups = create.user_group.iter().cloned().collect();
                live.endpoint.as_mut().unwrap().host.clone_from(&create.id);
                self.calls.push(match create.snapshot.as_deref() {
                    Some(seed) if seed.ends_with("-seed") => "create seeded".to_owned(),
                    Some(snapshot) => format!("create {snapshot}"),
                    None => "create empty".to_owned(),
                });
                self.caches.insert(create.id.clone(), (live, create.snapshot.clone()));
            }
            ec::Step::Modify(target, modification) => {
                let (live, snapshot) = self.caches.remove(&target.id).unwrap();
                self.calls.push("modify".to_owned());
                self.caches
                    .insert(target.id.clone(), (modified(live, modification), snapshot));
            }
            ec::Step::Token { target, strategy, .. } => {
                let (live, snapshot) = self.caches.remove(&target.id).unwrap();
                self.calls.push("token".to_owned());
                let live = modified(live, &ec::Modification::Token(*strategy));
                self.caches.insert(target.id.clone(), (live, snapshot));
            }
            ec::Step::Delete { target, .. } => {
                self.calls.push("delete".to_owned());
                self.caches.remove(&target.id).unwrap();
            }
            ec::Step::Secret(SecretStep::ApplyUsers(_) | SecretStep::ApplyAuth(_)) => panic!("that is for the cluster"),
            ec::Step::Reboot(..) | ec::Step::Tag { .. } | ec::Step::Untag { .. } | ec::Step::Release { .. } => {
                panic!("{step:?}")
            }
        }
    }

    /// Where applications are sent.
    fn address(&self) -> Option<String> {
        let data = self.secrets.get("i-connection")?.data.as_ref()?;
        String::from_utf8(data.get("host")?.0.clone()).ok()
    }

    /// Runs the reconciler until it rests; returns its last decision.
    fn settle(&mut self, desired: &mut Desired, now: &str) -> Decision<Step> {
        for _ in 0..60 {
            let served = self.address();
            let decision = decide(&switches(), desired, &self.observe(desired), at(now));
            desired.record = decision.report.record.clone();
            desired.published.endpoint.clone_from(&decision.report.endpoint);
            desired.published.bound = decision.report.bound;
            desired.was_ready |= decision.report.progress == Progress::Ready;
            match &decision.step {
                Next::Act(step) => {
                    self.act(&desired.plan.clone(), step);
                    if desired.existence == Existence::Present
                        && let Some(host) = served
                    {
                        assert!(self.caches.contains_key(&host), "what is served was deleted: {step:?}");
                    }
                }
                Next::Release => return decision,
                Next::Rest | Next::Replace if decision.again == super::super::Again::After(Duration::ZERO) => {}
                Next::Rest | Next::Replace => return decision,
            }
        }
        panic!("no end: {desired:?} {self:?}");
    }
}

fn settled(plan: CachePlanSpec) -> (World, Desired) {
    let (mut world, mut desired) = (World::default(), desired(plan));
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(decision.report.progress, Progress::Ready, "{}", decision.report.message);
    (world, desired)
}

fn elsewhere() -> CachePlanSpec {
    let mut plan = redis();
    plan.elasticache.as_mut().unwrap().subnet_group = Some("other".to_owned());
    plan
}

#[test]
fn another_cache_serves_before_the_old_one_goes_and_the_old_one_has_its_time_of_grace() {
    let (mut world, mut desired) = settled(redis());
    let old = world.address().unwrap();
    desired.plan = elsewhere();
    assert_eq!(
        world.settle(&mut desired, NOW).report.reason,
        Reason::AwaitingMaintenance
    );
    assert_eq!(world.calls, ["create empty"]);

    desired.consent = Consent::Given;
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(decision.report.progress, Progress::Ready);
    assert!(
        decision.report.message.contains("2026-11-22T13:00:00Z"),
        "{}",
        decision.report.message
    );
    let new = world.address().unwrap();
    assert_ne!(new, old);
    assert_eq!(world.caches.len(), 2, "the old one is kept for those who still use it");
    assert_eq!(world.calls, ["create empty", "seed", "create seeded"]);
    assert_eq!(decision.again, super::super::Again::After(Duration::from_secs(3600)));

    let decision = world.settle(&mut desired, "2026-11-22T13:00:00Z");
    assert_eq!(decision.report.progress, Progress::Ready);
    assert_eq!(world.caches.keys().cloned().collect::<Vec<_>>(), [new]);
    assert!(desired.record.superseded.is_empty());
    assert_eq!(world.calls[3..], ["delete", "drop seed"]);
}

#[test]
fn what_has_shards_does_not_fill_what_has_none_and_a_snapshot_in_the_making_is_waited_for() {
    let sharded = plan("redis", "7.1", &json!({ "nodeType": "cache.t4g.micro", "shards": 2 }));
    let plain = plan("redis", "7.1", &json!({ "nodeType": "cache.t4g.micro" }));
    let (mut world, mut desired) = settled(sharded);
    desired.plan = plain;
    let waiting = world.settle(&mut desired, NOW).report.message;
    assert!(
        waiting.contains("without what this one stores, since a snapshot of several shards"),
        "{waiting}"
    );
    desired.consent = Consent::Given;
    world.settle(&mut desired, NOW);
    assert_eq!(world.calls, ["create empty", "create empty"]);

    let (mut world, mut desired) = settled(redis());
    desired.plan = elsewhere();
    let waiting = world.settle(&mut desired, NOW).report.message;
    assert!(waiting.contains("filled from a snapshot of this one"), "{waiting}");
    desired.consent = Consent::Given;
    while world.snapshots.is_empty() {
        let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
        desired.record = decision.report.record.clone();
        if let Next::Act(step) = &decision.step {
            world.act(&desired.plan.clone(), step);
        }
    }
    for state in world.snapshots.values_mut() {
        *state = SnapshotState::Busy;
    }
    let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
    assert_eq!(
        (decision.step, decision.again),
        (Next::Rest, super::super::Again::After(SEED_POLL))
    );
    assert_eq!(decision.report.progress, Progress::ReadyAndReconciling);
    assert!(
        decision.report.message.contains("is being taken"),
        "{}",
        decision.report.message
    );
}

fn with_users() -> CachePlanSpec {
    let mut plan = plan(
        "redis",
        "7.1",
        &json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true }),
    );
    plan.binding_credentials = BindingCredentials::PerBinding;
    plan
}

fn user(name: &str) -> UserRef {
    UserRef {
        name: name.to_owned(),
        secret: format!("i-user-{name}"),
    }
}

fn let_in(name: &str) -> UserRecord {
    UserRecord {
        name: name.to_owned(),
        ready: true,
        secret_version: Some("1".to_owned()),
    }
}

#[test]
fn a_cache_has_the_default_user_from_the_start_and_others_come_and_go() {
    let (mut world, mut desired) = settled(with_users());
    let id = |name: &str| ec::user_id(&defaults(), &desired, name);
    let (default, a, b) = (id("default"), id("a"), id("b"));
    assert_eq!(world.users.keys().collect::<Vec<_>>(), [&default]);
    assert_eq!(desired.record.user_group, Some(ec::group_id(&defaults(), &desired)));
    let connection = world.secrets["i-connection"].data.clone().unwrap();
    assert_eq!(connection["username"].0, b"default");

    desired.users = vec![user("a"), user("b")];
    let first = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
    assert!(
        first.report.record.users.iter().all(|user| !user.ready) && first.report.record.users.len() == 2,
        "they are on record before they are made"
    );
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(decision.report.progress, Progress::Ready, "{}", decision.report.message);
    assert_eq!(desired.record.users, [let_in("a"), let_in("b")]);
    assert!(
        [&default, &a, &b]
            .iter()
            .all(|id| world.group.as_ref().unwrap().users.contains(*id))
    );

    desired.users = vec![user("b")];
    world.settle(&mut desired, NOW);
    assert_eq!(desired.record.users, [let_in("b")]);
    assert!(!world.users.contains_key(&a));
    assert_eq!(world.calls, ["create empty"], "the cache itself was not touched");

    // One that was made and not asked for any more before it came into the group.
    desired.users.push(user("a"));
    for _ in 0..1 {
        let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
        desired.record = decision.report.record.clone();
        let Next::Act(step) = &decision.step else {
            panic!("{decision:?}")
        };
        world.act(&desired.plan.clone(), step);
    }
    assert!(world.users.contains_key(&a) && !world.group.as_ref().unwrap().users.contains(&a));
    desired.users.pop();
    world.settle(&mut desired, NOW);
    assert!(!world.users.contains_key(&a));

    desired.existence = Existence::Absent(crate::api::DeletionPolicy::Delete);
    assert_eq!(world.settle(&mut desired, NOW).step, Next::Release);
    assert!(world.caches.is_empty() && world.users.is_empty() && world.group.is_none());
}

#[test]
fn a_replacement_has_the_users_before_it_serves() {
    let (mut world, mut desired) = settled(with_users());
    desired.users = vec![user("a")];
    world.settle(&mut desired, NOW);
    let old = world.address().unwrap();
    let mut elsewhere = with_users();
    elsewhere.elasticache.as_mut().unwrap().subnet_group = Some("other".to_owned());
    (desired.plan, desired.consent, desired.release_superseded) = (elsewhere, Consent::Given, true);
    // One is bound while the other cache is being made.
    desired.users.push(user("b"));
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(decision.report.progress, Progress::Ready, "{}", decision.report.message);
    let new = world.address().unwrap();
    assert_ne!(new, old);
    assert_eq!(world.caches.keys().collect::<Vec<_>>(), [&new]);
    let group = ec::group_id(&defaults(), &desired);
    assert!(world.caches[&new].0.config.user_groups.contains(&group));
    assert_eq!(desired.record.users, [let_in("a"), let_in("b")]);
    assert_eq!(world.group.as_ref().unwrap().users.len(), 3);
}

#[test]
fn a_group_that_somebody_took_away_comes_back() {
    let (mut world, mut desired) = settled(with_users());
    for (live, _) in world.caches.values_mut() {
        live.config.user_groups.clear();
    }
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(decision.report.progress, Progress::Ready);
    assert_eq!(world.calls, ["create empty", "modify"]);
}

#[test]
fn nobody_who_needs_the_old_one_lets_it_go_at_once() {
    let (mut world, mut desired) = settled(redis());
    (desired.plan, desired.consent, desired.release_superseded) = (elsewhere(), Consent::Given, true);
    world.settle(&mut desired, NOW);
    assert_eq!(world.caches.len(), 1);
}

/// There and back within the time of grace: what is left in the cluster stands under the same name.
#[test]
fn what_it_had_in_the_cluster_before_goes_first_and_never_what_serves() {
    let (world, mut desired) = settled(redis());
    desired.plan = serde_json::from_value(json!({
        "service": "s", "id": "p", "description": "d", "engine": { "type": "memcached", "version": "1.6" },
        "kubernetes": { "memory": "64Mi" },
    }))
    .unwrap();
    let in_cluster = || Seen::Kubernetes(Box::default());
    let before = |until| Superseded {
        place: Place::Kubernetes,
        since: at(NOW),
        until: at(until),
    };
    desired.record.superseded = vec![before("2026-11-23T12:00:00Z")];
    desired.record.replacement = Some(Place::Kubernetes);
    let observed = Observed {
        serving: world.see(&desired, desired.record.serving.as_ref()),
        replacement: Some(in_cluster()),
        superseded: vec![in_cluster()],
        seeds: BTreeMap::new(),
    };
    let decision = decide(&switches(), &desired, &observed, at(NOW));
    let record = &decision.report.record;
    assert_eq!((&record.superseded[..], decision.step), (&[][..], Next::Rest));
    assert_eq!(record.replacement, Some(Place::Kubernetes), "it is made next");

    desired.record.serving = desired.record.replacement.take();
    desired.record.superseded = vec![before("2026-11-22T11:00:00Z")];
    let observed = Observed {
        serving: in_cluster(),
        replacement: None,
        ..observed
    };
    let decision = decide(&switches(), &desired, &observed, at(NOW));
    assert_eq!(
        (decision.step, &decision.report.record.superseded[..]),
        (Next::Rest, &[][..])
    );
}

#[test]
fn a_plan_that_is_put_back_gives_the_replacement_up() {
    let (mut world, mut desired) = settled(redis());
    let old = world.address();
    (desired.plan, desired.consent) = (elsewhere(), Consent::Given);
    // A snapshot of the old one is on record, taken, and used.
    for _ in 0..3 {
        let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
        desired.record = decision.report.record.clone();
        if let Next::Act(step) = &decision.step {
            world.act(&desired.plan.clone(), step);
        }
    }
    assert_eq!(world.caches.len(), 2);
    desired.plan = redis();
    assert_eq!(world.settle(&mut desired, NOW).report.progress, Progress::Ready);
    assert_eq!((world.caches.len(), world.address()), (1, old));
    assert!(desired.record.replacement.is_none());
    assert!(world.snapshots.is_empty());
}

#[test]
fn a_restore_that_fails_leaves_the_old_cache_serving() {
    let (mut world, mut desired) = settled(redis());
    let old = world.address().unwrap();
    desired.restore = Some(RestoreFrom {
        backup: "b".to_owned(),
        snapshot: "snap".to_owned(),
    });
    while world.caches.len() < 2 {
        let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
        desired.record = decision.report.record.clone();
        if let Next::Act(step) = &decision.step {
            world.act(&desired.plan.clone(), step);
        }
    }
    let new = world.caches.keys().find(|id| **id != old).unwrap().clone();
    world.caches.get_mut(&new).unwrap().0.phase = Phase::Failed("restore-failed".to_owned());
    desired.published.endpoint = Some(crate::api::Endpoint::new(old.clone(), 6379, true));
    let decision = world.settle(&mut desired, NOW);
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Stalled, Reason::Failed)
    );
    assert_eq!(decision.report.endpoint.unwrap().host, old);
    assert_eq!(world.address().unwrap(), old);
    // Taken back, it is as it was.
    desired.restore = None;
    assert_eq!(world.settle(&mut desired, NOW).report.progress, Progress::Ready);
    assert_eq!(world.caches.keys().collect::<Vec<_>>(), [&old]);
}

#[test]
fn a_restore_is_done_once_and_a_later_replacement_does_not_repeat_it() {
    let (mut world, mut desired) = settled(redis());
    desired.restore = Some(RestoreFrom {
        backup: "b".to_owned(),
        snapshot: "snap".to_owned(),
    });
    assert_eq!(world.settle(&mut desired, NOW).report.progress, Progress::Ready);
    assert_eq!(world.calls, ["create empty", "create snap"]);
    assert_eq!(desired.record.restored_from.as_deref(), Some("b"));
    world.settle(&mut desired, NOW);
    assert_eq!(world.calls.len(), 2);
    (desired.plan, desired.consent, desired.release_superseded) = (elsewhere(), Consent::Given, true);
    assert_eq!(world.settle(&mut desired, NOW).report.progress, Progress::Ready);
    assert_eq!(world.calls.iter().filter(|call| *call == "create snap").count(), 1);
}

fn plans() -> impl Strategy<Value = CachePlanSpec> {
    (
        prop::sample::select(vec!["cache.t4g.micro", "cache.r7g.large"]),
        prop::sample::select(vec![None, Some("a"), Some("b")]),
        0u16..3,
        proptest::option::of(1u16..3),
        any::<bool>(),
    )
        .prop_map(|(node_type, subnets, replicas, shards, rest)| {
            plan(
                "redis",
                "7.1",
                &json!({
                    "nodeType": node_type, "subnetGroup": subnets, "replicas": replicas, "shards": shards,
                    "atRestEncryption": rest, "authentication": "token", "transitEncryption": true,
                }),
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever plans follow each other, also before the one before was reached: it comes to rest, what is served
    /// exists all the while, one cache is left, and the end of the instance leaves none.
    #[test]
    fn plans_may_follow_each_other_at_any_time(moves in prop::collection::vec((plans(), 1usize..9), 1..6)) {
        let (mut world, mut desired) = settled(redis());
        desired.consent = Consent::Given;
        desired.release_superseded = true;
        for (plan, steps) in moves {
            desired.plan = plan;
            for _ in 0..steps {
                let decision = decide(&switches(), &desired, &world.observe(&desired), at(NOW));
                desired.record = decision.report.record.clone();
                if let Next::Act(step) = &decision.step {
                    world.act(&desired.plan.clone(), step);
                }
            }
        }
        let decision = world.settle(&mut desired, NOW);
        prop_assert_eq!(decision.report.progress, Progress::Ready, "{}", decision.report.message);
        prop_assert_eq!(world.caches.len(), 1);
        let calls = world.calls.len();
        world.settle(&mut desired, NOW);
        prop_assert_eq!(world.calls.len(), calls, "at rest nothing is done");
        desired.existence = Existence::Absent(crate::api::DeletionPolicy::Delete);
        prop_assert_eq!(world.settle(&mut desired, NOW).step, Next::Release);
        prop_assert!(world.caches.is_empty());
        prop_assert!(world.snapshots.is_empty(), "{:?}", world.snapshots);
    }
}
