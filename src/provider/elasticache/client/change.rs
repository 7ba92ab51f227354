//! Calls that make, change and delete caches.

use aws_sdk_elasticache::config::retry::RetryConfig;
use aws_sdk_elasticache::types::{AuthTokenUpdateStrategyType, AzMode, Tag, TransitEncryptionMode};
use secrecy::{ExposeSecret, SecretString};

use super::super::super::Fault;
use super::super::live::{Live, LiveNode, Phase, Tls};
use super::super::plan::{Modification, Settings, TokenStrategy};
use super::super::{Create, Tags, Target};
use super::view::{Clusters, cluster, group};
use super::{Client, passing, sorted};
use crate::api::{EngineType, Topology};

/// Whether a typed error of a call that makes or changes says that the request can never work.
macro_rules! is_hopeless {
    ($error:expr) => {
        $error.as_service_error().is_some_and(|error| {
            error.is_invalid_parameter_value_exception() || error.is_invalid_parameter_combination_exception()
        })
    };
}

impl Client {
    /// `CreateReplicationGroup` or `CreateCacheCluster`. One that exists already is described instead.
    pub(in super::super) async fn create(
        &self,
        create: &Create,
        token: Option<SecretString>,
    ) -> Result<Option<Live>, Fault> {
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
            .port(i32::from(create.port))
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
            .set_snapshot_name(create.snapshot.clone())
            .set_auth_token(token.map(|token| token.expose_secret().to_owned()))
            .set_user_group_ids(create.user_group.clone().map(|group| vec![group]))
            .set_tags(Some(sdk_tags(&create.tags)));
        call = match create.shards {
            Some(shards) => call.num_node_groups(shards).replicas_per_node_group(create.replicas),
            None => call.num_cache_clusters(1 + create.replicas),
        };
        match call.send().await {
            Ok(output) => Ok(output
                .replication_group()
                .and_then(|made| group(made, &Clusters::new()))),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_replication_group_already_exists_fault()) =>
            {
                self.describe(create.topology, &create.id).await
            }
            Err(error) => {
                let tags = error
                    .as_service_error()
                    .is_some_and(|e| e.is_tag_quota_per_resource_exceeded());
                let what = format!("creating replication group {}", create.id);
                Err(sorted(what, &error, is_hopeless!(error) || tags))
            }
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
            .port(i32::from(create.port))
            .set_az_mode(spread.then_some(AzMode::CrossAz))
            .set_cache_parameter_group_name(create.parameter_group.clone())
            .set_cache_subnet_group_name(create.subnet_group.clone())
            .set_security_group_ids(some(create.security_group_ids.clone()))
            .set_transit_encryption_enabled(create.transit_encryption)
            .set_preferred_maintenance_window(create.maintenance_window.clone())
            .set_snapshot_window(create.snapshot_window.clone())
            .set_snapshot_retention_limit(create.snapshot_retention_days)
            .set_snapshot_name(create.snapshot.clone())
            .set_tags(Some(sdk_tags(&create.tags)));
        match call.send().await {
            Ok(output) => Ok(output.cache_cluster().and_then(cluster)),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_cache_cluster_already_exists_fault()) =>
            {
                self.describe(create.topology, &create.id).await
            }
            Err(error) => {
                let tags = error
                    .as_service_error()
                    .is_some_and(|e| e.is_tag_quota_per_resource_exceeded());
                let what = format!("creating cache cluster {}", create.id);
                Err(sorted(what, &error, is_hopeless!(error) || tags))
            }
        }
    }

    /// `DeleteReplicationGroup` or `DeleteCacheCluster`. One that is gone is described as `None`.
    pub(in super::super) async fn delete(
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
                    Ok(output) => Ok(output
                        .replication_group()
                        .and_then(|made| group(made, &Clusters::new()))),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_replication_group_not_found_fault()) =>
                    {
                        Ok(None)
                    }
                    // A delete whose answer was lost has left its snapshot.
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_snapshot_already_exists_fault()) =>
                    {
                        self.deleting(topology, id, passing(format!("deleting {id}"), &error))
                            .await
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
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|e| e.is_snapshot_already_exists_fault()) =>
                    {
                        self.deleting(topology, id, passing(format!("deleting {id}"), &error))
                            .await
                    }
                    Err(error) => Err(passing(format!("deleting cache cluster {id}"), &error)),
                }
            }
        }
    }

    /// The cache if it is being deleted or gone, else the fault.
    async fn deleting(&self, topology: Topology, id: &str, fault: Fault) -> Result<Option<Live>, Fault> {
        match self.describe(topology, id).await? {
            Some(live) if live.phase != Phase::Deleting => Err(fault),
            going => Ok(going),
        }
    }

    /// Changes a cache in place. A change that turns out to be none is no error (`NoOperationFault`).
    pub(in super::super) async fn modify(
        &self,
        target: &Target,
        modification: &Modification,
    ) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let id = target.id.as_str();
        match (target.topology, modification) {
            (Topology::ReplicationGroup, Modification::Settings(settings)) => self.modify_group(id, settings).await,
            (Topology::CacheCluster, Modification::Settings(settings)) => {
                self.modify_cluster(id, settings, None, &[]).await
            }
            (Topology::CacheCluster, Modification::Nodes { count, remove }) => {
                self.modify_cluster(id, &Settings::default(), Some(*count), remove)
                    .await
            }
            (Topology::ReplicationGroup, Modification::Replicas { count, more }) => {
                self.modify_replicas(id, *count, *more).await
            }
            (Topology::ReplicationGroup, Modification::Shards { count, remove }) => {
                self.modify_shards(id, *count, remove).await
            }
            (_, Modification::Token(_))
            | (Topology::ReplicationGroup, Modification::Nodes { .. })
            | (Topology::CacheCluster, Modification::Replicas { .. } | Modification::Shards { .. }) => Err(
                Fault::refused(format!("{id} cannot be changed that way: {modification:?}")),
            ),
        }
    }

    async fn modify_group(&self, id: &str, settings: &Settings) -> Result<Option<Live>, Fault> {
        let mode = settings.tls.and_then(|tls| match tls {
            Tls::Off => None,
            Tls::Preferred => Some(TransitEncryptionMode::Preferred),
            Tls::Required => Some(TransitEncryptionMode::Required),
        });
        let call = self
            .sdk
            .modify_replication_group()
            .replication_group_id(id)
            .apply_immediately(true)
            .set_engine(settings.engine.map(|engine| engine.as_str().to_owned()))
            .set_engine_version(settings.version.clone())
            .set_cache_parameter_group_name(settings.parameter_group.clone())
            .set_cache_node_type(settings.node_type.clone())
            .set_security_group_ids(settings.security_groups.clone().map(|ids| ids.into_iter().collect()))
            .set_preferred_maintenance_window(settings.maintenance_window.clone())
            .set_snapshot_window(settings.snapshot_window.clone())
            .set_snapshot_retention_limit(settings.snapshot_retention)
            .set_transit_encryption_enabled(settings.tls.map(|tls| tls != Tls::Off))
            .set_transit_encryption_mode(mode)
            .set_automatic_failover_enabled(settings.multi_az)
            .set_multi_az_enabled(settings.multi_az)
            .set_user_group_ids_to_add(settings.user_group.clone().map(|group| vec![group]));
        match call.send().await {
            // The reply may tell an old engine, and never tells of members: the group is described anew.
            Ok(_) => self.describe(Topology::ReplicationGroup, id).await,
            Err(error) => Err(sorted(
                format!("modifying replication group {id}"),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    /// `ModifyReplicationGroup` with `AuthToken` and `AuthTokenUpdateStrategy`, and nothing else. The SDK does not repeat
    /// it: a second `ROTATE` after one whose answer was lost would shut the password before out.
    pub(in super::super) async fn set_token(
        &self,
        id: &str,
        token: &SecretString,
        strategy: TokenStrategy,
    ) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let strategy = match strategy {
            TokenStrategy::Rotate => AuthTokenUpdateStrategyType::Rotate,
            TokenStrategy::Set => AuthTokenUpdateStrategyType::Set,
        };
        let call = self
            .sdk
            .modify_replication_group()
            .replication_group_id(id)
            .apply_immediately(true)
            .auth_token(token.expose_secret())
            .auth_token_update_strategy(strategy);
        let once = aws_sdk_elasticache::Config::builder().retry_config(RetryConfig::disabled());
        match call.customize().config_override(once).send().await {
            Ok(_) => self.describe(Topology::ReplicationGroup, id).await,
            Err(error) => Err(sorted(
                format!("changing the password of {id}"),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    async fn modify_cluster(
        &self,
        id: &str,
        settings: &Settings,
        nodes: Option<i32>,
        remove: &[String],
    ) -> Result<Option<Live>, Fault> {
        let call = self
            .sdk
            .modify_cache_cluster()
            .cache_cluster_id(id)
            .apply_immediately(true)
            .set_engine_version(settings.version.clone())
            .set_cache_parameter_group_name(settings.parameter_group.clone())
            .set_cache_node_type(settings.node_type.clone())
            .set_security_group_ids(settings.security_groups.clone().map(|ids| ids.into_iter().collect()))
            .set_preferred_maintenance_window(settings.maintenance_window.clone())
            .set_snapshot_window(settings.snapshot_window.clone())
            .set_snapshot_retention_limit(settings.snapshot_retention)
            .set_num_cache_nodes(nodes)
            .set_cache_node_ids_to_remove(some(remove.to_vec()));
        match call.send().await {
            Ok(_) => self.describe(Topology::CacheCluster, id).await,
            Err(error) => Err(sorted(
                format!("modifying cache cluster {id}"),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    async fn modify_replicas(&self, id: &str, count: i32, more: bool) -> Result<Option<Live>, Fault> {
        let outcome = if more {
            let call = self.sdk.increase_replica_count().replication_group_id(id);
            match call.new_replica_count(count).apply_immediately(true).send().await {
                Ok(_) => Ok(()),
                Err(error) if error.as_service_error().is_some_and(|e| e.is_no_operation_fault()) => Ok(()),
                Err(error) => Err(sorted(format!("adding replicas to {id}"), &error, is_hopeless!(error))),
            }
        } else {
            let call = self.sdk.decrease_replica_count().replication_group_id(id);
            match call.new_replica_count(count).apply_immediately(true).send().await {
                Ok(_) => Ok(()),
                Err(error) if error.as_service_error().is_some_and(|e| e.is_no_operation_fault()) => Ok(()),
                Err(error) => Err(sorted(
                    format!("removing replicas of {id}"),
                    &error,
                    is_hopeless!(error),
                )),
            }
        };
        outcome?;
        self.describe(Topology::ReplicationGroup, id).await
    }

    async fn modify_shards(&self, id: &str, count: i32, remove: &[String]) -> Result<Option<Live>, Fault> {
        let call = self
            .sdk
            .modify_replication_group_shard_configuration()
            .replication_group_id(id)
            .node_group_count(count)
            .apply_immediately(true)
            .set_node_groups_to_remove(some(remove.to_vec()));
        match call.send().await {
            Ok(_) => self.describe(Topology::ReplicationGroup, id).await,
            Err(error) => Err(sorted(
                format!("changing the shards of {id}"),
                &error,
                is_hopeless!(error),
            )),
        }
    }

    /// `RebootCacheCluster`: restarts one node.
    pub(in super::super) async fn reboot(&self, target: &Target, node: &LiveNode) -> Result<Option<Live>, Fault> {
        self.turn().await;
        let call = self
            .sdk
            .reboot_cache_cluster()
            .cache_cluster_id(&node.cluster)
            .cache_node_ids_to_reboot(&node.cache_node);
        match call.send().await {
            Ok(_) => self.describe(target.topology, &target.id).await,
            Err(error) => Err(passing(
                format!("restarting node {} of {}", node.cache_node, node.cluster),
                &error,
            )),
        }
    }

    /// `AddTagsToResource`: writes tags, in one call.
    pub(in super::super) async fn tag(&self, arn: &str, tags: &Tags) -> Result<(), Fault> {
        self.turn().await;
        let call = self.sdk.add_tags_to_resource().resource_name(arn);
        match call.set_tags(Some(sdk_tags(tags))).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(passing(format!("tagging {arn}"), &error)),
        }
    }

    /// `RemoveTagsFromResource`: takes tags away, in one call.
    pub(in super::super) async fn untag(&self, arn: &str, keys: &[String]) -> Result<(), Fault> {
        self.turn().await;
        let call = self.sdk.remove_tags_from_resource().resource_name(arn);
        match call.set_tag_keys(Some(keys.to_vec())).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(passing(format!("taking tags off {arn}"), &error)),
        }
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn sdk_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticache::error::SdkError;
    use aws_sdk_elasticache::operation::create_cache_cluster::CreateCacheClusterError;
    use aws_sdk_elasticache::operation::create_replication_group::CreateReplicationGroupError;
    use aws_sdk_elasticache::operation::create_snapshot::CreateSnapshotError;
    use aws_sdk_elasticache::operation::create_user::CreateUserError;
    use aws_sdk_elasticache::operation::create_user_group::CreateUserGroupError;
    use aws_sdk_elasticache::operation::delete_replication_group::DeleteReplicationGroupError;
    use aws_sdk_elasticache::operation::increase_replica_count::IncreaseReplicaCountError;
    use aws_sdk_elasticache::operation::modify_cache_cluster::ModifyCacheClusterError;
    use aws_sdk_elasticache::operation::modify_replication_group_shard_configuration::ModifyReplicationGroupShardConfigurationError;
    use aws_sdk_elasticache::operation::modify_user_group::ModifyUserGroupError;
    use aws_sdk_elasticache::types::error as refused;

    use super::*;
    use crate::provider::FaultKind;

    /// What becomes of a refusal of an operation.
    macro_rules! kind {
        ($of:ident :: $refusal:ident) => {{
            let refusal = $of::$refusal(refused::$refusal::builder().build());
            let error = SdkError::<_, ()>::service_error(refusal, ());
            (
                stringify!($refusal),
                sorted("asking".to_owned(), &error, is_hopeless!(error)).kind,
            )
        }};
    }

    /// A quota may be raised and room may come: every call that meets with one is made again. What no retry mends is told
    /// apart by its type, never by its text.
    #[test]
    fn quotas_and_want_of_room_pass_and_what_is_wrong_does_not() {
        for (what, kind) in [
            kind!(CreateReplicationGroupError::ClusterQuotaForCustomerExceededFault),
            kind!(CreateReplicationGroupError::NodeQuotaForClusterExceededFault),
            kind!(CreateReplicationGroupError::NodeQuotaForCustomerExceededFault),
            kind!(CreateReplicationGroupError::NodeGroupsPerReplicationGroupQuotaExceededFault),
            kind!(CreateReplicationGroupError::InsufficientCacheClusterCapacityFault),
            kind!(CreateReplicationGroupError::CacheSubnetGroupNotFoundFault),
            kind!(CreateReplicationGroupError::CacheParameterGroupNotFoundFault),
            kind!(CreateReplicationGroupError::UserGroupNotFoundFault),
            kind!(CreateCacheClusterError::ClusterQuotaForCustomerExceededFault),
            kind!(CreateCacheClusterError::NodeQuotaForClusterExceededFault),
            kind!(CreateCacheClusterError::NodeQuotaForCustomerExceededFault),
            kind!(CreateCacheClusterError::InsufficientCacheClusterCapacityFault),
            kind!(ModifyCacheClusterError::NodeQuotaForClusterExceededFault),
            kind!(ModifyCacheClusterError::NodeQuotaForCustomerExceededFault),
            kind!(IncreaseReplicaCountError::ClusterQuotaForCustomerExceededFault),
            kind!(IncreaseReplicaCountError::NodeGroupsPerReplicationGroupQuotaExceededFault),
            kind!(IncreaseReplicaCountError::NodeQuotaForCustomerExceededFault),
            kind!(ModifyReplicationGroupShardConfigurationError::NodeGroupsPerReplicationGroupQuotaExceededFault),
            kind!(ModifyReplicationGroupShardConfigurationError::NodeQuotaForCustomerExceededFault),
            kind!(CreateUserError::UserQuotaExceededFault),
            kind!(CreateUserError::ServiceLinkedRoleNotFoundFault),
            kind!(CreateSnapshotError::SnapshotQuotaExceededFault),
        ] {
            assert_eq!(kind, FaultKind::Transient, "{what}");
        }
        for (what, kind) in [
            kind!(CreateReplicationGroupError::InvalidParameterValueException),
            kind!(CreateReplicationGroupError::InvalidParameterCombinationException),
            kind!(CreateCacheClusterError::InvalidParameterValueException),
            kind!(CreateUserError::InvalidParameterValueException),
        ] {
            assert_eq!(kind, FaultKind::Refused, "{what}");
        }
        // These calls take nothing that a plan or an instance could say wrong: whatever is refused passes.
        let user_groups = SdkError::<_, ()>::service_error(
            CreateUserGroupError::UserGroupQuotaExceededFault(refused::UserGroupQuotaExceededFault::builder().build()),
            (),
        );
        let members = SdkError::<_, ()>::service_error(
            ModifyUserGroupError::InvalidUserGroupStateFault(refused::InvalidUserGroupStateFault::builder().build()),
            (),
        );
        let last = SdkError::<_, ()>::service_error(
            DeleteReplicationGroupError::SnapshotQuotaExceededFault(
                refused::SnapshotQuotaExceededFault::builder().build(),
            ),
            (),
        );
        assert_eq!(passing("making", &user_groups).kind, FaultKind::Transient);
        assert_eq!(passing("changing", &members).kind, FaultKind::Transient);
        assert_eq!(passing("deleting", &last).kind, FaultKind::Transient);
    }
}
