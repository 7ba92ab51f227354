//! The ElastiCache API as this provider uses it: typed calls, a rate limit, deadlines, and errors sorted into faults.
//!
//! Error codes on the wire are irregular (some carry `Fault`, some do not), so errors are told apart by the SDK's typed
//! variants and never by their text.

use std::fmt::Debug;
use std::time::Duration;

use aws_sdk_elasticache::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_elasticache::types::{CacheCluster, ReplicationGroup, SourceType, Tag};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Fault;
use super::{Create, Live, OWNER_TAG, Ownership, Phase};
use crate::api::{Endpoint, EngineType, Node, Topology};

/// Page size of Describe calls; the most the API gives.
const PAGE: i32 = 100;

/// Whether a typed error of a create call says that the request can never work.
macro_rules! is_hopeless {
    ($error:expr) => {
        $error.as_service_error().is_some_and(|error| {
            error.is_invalid_parameter_value_exception()
                || error.is_invalid_parameter_combination_exception()
                || error.is_tag_quota_per_resource_exceeded()
        })
    };
}

/// Bounds on calls to AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls a second on average; twice as many may come at once.
    pub calls_per_second: u32,
}

/// The API of one region and account.
#[derive(Debug)]
pub struct Client {
    sdk: aws_sdk_elasticache::Client,
    bucket: Mutex<Bucket>,
    rate: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Client {
    /// A client by the SDK's credential chain, for a region and perhaps an endpoint that is not AWS's own.
    pub async fn new(region: String, endpoint: Option<String>, limits: Limits) -> Self {
        let timeouts = aws_config::timeout::TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(Duration::from_secs(15))
            .operation_timeout(Duration::from_secs(45))
            .build();
        let mut config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(region))
            .timeout_config(timeouts)
            .retry_config(aws_config::retry::RetryConfig::standard().with_max_attempts(3));
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self::from_sdk(aws_sdk_elasticache::Client::new(&config.load().await), limits)
    }

    /// A client over one of the SDK's.
    pub fn from_sdk(sdk: aws_sdk_elasticache::Client, limits: Limits) -> Self {
        let rate = f64::from(limits.calls_per_second);
        Self {
            sdk,
            bucket: Mutex::new(Bucket {
                tokens: 2.0 * rate,
                filled: Instant::now(),
            }),
            rate,
        }
    }

    /// Waits for a place under the rate limit.
    async fn turn(&self) {
        let wait = {
            let mut bucket = self.bucket.lock().await;
            let now = Instant::now();
            let refill = now.duration_since(bucket.filled).as_secs_f64() * self.rate;
            bucket.tokens = (bucket.tokens + refill).min(2.0 * self.rate) - 1.0;
            bucket.filled = now;
            (bucket.tokens < 0.0).then(|| Duration::from_secs_f64(-bucket.tokens / self.rate))
        };
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }

    /// `DescribeReplicationGroups` or `DescribeCacheClusters` by id. `None` is the API's own word that there is none.
    pub(super) async fn describe(&self, topology: Topology, id: &str) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let what = || format!("describing {id}");
        match topology {
            Topology::ReplicationGroup => {
                match self
                    .sdk
                    .describe_replication_groups()
                    .replication_group_id(id)
                    .send()
                    .await
                {
                    Ok(output) => Ok(output.replication_groups().first().and_then(group)),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_replication_group_not_found_fault()) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(passing(what(), &error)),
                }
            }
            Topology::CacheCluster => {
                let call = self
                    .sdk
                    .describe_cache_clusters()
                    .cache_cluster_id(id)
                    .show_cache_node_info(true);
                match call.send().await {
                    Ok(output) => Ok(output.cache_clusters().first().and_then(cluster)),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_cache_cluster_not_found_fault()) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(passing(what(), &error)),
                }
            }
        }
    }

    /// Every cache of the region, and how many pages that took.
    pub(super) async fn list(&self, topology: Topology) -> Result<(Vec<Live>, usize), Fault> {
        let (mut found, mut pages, mut marker) = (Vec::new(), 0, None);
        loop {
            self.turn().await;
            pages += 1;
            marker = match topology {
                Topology::ReplicationGroup => {
                    let output = self
                        .sdk
                        .describe_replication_groups()
                        .max_records(PAGE)
                        .set_marker(marker)
                        .send()
                        .await
                        .map_err(|error| passing("listing replication groups", &error))?;
                    found.extend(output.replication_groups().iter().filter_map(group));
                    output.marker
                }
                Topology::CacheCluster => {
                    let output = self
                        .sdk
                        .describe_cache_clusters()
                        .max_records(PAGE)
                        .show_cache_node_info(true)
                        .set_marker(marker)
                        .send()
                        .await
                        .map_err(|error| passing("listing cache clusters", &error))?;
                    let bare = output
                        .cache_clusters()
                        .iter()
                        .filter(|cluster| cluster.replication_group_id().is_none());
                    found.extend(bare.filter_map(cluster));
                    output.marker
                }
            };
            if marker.as_ref().is_none_or(String::is_empty) {
                return Ok((found, pages));
            }
        }
    }

    /// `CreateReplicationGroup` or `CreateCacheCluster`. One that exists already is described instead.
    pub(super) async fn create(&self, create: &Create, token: Option<SecretString>) -> Result<Option<Live>, Fault> {
        self.turn().await;
        match create.topology {
            Topology::ReplicationGroup => self.create_group(create, token).await,
            Topology::CacheCluster => self.create_cluster(create).await,
        }
    }

    async fn create_group(&self, create: &Create, token: Option<SecretString>) -> Result<Option<Live>, Fault> {
        let mut call = self
            .sdk
            .create_replication_group()
            .replication_group_id(&create.id)
            .replication_group_description(&create.description)
            .engine(create.engine.as_str())
            .engine_version(&create.version)
            .cache_node_type(&create.node_type)
            .port(i32::from(create.engine.default_port()))
            .automatic_failover_enabled(create.shards.is_some() || create.multi_az)
            .multi_az_enabled(create.multi_az)
            .set_cache_parameter_group_name(create.parameter_group.clone())
            .set_cache_subnet_group_name(create.subnet_group.clone())
            .set_security_group_ids(some(create.security_group_ids.clone()))
            .set_transit_encryption_enabled(create.transit_encryption)
            .set_at_rest_encryption_enabled(create.at_rest_encryption)
            .set_preferred_maintenance_window(create.maintenance_window.clone())
            .set_snapshot_window(create.snapshot_window.clone())
            .set_snapshot_retention_limit(create.snapshot_retention_days)
            .set_auth_token(token.map(|token| token.expose_secret().to_owned()))
            .set_tags(Some(tags(create)));
        call = match create.shards {
            Some(shards) => call.num_node_groups(shards).replicas_per_node_group(create.replicas),
            None => call.num_cache_clusters(1 + create.replicas),
        };
        match call.send().await {
            Ok(output) => Ok(output.replication_group().and_then(group)),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_replication_group_already_exists_fault()) =>
            {
                self.describe(create.topology, &create.id).await
            }
            Err(error) => Err(sorted(
                format!("creating replication group {}", create.id),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    async fn create_cluster(&self, create: &Create) -> Result<Option<Live>, Fault> {
        let spread = create.multi_az && create.engine == EngineType::Memcached;
        let call = self
            .sdk
            .create_cache_cluster()
            .cache_cluster_id(&create.id)
            .engine(create.engine.as_str())
            .engine_version(&create.version)
            .cache_node_type(&create.node_type)
            .num_cache_nodes(create.nodes)
            .port(i32::from(create.engine.default_port()))
            .set_az_mode(spread.then_some(aws_sdk_elasticache::types::AzMode::CrossAz))
            .set_cache_parameter_group_name(create.parameter_group.clone())
            .set_cache_subnet_group_name(create.subnet_group.clone())
            .set_security_group_ids(some(create.security_group_ids.clone()))
            .set_transit_encryption_enabled(create.transit_encryption)
            .set_preferred_maintenance_window(create.maintenance_window.clone())
            .set_snapshot_window(create.snapshot_window.clone())
            .set_snapshot_retention_limit(create.snapshot_retention_days)
            .set_tags(Some(tags(create)));
        match call.send().await {
            Ok(output) => Ok(output.cache_cluster().and_then(cluster)),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_cache_cluster_already_exists_fault()) =>
            {
                self.describe(create.topology, &create.id).await
            }
            Err(error) => Err(sorted(
                format!("creating cache cluster {}", create.id),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    /// `DeleteReplicationGroup` or `DeleteCacheCluster`. One that is gone is described as `None`.
    pub(super) async fn delete(
        &self,
        topology: Topology,
        id: &str,
        final_snapshot: Option<&str>,
    ) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let final_snapshot = final_snapshot.map(str::to_owned);
        match topology {
            Topology::ReplicationGroup => {
                let call = self.sdk.delete_replication_group().replication_group_id(id);
                match call.set_final_snapshot_identifier(final_snapshot).send().await {
                    Ok(output) => Ok(output.replication_group().and_then(group)),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_replication_group_not_found_fault()) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(passing(format!("deleting replication group {id}"), &error)),
                }
            }
            Topology::CacheCluster => {
                let call = self.sdk.delete_cache_cluster().cache_cluster_id(id);
                match call.set_final_snapshot_identifier(final_snapshot).send().await {
                    Ok(output) => Ok(output.cache_cluster().and_then(cluster)),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_cache_cluster_not_found_fault()) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(passing(format!("deleting cache cluster {id}"), &error)),
                }
            }
        }
    }

    /// Whose a cache is, by its tags. The API refuses to tell while the cache is busy, also with a 404 for one that
    /// exists, and may refuse altogether.
    pub(super) async fn ownership(&self, arn: &str, uid: &str) -> Ownership {
        self.turn().await;
        match self.sdk.list_tags_for_resource().resource_name(arn).send().await {
            Ok(output) => {
                let owner = output
                    .tag_list()
                    .iter()
                    .find(|tag| tag.key() == Some(OWNER_TAG))
                    .and_then(Tag::value);
                if owner == Some(uid) {
                    Ownership::Ours
                } else {
                    Ownership::Foreign
                }
            }
            Err(error) => {
                tracing::debug!(arn, error = %DisplayErrorContext(&error), "reading tags");
                Ownership::Unreadable
            }
        }
    }

    /// What the newest event of a cache says; the cause of a failed creation stands nowhere else.
    pub(super) async fn newest_event(&self, topology: Topology, id: &str) -> Option<String> {
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

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn tags(create: &Create) -> Vec<Tag> {
    create
        .tags
        .iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

fn passing<E, R>(what: impl Into<String>, error: &SdkError<E, R>) -> Fault
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: Debug,
{
    sorted(what.into(), error, false)
}

fn sorted<E, R>(what: String, error: &SdkError<E, R>, hopeless: bool) -> Fault
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: Debug,
{
    let reason = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => DisplayErrorContext(error).to_string(),
    };
    if hopeless {
        Fault::refused(format!(
            "{what}: ElastiCache refuses: {reason}; change the plan or the instance"
        ))
    } else {
        Fault::transient(format!("{what}: {reason}; trying again"))
    }
}

fn endpoint(endpoint: Option<&aws_sdk_elasticache::types::Endpoint>, tls: bool) -> Option<Endpoint> {
    let endpoint = endpoint?;
    Some(Endpoint::new(
        endpoint.address()?,
        u16::try_from(endpoint.port()?).ok()?,
        tls,
    ))
}

fn node(id: &str, at: Option<&aws_sdk_elasticache::types::Endpoint>) -> Node {
    Node {
        id: id.to_owned(),
        host: at.and_then(|at| at.address()).map(str::to_owned),
        port: at.and_then(|at| at.port()).and_then(|port| u16::try_from(port).ok()),
    }
}

fn group(group: &ReplicationGroup) -> Option<Live> {
    let tls = group.transit_encryption_enabled().unwrap_or(false);
    let shards = group.node_groups();
    let first = shards.first();
    let members: Vec<_> = shards.iter().flat_map(|shard| shard.node_group_members()).collect();
    let nodes = if members.is_empty() {
        group.member_clusters().iter().map(|id| node(id, None)).collect()
    } else {
        members
            .iter()
            .map(|member| node(member.cache_cluster_id().unwrap_or_default(), member.read_endpoint()))
            .collect()
    };
    Some(Live {
        topology: Topology::ReplicationGroup,
        id: group.replication_group_id()?.to_owned(),
        arn: group.arn().map(str::to_owned),
        phase: Phase::from_status(group.status().unwrap_or_default()),
        endpoint: endpoint(group.configuration_endpoint(), tls)
            .or_else(|| endpoint(first.and_then(|shard| shard.primary_endpoint()), tls)),
        reader_endpoint: endpoint(first.and_then(|shard| shard.reader_endpoint()), tls),
        nodes,
        node_type: group.cache_node_type().map(str::to_owned),
        authentication: group.auth_token_enabled().unwrap_or(false),
    })
}

fn cluster(cluster: &CacheCluster) -> Option<Live> {
    let tls = cluster.transit_encryption_enabled().unwrap_or(false);
    let nodes = cluster.cache_nodes();
    Some(Live {
        topology: Topology::CacheCluster,
        id: cluster.cache_cluster_id()?.to_owned(),
        arn: cluster.arn().map(str::to_owned),
        phase: Phase::from_status(cluster.cache_cluster_status().unwrap_or_default()),
        endpoint: endpoint(cluster.configuration_endpoint(), tls)
            .or_else(|| endpoint(nodes.first().and_then(|node| node.endpoint()), tls)),
        reader_endpoint: None,
        nodes: nodes
            .iter()
            .map(|each| node(each.cache_node_id().unwrap_or_default(), each.endpoint()))
            .collect(),
        node_type: cluster.cache_node_type().map(str::to_owned),
        authentication: false,
    })
}
