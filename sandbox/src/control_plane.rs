//! A Kubernetes control plane: etcd, API server, controller manager and scheduler, without a node.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::address::Addresses;
use crate::certificates::{self, Authority, Certificate};
use crate::error::Error;
use crate::supervisor::{Process, Program, Supervisor, User};
use crate::write_private;

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/control-plane/build");

pub(crate) const API_SERVER_PORT: u16 = 6443;
const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;

/// The machine may be busy with other sandboxes.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the API server has for the requests in flight when it is stopped. It would wait for watches much longer.
const GRACE: Duration = Duration::from_secs(1);

/// Controllers that are off. Those of endpoints refuse the loopback addresses that pods have here; the others serve
/// machines, volumes and certificates that there are none of.
const CONTROLLERS_OFF: &[&str] = &[
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "node-ipam-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "ephemeral-volume-controller",
    "resourceclaim-controller",
    "device-taint-eviction-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "podcertificaterequest-cleaner-controller",
    "ttl-controller",
];

/// A running control plane.
pub struct ControlPlane {
    supervisor: Supervisor,
    address: Ipv4Addr,
    authority: String,
    kubeconfig: PathBuf,
    client: Client,
    api_server: Program,
    api_server_process: Mutex<Option<Process>>,
    others: Mutex<Vec<Process>>,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane")
            .field("kubeconfig", &self.kubeconfig)
            .finish_non_exhaustive()
    }
}

/// The folder of the built binaries, if they are built.
pub fn built() -> Option<PathBuf> {
    let output = std::process::Command::new(BUILD).arg("--built").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(folder.trim_end()))
}

/// Builds the binaries unless they are built, and returns their folder. Progress goes to standard error: the first time
/// it takes some minutes.
///
/// # Errors
/// When Go is missing or too old, or the modules cannot be fetched or compiled.
pub async fn build() -> Result<PathBuf, Error> {
    let output = Command::new(BUILD)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::io(format!("running {BUILD}")))?;
    if !output.status.success() {
        return Err(Error::Build {
            script: BUILD.into(),
            status: output.status,
        });
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

impl ControlPlane {
    /// Starts a control plane, building it first if need be, and waits until pods can be created in the namespace
    /// `default`.
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub async fn start(supervisor: &Supervisor, addresses: &Addresses, authority: &Authority) -> Result<Self, Error> {
        let binaries = build().await?;
        let address = addresses.control_plane();
        let files = Files::write(supervisor, addresses, authority)?;

        let etcd = spawn(supervisor, &etcd(supervisor, &binaries, address))?;
        let api_server = api_server(&binaries, addresses, &files);
        let api_server_process = spawn(supervisor, &api_server)?;
        let control_plane = Self {
            supervisor: supervisor.clone(),
            address,
            authority: authority.certificate(),
            client: client(&files.kubeconfig).await?,
            kubeconfig: files.kubeconfig.clone(),
            api_server,
            api_server_process: Mutex::new(Some(api_server_process)),
            others: Mutex::new(vec![etcd]),
        };
        control_plane.wait_until_ready().await?;
        for program in [controller_manager(&binaries, &files), scheduler(&binaries, &files)] {
            let process = spawn(supervisor, &program)?;
            control_plane.others.lock().await.push(process);
        }
        control_plane.wait_until_pods_are_accepted().await?;
        Ok(control_plane)
    }

    /// A kubeconfig file with all rights.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig file with the rights of a service account, for an hour, and returns its path.
    ///
    /// # Errors
    /// When there is no such service account, or the API server does not answer.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf, Error> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &TokenRequest::default())
            .await
            .map_err(Error::kubernetes(format!(
                "requesting a token of the service account {namespace}/{name}"
            )))?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let path = self.supervisor.dir().join(format!("kubeconfig-{namespace}-{name}"));
        let content = kubeconfig_of(self.address, &self.authority, &json!({ "token": token }));
        write_private(&path, &content).map_err(Error::io(format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// Stops the API server; etcd and what it holds stay. Does nothing while it is stopped.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop_api_server(&self) -> Result<(), Error> {
        match self.api_server_process.lock().await.take() {
            None => Ok(()),
            Some(process) => process
                .stop(GRACE)
                .await
                .map(drop)
                .map_err(Error::io("stopping the API server")),
        }
    }

    /// Starts the API server again and waits until it is ready. Does nothing while it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_api_server(&self) -> Result<(), Error> {
        let mut process = self.api_server_process.lock().await;
        if process.is_none() {
            *process = Some(spawn(&self.supervisor, &self.api_server)?);
        }
        drop(process);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<(), Error> {
        self.wait("readiness of the API server", async || {
            let request = http::Request::get("/readyz")
                .body(Vec::new())
                .map_err(kube::Error::HttpError)?;
            self.client.request_text(request).await.map(drop)
        })
        .await
    }

    async fn wait_until_pods_are_accepted(&self) -> Result<(), Error> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), "default");
        self.wait("creation of the service account default/default", async || {
            accounts.get("default").await.map(drop)
        })
        .await
    }

    /// Repeats a request until it succeeds, while all programs run.
    async fn wait(&self, what: &str, request: impl AsyncFn() -> Result<(), kube::Error>) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let why = match tokio::time::timeout(Duration::from_secs(5), request()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(process) = &mut *self.api_server_process.lock().await {
                Error::unless_running(process)?;
            }
            for process in &mut *self.others.lock().await {
                Error::unless_running(process)?;
            }
            if start.elapsed() > PATIENCE {
                let log = self.supervisor.log_of(&self.api_server.name);
                return Err(Error::late(what, &why, PATIENCE, &log));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A client for a kubeconfig file. It gives up at once where kube's default repeats for minutes.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    let invalid = |source| Error::Kubeconfig {
        path: kubeconfig.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(kubeconfig).map_err(invalid)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(invalid)?;
    config.default_retry = false;
    Client::try_from(config).map_err(Error::kubernetes(format!(
        "making a client of {}",
        kubeconfig.display()
    )))
}

fn spawn(supervisor: &Supervisor, program: &Program) -> Result<Process, Error> {
    supervisor
        .spawn(program)
        .map_err(Error::io(format!("starting {}", program.name)))
}

/// The files the programs read.
struct Files {
    authority: PathBuf,
    server: (PathBuf, PathBuf),
    kubelet_client: (PathBuf, PathBuf),
    service_account_key: (PathBuf, PathBuf),
    kubeconfig: PathBuf,
}

impl Files {
    fn write(supervisor: &Supervisor, addresses: &Addresses, authority: &Authority) -> Result<Self, Error> {
        let address = addresses.control_plane();
        let dir = supervisor
            .make_dir("control-plane", User::Own)
            .map_err(Error::io("making the control plane's folder"))?;
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            write_private(&path, content).map_err(Error::io(format!("writing {}", path.display())))?;
            Ok::<_, Error>(path)
        };
        let pair = |name: &str, certificate: &Certificate| {
            let path = write(&format!("{name}.crt"), &certificate.certificate)?;
            Ok::<_, Error>((path, write(&format!("{name}.key"), &certificate.key)?))
        };

        let mut names = vec![address.to_string(), addresses.kubernetes_service().to_string()];
        names.extend(
            [
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ]
            .map(String::from),
        );
        let (private, public) = certificates::key_pair()?;
        let admin = authority.issue_client("sandbox", "system:masters")?;
        let kubeconfig = supervisor.dir().join("kubeconfig");
        let content = kubeconfig_of(
            address,
            &authority.certificate(),
            &json!({
                "client-certificate-data": STANDARD.encode(&admin.certificate),
                "client-key-data": STANDARD.encode(&admin.key),
            }),
        );
        write_private(&kubeconfig, &content).map_err(Error::io(format!("writing {}", kubeconfig.display())))?;
        Ok(Self {
            authority: write("ca.crt", &authority.certificate())?,
            server: pair("api-server", &authority.issue(names)?)?,
            kubelet_client: pair(
                "kubelet-client",
                &authority.issue_client("kube-apiserver", "system:masters")?,
            )?,
            service_account_key: (
                write("service-account.key", &private)?,
                write("service-account.pub", &public)?,
            ),
            kubeconfig,
        })
    }
}

/// JSON, which is YAML.
fn kubeconfig_of(address: Ipv4Addr, authority: &str, user: &serde_json::Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {
            "server": format!("https://{address}:{API_SERVER_PORT}"),
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "sandbox", "user": user}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox"}}],
        "current-context": "sandbox",
    })
    .to_string()
}

/// A program of the control plane. They run beside what they are there for, so they may take memory rather than time: Go
/// collects garbage when the heap has grown to four times what was live.
fn program(binaries: &Path, name: &str) -> Program {
    Program::new(name, binaries.join(name)).env("GOGC", "300")
}

/// `--name=value`
fn flag(name: &str, value: impl AsRef<std::ffi::OsStr>) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(format!("--{name}="));
    flag.push(value);
    flag
}

fn etcd(supervisor: &Supervisor, binaries: &Path, address: Ipv4Addr) -> Program {
    let clients = format!("http://{address}:{ETCD_PORT}");
    let peers = format!("http://{address}:{ETCD_PEER_PORT}");
    program(binaries, "etcd").args([
        flag("name", "sandbox"),
        flag("data-dir", supervisor.dir().join("etcd")),
        flag("listen-client-urls", &clients),
        flag("advertise-client-urls", &clients),
        flag("listen-peer-urls", &peers),
        flag("initial-advertise-peer-urls", &peers),
        flag("initial-cluster", format!("sandbox={peers}")),
        flag("unsafe-no-fsync", "true"),
        flag("quota-backend-bytes", (8_u64 << 30).to_string()),
        flag("log-level", "warn"),
        // One member has nobody to wait for.
        flag("heartbeat-interval", "10"),
        flag("election-timeout", "100"),
    ])
}

fn api_server(binaries: &Path, addresses: &Addresses, files: &Files) -> Program {
    let address = addresses.control_plane();
    program(binaries, "kube-apiserver").args([
        flag("bind-address", address.to_string()),
        flag("secure-port", API_SERVER_PORT.to_string()),
        // Left to itself it looks for an address that is not loopback; and endpoints of the Service kubernetes would
        // refuse this one.
        flag("advertise-address", address.to_string()),
        flag("endpoint-reconciler-type", "none"),
        flag("etcd-servers", format!("http://{address}:{ETCD_PORT}")),
        flag("service-cluster-ip-range", addresses.service_range()),
        flag("authorization-mode", "RBAC"),
        flag("client-ca-file", &files.authority),
        flag("tls-cert-file", &files.server.0),
        flag("tls-private-key-file", &files.server.1),
        flag("kubelet-client-certificate", &files.kubelet_client.0),
        flag("kubelet-client-key", &files.kubelet_client.1),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        flag("service-account-key-file", &files.service_account_key.1),
        flag("service-account-signing-key-file", &files.service_account_key.0),
        flag("allow-privileged", "true"),
        flag("profiling", "false"),
    ])
}

fn controller_manager(binaries: &Path, files: &Files) -> Program {
    let controllers = std::iter::once("*".to_owned()).chain(CONTROLLERS_OFF.iter().map(|name| format!("-{name}")));
    program(binaries, "kube-controller-manager")
        .args(client_flags(files))
        .args([
            flag("controllers", controllers.collect::<Vec<_>>().join(",")),
            flag("service-account-private-key-file", &files.service_account_key.0),
            flag("root-ca-file", &files.authority),
        ])
}

fn scheduler(binaries: &Path, files: &Files) -> Program {
    program(binaries, "kube-scheduler").args(client_flags(files))
}

/// What the clients of the API server have in common: alone at their work, unthrottled, and not listening.
fn client_flags(files: &Files) -> [std::ffi::OsString; 6] {
    [
        flag("kubeconfig", &files.kubeconfig),
        flag("leader-elect", "false"),
        flag("secure-port", "0"),
        flag("kube-api-qps", "1000"),
        flag("kube-api-burst", "2000"),
        flag("profiling", "false"),
    ]
}
