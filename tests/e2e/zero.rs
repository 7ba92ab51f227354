//! The last of all, by its name: tests are begun in the order of theirs.

use std::time::Duration;

use crate::world::{alone, shared};

/// Longer than any test that shares the world takes.
const OTHERS: Duration = Duration::from_secs(300);

/// When all who share the world are done with it, their secrets stand nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_shared_world_was_told() {
    let world = shared().await;
    // What was told until then is searched in any case.
    let _ = tokio::time::timeout(OTHERS, alone()).await;
    world.search().await;
}
