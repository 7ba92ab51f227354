//! Bytes that nobody means anything by, at each place where a client can put some: paths, queries, headers, bodies. None
//! of them gets a 5xx, which is what a panic comes out as, and every refusal says what to send instead.
//!
//! Inputs are mutated from a corpus that grows by every input with an answer of a new kind. `FUZZ_SEED` plays one run
//! again, `FUZZ_SECONDS` says for how long each target is fed.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cache_broker::ledger::Verdict;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::broker::{Broker, PATIENCE, SERVICE};

/// How long each target is fed, if nobody says otherwise.
const SECONDS: u64 = 3;
/// The longest input that is made of others.
const MAX_INPUT: usize = 64 * 1024;
/// How long an answer is waited for when the request may not be complete.
const INCOMPLETE: Duration = Duration::from_millis(300);

/// What breaks readers.
const DICTIONARY: [&[u8]; 44] = [
    b"%00",
    b"%0a",
    b"%",
    b"%2",
    b"%zz",
    b"%ff",
    b"%2f",
    b"%2e%2e",
    b"..",
    b"//",
    b"/",
    b"?",
    b"#",
    b"&",
    b"=",
    b"+",
    b";",
    b",",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xae",
    b"\0",
    b"\x7f",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"0.1e-999",
    b"{\"a\":",
    b"[[[[",
    b"2.17",
    b"Basic ",
    b"accepts_incomplete=true",
    b"service_id",
    b"parameters",
    b"http://[::1]:1/",
    b"*",
];

/// What came back.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

async fn ask(address: SocketAddr, request: &[u8], whole: bool) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may have been refused before it was written to its end.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let wait = if whole { PATIENCE } else { INCOMPLETE };
    match tokio::time::timeout(wait, stream.read_to_end(&mut bytes)).await {
        Ok(_) => {}
        Err(_) if whole => panic!("no end of an answer to {}", request.escape_ascii()),
        // The broker waits for more.
        Err(_) => return None,
    }
    let text = String::from_utf8_lossy(&bytes);
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())?;
    let body = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| bytes[at + 4..].to_vec());
    Some(Answer {
        status,
        body: body.unwrap_or_default(),
    })
}

/// Makes inputs of others.
struct Mutator {
    rng: StdRng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.rng.random_range(0..=length);
        start..self.rng.random_range(start..=length)
    }

    fn some(&mut self) -> Vec<u8> {
        let at = self.rng.random_range(0..self.corpus.len());
        self.corpus[at].clone()
    }

    fn next(&mut self) -> Vec<u8> {
        let mut input = self.some();
        for _ in 0..self.rng.random_range(0..4) {
            let length = input.len();
            let at = self.rng.random_range(0..=length);
            match self.rng.random_range(0..9) {
                0 if at < length => input[at] ^= 1 << self.rng.random_range(0..8),
                1 if at < length => input[at] = self.rng.random(),
                2 => input.insert(at, self.rng.random()),
                3 => {
                    let range = self.range(length);
                    input.drain(range);
                }
                4 => {
                    let range = self.range(length);
                    let part = input[range].to_vec();
                    let times = if self.rng.random_bool(0.1) { 200 } else { 1 };
                    input.splice(at..at, part.repeat(times));
                }
                5 => input.truncate(at),
                6 => {
                    let mut other = self.some();
                    let range = self.range(other.len());
                    input.splice(at..at, other.drain(range));
                }
                _ => {
                    let token = DICTIONARY[self.rng.random_range(0..DICTIONARY.len())];
                    input.splice(at..at, token.iter().copied());
                }
            }
            input.truncate(MAX_INPUT);
        }
        input
    }
}

/// The kind of an answer: its status and the words of its description, without what it quotes.
fn kind(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let said = body["description"].as_str().unwrap_or_default();
    let words: String = said
        .chars()
        .filter(|c| c.is_ascii_lowercase() || *c == ' ')
        .take(40)
        .collect();
    format!("{} {words}", answer.status)
}

/// Panics of tasks: one that ends a connection leaves no answer to judge.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Tests that panic by themselves do so on threads of their own name.
            if std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("tokio"))
            {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(panic);
        }));
    });
}

/// Feeds the requests that `request` makes of inputs; `whole` says whether each is sure to be complete.
async fn feed(target: &str, corpus: &[&[u8]], whole: bool, request: impl Fn(&[u8]) -> Vec<u8>) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    println!("{target}: FUZZ_SEED={seed}");
    count_panics();
    let broker = Broker::start().await;
    assert_eq!(broker.provision("i", "").await.status, 202);
    broker.seen("i", Verdict::Ready, 1).await;
    let length = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut mutator = Mutator {
        rng: StdRng::seed_from_u64(seed),
        corpus: corpus.iter().map(|input| input.to_vec()).collect(),
    };
    let mut kinds = HashSet::new();
    let begun = Instant::now();
    let mut fed = 0;
    while begun.elapsed() < length || fed < corpus.len() {
        // First each as it is.
        let input = corpus.get(fed).map_or_else(|| mutator.next(), |input| input.to_vec());
        fed += 1;
        let sent = request(&input);
        let answer = ask(broker.address, &sent, whole).await;
        let shown = || format!("{target}: FUZZ_SEED={seed}: {}", sent.escape_ascii());
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "at or just before {}", shown());
        let Some(answer) = answer else { continue };
        // The cache of these tests is nowhere, which flushing it would find.
        let of_the_cache = answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("node");
        assert!(
            answer.status < 500 || of_the_cache,
            "{} {}: {}",
            answer.status,
            answer.body.escape_ascii(),
            shown()
        );
        // What is no HTTP is refused before the facade sees it, with no body.
        if answer.status >= 400 && !answer.body.is_empty() {
            let body: Value =
                serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", shown()));
            let said = body["description"].as_str().unwrap_or_default();
            assert!(answer.status == 410 || !said.is_empty(), "{body}: {}", shown());
            assert!(said.len() < 4096, "{body}: {}", shown());
        }
        if kinds.insert(kind(&answer)) && fed > corpus.len() {
            mutator.corpus.push(input);
        }
    }
    println!("{target}: {fed} inputs, {} kinds of answers", kinds.len());
    assert!(kinds.len() > 2, "{kinds:?}");
    // Whoever means well is served.
    assert_eq!(broker.get("/v2/catalog").await.status, 200);
    assert_eq!(broker.provision("sane", "").await.status, 202);
}

/// A request with the headers that it needs.
fn framed(line: &[u8], headers: &[u8], body: &[u8]) -> Vec<u8> {
    let known = format!(
        "host: x\r\nx-broker-api-version: 2.17\r\nauthorization: Basic {}\r\nconnection: close\r\ncontent-length: {}\r\n",
        BASE64_STANDARD.encode("u:p"),
        body.len()
    );
    [line, b" HTTP/1.1\r\n", known.as_bytes(), headers, b"\r\n", body].concat()
}

/// What a line of a request cannot have: it would end it.
fn line(input: &[u8]) -> Vec<u8> {
    let keeps = |byte: &u8| !matches!(byte, b'\r' | b'\n');
    input.iter().copied().filter(keeps).take(32 * 1024).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_makes_the_broker_fail() {
    let corpus: [&[u8]; 14] = [
        b"GET /v2/catalog",
        b"GET /v2/service_instances/i",
        b"PUT /v2/service_instances/new",
        b"PATCH /v2/service_instances/i",
        b"DELETE /v2/service_instances/i",
        b"GET /v2/service_instances/i/last_operation",
        b"PUT /v2/service_instances/i/service_bindings/b",
        b"GET /v2/service_instances/i/service_bindings/b",
        b"DELETE /v2/service_instances/i/service_bindings/b",
        b"GET /v2/service_instances/i/service_bindings/b/last_operation",
        b"POST /v2/service_instances/i/actions/restart",
        b"GET /v2/service_instances/i/actions/backups/b",
        b"GET /v2/service_instances/i/actions/flush/schema",
        b"OPTIONS *",
    ];
    feed("paths", &corpus, true, |input| framed(&line(input), b"", b"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_makes_the_broker_fail() {
    let ids = format!("service_id={SERVICE}&plan_id=p&accepts_incomplete=true");
    let hook = "webhook=https%3A%2F%2Fexample.com%2Fa%3Fb&secret=s&accepts_incomplete=true";
    let corpus: [&[u8]; 6] = [
        ids.as_bytes(),
        hook.as_bytes(),
        b"operation=00000000-0000-0000-0000-000000000007&service_id=s&plan_id=p",
        b"operation=i",
        b"accepts_incomplete=maybe&&=&a",
        b"webhook=http%3A%2F%2Fu%3Ap%40%5B%3A%3A1%5D%3A99999%2F",
    ];
    let order = Broker::order().to_string();
    // Which call it is goes by the input, so that a mutation changes it, too.
    let calls: [(&str, &str); 7] = [
        ("GET /v2/service_instances/i/last_operation", ""),
        ("DELETE /v2/service_instances/never", ""),
        ("PUT /v2/service_instances/never", "{}"),
        ("DELETE /v2/service_instances/i/service_bindings/b", ""),
        ("PUT /v2/service_instances/one", &order),
        ("GET /v2/catalog", ""),
        ("POST /v2/service_instances/i/actions/restart", ""),
    ];
    feed("queries", &corpus, true, |input| {
        let sum: usize = input.iter().map(|byte| usize::from(*byte)).sum();
        let (call, body) = calls[sum % calls.len()];
        framed(&[call.as_bytes(), b"?", &line(input)].concat(), b"", body.as_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_makes_the_broker_fail() {
    let user = BASE64_STANDARD.encode(json!({ "user_id": "683ea748", "groups": ["a"] }).to_string());
    let identity = format!("x-broker-api-originating-identity: cloudfoundry {user}\r\n");
    let corpus: [&[u8]; 12] = [
        identity.as_bytes(),
        b"x-broker-api-originating-identity: kubernetes e30=\r\n",
        b"x-broker-api-request-identity: request-1\r\n",
        b"x-broker-api-version: 2.13\r\n",
        b"if-none-match: \"a\", W/\"b\", *\r\n",
        b"accept-encoding: gzip;q=0.5, *;q=0\r\n",
        b"authorization: Bearer e30.e30.e30\r\n",
        b"authorization: Basic Og==\r\n",
        b"expect: 100-continue\r\n",
        b"upgrade: h2c\r\nconnection: upgrade\r\n",
        b"content-type: text/plain; charset=\xff\r\n",
        b"transfer-encoding: chunked\r\n",
    ];
    feed("headers", &corpus, false, |input| {
        let method: &[u8] = if input.len() % 2 == 0 {
            b"GET /v2/catalog"
        } else {
            b"POST /v2/service_instances/i/actions/restart"
        };
        let known =
            b" HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.17\r\nauthorization: Basic dTpw\r\nconnection: close\r\n";
        [method, known, input, b"\r\n"].concat()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_makes_the_broker_fail() {
    let order = Broker::order();
    let whole = json!({
        "service_id": SERVICE, "plan_id": "p", "organization_guid": "o", "space_guid": "s",
        "parameters": { "connectionLimit": 5 }, "maintenance_info": { "version": "3.0.0" },
        "context": { "platform": "cloudfoundry", "instance_name": "ü", "annotations": { "a/b": [1, null, 1e300] } },
        "previous_values": { "plan_id": "p" }, "bind_resource": { "app_guid": "a" },
    });
    let texts = [
        order.to_string(),
        Broker::binding().to_string(),
        whole.to_string(),
        json!({ "service_id": SERVICE, "parameters": { "connectionLimit": null, "allow_replace": true } }).to_string(),
        json!({ "service_id": SERVICE, "context": { "a": { "b": { "c": {} } } } }).to_string(),
        format!("{{\"service_id\":\"{SERVICE}\",\"parameters\":{{\"\\u0000\":\"\\u0000\"}}}}"),
        "[[[[{}]]]]".to_owned(),
    ];
    let corpus: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    let lines = [
        "PUT /v2/service_instances/new?accepts_incomplete=true",
        "PATCH /v2/service_instances/i?accepts_incomplete=true",
        "PUT /v2/service_instances/i/service_bindings/b",
        "PATCH /v2/service_instances/i",
        "DELETE /v2/service_instances/i?accepts_incomplete=true",
    ];
    feed("bodies", &corpus, true, |input| {
        let sum: usize = input.iter().map(|byte| usize::from(*byte)).sum();
        framed(lines[sum % lines.len()].as_bytes(), b"", input)
    })
    .await;
}
