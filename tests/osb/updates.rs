use cache_broker::api::CachePlan;
use cache_broker::ledger::{Desired, OutboxItem, Verdict};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::broker::{Broker, PATIENCE, SERVICE, plan};
use crate::receiver::Receiver;

/// A plan with more memory, of a later revision.
fn larger() -> CachePlan {
    let mut larger = plan();
    larger.metadata.name = Some("memcached-large".to_owned());
    larger.spec.id = "q".to_owned();
    larger.status.as_mut().unwrap().revision = Some(5);
    larger
}

fn to_larger() -> Value {
    json!({ "service_id": SERVICE, "plan_id": "q", "previous_values": { "plan_id": "p", "organization_id": "o" } })
}

/// A broker with two plans and an instance of the first that answers.
async fn serving() -> Broker {
    let broker = Broker::start().await;
    broker.offer(&[plan(), larger()]);
    let mut order = Broker::order();
    order["parameters"] = json!({ "connectionLimit": 5 });
    let path = "/v2/service_instances/i?accepts_incomplete=true";
    assert_eq!(broker.put(path, &order).await.status, 202);
    broker.seen("i", Verdict::Ready, 1).await;
    assert_eq!(applied(&broker).await.len(), 1);
    broker
}

/// Plays the outbox, and returns what it wrote.
async fn applied(broker: &Broker) -> Vec<OutboxItem> {
    let items = broker.ledger.claim_outbox(10, PATIENCE).await.unwrap();
    for item in &items {
        broker
            .ledger
            .mark_applied(&item.instance, item.revision, Some("uid-i"))
            .await
            .unwrap();
    }
    items
}

async fn instance(broker: &Broker) -> Value {
    let fetched = broker.get("/v2/service_instances/i").await;
    assert_eq!(fetched.status, 200, "{fetched:?}");
    fetched.body
}

#[tokio::test]
async fn an_instance_moves_to_another_plan() {
    let broker = serving().await;
    let mut request = to_larger();
    request["parameters"] = json!({ "connectionLimit": 9 });
    request["maintenance_info"] = json!({ "version": "5.0.0" });
    request["context"] = json!({ "platform": "t", "instance_name": "renamed" });
    let accepted = broker.patch("i", &request).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let operation = accepted.operation();

    // While it goes on.
    assert_eq!(broker.patch("i", &request).await.operation(), operation);
    assert_eq!(
        broker.patch("i", &to_larger()).await.error(),
        (422, Some("ConcurrencyError"))
    );
    assert_eq!(broker.bind("i", "b").await.error(), (422, Some("ConcurrencyError")));
    let fetched = broker.get("/v2/service_instances/i").await;
    assert_eq!(fetched.error(), (422, Some("ConcurrencyError")));
    assert_eq!(broker.poll("i", &operation).await.body["state"], json!("in progress"));
    let written = applied(&broker).await;
    assert_eq!(
        written
            .iter()
            .map(|item| (item.plan_name.as_str(), item.plan_revision, item.revision, item.desired))
            .collect::<Vec<_>>(),
        [("memcached-large", 5, 2, Desired::Present)]
    );
    assert_eq!(
        Value::Object(written[0].parameters.clone()),
        json!({ "connectionLimit": 9 })
    );
    assert_eq!(written[0].context["instance_name"], json!("renamed"));
    // What is seen of the resource before it was written says nothing of the change.
    broker.seen("i", Verdict::Ready, 2).await;
    assert_eq!(broker.poll("i", &operation).await.body["state"], json!("in progress"));

    broker.seen_from("i", Verdict::Ready, 3, 2).await;
    for named in [operation.as_str(), ""] {
        assert_eq!(
            broker.poll("i", named).await.body,
            json!({ "state": "succeeded", "description": "the instance was updated" })
        );
    }
    assert_eq!(
        instance(&broker).await,
        json!({
            "service_id": SERVICE, "plan_id": "q", "parameters": { "connectionLimit": 9 },
            "maintenance_info": { "version": "5.0.0" },
        })
    );
    // The same again has no effect, whoever knows it under its old plan must bind under the new one.
    let again = broker.patch("i", &request).await;
    assert_eq!((again.status.as_u16(), again.body), (200, json!({})));
    assert_eq!(broker.bind("i", "b").await.status, 400);
    let binding = json!({ "service_id": SERVICE, "plan_id": "q" });
    let bound = broker.put("/v2/service_instances/i/service_bindings/b", &binding).await;
    assert_eq!(bound.status, 201);
    assert!(applied(&broker).await.is_empty());
}

/// OSB 2.17, "Updating a Service Instance": a failed update need not break the instance.
#[tokio::test]
async fn a_failed_update_leaves_the_instance_on_its_old_plan() {
    let broker = serving().await;
    let mut receiver = Receiver::start([]).await;
    let hook = format!("&webhook={}", receiver.url.replace(':', "%3A").replace('/', "%2F"));
    let before = instance(&broker).await;
    let path = format!("/v2/service_instances/i?accepts_incomplete=true{hook}");
    let mut request = to_larger();
    request["parameters"] = json!({ "connectionLimit": 9 });
    let body = bytes::Bytes::from(request.to_string());
    let request = Broker::request(http::Method::PATCH, &path).body(body.into()).unwrap();
    let operation = broker.send(request).await.operation();
    assert_eq!(applied(&broker).await.len(), 1);
    broker
        .seen_from("i", Verdict::Failed("no such node type".to_owned()), 3, 2)
        .await;
    assert_eq!(
        broker.poll("i", &operation).await.body,
        json!({
            "state": "failed", "description": "no such node type",
            "instance_usable": true, "update_repeatable": false,
        })
    );
    assert_eq!(instance(&broker).await, before);
    assert_eq!(broker.bind("i", "b").await.status, 201);
    // The resource is put back, too.
    let written = applied(&broker).await;
    assert_eq!(
        written
            .iter()
            .map(|item| (item.plan_name.as_str(), item.plan_revision, item.revision))
            .collect::<Vec<_>>(),
        [("memcached-small", 3, 3)]
    );
    assert_eq!(Value::Object(written[0].parameters.clone()), before["parameters"]);

    let settings = cache_broker::webhooks::Settings {
        policy: cache_broker::webhooks::Policy::AllowPrivate,
        retry: false,
    };
    let ledger = broker.ledger.clone();
    let dispatcher = tokio::spawn(cache_broker::webhooks::run(ledger, settings, std::future::pending()));
    let event = receiver.next().await.body();
    dispatcher.abort();
    assert_eq!(
        (
            &event["kind"],
            &event["state"],
            &event["description"],
            &event["operation"]
        ),
        (
            &json!("update"),
            &json!("failed"),
            &json!("no such node type"),
            &json!(operation)
        )
    );
    // It may be tried again.
    assert_eq!(broker.patch("i", &to_larger()).await.status, 202);
}

#[tokio::test]
async fn an_update_that_outlives_its_deadline_is_put_back_and_may_be_repeated() {
    let broker = serving().await;
    let operation = broker.patch("i", &to_larger()).await.operation();
    applied(&broker).await;
    broker.seen_from("i", Verdict::No, 3, 2).await;
    assert_eq!(broker.ledger.expire_operations().await.unwrap(), 0);
    broker
        .sql
        .execute(
            "update operations set deadline_at = now() where state = 'in_progress'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(broker.ledger.expire_operations().await.unwrap(), 1);
    assert_eq!(
        broker.poll("i", &operation).await.body,
        json!({
            "state": "failed", "instance_usable": true, "update_repeatable": true,
            "description": "update took longer than the plan allows; last seen: seen at 3",
        })
    );
    assert_eq!(applied(&broker).await[0].plan_name, "memcached-small");
}

#[tokio::test]
async fn an_update_of_a_resource_that_somebody_deleted_fails_and_makes_nothing_anew() {
    let broker = serving().await;
    let operation = broker.patch("i", &to_larger()).await.operation();
    applied(&broker).await;
    broker.gone("i").await;
    let polled = broker.poll("i", &operation).await.body;
    assert_eq!(
        (&polled["state"], &polled["instance_usable"]),
        (&json!("failed"), &json!(false))
    );
    assert!(applied(&broker).await.is_empty());
}

#[tokio::test]
async fn a_delete_takes_the_place_of_an_update() {
    let broker = serving().await;
    let operation = broker.patch("i", &to_larger()).await.operation();
    assert_eq!(broker.deprovision("i").await.status, 202);
    let polled = broker.poll("i", &operation).await.body;
    assert_eq!(
        (&polled["state"], &polled["description"]),
        (&json!("failed"), &json!("superseded by deprovision"))
    );
    let written = applied(&broker).await;
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].desired, Desired::Absent);
    broker.gone("i").await;
    assert_eq!(broker.patch("i", &to_larger()).await.status, 404);
}

/// OSB 2.17, "Updating a Service Instance": what a platform only says of an instance needs no waiting.
#[tokio::test]
async fn a_context_is_noted_at_once() {
    let broker = serving().await;
    let request = json!({ "service_id": SERVICE, "context": { "instance_name": "new" } });
    let body = bytes::Bytes::from(request.to_string());
    let path = "/v2/service_instances/i";
    let sync = Broker::request(http::Method::PATCH, path).body(body.into()).unwrap();
    let noted = broker.send(sync).await;
    assert_eq!((noted.status.as_u16(), noted.body), (200, json!({})));
    let written = applied(&broker).await;
    assert_eq!(written.len(), 1);
    assert_eq!(
        (written[0].revision, &written[0].context["instance_name"]),
        (2, &json!("new"))
    );
    assert_eq!(broker.patch("i", &request).await.status, 200);
    assert!(applied(&broker).await.is_empty());
    assert_eq!(broker.count("select count(*) from operations").await, 1);
    assert_eq!(broker.get(path).await.status, 200);
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let broker = serving().await;
    let row = "select count(*) from instances where desired_revision = 1 and plan_id = 'p'";
    for (body, status, code) in [
        (json!({}), 400, None),
        (json!({ "service_id": "x", "plan_id": "q" }), 400, None),
        (json!({ "service_id": SERVICE, "plan_id": "x" }), 400, None),
        (json!({ "service_id": SERVICE, "parameters": [] }), 400, None),
        (
            json!({ "service_id": SERVICE, "parameters": { "connectionLimit": 101 } }),
            400,
            None,
        ),
        (
            json!({ "service_id": SERVICE, "maintenance_info": { "version": "2.0.0" } }),
            422,
            Some("MaintenanceInfoConflict"),
        ),
    ] {
        let reply = broker.patch("i", &body).await;
        assert_eq!(reply.error(), (status, code), "{body}");
        assert!(!reply.body["description"].as_str().unwrap().is_empty());
    }
    assert_eq!(broker.patch("nothing", &to_larger()).await.status, 404);
    assert_eq!(broker.count(row).await, 1);
    assert_eq!(broker.count("select count(*) from operations").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_updates_at_once_are_one() {
    let broker = serving().await;
    let request = to_larger();
    let replies = join_all((0..16).map(|_| broker.patch("i", &request))).await;
    let operations: std::collections::BTreeSet<_> = replies.iter().map(crate::broker::Reply::operation).collect();
    assert_eq!(operations.len(), 1);
    assert_eq!(broker.count("select desired_revision from instances").await, 2);
}

/// The parameters of an update are a tenant's as those of an order are.
#[tokio::test]
async fn what_an_update_asks_for_is_kept_sealed() {
    let broker = serving().await;
    let mut request = to_larger();
    request["parameters"] = json!({ "connectionLimit": 77 });
    assert_eq!(broker.patch("i", &request).await.status, 202);
    let rows = broker
        .sql
        .query(
            "select row_to_json(operations)::text, row_to_json(instances)::text from operations, instances",
            &[],
        )
        .await
        .unwrap();
    for row in rows {
        for column in 0..2 {
            let text: String = row.get(column);
            let hex: String = "connectionLimit".bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains("connectionLimit") && !text.contains(&hex), "{text}");
        }
    }
}
