//! The kustomizations and the chart install the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::{PROJECT, helm, said};

/// What kustomize makes.
fn kustomized(overlay: &str) -> String {
    let folder = format!("{PROJECT}/deploy/{overlay}");
    let output = std::process::Command::new("kubectl")
        .args(["kustomize", &folder])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What the chart makes, its definitions included, of what is no hook.
fn rendered(values: &[&str]) -> String {
    let chart = format!("{PROJECT}/helm");
    let mut arguments = vec![
        "template",
        "cache-broker",
        chart.as_str(),
        "--include-crds",
        "--no-hooks",
    ];
    arguments.extend(["--namespace", "cache-broker-system"]);
    arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
    let output = helm(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by kind, namespace and name, without what says by which way they came.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = serde_yaml::Value::deserialize(document).unwrap();
        let mut object: Value = serde_json::to_value(object).unwrap();
        if object.is_null() {
            continue;
        }
        strip(&mut object);
        let place = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("-")
                .to_owned()
        };
        let key = format!(
            "{} {} {}",
            place("/kind"),
            place("/metadata/namespace"),
            place("/metadata/name")
        );
        assert!(found.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    found
}

/// Takes away what differs by nature: labels of the tools, and the digest that kustomize puts into a ConfigMap's name where the chart puts
/// one into an annotation of the pods.
fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["labels", "matchLabels", "selector", "annotations"] {
                if let Some(Value::Object(labels)) = members.get_mut(name) {
                    // What is selected by is the chart's release besides.
                    let selects = ["matchLabels", "selector"].contains(&name);
                    let differs = |label: &str| {
                        if selects {
                            label == "app.kubernetes.io/instance"
                        } else {
                            passing(label)
                        }
                    };
                    labels.retain(|label, _| !differs(label));
                }
                if members
                    .get(name)
                    .is_some_and(|labels| labels == &Value::Object(Map::new()))
                {
                    members.remove(name);
                }
            }
            // Defaults that one of them spells out.
            if members
                .get("type")
                .is_some_and(|kind| kind == "ClusterIP" || kind == "RollingUpdate")
            {
                members.remove("type");
            }
            members.remove("imagePullPolicy");
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(strip);
            if items.iter().all(|item| item["name"].is_string()) {
                items.sort_by_key(|item| item["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        // One of them writes 1.0 as 1.
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|number| number.fract() == 0.0) {
                *value = Value::String(format!("{whole:.0}"));
            }
        }
        Value::String(text) => {
            // Modes are written in octal, which is a number to YAML 1.1 alone.
            if text.len() == 4
                && text.starts_with('0')
                && let Ok(mode) = u32::from_str_radix(text, 8)
            {
                *text = mode.to_string();
            }
            if let Some((name, digest)) = text.rsplit_once('-')
                && name == "cache-broker"
                && digest.len() == 10
                && digest.bytes().all(|byte| byte.is_ascii_alphanumeric())
            {
                *text = name.to_owned();
            }
        }
        _ => {}
    }
}

fn passing(label: &str) -> bool {
    [
        "app.kubernetes.io/instance",
        "app.kubernetes.io/version",
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/name",
        "app.kubernetes.io/component",
        "helm.sh/resource-policy",
        "checksum/settings",
    ]
    .contains(&label)
}

fn same(overlay: &str, values: &[&str]) {
    let (by_kustomize, by_helm) = (objects(&kustomized(overlay)), objects(&rendered(values)));
    let keys = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<BTreeSet<_>>();
    let (kustomize, helm) = (keys(&by_kustomize), keys(&by_helm));
    let only_kustomize: Vec<_> = kustomize.difference(&helm).collect();
    // helm makes the release's namespace by itself.
    assert_eq!(only_kustomize, ["Namespace - cache-broker-system"], "only in {overlay}");
    let only_helm: Vec<_> = helm.difference(&kustomize).collect();
    assert!(only_helm.is_empty(), "only in the chart: {only_helm:?}");
    for (key, object) in &by_helm {
        let other = &by_kustomize[key];
        if object != other {
            let lines = |object: &Value| serde_yaml::to_string(object).unwrap();
            let (ours, theirs) = (lines(object), lines(other));
            let theirs_lines: BTreeSet<_> = theirs.lines().collect();
            let ours_lines: BTreeSet<_> = ours.lines().collect();
            panic!(
                "{key} differs: only in the chart {:#?}, only in {overlay} {:#?}",
                ours_lines.difference(&theirs_lines).collect::<Vec<_>>(),
                theirs_lines.difference(&ours_lines).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn the_overlay_for_the_cluster_is_the_chart() {
    same("overlays/in-cluster", &["plans.kubernetes=true"]);
}

#[test]
fn the_overlay_for_aws_is_the_chart() {
    same(
        "overlays/aws",
        &[
            "plans.kubernetes=true",
            "plans.elasticache=true",
            "aws.region=us-west-2",
            "aws.securityGroup=sg-0123456789abcdef0",
            "aws.redisSubnetGroup=caches",
            "aws.memcachedSubnetGroup=caches",
        ],
    );
}
