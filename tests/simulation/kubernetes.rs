//! How a process reaches the API server.

use std::sync::Arc;

use bytes::Bytes;
use cache_broker::cluster;
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use sandbox::in_memory_kubernetes::Answer;
use serde_json::{Value, json};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::BoxError;

use crate::gate::{Call, Failure, System, Verdict};
use crate::world::{KubeRequest, Late, World, is_quiet};

type Sent = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A client of one process.
pub fn client(world: &Arc<World>, process: usize) -> Client {
    let world = world.clone();
    let service = tower::service_fn(move |request| serve(world.clone(), process, request));
    Client::new(cluster::with_deadline(service), "default")
}

async fn serve(world: Arc<World>, process: usize, request: Request<Body>) -> Result<Sent, BoxError> {
    let (head, body) = request.into_parts();
    let header = |name| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let request = KubeRequest {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept: header(ACCEPT).to_owned(),
        content_type: header(CONTENT_TYPE).to_owned(),
        method: head.method.clone(),
        body: body.collect().await?.to_bytes(),
    };
    let watches = request.query.contains("watch=true");
    let name = || {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let name = body
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if request.method == Method::POST {
            format!("/{name}")
        } else {
            String::new()
        }
    };
    let quiet = is_quiet(&request.path);
    let call = Call {
        system: System::Kubernetes,
        what: format!(
            "{}{} {}{}",
            if watches { "WATCH " } else { "" },
            request.method,
            request.path,
            name()
        ),
        writes: request.method != Method::GET,
        quiet,
    };
    if request.method == Method::PUT && request.path.contains("/leases/") {
        let deluded = {
            let state = world.state();
            let is_it = |(who, until)| who == process && tokio::time::Instant::now() < until;
            state.deluded.is_some_and(is_it) || state.outlived.contains(&process)
        };
        if deluded {
            return Ok(once(StatusCode::OK, &serde_json::from_slice(&request.body)?));
        }
    }
    match world.pass(process, call).await {
        Verdict::Go => Ok(answer(&world, process, &request)),
        Verdict::Lose => {
            drop(world.kubernetes(&request));
            Err("the connection was reset".into())
        }
        Verdict::Slow(by) => {
            let answer = answer(&world, process, &request);
            tokio::time::sleep(by).await;
            Ok(answer)
        }
        Verdict::DieBefore => world.die(process).await,
        Verdict::Die => {
            drop(world.kubernetes(&request));
            world.die(process).await
        }
        Verdict::Late => {
            send_late(&world, request);
            std::future::pending().await
        }
        Verdict::Outlive => {
            send_late(&world, request);
            world.die(process).await
        }
        Verdict::Fail(failure) => {
            let refused = |code: u16, reason: &str| {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                    "reason": reason, "message": "struck by the simulation",
                });
                Ok(once(StatusCode::from_u16(code)?, &status))
            };
            match failure {
                Failure::Broken => Err("the connection was refused".into()),
                Failure::Throttled => refused(429, "TooManyRequests"),
                Failure::Internal => refused(500, "InternalError"),
                Failure::Unavailable => refused(503, "ServiceUnavailable"),
                Failure::Silence => std::future::pending().await,
            }
        }
    }
}

/// Lets a request come when its caller has given it up.
fn send_late(world: &World, request: KubeRequest) {
    let mut state = world.state();
    let made = state.api.made().clone();
    state.late.push(Late::Kubernetes(request, made));
}

fn answer(world: &Arc<World>, process: usize, request: &KubeRequest) -> Sent {
    match world.kubernetes(request) {
        Answer::Once(status, body) => once(status, &body),
        Answer::Watch(watch) => {
            let lines = UnboundedReceiverStream::new(world.open(process, request.path.clone(), watch));
            let frames = lines.map(|line| Ok::<_, BoxError>(http_body::Frame::data(line)));
            Response::new(UnsyncBoxBody::new(StreamBody::new(frames)))
        }
    }
}

fn once(status: StatusCode, body: &Value) -> Sent {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = status;
    response
}
