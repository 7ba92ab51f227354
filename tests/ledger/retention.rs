//! What ended long ago is forgotten, and nothing else.

use std::time::Duration;

use cache_broker::ledger::{InstanceId, Kept, Verdict};

use super::{HOUR, World, observation};

const DAY: Duration = Duration::from_secs(86_400);

async fn count(world: &World, table: &str) -> i64 {
    let query = format!("select count(*) from {table}");
    world.sql.query_one(&query, &[]).await.unwrap().get(0)
}

async fn returned(world: &World, id: &str) -> InstanceId {
    let (id, _) = world.ordered(id, HOUR).await;
    world.applied().await;
    let seen = observation(&id, 5, Verdict::Ready);
    world.seen(&seen).await;
    world.given_back(&id).await;
    world.seen_gone(&id).await;
    id
}

#[tokio::test]
async fn what_was_given_back_is_forgotten_when_nobody_can_ask_any_more() {
    let world = World::new().await;
    let old = returned(&world, "old").await;
    returned(&world, "new").await;
    let (live, _) = world.ordered("live", HOUR).await;
    world.applied().await;
    world.seen(&observation(&live, 5, Verdict::Ready)).await;
    world
        .sql
        .batch_execute(&format!(
            "insert into webhooks (id, instance_id, operation_id, target, state, body, ended_at)
                 select gen_random_uuid(), instance_id, id, '', 'delivered', '{{}}', now() from operations;
             update instances set deleted_at = now() - interval '20 days' where id = '{old}';
             update operations set ended_at = now() - interval '20 days' where instance_id in ('{old}', '{live}');
             update webhooks set ended_at = now() - interval '20 days' where instance_id = '{live}'"
        ))
        .await
        .unwrap();
    let kept = Kept {
        instances: Some(30 * DAY),
        webhooks: None,
    };
    assert!(world.ledger.forget(kept).await.unwrap().is_nothing());
    let kept = Kept {
        instances: Some(10 * DAY),
        webhooks: Some(10 * DAY),
    };
    // Somebody is still to be told.
    world
        .sql
        .execute(
            "update webhooks set state = 'due', ended_at = null where instance_id = 'old'",
            &[],
        )
        .await
        .unwrap();
    let forgotten = world.ledger.forget(kept).await.unwrap();
    assert_eq!((forgotten.webhooks, forgotten.instances), (1, 0), "{forgotten:?}");
    world
        .sql
        .execute(
            "update webhooks set state = 'dead', ended_at = now() where instance_id = 'old'",
            &[],
        )
        .await
        .unwrap();
    let forgotten = world.ledger.forget(kept).await.unwrap();
    assert_eq!((forgotten.webhooks, forgotten.instances), (0, 1), "{forgotten:?}");
    assert_eq!(count(&world, "instances").await, 2);
    // The provision of one that lives is asked for.
    assert_eq!(count(&world, "operations where instance_id = 'live'").await, 1);
    assert_eq!(
        count(&world, "audit where instance_id = 'old'").await,
        2,
        "kept on its own terms"
    );
    assert!(world.ledger.instance(&old).await.unwrap().is_none());
    // Its id may be ordered anew.
    world.ordered("old", HOUR).await;
}

#[tokio::test]
async fn of_an_instance_that_lives_old_operations_are_forgotten_but_the_latest_and_its_backups() {
    let world = World::new().await;
    let (id, _) = world.ordered("a", HOUR).await;
    world.seen(&observation(&id, 5, Verdict::Ready)).await;
    for (days, kind) in [(40, "restart"), (39, "backup"), (38, "update"), (37, "restart")] {
        world
            .sql
            .execute(
                &format!(
                    "insert into operations (id, instance_id, kind, state, description, desired_revision, created_at,
                         deadline_at, ended_at)
                     select gen_random_uuid(), 'a', '{kind}', 'succeeded', 'd', 1, at, at, at
                     from (select now() + interval '{days} seconds' as at) as times"
                ),
                &[],
            )
            .await
            .unwrap();
    }
    world
        .sql
        .execute("update operations set ended_at = now() - interval '20 days'", &[])
        .await
        .unwrap();
    let kept = Kept {
        instances: Some(10 * DAY),
        webhooks: None,
    };
    let forgotten = world.ledger.forget(kept).await.unwrap();
    assert_eq!((forgotten.operations, forgotten.instances), (2, 0));
    let kinds = world
        .sql
        .query("select kind from operations order by created_at", &[])
        .await
        .unwrap();
    let kinds: Vec<String> = kinds.iter().map(|row| row.get(0)).collect();
    assert_eq!(kinds, ["provision", "backup", "restart"]);
    assert!(world.ledger.forget(Kept::default()).await.unwrap().is_nothing());
}
