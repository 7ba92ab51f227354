//! A facade on a database of its own, and a client of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cache_broker::api::{CachePlan, Connection, EngineType, ProviderKind};
use cache_broker::ledger::{Epoch, InstanceId, Later, Ledger, Observation, SeenUser, Verdict};
use cache_broker::osb::limits::Counter;
use cache_broker::osb::{Authenticator, Catalog, Facade, Namespaces, Quotas, Services, server};
use cache_broker::webhooks::Policy;
use cache_broker::wire::Trust;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::document;

pub use crate::database::{empty_database, ledger, own_postgres};

pub const SERVICE: &str = "8cccbf79-3e08-4607-ad9f-193bd5f7ff83";
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn plan() -> CachePlan {
    serde_json::from_value(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1",
        "kind": "CachePlan",
        "metadata": { "name": "memcached-small" },
        "spec": {
            "service": "akkeris-memcached", "id": "p", "description": "One node.",
            "engine": { "type": "memcached", "version": "1.6" },
            "parameters": { "properties": { "connectionLimit": { "type": "integer", "maximum": 100 } } },
            "kubernetes": { "memory": "64Mi" },
        },
        "status": {
            "revision": 3,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Available", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

pub struct Broker {
    pub ledger: Ledger,
    pub address: SocketAddr,
    pub sql: tokio_postgres::Client,
    pub epoch: Epoch,
    pub catalog: watch::Sender<Option<Arc<Catalog>>>,
    client: Client<HttpConnector, Full<Bytes>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn operation(&self) -> String {
        self.body["operation"]
            .as_str()
            .unwrap_or_else(|| panic!("{self:?}"))
            .to_owned()
    }

    pub fn error(&self) -> (u16, Option<&str>) {
        (self.status.as_u16(), self.body["error"].as_str())
    }
}

impl Broker {
    pub async fn start() -> Self {
        Self::start_on(&empty_database().await).await
    }

    pub async fn start_on(url: &str) -> Self {
        Self::start_with(url, |_| {}).await
    }

    /// A broker whose facade is changed before it serves.
    pub async fn start_with(url: &str, change: impl FnOnce(&mut Facade)) -> Self {
        let ledger = ledger(url);
        ledger.migrate().await.unwrap();
        let (sql, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        sql.batch_execute("set search_path = cache_broker").await.unwrap();
        let catalog = Catalog::new(&Services::read(None).unwrap(), [&plan()], &|_| true);
        let (catalog, cell) = watch::channel(Some(Arc::new(catalog)));
        let mut facade = Facade {
            ledger: ledger.clone(),
            catalog: cell,
            authenticator: Arc::new(Authenticator::new(
                Some(&[("u".to_owned(), "p".to_owned().into())]),
                None,
            )),
            namespaces: Namespaces {
                memcached: "memcached-system".to_owned(),
                redis: "redis-system".to_owned(),
            },
            webhook_policy: Policy::AllowPrivate,
            trust: Trust::new(None).unwrap(),
            limits: Counter::default(),
            quotas: Quotas::default(),
        };
        change(&mut facade);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server::serve(Arc::new(facade), listener, None, async {
            let _ = stopped.await;
        }));
        Self {
            epoch: ledger.next_epoch().await.unwrap(),
            ledger,
            address,
            sql,
            catalog,
            client: Client::builder(TokioExecutor::new()).build_http(),
            _stop: stop,
        }
    }

    /// Sends a request as it is, with nothing added.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let (mut parts, body) = request.into_parts();
        let (method, path) = (parts.method.clone(), parts.uri.to_string());
        let sent = body.clone().collect().await.unwrap().to_bytes();
        parts.uri = format!("http://{}{}", self.address, parts.uri).parse().unwrap();
        let response = tokio::time::timeout(PATIENCE, self.client.request(Request::from_parts(parts, body)));
        let response = response.await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        if parts.status != StatusCode::NOT_MODIFIED {
            assert_eq!(parts.headers["content-type"], "application/json");
        }
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        document::check(&method, &path, parts.status, &body);
        if parts.status.is_success() {
            let sent = serde_json::from_slice(&sent).unwrap_or(Value::Null);
            document::check_request(&method, &path, &sent);
        }
        if body["openapi"].is_string() {
            document::check_document(&body);
        }
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub fn request(method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("x-broker-api-version", "2.17")
            .header("authorization", format!("Basic {}", BASE64_STANDARD.encode("u:p")))
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Self::request(Method::GET, path).body(Full::default()).unwrap())
            .await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Self::request(Method::DELETE, path).body(Full::default()).unwrap())
            .await
    }

    pub async fn post(&self, path: &str) -> Reply {
        self.send(Self::request(Method::POST, path).body(Full::default()).unwrap())
            .await
    }

    pub async fn patch(&self, id: &str, body: &Value) -> Reply {
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let body = Full::new(Bytes::from(body.to_string()));
        self.send(Self::request(Method::PATCH, &path).body(body).unwrap()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        let body = Full::new(Bytes::from(body.to_string()));
        self.send(Self::request(Method::PUT, path).body(body).unwrap()).await
    }

    pub fn order() -> Value {
        json!({ "service_id": SERVICE, "plan_id": "p", "organization_guid": "o", "space_guid": "s" })
    }

    pub fn binding() -> Value {
        json!({ "service_id": SERVICE, "plan_id": "p", "bind_resource": { "app_guid": "app" } })
    }

    pub async fn provision(&self, id: &str, query: &str) -> Reply {
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true&{query}");
        self.put(&path, &Self::order()).await
    }

    pub async fn deprovision(&self, id: &str) -> Reply {
        let ids = format!("service_id={SERVICE}&plan_id=p");
        self.delete(&format!("/v2/service_instances/{id}?accepts_incomplete=true&{ids}"))
            .await
    }

    pub async fn bind(&self, id: &str, binding: &str) -> Reply {
        let path = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        self.put(&path, &Self::binding()).await
    }

    pub async fn unbind(&self, id: &str, binding: &str) -> Reply {
        let path = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        self.delete(&format!("{path}?service_id={SERVICE}&plan_id=p")).await
    }

    pub async fn poll(&self, id: &str, operation: &str) -> Reply {
        self.get(&format!(
            "/v2/service_instances/{id}/last_operation?operation={operation}"
        ))
        .await
    }

    /// Tells the ledger that an instance was seen in the cluster.
    pub async fn seen(&self, id: &str, verdict: Verdict, version: u32) {
        self.seen_from(id, verdict, version, 1).await;
    }

    /// The same, of a resource that was written from a later revision of the row.
    pub async fn seen_from(&self, id: &str, verdict: Verdict, version: u32, ledger_revision: i64) {
        self.seen_at(id, verdict, version, ledger_revision, connection()).await;
    }

    /// The same, of a cache that is reached so.
    pub async fn seen_at(&self, id: &str, verdict: Verdict, version: u32, ledger_revision: i64, at: Connection) {
        let at = (verdict == Verdict::Ready).then_some(at);
        self.observe(id, verdict, version, ledger_revision, at, &[]).await;
    }

    /// Tells the ledger what was seen of an instance: how it is, how it is reached if it answers, and its users, each with
    /// whether it is let in.
    pub async fn observe(
        &self,
        id: &str,
        verdict: Verdict,
        version: u32,
        ledger_revision: i64,
        at: Option<Connection>,
        users: &[(&str, bool)],
    ) {
        let instance: InstanceId = id.parse().unwrap();
        let user = |(name, ready): &(&str, bool)| SeenUser {
            name: (*name).to_owned(),
            ready: *ready,
        };
        let row = self
            .sql
            .query_one("select namespace, name from instances where id = $1", &[&id])
            .await
            .unwrap();
        let observation = Observation {
            instance,
            namespace: row.get(0),
            name: row.get(1),
            uid: format!("uid-{id}"),
            resource_version: version.to_string(),
            later: Later {
                revision: ledger_revision,
                ..Later::default()
            },
            adopts: false,
            deleting: false,
            verdict,
            ready: at.is_some(),
            reason: "Seen".to_owned(),
            message: format!("seen at {version}"),
            connection: at,
            encrypted_at_rest: None,
            users: users.iter().map(user).collect(),
            current: true,
        };
        self.ledger.project(self.epoch, &observation).await.unwrap();
    }

    /// Tells the ledger that an instance is gone from the cluster.
    pub async fn gone(&self, id: &str) {
        let instance = id.parse().unwrap();
        self.ledger.project_absent(self.epoch, &instance, None).await.unwrap();
    }

    /// Offers those plans instead.
    pub fn offer(&self, plans: &[CachePlan]) {
        let catalog = Catalog::new(&Services::read(None).unwrap(), plans, &|_| true);
        self.catalog.send_replace(Some(Arc::new(catalog)));
    }

    pub async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }
}

pub fn connection() -> Connection {
    Connection {
        engine: EngineType::Memcached,
        provider: ProviderKind::Kubernetes,
        host: "cache.example".to_owned(),
        port: 11211,
        tls: false,
        username: None,
        password: Some("hunter2".to_owned().into()),
        nodes: Vec::new(),
    }
}
