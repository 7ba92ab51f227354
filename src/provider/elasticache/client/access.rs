//! Whether the API can be used, for `cache-broker check`.

use aws_sdk_elasticache::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use super::Client;

fn reason<E, R>(error: &SdkError<E, R>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => DisplayErrorContext(error).to_string(),
    }
}

impl Client {
    /// Makes the calls that look, which every broker makes at its start.
    ///
    /// # Errors
    /// When one is not answered or refused: which, and why.
    pub async fn reach(&self) -> Result<(), String> {
        self.turn().await;
        let groups = self.sdk.describe_replication_groups().max_records(20).send().await;
        groups.map_err(|error| format!("DescribeReplicationGroups: {}", reason(&error)))?;
        self.turn().await;
        let clusters = self.sdk.describe_cache_clusters().max_records(20).send().await;
        clusters.map_err(|error| format!("DescribeCacheClusters: {}", reason(&error)))?;
        Ok(())
    }

    /// The network that a subnet group is in; `None` if there is no such group.
    ///
    /// # Errors
    /// When the call is not answered or refused.
    pub async fn subnet_group(&self, name: &str) -> Result<Option<String>, String> {
        self.turn().await;
        let found = self
            .sdk
            .describe_cache_subnet_groups()
            .cache_subnet_group_name(name)
            .send()
            .await;
        match found {
            Ok(output) => {
                let group = output.cache_subnet_groups().first();
                Ok(group.map(|group| group.vpc_id().unwrap_or("a network that is not named").to_owned()))
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_cache_subnet_group_not_found_fault()) =>
            {
                Ok(None)
            }
            Err(error) => Err(format!("DescribeCacheSubnetGroups: {}", reason(&error))),
        }
    }
}
