//! A platform: a client of the OSB API.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::world::{PATIENCE, eventually};

pub const MEMCACHED: &str = "8cccbf79-3e08-4607-ad9f-193bd5f7ff83";
pub const REDIS: &str = "0a8d668d-2971-4533-8e38-a816a7c01bec";

/// Plans of deploy/plans.
pub const MEMCACHED_IN_CLUSTER: &str = "36ed3cb3-f767-1b56-9a29-bc5254980ee6";
pub const MEMCACHED_ON_AWS: &str = "19ed3cb3-f767-4b56-9a29-bc5254980eed";
pub const REDIS_IN_CLUSTER: &str = "e9f28df0-552e-4fa6-be84-92fc88998ff5";
pub const REDIS_ON_AWS: &str = "c7b8e0b0-429a-4fa8-92a0-e60d9e781cac";

pub struct Osb {
    base: String,
    authorization: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    #[allow(dead_code, reason = "shown when an assertion fails")]
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Reply {
    pub fn operation(&self) -> String {
        assert_eq!(self.status, 202, "{self:?}");
        self.body["operation"].as_str().unwrap().to_owned()
    }
}

/// The value of an `Authorization` header for `USER:PASSWORD`.
pub fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// What is ordered: a service and a plan, under an id of its own.
#[derive(Clone, Debug)]
pub struct Order {
    pub id: String,
    pub service: &'static str,
    pub plan: String,
    pub query: String,
}

impl Order {
    pub fn new(service: &'static str, plan: &str) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            service,
            plan: plan.to_owned(),
            query: String::new(),
        }
    }

    pub fn webhook(mut self, url: &str, secret: &str) -> Self {
        let url = url.replace(':', "%3A").replace('/', "%2F");
        self.query = format!("&webhook={url}&secret={secret}");
        self
    }

    pub fn body(&self) -> Value {
        json!({
            "service_id": self.service, "plan_id": self.plan, "organization_guid": "org", "space_guid": "space",
            "context": { "platform": "e2e", "instance_name": "cache" },
        })
    }

    pub fn ids(&self) -> String {
        format!("service_id={}&plan_id={}", self.service, self.plan)
    }
}

impl Osb {
    pub fn new(base: &str, authorization: &str) -> Self {
        Self {
            base: base.to_owned(),
            authorization: authorization.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn call(&self, method: Method, path: &str, body: String) -> Option<Reply> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.authorization.is_empty() {
            request = request.header("authorization", &self.authorization);
        }
        let request = request
            .header("x-broker-api-version", "2.17")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = tokio::time::timeout(PATIENCE, self.client.request(request))
            .await
            .unwrap()
            .ok()?;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.ok()?.to_bytes().to_vec()).unwrap();
        Some(Reply {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
        })
    }

    /// Any request; nothing if the answer is lost.
    pub async fn try_send(&self, method: Method, path: &str, body: &Value) -> Option<Reply> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.call(method, path, body).await
    }

    /// Nothing if nobody answers.
    pub async fn try_get(&self, path: &str) -> Option<Reply> {
        self.call(Method::GET, path, String::new()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.try_get(path).await.unwrap()
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path, body.to_string()).await.unwrap()
    }

    pub async fn act(&self, order: &Order, action: &str) -> Reply {
        let path = format!("/v2/service_instances/{}/actions/{action}", order.id);
        self.call(Method::POST, &path, String::new()).await.unwrap()
    }

    pub async fn restore(&self, order: &Order, backup: &str) -> Reply {
        let path = format!("/v2/service_instances/{}/actions/backups/{backup}", order.id);
        self.put(&path, &Value::Null).await
    }

    pub async fn patch(&self, order: &Order, body: &Value) -> Reply {
        let path = format!("/v2/service_instances/{}?accepts_incomplete=true", order.id);
        self.call(Method::PATCH, &path, body.to_string()).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, String::new()).await.unwrap()
    }

    pub async fn provision(&self, order: &Order) -> Reply {
        let path = format!(
            "/v2/service_instances/{}?accepts_incomplete=true{}",
            order.id, order.query
        );
        self.put(&path, &order.body()).await
    }

    pub async fn deprovision(&self, order: &Order) -> Reply {
        let path = format!(
            "/v2/service_instances/{}?accepts_incomplete=true&{}",
            order.id,
            order.ids()
        );
        self.delete(&path).await
    }

    pub async fn poll(&self, order: &Order, operation: &str) -> Reply {
        self.get(&format!(
            "/v2/service_instances/{}/last_operation?operation={operation}",
            order.id
        ))
        .await
    }

    /// Polls until an operation ended, and returns its state and description. A deprovision that succeeded is gone.
    pub async fn ended(&self, order: &Order, operation: &str) -> (String, String) {
        eventually(&format!("the end of {operation} of {order:?}"), async || {
            let reply = self.poll(order, operation).await;
            if reply.status == StatusCode::GONE {
                return Some(("gone".to_owned(), String::new()));
            }
            let text = |name: &str| reply.body[name].as_str().unwrap_or_default().to_owned();
            (reply.status == StatusCode::OK && text("state") != "in progress")
                .then(|| (text("state"), text("description")))
        })
        .await
    }

    /// Orders, and waits until it is ready.
    pub async fn have(&self, order: &Order) {
        let operation = self.provision(order).await.operation();
        let (state, description) = self.ended(order, &operation).await;
        assert_eq!(state, "succeeded", "{order:?}: {description}");
    }

    /// Gives back, and waits until it is gone.
    pub async fn give_back(&self, order: &Order) {
        let operation = self.deprovision(order).await.operation();
        let (state, description) = self.ended(order, &operation).await;
        assert_eq!(state, "gone", "{order:?}: {description}");
    }

    fn binding(order: &Order, binding: &str) -> String {
        format!("/v2/service_instances/{}/service_bindings/{binding}", order.id)
    }

    pub async fn bind(&self, order: &Order, binding: &str) -> Reply {
        let body =
            json!({ "service_id": order.service, "plan_id": order.plan, "bind_resource": { "app_guid": "app" } });
        self.put(&Self::binding(order, binding), &body).await
    }

    pub async fn fetch_binding(&self, order: &Order, binding: &str) -> Reply {
        self.get(&Self::binding(order, binding)).await
    }

    pub async fn unbind(&self, order: &Order, binding: &str) -> Reply {
        self.delete(&format!("{}?{}", Self::binding(order, binding), order.ids()))
            .await
    }
}
