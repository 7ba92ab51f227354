//! A platform that does not give up: an answer that is lost, or that says that the broker is away, is asked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::osb::{
    MEMCACHED, MEMCACHED_IN_CLUSTER, MEMCACHED_ON_AWS, Order, Osb, REDIS, REDIS_IN_CLUSTER, REDIS_ON_AWS, Reply,
};

/// How long one request, or one operation, may take in all.
const PATIENCE: Duration = Duration::from_secs(150);
const PAUSE: Duration = Duration::from_millis(200);

/// Another plan to move to, which is done in place: of the same provider.
const MEMCACHED_STANDARD_0: &str = "36120f94-2cd2-3133-8196-c2ef98deffb6";

/// An operation that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub instance: String,
    pub operation: String,
    pub what: &'static str,
}

pub struct Platform {
    apis: Arc<Vec<Osb>>,
    random: StdRng,
    hook: String,
    pub accepted: Vec<Accepted>,
    pub retries: usize,
}

impl Platform {
    pub fn new(apis: Arc<Vec<Osb>>, random: StdRng, hook: &str) -> Self {
        Self {
            apis,
            random,
            hook: hook.to_owned(),
            accepted: Vec::new(),
            retries: 0,
        }
    }

    /// The life of one instance, or the beginning of it.
    pub async fn live(&mut self) {
        let (service, plan) = match self.random.random_range(0..10) {
            0..4 => (MEMCACHED, MEMCACHED_IN_CLUSTER),
            4..5 => (REDIS, REDIS_IN_CLUSTER),
            5..8 => (REDIS, REDIS_ON_AWS),
            _ => (MEMCACHED, MEMCACHED_ON_AWS),
        };
        let order = Order::new(service, plan).webhook(&self.hook, "soak");
        let path = format!("/v2/service_instances/{}", order.id);
        let provision = format!("{path}?accepts_incomplete=true{}", order.query);
        let reply = self.ask(Method::PUT, &provision, &order.body()).await;
        let operation = match reply.status {
            StatusCode::ACCEPTED => Some(self.accept(&order, &reply, "provision")),
            // The answer to the first request was lost, and the work is done.
            StatusCode::OK => None,
            _ => panic!("{order:?}: {reply:?}"),
        };
        let mut given_back = false;
        if let Some(operation) = operation {
            if self.random.random_bool(0.1) {
                // A change of mind while it is made.
                self.give_back(&order).await;
                given_back = true;
            } else {
                let state = self.end(&order, &operation).await;
                assert_eq!(state, "succeeded", "provision of {order:?}");
            }
        }
        if given_back {
            return;
        }
        if self.random.random_bool(0.5) {
            self.bind_and_unbind(&order).await;
        }
        if self.random.random_bool(0.3) {
            self.change(&order).await;
        }
        if self.random.random_bool(0.7) {
            self.give_back(&order).await;
        }
    }

    async fn bind_and_unbind(&mut self, order: &Order) {
        let path = format!("/v2/service_instances/{}/service_bindings/b", order.id);
        let body =
            json!({ "service_id": order.service, "plan_id": order.plan, "bind_resource": { "app_guid": "app" } });
        let bound = self.ask(Method::PUT, &path, &body).await;
        // One that needs work of its own is bound in another way, which is not tried here.
        if bound.status == StatusCode::UNPROCESSABLE_ENTITY {
            return;
        }
        assert!(bound.status.is_success(), "{order:?}: {bound:?}");
        assert!(bound.body["credentials"].is_object(), "{order:?}: {bound:?}");
        let path = format!("{path}?{}", order.ids());
        let unbound = self.ask(Method::DELETE, &path, &Value::Null).await;
        assert!(
            unbound.status.is_success() || unbound.status == StatusCode::GONE,
            "{order:?}: {unbound:?}"
        );
    }

    /// A change that is made in place, or a restart.
    async fn change(&mut self, order: &Order) {
        let path = format!("/v2/service_instances/{}", order.id);
        if order.plan == MEMCACHED_IN_CLUSTER {
            let body = json!({ "service_id": order.service, "plan_id": MEMCACHED_STANDARD_0 });
            let patch = format!("{path}?accepts_incomplete=true");
            let reply = self.ask(Method::PATCH, &patch, &body).await;
            match reply.status {
                StatusCode::ACCEPTED => {
                    let operation = self.accept(order, &reply, "update");
                    assert_eq!(self.end(order, &operation).await, "succeeded", "update of {order:?}");
                }
                StatusCode::OK => {}
                _ => panic!("{order:?}: {reply:?}"),
            }
        } else {
            let reply = self
                .ask_until(
                    Method::POST,
                    &format!("{path}/actions/restart"),
                    &Value::Null,
                    |reply| {
                        // One whose answer was lost is going on.
                        reply.status != StatusCode::UNPROCESSABLE_ENTITY
                    },
                )
                .await;
            assert_eq!(reply.status, StatusCode::ACCEPTED, "{order:?}: {reply:?}");
            let operation = self.accept(order, &reply, "restart");
            assert_eq!(self.end(order, &operation).await, "succeeded", "restart of {order:?}");
        }
    }

    async fn give_back(&mut self, order: &Order) {
        // The plan may have changed; the specification wants the one it has.
        let plan = self.plan_of(order).await;
        let path = format!(
            "/v2/service_instances/{}?accepts_incomplete=true&service_id={}&plan_id={plan}",
            order.id, order.service
        );
        let reply = self.ask(Method::DELETE, &path, &Value::Null).await;
        match reply.status {
            StatusCode::ACCEPTED => {
                let operation = self.accept(order, &reply, "deprovision");
                let state = self.end(order, &operation).await;
                assert!(matches!(state.as_str(), "gone" | "succeeded"), "{order:?}: {state}");
            }
            StatusCode::GONE => {}
            _ => panic!("{order:?}: {reply:?}"),
        }
    }

    async fn plan_of(&mut self, order: &Order) -> String {
        let path = format!("/v2/service_instances/{}", order.id);
        let fetched = self.ask(Method::GET, &path, &Value::Null).await;
        fetched.body["plan_id"].as_str().unwrap_or(&order.plan).to_owned()
    }

    fn accept(&mut self, order: &Order, reply: &Reply, what: &'static str) -> String {
        let operation = reply.operation();
        self.accepted.push(Accepted {
            instance: order.id.clone(),
            operation: operation.clone(),
            what,
        });
        operation
    }

    /// Polls until an operation ended, and returns its state.
    async fn end(&mut self, order: &Order, operation: &str) -> String {
        let path = format!(
            "/v2/service_instances/{}/last_operation?operation={operation}",
            order.id
        );
        let reply = self
            .ask_until(Method::GET, &path, &Value::Null, |reply| {
                reply.status == StatusCode::GONE || reply.body["state"] != json!("in progress")
            })
            .await;
        if reply.status == StatusCode::GONE {
            return "gone".to_owned();
        }
        assert_eq!(reply.status, StatusCode::OK, "{order:?}: {reply:?}");
        let state = reply.body["state"].as_str().unwrap().to_owned();
        if state == "failed" {
            println!("{order:?}: {reply:?}");
        }
        state
    }

    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Reply {
        self.ask_until(method, path, body, |_| true).await
    }

    /// Asks any of the brokers until one gives an answer that counts and satisfies a test.
    async fn ask_until(&mut self, method: Method, path: &str, body: &Value, test: impl Fn(&Reply) -> bool) -> Reply {
        let start = Instant::now();
        let mut last = None;
        loop {
            let api = &self.apis[self.random.random_range(0..self.apis.len())];
            match api.try_send(method.clone(), path, body).await {
                Some(reply) if !reply.status.is_server_error() => {
                    if test(&reply) {
                        return reply;
                    }
                    last = Some(reply);
                }
                other => {
                    self.retries += 1;
                    last = other.or(last);
                }
            }
            assert!(start.elapsed() < PATIENCE, "{method} {path}: {last:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
