//! The snapshots of the cluster and of ElastiCache.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::api::{ListParams, ObjectList, PartialObjectMeta};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::compare::{Cluster, Object, Provider, Resource as Seen, Thing};
use crate::api::{CacheBackup, CacheInstance, annotations, labels};
use crate::control::pool::is_member;
use crate::provider::elasticache::{self, FoundOwner};
use crate::settings::Namespaces;

/// How many objects are read at one time.
const PAGE: u32 = 500;
/// How long one page may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the cluster has.
///
/// # Errors
/// When it cannot be read.
pub async fn cluster(client: &Client, namespaces: &Namespaces) -> Result<Cluster, String> {
    let ours = ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let all = ListParams::default();
    let instances: Vec<CacheInstance> = listed(client, namespaces, &all).await?;
    let backups: Vec<CacheBackup> = listed(client, namespaces, &all).await?;
    let mut objects = Vec::new();
    objects.extend(metadata::<Deployment>(client, namespaces, &ours).await?);
    objects.extend(metadata::<Service>(client, namespaces, &ours).await?);
    objects.extend(metadata::<PersistentVolumeClaim>(client, namespaces, &ours).await?);
    objects.extend(metadata::<Secret>(client, namespaces, &ours).await?);
    Ok(Cluster {
        resources: instances.iter().map(resource).collect(),
        snapshots: backups
            .iter()
            .filter_map(|backup| {
                let noted = backup.status.as_ref().and_then(|status| status.snapshot.as_ref());
                noted.or(backup.spec.snapshot.as_ref())
            })
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        objects,
    })
}

/// What ElastiCache has of ours.
///
/// # Errors
/// When it cannot be read.
pub async fn elasticache(client: &elasticache::Client, prefix: &str) -> Result<Provider, String> {
    let found = client.survey(prefix).await.map_err(|fault| fault.to_string())?;
    let things = found
        .into_iter()
        .filter(|found| !found.leaving)
        .map(|found| Thing {
            kind: found.kind,
            id: found.id,
            owner: match found.owner {
                FoundOwner::Instance(uid) => Some(Some(uid)),
                FoundOwner::Released | FoundOwner::Nobody => Some(None),
                FoundOwner::Unreadable => None,
            },
        })
        .collect();
    Ok(Provider { looked: true, things })
}

fn resource(instance: &CacheInstance) -> Seen {
    let status = instance.status.clone().unwrap_or_default();
    let on_elasticache = |topology: bool, id: &Option<String>| id.clone().filter(|_| topology);
    let serving = on_elasticache(status.topology.is_some(), &status.provider_id);
    let others = status
        .replacement
        .iter()
        .chain(status.superseded.iter().map(|superseded| &superseded.cache))
        .filter(|cache| cache.topology.is_some())
        .map(|cache| cache.provider_id.clone());
    let owner = instance.spec.owner.clone().unwrap_or_default();
    Seen {
        namespace: instance.namespace().unwrap_or_default(),
        name: instance.name_any(),
        uid: instance.uid().unwrap_or_default(),
        instance: instance.annotation(annotations::INSTANCE_ID).map(str::to_owned),
        revision: instance.ledger_revision(),
        as_written: instance
            .annotation(annotations::LEDGER_SPEC)
            .is_none_or(|digest| digest == instance.spec.digest()),
        later: crate::control::outbox::later(instance, 0),
        plan_name: instance.spec.plan_ref.name.clone(),
        plan_revision: instance.spec.plan_ref.revision,
        organization: owner.organization,
        space: owner.space,
        adopts: instance.spec.adopt.is_some(),
        deleting: instance.metadata.deletion_timestamp.is_some(),
        approved: instance.annotation(annotations::APPROVE_DELETION) == Some("true"),
        member: is_member(instance),
        was_ready: status.first_ready_time.is_some(),
        serving: serving.map(|id| id.to_ascii_lowercase()),
        others: others.map(|id| id.to_ascii_lowercase()).collect(),
    }
}

async fn listed<K>(client: &Client, namespaces: &Namespaces, which: &ListParams) -> Result<Vec<K>, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let mut found = Vec::new();
    for api in scopes::<K>(client, namespaces) {
        found.extend(paged::<K, K>(which, async |page| api.list(page).await).await?);
    }
    Ok(found)
}

async fn metadata<K>(client: &Client, namespaces: &Namespaces, which: &ListParams) -> Result<Vec<Object>, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let mut found = Vec::new();
    for api in scopes::<K>(client, namespaces) {
        let all = paged::<K, _>(which, async |page| api.list_metadata(page).await).await?;
        found.extend(all.iter().filter_map(object::<K>));
    }
    Ok(found)
}

/// All that is listed about a kind, page by page.
async fn paged<K, T: Clone>(
    which: &ListParams,
    list: impl AsyncFn(&ListParams) -> kube::Result<ObjectList<T>>,
) -> Result<Vec<T>, String>
where
    K: Resource<DynamicType = ()>,
{
    let mut found = Vec::new();
    let mut page = which.clone().limit(PAGE);
    loop {
        let next = tokio::time::timeout(DEADLINE, list(&page)).await;
        let next = next.map_err(|_| late::<K>())?.map_err(|error| refused::<K>(&error))?;
        page.continue_token = next.metadata.continue_.filter(|token| !token.is_empty());
        found.extend(next.items);
        if page.continue_token.is_none() {
            return Ok(found);
        }
    }
}

/// An object that an instance owns, or that nobody does; what others own goes with those.
fn object<K: Resource<DynamicType = ()>>(found: &PartialObjectMeta<K>) -> Option<Object> {
    let owners = found.owner_references();
    let owner = owners.iter().find(|owner| owner.kind == CacheInstance::kind(&()));
    let leaving = found.metadata.deletion_timestamp.is_some();
    (!leaving && (owner.is_some() || owners.is_empty())).then(|| Object {
        kind: K::kind(&()).into_owned(),
        namespace: found.namespace().unwrap_or_default(),
        name: found.name_any(),
        owner: owner.map(|owner| owner.uid.clone()),
    })
}

fn scopes<K>(client: &Client, namespaces: &Namespaces) -> Vec<Api<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespaces {
        Namespaces::All => vec![Api::all(client.clone())],
        Namespaces::Named(names) => names.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    }
}

fn late<K: Resource<DynamicType = ()>>() -> String {
    format!("listing {}: no answer within {} s", K::plural(&()), DEADLINE.as_secs())
}

fn refused<K: Resource<DynamicType = ()>>(error: &kube::Error) -> String {
    format!("listing {}: {error}", K::plural(&()))
}
