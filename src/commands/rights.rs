//! What the roles need to be allowed in the cluster: what the project's own manifests give them, and no second list of it.

use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::settings::{self, Namespaces};

const OPERATOR: &str = include_str!("../../deploy/base/rbac-operator.yaml");
const API: &str = include_str!("../../deploy/base/rbac-api.yaml");
/// The operator's own namespace in those.
const OWN: &str = "cache-broker-system";
/// What ends the name of a ClusterRole that holds in watched namespaces only.
const OF_INSTANCES: &str = "-instances";

/// A Role or a ClusterRole.
#[derive(Deserialize)]
struct Rules {
    metadata: ObjectMeta,
    rules: Vec<PolicyRule>,
}

/// Everything that a process of a role asks of the API server.
///
/// # Errors
/// When the manifests cannot be read, which a test rules out.
pub(super) fn needed(
    role: settings::Role,
    watched: &Namespaces,
    own: &str,
) -> Result<Vec<ResourceAttributes>, serde_yaml::Error> {
    let mut needed = Vec::new();
    let manifests = [(role.reconciles(), OPERATOR), (role.serves_api(), API)];
    for (_, manifest) in manifests.iter().filter(|(wanted, _)| *wanted) {
        for document in serde_yaml::Deserializer::from_str(manifest) {
            let object = serde_yaml::Value::deserialize(document)?;
            let kind = object
                .get("kind")
                .and_then(|kind| kind.as_str())
                .unwrap_or_default()
                .to_owned();
            if !["ClusterRole", "Role"].contains(&kind.as_str()) {
                continue;
            }
            let found: Rules = serde_yaml::from_value(object)?;
            let name = found.metadata.name.unwrap_or_default();
            let places: Vec<Option<String>> = match (kind.as_str(), found.metadata.namespace, watched) {
                ("Role", Some(namespace), _) if namespace == OWN => vec![Some(own.to_owned())],
                ("Role", namespace, _) => vec![namespace],
                (_, _, Namespaces::Named(names)) if name.ends_with(OF_INSTANCES) => {
                    names.iter().cloned().map(Some).collect()
                }
                _ => vec![None],
            };
            for place in &places {
                needed.extend(found.rules.iter().flat_map(|rule| each(rule, place.as_deref())));
            }
        }
    }
    Ok(needed)
}

/// Every single thing that a rule allows.
fn each(rule: &PolicyRule, namespace: Option<&str>) -> Vec<ResourceAttributes> {
    let names: Vec<Option<&String>> = match rule.resource_names.as_deref() {
        None | Some([]) => vec![None],
        Some(names) => names.iter().map(Some).collect(),
    };
    let mut all = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            let (resource, subresource) = resource
                .split_once('/')
                .map_or((resource.as_str(), None), |(a, b)| (a, Some(b)));
            for verb in &rule.verbs {
                all.extend(names.iter().map(|name| ResourceAttributes {
                    group: Some(group.clone()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(verb.clone()),
                    namespace: namespace.map(str::to_owned),
                    name: name.cloned(),
                    ..ResourceAttributes::default()
                }));
            }
        }
    }
    all
}

/// It, for people.
pub(super) fn worded(right: &ResourceAttributes) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let slashed = |part: &Option<String>| part.as_ref().map(|part| format!("/{part}")).unwrap_or_default();
    let dotted = Some(text(&right.group)).filter(|group| !group.is_empty());
    format!(
        "{} {}{}{}{}{}",
        text(&right.verb),
        text(&right.resource),
        dotted.map(|group| format!(".{group}")).unwrap_or_default(),
        slashed(&right.subresource),
        right.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default(),
        right
            .namespace
            .as_ref()
            .map(|place| format!(" in {place}"))
            .unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: settings::Role, watched: &Namespaces) -> Vec<String> {
        needed(role, watched, "own").unwrap().iter().map(worded).collect()
    }

    #[test]
    fn rights_are_asked_for_where_they_are_needed() {
        let watched = Namespaces::Named(["a", "b"].map(str::to_owned).into());
        let operator = of(settings::Role::Operator, &watched);
        for right in [
            "create secrets in a",
            "create secrets in b",
            "update cacheinstances.cache.akkeris.io/status in b",
            "watch cacheplans.cache.akkeris.io",
            "update leases.coordination.k8s.io cache-broker-operator in own",
            "create events in default",
        ] {
            assert!(operator.iter().any(|known| known == right), "{right}: {operator:?}");
        }
        assert!(
            !operator.iter().any(|right| right.contains("cache-broker-system")),
            "{operator:?}"
        );
        let everywhere = of(settings::Role::Operator, &Namespaces::All);
        assert!(
            everywhere.iter().any(|right| right == "create secrets"),
            "{everywhere:?}"
        );
        let api = of(settings::Role::Api, &watched);
        // It writes the passwords of users that bindings are given, and reads none.
        let secrets: Vec<_> = api.iter().filter(|right| right.contains("secrets")).collect();
        assert_eq!(secrets, ["create secrets in a", "create secrets in b"]);
        assert!(!api.iter().any(|right| right.contains("deployments")), "{api:?}");
        assert!(of(settings::Role::All, &watched).len() == api.len() + operator.len());
    }
}
