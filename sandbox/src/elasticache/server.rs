//! The HTTP side: requests of the API on `/`, and the sandbox's own control under `/_sandbox/`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use super::error::ApiError;
use super::faults::{Fault, FaultKind};
use super::query::{Request, check_signature};
use super::xml;
use super::{Call, Shared, Times};

/// The largest body that is read.
const LARGEST: usize = 1 << 20;

/// Answers until it is aborted.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the ElastiCache endpoint");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut closing = shared.closing.subscribe();
            let service = service_fn(|request| answer(shared.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection to the ElastiCache endpoint ended");
                },
                _ = closing.changed() => {}
            }
        });
    }
}

/// Ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost on purpose")]
struct Lost;

type Answer = Response<Full<Bytes>>;

async fn answer(shared: Arc<Shared>, request: HttpRequest<Incoming>) -> Result<Answer, Lost> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return Ok(plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                "text/plain",
                "The body is too large.",
            ));
        }
    };
    if let Some(path) = head.uri.path().strip_prefix("/_sandbox") {
        return Ok(control(&shared, &head.method, path.trim_matches('/'), &body));
    }
    let get = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let id = uuid::Uuid::new_v4().to_string();
    let text = match head.method {
        Method::GET => head.uri.query().unwrap_or_default().to_owned(),
        _ => String::from_utf8_lossy(&body).into_owned(),
    };
    let decoded =
        check_signature(get("authorization"), get("x-amz-date"), shared.region()).and_then(|()| Request::decode(&text));
    let request = match decoded {
        Ok(request) => request,
        Err(error) => return Ok(refuse(&error, &id)),
    };
    let fault = shared.strike(&request);
    if let Some(error) = fault.as_ref().and_then(|fault| fault.refusal(&request)) {
        shared.record(Call::new(&request, shared.now(), error.code.as_ref()));
        return Ok(refuse(&error, &id));
    }
    match &fault {
        Some(FaultKind::Timeout) => {
            shared.record(Call::new(&request, shared.now(), "(no answer)"));
            std::future::pending::<Infallible>().await;
        }
        Some(FaultKind::Slow { milliseconds }) => tokio::time::sleep(Duration::from_millis(*milliseconds)).await,
        _ => {}
    }
    let result = shared.handle(&request, fault.as_ref());
    let lost = fault == Some(FaultKind::LostAnswer);
    let outcome = match &result {
        Ok(_) => "ok",
        Err(error) => error.code.as_ref(),
    };
    shared.record(Call {
        lost,
        ..Call::new(&request, shared.now(), outcome)
    });
    match result {
        _ if lost => Err(Lost),
        Ok(reply) => Ok(respond(
            StatusCode::OK,
            &id,
            xml::answer(&request.operation, &id, &reply),
        )),
        Err(error) => Ok(refuse(&error, &id)),
    }
}

fn refuse(error: &ApiError, id: &str) -> Answer {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    respond(status, id, xml::refusal(error, id))
}

fn respond(status: StatusCode, id: &str, body: String) -> Answer {
    let mut response = plain(status, "text/xml", body);
    if let Ok(value) = id.parse() {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    response
}

fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => plain(StatusCode::OK, "application/json", body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// Which cluster or group is meant; absent means all.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Which {
    id: Option<String>,
}

/// A status that a cluster or group shall show.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    id: String,
    status: String,
}

fn control(shared: &Arc<Shared>, method: &Method, path: &str, body: &Bytes) -> Answer {
    let done = || plain(StatusCode::NO_CONTENT, "text/plain", "");
    let result = match (method.as_str(), path) {
        ("GET", "") => Ok(json(&serde_json::json!({
            "url": shared.url,
            "region": shared.region(),
            "ca_file": shared.ca_file,
            "nodes": if shared.real() { "real" } else { "simulated" },
        }))),
        ("GET", "calls") => Ok(json(&shared.calls())),
        ("DELETE", "calls") => {
            shared.forget_calls();
            Ok(done())
        }
        ("GET", "remaining") => Ok(json(&shared.remaining())),
        ("GET", "times") => Ok(json(&shared.times())),
        ("PUT", "times") => read::<Times>(body).map(|times| {
            shared.set_times(times);
            done()
        }),
        ("GET", "faults") => Ok(json(&shared.faults())),
        ("PUT", "faults") => read::<Vec<Fault>>(body).map(|faults| {
            shared.set_faults(faults);
            done()
        }),
        ("POST", "faults") => read::<Fault>(body).map(|fault| {
            shared.add_fault(fault);
            done()
        }),
        ("DELETE", "faults") => {
            shared.set_faults(Vec::new());
            Ok(done())
        }
        ("PUT", "limits") => read(body).map(|limits| {
            shared.with_cloud(|cloud| cloud.limits = limits);
            done()
        }),
        ("POST", "maintenance") => read::<Which>(body).map(|which| {
            shared.with_cloud(|cloud| cloud.maintenance(which.id.as_deref()));
            done()
        }),
        ("PUT", "status") => read::<Status>(body).and_then(|set| {
            match shared.with_cloud(|cloud| cloud.force_status(&set.id, &set.status)) {
                true => Ok(done()),
                false => Err(format!("There is no {}.", set.id)),
            }
        }),
        ("POST", "backup") => read::<Which>(body).map(|which| {
            shared.with_cloud(|cloud| cloud.backup(which.id.as_deref().unwrap_or_default()));
            done()
        }),
        _ => Ok(plain(StatusCode::NOT_FOUND, "text/plain", "There is no such control.")),
    };
    result.unwrap_or_else(|why| plain(StatusCode::BAD_REQUEST, "text/plain", why))
}
