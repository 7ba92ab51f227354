//! Snapshots.

use aws_sdk_elasticache::types::Snapshot as SdkSnapshot;
use jiff::Timestamp;

use super::super::super::Fault;
use super::super::Target;
use super::{Client, passing, sorted};
use crate::api::Topology;

/// A snapshot as ElastiCache describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: SnapshotState,
    /// The replication group or cache cluster it was taken of.
    pub source: Option<String>,
    /// The engine of what it was taken of.
    pub engine: Option<String>,
    /// The engine's version.
    pub version: Option<String>,
    /// Its size as ElastiCache words it, all shards together where they use one unit.
    pub size: Option<String>,
    /// When it was complete.
    pub created: Option<Timestamp>,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It is being taken, copied or exported.
    Busy,
    /// It can be restored.
    Available,
    /// It is going away.
    Deleting,
    /// It cannot be used.
    Failed(String),
}

impl SnapshotState {
    fn from_status(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "available" => Self::Available,
            "deleting" => Self::Deleting,
            "failed" => Self::Failed(text.to_owned()),
            // Also texts that are not known: they may pass.
            _ => Self::Busy,
        }
    }
}

impl Client {
    /// A snapshot by its name. `None` is the API's own word that there is none.
    ///
    /// # Errors
    /// When ElastiCache does not answer.
    pub async fn snapshot(&self, name: &str) -> Result<Option<Snapshot>, Fault> {
        self.turn().await;
        match self.sdk.describe_snapshots().snapshot_name(name).send().await {
            Ok(output) => Ok(output.snapshots().first().and_then(snapshot)),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_snapshot_not_found_fault()) =>
            {
                Ok(None)
            }
            Err(error) => Err(passing(format!("describing snapshot {name}"), &error)),
        }
    }

    /// Asks for a snapshot of a cache. One of that name that exists is left as it is.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn take_snapshot(&self, name: &str, of: &Target) -> Result<(), Fault> {
        self.turn().await;
        let call = self.sdk.create_snapshot().snapshot_name(name);
        let call = match of.topology {
            Topology::ReplicationGroup => call.replication_group_id(&of.id),
            Topology::CacheCluster => call.cache_cluster_id(&of.id),
        };
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_snapshot_already_exists_fault()) =>
            {
                Ok(())
            }
            Err(error) => {
                let hopeless = error.as_service_error().is_some_and(|e| {
                    e.is_snapshot_feature_not_supported_fault() || e.is_invalid_parameter_value_exception()
                });
                Err(sorted(format!("taking snapshot {name} of {}", of.id), &error, hopeless))
            }
        }
    }

    /// Asks for a snapshot to be deleted. One that is gone is no error.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), Fault> {
        self.turn().await;
        match self.sdk.delete_snapshot().snapshot_name(name).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_snapshot_not_found_fault()) =>
            {
                Ok(())
            }
            Err(error) => Err(passing(format!("deleting snapshot {name}"), &error)),
        }
    }
}

fn snapshot(found: &SdkSnapshot) -> Option<Snapshot> {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let parts = found.node_snapshots();
    let created = parts
        .iter()
        .filter_map(|part| part.snapshot_create_time())
        .max_by_key(|time| time.as_nanos());
    Some(Snapshot {
        name: text(found.snapshot_name())?,
        state: SnapshotState::from_status(found.snapshot_status().unwrap_or_default()),
        source: text(found.replication_group_id().or(found.cache_cluster_id())),
        engine: text(found.engine()),
        version: text(found.engine_version()),
        size: total(parts.iter().filter_map(|part| part.cache_size())),
        created: created.and_then(|time| Timestamp::from_second(time.secs()).ok()),
    })
}

/// Sizes such as `5 MB`, added up; the first where they have several units.
fn total<'a>(sizes: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let parsed: Option<Vec<(f64, &str)>> = sizes
        .clone()
        .map(|size| {
            let (number, unit) = size.trim().split_once(' ')?;
            Some((number.parse().ok()?, unit))
        })
        .collect();
    let first = sizes.clone().next()?;
    match parsed.as_deref() {
        Some([(_, unit), rest @ ..]) if rest.iter().all(|(_, other)| other == unit) => {
            let sum: f64 = parsed.iter().flatten().map(|(number, _)| number).sum();
            Some(format!("{sum} {unit}"))
        }
        _ => Some(first.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_shards_add_up() {
        for (sizes, sum) in [
            (&["5 MB"][..], Some("5 MB")),
            (&["5 MB", "7 MB"], Some("12 MB")),
            (&["5 MB", "1 GB"], Some("5 MB")),
            (&["much"], Some("much")),
            (&[], None),
        ] {
            assert_eq!(total(sizes.iter().copied()).as_deref(), sum);
        }
    }
}
