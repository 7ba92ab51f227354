use std::collections::BTreeSet;
use std::sync::Arc;

use cache_broker::ledger::Verdict;
use futures::future::join_all;

use crate::broker::{Broker, empty_database, ledger};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_orders_of_one_id_make_one_instance() {
    let url = empty_database().await;
    // Two processes, each with connections of its own.
    let broker = Broker::start_on(&url).await;
    let other = Broker::start_on(&url).await;
    let orders = (0..16).flat_map(|_| [broker.provision("i", ""), other.provision("i", "")]);
    let replies = join_all(orders).await;
    assert!(replies.iter().all(|reply| reply.status == 202), "{replies:?}");
    let operations: BTreeSet<_> = replies.iter().map(crate::broker::Reply::operation).collect();
    assert_eq!(operations.len(), 1);
    assert_eq!(broker.count("select count(*) from instances").await, 1);
    assert_eq!(broker.count("select count(*) from operations").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_different_orders_of_one_id_are_one_instance_and_a_conflict() {
    let broker = Arc::new(Broker::start().await);
    for round in 0..8 {
        let mut other = Broker::order();
        other["space_guid"] = "elsewhere".into();
        let path = format!("/v2/service_instances/{round}?accepts_incomplete=true");
        let order = Broker::order();
        let (one, two) = tokio::join!(broker.put(&path, &order), broker.put(&path, &other));
        let statuses = BTreeSet::from([one.status.as_u16(), two.status.as_u16()]);
        assert_eq!(statuses, BTreeSet::from([202, 409]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deletes_are_one_operation() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    let replies = join_all((0..16).map(|_| broker.deprovision("i"))).await;
    let operations: BTreeSet<_> = replies.iter().map(crate::broker::Reply::operation).collect();
    assert_eq!(operations.len(), 1);
    assert_eq!(
        broker
            .count("select count(*) from operations where state = 'in_progress'")
            .await,
        1
    );
    assert_eq!(broker.count("select desired_revision from instances").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_binds_of_one_id_are_one_binding() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let replies = join_all((0..16).map(|_| broker.bind("i", "b"))).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 1, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.body == replies[0].body));
}

/// No binding outlives the acceptance of its instance's end unseen.
#[tokio::test(flavor = "multi_thread")]
async fn binds_and_a_delete_at_once_end_in_order() {
    let broker = Broker::start().await;
    for round in 0..8 {
        let id = format!("i{round}");
        broker.provision(&id, "").await;
        broker.seen(&id, Verdict::Ready, 1).await;
        let (bound, ended) = tokio::join!(broker.bind(&id, "b"), broker.deprovision(&id));
        assert_eq!(ended.status, 202);
        assert!([201, 422].contains(&bound.status.as_u16()), "{bound:?}");
        broker.gone(&id).await;
        assert_eq!(broker.unbind(&id, "b").await.status, 410);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_may_migrate_an_empty_database() {
    let url = empty_database().await;
    let migrations = join_all((0..8).map(|_| {
        let ledger = ledger(&url);
        tokio::spawn(async move { ledger.migrate().await })
    }));
    for migrated in migrations.await {
        migrated.unwrap().unwrap();
    }
    let broker = Broker::start_on(&url).await;
    assert_eq!(broker.provision("i", "").await.status, 202);
}
