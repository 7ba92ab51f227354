use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::super::users::{self, Credentials};
use super::super::{Cluster, Desired, Existence, Fault};
use super::{Defaults, Observed, Ownership, Phase, Poller, Target, access, provider_id};
use crate::api::{DeletionPolicy, Topology};

/// How many generations are looked for when a status is lost.
const GENERATIONS: u32 = 16;

/// Gathers what there is of an instance on ElastiCache, at a place or, without one, where it is to be first.
///
/// Tags are read only until they have proven that the cache is ours, or to let it go; events only when it has failed;
/// users only where there are some.
///
/// # Errors
/// When ElastiCache does not answer.
pub async fn observe(
    kube: &kube::Client,
    poller: &Poller,
    desired: &Desired,
    place: Option<&Cluster>,
    defaults: &Defaults,
    secrets: BTreeMap<String, Arc<Secret>>,
) -> Result<Observed, Fault> {
    let place = match place {
        Some(place) => place.clone(),
        None => first(poller, desired, defaults).await?,
    };
    let live = poller.look(&place.target).await?;
    let mut ownership = Ownership::Unreadable;
    let mut failure = None;
    if let Some(live) = &live {
        let readable = !matches!(live.phase, Phase::Creating | Phase::Deleting);
        let letting_go = desired.existence == Existence::Absent(DeletionPolicy::Retain);
        if let (true, Some(arn), true) = (place.arn.is_none() || letting_go, &live.arn, readable) {
            ownership = poller.ownership(arn, &desired.uid).await;
        }
        if matches!(live.phase, Phase::Failed(_)) {
            failure = poller.newest_event(&place.target).await;
        }
    }
    let (mut access, mut credentials) = (None, Credentials::new());
    if access::may_have_users(desired) {
        let leaving = desired.existence != Existence::Present;
        let group = access::group_id(defaults, desired);
        let asked = |group: Option<&access::UserGroup>| access::asked_users(defaults, desired, group, leaving);
        access = Some(poller.access(&group, asked).await?);
        if !leaving {
            credentials = users::find(kube, desired, &secrets).await?;
        }
    }
    Ok(Observed {
        place,
        live,
        ownership,
        failure,
        secrets,
        access,
        credentials,
    })
}

/// Where a cache is that no status tells of: the one to be taken over, or the one whose id follows from the uid. A lost
/// status is found again by the last list.
async fn first(poller: &Poller, desired: &Desired, defaults: &Defaults) -> Result<Cluster, Fault> {
    let topology = desired.plan.topology();
    let at = |id: String, topology, generation| Cluster {
        target: Target { topology, id },
        arn: None,
        generation,
    };
    if let Some(id) = &desired.adopt {
        let id = id.to_ascii_lowercase();
        let other = match topology {
            Topology::ReplicationGroup => Topology::CacheCluster,
            Topology::CacheCluster => Topology::ReplicationGroup,
        };
        let place = at(id.clone(), topology, 0);
        let found = poller.look(&place.target).await?.is_some();
        return Ok(if found { place } else { at(id, other, 0) });
    }
    let id = |generation| provider_id(&defaults.name_prefix, &desired.uid, generation);
    let candidates = (0..GENERATIONS).flat_map(|generation| {
        [Topology::ReplicationGroup, Topology::CacheCluster].map(|topology| {
            (
                generation,
                Target {
                    topology,
                    id: id(generation),
                },
            )
        })
    });
    let known = poller.known(candidates.clone().map(|(_, target)| target));
    let newest = candidates.rev().find(|(_, target)| known.contains(target));
    Ok(match newest {
        Some((generation, target)) => Cluster {
            target,
            arn: None,
            generation,
        },
        None => at(id(0), topology, 0),
    })
}
