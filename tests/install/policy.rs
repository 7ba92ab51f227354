//! The AWS policy in docs is what the code calls, no more and no less.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::PROJECT;

/// The operations of the SDK that a folder's code calls: `sdk.describe_cache_clusters()` and the like.
fn calls(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(calls(&path));
            continue;
        }
        let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
        for rest in text.split("sdk.").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if rest[name.len()..].starts_with("()") {
                found.insert(camel(&name));
            }
        }
    }
    found
}

fn camel(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

fn statements() -> Vec<Value> {
    let text = fs::read_to_string(format!("{PROJECT}/docs/aws-policy.json")).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap().clone()
}

fn actions(statement: &Value) -> BTreeSet<String> {
    let actions = statement["Action"].as_array().unwrap().iter();
    actions
        .map(|action| {
            action
                .as_str()
                .unwrap()
                .strip_prefix("elasticache:")
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn the_policy_allows_what_the_code_calls_and_nothing_else() {
    let called = calls(&Path::new(PROJECT).join("src/provider/elasticache"));
    assert!(
        called.contains("CreateReplicationGroup") && called.len() > 15,
        "{called:?}"
    );
    let elasticache = |statement: &Value| statement["Action"][0].as_str().unwrap().starts_with("elasticache:");
    let allowed: BTreeSet<_> = statements()
        .iter()
        .filter(|statement| elasticache(statement))
        .flat_map(actions)
        .collect();
    assert_eq!(
        allowed, called,
        "docs/aws-policy.json (left) and src/provider/elasticache (right)"
    );
}

#[test]
fn what_changes_something_is_held_to_what_is_ours() {
    for statement in statements() {
        assert_eq!(statement["Effect"], "Allow");
        if !statement["Action"][0].as_str().unwrap().starts_with("elasticache:") {
            assert_eq!(statement["Sid"], "ServiceLinkedRole");
            continue;
        }
        let conditions = statement["Condition"].to_string();
        for action in actions(&statement) {
            let looks = action.starts_with("Describe") || action.starts_with("List");
            if looks {
                continue;
            }
            let (by_tag, by_id) = (
                conditions.contains("cache.akkeris.io/instance-uid"),
                statement["Resource"].to_string(),
            );
            assert!(
                by_tag || !by_id.contains("\"*\""),
                "{action} is allowed for what is not ours: {statement}"
            );
        }
    }
}
