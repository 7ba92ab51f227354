use std::sync::Arc;

use cache_broker::ledger::Verdict;
use cache_broker::osb::limits::{CallerLimits, Counter};
use cache_broker::osb::{Authenticator, Quotas};
use futures::future::join_all;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;

use crate::broker::{Broker, SERVICE, empty_database, plan};

#[tokio::test]
async fn a_caller_over_its_rate_is_told_when_to_come_back_and_others_are_served() {
    let broker = Broker::start_with(&empty_database().await, |facade| {
        facade.limits = Counter::new(CallerLimits {
            rate: 3,
            concurrency: 0,
        });
        let pair = |user: &str| (user.to_owned(), "p".to_owned().into());
        facade.authenticator = Arc::new(Authenticator::new(Some(&[pair("u"), pair("v")]), None));
    })
    .await;
    let statuses = join_all((0..20).map(|_| broker.poll("i", ""))).await;
    let refused: Vec<_> = statuses.iter().filter(|reply| reply.status == 429).collect();
    assert!(refused.len() >= 10, "{statuses:?}");
    assert_eq!(refused[0].headers["retry-after"], "1");
    assert!(
        refused[0].body["description"]
            .as_str()
            .unwrap()
            .contains("requests a second")
    );
    assert_eq!(broker.get("/v2/catalog").await.status, 200);
    let other = Request::builder()
        .method(Method::GET)
        .uri("/v2/service_instances/i/last_operation")
        .header("x-broker-api-version", "2.17")
        .header("authorization", "Basic djpw");
    assert_eq!(broker.send(other.body(Full::default()).unwrap()).await.status, 404);
}

/// Two processes count what the other has accepted, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_gets_no_more_than_its_quota_however_many_ask_at_once() {
    let url = empty_database().await;
    let limited = || {
        Broker::start_with(&url, |facade| {
            facade.quotas = Quotas {
                organization: Some(3),
                ..Quotas::default()
            };
        })
    };
    let (broker, other) = (limited().await, limited().await);
    let orders: Vec<_> = (0..20).map(|number| format!("i{number}")).collect();
    let replies = join_all(orders.iter().enumerate().map(|(number, id)| {
        let broker = if number % 2 == 0 { &broker } else { &other };
        broker.provision(id, "")
    }))
    .await;
    let accepted = replies.iter().filter(|reply| reply.status == 202).count();
    assert_eq!(accepted, 3, "{replies:?}");
    let refused = replies.iter().find(|reply| reply.status != 202).unwrap();
    assert_eq!(refused.error(), (422, None));
    assert!(refused.body["description"].as_str().unwrap().contains("quota is 3"));
    for table in ["instances", "operations"] {
        assert_eq!(
            broker.count(&format!("select count(*) from {table}")).await,
            3,
            "nothing is left behind"
        );
    }
    // What was accepted is still answered, and one that is given back makes room.
    let (id, _) = orders
        .iter()
        .zip(&replies)
        .find(|(_, reply)| reply.status == 202)
        .unwrap();
    assert_eq!(broker.provision(id, "").await.status, 202);
    assert_eq!(broker.deprovision(id).await.status, 202);
    assert_eq!(broker.provision("late", "").await.status, 422);
    // The other one began last, so it leads.
    other.gone(id).await;
    assert_eq!(broker.provision("late", "").await.status, 202);
}

#[tokio::test]
async fn a_plan_that_is_full_is_neither_ordered_nor_moved_to() {
    let broker = Broker::start_with(&empty_database().await, |facade| {
        facade.quotas.plans = [("memcached-large".to_owned(), 1)].into();
    })
    .await;
    let mut larger = plan();
    larger.metadata.name = Some("memcached-large".to_owned());
    larger.spec.id = "q".to_owned();
    broker.offer(&[plan(), larger]);
    let order = |id: &str| {
        let mut order = Broker::order();
        order["plan_id"] = json!("q");
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let broker = &broker;
        async move { broker.put(&path, &order).await }
    };
    assert_eq!(order("a").await.status, 202);
    assert_eq!(order("b").await.error(), (422, None));
    assert_eq!(broker.provision("c", "").await.status, 202);
    broker.seen("c", Verdict::Ready, 1).await;
    let moving = json!({ "service_id": SERVICE, "plan_id": "q" });
    assert_eq!(broker.patch("c", &moving).await.error(), (422, None));
    broker.deprovision("a").await;
    broker.gone("a").await;
    assert_eq!(broker.patch("c", &moving).await.status, 202);
}
