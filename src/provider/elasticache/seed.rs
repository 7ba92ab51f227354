//! A cache that takes another's place begins with a snapshot of it, where the engine has snapshots.

use super::super::Desired;
use super::Live;
use crate::api::{ElastiCacheSpec, EngineType};

/// The name of the snapshot that a cache is filled from when it takes another's place. It follows from the cache's own
/// id, so that it is found again, and asking twice asks for one.
pub fn seed_name(id: &str) -> String {
    format!("{id}-seed")
}

/// Whether a snapshot of a live cache can fill the one that takes its place, as the plan wants that.
///
/// # Errors
/// What keeps it from that, as part of a sentence.
pub fn can_seed(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Result<(), &'static str> {
    let of = live.config.engine.unwrap_or(desired.plan.engine.type_);
    if of == EngineType::Memcached || desired.plan.engine.type_ == EngineType::Memcached {
        Err("memcached has no snapshots")
    } else if live.config.sharded && spec.shards.is_none() {
        Err("a snapshot of several shards does not fill a cache without shards")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{desired, made, memcached, plan, redis};
    use super::*;

    #[test]
    fn what_redis_and_valkey_hold_fills_another_unless_shards_would_be_lost() {
        let sharded = plan("redis", "7.1", &json!({ "nodeType": "cache.t4g.micro", "shards": 2 }));
        let valkey = plan(
            "valkey",
            "8.0",
            &json!({ "nodeType": "cache.t4g.micro", "subnetGroup": "b" }),
        );
        for (from, to, can) in [
            (redis(), valkey, true),
            (redis(), sharded.clone(), true),
            (sharded.clone(), sharded.clone(), true),
            (sharded, redis(), false),
            (memcached(), memcached(), false),
        ] {
            let spec = to.elasticache.clone().unwrap();
            assert_eq!(
                can_seed(&desired(to.clone()), &spec, &made(&from, 0)).is_ok(),
                can,
                "{from:?} {to:?}"
            );
        }
    }
}
