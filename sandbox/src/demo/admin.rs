//! An administrator: `kubectl` and YAML.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::caches;
use super::kubectl::Kubectl;
use super::report::{Failure, Report};

/// What `examples/instance.yaml` makes.
const NAMESPACE: &str = "memcached-system";
const SECRET: &str = "example-connection";

const EXAMPLES: &str = "-f examples/plan.yaml -f examples/instance.yaml";

/// Applies what a broker needs in a cluster, and returns how many plans there are.
pub(super) async fn install(kubectl: &Kubectl) -> Result<usize, String> {
    kubectl.run("apply --server-side -k crds").await?;
    kubectl
        .run("wait --for=condition=Established -f crds/cacheplans.cache.akkeris.io.yaml -f crds/cacheinstances.cache.akkeris.io.yaml --timeout=60s")
        .await?;
    kubectl.run("apply -f deploy/base/namespaces.yaml").await?;
    let plans = kubectl.run("apply --server-side -k deploy/plans").await?;
    Ok(plans.lines().count())
}

/// Orders the example, waits for it, shows it, and uses it with what its Secret says.
pub(super) async fn order(report: &Report, kubectl: &Kubectl) -> Result<(), Failure> {
    report
        .step(&format!("kubectl apply {EXAMPLES}"), async {
            kubectl.run(&format!("apply {EXAMPLES}")).await?;
            Ok(((), String::new()))
        })
        .await?;
    report
        .step("kubectl wait --for=condition=Ready -f examples/instance.yaml", async {
            kubectl
                .run("wait --for=condition=Ready -f examples/instance.yaml --timeout=60s")
                .await?;
            Ok(((), String::new()))
        })
        .await?;
    let get = format!("get cplan,cinst -n {NAMESPACE}");
    let table = report
        .step(&format!("kubectl {get}"), async {
            Ok((kubectl.run(&get).await?, String::new()))
        })
        .await?;
    report.quote(&table);
    let address = report
        .step(&format!("read the Secret {SECRET}"), async {
            let secret = kubectl.json(&format!("get secret {SECRET} -n {NAMESPACE}")).await?;
            let data = secret.get("data").and_then(Value::as_object).ok_or("it has no data")?;
            let address = data
                .get("MEMCACHED_URL")
                .and_then(Value::as_str)
                .and_then(|value| BASE64_STANDARD.decode(value).ok())
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or("it has no MEMCACHED_URL")?;
            Ok((
                address,
                format!("MEMCACHED_URL and {} more", data.len().saturating_sub(1)),
            ))
        })
        .await?;
    report
        .step("set and get a key at its MEMCACHED_URL", async {
            Ok(((), caches::memcached(&address).await?))
        })
        .await
}

/// Deletes the example, and waits until it is gone.
pub(super) async fn give_back(report: &Report, kubectl: &Kubectl) -> Result<(), Failure> {
    for file in ["examples/instance.yaml", "examples/plan.yaml"] {
        report
            .step(&format!("kubectl delete -f {file}"), async {
                kubectl.run(&format!("delete -f {file} --timeout=60s")).await?;
                Ok(((), String::new()))
            })
            .await?;
    }
    Ok(())
}
