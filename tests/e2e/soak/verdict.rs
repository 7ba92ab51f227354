//! What has to hold when everything has settled.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use cache_broker::api::CacheInstance;
use kube::{Api, ResourceExt};
use sandbox::elasticache::Call;
use uuid::Uuid;

use super::platform::Accepted;
use crate::cluster::ready;
use crate::receiver::Receiver;
use crate::world::{BROKER, PATIENCE, World, eventually};

/// Every operation that a platform was told of ended, and the ledger knows each of them.
pub async fn everything_ended(world: &World, accepted: &[&Accepted]) {
    let sql = world.sql().await;
    eventually("the end of every operation", async || {
        let open: i64 = sql
            .query_one("select count(*) from operations where state = 'in_progress'", &[])
            .await
            .unwrap()
            .get(0);
        (open == 0).then_some(())
    })
    .await;
    for Accepted {
        instance,
        operation,
        what,
    } in accepted.iter().copied()
    {
        let id: Uuid = operation.parse().unwrap();
        let row = sql
            .query_opt("select instance_id, kind, state from operations where id = $1", &[&id])
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{what} {operation} of {instance} is lost"));
        assert_eq!(
            (row.get::<_, &str>(0), row.get::<_, &str>(1)),
            (instance.as_str(), *what)
        );
        assert!(matches!(row.get(2), "succeeded" | "failed"));
    }
    let kinds = sql
        .query(
            "select kind, state, count(*) from operations group by 1, 2 order by 1, 2",
            &[],
        )
        .await
        .unwrap();
    let kinds: Vec<String> = kinds
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                row.get::<_, i64>(2),
                row.get::<_, &str>(0),
                row.get::<_, &str>(1)
            )
        })
        .collect();
    println!("operations: {}", kinds.join(", "));
    // Only what a deprovision took the place of may fail.
    let failed: Vec<(String, String)> = sql
        .query(
            "select kind, description from operations where state = 'failed' and description <> 'superseded by deprovision'",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let slowest: f64 = sql
        .query_one(
            "select max(extract(epoch from ended_at - created_at))::double precision from operations",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    println!("the slowest operation took {slowest:.1} s");
}

/// Every event arrived, with the state that its operation ended in, and those of one instance began in order.
pub async fn everything_was_told(world: &World, receiver: &mut Receiver) {
    let sql = world.sql().await;
    eventually("the last webhook", async || {
        // The pauses between attempts grow; the test does not wait for them.
        let hurry = "update webhooks set due_at = least(due_at, now() + interval '1 second') where state = 'due' and claim is null";
        sql.execute(hurry, &[]).await.unwrap();
        let open: i64 = sql
            .query_one("select count(*) from webhooks where state <> 'delivered'", &[])
            .await
            .unwrap()
            .get(0);
        (open == 0).then_some(())
    })
    .await;
    let received = receiver.drain();
    let mut first = BTreeMap::new();
    for (position, event) in received.iter().enumerate() {
        let body = event.body();
        let id = body["id"].as_str().unwrap().to_owned();
        let (_, known) = first.entry(id).or_insert((position, event.text.clone()));
        assert_eq!(*known, event.text, "a repetition says the same");
    }
    let rows = sql
        .query(
            "select w.id, o.state, w.instance_id from operations o left join webhooks w on w.operation_id = o.id
             order by w.instance_id, w.sequence",
            &[],
        )
        .await
        .unwrap();
    let mut before: Option<(String, usize)> = None;
    for row in &rows {
        let id: Uuid = row.get::<_, Option<Uuid>>(0).expect("every operation has its webhook");
        let instance: String = row.get(2);
        let (position, text) = first
            .get(&id.to_string())
            .unwrap_or_else(|| panic!("event {id} never arrived"));
        let body: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(body["state"], row.get::<_, &str>(1));
        if let Some((_, earlier)) = before.as_ref().filter(|(earlier, _)| *earlier == instance) {
            assert!(earlier < position, "events of {instance} out of order");
        }
        before = Some((instance, *position));
    }
    assert_eq!(first.len(), rows.len(), "nothing else was told");
    println!("webhooks: {} events, {} deliveries", first.len(), received.len());
}

/// What ElastiCache was asked about some caches.
fn told_of(calls: &[Call], ids: &[&String]) -> Vec<String> {
    let about = |call: &&Call| {
        let mut values = call.parameters.values();
        values.any(|value| ids.iter().any(|id| value.contains(id.as_str())))
    };
    let told = |call: &Call| {
        format!(
            "{} {} {:?} {}{}",
            call.time,
            call.operation,
            call.parameters,
            call.outcome,
            if call.lost { ", but the answer was lost" } else { "" }
        )
    };
    calls.iter().filter(about).map(told).collect()
}

/// Ledger, custom resources and provider agree, and nothing was made twice or is left.
pub async fn everything_agrees(world: &World) {
    let sql = world.sql().await;
    let live: BTreeMap<(String, String), String> = sql
        .query(
            "select namespace, name, id from instances where deleted_at is null",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    let api: Api<CacheInstance> = Api::all(world.kube().await);
    let resources = eventually("the resources of what is left", async || {
        let all = api.list(&kube::api::ListParams::default()).await.ok()?.items;
        let names: BTreeSet<_> = all
            .iter()
            .map(|resource| (resource.namespace().unwrap(), resource.name_any()))
            .collect();
        let settled = all
            .iter()
            .all(|resource| ready(resource).is_some_and(|ready| ready.status == "True"));
        (settled && names == live.keys().cloned().collect()).then_some(all)
    })
    .await;
    let elasticache = world.sandbox.elasticache().unwrap();
    let wanted: BTreeSet<String> = resources
        .iter()
        .filter_map(|resource| resource.status.as_ref())
        .filter(|status| status.topology.is_some())
        .filter_map(|status| status.provider_id.clone())
        .collect();
    let members = |id: &str| wanted.iter().any(|group| id.starts_with(&format!("{group}-")));
    let start = Instant::now();
    loop {
        let left = elasticache.remaining();
        let clusters = left.cache_clusters.into_iter().filter(|id| !members(id));
        let caches: BTreeSet<_> = left.replication_groups.into_iter().chain(clusters).collect();
        if caches == wanted && left.snapshots.is_empty() {
            break;
        }
        let astray: Vec<_> = caches.symmetric_difference(&wanted).collect();
        assert!(
            start.elapsed() < PATIENCE,
            "on ElastiCache stands what should not, or the other way round: {astray:?} {:?}\n{:#?}",
            left.snapshots,
            told_of(&elasticache.calls(), &astray),
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Each id was made once.
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    let calls = elasticache.calls();
    for call in &calls {
        let id = match call.operation.as_str() {
            "CreateReplicationGroup" => call.parameters.get("ReplicationGroupId"),
            "CreateCacheCluster" => call.parameters.get("CacheClusterId"),
            _ => None,
        };
        if let Some(id) = id.filter(|_| call.outcome == "ok") {
            *made.entry(id.clone()).or_default() += 1;
        }
    }
    let twice: Vec<_> = made.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id).collect();
    assert!(
        twice.is_empty(),
        "made twice: {twice:?}\n{:#?}",
        told_of(&calls, &twice)
    );

    let in_cluster: BTreeSet<String> = resources
        .iter()
        .filter(|resource| resource.status.as_ref().is_some_and(|status| status.topology.is_none()))
        .map(ResourceExt::name_any)
        .collect();
    let template =
        "go-template={{range .items}}{{index .metadata.labels \"app.kubernetes.io/instance\"}}{{\"\\n\"}}{{end}}";
    eventually("the end of what was given back in the cluster", async || {
        let names = world
            .kubectl(&[
                "get",
                "deployments,services",
                "--all-namespaces",
                "-l",
                "app.kubernetes.io/managed-by=cache-broker",
                "-o",
                template,
            ])
            .await;
        let names: BTreeSet<String> = names.lines().map(str::to_owned).collect();
        (names == in_cluster).then_some(())
    })
    .await;
    println!(
        "{} instances are left, {} of them on ElastiCache; {} were made there, each once",
        resources.len(),
        wanted.len(),
        made.len()
    );
    the_doctor_finds_nothing(world).await;
}

/// The broker's own comparison of the three.
async fn the_doctor_finds_nothing(world: &World) {
    let mut command = Command::new(BROKER);
    command.arg("doctor").envs(world.sandbox.environment());
    let output = tokio::time::timeout(
        Duration::from_secs(120),
        tokio::task::spawn_blocking(move || command.output().unwrap()),
    )
    .await
    .unwrap()
    .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    println!("doctor: {}", out.lines().last().unwrap_or_default());
}
