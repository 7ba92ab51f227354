use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::api::{CachePlanSpec, Owner};
use crate::provider::{Consent, Next, Record};

fn placement() -> Placement {
    Placement {
        service_host: ServiceHost::Dns,
        cluster_domain: "cluster.local".to_owned(),
    }
}

fn desired(engine: &str, kubernetes: &Value) -> Desired {
    let plan: CachePlanSpec = serde_json::from_value(json!({
        "service": "s", "id": "p", "description": "d",
        "engine": { "type": engine, "version": "1.6" }, "kubernetes": kubernetes,
    }))
    .unwrap();
    Desired {
        namespace: "n".to_owned(),
        name: "i".to_owned(),
        uid: "u".to_owned(),
        existence: Existence::Present,
        plan_name: "plan".to_owned(),
        plan,
        owner: Owner::default(),
        connection_secret: "i-connection".to_owned(),
        was_ready: false,
        consent: Consent::Withheld,
        restart_at: None,
        adopt: None,
        restore: None,
        grace: std::time::Duration::ZERO,
        release_superseded: false,
        published: crate::provider::Published::default(),
        record: Record::default(),
    }
}

fn run(desired: &Desired, observed: &Observed) -> Decision<Step> {
    let spec = desired.plan.kubernetes.clone().unwrap();
    decide(desired, &spec, &placement(), observed, Timestamp::UNIX_EPOCH)
}

/// What the API server would hold after the step, the Deployments rolled out.
fn applied(desired: &Desired, observed: &Observed, step: &Step) -> Observed {
    let mut observed = observed.clone();
    match step {
        Step::Apply(manifests) => {
            for Manifest { kind, name, body } in manifests {
                let mut body = body.clone();
                match kind {
                    Kind::Deployment => {
                        body["metadata"]["generation"] = json!(1);
                        body["status"] = json!({ "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
                        observed
                            .deployments
                            .insert(name.clone(), Arc::new(serde_json::from_value(body).unwrap()));
                    }
                    Kind::Service => {
                        body["spec"]["clusterIP"] = json!("10.0.0.1");
                        observed
                            .services
                            .insert(name.clone(), Arc::new(serde_json::from_value(body).unwrap()));
                    }
                    Kind::NetworkPolicy => {
                        observed
                            .policies
                            .insert(name.clone(), Arc::new(serde_json::from_value(body).unwrap()));
                    }
                    Kind::Secret => panic!("Secrets are not applied as manifests"),
                }
            }
        }
        Step::Secret(step) => {
            let (name, data) = match step {
                SecretStep::CreateAuth => {
                    let password = k8s_openapi::ByteString(b"hunter2".to_vec());
                    (desired.auth_secret(), [("password".to_owned(), password)].into())
                }
                SecretStep::ApplyConnection(data) => (desired.connection_secret.clone(), data.clone()),
                SecretStep::Delete(_) | SecretStep::Disown(_) => panic!("{step:?} is for ElastiCache"),
            };
            let secret = k8s_openapi::api::core::v1::Secret {
                data: Some(data),
                ..Default::default()
            };
            observed.secrets.insert(name, Arc::new(secret));
        }
        Step::Delete(objects) => {
            for (kind, name) in objects {
                match kind {
                    Kind::Deployment => drop(observed.deployments.remove(name)),
                    Kind::Service => drop(observed.services.remove(name)),
                    Kind::NetworkPolicy => drop(observed.policies.remove(name)),
                    Kind::Secret => drop(observed.secrets.remove(name)),
                }
            }
        }
        Step::Disown(_) => panic!("nothing is let go of here"),
    }
    observed
}

/// Decides and applies until nothing is to be done; returns the steps, what stands then, and the last decision.
fn settle(desired: &Desired, mut observed: Observed) -> (Vec<Step>, Observed, Decision<Step>) {
    let mut steps = Vec::new();
    for _ in 0..20 {
        let decision = run(desired, &observed);
        let Next::Act(step) = &decision.step else {
            return (steps, observed, decision);
        };
        observed = applied(desired, &observed, step);
        steps.push(step.clone());
    }
    panic!("it does not come to rest: {steps:?}");
}

#[test]
fn a_memcached_comes_to_rest_ready_at_its_services_name() {
    let desired = desired("memcached", &json!({ "memory": "64Mi" }));
    let (steps, _, decision) = settle(&desired, Observed::default());
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Ready, Reason::Available)
    );
    assert_eq!(decision.report.endpoint.unwrap().address, "i.n.svc.cluster.local:11211");
}

#[test]
fn a_redis_has_a_password_before_anything_runs() {
    let desired = desired("redis", &json!({ "memory": "128Mi" }));
    let (steps, observed, decision) = settle(&desired, Observed::default());
    assert_eq!(steps.first(), Some(&Step::Secret(SecretStep::CreateAuth)));
    assert_eq!(decision.report.progress, Progress::Ready);
    let data = observed.secrets["i-connection"].data.as_ref().unwrap();
    assert_eq!(data["uri"].0, b"redis://:hunter2@i.n.svc.cluster.local:6379");
}

#[test]
fn several_memcached_nodes_have_an_address_each() {
    let desired = desired("memcached", &json!({ "memory": "64Mi", "replicas": 3 }));
    let (_, observed, decision) = settle(&desired, Observed::default());
    assert_eq!(observed.services.keys().collect::<Vec<_>>(), ["i-0", "i-1", "i-2"]);
    assert_eq!(decision.report.nodes.len(), 3);
    let url = String::from_utf8(
        observed.secrets["i-connection"].data.as_ref().unwrap()["MEMCACHED_URL"]
            .0
            .clone(),
    );
    assert_eq!(url.unwrap().split(',').count(), 3);
}

#[test]
fn nodes_that_are_not_wanted_any_more_go() {
    let three = desired("memcached", &json!({ "memory": "64Mi", "replicas": 3 }));
    let (_, observed, _) = settle(&three, Observed::default());
    let two = desired("memcached", &json!({ "memory": "64Mi", "replicas": 2 }));
    let (_, observed, decision) = settle(&two, observed);
    assert_eq!(observed.deployments.keys().collect::<Vec<_>>(), ["i-0", "i-1"]);
    assert_eq!(decision.report.progress, Progress::Ready);
    let (_, from_nothing, _) = settle(&two, Observed::default());
    assert_eq!(observed.deployments, from_nothing.deployments);
}

#[test]
fn a_settled_instance_is_left_alone_and_an_edit_is_put_back() {
    let desired = desired("memcached", &json!({ "memory": "64Mi" }));
    let (_, mut observed, _) = settle(&desired, Observed::default());
    assert_eq!(settle(&desired, observed.clone()).0, []);
    let mut edited = (*observed.deployments["i"]).clone();
    edited.spec.as_mut().unwrap().replicas = Some(5);
    observed.deployments.insert("i".to_owned(), Arc::new(edited));
    let (steps, _, _) = settle(&desired, observed);
    assert!(
        matches!(steps.as_slice(), [Step::Apply(manifests)] if manifests.len() == 1),
        "{steps:?}"
    );
}

#[test]
fn a_pod_that_does_not_answer_is_told_apart_by_whether_it_ever_did() {
    let mut desired = desired("memcached", &json!({ "memory": "64Mi" }));
    let (_, mut observed, _) = settle(&desired, Observed::default());
    let mut down = (*observed.deployments["i"]).clone();
    down.status.as_mut().unwrap().available_replicas = None;
    observed.deployments.insert("i".to_owned(), Arc::new(down));
    assert_eq!(run(&desired, &observed).report.reason, Reason::Creating);
    desired.was_ready = true;
    assert_eq!(run(&desired, &observed).report.reason, Reason::Unavailable);
}

#[test]
fn what_can_never_run_is_said_and_nothing_is_made() {
    for (engine, kubernetes, part) in [
        ("memcached", json!({ "memory": "8Mi" }), "give the plan more memory"),
        (
            "memcached",
            json!({ "memory": "64Mi", "maxItemSize": "40Mi" }),
            "maxItemSize 40Mi is more than half",
        ),
        (
            "redis",
            json!({ "memory": "128Mi", "replicas": 2 }),
            "redis in the cluster runs as one node",
        ),
    ] {
        let decision = run(&desired(engine, &kubernetes), &Observed::default());
        assert_eq!(
            (&decision.step, decision.report.progress),
            (&Next::Rest, Progress::Stalled)
        );
        assert!(decision.report.message.contains(part), "{}", decision.report.message);
    }
}

#[test]
fn deleting_waits_for_the_end_of_every_object() {
    let mut desired = desired("redis", &json!({ "memory": "128Mi" }));
    let (_, observed, _) = settle(&desired, Observed::default());
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    let Next::Act(Step::Delete(objects)) = run(&desired, &observed).step else {
        panic!()
    };
    assert_eq!(objects.len(), 5, "{objects:?}");
    let mut going = observed.clone();
    let mut deployment = (*going.deployments["i"]).clone();
    deployment.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Timestamp::UNIX_EPOCH,
    ));
    going = Observed {
        deployments: BTreeMap::from([("i".to_owned(), Arc::new(deployment))]),
        ..Observed::default()
    };
    assert_eq!(run(&desired, &going).step, Next::Rest);
    assert_eq!(run(&desired, &Observed::default()).step, Next::Release);
}

#[test]
fn the_workload_is_locked_down_and_keeps_within_its_memory() {
    let desired = desired("redis", &json!({ "memory": "256Mi", "evictionPolicy": "volatile-ttl" }));
    let (_, observed, _) = settle(&desired, Observed::default());
    let pod = observed.deployments["i"]
        .spec
        .as_ref()
        .unwrap()
        .template
        .spec
        .clone()
        .unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.security_context.as_ref().unwrap().run_as_non_root, Some(true));
    let container = &pod.containers[0];
    assert_eq!(
        container.security_context.as_ref().unwrap().read_only_root_filesystem,
        Some(true)
    );
    let args = container.args.clone().unwrap();
    let of = |name: &str| args[args.iter().position(|arg| arg == name).unwrap() + 1].clone();
    assert_eq!(of("--maxmemory-policy"), "volatile-ttl");
    assert!(of("--maxmemory").trim_end_matches("mb").parse::<u32>().unwrap() < 256);
    assert!(
        !args.iter().any(|arg| arg.contains("hunter2")),
        "the password is not on the command line"
    );
    let policy = observed.policies["i"].spec.as_ref().unwrap();
    assert_eq!(
        policy.policy_types.as_deref(),
        Some(["Ingress".to_owned(), "Egress".to_owned()].as_slice())
    );
    assert!(policy.egress.as_ref().is_none_or(Vec::is_empty));
}
