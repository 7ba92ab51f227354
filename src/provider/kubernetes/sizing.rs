//! What fits into a node's memory, and which numbers of a plan make no cache.

use super::super::Window;
use crate::api::{EngineType, KubernetesSpec, Memory};

/// Memory that an engine needs beside what it stores: code, libraries, allocator.
const BASE_MEBIBYTES: u32 = 8;
/// What of the rest is for items of memcached, whose slabs do not fragment; the rest of it is for tables and buffers.
const MEMCACHED_ITEM_SHARE_PERCENT: u32 = 80;
/// What of the rest is for items of redis, whose allocator fragments by a fifth where sizes are mixed.
const REDIS_ITEM_SHARE_PERCENT: u32 = 70;
/// The same where a log of writes is kept: while it is rewritten, pages that change are in memory twice.
const PERSISTENT_ITEM_SHARE_PERCENT: u32 = 40;
/// What one memcached connection holds in buffers at most, in KiB, when requests are small.
const MEMCACHED_CONNECTION_KIB: u32 = 12;
/// What one redis connection holds in buffers, in KiB, when requests are small.
const REDIS_CONNECTION_KIB: u32 = 20;
/// The least memory for items that an engine is started with.
const LEAST_ITEM_MEBIBYTES: u32 = 4;
/// How often all items must fit into a volume: as the log's last rewriting, as what was written since, which makes it
/// be rewritten when it is as long, and as the new one.
const VOLUME_FACTOR: u32 = 3;
/// Connections an engine takes when the plan does not say.
pub const DEFAULT_CONNECTIONS: u32 = 1024;

/// A plan whose numbers make no cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The memory is not enough to start the engine.
    #[error(
        "memory {memory} leaves {left} MiB for items beside {connections} connections: give the plan more memory or a lower connectionLimit"
    )]
    TooSmall {
        /// The plan's memory.
        memory: Memory,
        /// What is left of it for items.
        left: u32,
        /// The connection limit.
        connections: u32,
    },
    /// memcached wants room for two of its largest items.
    #[error(
        "maxItemSize {item} is more than half of the {left} MiB for items: give the plan more memory or smaller items"
    )]
    ItemTooLarge {
        /// The largest item.
        item: Memory,
        /// What there is for items.
        left: u32,
    },
    /// The volume does not hold what the memory holds.
    #[error(
        "persistence.size {size} is less than {VOLUME_FACTOR} times the {items} MiB for items: give the plan a larger volume or less memory"
    )]
    VolumeTooSmall {
        /// The volume's size.
        size: Memory,
        /// Memory for items in MiB.
        items: u32,
    },
    /// A volume cannot move to another storage class.
    #[error(
        "PersistentVolumeClaim {claim} is of storage class {is} and cannot become {wanted}: put persistence.storageClass of the plan back, or make a new instance"
    )]
    OtherStorageClass {
        /// The claim.
        claim: String,
        /// The class it is of.
        is: String,
        /// The class that the plan names.
        wanted: String,
    },
    /// Replicas of redis and valkey are not made in the cluster.
    #[error("{0} in the cluster runs as one node: leave replicas out, or use a plan on ElastiCache")]
    NoReplicas(EngineType),
    /// The maintenance window is none.
    #[error("maintenanceWindow {0} is no window of a week: write one such as sun:05:00-sun:06:00, in UTC")]
    NoWindow(String),
}

/// The plan's maintenance window, if it has one.
///
/// # Errors
/// When it is none.
pub fn window(spec: &KubernetesSpec) -> Result<Option<Window>, Impossible> {
    let read = |text: &String| Window::parse(text).ok_or_else(|| Impossible::NoWindow(text.clone()));
    spec.maintenance_window.as_ref().map(read).transpose()
}

/// Memory for items in MiB: the limit less what the engine needs beside them, so that it evicts before the kernel kills
/// it.
///
/// # Errors
/// When the plan's numbers make no cache.
pub fn item_memory(engine: EngineType, spec: &KubernetesSpec) -> Result<u32, Impossible> {
    let connections = spec.connection_limit.unwrap_or(DEFAULT_CONNECTIONS);
    let (each, share) = match (engine.is_redis_like(), &spec.persistence) {
        (false, _) => (MEMCACHED_CONNECTION_KIB, MEMCACHED_ITEM_SHARE_PERCENT),
        (true, None) => (REDIS_CONNECTION_KIB, REDIS_ITEM_SHARE_PERCENT),
        (true, Some(_)) => (REDIS_CONNECTION_KIB, PERSISTENT_ITEM_SHARE_PERCENT),
    };
    let overhead = BASE_MEBIBYTES + (connections * each).div_ceil(1024);
    let left = u64::from(spec.memory.mebibytes().saturating_sub(overhead)) * u64::from(share) / 100;
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    if left < LEAST_ITEM_MEBIBYTES {
        return Err(Impossible::TooSmall {
            memory: spec.memory,
            left,
            connections,
        });
    }
    if let Some(persistence) = &spec.persistence
        && persistence.size.mebibytes() < left.saturating_mul(VOLUME_FACTOR)
    {
        return Err(Impossible::VolumeTooSmall {
            size: persistence.size,
            items: left,
        });
    }
    match spec.max_item_size {
        Some(item) if engine == EngineType::Memcached && item.mebibytes() > left / 2 => {
            Err(Impossible::ItemTooLarge { item, left })
        }
        _ => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_and_connections_fit_below_the_limit() {
        for (memory, connections, engine) in [
            (64, 1024, EngineType::Memcached),
            (1024, 65_000, EngineType::Memcached),
            (512, 1024, EngineType::Redis),
        ] {
            let spec = KubernetesSpec {
                memory: Memory::from_mebibytes(memory),
                connection_limit: Some(connections),
                ..serde_json::from_value(json!({ "memory": "1Mi" })).unwrap()
            };
            let each = if engine.is_redis_like() {
                REDIS_CONNECTION_KIB
            } else {
                MEMCACHED_CONNECTION_KIB
            };
            let items = item_memory(engine, &spec).unwrap();
            assert!(
                items + BASE_MEBIBYTES + connections * each / 1024 < memory,
                "{items} of {memory}"
            );
        }
    }

    #[test]
    fn any_memory_is_enough_or_refused() {
        for memory in ["1Mi", "16Mi", "1Gi", "4096Gi", "4194303Gi"] {
            for engine in [EngineType::Memcached, EngineType::Redis] {
                let spec: KubernetesSpec =
                    serde_json::from_value(json!({ "memory": memory, "connectionLimit": 1 })).unwrap();
                if let Ok(items) = item_memory(engine, &spec) {
                    assert!(items >= LEAST_ITEM_MEBIBYTES && items < spec.memory.mebibytes());
                }
            }
        }
    }
}
