//! A pod's folders: its volumes, a folder for each container to start in, and the containers' logs.
//!
//! Volumes are ordinary folders that belong to the user the containers run as. `emptyDir`, `secret`, `configMap`,
//! `downwardAPI`, `projected`, `hostPath` and `persistentVolumeClaim` (a folder that outlives the pod) are known.
//! Files named `*.conf` have the `mountPath`s in them rewritten, since servers find further files through them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use super::claims;
use super::container::{Rewriting, Sources, field, resource};
use crate::supervisor::{Supervisor, User};

/// A service account's token, by the audience it is for (empty: the API server's own).
pub(super) type Tokens = BTreeMap<String, String>;

/// The ConfigMap that every pod with a service account's token refers to.
pub(super) const ROOT_CERTIFICATE: &str = "kube-root-ca.crt";

const MODE: u32 = 0o644;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeFile {
    path: PathBuf,
    mode: u32,
    bytes: Vec<u8>,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Files the node writes; none for an `emptyDir`.
    Files(Vec<VolumeFile>),
    /// A folder of the machine.
    Host(PathBuf),
    /// The folder of a claim of the pod's namespace.
    Claim(String),
}

/// What a volume holds, as far as it can be told; the error is what a kubelet's event says after the volume's name.
pub(super) fn content(
    pod: &Pod,
    address: Ipv4Addr,
    volume: &Volume,
    sources: &Sources,
    tokens: &Tokens,
) -> Result<Content, String> {
    if volume.empty_dir.is_some() {
        Ok(Content::Files(Vec::new()))
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let source = (("secret", name), sources.secrets.get(name), secret.optional);
        keyed(source, secret.items.as_deref(), secret.default_mode).map(Content::Files)
    } else if let Some(map) = &volume.config_map {
        let source = (
            ("configmap", map.name.as_str()),
            sources.config_maps.get(&map.name),
            map.optional,
        );
        keyed(source, map.items.as_deref(), map.default_mode).map(Content::Files)
    } else if let Some(api) = &volume.downward_api {
        downward(pod, address, api.items.as_deref(), api.default_mode).map(Content::Files)
    } else if let Some(projected) = &volume.projected {
        let mut files = Vec::new();
        for part in projected.sources.iter().flatten() {
            if let Some(secret) = &part.secret {
                let source = (
                    ("secret", secret.name.as_str()),
                    sources.secrets.get(&secret.name),
                    secret.optional,
                );
                files.extend(keyed(source, secret.items.as_deref(), projected.default_mode)?);
            }
            if let Some(map) = &part.config_map {
                // A cluster may run without its publisher.
                let optional = map.optional.or(Some(map.name == ROOT_CERTIFICATE));
                let source = (
                    ("configmap", map.name.as_str()),
                    sources.config_maps.get(&map.name),
                    optional,
                );
                let items = map.items.as_deref().filter(|_| source.1.is_some());
                files.extend(keyed(source, items, projected.default_mode)?);
            }
            if let Some(api) = &part.downward_api {
                files.extend(downward(pod, address, api.items.as_deref(), projected.default_mode)?);
            }
            if let Some(token) = &part.service_account_token {
                let wanted = token.audience.as_deref().unwrap_or_default();
                let token_text = tokens
                    .get(wanted)
                    .ok_or_else(|| format!("no token for the audience {wanted:?}"))?;
                files.push(file(&token.path, Some(0o600), None, token_text.clone().into_bytes())?);
            }
        }
        Ok(Content::Files(files))
    } else if let Some(host) = &volume.host_path {
        Ok(Content::Host(host.path.clone().into()))
    } else if let Some(claim) = &volume.persistent_volume_claim {
        Ok(Content::Claim(claim.claim_name.clone()))
    } else {
        Err("the sandbox's node does not know this kind of volume".to_owned())
    }
}

type Source<'a> = ((&'a str, &'a str), Option<&'a BTreeMap<String, Vec<u8>>>, Option<bool>);

fn keyed(
    ((kind, name), data, optional): Source<'_>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
) -> Result<Vec<VolumeFile>, String> {
    let Some(data) = data else {
        return match optional {
            Some(true) => Ok(Vec::new()),
            _ => Err(format!("{kind} \"{name}\" not found")),
        };
    };
    let Some(items) = items else {
        return data
            .iter()
            .map(|(key, bytes)| file(key, None, mode, bytes.clone()))
            .collect();
    };
    let mut files = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => files.push(file(&item.path, item.mode, mode, bytes.clone())?),
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} \"{name}\" has no key {:?}", item.key)),
        }
    }
    Ok(files)
}

fn downward(
    pod: &Pod,
    address: Ipv4Addr,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
) -> Result<Vec<VolumeFile>, String> {
    let value = |item: &DownwardAPIVolumeFile| {
        let from_field = item
            .field_ref
            .as_ref()
            .and_then(|selector| field(pod, address, selector));
        from_field.or_else(|| resource(pod, "", item.resource_field_ref.as_ref()?))
    };
    let each = items.unwrap_or_default().iter().map(|item| {
        let value = value(item).ok_or_else(|| format!("{}: unsupported reference", item.path))?;
        file(&item.path, item.mode, mode, value.into_bytes())
    });
    each.collect()
}

fn file(path: &str, own: Option<i32>, default: Option<i32>, bytes: Vec<u8>) -> Result<VolumeFile, String> {
    let path = PathBuf::from(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("{} leads out of the volume", path.display()));
    }
    let mode = own
        .or(default)
        .and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(MODE);
    Ok(VolumeFile { path, mode, bytes })
}

/// Where things of one pod are.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    /// Relative to the sandbox's folder, for [`Supervisor::make_dir`].
    pod: PathBuf,
    node: String,
    namespace: String,
    supervisor: Supervisor,
}

impl Folders {
    pub(super) fn new(supervisor: Supervisor, node: &str, pod: &Pod) -> Self {
        let base = Path::new("nodes").join(node);
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            pod: base.join("pods").join(name(&pod.metadata.uid)),
            node: node.to_owned(),
            namespace: name(&pod.metadata.namespace),
            supervisor,
        }
    }

    /// A container's folder, which it starts in unless its spec says otherwise.
    pub(super) fn home(&self, container: &str) -> io::Result<PathBuf> {
        self.supervisor
            .make_dir(self.pod.join("containers").join(container), User::Unprivileged)
    }

    /// The log of one run of a container.
    pub(super) fn log(&self, container: &str, run: u32) -> io::Result<PathBuf> {
        let folder = self
            .supervisor
            .make_dir(self.pod.join("logs").join(container), User::Own)?;
        Ok(folder.join(format!("{run}.log")))
    }

    fn volume(&self, name: &str, content: &Content) -> PathBuf {
        match content {
            Content::Files(_) => self.pod.join("volumes").join(name),
            Content::Claim(claim) => claims::folder(&self.node, &self.namespace, claim),
            Content::Host(path) => path.clone(),
        }
    }

    /// The rewriting for one container, or for all of them together.
    pub(super) fn rewriting<'c>(
        &self,
        containers: impl IntoIterator<Item = &'c Container>,
        volumes: &BTreeMap<String, Content>,
        address: Ipv4Addr,
    ) -> Rewriting {
        let mounts = containers
            .into_iter()
            .flat_map(|container| container.volume_mounts.iter().flatten());
        let folders = mounts.filter_map(|mount| {
            let folder = self
                .supervisor
                .dir()
                .join(self.volume(&mount.name, volumes.get(&mount.name)?));
            let folder = match mount.sub_path.as_deref() {
                None | Some("") => folder,
                Some(sub_path) => folder.join(sub_path),
            };
            Some((mount.mount_path.clone(), folder))
        });
        Rewriting::new(folders.collect(), address)
    }

    /// Makes the volumes' folders and brings their files up to date.
    pub(super) fn write(&self, volumes: &BTreeMap<String, Content>, rewriting: &Rewriting) -> io::Result<()> {
        for (name, content) in volumes {
            if matches!(content, Content::Host(_)) {
                continue;
            }
            let folder = self.volume(name, content);
            self.supervisor.make_dir(&folder, User::Unprivileged)?;
            let Content::Files(files) = content else { continue };
            for file in files {
                self.write_file(&folder, file, rewriting)?;
            }
        }
        Ok(())
    }

    fn write_file(&self, folder: &Path, file: &VolumeFile, rewriting: &Rewriting) -> io::Result<()> {
        let path = self.supervisor.dir().join(folder).join(&file.path);
        let text = std::str::from_utf8(&file.bytes);
        let is_conf = path.extension().is_some_and(|extension| extension == "conf");
        let bytes = match text {
            Ok(text) if is_conf => rewriting.paths(text).into_bytes(),
            _ => file.bytes.clone(),
        };
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let parent = file.path.parent().map(|parent| folder.join(parent)).unwrap_or_default();
        let parent = self.supervisor.make_dir(parent, User::Unprivileged)?;
        // Written beside and moved into place: a reader sees the old file or the new one, and no one a readable secret.
        let new = parent.join(format!(".{}", uuid::Uuid::new_v4().simple()));
        fs::write(&new, b"")?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::write(&new, bytes)?;
        self.supervisor.give(&new, User::Unprivileged)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(file.mode))?;
        fs::rename(&new, &path)
    }

    /// Removes everything of the pod but its claims.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.supervisor.dir().join(&self.pod)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 80, 1, 7);

    fn pod() -> Pod {
        let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": []}})).unwrap()
    }

    fn of(volume: &serde_json::Value) -> Result<Content, String> {
        let data = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let sources = Sources {
            secrets: [("s".into(), data(&[("a", "1"), ("b", "2")]))].into(),
            config_maps: [("m".into(), data(&[("r.conf", "dir /data\n")]))].into(),
        };
        let volume = serde_json::from_value(volume.clone()).unwrap();
        content(
            &pod(),
            ADDRESS,
            &volume,
            &sources,
            &[(String::new(), "token".to_owned())].into(),
        )
    }

    fn files(expected: &[(&str, u32, &str)]) -> Result<Content, String> {
        let each = expected.iter().map(|(path, mode, text)| VolumeFile {
            path: path.into(),
            mode: *mode,
            bytes: text.as_bytes().to_vec(),
        });
        Ok(Content::Files(each.collect()))
    }

    #[test]
    fn volumes_hold_what_their_sources_say() {
        let projected = json!({"defaultMode": 0o440, "sources": [
            {"secret": {"name": "s", "items": [{"key": "a", "path": "x/a", "mode": 0o400}]}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]}},
            {"serviceAccountToken": {"path": "token"}},
        ]});
        for (volume, expected) in [
            (json!({"name": "v", "emptyDir": {}}), files(&[])),
            (
                json!({"name": "v", "secret": {"secretName": "s"}}),
                files(&[("a", 0o644, "1"), ("b", 0o644, "2")]),
            ),
            (
                json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400, "items": [{"key": "b", "path": "c"}]}}),
                files(&[("c", 0o400, "2")]),
            ),
            (
                json!({"name": "v", "configMap": {"name": "m"}}),
                files(&[("r.conf", 0o644, "dir /data\n")]),
            ),
            (
                json!({"name": "v", "projected": projected}),
                files(&[
                    ("x/a", 0o400, "1"),
                    ("ip", 0o440, "127.80.1.7"),
                    ("token", 0o600, "token"),
                ]),
            ),
            (
                json!({"name": "v", "secret": {"secretName": "none", "optional": true}}),
                files(&[]),
            ),
            (
                json!({"name": "v", "secret": {"secretName": "none"}}),
                Err(r#"secret "none" not found"#.into()),
            ),
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}),
                Err(r#"configmap "m" has no key "k""#.into()),
            ),
            (
                json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "a", "path": "../a"}]}}),
                Err("../a leads out of the volume".into()),
            ),
            (
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
                Ok(Content::Claim("c".into())),
            ),
        ] {
            assert_eq!(of(&volume), expected, "{volume}");
        }
        assert!(of(&json!({"name": "v", "nfs": {"server": "s", "path": "/"}})).is_err());
    }

    #[test]
    fn written_files_have_their_modes_and_lead_to_each_other() {
        let supervisor = Supervisor::start().unwrap();
        let folders = Folders::new(supervisor.clone(), "node", &pod());
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "conf", "mountPath": "/etc/redis"}, {"name": "data", "mountPath": "/data", "subPath": "sub"},
        ]}))
        .unwrap();
        let volumes: BTreeMap<_, _> = [
            (
                "conf".to_owned(),
                of(&json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o440}})).unwrap(),
            ),
            ("data".to_owned(), Content::Claim("claim".into())),
        ]
        .into();
        let rewriting = folders.rewriting([&container], &volumes, ADDRESS);
        folders.write(&volumes, &rewriting).unwrap();
        folders.write(&volumes, &rewriting).unwrap();
        let conf = rewriting.folder("/etc/redis").unwrap().join("r.conf");
        let data = supervisor.dir().join("nodes/node/claims/n/claim/sub");
        assert_eq!(fs::read_to_string(&conf).unwrap(), format!("dir {}\n", data.display()));
        assert_eq!(fs::metadata(&conf).unwrap().permissions().mode() & 0o777, 0o440);
        folders.remove().unwrap();
        assert!(!conf.exists() && supervisor.dir().join("nodes/node/claims/n/claim").exists());
    }
}
