//! Whether the cache of a row can be taken over, by what was found of it.

use super::facts::{Cluster, Facts, Looked, Usable};
use super::old::OldResource;
use super::rows::Refused;
use crate::api::ProviderKind;
use crate::provider::kubernetes::adopt;

/// What was found of a cache that can be taken over.
pub struct Sound {
    /// The organization, if it was written down.
    pub organization: Option<String>,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

/// Looks at the cache of a row.
pub fn sound(resource: &OldResource, facts: &Facts, usable: &Usable) -> Result<Sound, Refused> {
    let sound = match usable.provider.kind() {
        ProviderKind::ElastiCache => cluster(resource, facts, usable)?,
        ProviderKind::Kubernetes => workload(resource, facts, usable)?,
    };
    let mut notes = sound.notes;
    if resource.has_credentials {
        notes.push("columns username and password say something, which the old broker never used".to_owned());
    }
    Ok(Sound { notes, ..sound })
}

fn cluster(resource: &OldResource, facts: &Facts, usable: &Usable) -> Result<Sound, Refused> {
    let (id, engine) = (&resource.name, usable.provider.engine());
    let clusters = match &facts.clusters {
        Looked::Found(clusters) => clusters,
        Looked::Not(why) => return Err(Refused::Decide(why.clone())),
    };
    let Some(cluster) = clusters.get(&id.to_ascii_lowercase()) else {
        return Err(Refused::Decide(format!(
            "there is no cache cluster {id} in this region and account: deprovision the instance in the old broker, or \
             delete the row"
        )));
    };
    let Cluster {
        engine: running,
        nodes,
        group,
        address,
        deleting,
        billing_code,
        owner,
    } = cluster;
    if *deleting {
        return Err(Refused::Skip(format!("{id} is being deleted in ElastiCache")));
    }
    if let Some(group) = group {
        return Err(Refused::Decide(format!(
            "{id} is a member of replication group {group}, which is not taken over by an import: make a CacheInstance \
             with spec.adopt for the group"
        )));
    }
    if *nodes > 1 {
        return Err(Refused::Decide(format!(
            "{id} has {nodes} nodes, of which applications were told the first alone: make a CacheInstance with \
             spec.adopt, which tells of all"
        )));
    }
    if running.is_some_and(|running| running != engine) {
        return Err(Refused::Decide(format!(
            "{id} does not run {engine} as its plan says: correct the row's plan in the old database"
        )));
    }
    if let Some(owner) = owner {
        return Err(Refused::Decide(format!(
            "{id} belongs to the CacheInstance of uid {owner} by its tags: find out whose it is"
        )));
    }
    let mut notes = Vec::new();
    if let Some(address) = address.as_ref().filter(|address| is_other(&resource.endpoint, address)) {
        notes.push(format!(
            "{id} answers at {address}, and applications were told {}",
            resource.endpoint
        ));
    }
    Ok(Sound {
        organization: billing_code.clone(),
        notes,
    })
}

fn workload(resource: &OldResource, facts: &Facts, usable: &Usable) -> Result<Sound, Refused> {
    let (name, namespace) = (&resource.name, usable.provider.namespace());
    let workloads = match &facts.workloads {
        Looked::Found(workloads) => workloads,
        Looked::Not(why) => return Err(Refused::Decide(why.clone())),
    };
    let none = Default::default();
    let found = workloads.get(&(namespace.to_owned(), name.clone())).unwrap_or(&none);
    let (deployment, service) = adopt::judge(name, usable.provider.engine(), found, None)
        .map_err(|objection| Refused::Decide(format!("in namespace {namespace} {objection}")))?;
    let annotations = deployment.metadata.annotations.as_ref();
    let mut notes = Vec::new();
    let port = adopt::port(service).unwrap_or_default();
    let told = resource
        .endpoint
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if told.is_some_and(|told| told != port) {
        notes.push(format!(
            "Service {name} answers at port {port}, and applications were told {}",
            resource.endpoint
        ));
    }
    Ok(Sound {
        organization: annotations.and_then(|notes| notes.get("owner")).cloned(),
        notes,
    })
}

fn is_other(told: &str, address: &str) -> bool {
    !told.is_empty() && !told.eq_ignore_ascii_case(address)
}
