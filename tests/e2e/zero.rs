//! The last of all, by its name: tests are begun in the order of theirs.

use std::time::{Duration, Instant};

use crate::world::{in_use, shared};

/// Longer than any test that shares the world takes.
const OTHERS: Duration = Duration::from_secs(300);

/// When all who share the world are done with it, their secrets stand nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_shared_world_was_told() {
    let world = shared().await;
    let start = Instant::now();
    while in_use() > 1 && start.elapsed() < OTHERS {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.search().await;
}
