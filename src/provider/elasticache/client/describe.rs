//! Calls that look.

use aws_sdk_elasticache::error::DisplayErrorContext;
use aws_sdk_elasticache::types::{Event, SourceType, Tag};
use jiff::Timestamp;

use super::super::super::Fault;
use super::super::Tags;
use super::super::events::Told;
use super::super::lifecycle::Offered;
use super::super::live::{Live, Phase};
use super::view::{Clusters, cluster, group};
use super::{Client, passing};
use crate::api::{EngineType, Topology};

/// Page size of Describe calls; the most the API gives.
const PAGE: i32 = 100;

impl Client {
    /// A cache by its id. `None` is the API's own word that there is none. The members of a group are described too
    /// once it is available: it may be while they are not.
    pub(in super::super) async fn describe(&self, topology: Topology, id: &str) -> Result<Option<Live>, Fault> {
        match topology {
            Topology::ReplicationGroup => self.describe_group(id).await,
            Topology::CacheCluster => Ok(self.describe_cluster(id).await?.as_ref().and_then(cluster)),
        }
    }

    async fn describe_group(&self, id: &str) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let call = self.sdk.describe_replication_groups().replication_group_id(id);
        let found = match call.send().await {
            Ok(output) => output.replication_groups.unwrap_or_default().into_iter().next(),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_replication_group_not_found_fault()) =>
            {
                None
            }
            Err(error) => return Err(passing(format!("describing replication group {id}"), &error)),
        };
        let Some(found) = found else { return Ok(None) };
        let mut members = Clusters::new();
        if Phase::from_status(found.status().unwrap_or_default()) == Phase::Available {
            for member in found.member_clusters() {
                if let Some(cluster) = self.describe_cluster(member).await? {
                    members.insert(member.clone(), cluster);
                }
            }
        }
        Ok(group(&found, &members))
    }

    async fn describe_cluster(&self, id: &str) -> Result<Option<aws_sdk_elasticache::types::CacheCluster>, Fault> {
        self.turn().await;
        let call = self
            .sdk
            .describe_cache_clusters()
            .cache_cluster_id(id)
            .show_cache_node_info(true);
        match call.send().await {
            Ok(output) => Ok(output.cache_clusters.unwrap_or_default().into_iter().next()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_cache_cluster_not_found_fault()) =>
            {
                Ok(None)
            }
            Err(error) => Err(passing(format!("describing cache cluster {id}"), &error)),
        }
    }

    /// Every cache of the region, and how many pages that took. Groups come before their members: one that turns
    /// available between the two lists is seen as still busy.
    pub(in super::super) async fn list(&self) -> Result<(Vec<Live>, usize), Fault> {
        let (mut groups, mut members, mut found, mut pages) = (Vec::new(), Clusters::new(), Vec::new(), 0);
        let mut marker = None;
        loop {
            self.turn().await;
            pages += 1;
            let call = self.sdk.describe_replication_groups().max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing replication groups", &error))?;
            groups.extend(output.replication_groups.unwrap_or_default());
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        loop {
            self.turn().await;
            pages += 1;
            let call = self
                .sdk
                .describe_cache_clusters()
                .max_records(PAGE)
                .show_cache_node_info(true);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing cache clusters", &error))?;
            // A reply is many times what is kept of it, so that of what stands by itself goes with its page.
            for each in output.cache_clusters.unwrap_or_default() {
                if each.replication_group_id().is_none() {
                    found.extend(cluster(&each));
                } else if let Some(id) = each.cache_cluster_id.clone() {
                    members.insert(id, each);
                }
            }
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        found.extend(groups.iter().filter_map(|found| group(found, &members)));
        Ok((found, pages))
    }

    /// Every replication group and cache cluster of the region.
    ///
    /// # Errors
    /// When ElastiCache does not answer.
    pub async fn inventory(&self) -> Result<Vec<Live>, Fault> {
        self.list().await.map(|(all, _)| all)
    }

    /// The tags of a cache.
    ///
    /// # Errors
    /// When ElastiCache does not answer or does not tell: it does not while the cache is busy, also with a 404 for one that
    /// exists, and may refuse altogether.
    pub async fn tags(&self, arn: &str) -> Result<Tags, Fault> {
        self.turn().await;
        let call = self.sdk.list_tags_for_resource().resource_name(arn);
        let output = call
            .send()
            .await
            .map_err(|error| passing(format!("reading the tags of {arn}"), &error))?;
        let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        Ok(output.tag_list().iter().filter_map(pair).collect())
    }

    /// What happened to the caches of the region since a time, as far as so many pages tell it, and whether that is all.
    pub(in super::super) async fn events(&self, since: Timestamp, pages: usize) -> Result<(Vec<Told>, bool), Fault> {
        let since = aws_sdk_elasticache::primitives::DateTime::from_millis(since.as_millisecond());
        let (mut found, mut marker) = (Vec::new(), None);
        for _ in 0..pages {
            self.turn().await;
            let call = self.sdk.describe_events().start_time(since).max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("reading the events of the region", &error))?;
            found.extend(output.events().iter().filter_map(told));
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }

    /// The versions of engines that can be ordered.
    pub(in super::super) async fn engine_versions(&self) -> Result<Offered, Fault> {
        let (mut offered, mut marker) = (Offered::new(), None);
        loop {
            self.turn().await;
            let call = self.sdk.describe_cache_engine_versions().max_records(PAGE);
            let output = call
                .set_marker(marker)
                .send()
                .await
                .map_err(|error| passing("listing engine versions", &error))?;
            for listed in output.cache_engine_versions() {
                let engine = listed.engine().and_then(EngineType::named);
                if let (Some(engine), Some(version)) = (engine, listed.engine_version()) {
                    offered.entry(engine).or_default().push(version.to_owned());
                }
            }
            marker = output.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(offered);
            }
        }
    }

    /// What the newest event of a cache says; the cause of a failed creation stands nowhere else.
    pub(in super::super) async fn newest_event(&self, topology: Topology, id: &str) -> Option<String> {
        self.turn().await;
        let source = match topology {
            Topology::ReplicationGroup => SourceType::ReplicationGroup,
            Topology::CacheCluster => SourceType::CacheCluster,
        };
        // Two weeks, the longest the API keeps events.
        let call = self
            .sdk
            .describe_events()
            .source_identifier(id)
            .source_type(source)
            .duration(20_160);
        match call.send().await {
            Ok(output) => output
                .events()
                .iter()
                .max_by_key(|event| event.date().map(aws_sdk_elasticache::primitives::DateTime::as_nanos))
                .and_then(|event| event.message())
                .map(str::to_owned),
            Err(error) => {
                tracing::debug!(id, error = %DisplayErrorContext(&error), "reading events");
                None
            }
        }
    }
}

fn told(event: &Event) -> Option<Told> {
    let topology = match event.source_type()? {
        SourceType::ReplicationGroup => Topology::ReplicationGroup,
        SourceType::CacheCluster => Topology::CacheCluster,
        _ => return None,
    };
    Some(Told {
        topology,
        source: event.source_identifier()?.to_owned(),
        message: event.message()?.to_owned(),
        at: Timestamp::from_millisecond(event.date()?.to_millis().ok()?).ok()?,
    })
}
