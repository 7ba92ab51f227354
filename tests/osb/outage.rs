use std::time::Duration;

use cache_broker::ledger::listen;

use crate::broker::{Broker, PATIENCE, own_postgres};

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_nothing_is_accepted_and_with_it_all_is_again() {
    let sandbox = own_postgres().await;
    let postgres = sandbox.postgres();
    postgres.create_database("outage").await.unwrap();
    let broker = Broker::start_on(&postgres.database_url("outage")).await;
    let operation = broker.provision("before", "").await.operation();
    let listener = broker.ledger.listen(listen::WEBHOOKS);
    let woken = || async { tokio::time::timeout(PATIENCE, listener.notified()).await.unwrap() };
    woken().await;

    postgres.stop().await.unwrap();
    for reply in [
        broker.provision("during", "").await,
        broker.deprovision("before").await,
        broker.poll("before", &operation).await,
        broker.bind("before", "b").await,
        broker.get("/v2/service_instances/before").await,
    ] {
        assert_eq!(reply.status, 503, "{reply:?}");
        let description = reply.body["description"].as_str().unwrap();
        assert!(!description.contains("127."), "{description}");
    }
    assert_eq!(broker.get("/v2/catalog").await.status, 200);

    postgres.start().await.unwrap();
    let start = std::time::Instant::now();
    while broker.poll("before", &operation).await.status != 200 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(broker.poll("during", "").await.status, 404);
    assert_eq!(broker.provision("during", "").await.status, 202);
    assert_eq!(broker.deprovision("before").await.status, 202);

    // Wake-ups come again, too; the first is for what was missed.
    woken().await;
    let sql = postgres.connect("outage").await.unwrap();
    let notify = format!("notify {}", listen::WEBHOOKS);
    sql.batch_execute(&notify).await.unwrap();
    woken().await;
    sandbox.stop().await;
}
