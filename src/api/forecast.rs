//! What a move from one plan to another, or to a later revision of the same one, would do to a cache: field by field,
//! from the two specs alone.
//!
//! It says in advance what the planners find out from what is live, and names the same classes: what ElastiCache's
//! modify calls take is in place, what only its create calls take needs another cache. Fields that a plan leaves empty
//! are the provider's to choose, and never differ.

use std::collections::BTreeSet;
use std::fmt;

use super::{
    Authentication, BindingCredentials, CachePlanSpec, ElastiCacheSpec, Engine, EngineType, KubernetesSpec,
    ProviderSpec, Topology,
};

/// What a difference does to a cache, from the least to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Nothing.
    None,
    /// It is changed where it stands, and keeps what it stores.
    InPlace,
    /// It keeps its address, and loses what it stores, or some of it.
    Cold,
    /// Another cache takes its place, at another address.
    Replace,
    /// It cannot be done.
    Never,
}

/// One thing in which two plans differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs: `the node type`.
    pub field: &'static str,
    /// How, as the rest of a sentence.
    pub change: String,
    /// What it does to a cache.
    pub effect: Effect,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.change)
    }
}

/// How a version that runs compares with one that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What runs is older.
    Older,
    /// What runs is what is asked for, as far as both say.
    Same,
    /// What runs is newer.
    Newer,
}

/// Compares versions as loosely as they are spelled: `6.x` is any 6, `7.1` any 7.1, `8-alpine` any 8, and a newer patch
/// than the one asked for is the same, since providers bring patches by themselves.
pub fn compare_versions(running: &str, wanted: &str) -> Order {
    let parts = |version: &str| -> Vec<u32> {
        version
            .split('.')
            .map_while(|part| {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok()
            })
            .collect()
    };
    let (running, wanted) = (parts(running), parts(wanted));
    for (nth, (running, wanted)) in running.iter().zip(&wanted).enumerate() {
        match running.cmp(wanted) {
            std::cmp::Ordering::Less => return Order::Older,
            std::cmp::Ordering::Greater if nth < 2 => return Order::Newer,
            std::cmp::Ordering::Greater => return Order::Same,
            std::cmp::Ordering::Equal => {}
        }
    }
    Order::Same
}

/// Every difference between what a cache was made from and what it is to become, with the tenant's parameters in both.
/// Empty where they say the same.
pub fn forecast(from: &CachePlanSpec, to: &CachePlanSpec) -> Vec<Difference> {
    let mut found = Found::default();
    let (Some(old), Some(new)) = (from.provider(), to.provider()) else {
        found.add("the provider", "is none, or two", Effect::Never);
        return found.0;
    };
    found.engine(from, to);
    found.credentials(from, to);
    match (old, new) {
        (ProviderSpec::ElastiCache(old), ProviderSpec::ElastiCache(new)) => {
            elasticache(&mut found, (from, old), (to, new));
        }
        (ProviderSpec::Kubernetes(old), ProviderSpec::Kubernetes(new)) => {
            kubernetes(&mut found, (&from.engine, old), (&to.engine, new));
        }
        _ => {
            let moves = format!("from {} to {}", old.kind().as_str(), new.kind().as_str());
            if to.engine.type_ == EngineType::Memcached {
                found.add("the provider", moves, Effect::Replace);
            } else {
                let change = format!("{moves}: {} cannot take its data there", to.engine.type_);
                found.add("the provider", change, Effect::Never);
            }
        }
    }
    if terms(from) != terms(to) {
        found.add("what the catalog says of the plan", "differs", Effect::None);
    }
    found.0
}

/// A plan as a cache that was made from it runs, where it leaves that to the provider and the provider says it: whether
/// the cache is encrypted at rest. A valkey that was a redis is as the redis was made.
pub fn as_it_runs(spec: &CachePlanSpec, encrypted_at_rest: Option<bool>) -> CachePlanSpec {
    let mut spec = spec.clone();
    if let (Some(elasticache), Some(encrypted)) = (&mut spec.elasticache, encrypted_at_rest) {
        elasticache.at_rest_encryption = Some(encrypted);
    }
    spec
}

/// The worst that a move does.
pub fn worst(differences: &[Difference]) -> Effect {
    differences
        .iter()
        .map(|difference| difference.effect)
        .max()
        .unwrap_or(Effect::None)
}

/// A plan without what caches are made from, and without what is no matter of an instance.
fn terms(spec: &CachePlanSpec) -> CachePlanSpec {
    let mut terms = spec.clone();
    terms.elasticache = None;
    terms.kubernetes = None;
    terms.preprovision = 0;
    terms.binding_credentials = BindingCredentials::default();
    terms.engine.version.clear();
    terms
}

#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn add(&mut self, field: &'static str, change: impl Into<String>, effect: Effect) {
        self.0.push(Difference {
            field,
            change: change.into(),
            effect,
        });
    }

    /// Notes a difference between two values, if there is one.
    fn changed<T: PartialEq + fmt::Display>(&mut self, field: &'static str, old: T, new: T, effect: Effect) {
        if old != new {
            self.add(field, format!("from {old} to {new}"), effect);
        }
    }

    /// Notes a difference in what a plan may leave open, if the new one says something else than the old one.
    fn said<T: PartialEq + fmt::Display>(
        &mut self,
        field: &'static str,
        old: Option<&T>,
        new: Option<&T>,
        effect: Effect,
    ) {
        match (old, new) {
            (Some(old), Some(new)) => self.changed(field, old, new, effect),
            (None, Some(new)) => self.add(field, format!("to {new}"), effect),
            (_, None) => {}
        }
    }

    fn engine(&mut self, from: &CachePlanSpec, to: &CachePlanSpec) {
        let (old, new) = (&from.engine, &to.engine);
        let group = |spec: &CachePlanSpec| spec.elasticache.is_some() && spec.topology() == Topology::ReplicationGroup;
        let becomes_valkey = (old.type_, new.type_) == (EngineType::Redis, EngineType::Valkey);
        if old.type_ == new.type_ {
            let is_back = compare_versions(&old.version, &new.version) == Order::Newer;
            if is_back && new.type_ != EngineType::Memcached {
                let change = format!("from {} to {}, which is older", old.version, new.version);
                self.add("the engine's version", change, Effect::Never);
            }
        } else if becomes_valkey && group(from) && group(to) {
            let change = format!("from redis {} to valkey {}", old.version, new.version);
            self.add("the engine", change, Effect::InPlace);
        } else {
            let change = format!("from {} to {}: one does not become the other", old.type_, new.type_);
            self.add("the engine", change, Effect::Never);
        }
    }
}

impl Found {
    /// Users that bindings have must not be lost, and who has none must not be asked for one.
    fn credentials(&mut self, from: &CachePlanSpec, to: &CachePlanSpec) {
        const FIELD: &str = "bindingCredentials";
        match (from.has_users(), to.has_users()) {
            (true, false) => {
                let change = "from perBinding to shared: bindings have users of their own, and would lose them";
                self.add(FIELD, change, Effect::Never);
            }
            (false, true) if to.elasticache.is_some() => {
                let change = "from shared to perBinding: ElastiCache would ask bindings that exist for users that they do not have";
                self.add(FIELD, change, Effect::Never);
            }
            // In the cluster the shared password goes on holding beside the users, in another Pod.
            (false, true) => {
                let persistent =
                    |spec: &CachePlanSpec| spec.kubernetes.as_ref().is_some_and(|spec| spec.persistence.is_some());
                let keeps = persistent(from) && persistent(to);
                let effect = if keeps { Effect::InPlace } else { Effect::Cold };
                self.add(FIELD, "from shared to perBinding", effect);
            }
            _ => {}
        }
    }
}

fn elasticache(
    found: &mut Found,
    (from, old): (&CachePlanSpec, &ElastiCacheSpec),
    (to, new): (&CachePlanSpec, &ElastiCacheSpec),
) {
    let memcached = to.engine.type_ == EngineType::Memcached;
    let group = to.topology() == Topology::ReplicationGroup;
    let made_anew = |what: bool| if what { Effect::Replace } else { Effect::InPlace };
    let cold = if memcached { Effect::Cold } else { Effect::InPlace };
    let was_at_rest = old
        .at_rest_encryption
        .unwrap_or(group && from.engine.type_ == EngineType::Valkey);
    let on = |flag: bool| if flag { "on" } else { "off" };
    if from.topology() != to.topology() {
        found.add("the topology", "differs", Effect::Replace);
    }
    found.said(
        "the subnet group",
        old.subnet_group.as_ref(),
        new.subnet_group.as_ref(),
        Effect::Replace,
    );
    if let Some(port) = new.port {
        let before = old.port.unwrap_or_else(|| from.engine.type_.default_port());
        found.changed("the port", before, port, Effect::Replace);
    }
    if let Some(at_rest) = new.at_rest_encryption {
        found.changed("encryption at rest", on(was_at_rest), on(at_rest), Effect::Replace);
    }
    if let Some(tls) = new.transit_encryption {
        let before = old.transit_encryption.unwrap_or_default();
        found.changed("TLS", on(before), on(tls), made_anew(!group));
    }
    found.said(
        "the parameter group",
        old.parameter_group.as_ref(),
        new.parameter_group.as_ref(),
        Effect::InPlace,
    );
    if from.engine.type_ == to.engine.type_ {
        let versions = format!("from {} to {}", from.engine.version, to.engine.version);
        match compare_versions(&from.engine.version, &to.engine.version) {
            Order::Older => found.add("the engine's version", versions, cold),
            Order::Newer if memcached => found.add("the engine's version", versions, Effect::Replace),
            // That of redis and valkey was said already.
            Order::Newer | Order::Same => {}
        }
    }
    found.changed("the node type", &old.node_type, &new.node_type, cold);
    if group {
        let token = |spec: &ElastiCacheSpec| spec.authentication == Some(Authentication::Token);
        match (token(old), token(new)) {
            (false, true) => {
                let change = "from off to on: who shows none is let in until replaceGracePeriod is over";
                found.add("the password", change, Effect::InPlace);
            }
            (before, after) => found.changed("the password", on(before), on(after), Effect::Replace),
        }
        match (old.shards, new.shards) {
            (Some(old), Some(new)) => found.changed("the shards", old, new, Effect::InPlace),
            (old, new) => found.changed("cluster mode", on(old.is_some()), on(new.is_some()), Effect::Replace),
        }
        let (before, after) = (old.replicas.unwrap_or(0), new.replicas.unwrap_or(0));
        found.changed("the replicas", before, after, Effect::InPlace);
        let zones = |spec: &ElastiCacheSpec| on(spec.multi_az.unwrap_or_default());
        found.changed("multiAz", zones(old), zones(new), Effect::InPlace);
    } else {
        let (before, after) = (old.nodes.unwrap_or(1), new.nodes.unwrap_or(1));
        let effect = match (memcached, after < before) {
            (false, _) => Effect::Never,
            (true, true) => Effect::Cold,
            (true, false) => Effect::InPlace,
        };
        found.changed("the nodes", before, after, effect);
        if new.multi_az == Some(true) && old.multi_az != Some(true) {
            found.add("multiAz", "from off to on", made_anew(after > 1));
        }
    }
    upkeep(found, old, new);
}

/// What is changed without touching the nodes.
fn upkeep(found: &mut Found, old: &ElastiCacheSpec, new: &ElastiCacheSpec) {
    let groups = |spec: &ElastiCacheSpec| spec.security_group_ids.iter().cloned().collect::<BTreeSet<_>>();
    if !new.security_group_ids.is_empty() && groups(old) != groups(new) {
        let ids: Vec<_> = groups(new).into_iter().collect();
        found.add("the security groups", format!("to {}", ids.join(", ")), Effect::InPlace);
    }
    for (field, old, new) in [
        (
            "the maintenance window",
            &old.maintenance_window,
            &new.maintenance_window,
        ),
        ("the snapshot window", &old.snapshot_window, &new.snapshot_window),
    ] {
        found.said(field, old.as_ref(), new.as_ref(), Effect::InPlace);
    }
    if let Some(days) = new.snapshot_retention_days {
        let before = old.snapshot_retention_days.unwrap_or(0);
        found.changed("the days that snapshots are kept", before, days, Effect::InPlace);
    }
    if old.tags != new.tags {
        found.add("the tags", "differ", Effect::InPlace);
    }
}

fn kubernetes(found: &mut Found, (from, old): (&Engine, &KubernetesSpec), (to, new): (&Engine, &KubernetesSpec)) {
    let redis_like = to.type_.is_redis_like();
    // The volume goes from one Pod to the next.
    let keeps = old.persistence.is_some() && new.persistence.is_some();
    let pod = if keeps { Effect::InPlace } else { Effect::Cold };
    let image = |engine: &Engine, spec: &KubernetesSpec| {
        spec.image
            .clone()
            .unwrap_or_else(|| format!("{}:{}", engine.type_, engine.version))
    };
    found.changed("the image", image(from, old), image(to, new), pod);
    found.changed("the memory", old.memory, new.memory, pod);
    for (field, differs) in [
        ("the CPU", old.cpu != new.cpu),
        ("the connection limit", old.connection_limit != new.connection_limit),
        (
            "the largest item",
            !redis_like && old.max_item_size != new.max_item_size,
        ),
        (
            "the eviction policy",
            redis_like && old.eviction_policy != new.eviction_policy,
        ),
        (
            "the placement",
            old.node_selector != new.node_selector
                || old.tolerations != new.tolerations
                || old.affinity != new.affinity
                || old.topology_spread != new.topology_spread
                || old.priority_class != new.priority_class,
        ),
    ] {
        if differs {
            found.add(field, "differs", pod);
        }
    }
    match (&old.persistence, &new.persistence) {
        (None, None) => {}
        (Some(old), Some(new)) => {
            if new.size > old.size {
                found.changed("the volume", old.size, new.size, Effect::InPlace);
            }
            if let (Some(old), Some(new)) = (&old.storage_class, &new.storage_class) {
                found.changed("the volume's storage class", old, new, Effect::Never);
            }
        }
        (None, Some(_)) => found.add("the volume", "is added", Effect::Cold),
        (Some(_), None) => found.add("the volume", "is removed", Effect::Cold),
    }
    let (before, after) = (old.replicas.unwrap_or(1), new.replicas.unwrap_or(1));
    let effect = match (redis_like && after > 1, after < before) {
        (true, _) => Effect::Never,
        (false, true) => Effect::Cold,
        (false, false) => Effect::InPlace,
    };
    found.changed("the nodes", before, after, effect);
    if old.allowed_from != new.allowed_from {
        found.add("which pods are let in", "differs", Effect::InPlace);
    }
    let port = |spec: &KubernetesSpec, engine: &Engine| spec.port.unwrap_or_else(|| engine.type_.default_port());
    let (before, after) = (port(old, from), port(new, to));
    if before != after {
        let change = format!("from {before} to {after}, and a cache keeps the one that it was made with");
        found.add("the port", change, Effect::None);
    }
    if old.maintenance_window != new.maintenance_window {
        found.add("the maintenance window", "differs", Effect::None);
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
