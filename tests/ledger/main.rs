//! The ledger on a real Postgres: what the operator writes into it, and what it may not.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/database.rs"]
mod database;

mod letters;
mod restored;
mod retention;
mod unreachable;

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use cache_broker::api::{Connection, EngineType, ProviderKind};
use cache_broker::ledger::{
    Asked, Asker, Desired, Epoch, Gone, Held, InstanceId, Judgement, Later, Ledger, LedgerError, NewDeprovision,
    NewInstance, Observation, OperationKind, OperationState, OutboxItem, Projected, Provisioned, Request, Scope,
    Settled, Usage, Verdict,
};
use serde_json::Map;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(60);

struct World {
    ledger: Ledger,
    epoch: Epoch,
    sql: tokio_postgres::Client,
}

impl World {
    async fn new() -> Self {
        let url = database::empty_database().await;
        let ledger = database::ledger(&url);
        ledger.migrate().await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        sql.batch_execute("set search_path = cache_broker").await.unwrap();
        let epoch = ledger.next_epoch().await.unwrap();
        Self { ledger, epoch, sql }
    }

    /// Orders an instance unless it was; returns whether this was the order that was accepted.
    async fn raced(&self, id: &str) -> bool {
        let judge = |held: Option<&Held<_>>, _: &Usage| match held {
            None => Judgement::Accept(order(HOUR)),
            Some(_) => Judgement::Answer(()),
        };
        let settled = self
            .ledger
            .provision(
                &id.parse().unwrap(),
                &asked(Request::Provision),
                &Scope::default(),
                judge,
            )
            .await
            .unwrap();
        matches!(settled, Settled::Accepted(_))
    }

    async fn ordered(&self, id: &str, deadline: Duration) -> (InstanceId, Uuid) {
        let id: InstanceId = id.parse().unwrap();
        let settled = self
            .ledger
            .provision(&id, &asked(Request::Provision), &Scope::default(), |_, _| {
                Judgement::<(), _>::Accept(order(deadline))
            })
            .await
            .unwrap();
        let Settled::Accepted(Provisioned::Begun(operation)) = settled else {
            panic!("not accepted")
        };
        (id, operation)
    }

    async fn given_back(&self, id: &InstanceId) -> Uuid {
        let new = NewDeprovision {
            webhook: None,
            deadline: HOUR,
        };
        let settled = self
            .ledger
            .deprovision(id, &asked(Request::Deprovision), |_| Judgement::<(), _>::Accept(new))
            .await
            .unwrap();
        let Settled::Accepted(operation) = settled else {
            panic!("not accepted")
        };
        operation
    }

    /// Plays the outbox: every due row is written.
    async fn applied(&self) {
        for item in self.ledger.claim_outbox(100, LEASE).await.unwrap() {
            self.ledger
                .mark_applied(&item.instance, item.revision, Some("uid"))
                .await
                .unwrap();
        }
    }

    /// Plays the projector: tells of a resource.
    async fn seen(&self, observation: &Observation) -> Projected {
        self.ledger.project(self.epoch, observation).await.unwrap()
    }

    /// Plays the projector: tells that the resource of an instance is gone.
    async fn seen_gone(&self, id: &InstanceId) {
        let end = gone(id, "uid");
        self.ledger.project_absent(self.epoch, id, Some(&end)).await.unwrap();
    }

    /// Plays the outbox: takes the rows that are due.
    async fn due(&self) -> Vec<OutboxItem> {
        self.ledger.claim_outbox(10, LEASE).await.unwrap()
    }

    async fn state(&self, operation: Uuid) -> (String, Option<String>) {
        let row = self
            .sql
            .query_one("select state, description from operations where id = $1", &[&operation])
            .await;
        let row = row.unwrap();
        (row.get(0), row.get(1))
    }
}

fn asked(request: Request) -> Asked {
    Asked {
        asker: Asker::default(),
        request,
        binding: None,
        plan: None,
        parameters: Vec::new(),
    }
}

fn order(deadline: Duration) -> NewInstance {
    NewInstance {
        preprovisioned: false,
        service_id: "s".parse().unwrap(),
        plan_id: "p".parse().unwrap(),
        plan_name: "small".to_owned(),
        plan_revision: 1,
        organization_guid: "o".to_owned(),
        space_guid: "g".to_owned(),
        context: Map::new(),
        parameters: Map::new(),
        namespace: "n".to_owned(),
        webhook: None,
        deadline,
    }
}

fn resource_name(id: &InstanceId) -> String {
    let digest = digest(&SHA256, id.as_str().as_bytes());
    let digits = digest.as_ref()[..10].iter().map(|byte| format!("{byte:02x}"));
    format!("osb-{}", digits.collect::<String>())
}

/// The resource of an instance, gone.
fn gone(id: &InstanceId, uid: &str) -> Gone {
    Gone {
        namespace: "n".to_owned(),
        name: resource_name(id),
        uid: Some(uid.to_owned()),
    }
}

fn observation(id: &InstanceId, version: u64, verdict: Verdict) -> Observation {
    Observation {
        instance: id.clone(),
        namespace: "n".to_owned(),
        name: resource_name(id),
        uid: "uid".to_owned(),
        resource_version: version.to_string(),
        later: Later {
            revision: 1,
            ..Later::default()
        },
        adopts: false,
        deleting: false,
        ready: verdict == Verdict::Ready,
        reason: "Any".to_owned(),
        message: "any".to_owned(),
        connection: (verdict == Verdict::Ready).then(|| Connection {
            engine: EngineType::Redis,
            provider: ProviderKind::Kubernetes,
            host: "h".to_owned(),
            port: 1,
            tls: false,
            username: None,
            password: Some("hunter2".to_owned().into()),
            nodes: Vec::new(),
        }),
        verdict,
        encrypted_at_rest: None,
        users: Vec::new(),
        current: true,
    }
}

#[tokio::test]
async fn an_operation_ends_once_as_what_was_seen_says() {
    let world = World::new().await;
    for (id, verdict, state) in [
        ("a", Verdict::Ready, "succeeded"),
        ("b", Verdict::Failed("no capacity".to_owned()), "failed"),
        ("c", Verdict::No, "in_progress"),
    ] {
        let (id, operation) = world.ordered(id, HOUR).await;
        world.applied().await;
        let projected = world.seen(&observation(&id, 5, verdict)).await;
        assert_eq!(projected, Projected::Written);
        assert_eq!(world.state(operation).await.0, state);
        // What is older, or the same, changes nothing any more.
        for version in [4, 5] {
            let late = observation(&id, version, Verdict::Failed("late".to_owned()));
            assert_eq!(world.seen(&late).await, Projected::Stale);
        }
        assert_eq!(world.state(operation).await.0, state);
    }
}

/// Two inserts that both found the id free meet in the index of resource names as well.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_race_for_one_id_are_one_order() {
    let world = World::new().await;
    for round in 0..60 {
        let id = format!("i{round}");
        let orders = futures::future::join_all((0..8).map(|_| world.raced(&id))).await;
        assert_eq!(orders.iter().filter(|order| **order).count(), 1, "{id}");
    }
}

#[tokio::test]
async fn a_status_of_an_older_revision_ends_nothing() {
    let world = World::new().await;
    let (id, operation) = world.ordered("a", HOUR).await;
    let mut old = observation(&id, 5, Verdict::Ready);
    old.later.revision = 0;
    world.seen(&old).await;
    assert_eq!(world.state(operation).await.0, "in_progress");
}

#[tokio::test]
async fn a_process_that_leads_no_longer_writes_nothing() {
    let world = World::new().await;
    let (id, operation) = world.ordered("a", HOUR).await;
    let later = world.ledger.next_epoch().await.unwrap();
    let refused = world
        .ledger
        .project(world.epoch, &observation(&id, 9, Verdict::Ready))
        .await;
    assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    let refused = world.ledger.project_absent(world.epoch, &id, None).await;
    assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    assert_eq!(world.state(operation).await.0, "in_progress");
    // The later one's first list overwrites, whatever the versions say: the cluster may have been rebuilt.
    world
        .ledger
        .project(later, &observation(&id, 1, Verdict::Ready))
        .await
        .unwrap();
    assert_eq!(world.state(operation).await.0, "succeeded");
}

#[tokio::test]
async fn an_instance_that_was_given_back_becomes_a_tombstone_without_secrets() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.applied().await;
    world.seen(&observation(&id, 5, Verdict::Ready)).await;
    let operation = world.given_back(&id).await;
    // The deletion may be seen before the outbox noted that it asked for it.
    world.seen_gone(&id).await;
    assert_eq!(world.state(operation).await.0, "succeeded");
    let row = world
        .sql
        .query_one("select deleted_at is not null, connection is null from instances", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
    // A resource that comes back, from Git or a slow writer, is put up for deletion again.
    let again = observation(&id, 9, Verdict::No);
    assert_eq!(world.seen(&again).await, Projected::Tombstone);
    let due = world.due().await;
    assert_eq!(
        due.iter().map(|item| item.desired).collect::<Vec<_>>(),
        [Desired::Absent]
    );
}

/// The row is locked by a deprovision that is about to commit while its absence is projected: the operation that ends is
/// the one that was accepted meanwhile.
#[tokio::test]
async fn a_deprovision_accepted_while_its_absence_is_written_ends_too() {
    let mut world = World::new().await;
    let (id, provision) = world.ordered("a", HOUR).await;
    world.applied().await;
    let deprovision = Uuid::new_v4();
    let transaction = world.sql.transaction().await.unwrap();
    transaction
        .execute("select 1 from instances where id = 'a' for update", &[])
        .await
        .unwrap();
    let (ledger, epoch, absent) = (world.ledger.clone(), world.epoch, id.clone());
    let projecting = tokio::spawn(async move {
        let gone = gone(&absent, "uid");
        ledger.project_absent(epoch, &absent, Some(&gone)).await
    });
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    tokio::time::timeout(LEASE, async {
        while transaction.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    transaction
        .batch_execute(&format!(
            "update operations set state = 'failed', ended_at = now() where id = '{provision}';
             update instances set desired = 'absent', desired_revision = 2 where id = 'a';
             insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
             values ('{deprovision}', 'a', 'deprovision', 2, clock_timestamp(), now() + interval '1 hour')"
        ))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    projecting.await.unwrap().unwrap();
    assert_eq!(world.state(deprovision).await.0, "succeeded");
}

/// Postgres' clock was ahead when the instance was ordered: what was accepted later looks earlier.
#[tokio::test]
async fn a_clock_that_is_set_back_hides_no_operation() {
    let world = World::new().await;
    let (id, provision) = world.ordered("a", HOUR).await;
    world.applied().await;
    let seen = observation(&id, 5, Verdict::Ready);
    world.seen(&seen).await;
    let ahead = "update operations set created_at = now() + interval '5 minutes', ended_at = now() where id = $1";
    world.sql.execute(ahead, &[&provision]).await.unwrap();
    let deprovision = world.given_back(&id).await;
    let held = world.ledger.instance(&id).await.unwrap().unwrap();
    assert_eq!(held.running().map(|running| running.id), Some(deprovision));
    let latest = async || {
        let polled = world.ledger.poll(&id, None).await.unwrap().unwrap();
        let operation = polled.operation.unwrap();
        (operation.kind, operation.state)
    };
    assert_eq!(latest().await, (OperationKind::Deprovision, OperationState::InProgress));
    world.seen_gone(&id).await;
    assert_eq!(latest().await, (OperationKind::Deprovision, OperationState::Succeeded));
}

#[tokio::test]
async fn a_resource_that_somebody_deleted_is_missing_and_its_operation_fails() {
    let world = World::new().await;
    let (id, operation) = world.ordered("a", HOUR).await;
    // Not written yet: the outbox will, and nothing is missing.
    world.ledger.project_absent(world.epoch, &id, None).await.unwrap();
    assert_eq!(world.state(operation).await.0, "in_progress");
    world.applied().await;
    // The end of an earlier resource of the name says nothing of this one.
    world
        .ledger
        .project_absent(world.epoch, &id, Some(&gone(&id, "earlier")))
        .await
        .unwrap();
    assert_eq!(world.state(operation).await.0, "in_progress");
    world.seen_gone(&id).await;
    let (state, description) = world.state(operation).await;
    assert_eq!(state, "failed");
    assert!(description.unwrap().contains("deleted from the cluster"));
}

#[tokio::test]
async fn an_operation_that_outlives_its_deadline_fails_with_what_was_last_seen() {
    let world = World::new().await;
    let (id, late) = world.ordered("a", Duration::ZERO).await;
    let (_, in_time) = world.ordered("b", HOUR).await;
    world.seen(&observation(&id, 1, Verdict::No)).await;
    assert_eq!(world.ledger.expire_operations().await.unwrap(), 1);
    let (state, description) = world.state(late).await;
    assert_eq!(state, "failed");
    assert_eq!(
        description.as_deref(),
        Some("provision took longer than the plan allows; last seen: any")
    );
    assert_eq!(world.state(in_time).await.0, "in_progress");
}

#[tokio::test]
async fn a_row_of_the_outbox_is_taken_by_one_process_and_due_again_when_that_one_is_lost() {
    let world = World::new().await;
    for id in ["a", "b", "c"] {
        world.ordered(id, HOUR).await;
    }
    let (one, other) =
        tokio::try_join!(world.ledger.claim_outbox(2, LEASE), world.ledger.claim_outbox(2, LEASE)).unwrap();
    let mut taken: Vec<_> = one.iter().chain(&other).map(|item| item.instance.to_string()).collect();
    taken.sort();
    assert_eq!(taken, ["a", "b", "c"]);
    assert!(world.due().await.is_empty());
    world
        .sql
        .execute("update instances set outbox_due_at = now() - interval '1 second'", &[])
        .await
        .unwrap();
    assert_eq!(world.due().await.len(), 3);
    // A mark of an older revision leaves a later one due.
    let id: InstanceId = "a".parse().unwrap();
    world.given_back(&id).await;
    world.ledger.mark_applied(&id, 1, Some("uid")).await.unwrap();
    let due = world.due().await;
    assert_eq!(
        due.iter()
            .map(|item| (item.instance.as_str(), item.revision))
            .collect::<Vec<_>>(),
        [("a", 2)]
    );
}

#[tokio::test]
async fn revisions_of_a_plan_count_edits_and_never_go_back() {
    let world = World::new().await;
    let plan = "p".parse().unwrap();
    let spec = serde_json::json!({ "memory": "64Mi" });
    let count = async |digest: &[u8], kept| world.ledger.plan_revision(&plan, &spec, digest, kept).await.unwrap();
    assert_eq!(count(b"one", None).await, 1);
    assert_eq!(count(b"one", None).await, 1);
    assert_eq!(count(b"two", None).await, 2);
    assert_eq!(count(b"one", None).await, 3);
    // The cluster knows more than a ledger that was restored from an older backup.
    assert_eq!(count(b"nine", Some((9, b"nine".to_vec()))).await, 9);
    assert_eq!(count(b"ten", Some((9, b"nine".to_vec()))).await, 10);
    let (a, b) = tokio::join!(count(b"eleven", None), count(b"eleven", None));
    assert_eq!((a, b), (11, 11));
}
