//! Bindings with users of their own: operations of a binding, beside those of its instance.

use std::collections::BTreeSet;

use bytes::Bytes;
use cache_broker::api::CachePlan;
use cache_broker::ledger::{InstanceId, Verdict};
use futures::future::join_all;
use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::broker::{Broker, Reply, connection, plan};
use crate::receiver::Receiver;

const REDIS: &str = "0a8d668d-2971-4533-8e38-a816a7c01bec";

fn users_plan() -> CachePlan {
    let mut users = serde_json::to_value(plan()).unwrap();
    users["metadata"]["name"] = json!("redis-users");
    users["spec"]["id"] = json!("u");
    users["spec"]["service"] = json!("akkeris-redis");
    users["spec"]["engine"] = json!({ "type": "redis", "version": "7.2" });
    users["spec"]["bindingCredentials"] = json!("perBinding");
    serde_json::from_value(users).unwrap()
}

async fn start() -> Broker {
    let broker = Broker::start().await;
    broker.offer(&[plan(), users_plan()]);
    broker
}

/// A broker with an instance `i` whose bindings have users.
async fn with_instance(query: &str) -> Broker {
    let broker = start().await;
    let order = json!({ "service_id": REDIS, "plan_id": "u", "organization_guid": "o", "space_guid": "s" });
    let path = format!("/v2/service_instances/i?accepts_incomplete=true&{query}");
    assert_eq!(broker.put(&path, &order).await.status, 202);
    see(&broker, 1, 1, &[], Verdict::Ready).await;
    broker
}

/// Tells the ledger what was seen of the instance: the revision it was written from, and its users.
async fn see(broker: &Broker, version: u32, revision: i64, users: &[(&str, bool)], verdict: Verdict) {
    broker
        .observe("i", verdict, version, revision, Some(connection()), users)
        .await;
}

fn instance() -> InstanceId {
    "i".parse().unwrap()
}

fn path(binding: &str) -> String {
    format!("/v2/service_instances/i/service_bindings/{binding}")
}

fn body() -> Value {
    json!({ "service_id": REDIS, "plan_id": "u", "bind_resource": { "app_guid": "app" }, "parameters": { "a": 1 } })
}

async fn bind(broker: &Broker, binding: &str) -> Reply {
    let path = format!("{}?accepts_incomplete=true", path(binding));
    broker.put(&path, &body()).await
}

async fn unbind(broker: &Broker, binding: &str) -> Reply {
    let query = format!("service_id={REDIS}&plan_id=u&accepts_incomplete=true");
    broker.delete(&format!("{}?{query}", path(binding))).await
}

async fn poll(broker: &Broker, binding: &str, operation: Option<&str>) -> Reply {
    let query = operation.map(|operation| format!("?operation={operation}"));
    let path = format!("{}/last_operation{}", path(binding), query.unwrap_or_default());
    broker.get(&path).await
}

async fn state(broker: &Broker, binding: &str, operation: Option<&str>) -> String {
    let reply = poll(broker, binding, operation).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body["state"].as_str().unwrap().to_owned()
}

/// The users that the cache is to have, in the order of their names.
async fn users(broker: &Broker) -> Vec<String> {
    let users = broker.ledger.binding_users(&instance()).await.unwrap();
    users.into_iter().map(|user| user.name).collect()
}

async fn revision(broker: &Broker) -> i64 {
    broker.count("select desired_revision from instances").await
}

/// A binding `b` that is made, and the name of its user.
async fn bound(broker: &Broker, binding: &str, version: u32) -> String {
    let before: BTreeSet<_> = users(broker).await.into_iter().collect();
    assert_eq!(bind(broker, binding).await.status, 202);
    let all = users(broker).await;
    let seen: Vec<_> = all.iter().map(|name| (name.as_str(), true)).collect();
    see(broker, version, revision(broker).await, &seen, Verdict::Ready).await;
    assert_eq!(state(broker, binding, None).await, "succeeded");
    all.into_iter().find(|name| !before.contains(name)).unwrap()
}

/// OSB 2.17, "Binding" and "Unbinding", from the first request to the last.
#[tokio::test]
async fn a_binding_is_made_and_removed_by_operations() {
    let broker = with_instance("").await;
    let refused = broker.put(&path("b"), &body()).await;
    assert_eq!(refused.error(), (422, Some("AsyncRequired")));
    assert_eq!(broker.get(&path("b")).await.status, 404);
    assert_eq!(poll(&broker, "b", None).await.status, 404);

    let accepted = bind(&broker, "b").await;
    assert_eq!(accepted.status, 202);
    let operation = accepted.operation();
    assert_eq!(accepted.body, json!({ "operation": operation }));
    assert_eq!(bind(&broker, "b").await.operation(), operation);
    assert_eq!(
        broker.put(&path("b"), &body()).await.error(),
        (422, Some("AsyncRequired"))
    );
    let other = broker
        .put(
            &format!("{}?accepts_incomplete=true", path("b")),
            &json!({ "service_id": REDIS, "plan_id": "u" }),
        )
        .await;
    assert_eq!(other.status, 409);
    assert_eq!(broker.get(&path("b")).await.status, 404);
    let going = poll(&broker, "b", Some(&operation)).await;
    assert_eq!(going.body["state"], json!("in progress"));
    assert_eq!(going.headers["retry-after"], "2");
    // It is none of the instance's, and the instance has none in progress.
    assert_eq!(broker.poll("i", &operation).await.status, 400);
    let last = broker.get("/v2/service_instances/i/last_operation").await;
    assert_eq!(last.body["state"], json!("succeeded"));

    let [user] = &users(&broker).await[..] else {
        panic!("one user")
    };
    see(&broker, 2, 1, &[], Verdict::Ready).await;
    see(&broker, 3, 2, &[(user, false)], Verdict::No).await;
    assert_eq!(state(&broker, "b", None).await, "in progress");
    see(&broker, 4, 2, &[(user, true)], Verdict::Ready).await;
    assert_eq!(state(&broker, "b", Some(&operation)).await, "succeeded");
    let fetched = broker.get(&path("b")).await;
    assert_eq!(fetched.status, 200);
    let credentials = &fetched.body["credentials"];
    assert_eq!(&credentials["username"], &json!(user));
    assert_ne!(credentials["password"], json!("hunter2"));
    assert_eq!(fetched.body["parameters"], json!({ "a": 1 }));
    let again = bind(&broker, "b").await;
    assert_eq!((again.status.as_u16(), &again.body["credentials"]), (200, credentials));

    let query = format!("service_id={REDIS}&plan_id=u");
    let refused = broker.delete(&format!("{}?{query}", path("b"))).await;
    assert_eq!(refused.error(), (422, Some("AsyncRequired")));
    let refused = broker.delete(&format!("{}?accepts_incomplete=true", path("b"))).await;
    assert_eq!(refused.status, 400);
    assert_eq!(broker.get(&path("b")).await.status, 200, "a refusal changes nothing");
    let accepted = unbind(&broker, "b").await;
    assert_eq!(accepted.status, 202);
    let ending = accepted.operation();
    assert_ne!(ending, operation);
    assert_eq!(unbind(&broker, "b").await.operation(), ending);
    assert_eq!(broker.get(&path("b")).await.status, 404);
    assert_eq!(bind(&broker, "b").await.error(), (422, Some("ConcurrencyError")));
    assert_eq!(users(&broker).await, Vec::<String>::new());
    see(&broker, 5, 2, &[(user, true)], Verdict::Ready).await;
    see(&broker, 6, 3, &[(user, true)], Verdict::No).await;
    assert_eq!(state(&broker, "b", Some(&ending)).await, "in progress");
    see(&broker, 7, 3, &[], Verdict::Ready).await;
    assert_eq!(poll(&broker, "b", Some(&ending)).await.status, 410);
    assert_eq!(poll(&broker, "b", None).await.status, 410);
    assert_eq!(state(&broker, "b", Some(&operation)).await, "succeeded");
    assert_eq!(unbind(&broker, "b").await.status, 410);
    // The id may be used again, and has another user then.
    assert_ne!(&bound(&broker, "b", 8).await, user);
}

/// OSB 2.17, "Binding", "Response": what shares credentials stays synchronous.
#[tokio::test]
async fn shared_credentials_are_handed_out_at_once_and_have_no_operation() {
    let broker = start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let path = "/v2/service_instances/i/service_bindings/b?accepts_incomplete=true";
    assert_eq!(broker.put(path, &Broker::binding()).await.status, 201);
    let last = "/v2/service_instances/i/service_bindings/b/last_operation";
    assert_eq!(broker.get(last).await.body, json!({ "state": "succeeded" }));
    let successor = json!({ "predecessor_binding_id": "b" });
    let other = "/v2/service_instances/i/service_bindings/c?accepts_incomplete=true";
    let rotated = broker.put(other, &successor).await;
    assert_eq!(rotated.error(), (422, None));
    assert_eq!(broker.unbind("i", "b").await.status, 200);
    assert_eq!(broker.get(last).await.status, 410);
    assert_eq!(revision(&broker).await, 1);
}

/// What was handed out is known for as long as its binding is there, so that it is known when an old address is needed
/// no more.
#[tokio::test]
async fn the_ledger_knows_what_was_handed_out_and_is_still_in_use() {
    let broker = start().await;
    let instances = [instance(), "unknown".parse().unwrap()];
    let issued = async || broker.ledger.issued(&instances).await.unwrap();
    assert!(issued().await.is_empty());
    broker.provision("i", "").await;
    let ordered = issued().await.remove(&instance()).unwrap();
    assert!(ordered.connection.is_none() && ordered.uid.is_none() && ordered.bindings.is_empty());
    broker.seen("i", Verdict::Ready, 1).await;
    for binding in ["a", "b"] {
        let path = format!("/v2/service_instances/i/service_bindings/{binding}");
        assert_eq!(broker.put(&path, &Broker::binding()).await.status, 201);
    }
    let known = issued().await.remove(&instance()).unwrap();
    assert_eq!(known.uid.as_deref(), Some("uid-i"));
    assert_eq!(known.connection.unwrap().host, connection().host);
    assert!(!known.taken_over);
    assert_eq!(known.bindings.len(), 2);
    for handed in &known.bindings {
        assert_eq!(handed.credentials.expose()["host"], json!(connection().host));
        assert!(!handed.own_user);
    }
    assert_eq!(broker.unbind("i", "a").await.status, 200);
    assert_eq!(issued().await[&instance()].bindings.len(), 1);
    // Whom the broker before this one told stands nowhere.
    let adopted = "update instances set adopt = 'old', adopt_plan = 'p', adopt_revision = 1";
    broker.sql.batch_execute(adopted).await.unwrap();
    assert!(issued().await[&instance()].taken_over);
    // What cannot be opened is not known, and no error of the others.
    broker
        .sql
        .batch_execute("update bindings set credentials = 'x' where id = 'b'")
        .await
        .unwrap();
    assert!(issued().await.is_empty());
    let gone = "update instances set deleted_at = now()";
    broker.sql.batch_execute(gone).await.unwrap();
    assert!(issued().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bindings_at_once_lose_no_user() {
    let broker = with_instance("").await;
    let ids: Vec<_> = (0..12).map(|number| format!("b{number}")).collect();
    let replies = join_all(ids.iter().map(|id| bind(&broker, id))).await;
    assert!(replies.iter().all(|reply| reply.status == 202), "{replies:?}");
    assert_eq!(users(&broker).await.len(), 12);
    assert_eq!(revision(&broker).await, 13);
    // Some come while others go.
    let going = ids[..6].iter().map(|id| unbind(&broker, id));
    let coming: Vec<_> = (12..18).map(|number| format!("b{number}")).collect();
    let (gone, came) = tokio::join!(join_all(going), join_all(coming.iter().map(|id| bind(&broker, id))));
    assert!(gone.iter().chain(&came).all(|reply| reply.status == 202));
    let all = users(&broker).await;
    assert_eq!(all.len(), 12);
    let seen: Vec<_> = all.iter().map(|name| (name.as_str(), true)).collect();
    see(&broker, 2, revision(&broker).await, &seen, Verdict::Ready).await;
    for id in &ids[..6] {
        assert_eq!(poll(&broker, id, None).await.status, 410);
    }
    for id in ids[6..].iter().chain(&coming) {
        assert_eq!(broker.get(&path(id)).await.status, 200, "{id}");
    }
}

/// OSB 2.17, "Unbinding": a delete during a bind halts it.
#[tokio::test]
async fn a_delete_halts_a_bind() {
    let broker = with_instance("").await;
    let binding = bind(&broker, "b").await.operation();
    let user = users(&broker).await[0].clone();
    let ending = unbind(&broker, "b").await.operation();
    let halted = poll(&broker, "b", Some(&binding)).await;
    assert_eq!(
        (&halted.body["state"], &halted.body["description"]),
        (&json!("failed"), &json!("superseded by unbind"))
    );
    assert_eq!(state(&broker, "b", None).await, "in progress");
    // It was made in the cache meanwhile, and nobody is told of it.
    see(&broker, 2, 2, &[(&user, true)], Verdict::Ready).await;
    assert_eq!(broker.get(&path("b")).await.status, 404);
    see(&broker, 3, 3, &[], Verdict::Ready).await;
    assert_eq!(poll(&broker, "b", Some(&ending)).await.status, 410);
}

/// OSB 2.17, "Orphan Mitigation": a bind that failed leaves nothing, says why, and may be deleted or tried again.
#[tokio::test]
async fn a_bind_that_fails_leaves_nothing() {
    let broker = with_instance("").await;
    let operation = bind(&broker, "b").await.operation();
    let user = users(&broker).await[0].clone();
    see(
        &broker,
        2,
        2,
        &[(&user, false)],
        Verdict::Failed("no more users".to_owned()),
    )
    .await;
    for named in [Some(operation.as_str()), None] {
        let failed = poll(&broker, "b", named).await;
        assert_eq!(
            failed.body,
            json!({ "state": "failed", "description": "no more users" })
        );
    }
    assert_eq!(users(&broker).await, Vec::<String>::new());
    assert_eq!(revision(&broker).await, 3, "the resource is written without it");
    assert_eq!(broker.get(&path("b")).await.status, 404);
    assert_eq!(unbind(&broker, "b").await.status, 410);
    assert_eq!(
        broker
            .count("select count(*) from bindings where credentials <> ''")
            .await,
        0
    );
    assert_ne!(bound(&broker, "b", 3).await, user);
}

#[tokio::test]
async fn what_takes_too_long_fails_and_an_unbinding_may_be_tried_again() {
    let broker = with_instance("").await;
    let user = bound(&broker, "a", 2).await;
    let (binding, ending) = (
        bind(&broker, "b").await.operation(),
        unbind(&broker, "a").await.operation(),
    );
    let late = "update operations set deadline_at = now() where state = 'in_progress'";
    broker.sql.execute(late, &[]).await.unwrap();
    assert_eq!(broker.ledger.expire_operations().await.unwrap(), 2);
    let failed = poll(&broker, "b", Some(&binding)).await;
    assert!(
        failed.body["description"]
            .as_str()
            .unwrap()
            .contains("bind took longer"),
        "{failed:?}"
    );
    assert_eq!(users(&broker).await, Vec::<String>::new());
    assert_eq!(state(&broker, "a", Some(&ending)).await, "failed");
    assert_eq!(
        broker.get(&path("a")).await.status,
        404,
        "it is not handed out any more"
    );
    let again = unbind(&broker, "a").await.operation();
    assert_ne!(again, ending);
    see(&broker, 3, revision(&broker).await, &[(&user, true)], Verdict::No).await;
    assert_eq!(state(&broker, "a", None).await, "in progress");
    see(&broker, 4, revision(&broker).await, &[], Verdict::Ready).await;
    assert_eq!(poll(&broker, "a", Some(&again)).await.status, 410);
}

#[tokio::test]
async fn bindings_end_with_their_instance() {
    let broker = with_instance("").await;
    bound(&broker, "a", 2).await;
    let (binding, ending) = (
        bind(&broker, "b").await.operation(),
        unbind(&broker, "a").await.operation(),
    );
    let ids = format!("service_id={REDIS}&plan_id=u");
    let given_back = broker
        .delete(&format!("/v2/service_instances/i?accepts_incomplete=true&{ids}"))
        .await;
    assert_eq!(given_back.status, 202);
    assert_eq!(state(&broker, "b", Some(&binding)).await, "failed");
    assert_eq!(state(&broker, "a", Some(&ending)).await, "in progress");
    assert_eq!(bind(&broker, "c").await.error(), (422, Some("ConcurrencyError")));
    broker.gone("i").await;
    assert_eq!(poll(&broker, "a", Some(&ending)).await.status, 410);
    for binding in ["a", "b", "c"] {
        assert_eq!(unbind(&broker, binding).await.status, 410);
    }
    assert_eq!(
        broker
            .count("select count(*) from operations where state = 'in_progress'")
            .await,
        0
    );
    assert_eq!(
        broker
            .count("select count(*) from bindings where deleted_at is null")
            .await,
        0
    );
}

/// A cache that somebody deleted from the cluster has nobody to revoke, and is not made again for that.
#[tokio::test]
async fn of_a_cache_that_is_lost_nothing_is_to_be_revoked() {
    let broker = with_instance("").await;
    bound(&broker, "a", 2).await;
    let ending = unbind(&broker, "a").await.operation();
    bound_row(&broker, "b").await;
    broker.gone("i").await;
    assert_eq!(poll(&broker, "a", Some(&ending)).await.status, 410);
    let before = revision(&broker).await;
    let refused = bind(&broker, "c").await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.body["description"]
            .as_str()
            .unwrap()
            .contains("by somebody else"),
        "{refused:?}"
    );
    assert_eq!(unbind(&broker, "b").await.status, 200);
    assert_eq!(revision(&broker).await, before);
}

/// A binding of which the cluster was never seen to know.
async fn bound_row(broker: &Broker, binding: &str) {
    assert_eq!(bind(broker, binding).await.status, 202);
    broker
        .sql
        .batch_execute(
            "update operations set state = 'succeeded', ended_at = now() where kind = 'bind' and state = 'in_progress';
             update bindings set state = 'bound' where state = 'binding';
             update instances set applied_revision = desired_revision",
        )
        .await
        .unwrap();
}

/// OSB 2.17, "Binding Rotation".
#[tokio::test]
async fn a_binding_is_succeeded_by_another_and_both_hold() {
    let broker = with_instance("").await;
    let old = bound(&broker, "old", 2).await;
    let successor = json!({ "predecessor_binding_id": "old" });
    let new = format!("{}?accepts_incomplete=true", path("new"));
    let accepted = broker.put(&new, &successor).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert_eq!(broker.put(&new, &successor).await.operation(), accepted.operation());
    let both = users(&broker).await;
    assert_eq!(both.len(), 2);
    let seen: Vec<_> = both.iter().map(|name| (name.as_str(), true)).collect();
    see(&broker, 3, revision(&broker).await, &seen, Verdict::Ready).await;
    let (before, after) = (broker.get(&path("old")).await, broker.get(&path("new")).await);
    assert_eq!((before.status.as_u16(), after.status.as_u16()), (200, 200));
    assert_ne!(
        before.body["credentials"]["password"],
        after.body["credentials"]["password"]
    );
    assert_eq!(after.body["parameters"], json!({ "a": 1 }), "as its predecessor");
    unbind(&broker, "old").await;
    assert_eq!(users(&broker).await.len(), 1);
    assert!(!users(&broker).await.contains(&old));
    // The same request is known although what it names is gone; another one is not.
    assert_eq!(broker.put(&new, &successor).await.status, 200);
    let late = format!("{}?accepts_incomplete=true", path("late"));
    assert_eq!(broker.put(&late, &successor).await.status, 400);
    assert_eq!(broker.put(&new, &body()).await.status, 409);
    // Platforms before 2.17 do not know it.
    let request = Broker::request(Method::PUT, &late).header("x-broker-api-version", "2.16");
    let mut request = request.body(Full::new(Bytes::from(successor.to_string()))).unwrap();
    request
        .headers_mut()
        .insert("x-broker-api-version", "2.16".parse().unwrap());
    assert_eq!(broker.send(request).await.status, 400);
}

/// The instance may be changed while a binding waits, and a binding not while the instance is changed.
#[tokio::test]
async fn operations_of_bindings_and_of_their_instance_stand_side_by_side() {
    let broker = with_instance("").await;
    bind(&broker, "a").await;
    let change = json!({ "service_id": REDIS, "parameters": { "connectionLimit": 7 } });
    let updated = broker.patch("i", &change).await;
    assert_eq!(updated.status, 202, "{updated:?}");
    assert_eq!(bind(&broker, "b").await.error(), (422, Some("ConcurrencyError")));
    let user = users(&broker).await[0].clone();
    see(&broker, 2, revision(&broker).await, &[(&user, true)], Verdict::Ready).await;
    assert_eq!(state(&broker, "a", None).await, "succeeded");
    assert_eq!(
        broker.poll("i", &updated.operation()).await.body["state"],
        json!("succeeded")
    );
    assert_eq!(unbind(&broker, "a").await.status, 202);
    let last = broker.get("/v2/service_instances/i/last_operation").await;
    assert_eq!(last.body["state"], json!("succeeded"));
}

/// The bodies of the webhooks that are due, by kind and state.
async fn due(broker: &Broker) -> Vec<(String, String)> {
    let rows = broker
        .sql
        .query("select body from webhooks where state = 'due' order by sequence", &[])
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            let body: Value = serde_json::from_str(row.get(0)).unwrap();
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            assert_eq!(text("instance_id"), "i");
            (text("kind"), text("state"))
        })
        .collect()
}

/// As the broker that this one replaces: this request's webhook, else the one of the order; for what succeeds at once,
/// for what succeeds later, and for what fails.
#[tokio::test]
async fn a_binding_is_told_to_a_webhook() {
    let receiver = Receiver::start([]).await;
    let hook = format!(
        "webhook={}&secret=s",
        receiver.url.replace(':', "%3A").replace('/', "%2F")
    );
    let event = |kind: &str, state: &str| (kind.to_owned(), state.to_owned());

    let broker = start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let path = "/v2/service_instances/i/service_bindings";
    assert_eq!(broker.put(&format!("{path}/a"), &Broker::binding()).await.status, 201);
    assert_eq!(due(&broker).await, []);
    assert_eq!(
        broker.put(&format!("{path}/b?{hook}"), &Broker::binding()).await.status,
        201
    );
    assert_eq!(due(&broker).await, [event("bind", "succeeded")]);
    let refused = broker
        .put(&format!("{path}/c?webhook=ftp%3A%2F%2Fx"), &Broker::binding())
        .await;
    assert_eq!(refused.status, 400);
    // What is known already is no event.
    assert_eq!(
        broker.put(&format!("{path}/b?{hook}"), &Broker::binding()).await.status,
        200
    );
    assert_eq!(due(&broker).await.len(), 1);

    let broker = with_instance(&hook).await;
    let provisioned = event("provision", "succeeded");
    bound(&broker, "a", 2).await;
    assert_eq!(due(&broker).await, [provisioned.clone(), event("bind", "succeeded")]);
    bind(&broker, "b").await;
    see(
        &broker,
        3,
        revision(&broker).await,
        &[],
        Verdict::Failed("no".to_owned()),
    )
    .await;
    assert_eq!(
        due(&broker).await,
        [provisioned, event("bind", "succeeded"), event("bind", "failed")]
    );
}

/// Nothing of a password stands in the database in clear.
#[tokio::test]
async fn passwords_are_sealed() {
    let broker = with_instance("").await;
    bound(&broker, "b", 2).await;
    let credentials = broker.get(&path("b")).await.body["credentials"].clone();
    let password = credentials["password"].as_str().unwrap();
    for table in ["bindings", "operations", "instances", "audit", "webhooks"] {
        let query = format!("select count(*) from {table} where {table}::text like $1 or {table}::text like $2");
        let hexadecimal: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
        let row = broker
            .sql
            .query_one(&query, &[&format!("%{password}%"), &format!("%{hexadecimal}%")])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), 0, "{table}");
    }
    let [user] = &broker.ledger.binding_users(&instance()).await.unwrap()[..] else {
        panic!("one user")
    };
    assert!(!format!("{user:?}").contains(password));
}
