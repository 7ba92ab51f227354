use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cache_broker::ledger::Verdict;
use http::Method;
use serde_json::{Value, json};

use crate::broker::{Broker, PATIENCE, Reply};

const PATH: &str = "/v2/service_instances/i?accepts_incomplete=true";

async fn send(broker: &Broker, method: Method, path: &str, body: &Value, user: &str) -> Reply {
    let request = Broker::request(method, path)
        .header("x-broker-api-originating-identity", format!("cloudfoundry {user}"))
        .header("x-broker-api-request-identity", "request-7");
    broker.send(request.body(body.to_string().into()).unwrap()).await
}

#[tokio::test]
async fn who_asked_what_is_remembered_with_how_it_ended() {
    let broker = Broker::start().await;
    let user = BASE64_STANDARD.encode(json!({ "user_id": "683ea748" }).to_string());
    let mut order = Broker::order();
    order["parameters"] = json!({ "connectionLimit": 77 });
    assert_eq!(send(&broker, Method::PUT, PATH, &order, &user).await.status, 202);
    // The resource says for whom it was written.
    let item = broker.ledger.claim_outbox(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!(item.request_identity.as_deref(), Some("request-7"));
    let originating = item.originating.unwrap();
    assert_eq!(originating.platform, "cloudfoundry");
    assert_eq!(Value::Object(originating.identity), json!({ "user_id": "683ea748" }));

    broker.seen("i", Verdict::Failed("no room".to_owned()), 1).await;
    assert_eq!(send(&broker, Method::PUT, PATH, &order, &user).await.status, 202);
    assert_eq!(broker.bind("i", "b").await.status, 422);
    assert_eq!(broker.deprovision("i").await.status, 202);
    broker.gone("i").await;
    assert_eq!(broker.deprovision("i").await.status, 410);

    let history = broker.ledger.history(&"i".parse().unwrap()).await.unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|entry| {
            let state = entry.outcome.as_ref().map(|(state, ..)| state.as_str());
            (entry.request.as_str(), entry.status, state)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("provision", 202, Some("failed")),
            ("provision", 202, Some("failed")),
            ("bind", 422, None),
            ("deprovision", 202, Some("succeeded")),
            ("deprovision", 410, None),
        ]
    );
    let line = history[0].to_string();
    for part in [
        "provision plan=p parameters=connectionLimit  by u for cloudfoundry {\"user_id\":\"683ea748\"} request=request-7  202  failed",
        ": no room",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("77"));
    assert_eq!(history[2].binding.as_deref(), Some("b"));
    assert!(history[2].refusal.as_ref().unwrap().contains("no room"));

    assert_eq!(broker.ledger.forget_history(PATIENCE).await.unwrap(), 0);
    assert_eq!(broker.ledger.forget_history(Duration::ZERO).await.unwrap(), 5);
    assert!(broker.ledger.history(&"i".parse().unwrap()).await.unwrap().is_empty());
}

/// What is recorded stands in the transaction that accepts: there is no change that nobody asked for.
#[tokio::test]
async fn every_change_is_recorded_with_its_operation() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    broker.bind("i", "b").await;
    broker.unbind("i", "b").await;
    let update = json!({ "service_id": crate::broker::SERVICE, "parameters": { "connectionLimit": 1 } });
    broker.patch("i", &update).await;
    broker.seen_from("i", Verdict::Ready, 2, 2).await;
    broker.post("/v2/service_instances/i/actions/restart").await;
    broker.deprovision("i").await;
    let unrecorded = "select count(*) from operations
        where not exists (select from audit where audit.operation_id = operations.id)";
    assert_eq!(broker.count(unrecorded).await, 0);
    let history = broker.ledger.history(&"i".parse().unwrap()).await.unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|entry| (entry.request.as_str(), entry.status))
        .collect();
    assert_eq!(
        told,
        [
            ("provision", 202),
            ("bind", 201),
            ("unbind", 200),
            ("update", 202),
            ("restart", 202),
            ("deprovision", 202)
        ]
    );
}

/// What takes time is told with how it ended, whatever it was and whoever else went on beside it.
#[tokio::test]
async fn every_kind_of_operation_is_told_with_its_end() {
    use cache_broker::api::{Connection, EngineType, ProviderKind};
    use cache_broker::ledger::Outcome;

    use crate::broker::connection;

    const REDIS: &str = "0a8d668d-2971-4533-8e38-a816a7c01bec";
    let broker = Broker::start().await;
    let mut plan = serde_json::to_value(crate::broker::plan()).unwrap();
    plan["spec"]["service"] = json!("akkeris-redis");
    plan["spec"]["engine"] = json!({ "type": "redis", "version": "7.1" });
    plan["spec"]["bindingCredentials"] = json!("perBinding");
    broker.offer(&[serde_json::from_value(plan).unwrap()]);
    let at = || Connection {
        engine: EngineType::Redis,
        provider: ProviderKind::ElastiCache,
        ..connection()
    };
    let mut version = 0;
    let mut ready = async |users: &[(&str, bool)]| {
        version += 1;
        let revision = broker.count("select desired_revision from instances").await;
        broker
            .observe("i", Verdict::Ready, version, revision, Some(at()), users)
            .await;
    };
    let instance = "/v2/service_instances/i";
    let actions = format!("{instance}/actions");
    let mut order = Broker::order();
    order["service_id"] = json!(REDIS);
    assert_eq!(broker.put(PATH, &order).await.status, 202);
    ready(&[]).await;
    let binding = json!({ "service_id": REDIS, "plan_id": "p" });
    let path = format!("{instance}/service_bindings/b?accepts_incomplete=true");
    assert_eq!(broker.put(&path, &binding).await.status, 202);
    let user = broker
        .ledger
        .binding_users(&"i".parse().unwrap())
        .await
        .unwrap()
        .remove(0)
        .name;
    ready(&[(&user, true)]).await;
    let update = json!({ "service_id": REDIS, "parameters": { "connectionLimit": 1 } });
    assert_eq!(broker.patch("i", &update).await.status, 202);
    ready(&[(&user, true)]).await;
    assert_eq!(broker.post(&format!("{actions}/restart")).await.status, 202);
    ready(&[(&user, true)]).await;
    let backup = broker.post(&format!("{actions}/backups")).await.operation();
    let made = broker
        .ledger
        .project_backup(broker.epoch, backup.parse().unwrap(), &Outcome::Succeeded);
    made.await.unwrap();
    let listed = broker.get(&format!("{actions}/backups")).await.body;
    let restore = format!("{actions}/backups/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(broker.put(&restore, &Value::Null).await.status, 202);
    ready(&[(&user, true)]).await;
    let path = format!("{path}&service_id={REDIS}&plan_id=p");
    assert_eq!(broker.delete(&path).await.status, 202);
    ready(&[]).await;
    assert_eq!(broker.deprovision("i").await.status, 202);
    broker.gone("i").await;
    let history = broker.ledger.history(&"i".parse().unwrap()).await.unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|entry| {
            assert_eq!((entry.caller.as_str(), entry.status), ("u", 202), "{entry}");
            let (state, description, ended) = entry.outcome.clone().unwrap();
            assert!(state == "succeeded" && ended.is_some(), "{entry}");
            (entry.request.as_str(), description.unwrap())
        })
        .collect();
    let expected = [
        ("provision", "the instance is ready"),
        ("bind", "the binding is ready"),
        ("update", "the instance was updated"),
        ("restart", "the instance was restarted"),
        ("backup", "the backup is complete"),
        ("restore", "the instance was restored"),
        ("unbind", "the binding was removed"),
        ("deprovision", "the instance was deleted"),
    ];
    assert_eq!(
        told,
        expected.map(|(request, description)| (request, description.to_owned()))
    );
}

#[tokio::test]
async fn a_user_that_cannot_be_read_is_a_bad_request() {
    let broker = Broker::start().await;
    for user in ["%%%", "bm90IGpzb24=", "WzFd", ""] {
        let refused = send(&broker, Method::PUT, PATH, &Broker::order(), user).await;
        assert_eq!(refused.status, 400, "{user}");
        assert!(
            refused.body["description"]
                .as_str()
                .unwrap()
                .contains("Originating-Identity")
        );
        assert_eq!(refused.headers["x-broker-api-request-identity"], "request-7");
    }
    assert_eq!(broker.count("select count(*) from instances").await, 0);
}

/// Names of parameters come from outside, too.
#[tokio::test]
async fn strange_names_of_parameters_are_recorded_as_far_as_they_can_be() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let mut binding = Broker::binding();
    binding["parameters"] = json!({ "a\u{0}b": 1, "": 2, "x".repeat(1000): 3 });
    let bound = broker.put("/v2/service_instances/i/service_bindings/b", &binding).await;
    assert_eq!(bound.status, 201, "{bound:?}");
}
