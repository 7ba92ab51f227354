use cache_broker::ledger::Verdict;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;

use crate::broker::{Broker, PATIENCE, SERVICE};

const ACTIONS: &str = "/v2/service_instances/i/actions";

async fn serving() -> Broker {
    let broker = Broker::start().await;
    assert_eq!(broker.provision("i", "").await.status, 202);
    broker.seen("i", Verdict::Ready, 1).await;
    broker
        .ledger
        .mark_applied(&"i".parse().unwrap(), 1, None)
        .await
        .unwrap();
    broker
}

#[tokio::test]
async fn a_restart_is_an_operation_that_is_polled_by_its_name() {
    let broker = serving().await;
    let restart = || broker.post("/v2/service_instances/i/actions/restart");
    let accepted = restart().await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let operation = accepted.operation();
    assert_eq!(restart().await.operation(), operation);
    assert_eq!(broker.poll("i", &operation).await.body["state"], json!("in progress"));
    // Without a name, the latest operation that the specification knows.
    assert_eq!(
        broker.poll("i", "").await.body,
        json!({ "state": "succeeded", "description": "the instance is ready" })
    );
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 200);
    let update = json!({ "service_id": SERVICE, "parameters": { "connectionLimit": 1 } });
    assert_eq!(
        broker.patch("i", &update).await.error(),
        (422, Some("ConcurrencyError"))
    );
    assert_eq!(broker.bind("i", "b").await.error(), (422, Some("ConcurrencyError")));

    let written = broker.ledger.claim_outbox(10, PATIENCE).await.unwrap();
    let first = written[0].restart_at.unwrap();
    broker.ledger.mark_applied(&written[0].instance, 2, None).await.unwrap();
    broker.seen_from("i", Verdict::Ready, 2, 2).await;
    assert_eq!(
        broker.poll("i", &operation).await.body,
        json!({ "state": "succeeded", "description": "the instance was restarted" })
    );
    // Another one is later, however soon it comes.
    let again = restart().await.operation();
    assert_ne!(again, operation);
    let written = broker.ledger.claim_outbox(10, PATIENCE).await.unwrap();
    assert!(written[0].restart_at.unwrap() > first);
    broker.seen_from("i", Verdict::Failed("no".to_owned()), 3, 3).await;
    assert_eq!(
        broker.poll("i", &again).await.body,
        json!({ "state": "failed", "description": "no" })
    );
    assert_eq!(broker.deprovision("i").await.status, 202);
    assert_eq!(restart().await.error(), (422, Some("ConcurrencyError")));
    broker.gone("i").await;
    assert_eq!(restart().await.status, 404);
}

#[tokio::test]
async fn each_action_has_an_openapi_document() {
    let broker = serving().await;
    for action in ["flush", "stats", "restart"] {
        let document = broker.get(&format!("{ACTIONS}/{action}/schema")).await;
        assert_eq!(
            (document.status.as_u16(), &document.body["openapi"]),
            (200, &json!("3.0.3"))
        );
        assert!(document.body["paths"][format!("{ACTIONS}/{action}")].is_object());
    }
    assert_eq!(broker.get(&format!("{ACTIONS}/explode/schema")).await.status, 404);
    assert_eq!(
        broker.get("/v2/service_instances/x/actions/flush/schema").await.status,
        404
    );
    let refused = broker.get(&format!("{ACTIONS}/flush")).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.headers["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

#[tokio::test]
async fn memcached_and_caches_in_the_cluster_have_no_backups() {
    let broker = serving().await;
    let backups = format!("{ACTIONS}/backups");
    let restore = Broker::request(Method::PUT, &format!("{backups}/b"))
        .body(Full::default())
        .unwrap();
    for reply in [
        broker.post(&backups).await,
        broker.get(&backups).await,
        broker.get(&format!("{backups}/b")).await,
        broker.send(restore).await,
    ] {
        assert_eq!(reply.error(), (422, None));
        assert_eq!(
            reply.body["description"],
            json!("memcached has no backups: only redis and valkey on ElastiCache have")
        );
    }
    assert_eq!(broker.get("/v2/service_instances/x/actions/backups").await.status, 404);
    assert_eq!(broker.count("select count(*) from operations").await, 1);
}

/// The clients of the actions are not platforms: they know passwords, and no API version.
#[tokio::test]
async fn actions_need_no_api_version() {
    let broker = serving().await;
    let request = |version: Option<&str>, authorized: bool| {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri("/v2/service_instances/i/actions/flush/schema");
        if authorized {
            request = request.header("authorization", "Basic dTpw");
        }
        if let Some(version) = version {
            request = request.header("x-broker-api-version", version);
        }
        request.body(Full::default()).unwrap()
    };
    assert_eq!(broker.send(request(None, true)).await.status, 200);
    assert_eq!(broker.send(request(None, false)).await.status, 401);
    assert_eq!(broker.send(request(Some("1.0"), true)).await.status, 412);
}

#[tokio::test]
async fn what_cannot_be_reached_says_so_and_shows_no_password() {
    let broker = serving().await;
    for action in ["flush", "stats"] {
        let reply = broker.post(&format!("{ACTIONS}/{action}")).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        let description = reply.body["description"].as_str().unwrap();
        assert!(description.contains("cache.example:11211"), "{description}");
        assert!(!description.contains("hunter2"), "{description}");
        assert_eq!(
            broker
                .post(&format!("/v2/service_instances/x/actions/{action}"))
                .await
                .status,
            404
        );
    }
    broker.provision("j", "").await;
    let early = broker.post("/v2/service_instances/j/actions/flush").await;
    assert_eq!(early.error(), (422, Some("ConcurrencyError")));
}

#[tokio::test]
async fn actions_are_listed_in_the_catalog_and_to_platforms_that_may_read_it() {
    let broker = Broker::start().await;
    let catalog = broker.get("/v2/catalog").await;
    let listed = &catalog.body["services"][0]["plans"][0]["metadata"]["actions"];
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|action| &action["name"])
        .collect();
    assert_eq!(names, [&json!("flush"), &json!("stats"), &json!("restart")]);
    let order = |id: &str, version: &str| {
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let mut request = Broker::request(Method::PUT, &path)
            .body(Broker::order().to_string().into())
            .unwrap();
        request
            .headers_mut()
            .insert("x-broker-api-version", version.parse().unwrap());
        broker.send(request)
    };
    let told = order("a", "2.17").await.body;
    assert_eq!(
        told["extension_apis"][2]["discovery_url"],
        json!("/v2/service_instances/a/actions/restart/schema")
    );
    assert_eq!(order("b", "2.15").await.body.as_object().unwrap().len(), 1);
}
