use cache_broker::ledger::Verdict;
use serde_json::json;

use crate::broker::Broker;

const SECRETS: [&str; 5] = [
    "hunter2",
    "whisper",
    "token-in-url",
    "connectionLimit",
    "binding-parameter",
];

#[tokio::test]
async fn nothing_secret_stands_in_clear() {
    let broker = Broker::start().await;
    let mut order = Broker::order();
    order["parameters"] = json!({ "connectionLimit": 5 });
    let path = "/v2/service_instances/i?accepts_incomplete=true\
        &webhook=http%3A%2F%2F127.0.0.1%3A1%2F%3Ft%3Dtoken-in-url&secret=whisper";
    assert_eq!(broker.put(path, &order).await.status, 202);
    broker.seen("i", Verdict::Ready, 1).await;
    let mut binding = Broker::binding();
    binding["parameters"] = json!({ "p": "binding-parameter" });
    let bound = broker.put("/v2/service_instances/i/service_bindings/b", &binding).await;
    assert_eq!(bound.status, 201);
    assert_eq!(
        broker.get("/v2/service_instances/i/service_bindings/b").await.body["parameters"],
        json!({ "p": "binding-parameter" })
    );
    broker.deprovision("i").await;

    for table in ["instances", "operations", "bindings", "webhooks", "audit"] {
        let rows = broker
            .sql
            .query(
                &format!("select row_to_json({table})::text, encode({table}::text::bytea, 'escape') from {table}"),
                &[],
            )
            .await
            .unwrap();
        assert!(!rows.is_empty(), "{table}");
        for row in rows {
            // Sealed columns show as hexadecimal digits.
            let text = format!("{}{}", row.get::<_, String>(0), row.get::<_, String>(1));
            for secret in SECRETS {
                // Names of parameters are remembered, and no values.
                if table == "audit" && secret == "connectionLimit" {
                    continue;
                }
                let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
                assert!(
                    !text.contains(secret) && !text.contains(&hex),
                    "{secret} stands in {table}"
                );
            }
        }
    }
    broker.unbind("i", "b").await;
    assert_eq!(
        broker
            .count("select count(*) from bindings where length(credentials) > 0")
            .await,
        0
    );
}
