//! A leader that is held up: another one leads, and it does not know.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::faults::Faults;
use crate::platform::{MEMCACHED, Platform};
use crate::process::HOME;
use crate::run::Plan;
use crate::scenarios::Doing;
use crate::suite::{Rig, alone};
use crate::world::World;

/// Longer than an instance lives here, and shorter than a watch does.
const BEHIND: Duration = Duration::from_secs(200);
const PLAN: &str = "aws-memcached-small";
const INSTANCES: &str = "/apis/cache.akkeris.io/v1alpha1/namespaces/memcached-system/cacheinstances";

/// The process that leads.
fn leader(world: &World) -> Option<usize> {
    let leases = world.objects("leases").into_iter();
    let mut leases = leases.filter(|(key, _)| key.namespace == HOME);
    let (_, lease) = leases.next()?;
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    holder.strip_prefix("broker-")?.parse().ok()
}

/// While the cache of an instance is being made its leader is held up: neither its lease nor Postgres tells it that another
/// one leads, and its watches not what that one does. ElastiCache it asks, and the API server takes its writes. The other one
/// sees to all the rest of that instance's life.
fn life(p: Platform) -> Doing {
    Box::pin(async move {
        let spec = json!({ "planRef": { "name": PLAN }, "deletionPolicy": "Delete" });
        p.apply(MEMCACHED, "mine", &spec);
        p.until("its cache is being made", |world| {
            !world.state().elasticache.remaining().cache_clusters.is_empty()
        })
        .await;
        let first = leader(&p.world).unwrap();
        let released = Instant::now() + BEHIND;
        {
            let mut state = p.world.state();
            state.deluded = Some((first, released));
            state.cut_off = Some((first, released));
            for watch in state.watches.iter_mut().filter(|watch| watch.process == first) {
                watch.held_until = Some(released);
            }
        }
        p.until("the other one leads", |world| {
            leader(world).is_some_and(|now| now != first)
        })
        .await;
        p.settled(MEMCACHED, "mine").await;
        p.delete("cacheinstances", MEMCACHED, "mine");
        p.gone("cacheinstances", MEMCACHED, "mine").await;
        assert!(
            Instant::now() + Duration::from_secs(60) < released,
            "it is held up still"
        );
        tokio::time::sleep_until(released).await;
        Vec::new()
    })
}

#[test]
fn a_leader_that_was_held_up_makes_nothing_for_what_is_gone() {
    let _alone = alone();
    let report = Rig::new().run(Plan {
        seed: 1,
        processes: 2,
        faults: Faults::None,
        shuffled: false,
        plans: vec![PLAN],
        recorded: false,
        before: |_| Box::pin(async { Vec::new() }),
        operation: Box::new(life),
    });
    assert_eq!(report.wrong, Vec::<String>::new());
    let called = |call: &str| -> Vec<usize> {
        let lines = report.trace.iter().enumerate();
        let its = lines.filter(|(_, line)| line.contains(call));
        its.map(|(at, _)| at).collect()
    };
    assert_eq!(called("CreateCacheCluster").len(), 1);
    // It was about to, and could not say so first: else this says nothing.
    let [deleted] = called("DeleteCacheCluster")[..] else {
        panic!("{:#?}", report.trace)
    };
    let told = called(&format!(" 1 Kubernetes: PUT {INSTANCES}/mine/status"));
    assert!(told.iter().any(|at| *at > deleted), "{:#?}", report.trace);
}
