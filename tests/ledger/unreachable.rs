//! The outbox while the API server is away, and once it is back.

use std::convert::Infallible;
use std::time::Duration;

use cache_broker::control::outbox;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{HOUR, World};

const ORDERS: i64 = 120;
/// How many rows are written at one time.
const AT_ONCE: i64 = 48;

impl World {
    async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Waits until a number of the ledger is so large.
    async fn until(&self, query: &str, least: i64) {
        let wait = async {
            while self.number(query).await < least {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap_or_else(|_| panic!("{query}: less than {least}"));
    }
}

/// An API server that knows of nothing and takes what is made.
async fn answer(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (status, body) = if request.method() == hyper::Method::POST {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut made: Value = serde_json::from_slice(&body).unwrap();
        made["metadata"]["uid"] = json!("uid");
        made["metadata"]["resourceVersion"] = json!("1");
        (201, made)
    } else {
        let unknown = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "none",
        });
        (404, unknown)
    };
    let response = hyper::Response::builder().status(status);
    let response = response.header("content-type", "application/json");
    Ok(response.body(Full::from(body.to_string())).unwrap())
}

#[tokio::test]
async fn while_the_api_server_is_away_one_row_at_a_time_tries_it() {
    const TRIED: &str = "select coalesce(sum(outbox_attempts), 0)::bigint from instances";
    let world = World::new().await;
    for nth in 0..ORDERS {
        world.ordered(&format!("order-{nth}"), HOUR).await;
    }
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn(outbox::run(world.ledger.clone(), client, stopped));

    world.until(TRIED, AT_ONCE + 2).await;
    let untried = "select count(*) from instances where outbox_attempts = 0";
    let untried = world.number(untried).await;
    assert!(untried >= ORDERS - AT_ONCE - 5, "{untried} of {ORDERS} were not tried");

    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let written = "select count(*) from instances where applied_revision = desired_revision";
    world.until(written, ORDERS).await;
    stop.send_replace(true);
    writing.await.unwrap();
}
