//! Instances made ahead, handed out by the transaction that accepts an order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cache_broker::api::{Connection, EngineType, ProviderKind};
use cache_broker::ledger::{LedgerError, MemberState, NewMember, Noted};
use cache_broker::osb::{Catalog, Services};
use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::broker::{Broker, empty_database, plan};
use crate::receiver::Receiver;
use crate::webhooks::{dispatch, hook};

const PASSWORD: &str = "made-ahead";

/// Offers the plan with a pool.
fn offer(broker: &Broker, preprovision: u16) {
    let mut plan = plan();
    plan.spec.preprovision = preprovision;
    let catalog = Catalog::new(&Services::read(None).unwrap(), [&plan], &|_| true);
    broker.catalog.send_replace(Some(Arc::new(catalog)));
}

async fn pooled() -> Broker {
    let broker = Broker::start().await;
    offer(&broker, 2);
    broker
}

fn connection(id: Uuid) -> Connection {
    Connection {
        engine: EngineType::Memcached,
        provider: ProviderKind::Kubernetes,
        host: format!("{}.example", id.simple()),
        port: 11211,
        tls: false,
        username: None,
        password: Some(PASSWORD.to_owned().into()),
        nodes: Vec::new(),
    }
}

fn new_member(revision: i64) -> NewMember {
    let id = Uuid::new_v4();
    NewMember {
        id,
        plan_id: "p".parse().unwrap(),
        plan_name: "memcached-small".to_owned(),
        plan_revision: revision,
        namespace: "memcached-system".to_owned(),
        name: format!("pool-{}", id.simple()),
    }
}

/// Puts a member into the pool, as the keeper does.
async fn member(broker: &Broker, revision: i64, noted: &Noted) -> NewMember {
    let new = new_member(revision);
    broker.ledger.add_member(broker.epoch, &new).await.unwrap();
    let uid = format!("uid-{}", new.name);
    let written = broker.ledger.note_member(broker.epoch, new.id, &uid, noted).await;
    assert!(written.unwrap());
    new
}

async fn ready(broker: &Broker) -> NewMember {
    let new = new_member(3);
    broker.ledger.add_member(broker.epoch, &new).await.unwrap();
    let (uid, noted) = (format!("uid-{}", new.name), Noted::Ready(connection(new.id)));
    assert!(
        broker
            .ledger
            .note_member(broker.epoch, new.id, &uid, &noted)
            .await
            .unwrap()
    );
    new
}

/// The names of the resources of all instances.
async fn names(broker: &Broker) -> Vec<String> {
    let rows = broker.sql.query("select name from instances order by id", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_member_is_an_instance_at_once() {
    let broker = pooled().await;
    let _dispatcher = dispatch(&broker.ledger, false);
    let mut receiver = Receiver::start([]).await;
    let (older, _younger) = (ready(&broker).await, ready(&broker).await);
    let made = broker.provision("i", &hook(&receiver.url)).await;
    assert_eq!((made.status.as_u16(), made.body.get("operation")), (201, None));
    let bound = broker.bind("i", "b").await;
    assert_eq!(bound.status, 201, "{bound:?}");
    assert_eq!(
        bound.body["credentials"]["host"],
        json!(connection(older.id).host),
        "the older one is handed out"
    );
    assert_eq!(bound.body["credentials"]["password"], json!(PASSWORD));
    assert_eq!(names(&broker).await, [older.name.as_str()]);

    let event = receiver.next().await.body();
    assert_eq!(
        (&event["kind"], &event["state"], &event["instance_id"]),
        (&json!("provision"), &json!("succeeded"), &json!("i"))
    );
    let polled = broker.poll("i", event["operation"].as_str().unwrap()).await;
    assert_eq!(polled.body["state"], json!("succeeded"));
    assert_eq!(receiver.next().await.body()["kind"], json!("bind"));
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 200);
    // The same order again, and another one.
    assert_eq!(broker.provision("i", "").await.status, 200);
    let mut other = Broker::order();
    other["space_guid"] = json!("elsewhere");
    let path = "/v2/service_instances/i?accepts_incomplete=true";
    assert_eq!(broker.put(path, &other).await.status, 409);

    // The outbox has it to write, from then on it is like any other.
    let items = broker.ledger.claim_outbox(10, Duration::from_secs(60)).await.unwrap();
    assert_eq!((items.len(), items[0].name.as_str()), (1, older.name.as_str()));
    let uid = format!("uid-{}", older.name);
    let id = "i".parse().unwrap();
    let claimed = async |uid: &str, instance| {
        let known = broker.ledger.is_claimed("memcached-system", &older.name, uid, instance);
        known.await.unwrap()
    };
    assert!(claimed(&uid, &id).await);
    assert!(!claimed("another", &id).await && !claimed(&uid, &"j".parse().unwrap()).await);
    broker.deprovision("i").await;
    assert_eq!(receiver_kind(&mut receiver, &broker).await, "deprovision");
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 404);
}

async fn receiver_kind(receiver: &mut Receiver, broker: &Broker) -> String {
    broker.gone("i").await;
    receiver.next().await.body()["kind"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_member_is_handed_out_twice() {
    let url = empty_database().await;
    // Two processes, each with connections of its own.
    let (broker, other) = (Broker::start_on(&url).await, Broker::start_on(&url).await);
    offer(&broker, 5);
    offer(&other, 5);
    // The later one leads.
    let members = join_all((0..5).map(|_| ready(&other))).await;
    let ids: Vec<_> = (0..40).map(|number| format!("i{number}")).collect();
    let orders = ids.iter().enumerate().map(|(number, id)| {
        let broker = if number % 2 == 0 { &broker } else { &other };
        broker.provision(id, "")
    });
    let replies = join_all(orders).await;
    let count = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!((count(201), count(202)), (5, 35), "{replies:?}");
    let names = names(&broker).await;
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), 40);
    assert!(members.iter().all(|member| names.contains(&member.name)));
    let hosts = replies.iter().zip(&ids).filter(|(reply, _)| reply.status == 201);
    let hosts = join_all(hosts.map(|(_, id)| broker.bind(id, "b"))).await;
    let hosts: BTreeSet<_> = hosts
        .iter()
        .map(|bound| bound.body["credentials"]["host"].to_string())
        .collect();
    assert_eq!(hosts.len(), 5);
    let claimed = "select count(distinct claimed_by) from pool_members where state = 'claimed' and connection is null";
    assert_eq!(broker.count(claimed).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_orders_of_one_id_take_one_member() {
    let broker = pooled().await;
    for _ in 0..3 {
        ready(&broker).await;
    }
    let replies = join_all((0..24).map(|_| broker.provision("i", ""))).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 1, "{replies:?}");
    assert!(replies.iter().all(|reply| [200, 201].contains(&reply.status.as_u16())));
    let ready = "select count(*) from pool_members where state = 'ready'";
    assert_eq!(broker.count(ready).await, 2);
}

/// A member is claimed or retired, never both: what is retired is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn retiring_and_claiming_exclude_each_other() {
    let broker = pooled().await;
    let mut claimed = 0;
    for round in 0..24 {
        let member = ready(&broker).await;
        let id = format!("i{round}");
        let (retired, ordered) = tokio::join!(
            broker.ledger.retire_member(broker.epoch, member.id),
            broker.provision(&id, "")
        );
        let status = ordered.status.as_u16();
        assert!([201, 202].contains(&status), "{ordered:?}");
        assert_ne!(retired.unwrap(), status == 201, "round {round}");
        claimed += u32::from(status == 201);
        let noted = broker
            .ledger
            .note_member(broker.epoch, member.id, "u", &Noted::Making)
            .await;
        assert!(!noted.unwrap(), "it is in no pool any more");
    }
    println!("{claimed} of 24 were claimed");
}

#[tokio::test]
async fn only_what_is_as_ordered_is_handed_out() {
    let broker = pooled().await;
    let ready_with = |id| Noted::Ready(connection(id));
    member(&broker, 2, &ready_with(Uuid::new_v4())).await;
    member(&broker, 3, &Noted::Making).await;
    member(&broker, 3, &Noted::Failed("no image".to_owned())).await;
    let retired = ready(&broker).await;
    assert!(broker.ledger.retire_member(broker.epoch, retired.id).await.unwrap());
    assert_eq!(broker.provision("i", "").await.status, 202);

    // With parameters it has to be made, unless they are what the plan has anyway.
    ready(&broker).await;
    let put = async |id: &str, parameters: Value| {
        let mut order = Broker::order();
        order["parameters"] = parameters;
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        broker.put(&path, &order).await.status.as_u16()
    };
    assert_eq!(put("j", json!({ "connectionLimit": 5 })).await, 202);
    offer(&broker, 0);
    assert_eq!(broker.provision("k", "").await.status, 202);
    offer(&broker, 1);
    assert_eq!(put("l", json!({})).await, 201);
    // Without asynchronous operations a plan cannot be ordered, made ahead or not.
    ready(&broker).await;
    let refused = broker.put("/v2/service_instances/m", &Broker::order()).await;
    assert_eq!(refused.error(), (422, Some("AsyncRequired")));
}

#[tokio::test]
async fn a_member_that_cannot_be_opened_keeps_nobody_from_an_instance() {
    let broker = pooled().await;
    let damaged = ready(&broker).await;
    let damage = "update pool_members set connection = 'x' where id = $1";
    assert_eq!(broker.sql.execute(damage, &[&damaged.id]).await.unwrap(), 1);
    assert_eq!(broker.provision("i", "").await.status, 202);
}

#[tokio::test]
async fn a_claimed_instance_that_nobody_wrote_yet_can_be_given_back() {
    let broker = pooled().await;
    let member = ready(&broker).await;
    assert_eq!(broker.provision("i", "").await.status, 201);
    let operation = broker.deprovision("i").await.operation();
    let items = broker.ledger.claim_outbox(10, Duration::from_secs(60)).await.unwrap();
    assert_eq!((items.len(), items[0].name.as_str()), (1, member.name.as_str()));
    assert_eq!(items[0].desired, cache_broker::ledger::Desired::Absent);
    broker.gone("i").await;
    assert_eq!(broker.poll("i", &operation).await.status, 410);
}

#[tokio::test]
async fn the_keepers_record_is_written_by_the_leader_alone_and_shows_no_secret() {
    let broker = pooled().await;
    let kept = ready(&broker).await;
    let next = broker.ledger.next_epoch().await.unwrap();
    let fenced = |outcome: Result<(), LedgerError>| {
        assert!(matches!(outcome, Err(LedgerError::Fenced { .. })), "{outcome:?}");
    };
    fenced(broker.ledger.add_member(broker.epoch, &new_member(3)).await);
    let noted = broker.ledger.note_member(broker.epoch, kept.id, "u", &Noted::Making);
    fenced(noted.await.map(drop));
    fenced(broker.ledger.retire_member(broker.epoch, kept.id).await.map(drop));
    fenced(broker.ledger.forget_member(broker.epoch, kept.id).await);

    let members = broker.ledger.pool_members().await.unwrap();
    let states: Vec<_> = members.iter().map(|member| member.state).collect();
    assert_eq!(states, [MemberState::Ready]);
    // Only what is retired is forgotten.
    broker.ledger.forget_member(next, kept.id).await.unwrap();
    assert_eq!(broker.ledger.pool_members().await.unwrap().len(), 1);
    let row = broker
        .sql
        .query_one("select row_to_json(pool_members)::text from pool_members", &[]);
    let text: String = row.await.unwrap().get(0);
    let hex: String = PASSWORD.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!text.contains(PASSWORD) && !text.contains(&hex), "{text}");

    // The next leader has not seen it yet: a ledger that was restored could hand out what is somebody's by now.
    assert_eq!(broker.provision("early", "").await.status, 202);
    let seen = Noted::Ready(connection(kept.id));
    assert!(broker.ledger.note_member(next, kept.id, "u", &seen).await.unwrap());

    // One that was claimed is in the list until its resource says so, and then for some minutes.
    assert_eq!(broker.provision("i", "").await.status, 201);
    let states = async || {
        let members = broker.ledger.pool_members().await.unwrap();
        members.iter().map(|member| member.state).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [MemberState::Claimed]);
    let age = "update pool_members set since = now() - interval '2 days'";
    broker.sql.execute(age, &[]).await.unwrap();
    broker.ledger.forget_claimed_members(next).await.unwrap();
    assert_eq!(
        states().await,
        [MemberState::Claimed],
        "its resource does not say so yet"
    );
    broker
        .ledger
        .mark_applied(&"i".parse().unwrap(), 1, None)
        .await
        .unwrap();
    assert_eq!(states().await, []);
    broker.ledger.forget_claimed_members(next).await.unwrap();
    assert_eq!(broker.count("select count(*) from pool_members").await, 0);
}
