//! What the service sells: engines, versions, parameter group families and node types (DescribeCacheEngineVersions,
//! DescribeCacheParameterGroups, and the user guide's "Supported node types").

use std::fmt;

use super::error::{ApiError, Outcome};
use super::query::Params;
use super::state::Cloud;
use super::xml::Fields;

/// A cache engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Memcached, always in a cache cluster.
    Memcached,
    /// Redis OSS.
    Redis,
    /// Valkey; its nodes are real `redis-server` processes here, since distributions of this age have no Valkey.
    Valkey,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Memcached => "memcached",
            Engine::Redis => "redis",
            Engine::Valkey => "valkey",
        })
    }
}

impl Engine {
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        match text.to_ascii_lowercase().as_str() {
            "memcached" => Ok(Engine::Memcached),
            "redis" => Ok(Engine::Redis),
            "valkey" => Ok(Engine::Valkey),
            _ => Err(ApiError::value(format!("Invalid cache engine: {text}"))),
        }
    }

    pub(crate) fn port(self) -> u16 {
        if self == Engine::Memcached { 11211 } else { 6379 }
    }
}

/// A version of an engine. Requests name it `7.1`, clusters show `7.1.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Of which engine.
    pub engine: Engine,
    /// As DescribeCacheEngineVersions lists it.
    pub listed: &'static str,
    /// As a cluster shows it.
    pub full: &'static str,
    /// The family its parameter groups must be of.
    pub family: &'static str,
}

const fn version(engine: Engine, listed: &'static str, full: &'static str, family: &'static str) -> Version {
    Version {
        engine,
        listed,
        full,
        family,
    }
}

/// Oldest first within an engine; the last of an engine is its default.
const VERSIONS: &[Version] = &[
    version(Engine::Memcached, "1.5.10", "1.5.10", "memcached1.5"),
    version(Engine::Memcached, "1.5.16", "1.5.16", "memcached1.5"),
    version(Engine::Memcached, "1.6.6", "1.6.6", "memcached1.6"),
    version(Engine::Memcached, "1.6.12", "1.6.12", "memcached1.6"),
    version(Engine::Memcached, "1.6.17", "1.6.17", "memcached1.6"),
    version(Engine::Memcached, "1.6.22", "1.6.22", "memcached1.6"),
    version(Engine::Redis, "5.0.6", "5.0.6", "redis5.0"),
    version(Engine::Redis, "6.0", "6.0.5", "redis6.x"),
    version(Engine::Redis, "6.2", "6.2.6", "redis6.x"),
    version(Engine::Redis, "7.0", "7.0.7", "redis7"),
    version(Engine::Redis, "7.1", "7.1.0", "redis7"),
    version(Engine::Valkey, "7.2", "7.2.6", "valkey7"),
    version(Engine::Valkey, "8.0", "8.0.1", "valkey8"),
    version(Engine::Valkey, "8.1", "8.1.0", "valkey8"),
    version(Engine::Valkey, "8.2", "8.2.0", "valkey8"),
];

impl Version {
    /// Finds a version by either spelling; `6.x` and `5.x` mean the newest of that major version.
    pub(crate) fn find(engine: Engine, text: Option<&str>) -> Outcome<Version> {
        let of_engine = || VERSIONS.iter().rev().filter(|known| known.engine == engine);
        let found = match text {
            None => of_engine().next(),
            Some(text) => match text.strip_suffix(".x") {
                Some(major) => of_engine().find(|known| known.listed.split('.').next() == Some(major)),
                None => of_engine().find(|known| known.listed == text || known.full == text),
            },
        };
        found.copied().ok_or_else(|| {
            ApiError::combination(format!(
                "Cannot find version {} for {engine}",
                text.unwrap_or("(default)")
            ))
        })
    }

    fn rank(self) -> usize {
        VERSIONS.iter().position(|known| *known == self).unwrap_or_default()
    }

    /// Whether a cluster may be moved from `self` to `other` in place: never back, and from Redis OSS to Valkey but
    /// not the other way (user guide, "Version management").
    pub(crate) fn can_become(self, other: Version) -> Outcome<()> {
        let refuse = || {
            Err(ApiError::combination(format!(
                "Can't modify the cache from {} {} to {} {}.",
                self.engine, self.full, other.engine, other.full
            )))
        };
        match (self.engine, other.engine) {
            (from, to) if from == to && other.rank() < self.rank() => refuse(),
            (from, to) if from == to => Ok(()),
            (Engine::Redis, Engine::Valkey) => Ok(()),
            _ => refuse(),
        }
    }

    /// In-transit encryption of Memcached needs 1.6.12 (user guide, "In-transit encryption").
    pub(crate) fn has_tls(self) -> bool {
        self.engine != Engine::Memcached
            || self.rank() >= VERSIONS.iter().position(|v| v.listed == "1.6.12").unwrap_or(0)
    }
}

/// A node type and the memory its caches get, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeType {
    /// Its name, such as `cache.t4g.micro`.
    pub name: &'static str,
    /// What the cache may use.
    pub mib: u32,
}

const fn node(name: &'static str, mib: u32) -> NodeType {
    NodeType { name, mib }
}

const NODE_TYPES: &[NodeType] = &[
    node("cache.t2.micro", 555),
    node("cache.t2.small", 1588),
    node("cache.t2.medium", 3301),
    node("cache.t3.micro", 512),
    node("cache.t3.small", 1402),
    node("cache.t3.medium", 3164),
    node("cache.t4g.micro", 512),
    node("cache.t4g.small", 1402),
    node("cache.t4g.medium", 3164),
    node("cache.m4.large", 6574),
    node("cache.m4.xlarge", 14_618),
    node("cache.m5.large", 6533),
    node("cache.m5.xlarge", 13_240),
    node("cache.m5.2xlarge", 26_665),
    node("cache.m5.4xlarge", 53_514),
    node("cache.m6g.large", 6533),
    node("cache.m6g.xlarge", 13_240),
    node("cache.m6g.2xlarge", 26_665),
    node("cache.m7g.large", 6533),
    node("cache.m7g.xlarge", 13_240),
    node("cache.m7g.2xlarge", 26_665),
    node("cache.r4.large", 12_595),
    node("cache.r4.xlarge", 25_651),
    node("cache.r5.large", 13_384),
    node("cache.r5.xlarge", 26_952),
    node("cache.r5.2xlarge", 54_088),
    node("cache.r5.4xlarge", 108_350),
    node("cache.r6g.large", 13_384),
    node("cache.r6g.xlarge", 26_952),
    node("cache.r6g.2xlarge", 54_088),
    node("cache.r7g.large", 13_384),
    node("cache.r7g.xlarge", 26_952),
    node("cache.r7g.2xlarge", 54_088),
    node("cache.r7g.4xlarge", 108_350),
];

/// Families of which new nodes cannot be made any more (API reference, `CacheNodeType`).
const RETIRED: &[&str] = &[
    "cache.t1.",
    "cache.m1.",
    "cache.m2.",
    "cache.m3.",
    "cache.c1.",
    "cache.r3.",
];

impl NodeType {
    pub(crate) fn find(name: &str) -> Outcome<NodeType> {
        if RETIRED.iter().any(|family| name.starts_with(family)) {
            return Err(ApiError::value(format!(
                "The node type {name} is of a previous generation that can no longer be created."
            )));
        }
        NODE_TYPES
            .iter()
            .find(|known| known.name == name)
            .copied()
            .ok_or_else(|| ApiError::value(format!("Invalid Cache Node Type: {name}")))
    }

    /// Refuses what the engine's version is too old for: Graviton types need Redis 5.0.6 or Memcached 1.5.16.
    pub(crate) fn fits(self, version: Version) -> Outcome<()> {
        let graviton = self.name.split('.').nth(1).is_some_and(|family| family.ends_with('g'));
        if graviton && version.engine == Engine::Memcached && version.listed == "1.5.10" {
            return Err(ApiError::combination(format!(
                "The node type {} needs a newer version than {} {}.",
                self.name, version.engine, version.full
            )));
        }
        Ok(())
    }
}

/// A group of engine parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterGroup {
    /// Its name.
    pub name: String,
    /// The family it is for.
    pub family: String,
    /// Whether it sets `cluster-enabled`.
    pub cluster_enabled: bool,
}

impl ParameterGroup {
    /// A parameter group of the account's own.
    pub fn new(name: impl Into<String>, family: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            family: family.into(),
            cluster_enabled: false,
        }
    }

    /// The groups every account has: `default.<family>`, and `.cluster.on` for engines that shard.
    pub(crate) fn defaults() -> Vec<ParameterGroup> {
        let mut families: Vec<&str> = VERSIONS.iter().map(|version| version.family).collect();
        families.dedup();
        families
            .into_iter()
            .flat_map(|family| {
                let plain = ParameterGroup::new(format!("default.{family}"), family);
                let sharded = (!family.starts_with("memcached")).then(|| ParameterGroup {
                    cluster_enabled: true,
                    ..ParameterGroup::new(format!("default.{family}.cluster.on"), family)
                });
                [Some(plain), sharded]
            })
            .flatten()
            .collect()
    }
}

impl Cloud {
    /// Finds the parameter group asked for, or the default one, and checks that it is of the version's family.
    pub(crate) fn parameter_group(
        &self,
        name: Option<&str>,
        version: Version,
        sharded: bool,
    ) -> Outcome<ParameterGroup> {
        let default = format!("default.{}{}", version.family, if sharded { ".cluster.on" } else { "" });
        let name = name.unwrap_or(&default);
        let group = self.find_parameter_group(name)?;
        if group.family != version.family {
            return Err(ApiError::combination(format!(
                "Expected a parameter group of family {} but found one of family {}.",
                version.family, group.family
            )));
        }
        Ok(group.clone())
    }

    pub(crate) fn find_parameter_group(&self, name: &str) -> Outcome<&ParameterGroup> {
        self.parameter_groups
            .iter()
            .find(|group| group.name == name)
            .ok_or_else(|| {
                ApiError::new(
                    "CacheParameterGroupNotFound",
                    format!("CacheParameterGroup {name} not found."),
                )
            })
    }

    pub(crate) fn describe_cache_engine_versions(&self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "Engine",
            "EngineVersion",
            "CacheParameterGroupFamily",
            "MaxRecords",
            "Marker",
            "DefaultOnly",
        ])?;
        let default_only = p.flag("DefaultOnly")?.unwrap_or(false);
        let found: Vec<(String, Version)> = VERSIONS
            .iter()
            .filter(|version| {
                p.text("Engine")
                    .is_none_or(|engine| engine == version.engine.to_string())
            })
            .filter(|version| p.text("EngineVersion").is_none_or(|text| text == version.listed))
            .filter(|version| {
                p.text("CacheParameterGroupFamily")
                    .is_none_or(|family| family == version.family)
            })
            .filter(|version| !default_only || Version::find(version.engine, None).as_ref() == Ok(version))
            .map(|version| (format!("{}/{:04}", version.engine, version.rank()), *version))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|version| {
            Fields::new()
                .text("Engine", version.engine)
                .text("EngineVersion", version.listed)
                .text("CacheParameterGroupFamily", version.family)
                .text("CacheEngineDescription", version.engine)
                .text(
                    "CacheEngineVersionDescription",
                    format!("{} version {}", version.engine, version.full),
                )
        });
        Ok(Fields::new()
            .some("Marker", marker)
            .list("CacheEngineVersions", "CacheEngineVersion", items))
    }

    pub(crate) fn describe_cache_parameter_groups(&self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheParameterGroupName", "MaxRecords", "Marker"])?;
        let found: Vec<(String, &ParameterGroup)> = match p.text("CacheParameterGroupName") {
            Some(name) => vec![(name.to_owned(), self.find_parameter_group(name)?)],
            None => self
                .parameter_groups
                .iter()
                .map(|group| (group.name.clone(), group))
                .collect(),
        };
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|group| {
            Fields::new()
                .text("CacheParameterGroupName", &group.name)
                .text("CacheParameterGroupFamily", &group.family)
                .text("Description", format!("Parameter group for {}", group.family))
                .text("IsGlobal", false)
                .text("ARN", self.arn("parametergroup", &group.name))
        });
        Ok(Fields::new()
            .some("Marker", marker)
            .list("CacheParameterGroups", "CacheParameterGroup", items))
    }

    pub(crate) fn describe_cache_parameters(&self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheParameterGroupName", "Source", "MaxRecords", "Marker"])?;
        let group = self.find_parameter_group(p.need("CacheParameterGroupName")?)?;
        let known: &[(&str, &str, &str)] = if group.family.starts_with("memcached") {
            &[
                ("max_item_size", "1048576", "integer"),
                ("maxconns_fast", "1", "boolean"),
            ]
        } else {
            &[
                ("cluster-enabled", "no", "string"),
                ("maxmemory-policy", "volatile-lru", "string"),
                ("timeout", "0", "integer"),
            ]
        };
        let system = p.text("Source").is_none_or(|source| source == "system");
        let found = known
            .iter()
            .filter(|_| system)
            .map(|parameter| (parameter.0.to_owned(), *parameter))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items = page.into_iter().map(|(name, value, kind)| {
            let value = if name == "cluster-enabled" && group.cluster_enabled {
                "yes"
            } else {
                value
            };
            Fields::new()
                .text("ParameterName", name)
                .text("ParameterValue", value)
                .text("Source", "system")
                .text("DataType", kind)
                .text("IsModifiable", name != "cluster-enabled")
                .text("ChangeType", "requires-reboot")
        });
        Ok(Fields::new()
            .some("Marker", marker)
            .list("Parameters", "Parameter", items))
    }

    /// Node types a cache may be moved to: larger ones and smaller ones (ListAllowedNodeTypeModifications).
    pub(crate) fn list_allowed_node_type_modifications(&self, p: Params) -> Outcome<Fields> {
        p.only(&["CacheClusterId", "ReplicationGroupId"])?;
        let (current, version) = match (p.text("CacheClusterId"), p.text("ReplicationGroupId")) {
            (Some(id), None) => {
                let cluster = self.cluster(id)?;
                (cluster.node_type, cluster.version)
            }
            (None, Some(id)) => {
                let group = self.group(id)?;
                (group.node_type, group.version)
            }
            _ => {
                return Err(ApiError::combination(
                    "Name either a CacheClusterId or a ReplicationGroupId.",
                ));
            }
        };
        let pick = |larger: bool| {
            NODE_TYPES
                .iter()
                .filter(move |known| known.fits(version).is_ok() && known.name != current.name)
                .filter(move |known| {
                    if larger {
                        known.mib >= current.mib
                    } else {
                        known.mib < current.mib
                    }
                })
                .map(|known| known.name)
        };
        Ok(Fields::new().texts("ScaleUpModifications", "member", pick(true)).texts(
            "ScaleDownModifications",
            "member",
            pick(false),
        ))
    }
}
