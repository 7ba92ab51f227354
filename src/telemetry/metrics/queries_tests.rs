//! What the alerts and the dashboard ask for is there to be asked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::record::{self, Answer, Delivery, Reconciled, SavedBy};
use super::sources::{self, Condition, Connections, Standing, UnderWay};
use super::text;

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/components/monitoring")
        .join(file)
}

/// Every series that the broker can show, each with the names of its labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let took = Duration::from_millis(7);
    record::request("provision", Cow::Borrowed("a"), 202, took);
    record::operation_ended("provision", "succeeded", took);
    record::reconcile("CacheInstance").end(Reconciled::Done);
    record::reconcile_error("CacheInstance", "ledger");
    record::aws_call("DescribeCacheClusters", Answer::Throttled);
    record::aws_call_ended("DescribeCacheClusters", took);
    record::aws_rate_waited(took);
    record::aws_calls_saved(SavedBy::List, 3);
    record::webhook(Delivery::Dead);
    record::pool_claim("a");
    sources::ready("database", true);
    sources::under_way(None);
    sources::under_way(Some(&UnderWay {
        operations: vec![("provision", 1, 2.0)],
        ..UnderWay::default()
    }));
    let (queue, _receiver) = tokio::sync::mpsc::channel::<()>(1);
    let _sources = (
        sources::database(Connections::default),
        sources::queue("CacheInstance", vec![queue.downgrade()], || 1),
        sources::leads(|| Standing {
            instances: [(("a".to_owned(), Condition::Ready), 1)].into(),
            pools: [("a".to_owned(), (1, 2))].into(),
            failing: vec![("CacheInstance", 0)],
        }),
    );
    sources::look();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text().lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
        let names = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        found.entry(name.to_owned()).or_default().extend(names);
    }
    found
}

/// The alerts' queries and the dashboard's, each with where it stands.
fn queries() -> Vec<(String, String)> {
    let alerts: Value = serde_yaml::from_str(&std::fs::read_to_string(monitoring("alerts.yaml")).unwrap()).unwrap();
    let mut queries = Vec::new();
    for rule in alerts["spec"]["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        queries.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    }
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap();
            queries.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    queries
}

fn panels() -> Vec<Value> {
    let text = std::fs::read_to_string(monitoring("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

/// The words of a query that name a series, each with the labels that it selects by.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '[') {
        rest = &rest[start..];
        if let Some(close) = ['"', '['].iter().position(|open| rest.starts_with(*open)) {
            let end = rest[1..].find(['"', ']'][close]).unwrap() + 2;
            rest = &rest[end..];
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if !(word.starts_with("cache_broker_") || word.starts_with("process_")) {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(inside) = after.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').unwrap();
            rest = after;
            labels = inside
                .split("\",")
                .map(|matcher| matcher.split(['=', '!']).next().unwrap().trim().to_owned())
                .collect();
        }
        found.push((word.to_owned(), labels));
    }
    found
}

#[test]
fn every_query_names_series_and_labels_that_there_are() {
    let series = series();
    // What Prometheus adds to whatever it scrapes.
    let added = ["namespace", "pod", "instance", "job"];
    let (mut asked, queries) = (BTreeSet::new(), queries());
    assert!(queries.len() > 50, "{}", queries.len());
    for (place, query) in &queries {
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{place}: {query} asks for nothing of ours");
        for (name, labels) in selectors {
            let known = series
                .get(&name)
                .unwrap_or_else(|| panic!("{place}: there is no {name}"));
            for label in &labels {
                assert!(
                    known.contains(label) || added.contains(&label.as_str()),
                    "{place}: {name} has no {label}"
                );
            }
            asked.insert(name);
        }
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(
                query.matches(open).count(),
                query.matches(close).count(),
                "{place}: {query}"
            );
        }
        for clause in query.split("by (").skip(1) {
            let labels = clause.split_once(')').unwrap().0;
            for label in labels.split(',').map(str::trim) {
                let known =
                    label == "le" || added.contains(&label) || series.values().any(|labels| labels.contains(label));
                assert!(known, "{place}: nothing has a label {label}");
            }
        }
    }
    // And what there is to see is seen somewhere.
    for name in series.keys() {
        let family = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let seen = asked
            .iter()
            .any(|asked| asked == name || asked.strip_suffix("_bucket") == Some(family));
        assert!(seen, "nobody looks at {name}");
    }
}

#[test]
fn the_dashboard_is_one_that_loads() {
    let panels = panels();
    let mut ids = BTreeSet::new();
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: the id is another panel's"
        );
        let place = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} stands out");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
        }
    }
}

#[test]
fn every_alert_says_what_it_is_and_where_to_read_on() {
    let text = std::fs::read_to_string(monitoring("alerts.yaml")).unwrap();
    let alerts: Value = serde_yaml::from_str(&text).unwrap();
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let anchors: BTreeSet<String> = manual
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect();
    for rule in alerts["spec"]["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            ["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()),
            "{name}"
        );
        assert!(
            rule["annotations"]["summary"].as_str().unwrap().ends_with('.'),
            "{name}"
        );
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        let anchor = runbook.strip_prefix("docs/OPERATIONS.md#").unwrap();
        assert!(anchors.contains(anchor), "{name}: no section {anchor} in {anchors:?}");
    }
}
