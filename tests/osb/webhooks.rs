use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cache_broker::ledger::{Ledger, Outcome, Remains, Room, Verdict};
use cache_broker::webhooks::{Policy, Settings, run};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::broker::{Broker, PATIENCE};
use crate::receiver::Receiver;

/// Delivers until it is dropped, as a process that is killed.
pub struct Dispatcher(JoinHandle<()>);

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn dispatch(ledger: &Ledger, retry: bool) -> Dispatcher {
    let settings = Settings {
        policy: Policy::AllowPrivate,
        retry,
    };
    let run = run(ledger.clone(), settings, std::future::pending());
    Dispatcher(tokio::spawn(async move { run.await.unwrap() }))
}

pub fn hook(url: &str) -> String {
    format!("webhook={}&secret=s3cret", url.replace(':', "%3A").replace('/', "%2F"))
}

async fn states(broker: &Broker) -> Vec<(String, i32)> {
    let rows = broker
        .sql
        .query("select state, attempts from webhooks order by sequence", &[])
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn wait_for(broker: &Broker, expected: &[(&str, i32)]) {
    let start = std::time::Instant::now();
    loop {
        let states = states(broker).await;
        if states
            .iter()
            .map(|(state, attempts)| (state.as_str(), *attempts))
            .eq(expected.iter().copied())
        {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{states:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_end_of_an_operation_is_told_at_once_and_signed() {
    let broker = Broker::start().await;
    let _dispatcher = dispatch(&broker.ledger, false);
    let mut receiver = Receiver::start([]).await;
    let url = format!("{}%3Fa%3Db", receiver.url);
    let operation = broker.provision("i", &hook(&url)).await.operation();
    assert_eq!(states(&broker).await, [("armed".to_owned(), 0)]);
    broker.seen("i", Verdict::No, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = std::time::Instant::now();
    broker.seen("i", Verdict::Ready, 2).await;
    let received = receiver.next().await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "woken by NOTIFY, not by the sweep"
    );

    assert_eq!(received.path, "/hook?a=b");
    assert_eq!(received.headers["content-type"], "application/json");
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
    let signature = BASE64_STANDARD.decode(&received.headers["x-osb-signature"]).unwrap();
    hmac::verify(&key, received.text.as_bytes(), &signature).unwrap();
    // The second one is of the time, too, so that a request that somebody kept is known by its age.
    let timestamp = received.headers["x-osb-timestamp"].to_str().unwrap();
    let age = jiff::Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
    assert!((0..30).contains(&age), "{age}");
    let signature = BASE64_STANDARD.decode(&received.headers["x-osb-signature-v2"]).unwrap();
    let signed = format!("{timestamp}.{}", received.text);
    hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
    let body = received.body();
    assert_eq!(
        (&body["state"], &body["kind"], &body["instance_id"], &body["operation"]),
        (&json!("succeeded"), &json!("provision"), &json!("i"), &json!(operation))
    );
    assert!(!body["description"].as_str().unwrap().is_empty());
    assert!(body["id"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
    assert!(body["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    wait_for(&broker, &[("delivered", 1)]).await;

    // The instance's later events go to the same place.
    let deprovision = broker.deprovision("i").await.operation();
    broker.gone("i").await;
    let body = receiver.next().await.body();
    assert_eq!(
        (&body["state"], &body["kind"], &body["operation"]),
        (&json!("succeeded"), &json!("deprovision"), &json!(deprovision))
    );
    wait_for(&broker, &[("delivered", 1), ("delivered", 1)]).await;
    receiver.silent(Duration::from_millis(200)).await;
}

/// A failure is told, too, and a delete that takes the place of a provision makes two events, in order.
#[tokio::test]
async fn events_of_one_instance_come_in_order() {
    let broker = Broker::start().await;
    let mut receiver = Receiver::start([]).await;
    broker.provision("i", &hook(&receiver.url)).await;
    broker.deprovision("i").await;
    broker.gone("i").await;
    let _dispatcher = dispatch(&broker.ledger, false);
    let (first, second) = (receiver.next().await.body(), receiver.next().await.body());
    assert_eq!(
        (&first["kind"], &first["state"], &first["description"]),
        (
            &json!("provision"),
            &json!("failed"),
            &json!("superseded by deprovision")
        )
    );
    assert_eq!(
        (&second["kind"], &second["state"]),
        (&json!("deprovision"), &json!("succeeded"))
    );
}

#[tokio::test]
async fn without_retries_one_completed_attempt_is_all() {
    let broker = Broker::start().await;
    let mut receiver = Receiver::start([302]).await;
    broker.provision("i", &hook(&receiver.url)).await;
    broker.seen("i", Verdict::Ready, 1).await;
    let _dispatcher = dispatch(&broker.ledger, false);
    receiver.next().await;
    wait_for(&broker, &[("dead", 1)]).await;
    let error: String = broker
        .sql
        .query_one("select last_error from webhooks", &[])
        .await
        .unwrap()
        .get(0);
    assert!(error.contains("302"), "{error}");
    receiver.silent(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn with_retries_a_receiver_is_asked_again_and_holds_up_only_its_instance() {
    let broker = Broker::start().await;
    let mut failing = Receiver::start([500, 503]).await;
    let mut fine = Receiver::start([]).await;
    broker.provision("i", &hook(&failing.url)).await;
    broker.deprovision("i").await;
    broker.provision("j", &hook(&fine.url)).await;
    broker.seen("j", Verdict::Ready, 1).await;
    let _dispatcher = dispatch(&broker.ledger, true);
    let first = failing.next().await.body();
    assert_eq!(fine.next().await.body()["instance_id"], json!("j"));
    // The pauses grow to an hour; the test does not wait.
    for failed in 1..=2 {
        let hurry = format!("update webhooks set due_at = now() where state = 'due' and attempts = {failed}");
        let start = std::time::Instant::now();
        while broker.sql.execute(&hurry, &[]).await.unwrap() == 0 {
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let again = failing.next().await.body();
        assert_eq!(again["id"], first["id"], "an event keeps its id");
    }
    wait_for(&broker, &[("delivered", 3), ("armed", 0), ("delivered", 1)]).await;
}

/// A claim that nobody comes back to is a lease that ends.
#[tokio::test]
async fn a_crash_during_an_attempt_leads_to_another() {
    let broker = Broker::start().await;
    let mut receiver = Receiver::start([]).await;
    broker.provision("i", &hook(&receiver.url)).await;
    broker.seen("i", Verdict::Ready, 1).await;
    let lease = Duration::from_millis(800);
    let room = Room {
        free: 10,
        busy: Vec::new(),
    };
    let claimed = broker.ledger.claim_webhooks(&room, lease).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert!(broker.ledger.claim_webhooks(&room, lease).await.unwrap().is_empty());
    let _dispatcher = dispatch(&broker.ledger, false);
    receiver.silent(Duration::from_millis(400)).await;
    receiver.next().await;
    wait_for(&broker, &[("delivered", 1)]).await;
}

#[tokio::test]
async fn a_receiver_that_is_not_allowed_any_more_is_not_asked() {
    let broker = Broker::start().await;
    let mut receiver = Receiver::start([]).await;
    broker.provision("i", &hook(&receiver.url)).await;
    broker.seen("i", Verdict::Ready, 1).await;
    let settings = Settings {
        policy: Policy::Public,
        retry: false,
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(run(broker.ledger.clone(), settings, async {
        let _ = stopped.await;
    }));
    wait_for(&broker, &[("dead", 1)]).await;
    receiver.silent(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wrong_url_is_refused_when_it_is_sent() {
    let broker = Broker::start().await;
    let refused = broker.provision("i", "webhook=ftp%3A%2F%2Fexample.com").await;
    assert_eq!(refused.status, 400);
    assert!(refused.body["description"].as_str().unwrap().contains("webhook"));
    assert_eq!(broker.count("select count(*) from instances").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_share_the_work() {
    let broker = Broker::start().await;
    let mut receiver = Receiver::start([]).await;
    for number in 0..40 {
        let id = format!("i{number}");
        assert_eq!(broker.provision(&id, &hook(&receiver.url)).await.status, 202);
    }
    let _dispatchers = [(); 3].map(|()| dispatch(&broker.ledger, false));
    for number in 0..40 {
        broker.seen(&format!("i{number}"), Verdict::Ready, 1).await;
    }
    let mut events = std::collections::BTreeSet::new();
    for _ in 0..40 {
        events.insert(receiver.next().await.body()["id"].to_string());
    }
    assert_eq!(events.len(), 40);
    wait_for(&broker, &[("delivered", 1); 40]).await;
    receiver.silent(Duration::from_millis(200)).await;
}

/// A receiver that takes the connection and says nothing holds up nobody else, and not for ever.
#[tokio::test]
async fn a_silent_receiver_is_given_up() {
    let broker = Broker::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fine = Receiver::start([]).await;
    let url = format!("http://{}/", silent.local_addr().unwrap());
    broker.provision("i", &hook(&url)).await;
    broker.provision("j", &hook(&fine.url)).await;
    let _dispatcher = dispatch(&broker.ledger, false);
    broker.seen("i", Verdict::Ready, 1).await;
    broker.seen("j", Verdict::Ready, 1).await;
    fine.next().await;
    wait_for(&broker, &[("dead", 1), ("delivered", 1)]).await;
}

/// An answer without an end is read as far as its bound.
#[tokio::test]
async fn an_answer_is_read_as_far_as_its_bound() {
    let broker = Broker::start().await;
    let endless = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", endless.local_addr().unwrap());
    let talker = tokio::spawn(async move {
        let mut sent = 0_usize;
        let (mut stream, _) = endless.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while let Ok(written) = stream.write(&[b'x'; 65_536]).await {
            sent += written;
        }
        sent
    });
    broker.provision("i", &hook(&url)).await;
    broker.seen("i", Verdict::Ready, 1).await;
    let _dispatcher = dispatch(&broker.ledger, false);
    wait_for(&broker, &[("delivered", 1)]).await;
    let sent = tokio::time::timeout(PATIENCE, talker).await.unwrap().unwrap();
    // What the kernels hold on the way, too.
    assert!(sent < 32 * 1024 * 1024, "{sent}");
}

/// Every kind of operation is told of, that it went well and that it did not.
#[tokio::test]
async fn every_kind_of_operation_is_told_of() {
    let broker = Broker::start().await;
    broker.provision("i", "").await;
    broker.seen("i", Verdict::Ready, 1).await;
    let failed = Outcome::Failed {
        description: "no capacity".to_owned(),
        remains: Remains {
            usable: true,
            repeatable: true,
        },
    };
    for kind in ["update", "restart", "backup", "restore", "deprovision"] {
        for (outcome, state) in [(&failed, "failed"), (&Outcome::Succeeded, "succeeded")] {
            // As an acceptance writes it; those of each verb are tested beside it.
            let id = uuid::Uuid::new_v4();
            broker
                .sql
                .batch_execute(&format!(
                    "insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
                         values ('{id}', 'i', '{kind}', 1, clock_timestamp(), now() + interval '1 hour');
                     insert into webhooks (id, instance_id, operation_id, target)
                         values (gen_random_uuid(), 'i', '{id}', '')"
                ))
                .await
                .unwrap();
            broker.ledger.project_backup(broker.epoch, id, outcome).await.unwrap();
            let body: String = broker
                .sql
                .query_one("select body from webhooks where operation_id = $1", &[&id])
                .await
                .unwrap()
                .get(0);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (&body["kind"], &body["state"], &body["operation"]),
                (&json!(kind), &json!(state), &json!(id))
            );
        }
    }
}
