//! The Open Service Broker facade: HTTP in, ledger out.
//!
//! A request is authenticated, its version checked, its path and body read, and then judged by a [pure function](decide)
//! of what the ledger holds. It never waits for Kubernetes or a provider.

pub mod actions;
mod auth;
pub mod catalog;
mod credentials;
pub mod decide;
pub mod error;
mod handlers;
mod identity;
mod json;
pub mod limits;
pub mod request;
mod routes;
pub mod server;
pub mod services;
pub mod tls;
mod tokens;
mod version;

use std::borrow::Cow;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream, StreamExt};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tracing::Instrument;
use warp::Filter;
use warp::path::FullPath;
use warp::reply::Response;

pub use crate::api::Namespaces;
pub use auth::Authenticator;
pub use catalog::{Catalog, CatalogCell};
pub use decide::quotas::Quotas;
pub use services::{Service, Services};
pub use tokens::Tokens;
pub use version::Version;

use crate::ledger::{Asker, BindingId, InstanceId, Ledger};
use crate::telemetry::metrics::record;
use crate::webhooks::Policy;
use crate::wire::Trust;
use catalog::Representation;
use decide::Answer;
use error::OsbError;
use limits::Counter;
use request::Query;
use routes::Call;
use tls::Subject;

/// How large request line and headers may be together, in bytes, and how many headers there may be.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// The longest body.
const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The facade and what it needs.
#[derive(Debug)]
pub struct Facade {
    /// Where everything is recorded.
    pub ledger: Ledger,
    /// What is offered.
    pub catalog: CatalogCell,
    /// Who may ask.
    pub authenticator: Arc<Authenticator>,
    /// Where ordered instances go.
    pub namespaces: Namespaces,
    /// Where webhooks may go.
    pub webhook_policy: Policy,
    /// Whose certificates caches may have.
    pub trust: Trust,
    /// How many instances there may be.
    pub quotas: Quotas,
    /// How much each caller may ask for.
    pub limits: Counter,
}

/// What is sent back.
enum Sent {
    Answer(Answer),
    Catalog(Representation),
    NotModified(HeaderValue),
}

/// A request without its body.
struct Head {
    method: Method,
    path: FullPath,
    query: String,
    headers: HeaderMap,
    /// The CachePlan that the request is about, as far as it is known.
    plan: OnceLock<String>,
    /// Whom the client's certificate is made out to.
    subject: Option<Subject>,
}

/// A request that was let in, without its body.
struct Asking<'a> {
    head: &'a Head,
    version: Version,
    query: Query,
    asker: Asker,
}

/// The API as a filter. It rejects nothing: every request gets a reply of its own.
pub fn filter(facade: Arc<Facade>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional())
        .and(warp::body::stream())
        .then(move |method, path, query, headers, subject, body| {
            let head = Head {
                method,
                path,
                query,
                headers,
                plan: OnceLock::new(),
                subject,
            };
            serve(facade.clone(), head, body)
        })
        .recover(|_| async { Ok::<_, Infallible>(render(Err(OsbError::internal()), Version::V17, None)) })
        .unify()
}

async fn serve<B: Buf>(facade: Arc<Facade>, head: Head, body: impl Stream<Item = Result<B, warp::Error>>) -> Response {
    let began = Instant::now();
    let (identity, echoed) = identity::shown(&head.headers);
    // Of the highest level, so that every line within has it, whichever levels are logged.
    let span = tracing::error_span!("request", identity);
    let version = Version::of(&head.headers);
    let shown = *version.as_ref().unwrap_or(&Version::V17);
    let work =
        async {
            AssertUnwindSafe(facade.reply(&head, version, body)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(method = %head.method, path = head.path.as_str(), "a request made the broker panic");
            Err(OsbError::internal())
        })
        };
    let response = match work.instrument(span).await {
        // Whoever has this answer is to find the log's lines on it, though the platform gave the request no name.
        Err(error) if error.status() == StatusCode::INTERNAL_SERVER_ERROR => {
            let echoed = echoed.or_else(|| HeaderValue::from_str(&identity).ok());
            render(Err(error.of_request(&identity)), shown, echoed)
        }
        reply => render(reply, shown, echoed),
    };
    head.measured(response.status(), began.elapsed());
    response
}

impl Head {
    /// Refuses more than anybody has to say before a body.
    fn check_size(&self) -> Result<(), OsbError> {
        let headers = self.headers.iter();
        // As they stand on the wire: a colon, a space and the end of the line beside each.
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 4);
        let line = self.method.as_str().len() + self.path.as_str().len() + self.query.len();
        if self.headers.len() > MAX_HEADERS || line + headers.sum::<usize>() > MAX_HEAD {
            return Err(OsbError::head_too_large(MAX_HEAD, MAX_HEADERS));
        }
        Ok(())
    }

    /// Counts the request that was answered.
    fn measured(&self, status: StatusCode, took: Duration) {
        let call = Call::of(&self.method, self.path.as_str());
        let route = call.as_ref().map_or("none", |call| call.log_fields().0);
        let plan = self
            .plan
            .get()
            .map_or(Cow::Borrowed(""), |plan| Cow::Owned(plan.clone()));
        record::request(route, plan, status.as_u16(), took);
    }
}

impl Facade {
    /// Notes which plan a request is about, if it is one that is offered.
    fn about(&self, asking: &Asking<'_>, plan: Option<&str>) {
        let catalog = self.catalog.borrow().clone();
        let offered = catalog
            .as_ref()
            .zip(plan)
            .and_then(|(catalog, plan)| catalog.plan_by_id(plan));
        if let Some(offered) = offered {
            // It is set once a request.
            let _ = asking.head.plan.set(offered.resource.clone());
        }
    }

    async fn reply<B: Buf>(
        &self,
        head: &Head,
        version: Result<Version, OsbError>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Sent, OsbError> {
        head.check_size()?;
        let authenticator = &self.authenticator;
        let caller = authenticator
            .authenticate(&head.method, &head.headers, head.subject.as_ref())
            .await?;
        let call = Call::of(&head.method, head.path.as_str());
        // Clients of the actions know no API versions.
        let version = match &call {
            Ok(call) if !call.is_specified() && !head.headers.contains_key(version::HEADER) => Version::V17,
            _ => version?,
        };
        let call = call?;
        let reply = match &call {
            Call::Catalog => self.catalog(&head.headers, version),
            // Boxed, so that the catalog, which needs no waiting, does not carry the room for it around.
            call => Box::pin(self.counted(call, head, version, &caller, body)).await,
        };
        let (name, instance, binding) = call.log_fields();
        let status = match &reply {
            Ok(Sent::Answer(answer)) => answer.status,
            Ok(Sent::Catalog(_)) => StatusCode::OK,
            Ok(Sent::NotModified(_)) => StatusCode::NOT_MODIFIED,
            Err(error) => error.status(),
        }
        .as_u16();
        // A bad request is told with what was wrong in it, which may be a tenant's secret.
        let refusal = reply
            .as_ref()
            .err()
            .filter(|error| error.status() != StatusCode::BAD_REQUEST);
        let refusal = refusal.map(OsbError::description);
        let instance = instance.map(InstanceId::as_str);
        let binding = binding.map(BindingId::as_str);
        // Of what takes time, the operation that the steps are logged with.
        let operation = match &reply {
            Ok(Sent::Answer(answer)) => answer.body.get("operation").and_then(serde_json::Value::as_str),
            _ => None,
        };
        if call.changes() {
            tracing::info!(
                call = name,
                caller,
                instance,
                binding,
                operation,
                status,
                refusal,
                "served"
            );
        } else {
            tracing::debug!(
                call = name,
                caller,
                instance,
                binding,
                operation,
                status,
                refusal,
                "served"
            );
        }
        reply
    }

    async fn counted<B: Buf>(
        &self,
        call: &Call,
        head: &Head,
        version: Version,
        caller: &str,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Sent, OsbError> {
        let _underway = self.limits.enter(caller, Instant::now())?;
        let asking = Asking {
            head,
            version,
            query: Query::parse(&head.query),
            asker: identity::asker(caller.to_owned(), &head.headers)?,
        };
        self.call(call, &asking, body).await
    }

    async fn call<B: Buf>(
        &self,
        call: &Call,
        asking: &Asking<'_>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Sent, OsbError> {
        let version = asking.version;
        let body = read(&asking.head.headers, body);
        match call {
            Call::Catalog => return self.catalog(&asking.head.headers, version),
            Call::Provision(id) => self.provision(id, asking, &body.await?).await,
            Call::Update(id) => self.update(id, asking, &body.await?).await,
            Call::Bind(id, binding) => self.bind(id, binding, asking, &body.await?).await,
            Call::Fetch(id) => decide::fetch::instance(self.ledger.instance(id).await?.as_ref(), version),
            Call::Deprovision(id) => self.deprovision(id, asking).await,
            Call::LastOperation(id) => self.last_operation(id, asking).await,
            Call::FetchBinding(id, binding) => {
                decide::bind::fetched(self.ledger.binding(id, binding).await?.as_ref(), version)
            }
            Call::Unbind(id, binding) => self.unbind(id, binding, asking).await,
            Call::LastBindingOperation(id, binding) => self.last_binding_operation(id, binding, asking).await,
            Call::Act(id, action, backup) => self.act(id, *action, backup.as_deref(), asking).await,
            Call::ActionSchema(id, action) => {
                let held = self.ledger.instance(id).await?;
                decide::fetch::exists(held.as_ref())?;
                Ok(Answer::new(StatusCode::OK, action.document(id)))
            }
        }
        .map(Sent::Answer)
    }

    fn catalog(&self, headers: &HeaderMap, version: Version) -> Result<Sent, OsbError> {
        let catalog = self.current_catalog()?;
        let document = catalog.document(version).ok_or_else(OsbError::internal)?;
        let chosen = document.accepted(headers);
        let known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|tags| matches(tags, &chosen.etag));
        Ok(if known {
            Sent::NotModified(chosen.etag.clone())
        } else {
            Sent::Catalog(chosen.clone())
        })
    }

    fn current_catalog(&self) -> Result<Arc<Catalog>, OsbError> {
        self.catalog.borrow().clone().ok_or_else(|| {
            OsbError::unavailable("the plans were not read from Kubernetes yet and nothing was recorded: try again")
        })
    }
}

/// Whether an `If-None-Match` names an entity tag (RFC 9110, 13.1.2).
fn matches(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else {
        return false;
    };
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Reads a body within its bounds.
async fn read<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Vec<u8>, OsbError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(OsbError::too_large(MAX_BODY));
    }
    let all = async {
        let mut body = std::pin::pin!(body);
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|_| OsbError::bad_request("the body broke off: send it again"))?;
            while chunk.has_remaining() {
                let part = chunk.chunk();
                if bytes.len() + part.len() > MAX_BODY {
                    return Err(OsbError::too_large(MAX_BODY));
                }
                bytes.extend_from_slice(part);
                let read = part.len();
                chunk.advance(read);
            }
        }
        Ok(bytes)
    };
    tokio::time::timeout(BODY_TIMEOUT, all)
        .await
        .unwrap_or_else(|_| Err(OsbError::late_body()))
}

fn render(reply: Result<Sent, OsbError>, version: Version, identity: Option<HeaderValue>) -> Response {
    let mut response = match reply {
        Ok(Sent::Catalog(chosen)) => {
            let mut response = Response::new(chosen.body.into());
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            if let Some(encoding) = chosen.encoding {
                response.headers_mut().insert(CONTENT_ENCODING, encoding);
            }
            tag(&mut response, chosen.etag);
            response
        }
        Ok(Sent::NotModified(etag)) => {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            tag(&mut response, etag);
            response
        }
        Ok(Sent::Answer(answer)) => {
            let mut response = json(answer.status, &answer.body);
            if let Some(pause) = answer.retry_after.filter(|_| version >= Version::V15) {
                response.headers_mut().insert(RETRY_AFTER, pause.as_secs().into());
            }
            response
        }
        Err(error) => {
            let mut response = json(error.status(), &error.body(version));
            if error.status() == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static("Basic realm=\"cache-broker\", charset=\"UTF-8\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            if let Some(pause) = error.retry_after() {
                response.headers_mut().insert(RETRY_AFTER, pause.as_secs().into());
            }
            if let Some(allowed) = error.allowed() {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            response
        }
    };
    if let Some(identity) = identity {
        response.headers_mut().insert(identity::REQUEST, identity);
    }
    response
}

fn tag(response: &mut Response, etag: HeaderValue) {
    response.headers_mut().insert(ETAG, etag);
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("X-Broker-API-Version, Accept-Encoding"));
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(Bytes::from(body.to_string()).into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
