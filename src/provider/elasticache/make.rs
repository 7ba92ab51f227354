//! A cache that is to be and is not there.

use super::super::{Cluster, Decision, Desired};
use super::access::Users;
use super::decide::{stalled, working};
use super::tags::{self, Tagged};
use super::{Create, Defaults, Step, Target, provider_id};
use crate::api::conditions::Reason;
use crate::api::{Authentication, ElastiCacheSpec, EngineType, annotations};
use crate::provider::secrets::SecretStep;
use crate::provider::users::LOOK_AGAIN;

/// What to do next for it.
pub fn missing(
    desired: &Desired,
    spec: &ElastiCacheSpec,
    defaults: &Defaults,
    mut place: Cluster,
    has_password: bool,
    users: Option<&Users<'_>>,
) -> Decision<Step> {
    let id = place.target.id.clone();
    let adopted = desired.adopts(&id);
    if adopted && place.arn.is_none() {
        let message = format!(
            "there is no replication group or cache cluster {id} in this region and account: correct spec.adopt in a new instance, or make it"
        );
        return Decision::rest(stalled(desired, &place, Reason::ProviderResourceMissing, message));
    }
    if place.arn.is_some() {
        if !desired.recreate {
            let message = format!(
                "{id} is gone from ElastiCache although nobody asked for that here: annotate this instance with {}=true to have it made anew, empty and at another address, or delete it",
                annotations::RECREATE
            );
            return Decision::rest(stalled(desired, &place, Reason::ProviderResourceMissing, message));
        }
        // Under another id: the old one may linger.
        let generation = desired.record.newest_generation().map_or(0, |newest| newest + 1);
        let anew = Cluster {
            target: Target {
                topology: desired.plan.topology(),
                id: provider_id(&defaults.name_prefix, &desired.uid, generation),
            },
            arn: None,
            generation,
            tagged: Tagged::default(),
        };
        let message = format!(
            "{id} is gone from ElastiCache; it is made anew, empty, as {}",
            anew.target.id
        );
        return Decision::rest(working(desired, &anew, Reason::Creating, message)).now();
    }
    let create = Create {
        user_group: users.map(Users::group),
        ..create(desired, spec, defaults, &place.target)
    };
    // It is made with them; that they are there is proven when they are read.
    place.tagged = Tagged {
        keys: create.tags.keys().cloned().collect(),
        digest: None,
    };
    let restored_from = desired.restore.as_ref().map(|restore| restore.backup.clone());
    let making = |message: String| {
        let mut report = working(
            desired,
            &place,
            match restored_from {
                Some(_) => Reason::Restoring,
                None => Reason::Creating,
            },
            message,
        );
        report.record.restored_from.clone_from(&restored_from);
        report
    };
    let authentication = spec.authentication == Some(Authentication::Token) || desired.plan.has_users();
    if authentication && !has_password {
        return Decision::act(
            Step::Secret(SecretStep::CreateAuth),
            making("making the password".to_owned()),
        );
    }
    if let Some(users) = users {
        if let Some((step, doing)) = users.next() {
            return Decision::act(Step::Users(step), making(doing));
        }
        if !users.can_serve() {
            let waiting = format!("waiting for user group {}", users.group());
            return Decision::rest(making(waiting)).after(LOOK_AGAIN);
        }
    }
    let message = match (&restored_from, &desired.seed) {
        (Some(backup), _) => format!("asking ElastiCache for the cache, filled from backup {backup}"),
        (None, Some(seed)) => format!("asking ElastiCache for the cache, filled from snapshot {seed} of the old one"),
        (None, None) => "asking ElastiCache for the cache".to_owned(),
    };
    Decision::act(Step::Create(Box::new(create)), making(message))
}

fn create(desired: &Desired, spec: &ElastiCacheSpec, defaults: &Defaults, target: &Target) -> Create {
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
        topology: target.topology,
        id: target.id.clone(),
        engine,
        version: desired.plan.engine.version.clone(),
        description: format!("cache-broker {}/{}", desired.namespace, desired.name),
        node_type: spec.node_type.clone(),
        port: spec.port.unwrap_or_else(|| engine.default_port()),
        nodes: i32::from(spec.nodes.unwrap_or(1)),
        replicas: i32::from(spec.replicas.unwrap_or(0)),
        shards: spec.shards.map(i32::from),
        multi_az: spec.multi_az.unwrap_or(false),
        parameter_group: spec.parameter_group.clone(),
        subnet_group: spec.subnet_group.clone().or_else(|| subnet_group.clone()),
        security_group_ids,
        transit_encryption: spec.transit_encryption,
        authentication: spec.authentication == Some(Authentication::Token),
        user_group: None,
        at_rest_encryption: spec.at_rest_encryption,
        maintenance_window: spec.maintenance_window.clone(),
        snapshot_window: spec.snapshot_window.clone(),
        snapshot_retention_days: spec.snapshot_retention_days.map(i32::from),
        snapshot: desired
            .restore
            .as_ref()
            .map(|restore| restore.snapshot.clone())
            .or_else(|| desired.seed.clone()),
        tags: tags::wanted(desired, spec),
    }
}
