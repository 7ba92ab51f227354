//! The process node and the Service proxy on a real control plane.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::io::Read;
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Cluster, PATIENCE, container_status, memcached, ready, talk, until, waiting};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use rustix::process::{Pid, Signal};
use sandbox::node::Pods;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn deployments_become_available_because_something_answers() {
    let cluster = Cluster::start(Pods::Processes).await;
    cluster.deploy("mem", memcached(&["-vv", "-m", "32"]), json!({})).await;
    cluster
        .make::<Secret>(json!({
            "metadata": {"name": "login"},
            "stringData": {"password": "s3cret", "redis.conf": "dir /data\naclfile /etc/redis/users.acl\n",
                "users.acl": "user default on >s3cret ~* &* +@all\n"},
        }))
        .await;
    let redis = json!({
        "name": "redis",
        "image": "docker.io/library/redis:7",
        "args": ["redis-server", "/etc/redis/redis.conf", "--save", "", "--maxmemory", "$(SIZE)mb"],
        "env": [
            {"name": "SIZE", "value": "16"},
            {"name": "REDISCLI_AUTH", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
        ],
        "ports": [{"name": "cache", "containerPort": 6379}],
        "volumeMounts": [{"name": "login", "mountPath": "/etc/redis"}, {"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"exec": {"command": ["sh", "-c", "redis-cli ping | grep PONG"]}, "periodSeconds": 1, "timeoutSeconds": 5},
        "livenessProbe": {"exec": {"command": ["redis-cli", "-h", "127.0.0.1", "ping"]}, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["redis-cli", "set", "stopped", "1"]}}},
    });
    let init = json!([{"name": "init", "image": "redis:7", "command": ["sh", "-c", "echo made > /data/init"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]);
    let volumes = json!([{"name": "login", "secret": {"secretName": "login", "defaultMode": 0o400}}, {"name": "data", "emptyDir": {}}]);
    cluster
        .deploy("red", redis, json!({"initContainers": init, "volumes": volumes}))
        .await;
    let mem = cluster.expose("mem", "mem", 11211).await;
    let red = cluster.expose("red", "red", 6379).await;

    cluster.available("mem").await;
    cluster.available("red").await;
    cluster.proxy.wait_for(mem, |pods| pods.len() == 1).await;
    cluster.proxy.wait_for(red, |pods| pods.len() == 1).await;
    assert_eq!(talk(mem, "set k 0 0 1\r\nv\r\n", "\r\n").unwrap(), "STORED\r\n");
    assert_eq!(
        talk(mem, "get k\r\n", "END\r\n").unwrap(),
        "VALUE k 0 1\r\nv\r\nEND\r\n"
    );
    assert!(talk(red, "ping\r\n", "\r\n").unwrap().starts_with("-NOAUTH"));
    assert_eq!(
        talk(red, "auth s3cret\r\nset k v\r\nget k\r\n", "$1\r\nv\r\n").unwrap(),
        "+OK\r\n+OK\r\n$1\r\nv\r\n"
    );
    let config = talk(red, "auth s3cret\r\nconfig get maxmemory\r\n", "16777216\r\n").unwrap();
    assert!(config.contains("16777216"), "{config}");

    let mem_pod = cluster.pods("mem").await.remove(0);
    let name = mem_pod.name_any();
    let answered = until("the server's output in its log", async || {
        let log = cluster.kubectl(&["logs", &name]);
        log.contains("get k").then_some(log)
    })
    .await;
    assert!(answered.contains("STORED"), "{answered}");
    assert_eq!(cluster.kubectl(&["logs", &name, "--tail=1"]).lines().count(), 1);

    let mut following = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(cluster.sandbox.kubeconfig())
        .args(["-n", "caches", "logs", "-f", "--tail=1", &name])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = following.stdout.take().unwrap();
    output.read_exact(&mut [0]).expect("the log is being followed");

    // A killed process comes back, and meanwhile the pod is not Ready.
    let pid = cluster.pid(&name).unwrap();
    let watching = cluster.client.clone();
    let (killed, watched) = (name.clone(), tokio::sync::oneshot::channel::<()>());
    let (begun, begin) = watched;
    let seen = tokio::spawn(async move {
        use futures::StreamExt;
        let pods = Api::<Pod>::namespaced(watching, "caches");
        let one = kube::runtime::watcher::Config::default().fields(&format!("metadata.name={killed}"));
        let mut pods = std::pin::pin!(kube::runtime::WatchStreamExt::applied_objects(kube::runtime::watcher(
            pods, one
        )));
        let mut begun = Some(begun);
        let mut readiness = Vec::new();
        while let Some(pod) = pods.next().await {
            let now = ready(&pod.unwrap());
            if readiness.last() != Some(&now) {
                readiness.push(now);
            }
            if let Some(begun) = begun.take() {
                begun.send(()).unwrap();
            }
            if readiness == [true, false, true] {
                break;
            }
        }
    });
    begin.await.unwrap();
    rustix::process::kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    tokio::time::timeout(PATIENCE, seen)
        .await
        .expect("readiness goes down and up")
        .unwrap();
    let after = cluster.api::<Pod>().get(&name).await.unwrap();
    let status = container_status(&after).unwrap();
    assert_eq!(status.restart_count, 1);
    assert_eq!(
        status
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        137
    );
    assert_ne!(cluster.pid(&name).unwrap(), pid);
    assert!(cluster.kubectl(&["logs", &name, "--previous"]).contains("get k"));
    output.read_to_end(&mut Vec::new()).unwrap();
    assert!(
        following.wait().unwrap().success(),
        "a followed log ends with its process"
    );

    // A rollout replaces the pod without a gap in the Service.
    let args = json!({"spec": {"template": {"spec": {"containers": [{"name": "memcached", "args": ["-m", "48"]}]}}}});
    let deployments = cluster.api::<Deployment>();
    deployments
        .patch("mem", &PatchParams::default(), &Patch::Strategic(args))
        .await
        .unwrap();
    until("the new pod behind the Service", async || {
        let stats = talk(mem, "stats\r\n", "END\r\n").expect("the Service always answers");
        stats.contains("limit_maxbytes 50331648").then_some(())
    })
    .await;
    until("the old pod to be gone", async || {
        cluster
            .api::<Pod>()
            .get_opt(&name)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;

    // What is deleted ends within its grace and leaves nothing.
    let red_pod = cluster.pods("red").await.remove(0);
    let pid = cluster.pid(&red_pod.name_any()).unwrap();
    assert!(common::is_running(pid));
    let deleted = Instant::now();
    deployments.delete("red", &DeleteParams::default()).await.unwrap();
    until("the pod to be gone", async || {
        cluster.pods("red").await.is_empty().then_some(())
    })
    .await;
    assert!(deleted.elapsed() < Duration::from_secs(30));
    assert!(!common::is_running(pid));
    let folder = cluster
        .sandbox
        .supervisor()
        .dir()
        .join("nodes/sandbox/pods")
        .join(red_pod.uid().unwrap());
    until("its folder to be gone", async || (!folder.exists()).then_some(())).await;
    until("its address to refuse", async || {
        talk(red, "ping\r\n", "\n").is_err().then_some(())
    })
    .await;

    let left: Vec<u32> = cluster.node.processes().iter().map(|one| one.pid).collect();
    assert!(!left.is_empty());
    cluster.node.stop().await;
    assert!(
        !left.iter().any(|pid| common::is_running(*pid)),
        "the node's end is the end of its processes"
    );
    cluster.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_shows_as_on_a_kubelet() {
    let cluster = Cluster::start(Pods::Processes).await;
    let unknown = json!({"name": "c", "image": "nginx:1"});
    let crashing = json!({"name": "c", "image": "redis:7", "command": ["sh", "-c", "echo broken; exit 3"]});
    let secretless = json!({"name": "c", "image": "redis:7",
        "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "later", "key": "p"}}}]});
    let deaf = json!({"name": "c", "image": "redis:7", "command": ["sleep", "1000"],
        "livenessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1}});
    let greedy = json!({"name": "c", "image": "redis:7", "resources": {"limits": {"memory": "1Mi"}}});
    cluster.deploy("unknown", unknown, json!({})).await;
    cluster.deploy("crashing", crashing, json!({})).await;
    cluster.deploy("secretless", secretless, json!({})).await;
    cluster.deploy("deaf", deaf, json!({})).await;
    cluster.deploy("greedy", greedy, json!({})).await;

    for (app, reason, says) in [
        ("unknown", "ImagePullBackOff", "knows only the images"),
        ("crashing", "CrashLoopBackOff", "back-off"),
        ("secretless", "CreateContainerConfigError", "secret \"later\" not found"),
    ] {
        until(&format!("{app} to show {reason}"), async || {
            let pods = cluster.pods(app).await;
            waiting(pods.first()?).filter(|(shown, message)| shown == reason && message.contains(says))
        })
        .await;
    }
    let ended = |pod: &Pod| container_status(pod)?.last_state.clone()?.terminated;
    for (app, code, reason) in [
        ("crashing", 3, "Error"),
        ("greedy", 137, "OOMKilled"),
        ("deaf", 143, "Error"),
    ] {
        until(&format!("{app} to have ended with {code}"), async || {
            let pods = cluster.pods(app).await;
            let status = container_status(pods.first()?)?;
            let last = ended(pods.first()?)?;
            (status.restart_count > 0 && last.exit_code == code && last.reason.as_deref() == Some(reason)).then_some(())
        })
        .await;
    }
    let pod = cluster.pods("crashing").await.remove(0).name_any();
    until("the log of a crash", async || {
        cluster.kubectl(&["logs", &pod]).contains("broken").then_some(())
    })
    .await;
    until("events that tell of it", async || {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let reasons: Vec<_> = events.into_iter().filter_map(|event| event.reason).collect();
        let wanted = ["BackOff", "Failed", "Killing", "Started", "Unhealthy"];
        wanted
            .iter()
            .all(|reason| reasons.iter().any(|one| one == reason))
            .then_some(())
    })
    .await;

    cluster
        .make::<Secret>(json!({"metadata": {"name": "later"}, "stringData": {"p": "x"}}))
        .await;
    cluster.available("secretless").await;
    cluster.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_flip_moves_the_traffic() {
    let cluster = Cluster::start(Pods::Processes).await;
    cluster.deploy("blue", memcached(&["-m", "32"]), json!({})).await;
    cluster.deploy("green", memcached(&["-m", "48"]), json!({})).await;
    let address = cluster.expose("cache", "blue", 11211).await;
    let limit =
        |address| talk(address, "stats\r\n", "END\r\n").is_ok_and(|stats| stats.contains("limit_maxbytes 50331648"));
    cluster.available("blue").await;
    cluster.available("green").await;
    cluster.proxy.wait_for(address, |pods| pods.len() == 1).await;
    assert!(!limit(address));
    let before = cluster.proxy.listeners()[&address].clone();

    let services = cluster.api::<Service>();
    let flip = json!({"spec": {"selector": {"app": "green"}}});
    services
        .patch("cache", &PatchParams::default(), &Patch::Merge(flip))
        .await
        .unwrap();
    cluster
        .proxy
        .wait_for(address, |pods| pods.len() == 1 && pods != before)
        .await;
    assert!(limit(address));

    let more = json!({"spec": {"ports": [{"name": "a", "port": 11211, "targetPort": 11211}, {"name": "b", "port": 7, "targetPort": 11211}]}});
    services
        .patch("cache", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap();
    let second = SocketAddrV4::new(*address.ip(), 7);
    cluster.proxy.wait_for(second, |pods| pods.len() == 1).await;
    assert!(limit(second));

    services.delete("cache", &DeleteParams::default()).await.unwrap();
    cluster.proxy.wait_for(address, <[_]>::is_empty).await;
    until("the address to refuse", async || {
        TcpStream::connect(address).is_err().then_some(())
    })
    .await;
    cluster.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_keeps_its_data_from_pod_to_pod() {
    let cluster = Cluster::start(Pods::Processes).await;
    let claim = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.make::<PersistentVolumeClaim>(claim).await;
    let redis = json!({
        "name": "redis", "image": "valkey/valkey:8", "args": ["--appendonly", "yes", "--appendfsync", "always"],
        "ports": [{"name": "cache", "containerPort": 6379}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"tcpSocket": {"port": "cache"}, "periodSeconds": 1},
    });
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    cluster.deploy("red", redis, json!({"volumes": volumes})).await;
    let address = cluster.expose("red", "red", 6379).await;
    cluster.available("red").await;
    cluster.proxy.wait_for(address, |pods| pods.len() == 1).await;
    let before = cluster.proxy.listeners()[&address].clone();
    assert_eq!(talk(address, "set k v\r\n", "\r\n").unwrap(), "+OK\r\n");

    let pod = cluster.pods("red").await.remove(0).name_any();
    cluster
        .api::<Pod>()
        .delete(&pod, &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .proxy
        .wait_for(address, |pods| pods.len() == 1 && pods != before)
        .await;
    assert_eq!(talk(address, "get k\r\n", "v\r\n").unwrap(), "$1\r\nv\r\n");

    cluster
        .api::<Deployment>()
        .delete("red", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .api::<PersistentVolumeClaim>()
        .delete("data", &DeleteParams::default())
        .await
        .unwrap();
    let folder = cluster
        .sandbox
        .supervisor()
        .dir()
        .join("nodes/sandbox/claims/caches/data");
    until("the claim's data to go with it", async || {
        (!folder.exists()).then_some(())
    })
    .await;
    cluster.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outlives_its_api_server_but_not_its_owner() {
    let cluster = Cluster::start(Pods::Processes).await;
    cluster.deploy("mem", memcached(&[]), json!({})).await;
    let address = cluster.expose("mem", "mem", 11211).await;
    cluster.available("mem").await;
    cluster.proxy.wait_for(address, |pods| pods.len() == 1).await;
    let pod = cluster.pods("mem").await.remove(0).name_any();
    let pid = cluster.pid(&pod).unwrap();

    let control_plane = cluster.sandbox.control_plane().unwrap();
    control_plane.stop_api_server().await.unwrap();
    assert!(
        talk(address, "version\r\n", "\r\n").unwrap().starts_with("VERSION"),
        "nothing stops for it"
    );
    rustix::process::kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    common::wait_for("the process to be dead", || (!common::is_running(pid)).then_some(()));
    control_plane.start_api_server().await.unwrap();
    until("the status to tell of it", async || {
        let pod = cluster.api::<Pod>().get(&pod).await.ok()?;
        (container_status(&pod)?.restart_count == 1 && ready(&pod)).then_some(())
    })
    .await;
    until("the Service to answer", async || {
        talk(address, "version\r\n", "\r\n")
            .ok()
            .filter(|said| !said.is_empty())
    })
    .await;

    let pid = cluster.pid(&pod).unwrap();
    drop(cluster.node);
    common::wait_for("the process to end with its node", || {
        (!common::is_running(pid)).then_some(())
    });
    drop(cluster.proxy);
    common::wait_for("the listener to end with its proxy", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    cluster.sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_pods_come_and_go_in_numbers() {
    let cluster = Cluster::start(Pods::simulated()).await;
    cluster.deploy("many", memcached(&[]), json!({})).await;
    let scale = |replicas: i32| {
        let deployments = cluster.api::<Deployment>();
        async move {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            deployments
                .patch("many", &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    };
    scale(200).await;
    until("200 pods to be available", async || {
        let status = cluster.api::<Deployment>().get("many").await.unwrap().status?;
        (status.available_replicas == Some(200)).then_some(())
    })
    .await;
    assert!(cluster.node.processes().is_empty());
    scale(0).await;
    until("them to be gone", async || {
        cluster.pods("many").await.is_empty().then_some(())
    })
    .await;
    cluster.sandbox.stop().await;
}
