//! What somebody else made is taken over as it is, and changed beside itself when that is asked for.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::api::Endpoint;
use crate::provider::Published;
use crate::provider::kubernetes::adopt::{self, Found, Objection};

/// A Deployment and a Service as the old broker made them.
fn found(engine: &str, port: u16) -> Found {
    let labels = json!({ "app": "i" });
    let deployment = json!({
        "metadata": { "name": "i", "namespace": "n", "labels": labels, "generation": 1, "resourceVersion": "7",
            "annotations": { "owner": "org" } },
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{
                "name": engine, "image": format!("{engine}:1.6"), "args": ["-m 128", "-I 50M"],
                "ports": [{ "containerPort": port }], "resources": { "limits": { "memory": "128Mi" } },
            }] },
        } },
        "status": { "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 },
    });
    let service = json!({
        "metadata": { "name": "i", "namespace": "n", "labels": labels, "resourceVersion": "8" },
        "spec": { "type": "NodePort", "clusterIP": "10.0.0.9", "selector": labels,
            "ports": [{ "port": port, "targetPort": port, "nodePort": 30001, "protocol": "TCP" }] },
    });
    Found {
        deployment: Some(Arc::new(serde_json::from_value(deployment).unwrap())),
        service: Some(Arc::new(serde_json::from_value(service).unwrap())),
    }
}

fn adopting(engine: &str) -> Desired {
    Desired {
        adopt: Some("i".to_owned()),
        as_found: true,
        consent: Consent::Given,
        ..desired(engine, &json!({ "memory": "128Mi" }))
    }
}

fn standing(engine: &str, port: u16) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.observed.found = Some(found(engine, port));
    cluster
}

/// Takes over what is found, until it is done; returns how often something was written.
fn take_over(desired: &Desired, cluster: &mut Cluster) -> usize {
    let mut writes = 0;
    while !adopt::is_done(desired, &cluster.observed) {
        let decision = adopt::take_over(desired, &cluster.observed);
        let Next::Act(step) = decision.step else {
            panic!("{:?}", decision.report)
        };
        assert_eq!(
            decision.report.record.serving, None,
            "nothing is on record before it is ours"
        );
        cluster.act(desired, &step);
        writes += 1;
    }
    writes
}

/// As it is once it was ready.
fn after(desired: &Desired, decision: &Decision<Step>) -> Desired {
    Desired {
        was_ready: true,
        record: decision.report.record.clone(),
        published: Published {
            endpoint: decision.report.endpoint.clone(),
            ..Published::default()
        },
        ..desired.clone()
    }
}

fn service(cluster: &Cluster) -> &Service {
    &cluster.observed.services["i"]
}

fn secret(cluster: &Cluster, key: &str) -> Option<String> {
    crate::provider::secrets::value(&cluster.observed.secrets["i-connection"], key)
}

#[test]
fn nothing_of_it_is_changed_and_its_address_is_published() {
    for (engine, port) in [("memcached", 11311), ("memcached", 11211), ("redis", 6379)] {
        let (desired, mut cluster) = (adopting(engine), standing(engine, port));
        let before = found(engine, port);
        assert_eq!(take_over(&desired, &mut cluster), 1);
        let (steps, decision) = settle(&desired, &mut cluster);
        assert_eq!(
            said(&decision),
            (Progress::Ready, Reason::Available),
            "{:?}",
            decision.report
        );
        let address = format!("i.n.svc.cluster.local:{port}");
        assert_eq!(
            decision.report.endpoint,
            Some(Endpoint::new("i.n.svc.cluster.local", port, false))
        );
        // The NetworkPolicy chooses none of its Pods; beside it, only the Secret for applications is written.
        assert!(
            matches!(&steps[..], [Step::Apply(shared), Step::Secret(SecretStep::ApplyConnection(_))]
                if shared.len() == 1 && shared[0].kind == Kind::NetworkPolicy),
            "{steps:#?}"
        );
        let live = &cluster.observed.deployments["i"];
        assert_eq!(live.spec, before.deployment.unwrap().spec);
        assert_eq!(
            live.metadata.labels.as_ref().unwrap()["app"],
            "i",
            "{:?}",
            live.metadata
        );
        assert_eq!(service(&cluster).spec, before.service.unwrap().spec);
        let known = if engine == "redis" {
            ("REDIS_URL", format!("redis://{address}"))
        } else {
            ("MEMCACHED_URL", address)
        };
        assert_eq!(secret(&cluster, known.0), Some(known.1));
        assert_eq!(secret(&cluster, "password"), None);
        assert!(!cluster.observed.secrets.contains_key("i-auth"));
        let again = after(&desired, &decision);
        assert_eq!(settle(&again, &mut cluster).0, []);
    }
}

#[test]
fn another_plan_or_a_restart_comes_beside_it_behind_the_same_service() {
    for engine in ["memcached", "redis"] {
        let port = if engine == "redis" { 6379 } else { 11311 };
        for restart in [true, false] {
            let (desired, mut cluster) = (adopting(engine), standing(engine, port));
            take_over(&desired, &mut cluster);
            let (_, decision) = settle(&desired, &mut cluster);
            let mut changed = after(&desired, &decision);
            if restart {
                changed.restart_at = Some(now());
            } else {
                changed.as_found = false;
                changed.plan.kubernetes.as_mut().unwrap().memory = "256Mi".parse().unwrap();
            }
            let (_, decision) = settle(&changed, &mut cluster);
            assert_eq!(
                said(&decision),
                (Progress::Ready, Reason::Available),
                "{:?}",
                decision.report
            );
            assert_eq!(decision.report.endpoint.as_ref().unwrap().port, port);
            let names = deployments(&cluster);
            assert!(names.len() == 1 && names[0].starts_with("i-"), "{names:?}");
            let spec = service(&cluster).spec.clone().unwrap();
            assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
            let [one] = &spec.ports.unwrap()[..] else { panic!() };
            let target = if engine == "redis" { 6379 } else { 11211 };
            assert_eq!(
                (one.port, &one.target_port),
                (i32::from(port), &Some(IntOrString::Int(target)))
            );
            // Clients of an open redis know of no password, and go on without.
            let pod = cluster.observed.deployments[names[0]]
                .spec
                .clone()
                .unwrap()
                .template
                .spec
                .unwrap();
            assert!(pod.volumes.unwrap_or_default().is_empty());
            let args = pod.containers[0].args.clone().unwrap();
            assert_eq!(
                args.contains(&"--protected-mode".to_owned()),
                engine == "redis",
                "{args:?}"
            );
            assert_eq!(secret(&cluster, "password"), None);
            let rested = after(&changed, &decision);
            assert_eq!(settle(&rested, &mut cluster).0, []);
        }
    }
}

#[test]
fn without_a_word_on_what_it_is_it_waits_for_leave_to_become_as_the_plan_says() {
    let mut cluster = standing("memcached", 11211);
    let mut desired = adopting("memcached");
    (desired.as_found, desired.consent) = (false, Consent::Withheld);
    take_over(&desired, &mut cluster);
    let (_, decision) = settle(&desired, &mut cluster);
    assert_eq!(
        decision.report.reason,
        Reason::AwaitingMaintenance,
        "{:?}",
        decision.report
    );
    assert_eq!(deployments(&cluster), ["i"]);
}

#[test]
fn it_goes_with_its_instance() {
    let (mut desired, mut cluster) = (adopting("memcached"), standing("memcached", 11211));
    take_over(&desired, &mut cluster);
    let (_, decision) = settle(&desired, &mut cluster);
    desired = after(&desired, &decision);
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    for _ in 0..20 {
        let decision = remove(&desired, &cluster.observed);
        match decision.step {
            Next::Act(step) => cluster.act(&desired, &step),
            Next::Release => {
                assert!(cluster.observed.deployments.is_empty() && cluster.observed.services.is_empty());
                return;
            }
            _ => {}
        }
        cluster.tick();
    }
    panic!("it does not go");
}

#[test]
fn what_is_somebodys_or_something_else_is_left_alone() {
    let engine = crate::api::EngineType::Memcached;
    let judge = |edit: &dyn Fn(&mut Deployment, &mut Service)| {
        let mut found = found("memcached", 11211);
        edit(
            Arc::make_mut(found.deployment.as_mut().unwrap()),
            Arc::make_mut(found.service.as_mut().unwrap()),
        );
        adopt::judge("i", engine, &found, Some("u")).map(drop)
    };
    assert_eq!(judge(&|_, _| {}), Ok(()));
    let owner = |uid: &str| {
        serde_json::from_value(json!([{
            "apiVersion": "v1", "kind": "Thing", "name": "t", "uid": uid, "controller": true,
        }]))
        .unwrap()
    };
    assert_eq!(
        judge(&|deployment, _| deployment.metadata.owner_references = owner("u")),
        Ok(())
    );
    let refused = judge(&|_, service| service.metadata.owner_references = owner("other"));
    assert!(matches!(refused, Err(Objection::Owned { .. })), "{refused:?}");
    let refused = judge(&|_, service| {
        service.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "j".to_owned())].into());
    });
    assert!(matches!(refused, Err(Objection::Elsewhere(_))), "{refused:?}");
    let refused = judge(&|deployment, _| deployment.spec.as_mut().unwrap().replicas = Some(2));
    assert!(matches!(refused, Err(Objection::Pods(_, 2))), "{refused:?}");
    let refused = judge(&|deployment, _| {
        let pod = deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        (pod.containers[0].name, pod.containers[0].image) = ("web".to_owned(), Some("nginx:1".to_owned()));
    });
    assert!(matches!(refused, Err(Objection::OtherEngine(..))), "{refused:?}");
    for (missing, text) in [
        (Found::default(), "no Deployment i"),
        (
            Found {
                service: None,
                ..found("memcached", 11211)
            },
            "no Service i",
        ),
    ] {
        let objection = adopt::judge("i", engine, &missing, None).map(drop).unwrap_err();
        assert!(objection.to_string().contains(text), "{objection}");
    }
    let mut desired = adopting("memcached");
    desired.adopt = Some("other".to_owned());
    let decision = adopt::take_over(&desired, &Observed::default());
    assert_eq!(said(&decision), (Progress::Stalled, Reason::Unsupported));
    assert!(decision.report.message.contains("name other"), "{:?}", decision.report);
}
