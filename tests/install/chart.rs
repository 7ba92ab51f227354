//! The chart, rendered for several sets of values and judged by the API server itself.

use std::fs;

use sandbox::Sandbox;

use crate::{PROJECT, helm, helm_folder, kubectl, run, said};

/// Sets of values, and kinds that each must have made.
const SETS: [(&str, &[&str], &[&str]); 8] = [
    ("as it stands", &[], &["Deployment", "PodDisruptionBudget", "Job"]),
    (
        "everything at once",
        &[
            "aws.region=eu-west-1",
            "aws.securityGroup=sg-0123456789abcdef0",
            "aws.redisSubnetGroup=caches",
            "aws.memcachedSubnetGroup=caches",
            "api.autoscaling.enabled=true",
            "metrics.serviceMonitor.enabled=true",
            "metrics.prometheusRule.enabled=true",
            "metrics.dashboard.enabled=true",
            "metrics.serviceMonitor.labels.release=monitoring",
            "networkPolicy.enabled=true",
            "networkPolicy.apiFrom[0].namespaceSelector.matchLabels.name=platform",
            "tls.certManager.enabled=true",
            "tls.certManager.issuerRef.name=issuer",
            "tls.certManager.dnsNames[0]=caches.example.com",
            "plans.kubernetes=true",
            "plans.elasticache=true",
            "migrate.hook=true",
            "tokenReview=true",
            "imagePullSecrets[0].name=registry",
            "operator.serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=arn:aws:iam::123456789012:role/caches",
        ],
        &[
            "Certificate",
            "ServiceMonitor",
            "PrometheusRule",
            "NetworkPolicy",
            "HorizontalPodAutoscaler",
            "CachePlan",
        ],
    ),
    (
        "every namespace watched, without TLS of its own",
        &["watchNamespaces={*}", "tls.enabled=false", "service.port=80"],
        &["ClusterRoleBinding"],
    ),
    (
        "Secrets made by the chart",
        &[
            "secrets.create=true",
            "secrets.values.databaseUrl=postgres://u:p@h/d",
            "secrets.values.credentials=platform:word",
            "secrets.values.ledgerKeys=k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ],
        &["Secret"],
    ),
    (
        "platforms with certificates",
        &[
            "tls.clientCertificates.secret=platforms",
            "tls.clientCertificates.names={platform.example.com,ops@example.com}",
            "tls.clientCertificates.revocations=true",
        ],
        &["Deployment"],
    ),
    (
        "a namespace more, accounts that exist",
        &[
            "watchNamespaces={memcached-system,redis-system,team-a}",
            "api.serviceAccount.create=false",
            "api.serviceAccount.name=theirs",
            "operator.serviceAccount.create=false",
            "operator.serviceAccount.name=theirs",
            "api.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
            "api.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
            "operator.tolerations[0].operator=Exists",
            "operator.nodeSelector.disk=ssd",
            "operator.priorityClassName=system-cluster-critical",
        ],
        &["RoleBinding"],
    ),
    (
        "as little as can be",
        &[
            "crds.upgrade=false",
            "cluster.install=false",
            "createNamespaces=false",
            "kubernetes.enabled=false",
            "api.podDisruptionBudget.enabled=false",
            "operator.podDisruptionBudget.enabled=false",
            "api.replicas=1",
            "operator.replicas=1",
        ],
        &["Deployment"],
    ),
    (
        "settings by name",
        &[
            "settings.RETRY_WEBHOOKS=true",
            "settings.OSB_RATE=50",
            "settings.LOG_FORMAT=text",
            "image.tag=1.2.3",
        ],
        &["ConfigMap"],
    ),
];

fn set(values: &[&str]) -> Vec<String> {
    values
        .iter()
        .flat_map(|value| ["--set".to_owned(), (*value).to_owned()])
        .collect()
}

fn render(values: &[&str]) -> Result<String, String> {
    let chart = format!("{PROJECT}/helm");
    let values = set(values);
    let mut arguments = vec![
        "template",
        "cache-broker",
        chart.as_str(),
        "--namespace",
        "cache-broker-system",
    ];
    arguments.extend(values.iter().map(String::as_str));
    let output = helm(&arguments);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(said(&output))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rendering_is_taken_strictly_by_the_api_server() {
    let sandbox = Sandbox::start_bare().await.unwrap();
    let folder = helm_folder();
    let others = folder.join("crds");
    let ours = format!("{PROJECT}/crds");
    kubectl(&sandbox, &["apply", "--server-side", "-k", &ours]).await;
    kubectl(&sandbox, &["apply", "--server-side", "-f", others.to_str().unwrap()]).await;
    kubectl(
        &sandbox,
        &["wait", "--for=condition=Established", "crd", "--all", "--timeout=90s"],
    )
    .await;
    for namespace in ["cache-broker-system", "memcached-system", "redis-system", "team-a"] {
        kubectl(&sandbox, &["create", "namespace", namespace]).await;
    }
    let files = tempfile::tempdir().unwrap();
    let judge = async |what: &str, text: &str| {
        let path = files.path().join("rendered.yaml");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let judged = run(
            &sandbox,
            "kubectl",
            &["apply", "--dry-run=server", "--validate=strict", "-f", path],
        )
        .await;
        judged.unwrap_or_else(|error| panic!("{what}: {error}"))
    };
    for (what, values, kinds) in SETS {
        let text = render(values).unwrap_or_else(|error| panic!("{what}: {error}"));
        for kind in kinds {
            assert!(text.contains(&format!("\nkind: {kind}\n")), "{what}: no {kind}");
        }
        let judged = judge(what, &text).await;
        assert_eq!(
            judged.lines().count(),
            text.matches("\nkind: ").count(),
            "{what}: {judged}"
        );
    }
    for overlay in ["overlays/in-cluster", "overlays/aws"] {
        let text = kubectl(&sandbox, &["kustomize", &format!("{PROJECT}/deploy/{overlay}")]).await;
        judge(overlay, &text).await;
    }
    // All components together.
    let everything = files.path().join("all");
    fs::create_dir(&everything).unwrap();
    let project = way(&everything, PROJECT);
    let list = [
        "cert-manager",
        "client-certificates",
        "monitoring",
        "network-policy",
        "token-review",
    ];
    let components: String = list
        .iter()
        .map(|name| format!("  - {project}/deploy/components/{name}\n"))
        .collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - {project}/deploy/overlays/in-cluster\ncomponents:\n{components}"
    );
    fs::write(everything.join("kustomization.yaml"), text).unwrap();
    let text = kubectl(&sandbox, &["kustomize", everything.to_str().unwrap()]).await;
    judge("all components", &text).await;
    kubectl(
        &sandbox,
        &["delete", "namespace", "cache-broker-system", "--timeout=120s"],
    )
    .await;
    crate::typed::first_steps(&sandbox).await;
    sandbox.stop().await;
}

/// A way from one absolute folder to another.
fn way(from: &std::path::Path, to: &str) -> String {
    let from = from.canonicalize().unwrap();
    let up = from.components().count() - 1;
    let to = std::path::Path::new(to).canonicalize().unwrap();
    format!("{}{}", "../".repeat(up), to.to_str().unwrap().trim_start_matches('/'))
}

#[test]
fn values_that_cannot_work_are_refused_with_their_name() {
    for (values, complaint) in [
        (&["namePrefix=1a"][..], "namePrefix"),
        (&["namePrefix=a--b"], "namePrefix"),
        (
            &["watchNamespaces={memcached-system}"],
            "watchNamespaces lacks redis-system",
        ),
        (&["api.replicas=-1"], "replicas"),
        (&["operator.autoscaling.enabled=true"], "operator"),
        (&["servce.port=1"], "servce"),
        (&["settings.lower=1"], "lower"),
        (&["tls.certManager.enabled=true"], "issuerRef"),
        (&["secrets.create=true"], "databaseUrl"),
        (&["api.serviceAccount.create=false"], "serviceAccount"),
        (&["aws.region=mars"], "region"),
        (&["image.repository="], "repository"),
        (
            &["tls.clientCertificates.secret=platforms", "tls.enabled=false"],
            "tls.clientCertificates takes tls.enabled",
        ),
        (&["tls.clientCertificates.names[0]=a\\,b"], "names"),
    ] {
        let error = render(values).err().unwrap_or_else(|| panic!("{values:?} is taken"));
        assert!(error.contains(complaint), "{values:?}: {error}");
    }
}

#[test]
fn client_certificates_are_settings_of_the_api_alone_and_what_the_component_sets() {
    let values = [
        "tls.clientCertificates.secret=cache-broker-clients",
        "tls.clientCertificates.names={platform.example.com,ops@example.com}",
        "tls.clientCertificates.revocations=true",
    ];
    let text = render(&values).unwrap();
    for line in [
        "value: /etc/cache-broker/clients/ca.crt",
        "value: /etc/cache-broker/clients/crl.pem",
        "value: \"platform.example.com,ops@example.com\"",
        "secretName: cache-broker-clients",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}");
    }
    let component = fs::read_to_string(format!("{PROJECT}/deploy/components/client-certificates/api.yaml")).unwrap();
    for line in component
        .lines()
        .filter(|line| line.contains(": ") && line.contains("clients"))
    {
        assert!(text.contains(line.trim()), "the chart says nothing of {line}");
    }
}

#[test]
fn the_chart_carries_every_definition_and_lints() {
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(format!("{PROJECT}/{folder}"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "kustomization.yaml")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("helm/crds"), names("crds"));
    let output = helm(&["lint", "--strict", &format!("{PROJECT}/helm")]);
    assert!(output.status.success(), "{}", said(&output));
}
