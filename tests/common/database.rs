//! A Postgres for all tests of a program, and a database for each test.

use std::sync::OnceLock;

use cache_broker::ledger::{KeyRing, Ledger};
use sandbox::Sandbox;

/// A key file's line.
pub const KEYS: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A Postgres for all tests of this program; it ends with the process.
fn shared() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let (send, receive) = std::sync::mpsc::channel();
        // Its tasks need a runtime that outlives the test that came first.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                send.send(own_postgres().await).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receive.recv().unwrap()
    })
}

/// A Postgres of a test's own, to be stopped and started.
pub async fn own_postgres() -> Sandbox {
    Sandbox::builder()
        .without_control_plane()
        .without_elasticache()
        .start()
        .await
        .unwrap()
}

/// The URL of an empty database.
pub async fn empty_database() -> String {
    let sandbox = tokio::task::spawn_blocking(shared).await.unwrap();
    let name = format!("t{}", uuid::Uuid::new_v4().simple());
    sandbox.postgres().create_database(&name).await.unwrap();
    sandbox.postgres().database_url(&name)
}

/// A ledger in a database.
pub fn ledger(url: &str) -> Ledger {
    Ledger::new(
        url.parse().unwrap(),
        KeyRing::parse(&KEYS.to_owned().into()).unwrap(),
        8,
    )
    .unwrap()
}
