//! What a container runs: its environment and its command line, as a function of the pod and what it refers to.
//!
//! A pod has no file system and no network of its own here. Two rewritings stand in for them, in the command line, in
//! the values of the environment and in probes: a path under a `mountPath` becomes the path of the volume's folder, and
//! the addresses `0.0.0.0` and `127.0.0.1` and the name `localhost` become the pod's address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret};

use crate::quantity::number;

/// Secrets and ConfigMaps that a pod refers to and that exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(super) config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Sources {
    pub(super) fn add_secret(&mut self, name: String, secret: Secret) {
        let data = secret.data.unwrap_or_default();
        self.secrets.insert(
            name,
            data.into_iter().map(|(key, ByteString(value))| (key, value)).collect(),
        );
    }

    pub(super) fn add_config_map(&mut self, name: String, config_map: ConfigMap) {
        let texts = config_map
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes()));
        let bytes = config_map
            .binary_data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, ByteString(value))| (key, value));
        self.config_maps.insert(name, texts.chain(bytes).collect());
    }
}

/// The names of the Secrets and ConfigMaps that a pod's environments and volumes refer to.
pub(super) fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut secrets, mut config_maps) = (Vec::new(), Vec::new());
    let Some(spec) = &pod.spec else {
        return (secrets, config_maps);
    };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for source in container.env_from.iter().flatten() {
            secrets.extend(source.secret_ref.iter().map(|one| one.name.clone()));
            config_maps.extend(source.config_map_ref.iter().map(|one| one.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
            secrets.extend(source.secret_key_ref.iter().map(|one| one.name.clone()));
            config_maps.extend(source.config_map_key_ref.iter().map(|one| one.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        secrets.extend(volume.secret.iter().filter_map(|one| one.secret_name.clone()));
        config_maps.extend(volume.config_map.iter().map(|one| one.name.clone()));
        let parts = volume.projected.iter().filter_map(|one| one.sources.as_ref()).flatten();
        for part in parts {
            secrets.extend(part.secret.iter().map(|one| one.name.clone()));
            config_maps.extend(part.config_map.iter().map(|one| one.name.clone()));
        }
    }
    for names in [&mut secrets, &mut config_maps] {
        names.sort_unstable();
        names.dedup();
    }
    (secrets, config_maps)
}

/// The value of a field of the pod that the downward API offers.
pub(super) fn field(pod: &Pod, address: Ipv4Addr, selector: &ObjectFieldSelector) -> Option<String> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let keyed = |prefix: &str| {
        let key = selector.field_path.strip_prefix(prefix)?;
        Some(key.trim_matches(['\'', '"', '[', ']']).to_owned())
    };
    let all = |map: &Option<BTreeMap<String, String>>| {
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let of = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref().and_then(|map| map.get(key)).cloned();
    match selector.field_path.as_str() {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(all(&meta.labels)),
        "metadata.annotations" => Some(all(&meta.annotations)),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.podIPs" => Some(address.to_string()),
        "status.hostIP" | "status.hostIPs" => pod.status.as_ref().and_then(|status| status.host_ip.clone()),
        _ => keyed("metadata.labels[")
            .map(|key| of(&meta.labels, &key).unwrap_or_default())
            .or_else(|| keyed("metadata.annotations[").map(|key| of(&meta.annotations, &key).unwrap_or_default())),
    }
}

/// The value of a resource of the container that the downward API offers.
pub(super) fn resource(pod: &Pod, own: &str, selector: &ResourceFieldSelector) -> Option<String> {
    let name = selector.container_name.as_deref().unwrap_or(own);
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let resources = containers
        .find(|container| container.name == name)?
        .resources
        .as_ref()?;
    let (kind, resource) = selector.resource.split_once('.')?;
    let wanted = match kind {
        "limits" => resources.limits.as_ref(),
        "requests" => resources.requests.as_ref(),
        _ => None,
    };
    let amount = number(&wanted?.get(resource)?.0)?;
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| number(&divisor.0))
        .filter(|divisor| *divisor > 0.0)
        .unwrap_or(1.0);
    Some(format!("{:.0}", (amount / divisor).ceil()))
}

/// How much memory a container may use, in bytes.
pub(super) fn memory_limit(container: &Container) -> Option<u64> {
    let limit = container.resources.as_ref()?.limits.as_ref()?.get("memory")?;
    let bytes = number(&limit.0).filter(|bytes| *bytes >= 1.0)?;
    // A limit beyond 2^63 is none.
    format!("{bytes:.0}").parse().ok()
}

/// A container's environment, its own variables after and over those of `envFrom`, references expanded.
///
/// The error is what a kubelet shows with the reason `CreateContainerConfigError`.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    address: Ipv4Addr,
    sources: &Sources,
) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    for from in container.env_from.iter().flatten() {
        let (kind, name, optional, found) = match (&from.secret_ref, &from.config_map_ref) {
            (Some(one), _) => ("secret", &one.name, one.optional, sources.secrets.get(&one.name)),
            (None, Some(one)) => ("configmap", &one.name, one.optional, sources.config_maps.get(&one.name)),
            (None, None) => continue,
        };
        match found {
            Some(data) => {
                let prefix = from.prefix.as_deref().unwrap_or_default();
                all.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value))));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} \"{name}\" not found")),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &all)),
            Some(from) => {
                let (kind, key, found, optional) = if let Some(one) = &from.secret_key_ref {
                    (
                        format!("secret \"{}\"", one.name),
                        &one.key,
                        sources.secrets.get(&one.name),
                        one.optional,
                    )
                } else if let Some(one) = &from.config_map_key_ref {
                    (
                        format!("configmap \"{}\"", one.name),
                        &one.key,
                        sources.config_maps.get(&one.name),
                        one.optional,
                    )
                } else {
                    let value = from
                        .field_ref
                        .as_ref()
                        .and_then(|selector| field(pod, address, selector))
                        .or_else(|| resource(pod, &container.name, from.resource_field_ref.as_ref()?));
                    let value = value.ok_or_else(|| format!("variable {}: unsupported reference", variable.name))?;
                    all.insert(variable.name.clone(), value);
                    continue;
                };
                match (found, found.and_then(|data| data.get(key))) {
                    (_, Some(value)) => Some(text(value)),
                    (_, None) if optional == Some(true) => None,
                    (Some(_), None) => return Err(format!("couldn't find key {key} in {kind}")),
                    (None, None) => return Err(format!("{kind} not found")),
                }
            }
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all)
}

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stands for a literal `$(NAME)`, unknown names stay.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, tail)| Some((variables.get(name)?, tail))) {
            Some((value, tail)) => {
                expanded.push_str(value);
                rest = tail;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded + rest
}

/// Where the volumes of a container are, and which address it has.
#[derive(Clone, Debug)]
pub(super) struct Rewriting {
    /// Each `mountPath` and the folder it stands for, the longest first.
    mounts: Vec<(String, PathBuf)>,
    address: String,
}

impl Rewriting {
    pub(super) fn new(mut mounts: Vec<(String, PathBuf)>, address: Ipv4Addr) -> Self {
        for (path, _) in &mut mounts {
            path.truncate(path.trim_end_matches('/').len());
        }
        mounts.retain(|(path, _)| !path.is_empty());
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self {
            mounts,
            address: address.to_string(),
        }
    }

    /// The folder that stands for a path, if a volume is mounted there.
    pub(super) fn folder(&self, path: &str) -> Option<PathBuf> {
        let rewritten = self.paths(path);
        (rewritten != path).then(|| PathBuf::from(rewritten))
    }

    /// Rewrites the paths in a text.
    pub(super) fn paths(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let at_boundary = out
                .chars()
                .next_back()
                .is_none_or(|before| !is_word(before) && !matches!(before, '/' | '.'));
            let mount = self.mounts.iter().find_map(|(path, folder)| {
                let tail = rest.strip_prefix(path.as_str())?;
                let ends = tail.chars().next().is_none_or(|after| !is_word(after) && after != '.');
                (at_boundary && ends).then_some((folder, tail))
            });
            match mount {
                Some((folder, tail)) => {
                    out.push_str(&folder.to_string_lossy());
                    rest = tail;
                }
                None => {
                    out.push(next);
                    rest = rest.split_at_checked(next.len_utf8()).map_or("", |(_, tail)| tail);
                }
            }
        }
        out
    }

    /// Rewrites the paths and the addresses in a text.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = self.paths(text);
        for name in ["0.0.0.0", "127.0.0.1", "localhost"] {
            text = replace_word(&text, name, &self.address);
        }
        text
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

/// Replaces an address or a name that is not part of a longer one; `-l127.0.0.1` names an address, `my-localhost` is
/// another name.
fn replace_word(text: &str, name: &str, by: &str) -> String {
    let numeric = name.starts_with(|c: char| c.is_ascii_digit());
    let glued = |c: char| match numeric {
        true => c.is_ascii_digit() || c == '.',
        false => is_word(c) || c == '.',
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(name) {
        out.push_str(before);
        let part = out.chars().next_back().is_some_and(glued) || after.chars().next().is_some_and(glued);
        out.push_str(if part { name } else { by });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
