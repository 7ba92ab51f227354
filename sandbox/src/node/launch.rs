//! Starting a container: gathers what its spec refers to, writes its volumes, and starts its process.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Pod, Secret, Service, ServiceAccount, ServiceAccountTokenProjection, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::container::{Rewriting, Sources, environment, references};
use super::image;
use super::pod::containers;
use super::probes::{Shell, action};
use super::runner::PreStop;
use super::shared::Shared;
use super::volumes::{Content, Folders, ROOT_CERTIFICATE, Tokens, content};
use crate::api_calls::{CallError, call};
use crate::supervisor::{Process, Program, User};

/// Where every container with a service account has its token and the API server's certificate.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why a container could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No program stands behind its image.
    Image(String),
    /// Something else; first the reason a kubelet shows.
    Other(&'static str, String),
}

impl Failure {
    /// The reason and the message of the event that tells of it.
    pub(super) fn told(&self) -> (&'static str, String) {
        match self {
            Self::Image(message) => ("Failed", message.clone()),
            Self::Other("ContainerCreating", message) => ("FailedMount", message.clone()),
            Self::Other(_, message) => ("Failed", format!("Error: {message}")),
        }
    }
}

/// What is known of a container that was started.
#[derive(Clone, Debug)]
pub(super) struct Launched {
    pub(super) shell: Shell,
    pub(super) rewriting: Rewriting,
    pub(super) pre_stop: Option<PreStop>,
    pub(super) log: PathBuf,
}

/// Starts the containers of one pod.
pub(super) struct Launcher {
    shared: Arc<Shared>,
    pub(super) folders: Folders,
    address: Ipv4Addr,
}

/// Whether files of the pod come from objects that can change; the token and the certificate that every pod gets do not
/// count, lest an idle pod cause traffic.
pub(super) fn has_sources(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| {
        let mut parts = volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten());
        let of_map = |part: &VolumeProjection| part.config_map.as_ref().is_some_and(|map| map.name != ROOT_CERTIFICATE);
        let projected = parts.any(|part| part.secret.is_some() || of_map(part));
        volume.secret.is_some() || volume.config_map.is_some() || projected
    })
}

impl Launcher {
    pub(super) fn new(shared: &Arc<Shared>, pod: &Pod, address: Ipv4Addr) -> Self {
        Self {
            folders: Folders::new(shared.supervisor.clone(), &shared.name, pod),
            shared: shared.clone(),
            address,
        }
    }

    /// Brings the pod's volumes up to date.
    pub(super) async fn prepare(&self, pod: &Pod) -> Result<(Sources, BTreeMap<String, Content>), String> {
        let said = |error: CallError| error.to_string();
        let sources = self.sources(pod).await.map_err(said)?;
        let tokens = self.tokens(pod).await.map_err(said)?;
        let mut volumes = BTreeMap::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let content = content(pod, self.address, volume, &sources, &tokens)
                .map_err(|message| format!("MountVolume.SetUp failed for volume \"{}\" : {message}", volume.name))?;
            volumes.insert(volume.name.clone(), content);
        }
        let everywhere = self
            .folders
            .rewriting(containers(pod).map(|(_, one)| one), &volumes, self.address);
        self.folders
            .write(&volumes, &everywhere)
            .map_err(|error| format!("writing the volumes of pod {}: {error}", pod.name_any()))?;
        Ok((sources, volumes))
    }

    /// Starts one container; `run` counts its earlier starts.
    pub(super) async fn launch(
        &self,
        pod: &Pod,
        container: &Container,
        run: u32,
    ) -> Result<(Process, Launched), Failure> {
        let image = image::find(container.image.as_deref().unwrap_or_default()).map_err(Failure::Image)?;
        let words = image::command_line(image, container);
        let server = words.first().cloned().unwrap_or_default();
        self.shared.programs.ensure(&server).map_err(Failure::Image)?;
        let unmounted = |message| Failure::Other("ContainerCreating", message);
        let (sources, volumes) = self.prepare(pod).await.map_err(unmounted)?;
        let environment = environment(pod, container, self.address, &sources)
            .map_err(|message| Failure::Other("CreateContainerConfigError", message))?;
        let rewriting = self.folders.rewriting([container], &volumes, self.address);
        let failed = |error: std::io::Error| {
            Failure::Other(
                "RunContainerError",
                format!("starting container {}: {error}", container.name),
            )
        };
        let home = self.folders.home(&container.name).map_err(failed)?;
        let log = self.folders.log(&container.name, run).map_err(failed)?;
        let wanted_dir = container.working_dir.as_deref().or(image.work_dir);
        let dir = wanted_dir
            .and_then(|dir| rewriting.folder(dir))
            .unwrap_or_else(|| home.clone());
        let mut rewritten = Vec::new();
        for word in &words {
            let word = super::container::expand(word, &environment);
            let word = self
                .with_service_addresses(word)
                .await
                .map_err(|error| Failure::Other("ContainerCreating", format!("looking for a Service: {error}")))?;
            rewritten.push(rewriting.text(&word));
        }
        let mut command = rewritten.into_iter();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let name = format!("{uid}-{}-{run}", container.name);
        let mut program = Program::new(name, command.next().unwrap_or_default())
            .args(command)
            .user(User::Unprivileged)
            .env("PATH", self.shared.programs.path())
            .env("HOME", &home)
            .env("HOSTNAME", pod.name_any());
        for (name, value) in environment.iter().filter(|(name, _)| *name != "PATH") {
            program = program.env(name, rewriting.text(value));
        }
        program = program.env("POD_IP", self.address.to_string());
        if let Some(folder) = rewriting.folder(SERVICE_ACCOUNT) {
            program = program.env("SERVICE_ACCOUNT_FOLDER", folder);
        }
        program.dir = Some(dir);
        program.log = Some(log.clone());
        let process = self.shared.supervisor.spawn(&program).map_err(failed)?;
        let launched = Launched {
            pre_stop: pre_stop(container, self.address, &rewriting),
            shell: Shell {
                supervisor: self.shared.supervisor.clone(),
                program,
                scratch: home,
            },
            rewriting,
            log,
        };
        Ok((process, launched))
    }

    /// A word with the names of Services replaced by their addresses.
    async fn with_service_addresses(&self, mut word: String) -> Result<String, CallError> {
        for (written, name, namespace) in service_names(&word) {
            let services = Api::<Service>::namespaced(self.shared.client.clone(), &namespace);
            let found = call(format!("reading service {name}"), services.get_opt(&name)).await?;
            let address = found.and_then(|service| service.spec?.cluster_ip);
            if let Some(address) = address.filter(|address| address != "None") {
                word = word.replace(&written, &address);
            }
        }
        Ok(word)
    }

    async fn sources(&self, pod: &Pod) -> Result<Sources, CallError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let secrets = Api::<Secret>::namespaced(self.shared.client.clone(), namespace);
        let config_maps = Api::<ConfigMap>::namespaced(self.shared.client.clone(), namespace);
        let (secret_names, config_map_names) = references(pod);
        let mut sources = Sources::default();
        for name in secret_names {
            if let Some(secret) = call(format!("reading secret {name}"), secrets.get_opt(&name)).await? {
                sources.add_secret(name, secret);
            }
        }
        for name in config_map_names {
            if let Some(map) = call(format!("reading configmap {name}"), config_maps.get_opt(&name)).await? {
                sources.add_config_map(name, map);
            }
        }
        Ok(sources)
    }

    async fn tokens(&self, pod: &Pod) -> Result<Tokens, CallError> {
        let mut tokens = Tokens::new();
        let spec = pod.spec.as_ref();
        for wanted in wanted_tokens(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let account = spec
                .and_then(|spec| spec.service_account_name.as_deref())
                .unwrap_or("default");
            let accounts = Api::<ServiceAccount>::namespaced(self.shared.client.clone(), namespace);
            let request = TokenRequest {
                spec: TokenRequestSpec {
                    audiences: wanted.audience.iter().cloned().collect(),
                    expiration_seconds: wanted.expiration_seconds,
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: pod.metadata.name.clone(),
                        uid: pod.metadata.uid.clone(),
                    }),
                },
                ..TokenRequest::default()
            };
            let what = format!("requesting a token of service account {namespace}/{account}");
            let answer = call(
                what,
                accounts.create_token_request(account, &PostParams::default(), &request),
            )
            .await?;
            let token = answer.status.map(|status| status.token).unwrap_or_default();
            tokens.insert(wanted.audience.clone().unwrap_or_default(), token);
        }
        Ok(tokens)
    }
}

/// The names of Services in a text: as written, and the Service's name and namespace.
fn service_names(text: &str) -> Vec<(String, String, String)> {
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let hosts = text.split(|c| !is_host(c));
    let named = hosts.filter_map(|host| {
        let mut labels = host.split('.');
        let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
        (svc == "svc").then(|| (host.to_owned(), name.to_owned(), namespace.to_owned()))
    });
    named.collect()
}

fn wanted_tokens(pod: &Pod) -> Vec<&ServiceAccountTokenProjection> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let parts = volumes
        .filter_map(|volume| volume.projected.as_ref()?.sources.as_ref())
        .flatten();
    parts.filter_map(|part| part.service_account_token.as_ref()).collect()
}

fn pre_stop(container: &Container, address: Ipv4Addr, rewriting: &Rewriting) -> Option<PreStop> {
    let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    if let Some(sleep) = &hook.sleep {
        return Some(PreStop::Sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or_default(),
        )));
    }
    let of = (hook.exec.as_ref(), hook.tcp_socket.as_ref(), hook.http_get.as_ref());
    Some(PreStop::Ask(action(of, container, address, rewriting)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_their_names() {
        let found = |text| {
            service_names(text)
                .into_iter()
                .map(|(_, name, namespace)| format!("{namespace}/{name}"))
        };
        assert_eq!(found("--url=https://a.b.svc:443/x").collect::<Vec<_>>(), ["b/a"]);
        assert_eq!(
            found("a-1.b.svc.cluster.local,c.d.svc").collect::<Vec<_>>(),
            ["b/a-1", "d/c"]
        );
        assert_eq!(found("/etc/a.b.conf example.com a.svc").count(), 0);
    }
}
