//! What a node's Pod is made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use serde::Serialize;

use crate::api::{Engine, EngineType, KubernetesSpec, Memory};
use crate::digest::sha256_hex;

/// Everything that decides about a node's Pod: it is replaced when one of these changes, and for nothing else.
///
/// The plan's own words stand here, not what the operator makes of them: a new default, or another way to tell an
/// engine its limits, is no reason to touch a Pod. The digest is the name of what was made, so fields are only ever
/// added, and left out where they say nothing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs<'a> {
    node: &'a str,
    engine: EngineType,
    image: Image<'a>,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_item_size: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eviction_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    node_selector: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tolerations: &'a [Toleration],
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<&'a Affinity>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    topology_spread: &'a [TopologySpreadConstraint],
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_class: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    persistent: bool,
    /// Whether it starts with users beside the default one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    users: bool,
    /// Whether redis asks for no password.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    open: bool,
    /// The `restartAt` that it is made after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Image<'a> {
    Named(&'a str),
    Official(&'a str),
}

impl<'a> Inputs<'a> {
    /// What a node is made from.
    pub fn of(
        node: &'a str,
        engine: &'a Engine,
        spec: &'a KubernetesSpec,
        users: bool,
        restarted_at: Option<Timestamp>,
    ) -> Self {
        let redis_like = engine.type_.is_redis_like();
        Self {
            node,
            engine: engine.type_,
            image: match &spec.image {
                Some(image) => Image::Named(image),
                None => Image::Official(&engine.version),
            },
            memory: spec.memory,
            cpu: spec.cpu.as_deref(),
            connection_limit: spec.connection_limit,
            max_item_size: spec.max_item_size.filter(|_| !redis_like),
            eviction_policy: spec
                .eviction_policy
                .filter(|_| redis_like)
                .map(crate::api::EvictionPolicy::as_str),
            node_selector: &spec.node_selector,
            tolerations: &spec.tolerations,
            affinity: spec.affinity.as_ref(),
            topology_spread: &spec.topology_spread,
            priority_class: spec.priority_class.as_deref(),
            persistent: spec.persistence.is_some(),
            users: users && redis_like,
            open: false,
            restarted_at,
        }
    }

    /// The same, for a redis that asks for no password.
    #[must_use]
    pub fn open(self, open: bool) -> Self {
        Self {
            open: open && self.engine.is_redis_like(),
            ..self
        }
    }

    /// A short name for them: 10 hexadecimal digits.
    pub fn digest(&self) -> String {
        // Plain data with string keys: it can always be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        sha256_hex(text, 5)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest_of(engine: &Value, spec: &Value, restarted_at: Option<&str>) -> String {
        let (engine, spec) = (
            serde_json::from_value(engine.clone()).unwrap(),
            serde_json::from_value(spec.clone()).unwrap(),
        );
        Inputs::of(
            "i",
            &engine,
            &spec,
            false,
            restarted_at.map(|time| time.parse().unwrap()),
        )
        .digest()
    }

    #[test]
    fn digests_stay_as_they_are_since_running_pods_are_named_by_them() {
        let memcached = json!({ "type": "memcached", "version": "1.6.45" });
        let redis = json!({ "type": "redis", "version": "8.2" });
        let all = json!({
            "image": "example.org/redis:8", "memory": "2Gi", "cpu": "500m", "connectionLimit": 100, "maxItemSize": "2Mi",
            "evictionPolicy": "volatile-ttl", "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "k" }],
            "affinity": { "nodeAffinity": {} }, "topologySpread": [{ "maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "DoNotSchedule" }],
            "priorityClass": "high", "persistence": { "size": "10Gi" }, "allowedFrom": {},
            "maintenanceWindow": "sun:05:00-sun:06:00",
        });
        let digests = [
            digest_of(&memcached, &json!({ "memory": "64Mi" }), None),
            digest_of(&redis, &json!({ "memory": "64Mi" }), Some("2026-11-23T00:00:00Z")),
            digest_of(&redis, &all, None),
            digest_of(&memcached, &all, None),
        ];
        insta::assert_json_snapshot!("inputs", digests);
    }

    #[test]
    fn what_does_not_touch_the_pod_is_no_input() {
        let redis = json!({ "type": "redis", "version": "8.2" });
        let plain = json!({ "memory": "64Mi" });
        let before = digest_of(&redis, &plain, None);
        for (member, value, same) in [
            ("allowedFrom", json!({ "podSelector": {} }), true),
            ("port", json!(7000), true),
            ("maintenanceWindow", json!("sun:05:00-sun:06:00"), true),
            ("maxItemSize", json!("2Mi"), true),
            ("replicas", json!(1), true),
            ("connectionLimit", json!(10), false),
            ("image", json!("redis:8"), false),
            ("persistence", json!({ "size": "1Gi" }), false),
        ] {
            let mut spec = plain.clone();
            spec[member] = value;
            assert_eq!(digest_of(&redis, &spec, None) == before, same, "{member}");
        }
        assert_ne!(digest_of(&redis, &plain, Some("2026-11-23T00:00:00Z")), before);
        let larger = |size: &str| {
            digest_of(
                &redis,
                &json!({ "memory": "64Mi", "persistence": { "size": size } }),
                None,
            )
        };
        assert_eq!(larger("1Gi"), larger("2Gi"));
    }
}
