//! The pure parts that run often, by themselves: `cargo bench --bench pure`.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use cache_broker::api::{CacheInstance, CachePlan, effective};
use cache_broker::control::decide::{BackupLookup, Opening, PlanLookup, PlanRevision, open};
use cache_broker::osb::{Catalog, Services};
use cache_broker::provider::kubernetes::{Observed, Placement, decide};
use cache_broker::settings::ServiceHost;
use cache_broker::webhooks::signature;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Map, Value, json};

/// The default plans, as the operator has recorded them.
fn plans() -> Vec<CachePlan> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/plans");
    let mut plans = Vec::new();
    for provider in ["elasticache", "kubernetes"] {
        for file in std::fs::read_dir(folder.join(provider)).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for document in serde_yaml::Deserializer::from_str(&text) {
                let value: Value = serde::Deserialize::deserialize(document).unwrap();
                if value["kind"] == "CachePlan" {
                    plans.push(recorded(value));
                }
            }
        }
    }
    assert!(plans.len() >= 23, "{}", plans.len());
    plans
}

fn recorded(mut plan: Value) -> CachePlan {
    plan["status"] = json!({
        "revision": 1,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Available", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    serde_json::from_value(plan).unwrap()
}

fn plan() -> CachePlan {
    recorded(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": "bench" },
        "spec": {
            "service": "akkeris-memcached", "id": "5b1f9a52-0c55-4b0a-9a36-3a0d8f3e7c11", "description": "Measured.",
            "engine": { "type": "memcached", "version": "1.6.45" },
            "kubernetes": { "memory": "64Mi" },
            "parameters": {
                "properties": {
                    "connectionLimit": { "type": "integer", "minimum": 10, "maximum": 1000 },
                    "maxItemSize": { "type": "string", "enum": ["1Mi", "2Mi"] },
                },
            },
        },
    }))
}

fn instance() -> CacheInstance {
    serde_json::from_value(json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
        "metadata": {
            "name": "bench", "namespace": "bench", "uid": "0c5f7a0e-8f3f-4a5f-9d39-3d1c7c2f1f00", "generation": 1,
            "finalizers": ["cache.akkeris.io/finalizer"],
        },
        "spec": { "planRef": { "name": "bench" }, "parameters": { "connectionLimit": 100 } },
    }))
    .unwrap()
}

fn catalog(criterion: &mut Criterion) {
    let (plans, services) = (plans(), Services::read(None).unwrap());
    criterion.bench_function("catalog of the default plans", |bencher| {
        bencher.iter(|| Catalog::new(black_box(&services), black_box(&plans), &|_| true));
    });
}

fn parameters(criterion: &mut Criterion) {
    let plan = plan().spec;
    let values: Map<String, Value> = json!({ "connectionLimit": 100, "maxItemSize": "2Mi" })
        .as_object()
        .unwrap()
        .clone();
    criterion.bench_function("parameters of an order", |bencher| {
        bencher.iter(|| effective(black_box(&plan), black_box(&values)).unwrap());
    });
}

fn placement() -> Placement {
    Placement {
        service_host: ServiceHost::Dns,
        cluster_domain: "cluster.local".to_owned(),
        operator_namespace: "cache-broker".to_owned(),
    }
}

fn decisions(criterion: &mut Criterion) {
    let (plan, instance) = (plan(), instance());
    let revision = PlanRevision {
        name: "bench".to_owned(),
        revision: 1,
        spec: plan.spec,
    };
    let lookup = PlanLookup::Found(Arc::new(revision));
    let Opening::Proceed(desired) = open(&instance, &lookup, &BackupLookup::NotAsked) else {
        panic!("{:?}", open(&instance, &lookup, &BackupLookup::NotAsked));
    };
    let (spec, placement) = (desired.plan.kubernetes.clone().unwrap(), placement());
    let now = jiff::Timestamp::now();
    criterion.bench_function("what an instance asks for", |bencher| {
        bencher.iter(|| open(black_box(&instance), black_box(&lookup), &BackupLookup::NotAsked));
    });
    criterion.bench_function("the first step of a cache in the cluster", |bencher| {
        let observed = Observed::default();
        bencher.iter(|| decide(black_box(&desired), &spec, &placement, black_box(&observed), now));
    });
}

fn signatures(criterion: &mut Criterion) {
    let secret = "a secret of a platform".to_owned().into();
    let body = json!({ "state": "succeeded", "description": "the instance is ready", "id": "0c5f7a0e" }).to_string();
    criterion.bench_function("signature of a webhook", |bencher| {
        bencher.iter(|| signature(black_box(&secret), black_box(&body)));
    });
}

criterion_group!(benches, catalog, parameters, decisions, signatures);
criterion_main!(benches);
