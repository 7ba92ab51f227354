//! How a process reaches ElastiCache: through the SDK, whose requests do not leave the program.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_elasticache::Config;
use aws_sdk_elasticache::config::retry::RetryConfig;
use aws_sdk_elasticache::config::timeout::TimeoutConfig;
use aws_sdk_elasticache::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use cache_broker::provider::elasticache::{Client, Limits};

use crate::gate::{Call, Failure, System, Verdict};
use crate::world::{Late, World, writes};

struct Wire {
    world: Arc<World>,
    process: usize,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Wires(Arc<Wire>);

impl HttpClient for Wires {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wires {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.0.clone();
        HttpConnectorFuture::new(async move { wire.send(&request).await })
    }
}

fn response((status, body): (http::StatusCode, String)) -> HttpResponse {
    let status = aws_smithy_runtime_api::http::StatusCode::try_from(status.as_u16()).unwrap();
    HttpResponse::new(status, SdkBody::from(body))
}

fn broken() -> ConnectorError {
    ConnectorError::io("the connection was reset".into())
}

impl Wire {
    async fn send(&self, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let body = String::from_utf8_lossy(request.body().bytes().unwrap_or_default()).into_owned();
        let (world, process) = (&self.world, self.process);
        let read = world.state().elasticache.read(&body);
        let request = match read {
            Ok(request) => request,
            Err(answer) => return Ok(response(answer)),
        };
        let about = [
            "ReplicationGroupId",
            "CacheClusterId",
            "SnapshotName",
            "ResourceName",
            "Marker",
        ];
        let about = about.into_iter().find_map(|name| request.parameters.get(name));
        let call = Call {
            system: System::ElastiCache,
            what: format!("{} {}", request.operation, about.map_or("", String::as_str)),
            writes: writes(&request.operation),
            quiet: false,
        };
        match world.pass(process, call).await {
            Verdict::Go => Ok(response(world.elasticache(&request))),
            Verdict::Lose => {
                drop(world.elasticache(&request));
                Err(broken())
            }
            Verdict::Slow(by) => {
                let answer = response(world.elasticache(&request));
                tokio::time::sleep(by).await;
                Ok(answer)
            }
            Verdict::DieBefore => world.die(process).await,
            Verdict::Die => {
                drop(world.elasticache(&request));
                world.die(process).await
            }
            Verdict::Late => {
                world.state().late.push(Late::ElastiCache(request));
                std::future::pending().await
            }
            Verdict::Outlive => {
                world.state().late.push(Late::ElastiCache(request));
                world.die(process).await
            }
            Verdict::Fail(failure) => {
                let refused = |status: u16, code: &str| {
                    let body = format!(
                        "<ErrorResponse xmlns=\"http://elasticache.amazonaws.com/doc/2015-02-02/\"><Error><Type>Sender</Type>\
                         <Code>{code}</Code><Message>struck by the simulation</Message></Error>\
                         <RequestId>r</RequestId></ErrorResponse>"
                    );
                    Ok(response((http::StatusCode::from_u16(status).unwrap(), body)))
                };
                match failure {
                    Failure::Broken => Err(broken()),
                    Failure::Throttled => refused(400, "Throttling"),
                    Failure::Internal => refused(500, "InternalFailure"),
                    Failure::Unavailable => refused(503, "ServiceUnavailable"),
                    Failure::Silence => std::future::pending().await,
                }
            }
        }
    }
}

/// A client of one process. The SDK does not try again by itself, so that each call is one.
pub fn client(world: &Arc<World>, process: usize) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(15))
        .operation_timeout(Duration::from_secs(45))
        .build();
    let wire = Wire {
        world: world.clone(),
        process,
    };
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "simulation"))
        .endpoint_url("http://elasticache.example")
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(Wires(Arc::new(wire)))
        .build();
    let limits = Limits { calls_per_second: 10 };
    Client::from_sdk(aws_sdk_elasticache::Client::from_conf(config), limits)
}
