//! Receivers of webhooks: they take what comes, keep it, and answer as they are told.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use cache_broker::dial::{Dial, Dialling, Line};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::gate::{Call, Failure, System, Verdict};
use crate::world::World;

/// What came, by host.
#[derive(Debug, Default)]
pub struct Receiver {
    pub got: BTreeMap<String, Vec<Value>>,
}

/// How one process reaches receivers.
pub struct Network {
    pub world: Weak<World>,
    pub process: usize,
}

impl Dial for Network {
    fn dial(&self, host: &str, _port: u16) -> Dialling {
        let (world, process, host) = (self.world.clone(), self.process, host.to_owned());
        Box::pin(async move {
            let world = world.upgrade().ok_or(io::ErrorKind::ConnectionRefused)?;
            let call = Call {
                system: System::Receiver,
                what: format!("POST to {host}"),
                writes: true,
                quiet: false,
            };
            let verdict = world.pass(process, call).await;
            let status = match verdict {
                Verdict::Fail(Failure::Broken) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Verdict::Fail(Failure::Silence) => std::future::pending().await,
                Verdict::Fail(Failure::Throttled) => Some(StatusCode::TOO_MANY_REQUESTS),
                Verdict::Fail(Failure::Internal) => Some(StatusCode::INTERNAL_SERVER_ERROR),
                Verdict::Fail(Failure::Unavailable) => Some(StatusCode::SERVICE_UNAVAILABLE),
                Verdict::DieBefore => world.die(process).await,
                Verdict::Go | Verdict::Slow(_) | Verdict::Lose | Verdict::Die | Verdict::Late | Verdict::Outlive => {
                    None
                }
            };
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    take(world.clone(), process, host.clone(), status, verdict, request)
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
                drop(connection.await);
            });
            Ok(Box::new(ours) as Box<dyn Line>)
        })
    }
}

/// Takes an event, and answers as it is told.
async fn take(
    world: Arc<World>,
    process: usize,
    host: String,
    status: Option<StatusCode>,
    verdict: Verdict,
    request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let mut response = Response::new(Full::new(Bytes::new()));
    if let Some(status) = status {
        *response.status_mut() = status;
        return Ok(response);
    }
    let event = serde_json::from_slice(&body).unwrap_or_default();
    {
        let mut state = world.state();
        state.wrote();
        state.receiver.got.entry(host).or_default().push(event);
    }
    match verdict {
        Verdict::Die | Verdict::Outlive => world.die(process).await,
        Verdict::Lose | Verdict::Late => Err(io::ErrorKind::ConnectionReset.into()),
        Verdict::Slow(by) => {
            tokio::time::sleep(by).await;
            Ok(response)
        }
        Verdict::Go | Verdict::DieBefore | Verdict::Fail(_) => Ok(response),
    }
}

/// The way out of one process.
pub fn network(world: &Arc<World>, process: usize) -> Arc<dyn Dial> {
    Arc::new(Network {
        world: Arc::downgrade(world),
        process,
    })
}
