//! A ledger, or a cluster, that somebody put back to what it was before; and resources that somebody copied.

use std::time::Duration;

use cache_broker::ledger::{Desired, Later, LaterPlan, LedgerError, Observation, Projected, Verdict};
use serde_json::json;

use super::{HOUR, World, gone, observation};

/// A resource of a later revision than the row's: its content counts, and nothing is written over it.
#[tokio::test]
async fn a_ledger_that_is_behind_takes_up_what_the_cluster_says() {
    let world = World::new().await;
    let (id, operation) = world.ordered("a", HOUR).await;
    world.applied().await;
    let mut seen = observation(&id, 5, Verdict::Ready);
    seen.later = Later {
        revision: 7,
        plan: Some(LaterPlan {
            id: "large".parse().unwrap(),
            name: "large-plan".to_owned(),
            revision: 4,
        }),
        parameters: json!({ "connectionLimit": 9 }).as_object().unwrap().clone(),
        ..Later::default()
    };
    assert_eq!(world.seen(&seen).await, Projected::Written);
    // The provision that the backup was taken during has ended.
    assert_eq!(world.state(operation).await.0, "succeeded");
    assert!(world.due().await.is_empty());
    let held = world.ledger.instance(&id).await.unwrap().unwrap();
    assert_eq!(
        (
            held.instance.plan_id.as_str(),
            held.instance.plan_name.as_str(),
            held.instance.plan_revision
        ),
        ("large", "large-plan", 4)
    );
    assert_eq!(json!(held.opened), json!({ "connectionLimit": 9 }));
    // What is asked for next is of a revision that the resource does not have.
    world.given_back(&id).await;
    let due = world.due().await;
    assert_eq!(due[0].revision, 8);
    assert!(!world.ledger.catch_up(&id, &Later::default()).await.unwrap());
}

/// A resource that somebody put back, from Git or with the whole cluster, is written again as it was ordered.
#[tokio::test]
async fn a_resource_of_an_earlier_revision_is_written_again() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.applied().await;
    world
        .sql
        .execute("update instances set desired_revision = 5, applied_revision = 5", &[])
        .await
        .unwrap();
    let mut seen = observation(&id, 5, Verdict::Ready);
    seen.later.revision = 5;
    world.seen(&seen).await;
    assert!(world.due().await.is_empty());
    let put_back = observation(&id, 6, Verdict::Ready);
    let projected = world.seen(&put_back).await;
    assert_eq!(projected, Projected::Earlier, "or an event that comes late");
    assert!(world.due().await.is_empty());
    world.ledger.put_back(world.epoch, &id, 1).await.unwrap();
    let due = world.due().await;
    assert_eq!(due.iter().map(|item| item.revision).collect::<Vec<_>>(), [5]);
}

/// A call that makes a resource may come when the one that was made in its stead is deleted already.
#[tokio::test]
async fn a_resource_that_is_made_while_its_instance_is_given_back_is_deleted_too() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.applied().await;
    let deprovision = world.given_back(&id).await;
    world.applied().await;
    assert!(world.due().await.is_empty());
    let mut late = Observation {
        uid: "another".to_owned(),
        ..observation(&id, 9, Verdict::No)
    };
    assert_eq!(world.seen(&late).await, Projected::Earlier);
    world.ledger.put_back(world.epoch, &id, 1).await.unwrap();
    let due = world.due().await;
    assert_eq!(
        due.iter().map(|item| (item.revision, item.desired)).collect::<Vec<_>>(),
        [(2, Desired::Absent)]
    );
    assert_eq!(world.state(deprovision).await.0, "in_progress");
    // What takes over a cache is somebody's own.
    late.adopts = true;
    late.resource_version = "10".to_owned();
    world.ledger.mark_applied(&id, 2, Some("another")).await.unwrap();
    assert_eq!(world.seen(&late).await, Projected::Written);
}

/// What was accepted by the old row, before the cluster was seen, fails and can be asked again.
#[tokio::test]
async fn an_order_that_was_judged_by_an_older_ledger_fails_rather_than_undoing() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.applied().await;
    world.seen(&observation(&id, 5, Verdict::Ready)).await;
    world
        .sql
        .batch_execute(
            "insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
                 values ('00000000-0000-0000-0000-00000000000a', 'a', 'update', 2, clock_timestamp(),
                     now() + interval '1 hour');
             update instances set desired_revision = 2, outbox_due_at = now()",
        )
        .await
        .unwrap();
    let later = Later {
        revision: 7,
        ..Later::default()
    };
    assert!(world.ledger.catch_up(&id, &later).await.unwrap());
    let (state, description) = world.state(uuid::Uuid::from_u128(10)).await;
    assert_eq!(state, "failed");
    assert!(description.unwrap().contains("ask again"));
    assert!(world.due().await.is_empty());
}

/// Whoever may write resources in some namespace could name another's instance: the ledger heeds its own place only.
#[tokio::test]
async fn a_copy_of_a_resource_says_nothing_to_the_ledger() {
    let world = World::new().await;
    let (id, operation) = world.ordered("a", HOUR).await;
    world.applied().await;
    let mut copy = observation(&id, 9, Verdict::Ready);
    copy.namespace = "elsewhere".to_owned();
    copy.uid = "another".to_owned();
    assert_eq!(world.seen(&copy).await, Projected::Copy);
    assert_eq!(world.state(operation).await.0, "in_progress");
    let mut end = gone(&id, "another");
    end.namespace = "elsewhere".to_owned();
    world.ledger.project_absent(world.epoch, &id, Some(&end)).await.unwrap();
    assert_eq!(world.state(operation).await.0, "in_progress");
}

/// A resource that came back takes over a cache that somebody kept: deleting it would delete that.
#[tokio::test]
async fn the_resource_of_a_returned_instance_that_adopts_is_left_alone() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.applied().await;
    world.given_back(&id).await;
    world.seen_gone(&id).await;
    let mut back = observation(&id, 9, Verdict::Ready);
    back.adopts = true;
    assert_eq!(world.seen(&back).await, Projected::Kept);
    assert!(world.due().await.is_empty());
}

/// The ledger and its count of leaders were put back: whoever leads by the old count stops, and begins anew.
#[tokio::test]
async fn a_leader_finds_that_the_ledger_was_put_back() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.sql.execute("update leader set epoch = 0", &[]).await.unwrap();
    let refused = world
        .ledger
        .project(world.epoch, &observation(&id, 9, Verdict::Ready))
        .await;
    assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
    world.ledger.next_epoch().await.unwrap();
}

/// A batch is held while its rows are written, however long the API server takes, and found within seconds otherwise.
#[tokio::test]
async fn rows_of_the_outbox_are_held_while_they_are_renewed() {
    let world = World::new().await;
    for id in ["a", "b"] {
        world.ordered(id, HOUR).await;
    }
    let taken = world.ledger.claim_outbox(10, Duration::from_secs(1)).await.unwrap();
    assert_eq!(taken.len(), 2);
    world.ledger.renew_outbox(&[taken[0].claim], HOUR).await.unwrap();
    assert!(world.ledger.next_outbox().await.unwrap().unwrap() > HOUR / 2);
    // More is asked of one meanwhile: that is not held back by whoever writes the old revision.
    let a = "a".parse().unwrap();
    world.given_back(&a).await;
    world.ledger.renew_outbox(&[taken[0].claim], HOUR).await.unwrap();
    assert_eq!(world.ledger.next_outbox().await.unwrap(), Some(Duration::ZERO));
    let old = taken.iter().find(|item| item.instance == a).unwrap();
    world
        .ledger
        .mark_unapplied(old, "the API server is away", HOUR)
        .await
        .unwrap();
    let again = world.due().await;
    assert_eq!(
        again
            .iter()
            .map(|item| (item.instance.as_str(), item.revision))
            .collect::<Vec<_>>(),
        [("a", 2)]
    );
}

/// One row that cannot be opened keeps the others from nothing.
#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_other() {
    let world = World::new().await;
    for id in ["a", "b"] {
        world.ordered(id, HOUR).await;
    }
    world
        .sql
        .execute("update instances set parameters = '\\x00' where id = 'a'", &[])
        .await
        .unwrap();
    let due = world.due().await;
    assert_eq!(due.iter().map(|item| item.instance.as_str()).collect::<Vec<_>>(), ["b"]);
}
