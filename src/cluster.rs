//! The way to the cluster.

use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::layer::layer_fn;
use tower::{BoxError, Service, ServiceExt};

use crate::settings::Settings;

/// How long it may take until an answer begins. The API server gives up after that time by itself, and the answer to a
/// watch begins at once.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection may be silent: longer than watches, which kube ends after 295 s.
const SILENCE: Duration = Duration::from_secs(310);

/// Gives every request its deadline. Those of kube's watches and lists have no other: one that is never answered would
/// hold up whoever waits for it for ever.
pub fn with_deadline<S, B>(
    service: S,
) -> impl Service<Request<Body>, Response = Response<B>, Error = BoxError, Future: Send> + Send
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send> + Send,
    S::Error: Into<BoxError>,
{
    service.map_err(Into::into).map_future(|answer| async {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the API server did not answer within {} s", ANSWER.as_secs()).into()),
        }
    })
}

/// A client of the cluster that the settings name.
///
/// # Errors
/// When the cluster's address or credentials cannot be read, with what to do.
pub async fn client(settings: &Settings) -> Result<Client, String> {
    let options = kube::config::KubeConfigOptions::default();
    let mut config = if let Some(path) = &settings.kube_config {
        let wrong = |error| format!("reading --kube-config {}: {error}", path.display());
        let kubeconfig = kube::config::Kubeconfig::read_from(path).map_err(wrong)?;
        kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(wrong)?
    } else if settings.use_local_kube_context {
        let local = kube::Config::from_kubeconfig(&options).await;
        // Set in a Pod, it means the service account, as it did in the broker that this one replaces.
        local.or_else(|error| {
            kube::Config::incluster().map_err(|_| {
                format!("reading the kubeconfig: {error}; set KUBECONFIG, or USE_LOCAL_KUBE_CONTEXT=false in a Pod")
            })
        })?
    } else {
        kube::Config::incluster().map_err(|error| {
            format!(
                "this is not a Pod with a service account: {error}; set USE_LOCAL_KUBE_CONTEXT=true outside a cluster"
            )
        })?
    };
    config.read_timeout = Some(SILENCE);
    let builder =
        ClientBuilder::try_from(config).map_err(|error| format!("setting up the Kubernetes client: {error}"))?;
    Ok(builder.with_layer(&layer_fn(with_deadline)).build())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_never_answered_fails() {
        let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let client = Client::new(with_deadline(silent), "default");
        let asked = tokio::time::Instant::now();
        let listed = Api::<ConfigMap>::all(client)
            .list(&kube::api::ListParams::default())
            .await;
        assert!(matches!(listed, Err(kube::Error::Service(_))), "{listed:?}");
        assert_eq!(asked.elapsed().as_secs(), ANSWER.as_secs());
    }
}
