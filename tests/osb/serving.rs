use std::sync::Arc;
use std::time::Duration;

use cache_broker::osb::limits::Counter;
use cache_broker::osb::{self, Authenticator, Catalog, Facade, Namespaces, Quotas, Services, server};
use cache_broker::webhooks::Policy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::broker::{PATIENCE, ledger, plan};

/// A facade that serves anybody, whose database nobody needs to reach.
fn facade() -> (Arc<Facade>, watch::Sender<Option<Arc<Catalog>>>) {
    facade_for(Authenticator::new(None, None))
}

/// The same, for those whom an authenticator knows.
pub fn facade_for(authenticator: Authenticator) -> (Arc<Facade>, watch::Sender<Option<Arc<Catalog>>>) {
    let catalog = Catalog::new(&Services::read(None).unwrap(), [&plan()], &|_| true);
    let (send, catalog) = watch::channel(Some(Arc::new(catalog)));
    let facade = Facade {
        ledger: ledger("postgres://u:p@127.0.0.1:1/d?sslmode=disable"),
        catalog,
        authenticator: Arc::new(authenticator),
        namespaces: Namespaces {
            memcached: "m".to_owned(),
            redis: "r".to_owned(),
        },
        webhook_policy: Policy::Public,
        trust: cache_broker::wire::Trust::new(None).unwrap(),
        limits: Counter::default(),
        quotas: Quotas::default(),
    };
    (Arc::new(facade), send)
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_has_and_takes_no_more() {
    let (facade, _catalog) = facade();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(facade, listener, None, async {
        let _ = stopped.await;
    }));
    // Half a request is under way, and an idle connection open.
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let put =
        "PUT /v2/service_instances/i HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.17\r\ncontent-length: 2\r\n\r\n{";
    stream.write_all(put.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(address).await.is_err());
    stream.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

/// A server with bounds of its own.
async fn bounded(bounds: server::Bounds) -> (std::net::SocketAddr, watch::Sender<Option<Arc<Catalog>>>) {
    let (facade, catalog) = facade();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve_within(
        bounds,
        facade,
        listener,
        None,
        std::future::pending(),
    ));
    (address, catalog)
}

const CATALOG: &str = "GET /v2/catalog HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.17\r\n";

/// The answer to a request, or nothing, if the server hangs up before.
async fn answer(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    read.map(|_| String::from_utf8(bytes).unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn slow_clients_keep_nobody_waiting_and_are_given_up() {
    let bounds = server::Bounds {
        connections: 64,
        header: Duration::from_millis(400),
        write: Duration::from_millis(400),
    };
    let (address, _catalog) = bounded(bounds).await;
    // Some say half of what they want, some ask again and again and read nothing.
    let mut slow = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(CATALOG.as_bytes()).await.unwrap();
        } else {
            let many = format!("{CATALOG}\r\n").repeat(500);
            let full = async { while stream.write_all(many.as_bytes()).await.is_ok() {} };
            // Until nothing more goes in.
            let _ = tokio::time::timeout(Duration::from_millis(20), full).await;
        }
        slow.push(stream);
    }
    let whole = format!("{CATALOG}connection: close\r\n\r\n");
    assert!(answer(address, &whole).await.starts_with("HTTP/1.1 200"));
    for mut stream in slow {
        let ended = async {
            let mut some = [0; 65536];
            while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_until_there_is_some() {
    let bounds = server::Bounds {
        connections: 1,
        ..server::Bounds::default()
    };
    let (address, _catalog) = bounded(bounds).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(format!("{CATALOG}\r\n").as_bytes()).await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let whole = format!("{CATALOG}connection: close\r\n\r\n");
    let second = answer(address, &whole);
    tokio::pin!(second);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut second)
            .await
            .is_err()
    );
    drop(first);
    assert!(second.await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_target_without_a_path_is_refused_like_any_other() {
    let (address, _catalog) = bounded(server::Bounds::default()).await;
    for target in ["example", "example:80", "*"] {
        let headers = "host: x\r\nx-broker-api-version: 2.17\r\nconnection: close\r\n\r\n";
        let said = answer(address, &format!("GET {target} HTTP/1.1\r\n{headers}")).await;
        assert!(
            said.starts_with("HTTP/1.1 404") && said.contains("not part of the API"),
            "{target}: {said}"
        );
    }
}

#[tokio::test]
async fn heads_without_end_are_refused() {
    let (address, _catalog) = bounded(server::Bounds::default()).await;
    // What is too much is told to whoever sent it, as long as it can be read at all.
    let (many, long) = ("a: b\r\n".repeat(120), format!("a: {}\r\n", "b".repeat(70 * 1024)));
    let identity = "x-broker-api-request-identity: request-1\r\n";
    for headers in [&many, &long] {
        let said = answer(
            address,
            &format!("{CATALOG}{identity}connection: close\r\n{headers}\r\n"),
        )
        .await;
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
        assert!(
            said.contains("\r\nx-broker-api-request-identity: request-1\r\n"),
            "{said}"
        );
        assert!(
            said.contains("{\"description\":\"") && said.contains("send less"),
            "{said}"
        );
    }
    let query = format!("GET /v2/catalog?a={} HTTP/1.1\r\n", "b".repeat(60 * 1024));
    let small = query.replacen("b", "", 1) + "host: x\r\nx-broker-api-version: 2.17\r\nconnection: close\r\n\r\n";
    assert!(answer(address, &small).await.starts_with("HTTP/1.1 200"));

    let many = "a: b\r\n".repeat(300);
    let long = format!("a: {}\r\n", "b".repeat(400 * 1024));
    for headers in [many, long] {
        let said = answer(address, &format!("{CATALOG}{headers}\r\n")).await;
        // Or the connection was cut with what the server did not read.
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    }
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(400 * 1024));
    let said = answer(address, &target).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
}

/// A body that makes whoever reads it panic.
struct Bomb;

impl hyper::body::Body for Bomb {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        panic!("boom")
    }
}

#[tokio::test]
async fn a_panic_is_the_end_of_one_request_only() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    let (facade, _catalog) = facade();
    let service = warp::service(osb::filter(facade));
    let request = http::Request::put("/v2/service_instances/i")
        .header("x-broker-api-version", "2.17")
        .header("x-broker-api-request-identity", "request-1")
        .body(Bomb)
        .unwrap();
    let response = service.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["x-broker-api-request-identity"], "request-1");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let said = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        said.starts_with("{\"description\":") && said.contains("at request request-1"),
        "{said}"
    );
    // Who gave it no name gets one to ask the broker's owner by.
    let request = http::Request::put("/v2/service_instances/i")
        .header("x-broker-api-version", "2.17")
        .body(Bomb)
        .unwrap();
    let response = service.clone().oneshot(request).await.unwrap();
    let name = response.headers()["x-broker-api-request-identity"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8(body.to_vec()).unwrap().contains(&name));
    let request = http::Request::get("/v2/catalog")
        .header("x-broker-api-version", "2.17")
        .body(Bomb)
        .unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

/// A server that takes connections and says nothing, as behind a broken network.
#[tokio::test]
async fn a_silent_database_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/d?sslmode=disable", silent.local_addr().unwrap());
    let ledger = ledger(&url);
    let id = "i".parse().unwrap();
    let error = tokio::time::timeout(Duration::from_secs(15), ledger.poll(&id, None))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(!error.to_string().contains("u:p"), "{error}");
}
