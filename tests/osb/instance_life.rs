use std::time::Duration;

use cache_broker::control::deadlines;
use cache_broker::ledger::{Verdict, listen};
use serde_json::json;

use crate::broker::{Broker, PATIENCE, SERVICE, empty_database, ledger};

#[tokio::test]
async fn an_instance_is_ordered_bound_and_given_back() {
    let broker = Broker::start().await;
    let ordered = broker.provision("i", "").await;
    assert_eq!(ordered.status, 202, "{ordered:?}");
    let operation = ordered.operation();

    // While it is made.
    assert_eq!(broker.provision("i", "").await.operation(), operation);
    let polled = broker.poll("i", &operation).await;
    assert_eq!(polled.body, json!({ "state": "in progress" }));
    assert!(polled.headers.contains_key("retry-after"));
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 404);
    assert_eq!(broker.bind("i", "b").await.error(), (422, Some("ConcurrencyError")));
    broker.seen("i", Verdict::No, 1).await;
    assert_eq!(broker.poll("i", "").await.body["description"], json!("seen at 1"));

    // Once it is there.
    broker.seen("i", Verdict::Ready, 2).await;
    for operation in [operation.as_str(), "", "i"] {
        assert_eq!(broker.poll("i", operation).await.body["state"], json!("succeeded"));
    }
    assert_eq!(broker.provision("i", "").await.status, 200);
    let fetched = broker.get("/v2/service_instances/i?service_id=x").await;
    assert_eq!(
        fetched.body,
        json!({ "service_id": SERVICE, "plan_id": "p", "parameters": {}, "maintenance_info": { "version": "3.0.0" } })
    );

    // Bindings.
    let bound = broker.bind("i", "b").await;
    assert_eq!(bound.status, 201);
    assert_eq!(bound.body["credentials"]["MEMCACHED_URL"], json!("cache.example:11211"));
    assert_eq!(bound.body["credentials"]["password"], json!("hunter2"));
    let again = broker.bind("i", "b").await;
    assert_eq!((again.status.as_u16(), again.body), (200, bound.body.clone()));
    let path = "/v2/service_instances/i/service_bindings/b";
    let other = json!({ "service_id": SERVICE, "plan_id": "p", "parameters": { "a": 1 } });
    assert_eq!(broker.put(path, &other).await.status, 409);
    let fetched = broker.get(path).await;
    assert_eq!((fetched.status.as_u16(), fetched.body), (200, bound.body));
    assert_eq!(broker.delete(path).await.status, 400);
    assert_eq!(broker.unbind("i", "b").await.status, 200);
    for gone in [broker.unbind("i", "b").await, broker.delete(path).await] {
        assert_eq!((gone.status.as_u16(), gone.body), (410, json!({})));
    }
    assert_eq!(broker.get(path).await.status, 404);
    assert_eq!(broker.bind("i", "b").await.status, 201, "an id may be bound again");

    // The end.
    let ended = broker.deprovision("i").await;
    assert_eq!(ended.status, 202);
    assert_eq!(broker.deprovision("i").await.operation(), ended.operation());
    assert_eq!(broker.bind("i", "c").await.error(), (422, Some("ConcurrencyError")));
    assert_eq!(broker.provision("i", "").await.error(), (422, Some("ConcurrencyError")));
    assert_eq!(
        broker.poll("i", &ended.operation()).await.body["state"],
        json!("in progress")
    );
    broker.gone("i").await;
    for operation in [ended.operation().as_str(), ""] {
        let gone = broker.poll("i", operation).await;
        assert_eq!((gone.status.as_u16(), gone.body), (410, json!({})));
    }
    assert_eq!(broker.deprovision("i").await.status, 410);
    assert_eq!(broker.unbind("i", "b").await.status, 410);
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 404);
    assert_eq!(broker.bind("i", "c").await.status, 404);
    assert_eq!(broker.provision("i", "").await.status, 409);
    assert_eq!(broker.poll("i", &operation).await.body["state"], json!("succeeded"));
}

#[tokio::test]
async fn what_could_not_be_made_says_why_and_can_be_deleted() {
    let broker = Broker::start().await;
    let operation = broker.provision("i", "").await.operation();
    broker.seen("i", Verdict::Failed("out of capacity".to_owned()), 1).await;
    assert_eq!(
        broker.poll("i", &operation).await.body,
        json!({ "state": "failed", "description": "out of capacity" })
    );
    assert_eq!(broker.provision("i", "").await.operation(), operation);
    let refused = broker.bind("i", "b").await;
    assert_eq!(refused.error(), (422, None));
    assert!(
        refused.body["description"]
            .as_str()
            .unwrap()
            .contains("out of capacity")
    );
    assert_eq!(broker.deprovision("i").await.status, 202);
}

/// OSB 2.17, "Deprovisioning": a delete during provisioning halts it.
#[tokio::test]
async fn a_delete_takes_the_place_of_a_provision() {
    let broker = Broker::start().await;
    let provision = broker.provision("i", "").await.operation();
    let deprovision = broker.deprovision("i").await.operation();
    assert_eq!(
        broker.poll("i", &provision).await.body,
        json!({ "state": "failed", "description": "superseded by deprovision" })
    );
    assert_eq!(broker.poll("i", "").await.body["state"], json!("in progress"));
    // What is seen of the instance now ends nothing.
    broker.seen("i", Verdict::Ready, 1).await;
    assert_eq!(broker.poll("i", &deprovision).await.body["state"], json!("in progress"));
    let row = broker
        .sql
        .query_one(
            "select desired, desired_revision, outbox_due_at <= now() from instances",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), ("absent", 2_i64, true));
    broker.gone("i").await;
    assert_eq!(broker.poll("i", &deprovision).await.status, 410);
}

#[tokio::test]
async fn an_id_may_have_any_characters() {
    let broker = Broker::start().await;
    let ordered = broker.provision("a%2Fb%20%C3%BC%25", "").await;
    assert_eq!(ordered.status, 202);
    let row = broker
        .sql
        .query_one("select id, name from instances", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "a/b ü%");
    assert!(row.get::<_, &str>(1).starts_with("osb-"));
    assert_eq!(broker.poll("a%2Fb%20%C3%BC%25", &ordered.operation()).await.status, 200);
}

#[tokio::test]
async fn an_order_and_its_operation_are_written_as_the_outbox_needs_them() {
    let broker = Broker::start().await;
    let request = Broker::request(http::Method::PUT, "/v2/service_instances/i?accepts_incomplete=true")
        .header("x-broker-api-request-identity", "request-7")
        .body(Broker::order().to_string().into())
        .unwrap();
    assert_eq!(broker.send(request).await.status, 202);
    let row = broker
        .sql
        .query_one(
            "select i.namespace, i.plan_name, i.plan_revision, i.desired, i.desired_revision, i.applied_revision,
                    o.kind, o.state, o.desired_revision, o.request_identity,
                    extract(epoch from o.deadline_at - o.created_at)::bigint
             from instances i join operations o on o.instance_id = i.id",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get(0), row.get(1), row.get::<_, i64>(2), row.get(3)),
        ("memcached-system", "memcached-small", 3, "present")
    );
    assert_eq!((row.get::<_, i64>(4), row.get::<_, i64>(5)), (1, 0));
    assert_eq!(
        (row.get(6), row.get(7), row.get::<_, i64>(8), row.get(9)),
        ("provision", "in_progress", 1, "request-7")
    );
    assert_eq!(row.get::<_, i64>(10), 3600);
}

/// The process that runs the outbox may be another than the one that accepts.
#[tokio::test]
async fn an_acceptance_wakes_the_outbox_here_and_elsewhere() {
    let broker = Broker::start().await;
    let listener = broker.ledger.listen(listen::OUTBOX);
    let woken = || async { tokio::time::timeout(PATIENCE, listener.notified()).await.unwrap() };
    let here = || async {
        let wakeup = broker.ledger.outbox_wakeup().notified();
        tokio::time::timeout(PATIENCE, wakeup).await.unwrap();
    };
    woken().await;
    broker.provision("i", "").await;
    woken().await;
    here().await;
    broker.deprovision("i").await;
    woken().await;
    here().await;
}

/// OSB 2.17, "Polling Interval and Duration": the operation ends before the platform's patience does, whoever leads.
#[tokio::test]
async fn an_operation_past_its_deadline_is_ended_once_by_whoever_serves() {
    let url = empty_database().await;
    let broker = Broker::start_on(&url).await;
    let operation = broker.provision("i", "").await.operation();
    broker.seen("i", Verdict::No, 1).await;
    let late = "update operations set deadline_at = now()";
    broker.sql.batch_execute(late).await.unwrap();
    let processes = (0..3).map(|_| tokio::spawn(deadlines::run(ledger(&url), std::future::pending())));
    let processes: Vec<_> = processes.collect();
    let ended = async {
        while broker.poll("i", &operation).await.body["state"] != json!("failed") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let polled = broker.poll("i", "").await.body;
    assert_eq!(
        polled["description"],
        json!("provision took longer than the plan allows; last seen: seen at 1")
    );
    // What is made of it after all is deleted with it.
    broker.seen("i", Verdict::Ready, 2).await;
    assert_eq!(broker.poll("i", &operation).await.body["state"], json!("failed"));
    assert_eq!(broker.deprovision("i").await.status, 202);
    broker.gone("i").await;
    assert_eq!(broker.poll("i", "").await.status, 410);
    for process in processes {
        process.abort();
    }
}
