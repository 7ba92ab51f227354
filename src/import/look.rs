//! Looking for what exists: caches on ElastiCache and in the cluster.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::ListParams;
use kube::{Api, Client};

use super::facts::{Cluster, Looked};
use super::plans::OldProvider;
use crate::api::Topology;
use crate::provider::elasticache::{Client as ElastiCache, Live, OWNER_TAG, Phase, RELEASED};
use crate::provider::kubernetes::adopt::{Found, by_name};

/// The tag that the old broker put the organization into.
const BILLING_CODE: &str = "BillingCode";
/// The label of a namespace that names the profile its Pods are held to (Kubernetes, "Pod Security Admission").
const ENFORCED: &str = "pod-security.kubernetes.io/enforce";

/// Every cache cluster of the region; the tags of those that are named.
///
/// # Errors
/// When ElastiCache does not answer.
pub async fn clusters(
    elasticache: Option<&ElastiCache>,
    named: &BTreeSet<String>,
) -> Result<Looked<BTreeMap<String, Cluster>>, String> {
    let Some(elasticache) = elasticache else {
        return Ok(Looked::Not(
            "its cache is on ElastiCache: set AWS_REGION, and import again".to_owned(),
        ));
    };
    let all = elasticache.inventory().await.map_err(|fault| fault.to_string())?;
    let mut clusters = BTreeMap::new();
    for live in &all {
        if live.topology == Topology::ReplicationGroup {
            for node in &live.nodes {
                let member = Cluster {
                    group: Some(live.id.clone()),
                    ..described(live)
                };
                clusters.insert(node.cluster.clone(), member);
            }
            continue;
        }
        let mut cluster = described(live);
        if let (Some(arn), true) = (&live.arn, named.contains(&live.id)) {
            let mut tags = elasticache.tags(arn).await.unwrap_or_default();
            cluster.billing_code = tags.remove(BILLING_CODE);
            cluster.owner = tags.remove(OWNER_TAG).filter(|owner| owner != RELEASED);
        }
        clusters.insert(live.id.clone(), cluster);
    }
    Ok(Looked::Found(clusters))
}

fn described(live: &Live) -> Cluster {
    Cluster {
        engine: live.config.engine,
        nodes: live.nodes.len().max(live.config.nodes.unwrap_or_default()),
        address: live.endpoint.as_ref().map(|endpoint| endpoint.address.clone()),
        deleting: live.phase == Phase::Deleting,
        ..Cluster::default()
    }
}

/// Those of the old broker's namespaces that do not let its Pods be made again: they say nothing about the user they
/// run as.
pub async fn strict_namespaces(client: &Client) -> Vec<&'static str> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut strict = Vec::new();
    for provider in [OldProvider::KubernetesMemcached, OldProvider::KubernetesRedis] {
        let name = provider.namespace();
        // Who may not read namespaces is told by the documentation.
        let namespace = super::run::timed(api.get_opt(name)).await.ok().flatten();
        let labels = namespace
            .and_then(|namespace| namespace.metadata.labels)
            .unwrap_or_default();
        if labels.get(ENFORCED).is_some_and(|level| level == "restricted") {
            strict.push(name);
        }
    }
    strict
}

/// Every Deployment and Service of the namespaces that the old broker made some in.
///
/// # Errors
/// When the API server does not answer.
pub async fn workloads(client: &Client, enabled: bool) -> Result<Looked<BTreeMap<(String, String), Found>>, String> {
    if !enabled {
        return Ok(Looked::Not(
            "its cache is in the cluster: set USE_KUBERNETES=true, and import again".to_owned(),
        ));
    }
    let mut all: BTreeMap<(String, String), Found> = BTreeMap::new();
    let namespaces: BTreeSet<_> = [OldProvider::KubernetesMemcached, OldProvider::KubernetesRedis]
        .map(OldProvider::namespace)
        .into();
    for namespace in namespaces {
        let refused = |error| format!("listing Deployments and Services of namespace {namespace}: {error}");
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let everything = ListParams::default();
        let listed = super::run::timed(deployments.list(&everything)).await;
        for (name, deployment) in by_name(listed.map_err(refused)?) {
            all.entry(name).or_default().deployment = Some(deployment);
        }
        let listed = super::run::timed(services.list(&everything)).await;
        for (name, service) in by_name(listed.map_err(refused)?) {
            all.entry(name).or_default().service = Some(service);
        }
    }
    Ok(Looked::Found(all))
}
