//! A thousand requests that nobody means well with.

use cache_broker::ledger::Verdict;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::broker::{Broker, SERVICE};

/// Bodies of which none is an order, a change or a binding.
fn bodies() -> Vec<Vec<u8>> {
    let order = json!({ "service_id": SERVICE, "plan_id": "p", "organization_guid": "o", "space_guid": "s" });
    let mut bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"{}\"".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"service_id\":\"\\ud800\"}".to_vec(),
        format!("{{\"service_id\":\"{SERVICE}\",\"service_id\":\"{SERVICE}\",\"plan_id\":\"p\"}}").into_bytes(),
        format!("{order}{order}").into_bytes(),
        "[".repeat(200_000).into_bytes(),
        format!("{{\"parameters\":{}1{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000)).into_bytes(),
        json!({ "padding": "x".repeat(1024 * 1024) }).to_string().into_bytes(),
        b"1e999999".to_vec(),
    ];
    let wrong = [
        Value::Null,
        json!(""),
        json!(0),
        json!(-1.5e300),
        json!(true),
        json!([]),
        json!({}),
        json!("\u{0}"),
        json!("a\nb"),
        json!("\u{202e}gnp.exe\u{7}"),
        json!("ü".repeat(200)),
        json!("../../etc/passwd"),
        json!("'; drop table instances; --"),
        json!("${jndi:ldap://x}"),
    ];
    for value in &wrong {
        let mut body = order.clone();
        body["service_id"] = value.clone();
        bodies.push(body.to_string().into_bytes());
    }
    for name in [
        "parameters",
        "context",
        "maintenance_info",
        "bind_resource",
        "previous_values",
    ] {
        for value in &wrong {
            let mut body = json!({ "service_id": SERVICE, "plan_id": 7 });
            body[name] = value.clone();
            bodies.push(body.to_string().into_bytes());
        }
    }
    for parameters in [
        json!({ "connectionLimit": "many" }),
        json!({ "connectionLimit": 1e40 }),
        json!({ "connectionLimit": [1] }),
        json!({ "__proto__": {} }),
        json!({ "connectionLimit\u{0}": 1 }),
        json!({ "allow_replace": "please", "colour": "\u{1f4a5}" }),
    ] {
        let mut body = order.clone();
        body["parameters"] = parameters;
        body["bind_resource"] = json!("none");
        bodies.push(body.to_string().into_bytes());
    }
    bodies
}

/// Ids and paths that lead to nothing.
const SEGMENTS: [&str; 16] = [
    "%00",
    "%0d%0aset-cookie:a",
    "%ff%fe",
    "%",
    "%zz",
    "a%0Ab",
    "..%2F..%2Fetc%2Fpasswd",
    "%E2%80%AEtxt",
    "%F0%9F%92%A5",
    "%27%20or%201%3D1",
    "%24%7Bx%7D",
    "x%25n%25s",
    "%E0%A4%A",
    "..",
    "~",
    "%20",
];

async fn refused(broker: &Broker, request: Request<Full<bytes::Bytes>>) {
    let shown = format!("{} {}", request.method(), request.uri());
    let reply = broker.send(request).await;
    assert!(reply.status.is_client_error(), "{shown}: {reply:?}");
    let description = reply.body["description"].as_str().unwrap_or_default();
    // OSB 2.17, "Deprovisioning", "Unbinding": what is gone is told with an empty object.
    if reply.status == 410 {
        assert_eq!(reply.body, json!({}), "{shown}");
    } else {
        assert!(!description.is_empty(), "{shown}: {reply:?}");
    }
    assert!(description.len() < 4096, "{shown}: {description}");
}

#[tokio::test]
async fn a_thousand_hostile_requests_are_refused_with_what_to_send_instead() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let mut sent = 0;
    let ask = "accepts_incomplete=true";
    for body in bodies() {
        for (method, path) in [
            (Method::PUT, format!("/v2/service_instances/new?{ask}")),
            (Method::PATCH, format!("/v2/service_instances/i?{ask}")),
            (Method::PUT, format!("/v2/service_instances/i/service_bindings/b?{ask}")),
            (
                Method::PUT,
                "/v2/service_instances/i?accepts_incomplete=maybe&webhook=ftp%3A%2F%2Fx".to_owned(),
            ),
        ] {
            // It is no object to a binding, and no change, in one way or the other.
            let is_change = method == Method::PATCH;
            let valid_for_some =
                is_change && serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["plan_id"] == json!("p"));
            if valid_for_some {
                continue;
            }
            let request = Broker::request(method, &path)
                .body(Full::new(body.clone().into()))
                .unwrap();
            refused(&broker, request).await;
            sent += 1;
        }
    }
    for segment in SEGMENTS {
        for path in [
            format!("/v2/service_instances/{segment}"),
            format!("/v2/service_instances/{segment}/last_operation"),
            format!("/v2/service_instances/{segment}/service_bindings/{segment}"),
            format!("/v2/service_instances/{segment}/actions/stats"),
            format!("/v2/service_instances/{segment}/actions/backups/{segment}"),
            format!("/v2/service_instances/i/actions/{segment}"),
            format!("/v2/service_instances/i/last_operation?operation={segment}x"),
            format!("/v2/{segment}/{segment}"),
        ] {
            for method in [
                Method::GET,
                Method::DELETE,
                Method::POST,
                Method::TRACE,
                Method::OPTIONS,
            ] {
                refused(&broker, Broker::request(method, &path).body(Full::default()).unwrap()).await;
                sent += 1;
            }
        }
        for header in [
            "x-broker-api-version",
            "authorization",
            "x-broker-api-originating-identity",
        ] {
            let mut request = Broker::request(Method::GET, "/v2/service_instances/x")
                .body(Full::default())
                .unwrap();
            request.headers_mut().insert(header, segment.parse().unwrap());
            refused(&broker, request).await;
            sent += 1;
        }
    }
    let long = "a".repeat(300);
    for count in [1, 100, 2_000] {
        let query = format!("{ask}&").repeat(count) + "service_id=&plan_id=";
        refused(
            &broker,
            Broker::request(Method::DELETE, &format!("/v2/service_instances/i?{query}"))
                .body(Full::default())
                .unwrap(),
        )
        .await;
        refused(
            &broker,
            Broker::request(Method::GET, &format!("/v2/service_instances/{long}"))
                .body(Full::default())
                .unwrap(),
        )
        .await;
        sent += 2;
    }
    assert!(sent >= 1000, "{sent}");
    // Nothing came of all this, and whoever means well is served.
    assert_eq!(broker.count("select count(*) from instances").await, 1);
    assert_eq!(broker.count("select count(*) from operations").await, 1);
    assert_eq!(broker.count("select count(*) from bindings").await, 0);
    assert_eq!(broker.bind("i", "b").await.status, 201);
}
