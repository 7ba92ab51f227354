use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::super::users::{self, Credentials};
use super::super::{Cluster, Desired, Existence, Fault};
use super::{Defaults, Observed, Phase, Poller, Tagged, Target, access, provider_id, tags};
use crate::api::{Authentication, DeletionPolicy, Topology};

/// How many generations are looked for when a status is lost.
const GENERATIONS: u32 = 16;

/// Gathers what there is of an instance on ElastiCache, at a place or, without one, where it is to be first.
///
/// Tags are read only until they have proven that the cache is ours, after they may have changed, or to let it go; users
/// only where there are some.
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
    let recorded = place.is_some();
    let place = match place {
        Some(place) => place.clone(),
        None => first(poller, desired, defaults).await?,
    };
    let has_password = secrets.contains_key(&desired.auth_secret());
    // Whatever does not serve may be about to go.
    let serves = desired
        .record
        .cluster()
        .is_some_and(|serving| serving.target == place.target);
    let may_go = recorded && (desired.existence != Existence::Present || !serves);
    let unproven = place.arn.is_none() && !desired.adopts(&place.target.id);
    let (live, may_appear) = match poller.seen(&place.target) {
        Some(Some(live)) => (Some(live), None),
        _ if may_go && unproven => poller.ascertain(&place.target, desired.deleted_at).await?,
        Some(None) => (None, None),
        None if is_new(desired, &place, recorded, has_password) => (None, None),
        None => (poller.look(&place.target).await?, None),
    };
    let (mut tags, mut failure) = (None, None);
    if let Some(live) = &live {
        let wanted = match (desired.existence, &desired.plan.elasticache) {
            (Existence::Present, Some(spec)) => Some(tags::wanted(desired, spec)),
            _ => None,
        };
        let ask = match desired.existence {
            _ if place.arn.is_none() => true,
            Existence::Present => wanted.is_some_and(|wanted| !tags::is_proven(&place.tagged, &wanted)),
            Existence::Absent(policy) => policy == DeletionPolicy::Retain,
            Existence::Superseded => false,
        };
        // The API refuses to tell them of what is busy.
        if let (true, Some(arn), Phase::Available) = (ask, &live.arn, &live.phase) {
            tags = poller.tags(arn).await;
        }
        if matches!(live.phase, Phase::Failed(_)) {
            failure = poller.cause(&place.target).await;
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
        may_appear,
        ownership: tags::ownership(tags.as_ref(), &desired.uid),
        tags,
        failure,
        offered: poller.offered(),
        secrets,
        access,
        credentials,
    })
}

/// Whether a cache that no list showed need not be asked for by its id: asking for it to be made finds it all the same.
/// With a record of it and without its password it may be there, and another password must not be made.
fn is_new(desired: &Desired, place: &Cluster, recorded: bool, has_password: bool) -> bool {
    let token = desired
        .plan
        .elasticache
        .as_ref()
        .is_some_and(|spec| spec.authentication == Some(Authentication::Token));
    let token = token || desired.plan.has_users();
    desired.existence == Existence::Present
        && desired.adopt.is_none()
        && place.arn.is_none()
        && (!recorded || has_password || !token)
}

/// Where a cache is that no status tells of: the one to be taken over, or the one whose id follows from the uid. A lost
/// status is found again by the last list.
async fn first(poller: &Poller, desired: &Desired, defaults: &Defaults) -> Result<Cluster, Fault> {
    let topology = desired.plan.topology();
    let at = |id: String, topology, generation| Cluster {
        target: Target { topology, id },
        arn: None,
        generation,
        tagged: Tagged::default(),
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
        Some((generation, target)) => at(target.id, target.topology, generation),
        None => at(id(0), topology, 0),
    })
}
