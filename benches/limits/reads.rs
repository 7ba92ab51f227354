//! Reads: the catalog beside a bare warp server, and rows beside pgbench.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use warp::Filter;

use crate::load::{self, Make, Work};
use crate::pgbench;
use crate::rows;
use crate::stage::{Broker, SERVICE, Stage};
use crate::table::{Goal, Row};

const CONNECTIONS: usize = 16;
const TIME: Duration = Duration::from_secs(3);
const INSTANCES: u64 = 10_000;

/// A number below `below` that looks random and is the same in each run: splitmix64.
fn scattered(number: u64, below: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % below
}

fn always(request: Vec<u8>) -> Make {
    Arc::new(move |_| request.clone())
}

/// All of them.
pub async fn measure(stage: &Stage, plan: &rows::Plan) -> Result<Vec<Row>, String> {
    let url = stage.database("reads").await?;
    let (ledger, sql) = (stage.ledger(&url)?, stage.sql("reads").await?);
    rows::accept(&ledger, plan, "bench", INSTANCES).await?;
    rows::settle(&ledger, &sql, "bench", INSTANCES).await?;
    let broker = stage.broker(&[("ROLE", "api"), ("DATABASE_URL", &url)]).await?;
    broker.until("/v2/catalog", 200).await?;
    bind(&broker, &plan.id).await?;
    sql.batch_execute("vacuum analyze")
        .await
        .map_err(|error| error.to_string())?;

    let mut all = vec![catalog(stage, &broker).await?];
    let goal = Goal::RatioAtLeast(0.35);
    let measures = [
        (
            "GET last_operation",
            "/v2/service_instances/bench-{}/last_operation",
            goal,
            "select deleted_at is not null, message, kind, state, description, operations.created_at,
                instance_usable, update_repeatable
             from instances left join lateral (
                select * from operations where instance_id = instances.id
                    and binding_id is null and kind in ('provision', 'update', 'deprovision')
                    order by desired_revision desc, created_at desc, id limit 1
             ) operations on true where instances.id = 'bench-' || :n;",
        ),
        (
            "GET instance",
            "/v2/service_instances/bench-{}",
            goal,
            "select instances.*, operations.* from instances left join lateral (
                select * from operations where instance_id = instances.id and binding_id is null
                order by desired_revision desc, created_at desc, id limit 1
             ) operations on true where instances.id = 'bench-' || :n;",
        ),
        (
            "GET binding",
            "/v2/service_instances/bench-{}/service_bindings/b",
            Goal::RatioAtLeast(0.25),
            "select bindings.* from bindings join instances on instances.id = bindings.instance_id
             where bindings.instance_id = 'bench-' || :n and bindings.id = 'b'
                and bindings.deleted_at is null and instances.deleted_at is null;",
        ),
    ];
    for (name, path, goal, statement) in measures {
        let script = format!(
            "\\set n random(0, {})\n{}\n",
            INSTANCES - 1,
            statement.replace('\n', " ")
        );
        let (mut rounds, mut slowest) = (Vec::new(), Vec::new());
        for _ in 0..stage.rounds {
            let (ours, p99) = get(&broker, path).await?;
            let limit = pgbench::rate(&url, &script, stage.folder.path(), TIME).await?;
            rounds.push((ours, limit));
            slowest.push(p99);
        }
        all.push(Row::of(name, "req/s", goal, &rounds));
        all.push(Row::alone(&format!("{name}: p99"), "ms", Goal::AtMost(10.0), &slowest));
    }
    Ok(all)
}

async fn bind(broker: &Broker, plan_id: &str) -> Result<(), String> {
    let body = format!(r#"{{"service_id":"{SERVICE}","plan_id":"{plan_id}"}}"#);
    let requests: Vec<_> = (0..INSTANCES)
        .map(|number| {
            broker.request(
                "PUT",
                &format!("/v2/service_instances/bench-{number}/service_bindings/b"),
                &body,
            )
        })
        .collect();
    let make: Make = Arc::new(move |number| {
        let request = usize::try_from(number).ok().and_then(|number| requests.get(number));
        request.cloned().unwrap_or_default()
    });
    load::run(broker.address, CONNECTIONS, Work::Count(INSTANCES), make)
        .await?
        .all(201)
        .map(drop)
}

async fn get(broker: &Broker, path: &str) -> Result<(f64, f64), String> {
    let (address, authorization, path) = (broker.address, broker.authorization.clone(), path.to_owned());
    let make: Make = Arc::new(move |number| {
        let path = path.replace("{}", &scattered(number, INSTANCES).to_string());
        load::request("GET", &path, address, &authorization, "")
    });
    let measured = load::run(address, CONNECTIONS, Work::For(TIME), make).await?.all(200)?;
    Ok((measured.rate(), measured.quantile(0.99)))
}

async fn catalog(stage: &Stage, broker: &Broker) -> Result<Row, String> {
    let (bare, _bare) = bare(stage, broker).await?;
    let mut rounds = Vec::new();
    for _ in 0..stage.rounds {
        let request = |address: SocketAddr| load::request("GET", "/v2/catalog", address, &broker.authorization, "");
        let mut rates = Vec::new();
        for address in [broker.address, bare] {
            let measured = load::run(address, CONNECTIONS, Work::For(TIME), always(request(address)));
            rates.push(measured.await?.all(200)?.rate());
        }
        if let [ours, limit] = rates[..] {
            rounds.push((ours, limit));
        }
    }
    Ok(Row::of("GET catalog", "req/s", Goal::RatioAtLeast(0.8), &rounds))
}

/// A warp server that answers everything with the bytes of the catalog, in a process of its own as the broker is.
async fn bare(stage: &Stage, broker: &Broker) -> Result<(SocketAddr, sandbox::supervisor::Process), String> {
    let body = body(&broker.request("GET", "/v2/catalog", ""), broker.address).await?;
    let file = stage.folder.path().join("catalog.json");
    std::fs::write(&file, body).map_err(|error| error.to_string())?;
    let address = SocketAddr::new(stage.sandbox.addresses().guest().into(), 8999);
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = sandbox::supervisor::Program::new("bare", this)
        .args(["--bare".to_owned(), format!("{address}={}", file.display())]);
    let process = stage
        .sandbox
        .supervisor()
        .spawn(&program)
        .map_err(|error| error.to_string())?;
    let start = std::time::Instant::now();
    while let Err(error) = tokio::net::TcpStream::connect(address).await {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("the bare server: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((address, process))
}

/// Serves the bytes of a file, as `--bare ADDRESS=FILE` asks.
///
/// # Errors
/// When it cannot.
pub async fn serve_bare(what: &str) -> Result<(), String> {
    let (address, file) = what.split_once('=').ok_or("--bare ADDRESS=FILE")?;
    let address: SocketAddr = address.parse().map_err(|error| format!("{error}"))?;
    let bytes = Bytes::from(std::fs::read(file).map_err(|error| format!("reading {file}: {error}"))?);
    let answer = warp::any().map(move || {
        let mut response = warp::reply::Response::new(bytes.clone().into());
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    });
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| error.to_string())?;
    warp::serve(answer).incoming(listener).run().await;
    Ok(())
}

/// The body of an answer.
async fn body(request: &[u8], address: SocketAddr) -> Result<Vec<u8>, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let broken = |error: std::io::Error| error.to_string();
    let mut stream = tokio::net::TcpStream::connect(address).await.map_err(broken)?;
    let text = String::from_utf8_lossy(request).replacen("\r\n", "\r\nconnection: close\r\n", 1);
    stream.write_all(text.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(broken)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.and_then(|end| answer.get(end + 4..))
        .map(<[u8]>::to_vec)
        .ok_or_else(|| "an answer without an end of its headers".to_owned())
}
