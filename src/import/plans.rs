//! A row of `plans` as a `CachePlan`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::details::Details;
use super::old::{OldPlan, OldService};
use super::placeholders::{Variables, sole};
use crate::api::{
    CachePlan, CachePlanSpec, DeletionPolicy, ElastiCacheSpec, Engine, EngineType, KubernetesSpec, Memory, PlanState,
    Price, ProviderKind, Topology, annotations,
};
use crate::provider::kubernetes::can_be_made;

/// The largest item that memcached was started with in the cluster (`-I 50M`).
const LARGEST_ITEM: Memory = Memory::from_mebibytes(50);
/// The longest name of a plan and of its resource.
const MAX_NAME: usize = 63;
/// The longest text in a plan's catalog entry.
const MAX_TEXT: usize = 255;

/// One of the old broker's providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldProvider {
    /// `aws-redis-instance`
    AwsRedis,
    /// `aws-memcached-instance`
    AwsMemcached,
    /// `kubernetes-redis-instance`
    KubernetesRedis,
    /// `kubernetes-memcached-instance`
    KubernetesMemcached,
}

impl OldProvider {
    /// By its name in column `provider`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "aws-redis-instance" => Self::AwsRedis,
            "aws-memcached-instance" => Self::AwsMemcached,
            "kubernetes-redis-instance" => Self::KubernetesRedis,
            "kubernetes-memcached-instance" => Self::KubernetesMemcached,
            _ => return None,
        })
    }

    /// The engine.
    pub fn engine(self) -> EngineType {
        match self {
            Self::AwsRedis | Self::KubernetesRedis => EngineType::Redis,
            Self::AwsMemcached | Self::KubernetesMemcached => EngineType::Memcached,
        }
    }

    /// Where it made caches.
    pub fn kind(self) -> ProviderKind {
        match self {
            Self::AwsRedis | Self::AwsMemcached => ProviderKind::ElastiCache,
            Self::KubernetesRedis | Self::KubernetesMemcached => ProviderKind::Kubernetes,
        }
    }

    /// The namespace it made Deployments in.
    pub fn namespace(self) -> &'static str {
        match self.engine() {
            EngineType::Memcached => "memcached-system",
            EngineType::Redis | EngineType::Valkey => "redis-system",
        }
    }
}

/// A row that became a plan.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The plan.
    pub plan: CachePlan,
    /// Who made its instances.
    pub provider: OldProvider,
    /// What is otherwise than it was.
    pub notes: Vec<String>,
}

/// The names of the `CachePlan`s of some rows, by the plan's id: that of the service without `akkeris-`, and that of the
/// plan. A name that an earlier row has gets the beginning of the id behind it.
pub fn names(plans: &[OldPlan], services: &BTreeMap<&str, &OldService>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut taken = std::collections::BTreeSet::new();
    for plan in plans {
        let service = services
            .get(plan.service.as_str())
            .map_or("plan", |service| service.name.as_str());
        let service = plain(service, false);
        let service = service.strip_prefix("akkeris-").unwrap_or(&service);
        let mut name = cut(&format!("{service}-{}", plain(&plan.name, false)), MAX_NAME);
        if !taken.insert(name.clone()) {
            let id: String = plan.id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
            name = format!("{}-{}", cut(&name, MAX_NAME - 9), id.to_ascii_lowercase());
            taken.insert(name.clone());
        }
        names.insert(plan.id.clone(), name);
    }
    names
}

/// A name by the rules of `CachePlan`: lower-case letters, digits and hyphens, and dots where they may stand.
pub fn plain(name: &str, dots: bool) -> String {
    let letter = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' => c,
        'A'..='Z' => c.to_ascii_lowercase(),
        '.' if dots => c,
        _ => '-',
    };
    let name: String = name.chars().map(letter).collect();
    cut(&name, MAX_NAME)
}

fn cut(name: &str, length: usize) -> String {
    let cut: String = name.chars().take(length).collect();
    let cut = cut.trim_matches(['-', '.']);
    if cut.is_empty() {
        "unnamed".to_owned()
    } else {
        cut.to_owned()
    }
}

/// The plan of a row, to be called `name`.
///
/// # Errors
/// Why it cannot be one, and what to do.
pub fn render(row: &OldPlan, service: &OldService, name: &str, variables: &Variables) -> Result<Rendered, String> {
    let provider = OldProvider::named(&row.provider).ok_or_else(|| {
        format!(
            "its provider {:?} is none of aws-redis-instance, aws-memcached-instance, kubernetes-redis-instance and \
             kubernetes-memcached-instance: correct it in the old database, or leave the plan behind",
            row.provider
        )
    })?;
    let engine = provider.engine();
    if row.engine != engine.as_str() {
        return Err(format!(
            "its type is {:?} and its provider makes {engine}: correct one of them in the old database",
            row.engine
        ));
    }
    let attributes: Map<String, Value> = serde_json::from_str(&row.attributes)
        .map_err(|error| format!("attributes is no JSON object ({error}): correct it in the old database"))?;
    let mut notes = Vec::new();
    let mut details = Details::read(&row.details, variables)?;
    let made = match provider.kind() {
        ProviderKind::ElastiCache => elasticache(row, engine, &mut details, &mut notes)?,
        ProviderKind::Kubernetes => kubernetes(row, engine, &mut details, &mut notes)?,
    };
    let left = details.left();
    if !left.is_empty() {
        notes.push(format!(
            "{} of provider_private_details has no counterpart",
            left.join(", ")
        ));
    }
    let osb_name = plain(&row.name, true);
    if osb_name != row.name {
        notes.push(format!(
            "its name {:?} becomes {osb_name}; platforms know it by its id",
            row.name
        ));
    }
    let text = |text: &str| -> String { text.trim().chars().take(MAX_TEXT).collect() };
    let description = [&row.description, &row.human_name, &row.name]
        .into_iter()
        .map(|one| text(one));
    let state = match (row, service) {
        (row, service) if row.deleted || service.deleted => PlanState::Withdrawn,
        (row, service) if row.deprecated || service.deprecated => PlanState::Deprecated,
        (row, _) if row.beta => PlanState::Beta,
        _ => PlanState::Ga,
    };
    let preprovision = u16::try_from(row.preprovision.clamp(0, 100)).unwrap_or_default();
    if i32::from(preprovision) != row.preprovision {
        notes.push(format!("preprovision {} becomes {preprovision}", row.preprovision));
    }
    let spec = CachePlanSpec {
        service: plain(&service.name, false),
        id: row.id.clone(),
        name: Some(osb_name),
        display_name: Some(text(&row.human_name)).filter(|name| !name.is_empty()),
        description: description
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
        price: u32::try_from(row.cost_cents)
            .ok()
            .filter(|cents| *cents > 0)
            .map(|cents| Price {
                cents,
                unit: row.cost_unit.clone(),
            }),
        state,
        attributes,
        engine: Engine {
            type_: engine,
            version: made.version,
        },
        preprovision: if state.takes_orders() { preprovision } else { 0 },
        parameters: None,
        updatable_to: None,
        deletion_policy: made.deletion_policy,
        operation_deadline: None,
        replace_grace_period: None,
        binding_credentials: crate::api::BindingCredentials::Shared,
        binding_parameters: None,
        elasticache: made.elasticache,
        kubernetes: made.kubernetes,
    };
    let mut plan = CachePlan::new(name, spec);
    plan.metadata.annotations = Some([(annotations::IMPORTED.to_owned(), row.provider.clone())].into());
    Ok(Rendered { plan, provider, notes })
}

/// The part of a plan that says how instances are made.
struct Made {
    version: String,
    deletion_policy: Option<DeletionPolicy>,
    elasticache: Option<ElastiCacheSpec>,
    kubernetes: Option<KubernetesSpec>,
}

fn version(named: Option<String>, row: &OldPlan) -> Result<String, String> {
    let version = named.unwrap_or_else(|| row.version.clone());
    let first = version.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let rest = version.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if first && rest && version.len() <= 64 {
        Ok(version)
    } else {
        Err(format!(
            "its version {version:?} is no version of an engine and no tag of an image: correct it in the old database"
        ))
    }
}

fn elasticache(
    row: &OldPlan,
    engine: EngineType,
    details: &mut Details<'_>,
    notes: &mut Vec<String>,
) -> Result<Made, String> {
    let memcached = engine == EngineType::Memcached;
    let named = details.text("Engine")?;
    if named.as_deref().is_some_and(|named| named != engine.as_str()) {
        return Err(format!(
            "Engine of provider_private_details is {} and the plan's type is {engine}: correct one of them in the old database",
            named.unwrap_or_default()
        ));
    }
    if let Some(group) = details.text("ReplicationGroupId")? {
        return Err(format!(
            "its clusters are made in replication group {group}, which cannot be taken over one by one: leave the plan behind, and take over the group with spec.adopt"
        ));
    }
    let node_type = details.text("CacheNodeType")?.ok_or(
        "provider_private_details has no CacheNodeType: put it in, in the old database, or leave the plan behind",
    )?;
    let is_node_type = {
        let mut parts = node_type.split('.');
        let plain = |part: Option<&str>| {
            part.is_some_and(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            })
        };
        parts.next() == Some("cache") && plain(parts.next()) && plain(parts.next()) && parts.next().is_none()
    };
    if !is_node_type {
        return Err(format!(
            "CacheNodeType {node_type:?} is none: correct it in the old database"
        ));
    }
    let nodes = details.number("NumCacheNodes")?.unwrap_or(1);
    if nodes != 1 && !memcached {
        return Err(format!(
            "NumCacheNodes is {nodes}, and a cluster of redis has one node: correct it in the old database"
        ));
    }
    let nodes = u16::try_from(nodes)
        .ok()
        .filter(|nodes| (1..=60).contains(nodes))
        .ok_or("NumCacheNodes is not from 1 to 60: correct it in the old database")?;
    let multi_az = details.text("AZMode")?.is_some_and(|mode| mode == "cross-az") && nodes > 1;
    let setting = if memcached {
        "MEMCACHED_SUBNET_GROUP"
    } else {
        "REDIS_SUBNET_GROUP"
    };
    let subnet_group = match details.raw("CacheSubnetGroupName")? {
        Some(raw) if sole(&raw) == Some(setting) => None,
        Some(raw) => Some(details.fill("CacheSubnetGroupName", &raw)?).filter(|name| !name.is_empty()),
        None => None,
    };
    let raw = details.raw_texts("SecurityGroupIds")?;
    let by_setting = matches!(raw.as_slice(), [one] if sole(one) == Some("ELASTICACHE_SECURITY_GROUP"));
    let security_group_ids = if by_setting {
        Vec::new()
    } else {
        let filled = raw.iter().map(|one| details.fill("SecurityGroupIds", one));
        filled
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .filter(|one| !one.is_empty())
            .collect()
    };
    if details.flag("AutoMinorVersionUpgrade")? == Some(false) {
        notes.push(
            "AutoMinorVersionUpgrade is off; new instances have it on, as ElastiCache does by default".to_owned(),
        );
    }
    if let Some(port) = details
        .number("Port")?
        .filter(|port| *port != u32::from(engine.default_port()))
    {
        notes.push(format!(
            "its caches answer at port {port}, and those there are go on so; new ones answer at {}",
            engine.default_port()
        ));
    }
    let mut snapshot_window = details.text("SnapshotWindow")?;
    let mut retention = details.number("SnapshotRetentionLimit")?;
    if memcached && (snapshot_window.take().is_some() | retention.take().is_some()) {
        notes.push("memcached has no snapshots: SnapshotWindow and SnapshotRetentionLimit are left out".to_owned());
    }
    let retention = retention
        .map(|days| u16::try_from(days).map_err(|_| "SnapshotRetentionLimit is too large: correct it".to_owned()))
        .transpose()?;
    Ok(Made {
        version: version(details.text("EngineVersion")?, row)?,
        // It left a final snapshot of every redis that was given back.
        deletion_policy: (!memcached).then_some(DeletionPolicy::Snapshot),
        elasticache: Some(ElastiCacheSpec {
            topology: (!memcached).then_some(Topology::CacheCluster),
            node_type,
            nodes: (nodes > 1).then_some(nodes),
            replicas: None,
            shards: None,
            multi_az: multi_az.then_some(true),
            parameter_group: details.text("CacheParameterGroupName")?,
            subnet_group,
            security_group_ids,
            transit_encryption: details.flag("TransitEncryptionEnabled")?.filter(|on| *on),
            authentication: None,
            at_rest_encryption: None,
            maintenance_window: details.text("PreferredMaintenanceWindow")?,
            snapshot_window,
            snapshot_retention_days: retention,
            tags: BTreeMap::new(),
        }),
        kubernetes: None,
    })
}

fn kubernetes(
    row: &OldPlan,
    engine: EngineType,
    details: &mut Details<'_>,
    notes: &mut Vec<String>,
) -> Result<Made, String> {
    let memory = details.number("size_in_megabytes")?.filter(|size| *size > 0).ok_or(
        "provider_private_details has no size_in_megabytes: put it in, in the old database, or leave the plan behind",
    )?;
    let version = version(details.text("version")?, row)?;
    let image = details.text("docker_image")?.filter(|image| image != engine.as_str());
    if let Some(port) = details
        .number("port")?
        .filter(|port| *port != 0 && *port != u32::from(engine.default_port()))
    {
        notes.push(format!(
            "its caches answer at port {port}, and those there are go on so; new ones answer at {}",
            engine.default_port()
        ));
    }
    let memcached = engine == EngineType::Memcached;
    let mut spec = KubernetesSpec {
        image: image.map(|image| format!("{image}:{version}")),
        memory: Memory::from_mebibytes(memory),
        cpu: None,
        replicas: None,
        connection_limit: None,
        max_item_size: memcached.then_some(LARGEST_ITEM),
        eviction_policy: None,
        allowed_from: None,
        node_selector: BTreeMap::new(),
        tolerations: Vec::new(),
        affinity: None,
        topology_spread: Vec::new(),
        priority_class: None,
        maintenance_window: None,
        persistence: None,
    };
    if can_be_made(engine, &spec).is_err() && spec.max_item_size.take().is_some() {
        notes.push(format!(
            "{} of memory do not hold items of {LARGEST_ITEM}: new instances take those of 1Mi",
            spec.memory
        ));
    }
    can_be_made(engine, &spec).map_err(|why| format!("{why}; raise size_in_megabytes in the old database"))?;
    Ok(Made {
        version,
        deletion_policy: None,
        elasticache: None,
        kubernetes: Some(spec),
    })
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod tests;
