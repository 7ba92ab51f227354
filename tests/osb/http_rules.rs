use std::io::Read;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cache_broker::osb::{Catalog, Services};
use flate2::read::GzDecoder;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::broker::{Broker, PATIENCE, plan};

const ORDER: &str = "/v2/service_instances/i?accepts_incomplete=true";

#[tokio::test]
async fn strangers_and_old_platforms_are_refused_before_anything_else() {
    let broker = Broker::start().await;
    let with = |authorization: Option<&str>, version: Option<&str>, path: &str| {
        let mut request = Request::get(path).header("x-broker-api-request-identity", "request-1");
        if let Some(pair) = authorization {
            request = request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)));
        }
        if let Some(version) = version {
            request = request.header("x-broker-api-version", version);
        }
        request.body(Full::default()).unwrap()
    };
    for (authorization, version, path, status) in [
        (None, None, "/v2/catalog", 401),
        (None, None, "/nowhere", 401),
        (Some("u:q"), Some("2.17"), "/v2/catalog", 401),
        (Some("u:p"), None, "/v2/catalog", 412),
        (Some("u:p"), Some("2.12"), "/v2/catalog", 412),
        (Some("u:p"), Some("latest"), "/v2/catalog", 412),
        (Some("u:p"), Some("2.99"), "/v2/catalog", 200),
        (Some("u:p"), Some("2.17"), "/nowhere", 404),
    ] {
        let reply = broker.send(with(authorization, version, path)).await;
        assert_eq!(reply.status, status, "{authorization:?} {version:?} {path}");
        assert_eq!(reply.headers["x-broker-api-request-identity"], "request-1");
        assert_eq!(reply.headers.contains_key("www-authenticate"), status == 401);
        assert!(status == 200 || !reply.body["description"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn every_refusal_is_json() {
    let broker = Broker::start().await;
    let send = |method: Method, path: &'static str, body: Vec<u8>| {
        broker.send(
            Broker::request(method, path)
                .body(Full::new(Bytes::from(body)))
                .unwrap(),
        )
    };
    let post = send(Method::POST, "/v2/catalog", Vec::new()).await;
    assert_eq!(
        (post.status.as_u16(), &post.headers["allow"]),
        (405, &"GET".parse().unwrap())
    );
    assert_eq!(
        send(Method::POST, "/v2/service_instances/i", Vec::new()).await.status,
        405
    );
    for (body, part) in [
        (Vec::new(), "service_id is missing"),
        (b"{".to_vec(), "not JSON"),
        (b"\xff\xfe".to_vec(), "not JSON"),
        (b"[1]".to_vec(), "not a JSON object"),
        (b"{\"service_id\":1}".to_vec(), "service_id is not a string"),
    ] {
        let reply = send(Method::PUT, ORDER, body).await;
        assert_eq!(reply.status, 400);
        assert!(reply.body["description"].as_str().unwrap().contains(part), "{reply:?}");
    }
    let long = json!({ "padding": "x".repeat(1024 * 1024) }).to_string().into_bytes();
    assert_eq!(send(Method::PUT, ORDER, long).await.status, 413);
    let mut order = Broker::order();
    order["parameters"] = json!({ "connectionLimit": 101 });
    let reply = broker.put(ORDER, &order).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body["description"].as_str().unwrap().contains("connectionLimit"));
    let sync = broker.put("/v2/service_instances/i", &Broker::order()).await;
    assert_eq!(sync.error(), (422, Some("AsyncRequired")));
    assert_eq!(broker.count("select count(*) from instances").await, 0);
}

#[tokio::test]
async fn a_body_needs_no_content_type_and_no_length() {
    let broker = Broker::start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let body = Broker::order().to_string();
    let (first, second) = body.split_at(10);
    let request = format!(
        "PUT {ORDER} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-broker-api-version: 2.13\r\n\
         authorization: Basic {}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        BASE64_STANDARD.encode("u:p"),
        first.len(),
        second.len(),
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[tokio::test]
async fn the_catalog_is_served_by_version_and_entity_tag() {
    let broker = Broker::start().await;
    let get = |version: &str, tag: Option<&str>| {
        let mut request = Broker::request(Method::GET, "/v2/catalog");
        request
            .headers_mut()
            .unwrap()
            .insert("x-broker-api-version", version.parse().unwrap());
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        broker.send(request.body(Full::default()).unwrap())
    };
    let latest = get("2.17", None).await;
    let tag = latest.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(latest.headers["vary"], "X-Broker-API-Version, Accept-Encoding");
    let plan = &latest.body["services"][0]["plans"][0];
    assert_eq!(plan["maintenance_info"]["version"], json!("3.0.0"));
    let oldest = get("2.13", None).await;
    assert_eq!(oldest.body["services"][0]["plans"][0].get("maintenance_info"), None);
    assert_ne!(oldest.headers["etag"], tag.as_str());

    for (version, tags, status) in [
        ("2.17", tag.clone(), 304),
        ("2.17", format!("\"other\", W/{tag}"), 304),
        ("2.17", "*".to_owned(), 304),
        ("2.17", "\"other\"".to_owned(), 200),
        ("2.13", tag.clone(), 200),
    ] {
        assert_eq!(get(version, Some(&tags)).await.status, status, "{version} {tags}");
    }
    let mut edited = self::plan();
    edited.status.as_mut().unwrap().revision = Some(4);
    let catalog = Catalog::new(&Services::read(None).unwrap(), [&edited], &|_| true);
    broker.catalog.send_replace(Some(Arc::new(catalog)));
    assert_eq!(get("2.17", Some(&tag)).await.status, 200);
}

/// RFC 9110, 8.8.3.3: what is encoded otherwise has another tag.
#[tokio::test]
async fn the_catalog_is_compressed_for_who_takes_that() {
    let broker = Broker::start().await;
    let get = async |encoding: Option<&str>, tag: Option<&str>| {
        let headers = [("accept-encoding", encoding), ("if-none-match", tag)];
        let headers: String = headers
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}: {}\r\n", value?)))
            .collect();
        let request = format!(
            "GET /v2/catalog HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.17\r\nauthorization: Basic {}\r\n\
             {headers}connection: close\r\n\r\n",
            BASE64_STANDARD.encode("u:p")
        );
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..at].to_vec()).unwrap().to_ascii_lowercase();
        (head, bytes[at + 4..].to_vec())
    };
    let tag = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("etag: "));
        line.unwrap().to_owned()
    };
    let (plain_head, plain) = get(None, None).await;
    let (head, body) = get(Some("br, gzip;q=0.8"), None).await;
    assert!(
        head.contains("content-encoding: gzip") && !plain_head.contains("content-encoding"),
        "{head}"
    );
    assert!(body.len() * 2 < plain.len(), "{} of {}", body.len(), plain.len());
    let mut read = Vec::new();
    GzDecoder::new(&*body).read_to_end(&mut read).unwrap();
    assert_eq!(read, plain);
    assert_ne!(tag(&head), tag(&plain_head));
    for (encoding, known, status) in [
        (Some("gzip"), tag(&head), "304"),
        (Some("gzip"), tag(&plain_head), "200"),
        (None, tag(&plain_head), "304"),
        (Some("gzip;q=0"), tag(&head), "200"),
    ] {
        let (head, _) = get(encoding, Some(&known)).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{encoding:?} {known}: {head}"
        );
        assert!(head.contains("vary: x-broker-api-version, accept-encoding"), "{head}");
    }
}

/// Platforms forget the plans that a catalog lacks, so there is none until the plans were read.
#[tokio::test]
async fn without_plans_read_only_orders_and_the_catalog_wait() {
    let broker = Broker::start().await;
    assert_eq!(broker.provision("i", "").await.status, 202);
    broker.catalog.send_replace(None);
    for reply in [broker.get("/v2/catalog").await, broker.provision("j", "").await] {
        assert_eq!(reply.status, 503, "{reply:?}");
    }
    assert_eq!(broker.poll("i", "").await.status, 200);
    assert_eq!(broker.deprovision("i").await.status, 202);
}

/// OSB 2.17, "Catalog Management": an instance outlives the plan it was ordered from.
#[tokio::test]
async fn an_instance_is_served_after_its_plan_is_gone() {
    use cache_broker::ledger::Verdict;

    let broker = Broker::start().await;
    let operation = broker.provision("i", "").await.operation();
    let none: [&cache_broker::api::CachePlan; 0] = [];
    let catalog = Catalog::new(&Services::read(None).unwrap(), none, &|_| true);
    broker.catalog.send_replace(Some(Arc::new(catalog)));
    assert_eq!(broker.provision("i", "").await.operation(), operation);
    assert_eq!(broker.provision("j", "").await.status, 400);
    broker.seen("i", Verdict::Ready, 1).await;
    assert_eq!(
        broker.poll("i", &operation).await.body["state"],
        Value::from("succeeded")
    );
    assert_eq!(broker.get("/v2/service_instances/i").await.status, 200);
    assert_eq!(broker.bind("i", "b").await.status, 201);
    assert_eq!(broker.unbind("i", "b").await.status, 200);
    assert_eq!(broker.deprovision("i").await.status, 202);
}
