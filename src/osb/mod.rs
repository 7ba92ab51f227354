//! The Open Service Broker facade: HTTP in, ledger out.
//!
//! A request is authenticated, its version checked, its path and body read, and then judged by a [pure function](decide)
//! of what the ledger holds. It never waits for Kubernetes or a provider.

mod auth;
pub mod catalog;
mod credentials;
pub mod decide;
pub mod error;
pub mod request;
mod routes;
pub mod server;
pub mod services;
mod version;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream, StreamExt};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use warp::Filter;
use warp::path::FullPath;
use warp::reply::Response;

pub use crate::api::Namespaces;
pub use auth::Authenticator;
pub use catalog::{Catalog, CatalogCell};
pub use services::Services;
pub use version::Version;

use crate::api::CachePlanSpec;
use crate::ledger::{BindingId, InstanceId, Ledger, Provisioned, Settled};
use crate::webhooks::Policy;
use catalog::Document;
use decide::Answer;
use error::OsbError;
use request::{BindRequest, DeprovisionRequest, ProvisionRequest, Query};
use routes::Call;

/// The header by which platforms find a request in our log (OSB 2.17, "Request Identity").
const IDENTITY: HeaderName = HeaderName::from_static("x-broker-api-request-identity");
/// The longest request identity that is kept.
const MAX_IDENTITY: usize = 255;
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
    pub authenticator: Authenticator,
    /// Where ordered instances go.
    pub namespaces: Namespaces,
    /// Where webhooks may go.
    pub webhook_policy: Policy,
}

/// What is sent back.
enum Sent {
    Answer(Answer),
    Catalog(Document),
    NotModified(HeaderValue),
}

/// A request without its body.
struct Head {
    method: Method,
    path: FullPath,
    query: String,
    headers: HeaderMap,
}

/// The API as a filter. It rejects nothing: every request gets a reply of its own.
pub fn filter(facade: Arc<Facade>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path, query, headers, body| {
            let head = Head {
                method,
                path,
                query,
                headers,
            };
            serve(facade.clone(), head, body)
        })
        .recover(|_| async { Ok::<_, Infallible>(render(Err(OsbError::internal()), Version::V17, None)) })
        .unify()
}

async fn serve<B: Buf>(facade: Arc<Facade>, head: Head, body: impl Stream<Item = Result<B, warp::Error>>) -> Response {
    let identity = head.headers.get(IDENTITY).cloned();
    let version = Version::of(&head.headers);
    let shown = *version.as_ref().unwrap_or(&Version::V17);
    let reply = AssertUnwindSafe(facade.reply(&head, version, body)).catch_unwind();
    let reply = reply.await.unwrap_or_else(|_| {
        tracing::error!(method = %head.method, path = head.path.as_str(), "a request made the broker panic");
        Err(OsbError::internal())
    });
    render(reply, shown, identity)
}

impl Facade {
    async fn reply<B: Buf>(
        &self,
        head: &Head,
        version: Result<Version, OsbError>,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Sent, OsbError> {
        self.authenticator.authenticate(&head.headers)?;
        let version = version?;
        let call = Call::of(&head.method, head.path.as_str())?;
        let reply = match &call {
            Call::Catalog => self.catalog(&head.headers, version),
            // Boxed, so that the catalog, which needs no waiting, does not carry the room for it around.
            call => Box::pin(self.call(call, head, version, body)).await,
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
        if call.changes() {
            let identity = identity(&head.headers);
            tracing::info!(call = name, instance, binding, status, refusal, identity, "served");
        } else {
            tracing::debug!(call = name, instance, binding, status, refusal, "served");
        }
        reply
    }

    async fn call<B: Buf>(
        &self,
        call: &Call,
        head: &Head,
        version: Version,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Sent, OsbError> {
        match call {
            Call::Catalog => return self.catalog(&head.headers, version),
            Call::Provision(id) => {
                let body = read(&head.headers, body).await?;
                self.provision(id, head, version, &body).await
            }
            Call::Bind(id, binding) => {
                let body = read(&head.headers, body).await?;
                self.bind(id, binding, version, &body).await
            }
            Call::Fetch(id) => decide::fetch::instance(self.ledger.instance(id).await?.as_ref(), version),
            Call::Deprovision(id) => self.deprovision(id, head).await,
            Call::LastOperation(id) => self.last_operation(id, head, version).await,
            Call::FetchBinding(id, binding) => {
                decide::bind::fetched(self.ledger.binding(id, binding).await?.as_ref(), version)
            }
            Call::Unbind(id, binding) => self.unbind(id, binding, head).await,
        }
        .map(Sent::Answer)
    }

    fn catalog(&self, headers: &HeaderMap, version: Version) -> Result<Sent, OsbError> {
        let document = self.current_catalog()?.document(version).cloned();
        let document = document.ok_or_else(OsbError::internal)?;
        let known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|tags| matches(tags, &document.etag));
        Ok(if known {
            Sent::NotModified(document.etag)
        } else {
            Sent::Catalog(document)
        })
    }

    fn current_catalog(&self) -> Result<Arc<Catalog>, OsbError> {
        self.catalog.borrow().clone().ok_or_else(|| {
            OsbError::unavailable("the plans were not read from Kubernetes yet and nothing was recorded: try again")
        })
    }

    async fn provision(&self, id: &InstanceId, head: &Head, version: Version, body: &[u8]) -> decide::Reply {
        let query = Query::parse(&head.query);
        let identity = identity(&head.headers);
        let request = ProvisionRequest::parse(body, &query, version, self.webhook_policy, identity)?;
        let catalog = self.current_catalog()?;
        let plan = catalog.plan(&request.service_id, &request.plan_id);
        decide::provision::admit(&request, plan)?;
        let settled = self
            .ledger
            .provision(id, |held| {
                decide::provision::judge(&request, plan, &self.namespaces, held)
            })
            .await?;
        match settled {
            Settled::Answered(reply) => reply,
            Settled::Accepted(Provisioned::Begun(operation)) => Ok(Answer::accepted(operation)),
            Settled::Accepted(Provisioned::Claimed) => Ok(Answer::created()),
        }
    }

    async fn deprovision(&self, id: &InstanceId, head: &Head) -> decide::Reply {
        let query = Query::parse(&head.query);
        let request = DeprovisionRequest::parse(&query, self.webhook_policy, identity(&head.headers))?;
        decide::deprovision::admit(&request)?;
        // Deleting works without a catalog, and without the plan.
        let catalog = self.catalog.borrow().clone();
        let settled = self
            .ledger
            .deprovision(id, |held| {
                let plan = held.and_then(|held| catalog.as_ref()?.plan_by_id(&held.instance.plan_id));
                let deadline = plan.map_or(CachePlanSpec::DEFAULT_OPERATION_DEADLINE, |plan| {
                    plan.spec.operation_deadline()
                });
                decide::deprovision::judge(&request, held, deadline)
            })
            .await?;
        match settled {
            Settled::Answered(reply) => reply,
            Settled::Accepted(operation) => Ok(Answer::accepted(operation)),
        }
    }

    async fn last_operation(&self, id: &InstanceId, head: &Head, version: Version) -> decide::Reply {
        let query = Query::parse(&head.query);
        let named = decide::last_operation::named(query.get("operation"), id)?;
        let polled = self.ledger.poll(id, named).await?;
        decide::last_operation::judge(polled.as_ref(), named.is_some(), version, jiff::Timestamp::now())
    }

    async fn bind(&self, id: &InstanceId, binding: &BindingId, version: Version, body: &[u8]) -> decide::Reply {
        let request = BindRequest::parse(body)?;
        let settled = self
            .ledger
            .bind(id, binding, |held, existing| {
                decide::bind::judge(&request, held, existing, version)
            })
            .await?;
        match settled {
            Settled::Answered(reply) => reply,
            Settled::Accepted(new) => Ok(decide::bind::bound(StatusCode::CREATED, &new.credentials, version)),
        }
    }

    /// An unknown binding is gone, whatever else is wrong with the request.
    async fn unbind(&self, id: &InstanceId, binding: &BindingId, head: &Head) -> decide::Reply {
        if let Err(error) = request::check_unbind(&Query::parse(&head.query)) {
            return match self.ledger.binding(id, binding).await? {
                Some(_) => Err(error),
                None => Err(OsbError::gone()),
            };
        }
        if self.ledger.unbind(id, binding).await? {
            Ok(Answer::done())
        } else {
            Err(OsbError::gone())
        }
    }
}

/// The request identity as it is kept.
fn identity(headers: &HeaderMap) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(IDENTITY)?.as_bytes());
    let text: String = text
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_IDENTITY)
        .collect();
    (!text.is_empty()).then_some(text)
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
        Ok(Sent::Catalog(document)) => {
            let mut response = Response::new(document.body.into());
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            tag(&mut response, document.etag);
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
            if let Some(allowed) = error.allowed() {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            response
        }
    };
    if let Some(identity) = identity {
        response.headers_mut().insert(IDENTITY, identity);
    }
    response
}

fn tag(response: &mut Response, etag: HeaderValue) {
    response.headers_mut().insert(ETAG, etag);
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("X-Broker-API-Version"));
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
