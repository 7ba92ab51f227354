//! A cluster with a process node and a Service proxy, and how tests look at it.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use sandbox::Sandbox;
use sandbox::node::{Backoff, Capacity, Node, Options, Pods};
use sandbox::service_proxy::{self, ServiceProxy};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A namespace on a sandbox with a node and a proxy.
pub struct Cluster {
    pub sandbox: Sandbox,
    pub client: Client,
    pub node: Node,
    pub proxy: ServiceProxy,
}

impl Cluster {
    pub async fn start(pods: Pods) -> Self {
        let sandbox = Sandbox::start_bare().await.unwrap();
        let client = sandbox.kube().await.unwrap();
        let options = Options {
            pods,
            backoff: Backoff {
                first: Duration::from_secs(1),
                longest: Duration::from_secs(4),
            },
            capacity: Capacity {
                pods: 5000,
                ..Capacity::default()
            },
            ..Options::default()
        };
        let node = Node::start(client.clone(), sandbox.supervisor(), sandbox.addresses(), options)
            .await
            .unwrap();
        let proxy = ServiceProxy::start(client.clone(), service_proxy::Options::default())
            .await
            .unwrap();
        let cluster = Self {
            sandbox,
            client,
            node,
            proxy,
        };
        let namespace = json!({"metadata": {"name": "caches"}});
        let namespaces = Api::<Namespace>::all(cluster.client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(namespace).unwrap())
            .await
            .unwrap();
        cluster
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "caches")
    }

    pub async fn make<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + DeserializeOwned,
    {
        self.api()
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap()
    }

    pub async fn deploy(&self, name: &str, container: Value, more: Value) {
        let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 5});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let labels = json!({"app": name});
        self.make::<Deployment>(json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }))
        .await;
    }

    pub async fn expose(&self, name: &str, app: &str, port: u16) -> SocketAddrV4 {
        let service: Service = self
            .make(json!({
                "metadata": {"name": name},
                "spec": {"selector": {"app": app}, "ports": [{"port": port, "targetPort": "cache"}]},
            }))
            .await;
        let ip = service.spec.unwrap().cluster_ip.unwrap();
        SocketAddrV4::new(ip.parse().unwrap(), port)
    }

    pub async fn pods(&self, app: &str) -> Vec<Pod> {
        let of_app = ListParams::default().labels(&format!("app={app}"));
        self.api::<Pod>().list(&of_app).await.unwrap().items
    }

    pub async fn available(&self, name: &str) {
        until(&format!("deployment {name} to be available"), async || {
            let deployment = self.api::<Deployment>().get(name).await.unwrap();
            let generation = deployment.metadata.generation;
            let status = deployment.status?;
            let done = status.observed_generation == generation
                && status.updated_replicas == status.replicas
                && status.available_replicas >= Some(1)
                && status.unavailable_replicas.unwrap_or(0) == 0;
            done.then_some(())
        })
        .await;
    }

    pub fn pid(&self, pod: &str) -> Option<u32> {
        self.node
            .processes()
            .into_iter()
            .find(|one| one.pod == pod)
            .map(|one| one.pid)
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.sandbox.kubeconfig())
            .args(["-n", "caches"])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }
}

pub async fn until<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Sends a line and reads the answer until it ends as expected.
pub fn talk(address: impl Into<SocketAddr>, question: &str, end: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while !answer.ends_with(end.as_bytes()) {
        match stream.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub fn memcached(args: &[&str]) -> Value {
    json!({
        "name": "memcached",
        "image": "memcached:1.6",
        "args": args,
        "ports": [{"name": "cache", "containerPort": 11211}],
        "readinessProbe": {"tcpSocket": {"port": "cache"}, "periodSeconds": 1},
    })
}

pub fn container_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

pub fn waiting(pod: &Pod) -> Option<(String, String)> {
    let waiting = container_status(pod)?.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.clone()?, waiting.message.clone().unwrap_or_default()))
}

pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
