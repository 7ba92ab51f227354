//! Plans and instances as tables, for people without kubectl.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::asked;
use crate::api::conditions::{self, READY};
use crate::api::{CacheInstance, CachePlan};
use crate::cluster;
use crate::settings::Settings;

/// Prints every plan.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn plans(settings: &Settings) -> Result<(), String> {
    let api = Api::<CachePlan>::all(cluster::client(settings).await?);
    let found = asked("listing the plans", api.list(&ListParams::default())).await?;
    let now = Timestamp::now();
    let heads = [
        "NAME",
        "SERVICE",
        "ENGINE",
        "VERSION",
        "STATE",
        "REVISION",
        "INSTANCES",
        "READY",
        "AGE",
    ];
    print!(
        "{}",
        table(&heads, found.items.iter().map(|found| plan(found, now)).collect())
    );
    Ok(())
}

/// Prints the instances of a namespace, or of those that are watched.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn instances(settings: &Settings, namespace: Option<&str>) -> Result<(), String> {
    let client = cluster::client(settings).await?;
    let watched = &settings.watch_namespaces;
    let apis: Vec<Api<CacheInstance>> = match namespace {
        Some(namespace) => vec![Api::namespaced(client, namespace)],
        None if watched.iter().any(|name| name == "*") => vec![Api::all(client)],
        None => watched
            .iter()
            .map(|name| Api::namespaced(client.clone(), name))
            .collect(),
    };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for api in apis {
        let found = asked("listing instances", api.list(&ListParams::default())).await?;
        rows.extend(found.items.iter().map(|found| instance(found, now)));
    }
    let heads = [
        "NAMESPACE",
        "NAME",
        "PLAN",
        "ENGINE",
        "VERSION",
        "STATUS",
        "ENDPOINT",
        "AGE",
    ];
    print!("{}", table(&heads, rows));
    Ok(())
}

fn plan(plan: &CachePlan, now: Timestamp) -> Vec<String> {
    let status = plan.status.as_ref();
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let json = serde_json::to_value(plan).unwrap_or_default();
    let text = |pointer: &str| {
        json.pointer(pointer)
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let ready = status.and_then(|status| conditions::find(&status.conditions, READY));
    vec![
        plan.name_any(),
        plan.spec.service.clone(),
        text("/spec/engine/type"),
        text("/spec/engine/version"),
        text("/spec/state"),
        number(status.and_then(|status| status.revision)),
        number(json.pointer("/status/instances").and_then(serde_json::Value::as_i64)),
        ready.map(|condition| condition.status.clone()).unwrap_or_default(),
        age(plan.metadata.creation_timestamp.as_ref(), now),
    ]
}

fn instance(instance: &CacheInstance, now: Timestamp) -> Vec<String> {
    let json = serde_json::to_value(instance).unwrap_or_default();
    let text = |pointer: &str| {
        json.pointer(pointer)
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let ready = instance
        .status
        .as_ref()
        .and_then(|status| conditions::find(&status.conditions, READY));
    vec![
        instance.namespace().unwrap_or_default(),
        instance.name_any(),
        instance.spec.plan_ref.name.clone(),
        text("/status/plan/engine"),
        text("/status/plan/version"),
        ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
        text("/status/endpoint/address"),
        age(instance.metadata.creation_timestamp.as_ref(), now),
    ]
}

/// How long ago, as kubectl words it.
fn age(since: Option<&Time>, now: Timestamp) -> String {
    let Some(Time(since)) = since else {
        return String::new();
    };
    let seconds = now.duration_since(*since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if hours < 2 => format!("{minutes}m"),
        () if days < 2 => format!("{hours}h"),
        () => format!("{days}d"),
    }
}

/// Columns as wide as what is in them.
fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "long one".to_owned()],
            vec![String::new(), "b".to_owned()],
        ];
        assert_eq!(table(&["NAME", "X"], rows), "NAME   X\na      long one\n       b\n");
        assert_eq!(table(&["NAME"], Vec::new()), "NAME\n");
    }

    #[test]
    fn ages_are_worded_as_kubectl_does() {
        let now = Timestamp::from_second(10_000_000).unwrap();
        let ago = |seconds: i64| age(Some(&Time(Timestamp::from_second(10_000_000 - seconds).unwrap())), now);
        assert_eq!(
            [5, 119, 120, 7_199, 7_200, 172_799, 172_800].map(ago),
            ["5s", "119s", "2m", "119m", "2h", "47h", "2d"]
        );
        assert_eq!((ago(-5), age(None, now)), ("0s".to_owned(), String::new()));
    }
}
