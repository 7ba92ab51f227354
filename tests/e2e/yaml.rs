//! An admin with kubectl, and the files of the project as they stand.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::caches::use_memcached;
use crate::cluster::Place;
use crate::world::{PROJECT, World, eventually, kubectl_command, shared};

fn example(name: &str) -> String {
    format!("{PROJECT}/examples/{name}")
}

/// The lines of a table, each a list of its cells.
fn table(text: &str) -> Vec<Vec<String>> {
    let line = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_is_ordered_shown_used_and_deleted() {
    let world = shared().await;
    let (plan, instance) = (example("plan.yaml"), example("instance.yaml"));
    world.kubectl(&["apply", "-f", &plan, "-f", &instance]).await;
    let here = ["-n", "memcached-system"];
    let kubectl = async |arguments: &[&str]| world.kubectl(&[&here[..], arguments].concat()).await;
    kubectl(&["wait", "--for=condition=Ready", "cinst/example", "--timeout=90s"]).await;

    let address = kubectl(&["get", "cinst", "example", "-o", "jsonpath={.status.endpoint.address}"]).await;
    let instances = table(&kubectl(&["get", "cinst", "example"]).await);
    assert_eq!(
        instances[0],
        ["NAME", "PLAN", "ENGINE", "VERSION", "STATUS", "ENDPOINT", "AGE"]
    );
    assert_eq!(
        instances[1][..6],
        [
            "example",
            "example-memcached",
            "memcached",
            "1.6.45",
            "Available",
            &address
        ]
    );
    let wide = table(&kubectl(&["get", "cinst", "example", "-o", "wide"]).await);
    assert_eq!(wide[0][7..], ["PROVIDER-ID", "OWNER"]);
    assert_eq!(wide[1][8], "example-org");
    let plans = table(&kubectl(&["get", "cplan", "example-memcached"]).await);
    assert_eq!(
        plans[0],
        [
            "NAME",
            "SERVICE",
            "ENGINE",
            "VERSION",
            "STATE",
            "REVISION",
            "INSTANCES",
            "READY",
            "AGE"
        ]
    );
    eventually("the count of the plan's instances", async || {
        let plans = table(&kubectl(&["get", "cplan", "example-memcached"]).await);
        let shown = [
            "example-memcached",
            "akkeris-memcached",
            "memcached",
            "1.6.45",
            "ga",
            "1",
            "1",
            "True",
        ];
        (plans[1][..8] == shown).then_some(())
    })
    .await;

    let generation = kubectl(&["get", "cinst", "example", "-o", "jsonpath={.metadata.generation}"]).await;
    let path = "jsonpath={range .status.conditions[*]}{.type}={.status} {.observedGeneration} {.reason}{\"\\n\"}{end}";
    let conditions = kubectl(&["get", "cinst", "example", "-o", path]).await;
    let lines: BTreeSet<_> = conditions.lines().collect();
    let expected = [
        ("Ready=True", "Available"),
        ("Reconciling=False", "Available"),
        ("Stalled=False", "Available"),
        ("UpdateAvailable=False", "UpToDate"),
    ]
    .map(|(condition, reason)| format!("{condition} {generation} {reason}"));
    assert_eq!(lines, expected.iter().map(String::as_str).collect());

    let selector = "--field-selector=involvedObject.kind=CacheInstance,involvedObject.name=example";
    let events = kubectl(&["get", "events", selector, "-o", "jsonpath={.items[*].reason}"]).await;
    let reasons: BTreeSet<_> = events.split_whitespace().collect();
    assert!(
        reasons.is_superset(&BTreeSet::from(["Creating", "Available"])),
        "{events}"
    );

    let secret = kubectl(&["get", "cinst", "example", "-o", "jsonpath={.status.binding.name}"]).await;
    assert_eq!(secret, "example-connection");
    let template = "go-template={{range $key, $value := .data}}{{$key}}={{$value | base64decode}}\n{{end}}";
    let data = kubectl(&["get", "secret", &secret, "-o", template]).await;
    let (host, port) = address.rsplit_once(':').unwrap();
    let expected = format!(
        "MEMCACHED_URL={address}\nhost={host}\nnodes={address}\nport={port}\nprovider=kubernetes\ntls=false\ntype=memcached\nuri=memcached://{address}\n"
    );
    assert_eq!(data, expected);
    use_memcached(&address).await;

    kubectl(&["delete", "-f", &instance, "--timeout=90s"]).await;
    world
        .until_nothing_is_left(&Place::new("memcached-system", "example"), None)
        .await;
    eventually("the deletion of the plan", async || {
        let output = kubectl_command(&world.sandbox).args(["delete", "-f", &plan]).output();
        output.await.unwrap().status.success().then_some(())
    })
    .await;
}

/// The documents of a YAML text that are ours.
fn documents(text: &str) -> Vec<String> {
    let ours = |document: &&str| {
        document
            .lines()
            .any(|line| line == "apiVersion: cache.akkeris.io/v1alpha1")
    };
    text.split("\n---\n").filter(ours).map(str::to_owned).collect()
}

/// The YAML in a Markdown text.
fn blocks(markdown: &str) -> Vec<String> {
    let blocks = markdown.split("```yaml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

fn yaml_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.extend(documents(&fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_yaml_of_the_project_is_taken_strictly() {
    let world = shared().await;
    let project = Path::new(PROJECT);
    let mut all = yaml_files(&project.join("deploy/plans"));
    assert_eq!(all.len(), 23);
    all.extend(yaml_files(&project.join("examples")));
    let in_docs = blocks(&fs::read_to_string(project.join("docs/PLANS.md")).unwrap());
    assert!(in_docs.len() >= 3);
    all.extend(in_docs);
    assert!(all.len() >= 29, "{}", all.len());
    let answer = apply_strictly(world, &all.join("\n---\n")).await;
    assert_eq!(answer.lines().count(), all.len(), "{answer}");
}

async fn apply_strictly(world: &World, text: &str) -> String {
    let mut child = kubectl_command(&world.sandbox)
        .args(["apply", "--dry-run=server", "--validate=strict", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    // The default plans were applied by the server's side, which kubectl remarks on.
    let complaint: Vec<_> = complaint
        .lines()
        .filter(|line| !line.contains("last-applied-configuration"))
        .collect();
    assert!(output.status.success() && complaint.is_empty(), "{complaint:?}");
    String::from_utf8(output.stdout).unwrap()
}
