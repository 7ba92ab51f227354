//! What stands goes on standing: volumes, what version 0.1 made, and what an older template made.

use k8s_openapi::api::core::v1::Service;

use super::*;
use crate::provider::kubernetes::template::TEMPLATE;

#[test]
fn a_volume_goes_from_pod_to_pod_and_stays() {
    let plan = |limit: u32| json!({ "memory": "64Mi", "connectionLimit": limit, "persistence": { "size": "1Gi" } });
    let mut before = serving("redis", &plan(10));
    before.consent = Consent::Withheld;
    let mut cluster = settled(&before);
    let old = deployments(&cluster)[0].to_owned();
    let mut after = serving("redis", &plan(20));
    after.consent = Consent::Withheld;
    let (steps, decision) = settle(&after, &mut cluster);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    let [
        Step::Apply(trial),
        Step::Delete(gone),
        Step::Apply(made),
        Step::Delete(tried),
    ] = &steps[..]
    else {
        panic!("{steps:#?}")
    };
    assert_eq!(gone, &[(Kind::Deployment, old)]);
    assert_eq!(tried, &[(Kind::Deployment, trial[0].name.clone())]);
    assert_eq!(
        made.iter().map(|made| made.kind).collect::<Vec<_>>(),
        [Kind::Deployment, Kind::Service]
    );
    assert_eq!(cluster, settled(&after));

    let mut larger = after.clone();
    larger
        .plan
        .kubernetes
        .as_mut()
        .unwrap()
        .persistence
        .as_mut()
        .unwrap()
        .size = "2Gi".parse().unwrap();
    let (steps, _) = settle(&larger, &mut cluster);
    assert!(
        matches!(&steps[..], [Step::Apply(claim)] if claim[0].kind == Kind::PersistentVolumeClaim),
        "{steps:#?}"
    );
    assert_eq!(settle(&after, &mut cluster).0, [], "a volume does not shrink");

    let mut without = serving("redis", &json!({ "memory": "64Mi", "connectionLimit": 20 }));
    without.consent = Consent::Withheld;
    assert_eq!(
        settle(&without, &mut cluster).1.report.reason,
        Reason::AwaitingMaintenance
    );
    without.consent = Consent::Given;
    settle(&without, &mut cluster);
    assert!(cluster.observed.claims.is_empty());
}

#[test]
fn a_volume_grows_before_its_pod_is_given_up_and_not_before_it_is_bound() {
    let plan = |limit: u32, size: &str| {
        let plan = json!({ "memory": "64Mi", "connectionLimit": limit, "persistence": { "size": size } });
        serving("redis", &plan)
    };
    let (before, after) = (plan(10, "1Gi"), plan(20, "2Gi"));
    let mut cluster = settled(&before);
    let mut unbound = cluster.clone();
    let old = deployments(&cluster)[0].to_owned();
    let (steps, _) = settle(&after, &mut cluster);
    let kinds = |step: &Step| match step {
        Step::Apply(manifests) => manifests.iter().map(|manifest| manifest.kind).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let grown = steps
        .iter()
        .position(|step| kinds(step) == [Kind::PersistentVolumeClaim]);
    let given_up = steps
        .iter()
        .position(|step| *step == Step::Delete(vec![(Kind::Deployment, old.clone())]));
    assert!(grown.unwrap() < given_up.unwrap(), "{steps:#?}");

    // Its Pod never had a place.
    let phase = |cluster: &mut Cluster, phase: &str| {
        let claim = cluster.observed.claims.values_mut().next().unwrap();
        Arc::make_mut(claim).status = Some(serde_json::from_value(json!({ "phase": phase })).unwrap());
    };
    phase(&mut unbound, "Pending");
    unbound.observed.deployments.clear();
    unbound.observed.pods.clear();
    let (steps, _) = settle(&after, &mut unbound);
    assert!(
        !steps
            .iter()
            .any(|step| kinds(step).contains(&Kind::PersistentVolumeClaim)),
        "{steps:#?}"
    );
    assert_eq!(unbound.served().len(), 1);
    phase(&mut unbound, "Bound");
    let (steps, _) = settle(&after, &mut unbound);
    assert_eq!(
        steps.iter().map(kinds).collect::<Vec<_>>(),
        [[Kind::PersistentVolumeClaim]]
    );
}

#[test]
fn the_gap_of_a_volume_is_announced_and_nothing_else_uses_it_meanwhile() {
    let plan = |image: &str| {
        let plan = json!({ "memory": "64Mi", "connectionLimit": 10, "image": image, "persistence": { "size": "1Gi" } });
        serving("redis", &plan)
    };
    let mut cluster = settled(&plan("redis:7"));
    let before = cluster.served();
    let (_, decision) = settle(&plan(BROKEN), &mut cluster);
    assert_eq!(
        said(&decision),
        (Progress::ReadyAndReconciling, Reason::WorkloadFailing)
    );
    assert_eq!(cluster.served(), before, "it is tried before anything is taken away");
    let next = plan("redis:8");
    loop {
        let decision = run(&next, &cluster);
        let Next::Act(step) = &decision.step else {
            cluster.tick();
            continue;
        };
        cluster.act(&next, step);
        if matches!(step, Step::Delete(gone) if before.values().any(|old| gone[0].1 == *old)) {
            assert!(
                decision.report.message.contains("i does not answer until"),
                "{}",
                decision.report.message
            );
            break;
        }
        cluster.tick();
    }
    let waiting = run(&next, &cluster);
    assert_eq!(
        (&waiting.step, said(&waiting)),
        (&Next::Rest, (Progress::Reconciling, Reason::Updating))
    );
    assert!(waiting.report.endpoint.is_some());
    // The Deployment is gone and its Pod is not yet.
    let mut lingering = cluster.clone();
    let old = before.values().next().unwrap();
    lingering.observed.deployments.remove(old);
    let waiting = run(&next, &lingering);
    assert_eq!(waiting.step, Next::Rest, "{waiting:?}");
    assert!(
        waiting.report.message.contains("the Pod that uses i-data"),
        "{}",
        waiting.report.message
    );
    assert_eq!(settle(&next, &mut cluster).1.report.progress, Progress::Ready);
}

fn legacy(engine: &str) -> Cluster {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (deployment, service) = match engine {
        "memcached" => (
            include_str!("legacy/memcached.json"),
            include_str!("legacy/memcached-service.json"),
        ),
        _ => (
            include_str!("legacy/redis.json"),
            include_str!("legacy/redis-service.json"),
        ),
    };
    let (deployment, service) = (read(deployment), read(service));
    let mut cluster = Cluster::default();
    let deployment: Deployment = serde_json::from_value(deployment).unwrap();
    let service: Service = serde_json::from_value(service).unwrap();
    cluster
        .observed
        .deployments
        .insert("i".to_owned(), Arc::new(deployment));
    cluster.observed.services.insert("i".to_owned(), Arc::new(service));
    cluster.tick();
    cluster
}

#[test]
fn what_version_0_1_made_is_taken_over_as_it_runs() {
    for (engine, plan, other) in [
        (
            "memcached",
            json!({ "memory": "64Mi", "connectionLimit": 100 }),
            json!({ "memory": "64Mi", "connectionLimit": 200 }),
        ),
        (
            "redis",
            json!({ "memory": "128Mi" }),
            json!({ "memory": "128Mi", "evictionPolicy": "noeviction" }),
        ),
    ] {
        let same = serving(engine, &plan);
        let mut cluster = legacy(engine);
        let old = cluster.observed.deployments["i"].clone();
        let (_, decision) = settle(&same, &mut cluster);
        assert_eq!(said(&decision), (Progress::Ready, Reason::Available), "{engine}");
        assert_eq!(deployments(&cluster), ["i"]);
        assert_eq!(cluster.observed.deployments["i"].spec, old.spec, "{engine}");

        let mut scaled = cluster.clone();
        scaled.edit("i", |deployment| deployment.spec.as_mut().unwrap().replicas = Some(0));
        let (steps, _) = settle(&same, &mut scaled);
        assert_eq!(steps, [Step::Scale("i".to_owned())]);

        let (_, decision) = settle(&serving(engine, &other), &mut cluster);
        assert_eq!(decision.report.progress, Progress::Ready);
        assert_eq!(cluster.observed.deployments.len(), 1);
        assert!(
            !cluster.observed.deployments.contains_key("i"),
            "{engine} is replaced when it is to change"
        );

        let mut cluster = legacy(engine);
        let restart = Desired {
            restart_at: Some(at("2026-11-22T00:00:00Z")),
            ..same
        };
        settle(&restart, &mut cluster);
        assert!(
            !cluster.observed.deployments.contains_key("i"),
            "{engine} is replaced by a restart"
        );
    }
}

#[test]
fn what_an_older_template_made_is_left_as_it_is() {
    let instance = serving("memcached", &json!({ "memory": "64Mi" }));
    let mut cluster = settled(&instance);
    let name = deployments(&cluster)[0].to_owned();
    cluster.edit(&name, |deployment| {
        let notes = deployment.metadata.annotations.as_mut().unwrap();
        notes.insert(annotations::TEMPLATE.to_owned(), "0".to_owned());
        let spec = deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[0].args = Some(vec!["-m".to_owned(), "1".to_owned()]);
    });
    assert_eq!(settle(&instance, &mut cluster).0, []);
    cluster.edit(&name, |deployment| deployment.spec.as_mut().unwrap().replicas = Some(3));
    assert_eq!(run(&instance, &cluster).step, Next::Act(Step::Scale(name)));
}

/// To be accepted only together with a higher [`TEMPLATE`]: a rendering that changes under the same version would be
/// carried into Pods that run.
#[test]
fn a_rendering_belongs_to_its_version() {
    let mut all = Vec::new();
    for (engine, plan) in [
        ("memcached", json!({ "memory": "64Mi" })),
        ("redis", json!({ "memory": "128Mi" })),
        (
            "valkey",
            json!({
                "image": "example.org/valkey:8", "memory": "2Gi", "cpu": "0.5", "connectionLimit": 100, "evictionPolicy": "volatile-ttl",
                "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "k" }], "affinity": { "nodeAffinity": {} },
                "topologySpread": [{ "maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "DoNotSchedule" }],
                "priorityClass": "high", "persistence": { "size": "10Gi" },
            }),
        ),
    ] {
        let cluster = settled(&desired(engine, &plan));
        let deployments = cluster.observed.deployments.values();
        all.extend(deployments.map(|deployment| json!(deployment.spec)));
    }
    insta::assert_json_snapshot!(format!("template_{TEMPLATE}"), all);
}
