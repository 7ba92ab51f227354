use std::collections::BTreeMap;

use super::super::{Cluster, Decision, Desired, Existence, Place, Record, Report};
use super::{Create, Defaults, Live, OWNER_TAG, Observed, Ownership, Phase, Step, Target, provider_id};
use crate::api::conditions::{Progress, Reason};
use crate::api::{
    Authentication, Connection, DeletionPolicy, ElastiCacheSpec, EngineType, Owner, ProviderKind, Topology,
};
use crate::provider::secrets::{self, SecretStep};

/// What to do next for an instance on ElastiCache.
pub fn decide(desired: &Desired, spec: &ElastiCacheSpec, defaults: &Defaults, observed: &Observed) -> Decision<Step> {
    let cluster = place(desired, defaults);
    match desired.existence {
        Existence::Absent(policy) => absent(desired, cluster, policy, observed),
        Existence::Superseded => absent(desired, cluster, DeletionPolicy::Delete, observed),
        Existence::Present => present(desired, spec, defaults, cluster, observed),
    }
}

fn present(
    desired: &Desired,
    spec: &ElastiCacheSpec,
    defaults: &Defaults,
    mut cluster: Cluster,
    observed: &Observed,
) -> Decision<Step> {
    let id = cluster.target.id.clone();
    let authentication = spec.authentication == Some(Authentication::Token);
    let password = observed
        .secrets
        .get(&desired.auth_secret())
        .and_then(|secret| secrets::password(secret));
    let Some(live) = &observed.live else {
        if cluster.arn.is_some() {
            let message = format!(
                "{id} is gone from ElastiCache although nobody asked for that here: delete this instance, and make a new one if the cache is still wanted"
            );
            return Decision::rest(Report::new(
                Progress::Stalled,
                Reason::ProviderResourceMissing,
                message,
                recorded(desired, &cluster),
            ));
        }
        let working = |message: &str| {
            Report::new(
                Progress::Reconciling,
                Reason::Creating,
                message,
                recorded(desired, &cluster),
            )
        };
        if authentication && password.is_none() {
            return Decision::act(Step::Secret(SecretStep::CreateAuth), working("making the password"));
        }
        let create = create(desired, spec, defaults, id);
        return Decision::act(
            Step::Create(Box::new(create)),
            working("asking ElastiCache for the cache"),
        );
    };

    let say = |cluster: &Cluster, progress: Progress, reason: Reason, message: String| {
        let mut report = Report::new(progress, reason, message, recorded(desired, cluster));
        report.endpoint.clone_from(&live.endpoint);
        report.reader_endpoint.clone_from(&live.reader_endpoint);
        report.nodes.clone_from(&live.nodes);
        report.bound = desired.was_ready && observed.secrets.contains_key(&desired.connection_secret);
        report
    };
    let first = if desired.was_ready {
        Reason::Updating
    } else {
        Reason::Creating
    };
    if cluster.arn.is_none() {
        match observed.ownership {
            Ownership::Foreign => {
                let message = format!(
                    "{id} exists in ElastiCache and carries another owner's tags: find out whose it is; change NAME_PREFIX if two brokers share the account"
                );
                return Decision::rest(Report::new(
                    Progress::Stalled,
                    Reason::NameConflict,
                    message,
                    recorded(desired, &cluster),
                ));
            }
            Ownership::Ours => cluster.arn.clone_from(&live.arn),
            // The id follows from this instance's uid: proof enough until the tags can be read.
            Ownership::Unreadable => {}
        }
    }
    match &live.phase {
        Phase::Creating => Decision::rest(say(
            &cluster,
            Progress::Reconciling,
            Reason::Creating,
            format!("{id} is being created"),
        )),
        Phase::Deleting => {
            let message = format!("{id} is being deleted in ElastiCache although nobody asked for that here");
            Decision::rest(say(&cluster, Progress::Reconciling, Reason::Unavailable, message))
        }
        Phase::Failed(status) => {
            let cause = observed.failure.as_deref().unwrap_or("its events say no more");
            let message = format!(
                "{id} is {status} in ElastiCache: {cause}; delete this instance, and order again once that is mended"
            );
            Decision::rest(say(&cluster, Progress::Stalled, Reason::Failed, message))
        }
        Phase::Unknown(status) => {
            let message =
                format!("{id} has the status {status:?} in ElastiCache, which is not known; waiting for another");
            Decision::rest(say(
                &cluster,
                Progress::Reconciling,
                Reason::ProviderStateUnknown,
                message,
            ))
        }
        Phase::Rebooting => Decision::rest(say(
            &cluster,
            Progress::Reconciling,
            Reason::Restarting,
            format!("{id} is rebooting"),
        )),
        Phase::Available | Phase::Modifying | Phase::Snapshotting => {
            if authentication && password.is_none() {
                let message = format!(
                    "Secret {} with the password of {id} is gone: put it back from a backup, or delete this instance",
                    desired.auth_secret()
                );
                return Decision::rest(say(&cluster, Progress::Stalled, Reason::Failed, message));
            }
            let Some(endpoint) = &live.endpoint else {
                return Decision::rest(say(
                    &cluster,
                    Progress::Reconciling,
                    first,
                    format!("{id} has no endpoint yet"),
                ));
            };
            let connection = Connection {
                engine: desired.plan.engine.type_,
                provider: ProviderKind::ElastiCache,
                host: endpoint.host.clone(),
                port: endpoint.port,
                tls: endpoint.tls,
                username: authentication
                    .then(|| desired.plan.engine.default_user())
                    .flatten()
                    .map(str::to_owned),
                password: password.filter(|_| authentication),
                nodes: live
                    .nodes
                    .iter()
                    .filter_map(|node| Some(format!("{}:{}", node.host.as_ref()?, node.port?)))
                    .collect(),
            };
            if let Some(step) = secrets::connection_step(desired, &observed.secrets, &connection) {
                let report = say(
                    &cluster,
                    Progress::Reconciling,
                    first,
                    "writing the connection Secret".to_owned(),
                );
                return Decision::act(Step::Secret(step), report);
            }
            let mut report = match (difference(desired, spec, live), &live.phase) {
                (Some(difference), _) => say(&cluster, Progress::Stalled, Reason::Unsupported, difference),
                (None, Phase::Modifying) => say(
                    &cluster,
                    Progress::ReadyAndReconciling,
                    Reason::Updating,
                    format!("{id} is being modified"),
                ),
                (None, Phase::Snapshotting) => say(
                    &cluster,
                    Progress::Ready,
                    Reason::Snapshotting,
                    format!("{id} answers while a snapshot is taken"),
                ),
                (None, _) => say(
                    &cluster,
                    Progress::Ready,
                    Reason::Available,
                    format!("{} answers at {}", desired.plan.engine.type_, endpoint.address),
                ),
            };
            report.bound = true;
            Decision::rest(report)
        }
    }
}

/// Where the cache is, or is to be.
pub fn place(desired: &Desired, defaults: &Defaults) -> Cluster {
    desired.record.cluster().cloned().unwrap_or_else(|| Cluster {
        target: Target {
            topology: desired.plan.topology(),
            id: provider_id(&defaults.name_prefix, &desired.uid, 0),
        },
        arn: None,
        generation: 0,
    })
}

fn recorded(desired: &Desired, cluster: &Cluster) -> Record {
    Record {
        serving: Some(Place::ElastiCache(cluster.clone())),
        ..desired.record.clone()
    }
}

fn absent(desired: &Desired, cluster: Cluster, policy: DeletionPolicy, observed: &Observed) -> Decision<Step> {
    let id = cluster.target.id.clone();
    let deleting = |message: String| {
        Report::new(
            Progress::Reconciling,
            Reason::Deleting,
            message,
            recorded(desired, &cluster),
        )
    };
    let secrets = match desired.existence {
        Existence::Superseded => Vec::new(),
        Existence::Present | Existence::Absent(_) => secrets::owned(desired, &observed.secrets),
    };
    let Some(live) = &observed.live else {
        // Not left to the cluster's garbage collector: who is told that the cache is gone may count on its password
        // being gone.
        return if secrets.is_empty() {
            Decision::release(deleting("nothing is left".to_owned()))
        } else {
            let message = format!("deleting the Secrets {}", secrets.join(", "));
            Decision::act(Step::Secret(SecretStep::Delete(secrets)), deleting(message))
        };
    };
    if cluster.arn.is_none() && observed.ownership == Ownership::Foreign {
        return Decision::release(deleting(format!("{id} is somebody else's and stays")));
    }
    // What never answered holds nobody's data.
    let policy = if desired.was_ready {
        policy
    } else {
        DeletionPolicy::Delete
    };
    if policy == DeletionPolicy::Retain {
        // The only copy of its password is there.
        return if secrets.is_empty() {
            Decision::release(deleting(format!("{id} is left as it stands")))
        } else {
            let message = format!("letting go of the Secrets {}", secrets.join(", "));
            Decision::act(Step::Secret(SecretStep::Disown(secrets)), deleting(message))
        };
    }
    match &live.phase {
        Phase::Available | Phase::Failed(_) => {
            let snapshots = desired.plan.engine.type_ != EngineType::Memcached;
            let final_snapshot = (policy == DeletionPolicy::Snapshot && snapshots).then(|| format!("{id}-final"));
            let step = Step::Delete {
                topology: live.topology,
                id: id.clone(),
                final_snapshot,
            };
            Decision::act(step, deleting(format!("asking ElastiCache to delete {id}")))
        }
        Phase::Deleting => Decision::rest(deleting(format!("{id} is being deleted"))),
        Phase::Creating | Phase::Modifying | Phase::Snapshotting | Phase::Rebooting => Decision::rest(deleting(
            format!("{id} is busy; ElastiCache deletes it once it is available"),
        )),
        Phase::Unknown(status) => Decision::rest(deleting(format!(
            "{id} has the status {status:?}, which is not known; waiting for another"
        ))),
    }
}

/// What of the plan the live cache does not have and this version cannot change.
fn difference(desired: &Desired, spec: &ElastiCacheSpec, live: &Live) -> Option<String> {
    let nodes = expected_nodes(desired, spec);
    let found = live.nodes.len();
    if live.node_type.as_ref().is_some_and(|live| *live != spec.node_type) {
        let live = live.node_type.as_deref().unwrap_or_default();
        Some(format!(
            "it runs on {live} and is asked to run on {}, which this version of the broker cannot change; it goes on serving as it is",
            spec.node_type
        ))
    } else if found != 0 && found != nodes {
        Some(format!(
            "it has {found} nodes and is asked to have {nodes}, which this version of the broker cannot change; it goes on serving as it is"
        ))
    } else {
        None
    }
}

fn expected_nodes(desired: &Desired, spec: &ElastiCacheSpec) -> usize {
    match desired.plan.topology() {
        Topology::CacheCluster => usize::from(spec.nodes.unwrap_or(1)),
        Topology::ReplicationGroup => {
            usize::from(spec.shards.unwrap_or(1)) * usize::from(spec.replicas.unwrap_or(0) + 1)
        }
    }
}

fn create(desired: &Desired, spec: &ElastiCacheSpec, defaults: &Defaults, id: String) -> Create {
    let engine = desired.plan.engine.type_;
    let subnet_group = match engine {
        EngineType::Memcached => &defaults.memcached_subnet_group,
        EngineType::Redis | EngineType::Valkey => &defaults.redis_subnet_group,
    };
    let security_group_ids = if spec.security_group_ids.is_empty() {
        defaults.security_group.iter().cloned().collect()
    } else {
        spec.security_group_ids.clone()
    };
    Create {
        topology: desired.plan.topology(),
        id,
        engine,
        version: desired.plan.engine.version.clone(),
        description: format!("cache-broker {}/{}", desired.namespace, desired.name),
        node_type: spec.node_type.clone(),
        nodes: i32::from(spec.nodes.unwrap_or(1)),
        replicas: i32::from(spec.replicas.unwrap_or(0)),
        shards: spec.shards.map(i32::from),
        multi_az: spec.multi_az.unwrap_or(false),
        parameter_group: spec.parameter_group.clone(),
        subnet_group: spec.subnet_group.clone().or_else(|| subnet_group.clone()),
        security_group_ids,
        transit_encryption: spec.transit_encryption,
        authentication: spec.authentication == Some(Authentication::Token),
        at_rest_encryption: spec.at_rest_encryption,
        maintenance_window: spec.maintenance_window.clone(),
        snapshot_window: spec.snapshot_window.clone(),
        snapshot_retention_days: spec.snapshot_retention_days.map(i32::from),
        tags: tags(desired, spec),
    }
}

/// The tags of a cache: the plan's, the owner's, and ours, which win.
fn tags(desired: &Desired, spec: &ElastiCacheSpec) -> BTreeMap<String, String> {
    let Owner {
        organization,
        space,
        instance_name,
        labels,
    } = &desired.owner;
    let mut tags: BTreeMap<String, String> = spec
        .tags
        .iter()
        .chain(labels)
        .map(|(key, value)| (key.clone(), tag_value(value)))
        .collect();
    let named = [
        ("organization", organization),
        ("space", space),
        ("instance-name", instance_name),
    ];
    for (key, value) in named {
        if let Some(value) = value {
            tags.insert(format!("cache.akkeris.io/{key}"), tag_value(value));
        }
    }
    tags.insert("cache.akkeris.io/plan".to_owned(), tag_value(&desired.plan_name));
    tags.insert(
        "cache.akkeris.io/instance".to_owned(),
        format!("{}/{}", desired.namespace, desired.name),
    );
    tags.insert(OWNER_TAG.to_owned(), desired.uid.clone());
    tags
}

/// A text as a tag value: at most 256 letters, digits, spaces and `_ . : / = + - @`
/// (AWS, "Tag naming limits and requirements").
fn tag_value(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_alphanumeric() || " _.:/=+-@".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(256)
        .collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
