//! The broker installed by helm, its Pods run by the sandbox's node: the same program, arguments, variables, files, probes and
//! service accounts that the chart gives it on any cluster. What the manual says is what installs it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use sandbox::{Sandbox, node};
use tempfile::TempDir;
use tokio::process::Command;

use crate::manual::{Block, blocks};
use crate::{BROKER, PATIENCE, PROJECT, eventually, helm_folder, kubectl, rights, run};

/// Where the broker's platform reaches it, which takes no right to low ports.
const PORT: u16 = 8443;

/// A cluster, and a folder to type in.
struct Desk {
    sandbox: Sandbox,
    folder: TempDir,
}

impl Desk {
    async fn new() -> Self {
        let options = node::Options {
            broker: Some(BROKER.into()),
            ..node::Options::default()
        };
        let sandbox = Sandbox::builder().node(options).start().await.unwrap();
        let others = helm_folder().join("crds");
        kubectl(&sandbox, &["apply", "--server-side", "-f", others.to_str().unwrap()]).await;
        let folder = tempfile::tempdir().unwrap();
        for name in ["helm", "deploy", "crds", "examples"] {
            symlink(Path::new(PROJECT).join(name), folder.path().join(name)).unwrap();
        }
        let variables: std::collections::BTreeMap<_, _> = sandbox.environment().into_iter().collect();
        let variable = |name: &str| variables[name].clone();
        let values = serde_json::json!({
            "service": { "port": PORT },
            "aws": {
                "region": variable("AWS_REGION"),
                "securityGroup": variable("ELASTICACHE_SECURITY_GROUP"),
                "redisSubnetGroup": variable("REDIS_SUBNET_GROUP"),
                "memcachedSubnetGroup": variable("MEMCACHED_SUBNET_GROUP"),
            },
            "plans": { "elasticache": true },
            "metrics": { "serviceMonitor": { "enabled": true }, "prometheusRule": { "enabled": true } },
            "settings": {
                // The sandbox has no DNS of Services, and an ElastiCache of its own.
                "SERVICE_HOST": "cluster-ip",
                "AWS_ENDPOINT_URL_ELASTICACHE": variable("AWS_ENDPOINT_URL_ELASTICACHE"),
                "AWS_ACCESS_KEY_ID": variable("AWS_ACCESS_KEY_ID"),
                "AWS_SECRET_ACCESS_KEY": variable("AWS_SECRET_ACCESS_KEY"),
                "AWS_CALLS_PER_SECOND": 100,
                "ELASTICACHE_POLL_MS": 200,
                "DATABASE_CONNECTIONS": 4,
            },
        });
        // JSON is YAML.
        fs::write(folder.path().join("values.yaml"), values.to_string()).unwrap();
        Self { sandbox, folder }
    }

    fn shell(&self, script: &str) -> Command {
        let path = format!("{}:{}", helm_folder().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .env("KUBECONFIG", self.sandbox.kubeconfig())
            .env("DATABASE_URL", self.sandbox.postgres().database_url("cache_broker"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Types a block of the manual.
    async fn types(&self, block: &Block) {
        self.runs(&block.place, self.shell(&block.text)).await;
    }

    async fn runs(&self, what: &str, mut command: Command) -> String {
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{what}: not done in time")).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let pods = self
                .kubectl(&["get", "pods,jobs,events", "-n", "cache-broker-system"])
                .await;
            panic!("{what}: {said}\n{pods}\n{}", self.logs().await);
        }
        said
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.sandbox, arguments).await
    }

    /// Waits until the instance of the example is ready.
    async fn example_is_ready(&self) {
        let arguments = [
            "wait",
            "--for=condition=Ready",
            "-n",
            "memcached-system",
            "cinst/example",
            "--timeout=120s",
        ];
        self.kubectl(&arguments).await;
    }

    /// The logs of every Pod of the broker.
    async fn logs(&self) -> String {
        let mut logs = String::new();
        let names = self
            .kubectl(&["get", "pods", "-n", "cache-broker-system", "-o", "name"])
            .await;
        for name in names.lines() {
            let arguments = ["logs", "-n", "cache-broker-system", name];
            logs += &run(&self.sandbox, "kubectl", &arguments)
                .await
                .unwrap_or_else(|error| error);
        }
        logs
    }

    /// A key of a Secret.
    async fn secret(&self, namespace: &str, name: &str, key: &str) -> String {
        let template = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
        self.kubectl(&["get", "secret", name, "-n", namespace, "-o", &template])
            .await
    }

    /// Plays a platform, by the example that the project ships: order, bind, unbind, give back. Returns what it said.
    async fn order(&self, service: &str, plan: &str) -> String {
        let address = [
            "get",
            "service",
            "cache-broker",
            "-n",
            "cache-broker-system",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ];
        let host = "cache-broker.cache-broker-system.svc";
        let address = self.kubectl(&address).await;
        let credentials = self
            .secret("cache-broker-system", "cache-broker-osb", "credentials")
            .await;
        let (user, password) = credentials.lines().next().unwrap().split_once(':').unwrap();
        // The certificate is for the Service's name.
        fs::write(
            self.folder.path().join(".curlrc"),
            format!("resolve = {host}:{PORT}:{address}\n"),
        )
        .unwrap();
        let mut command = self.shell("exec examples/osb.sh");
        command
            .env("CURL_HOME", self.folder.path())
            .env("BROKER_URL", format!("https://{host}:{PORT}"))
            .env("BROKER_USER", user)
            .env("BROKER_PASSWORD", password)
            .env("BROKER_CA", self.folder.path().join("tls.crt"))
            .env("SERVICE", service)
            .env("PLAN", plan)
            .env("POLL_SECONDS", "0.2")
            .env("TIMEOUT", "120");
        self.runs(&format!("examples/osb.sh {plan}"), command).await
    }

    /// The metrics of a Pod.
    async fn metrics(&self, pod: &str) -> String {
        let address = [
            "get",
            "pod",
            pod,
            "-n",
            "cache-broker-system",
            "-o",
            "jsonpath={.status.podIP}",
        ];
        let address = self.kubectl(&address).await;
        self.runs(
            "metrics",
            self.shell(&format!("curl -sSf http://{address}:8081/metrics")),
        )
        .await
    }

    async fn pods(&self, component: &str) -> Vec<String> {
        let label = format!("app.kubernetes.io/component={component}");
        let path = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
        let names = self
            .kubectl(&["get", "pods", "-n", "cache-broker-system", "-l", &label, "-o", path])
            .await;
        names.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_manual_says_installs_it_and_keeps_it_running() {
    let desk = Desk::new().await;
    let mut manual = blocks("docs/OPERATIONS.md").into_iter().filter(|block| block.is_run);
    let installs: Vec<_> = manual.by_ref().take(2).collect();
    for block in &installs {
        desk.types(block).await;
    }
    // Installed: helm's test has asked for the catalog over TLS.
    rights::are_the_least(&desk.sandbox).await;
    let told = [
        desk.order("akkeris-memcached", "hobby-dev").await,
        desk.order("akkeris-redis", "hobby-dev").await,
    ];
    its_metrics_tell_of_it(&desk).await;
    a_plan_in_use_survives_a_prune(&desk).await;
    checks_say_what_is_wrong(&desk).await;
    let before = desk.logs().await;
    for block in manual {
        desk.types(&block).await;
    }
    desk.types(blocks("deploy/README.md").last().unwrap()).await;
    // It does its work after all of that.
    let again = desk.order("akkeris-memcached", "hobby-dev").await;
    nothing_secret_is_told(&desk, &[before, desk.logs().await], &[&told[..], &[again]].concat()).await;
    desk.sandbox.stop().await;
}

async fn its_metrics_tell_of_it(desk: &Desk) {
    let value = |text: &str, series: &str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    let mut leaders = 0.0;
    for pod in desk.pods("operator").await {
        let text = desk.metrics(&pod).await;
        let leads = value(&text, "cache_broker_leader");
        leaders += leads;
        assert!(text.trim_end().ends_with("# EOF"), "{text}");
        if leads > 0.0 {
            assert!(
                value(
                    &text,
                    "cache_broker_operations_total{kind=\"provision\",outcome=\"succeeded\"}"
                ) >= 1.0
            );
            assert!(
                value(
                    &text,
                    "cache_broker_reconciles_total{kind=\"CacheInstance\",outcome=\"done\"}"
                ) >= 2.0
            );
            assert!(
                text.contains("cache_broker_aws_calls_total{operation=\"DescribeReplicationGroups\",outcome=\"ok\"}"),
                "{text}"
            );
        }
        assert_eq!(value(&text, "cache_broker_ready{part=\"operator\"}"), 1.0);
    }
    assert_eq!(leaders, 1.0);
    let (mut orders, mut binds) = (0.0, 0.0);
    for pod in desk.pods("api").await {
        let text = desk.metrics(&pod).await;
        assert!(value(&text, "cache_broker_database_connections_max") == 4.0);
        let of = |route: &str| {
            let lines = text
                .lines()
                .filter(|line| line.starts_with("cache_broker_osb_requests_total{"));
            let lines = lines.filter(|line| line.contains(&format!("route=\"{route}\"")) && line.contains("code=\"20"));
            lines
                .filter(|line| line.contains("hobby-dev"))
                .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
                .sum::<f64>()
        };
        orders += of("provision");
        binds += of("bind");
    }
    assert_eq!((orders, binds), (2.0, 2.0));
}

/// A GitOps pipeline prunes what is no longer in its folder.
async fn a_plan_in_use_survives_a_prune(desk: &Desk) {
    let folder = desk.folder.path().join("gitops");
    fs::create_dir(&folder).unwrap();
    let copy = |name: &str| {
        let text = fs::read_to_string(format!("{PROJECT}/examples/{name}")).unwrap();
        fs::write(
            folder.join(name),
            text.replace("metadata:\n", "metadata:\n  labels: {pipeline: caches}\n"),
        )
        .unwrap();
    };
    copy("plan.yaml");
    copy("instance.yaml");
    let sync = async || {
        let arguments = [
            "apply",
            "-f",
            folder.to_str().unwrap(),
            "--prune",
            "-l",
            "pipeline=caches",
            "--prune-allowlist=cache.akkeris.io/v1alpha1/CachePlan",
            "--prune-allowlist=cache.akkeris.io/v1alpha1/CacheInstance",
        ];
        run(&desk.sandbox, "kubectl", &arguments).await
    };
    sync().await.unwrap();
    desk.example_is_ready().await;
    let used = async || {
        let count = desk
            .kubectl(&[
                "get",
                "cplan",
                "example-memcached",
                "-o",
                "jsonpath={.status.instances}",
            ])
            .await;
        (count == "1").then_some(())
    };
    eventually("the count of the plan's instances", used).await;
    moves_to_another_revision(desk, &folder, &sync).await;
    fs::remove_file(folder.join("plan.yaml")).unwrap();
    let refusal = sync().await.expect_err("a plan in use was pruned");
    assert!(
        refusal.contains("plan example-memcached is in use (instances: 1)"),
        "{refusal}"
    );
    assert!(refusal.contains("deprecated"), "it does not say what to do: {refusal}");
    // Nothing was lost: it is not even marked for deletion, and the next sync has it again.
    let marked = [
        "get",
        "cplan",
        "example-memcached",
        "-o",
        "jsonpath={.metadata.deletionTimestamp}",
    ];
    assert_eq!(desk.kubectl(&marked).await, "");
    copy("plan.yaml");
    sync().await.unwrap();
    desk.example_is_ready().await;
    // All of it is pruned once the instance goes too.
    fs::remove_file(folder.join("plan.yaml")).unwrap();
    fs::remove_file(folder.join("instance.yaml")).unwrap();
    fs::write(
        folder.join("empty.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: empty, namespace: memcached-system, labels: {pipeline: caches}}\n",
    )
    .unwrap();
    eventually("the prune of instance and plan", async || {
        let _ = sync().await;
        let left = desk
            .kubectl(&["get", "cplan,cinst", "-A", "-l", "pipeline=caches", "-o", "name"])
            .await;
        left.is_empty().then_some(())
    })
    .await;
}

/// Edits the plan, and moves its instance as docs/PLANS.md says.
async fn moves_to_another_revision(desk: &Desk, folder: &Path, sync: impl AsyncFn() -> Result<String, String>) {
    let plan = folder.join("plan.yaml");
    let text = fs::read_to_string(&plan).unwrap();
    fs::write(&plan, text.replace("displayName: Example", "displayName: Another")).unwrap();
    sync().await.unwrap();
    let stands = async |kind: &str, name: &str, path: &str, wanted: &str| {
        let path = format!("jsonpath={{{path}}}");
        let get = ["get", kind, name, "-n", "memcached-system", "-o", &path];
        eventually(&format!("{path} of {name}"), async || {
            (desk.kubectl(&get).await == wanted).then_some(())
        })
        .await;
    };
    stands("cplan", "example-memcached", ".status.revision", "2").await;
    stands("cinst", "example", ".status.plan.revision", "1").await;
    for block in blocks("docs/PLANS.md") {
        desk.types(&block).await;
    }
    stands("cinst", "example", ".status.plan.revision", "2").await;
    desk.example_is_ready().await;
}

/// `cache-broker check`, as the service account of the operator and as somebody without rights.
async fn checks_say_what_is_wrong(desk: &Desk) {
    let control_plane = desk.sandbox.control_plane().unwrap();
    let operator = control_plane
        .service_account_kubeconfig("cache-broker-system", "cache-broker-operator")
        .await
        .unwrap();
    let nobody = control_plane
        .service_account_kubeconfig("cache-broker-system", "default")
        .await
        .unwrap();
    let keys = desk.folder.path().join("check.keys");
    fs::write(
        &keys,
        desk.secret("cache-broker-system", "cache-broker-ledger", "keys").await,
    )
    .unwrap();
    let check = async |kubeconfig: &Path, variables: &[(&str, &str)]| {
        let mut command = Command::new(BROKER);
        command
            .arg("check")
            .envs(desk.sandbox.environment())
            .env("KUBECONFIG", kubeconfig)
            .env("ROLE", "operator")
            .env("LEDGER_KEYS_FILE", &keys)
            .envs(variables.iter().copied())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, good) = check(&operator, &[]).await;
    assert_eq!(code, Some(0), "{good}");
    for part in [
        "settings: complete",
        "cluster: Kubernetes v1.",
        "definitions: all",
        "rights: all",
        "database: PostgreSQL",
        "aws: ElastiCache in us-west-2 answers",
        "REDIS_SUBNET_GROUP redis-subnets is in vpc-",
    ] {
        assert!(good.contains(part), "no {part:?} in {good}");
    }
    let (code, bad) = check(
        &nobody,
        &[
            ("REDIS_SUBNET_GROUP", "elsewhere"),
            ("ELASTICACHE_SECURITY_GROUP", "caches"),
            ("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:9/d?sslmode=disable"),
        ],
    )
    .await;
    assert_eq!(code, Some(1), "{bad}");
    for part in [
        "FAILED  rights: create secrets in redis-system",
        "FAILED  aws: REDIS_SUBNET_GROUP: there is no subnet group elsewhere",
        "is no id of a group",
        "FAILED  database: ",
    ] {
        assert!(bad.contains(part), "no {part:?} in {bad}");
    }
    assert!(!bad.contains("hunter2"), "{bad}");
    let (_, incomplete) = check(&operator, &[("NAME_PREFIX", "a--b")]).await;
    assert!(incomplete.is_empty() || incomplete.contains("FAILED"), "{incomplete}");
}

/// Everything secret that was used, looked for wherever it must not be.
async fn nothing_secret_is_told(desk: &Desk, logs: &[String], orders: &[String]) {
    let mut secrets = BTreeSet::new();
    for (name, key) in [("cache-broker-osb", "credentials"), ("cache-broker-ledger", "keys")] {
        for line in desk.secret("cache-broker-system", name, key).await.lines() {
            secrets.insert(line.split_once(':').unwrap().1.to_owned());
        }
    }
    let url = desk.sandbox.postgres().database_url("cache_broker");
    let password = url
        .split_once("://")
        .unwrap()
        .1
        .split_once('@')
        .unwrap()
        .0
        .split_once(':')
        .map(|(_, password)| password);
    secrets.extend(password.map(str::to_owned));
    // What the platforms were given.
    for order in orders {
        for name in ["password", "REDIS_URL"] {
            let found = order
                .lines()
                .filter_map(|line| line.trim().strip_prefix(&format!("\"{name}\": \"")));
            secrets.extend(found.map(|rest| rest.trim_end_matches(['"', ',']).to_owned()));
        }
    }
    let secrets: Vec<_> = secrets.into_iter().filter(|secret| secret.len() >= 8).collect();
    assert!(secrets.len() >= 5, "{} secrets", secrets.len());
    let mut places = vec![("logs", logs.concat())];
    for kinds in [
        "events",
        "cacheinstances,cacheplans,cachebackups",
        "deployments,services,configmaps,networkpolicies,leases,controllerrevisions",
    ] {
        places.push((kinds, desk.kubectl(&["get", kinds, "-A", "-o", "json"]).await));
    }
    places.push((
        "the database",
        desk.runs("pg_dump", desk.shell("pg_dump \"$DATABASE_URL\"")).await,
    ));
    for pod in [desk.pods("api").await, desk.pods("operator").await].concat() {
        places.push(("metrics", desk.metrics(&pod).await));
    }
    for (place, text) in places {
        assert!(!text.is_empty(), "{place}");
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "a secret of {} characters stands in {place}",
                secret.len()
            );
        }
    }
}
