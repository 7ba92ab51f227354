use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::super::Kind;
use super::*;
use crate::api::{CachePlanSpec, Owner, annotations};
use crate::provider::secrets::SecretStep;
use crate::provider::{Again, Consent, Next, Record};
use crate::settings::ServiceHost;

#[path = "adopting_tests.rs"]
mod adopting;
#[path = "simulated.rs"]
mod simulated;
#[path = "standing_tests.rs"]
mod standing;
#[path = "users_tests.rs"]
mod users;
#[path = "whatever_tests.rs"]
mod whatever;

use simulated::{BROKEN, Cluster};

fn placement() -> Placement {
    Placement {
        service_host: ServiceHost::Dns,
        cluster_domain: "cluster.local".to_owned(),
        operator_namespace: "operator".to_owned(),
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
        deleted_at: None,
        plan_name: "plan".to_owned(),
        plan,
        owner: Owner::default(),
        connection_secret: "i-connection".to_owned(),
        was_ready: false,
        consent: Consent::Withheld,
        ordered: false,
        restart_at: None,
        adopt: None,
        as_found: false,
        restore: None,
        users: Vec::new(),
        seed: None,
        grace: Duration::ZERO,
        release_superseded: false,
        recreate: false,
        published: crate::provider::Published::default(),
        record: Record::default(),
    }
}

/// One that was ready and may be changed at any time.
fn serving(engine: &str, kubernetes: &Value) -> Desired {
    Desired {
        was_ready: true,
        consent: Consent::Given,
        ..desired(engine, kubernetes)
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-23T00:00:00Z")
}

fn run(desired: &Desired, cluster: &Cluster) -> Decision<Step> {
    let spec = desired.plan.kubernetes.clone().unwrap();
    decide(desired, &spec, &placement(), &cluster.observed, now())
}

/// Decides, acts and lets the cluster work until nothing is to be done; returns the steps and the last decision. Holds
/// all the way that what answers goes on answering, and that a Service leads to one Pod at most.
fn settle(desired: &Desired, cluster: &mut Cluster) -> (Vec<Step>, Decision<Step>) {
    let mut steps = Vec::new();
    let mut rested = false;
    for _ in 0..80 {
        let before = cluster.clone();
        let decision = run(desired, cluster);
        if let Next::Act(step) = &decision.step {
            cluster.act(desired, step);
            steps.push(step.clone());
            stays_up(desired, &before, cluster, step);
        }
        cluster.tick();
        assert!(cluster.behind().iter().all(|pods| *pods <= 1), "{steps:#?}");
        let unchanged = *cluster == before;
        if decision.step == Next::Rest && unchanged {
            if rested {
                return (steps, decision);
            }
            rested = true;
        } else {
            rested = false;
        }
    }
    panic!("it does not come to rest: {steps:#?}");
}

/// A node of which another Deployment is wanted is served all the time; where a volume has to move, it has been tried
/// before whether the new Pod starts.
fn stays_up(desired: &Desired, before: &Cluster, after: &Cluster, step: &Step) {
    let (was, is) = (before.served(), after.served());
    let wanted =
        super::super::manifests::node_names(desired, desired.plan.kubernetes.as_ref().unwrap(), &after.observed);
    for node in was
        .keys()
        .filter(|node| wanted.contains(node) && !is.contains_key(*node))
    {
        let spec = desired.plan.kubernetes.as_ref().unwrap();
        let tried = before.observed.deployments.values().any(|deployment| {
            let notes = deployment.metadata.annotations.as_ref();
            let trial = notes.is_some_and(|notes| notes.contains_key(annotations::TRIAL));
            let status = deployment.status.as_ref();
            trial && status.is_some_and(|status| status.available_replicas == Some(1))
        });
        // What somebody else spoilt in a Deployment can only be put right where it stands.
        let mended = matches!(step, Step::Apply(manifests) if manifests.iter().any(|manifest| {
            manifest.kind == Kind::Deployment && manifest.name == was[node]
        }));
        assert!(
            spec.persistence.is_some() && tried || mended,
            "{node} is not served after {step:#?}"
        );
    }
}

fn settled(desired: &Desired) -> Cluster {
    let mut cluster = Cluster::default();
    settle(desired, &mut cluster);
    cluster
}

fn deployments(cluster: &Cluster) -> Vec<&str> {
    cluster.observed.deployments.keys().map(String::as_str).collect()
}

fn said(decision: &Decision<Step>) -> (Progress, Reason) {
    (decision.report.progress, decision.report.reason)
}

fn url(cluster: &Cluster) -> String {
    let data = cluster.observed.secrets["i-connection"].data.clone().unwrap();
    let url = data.get("MEMCACHED_URL").or(data.get("uri")).unwrap();
    String::from_utf8(url.0.clone()).unwrap()
}

#[test]
fn a_memcached_comes_to_rest_ready_at_its_services_name() {
    let desired = desired("memcached", &json!({ "memory": "64Mi" }));
    let (steps, decision) = settle(&desired, &mut Cluster::default());
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_eq!(decision.report.endpoint.unwrap().address, "i.n.svc.cluster.local:11211");
}

#[test]
fn a_redis_has_a_password_before_anything_runs() {
    let desired = desired("redis", &json!({ "memory": "128Mi" }));
    let mut cluster = Cluster::default();
    let (steps, decision) = settle(&desired, &mut cluster);
    assert_eq!(steps.first(), Some(&Step::Secret(SecretStep::CreateAuth)));
    assert_eq!(decision.report.progress, Progress::Ready);
    assert_eq!(url(&cluster), "redis://:hunter2@i.n.svc.cluster.local:6379");
}

#[test]
fn several_memcached_nodes_have_an_address_each_and_the_first_is_the_instances() {
    let desired = desired("memcached", &json!({ "memory": "64Mi", "replicas": 3 }));
    let mut cluster = Cluster::default();
    let (_, decision) = settle(&desired, &mut cluster);
    assert_eq!(
        cluster.observed.services.keys().collect::<Vec<_>>(),
        ["i", "i-1", "i-2"]
    );
    assert_eq!(decision.report.nodes.len(), 3);
    assert_eq!(url(&cluster).split(',').count(), 3);
    let budget = cluster.observed.budgets["i"].spec.clone().unwrap();
    assert_eq!(json!(budget.max_unavailable), json!(1));
}

#[test]
fn nodes_come_and_go_beside_the_first() {
    let of = |replicas: u16| serving("memcached", &json!({ "memory": "64Mi", "replicas": replicas }));
    let mut cluster = settled(&of(1));
    let first = deployments(&cluster)[0].to_owned();
    for (replicas, budget) in [(3, true), (2, true), (1, false)] {
        let (_, decision) = settle(&of(replicas), &mut cluster);
        assert_eq!(decision.report.progress, Progress::Ready);
        assert_eq!(cluster.observed.services.len(), usize::from(replicas));
        assert!(
            deployments(&cluster).contains(&first.as_str()),
            "the first is not touched"
        );
        assert_eq!(cluster.observed.budgets.contains_key("i"), budget);
        assert_eq!(url(&cluster).split(',').count(), usize::from(replicas));
    }
    assert_eq!(cluster, settled(&of(1)));
}

#[test]
fn a_node_goes_only_with_consent_and_after_clients_were_told() {
    let (two, mut one) = (
        serving("memcached", &json!({ "memory": "64Mi", "replicas": 2 })),
        serving("memcached", &json!({ "memory": "64Mi" })),
    );
    let mut cluster = settled(&two);
    one.consent = Consent::Withheld;
    let (steps, decision) = settle(&one, &mut cluster);
    assert_eq!(steps, []);
    assert_eq!(
        said(&decision),
        (Progress::ReadyAndReconciling, Reason::AwaitingMaintenance)
    );
    assert_eq!(decision.report.nodes.len(), 2);
    assert!(
        decision.report.message.starts_with("removing i-1 loses"),
        "{}",
        decision.report.message
    );
    one.consent = Consent::Given;
    let (steps, _) = settle(&one, &mut cluster);
    assert!(
        matches!(&steps[..], [Step::Secret(_), Step::Delete(gone)] if gone.len() == 3),
        "{steps:#?}"
    );
}

#[test]
fn a_settled_instance_is_left_alone_and_an_edit_is_put_back() {
    let desired = serving("memcached", &json!({ "memory": "64Mi" }));
    let cluster = settled(&desired);
    assert_eq!(settle(&desired, &mut cluster.clone()).0, []);
    let name = deployments(&cluster)[0].to_owned();
    let edits: [fn(&mut Deployment); 2] = [
        |deployment| deployment.spec.as_mut().unwrap().replicas = Some(0),
        |deployment| {
            deployment
                .spec
                .as_mut()
                .unwrap()
                .template
                .spec
                .as_mut()
                .unwrap()
                .containers[0]
                .image = None;
        },
    ];
    for edit in edits {
        let mut edited = cluster.clone();
        edited.edit(&name, edit);
        let (steps, _) = settle(&desired, &mut edited);
        assert!(!steps.is_empty());
        assert_eq!(deployments(&edited), [name.as_str()]);
        assert_eq!(edited.served(), cluster.served());
        assert_eq!(
            edited.observed.deployments[&name].spec,
            cluster.observed.deployments[&name].spec
        );
    }
    let mut misled = cluster.clone();
    let service = Arc::make_mut(misled.observed.services.get_mut("i").unwrap());
    let selector = service.spec.as_mut().unwrap().selector.as_mut().unwrap();
    selector.insert("somebody".to_owned(), "else".to_owned());
    settle(&desired, &mut misled);
    assert_eq!(misled.served(), cluster.served());
}

#[test]
fn a_port_of_the_plans_is_that_of_the_services_and_stays() {
    let of = |port: u16, nodes: u16| json!({ "memory": "64Mi", "port": port, "replicas": nodes });
    let before = serving("memcached", &of(11311, 2));
    let mut cluster = settled(&before);
    let (_, decision) = settle(&before, &mut cluster);
    let told = decision.report.endpoint.clone().unwrap();
    assert_eq!(told.port, 11311);
    assert_eq!(
        url(&cluster),
        "i.n.svc.cluster.local:11311,i-1.n.svc.cluster.local:11311"
    );
    let ports = |cluster: &Cluster| -> Vec<_> {
        let services = cluster.observed.services.values();
        let ports = services.map(|service| service.spec.as_ref().unwrap().ports.as_ref().unwrap());
        ports
            .map(|ports| (ports.len(), ports[0].port, ports[0].target_port.clone()))
            .collect()
    };
    // Pods answer at the engine's port, so probes and the NetworkPolicy know no other.
    let pods = Some(IntOrString::Int(11211));
    assert_eq!(ports(&cluster), [(1, 11311, pods.clone()), (1, 11311, pods.clone())]);
    let policy = cluster.observed.policies["i"].spec.as_ref().unwrap();
    let let_in = &policy.ingress.as_ref().unwrap()[0].ports.as_ref().unwrap()[0];
    assert_eq!(let_in.port, pods);

    // Another plan, or the plan edited: whoever knows the address goes on using it, and new nodes are at that port, too.
    let known = |desired: Desired| Desired {
        published: crate::provider::Published {
            endpoint: Some(told.clone()),
            ..crate::provider::Published::default()
        },
        record: decision.report.record.clone(),
        ..desired
    };
    for (port, nodes) in [(json!(7000), 3), (Value::Null, 3)] {
        let mut after = of(7000, nodes);
        after["port"] = port;
        let (_, decision) = settle(&known(serving("memcached", &after)), &mut cluster);
        assert_eq!(decision.report.endpoint, Some(told.clone()));
        assert_eq!(ports(&cluster), vec![(1, 11311, pods.clone()); 3]);
    }
    let mut edited = cluster.clone();
    let service = Arc::make_mut(edited.observed.services.get_mut("i").unwrap());
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 1;
    settle(&known(serving("memcached", &of(7000, 3))), &mut edited);
    assert_eq!(ports(&edited), ports(&cluster), "an edit is put back");

    // What takes the place of a cache elsewhere has the plan's, whatever that one had.
    let mut moved = known(desired("memcached", &of(7000, 1)));
    moved.was_ready = false;
    let mut empty = Cluster::default();
    assert_eq!(settle(&moved, &mut empty).1.report.endpoint.unwrap().port, 7000);
}

#[test]
fn a_change_goes_over_when_the_new_one_answers_and_only_then() {
    let (small, large) = (
        serving("memcached", &json!({ "memory": "64Mi" })),
        serving("memcached", &json!({ "memory": "96Mi" })),
    );
    let mut cluster = settled(&small);
    let old = deployments(&cluster)[0].to_owned();
    let (steps, decision) = settle(&large, &mut cluster);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    let [Step::Apply(made), Step::Apply(turned), Step::Delete(gone)] = &steps[..] else {
        panic!("{steps:#?}")
    };
    assert_eq!((made[0].kind, turned[0].kind), (Kind::Deployment, Kind::Service));
    assert_eq!(gone, &[(Kind::Deployment, old)]);
    assert_eq!(cluster, settled(&large), "what was changed is as what was made so");
}

#[test]
fn a_change_that_fails_says_why_and_goes_when_it_is_taken_back() {
    let good = serving("redis", &json!({ "memory": "64Mi", "connectionLimit": 10 }));
    let bad = serving(
        "redis",
        &json!({ "memory": "64Mi", "connectionLimit": 10, "image": BROKEN }),
    );
    let mut cluster = settled(&good);
    let before = cluster.clone();
    let (_, decision) = settle(&bad, &mut cluster);
    assert_eq!(
        said(&decision),
        (Progress::ReadyAndReconciling, Reason::WorkloadFailing)
    );
    let message = &decision.report.message;
    assert!(
        message.contains("its image example.org/broken:1 cannot be pulled"),
        "{message}"
    );
    assert_eq!(decision.report.nodes, run(&good, &before).report.nodes);
    assert_eq!(cluster.served(), before.served());
    let (steps, decision) = settle(&good, &mut cluster);
    assert!(
        matches!(&steps[..], [Step::Delete(gone)] if gone.len() == 1),
        "{steps:#?}"
    );
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_eq!(cluster, before);
}

#[test]
fn one_that_cannot_be_made_says_why() {
    let bad = desired(
        "redis",
        &json!({ "memory": "64Mi", "connectionLimit": 10, "image": BROKEN }),
    );
    let (_, decision) = settle(&bad, &mut Cluster::default());
    assert_eq!(said(&decision), (Progress::Reconciling, Reason::WorkloadFailing));
    assert!(
        decision
            .report
            .message
            .contains("cannot be pulled: not found: correct the image")
    );
}

#[test]
fn what_loses_data_waits_for_its_window_or_consent_and_what_does_not_is_done() {
    let window = "mon:05:00-mon:06:00";
    let plan = |memory: &str, window: Option<&str>| {
        let allowed = json!({ "podSelector": { "matchLabels": { "memory": memory } } });
        let plan = json!({ "memory": memory, "maintenanceWindow": window, "allowedFrom": allowed });
        Desired {
            consent: Consent::Withheld,
            ..serving("memcached", &plan)
        }
    };
    let mut cluster = settled(&plan("64Mi", None));
    let served = cluster.served();
    let (steps, decision) = settle(&plan("96Mi", Some(window)), &mut cluster);
    assert!(
        matches!(&steps[..], [Step::Apply(policy)] if policy[0].kind == Kind::NetworkPolicy),
        "{steps:#?}"
    );
    assert_eq!(
        said(&decision),
        (Progress::ReadyAndReconciling, Reason::AwaitingMaintenance)
    );
    assert_eq!(
        decision.report.message,
        "replacing the Pod of i loses what it holds, and waits for the maintenance window, which opens at 2026-11-23T05:00:00Z; \
         to have it done now, annotate the instance with cache.akkeris.io/approve-disruption=true"
    );
    assert_eq!(decision.again, Again::After(Duration::from_secs(5 * 3600)));
    assert_eq!(cluster.served(), served);
    let (_, decision) = settle(&plan("96Mi", None), &mut cluster);
    assert!(
        decision.report.message.contains("waits for consent"),
        "{}",
        decision.report.message
    );
    assert_eq!(decision.again, Again::OnChange);
    let open = plan("96Mi", Some("mon:00:00-mon:01:00"));
    let (_, decision) = settle(&open, &mut cluster);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_ne!(cluster.served(), served);
}

#[test]
fn what_never_answered_is_changed_at_once() {
    let bad = json!({ "memory": "64Mi", "image": BROKEN });
    let mut cluster = settled(&desired("memcached", &bad));
    let (_, decision) = settle(&desired("memcached", &json!({ "memory": "64Mi" })), &mut cluster);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
}

#[test]
fn a_restart_goes_from_node_to_node_when_it_is_due() {
    let plan = json!({ "memory": "64Mi", "replicas": 2 });
    let mut instance = serving("memcached", &plan);
    instance.consent = Consent::Withheld;
    let mut cluster = settled(&instance);
    let old: Vec<_> = deployments(&cluster).into_iter().map(str::to_owned).collect();
    instance.restart_at = Some(at("2026-11-23T02:00:00Z"));
    let (steps, decision) = settle(&instance, &mut cluster);
    assert_eq!((steps, said(&decision)), (vec![], (Progress::Ready, Reason::Available)));
    assert_eq!(decision.again, Again::After(Duration::from_secs(7200)));

    instance.restart_at = Some(at("2026-11-22T23:00:00Z"));
    let decision = run(&instance, &cluster);
    assert_eq!(said(&decision), (Progress::ReadyAndReconciling, Reason::Restarting));
    assert_eq!(decision.report.record.restarted_at, None);
    let (steps, decision) = settle(&instance, &mut cluster);
    let names: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Apply(manifests) => manifests[0].kind.as_str(),
            Step::Delete(gone) => gone[0].1.as_str(),
            _ => panic!("{step:?}"),
        })
        .collect();
    assert_eq!(
        names,
        ["Deployment", "Service", &old[1], "Deployment", "Service", &old[0]]
    );
    assert_eq!(decision.report.record.restarted_at, instance.restart_at);
    instance.record = decision.report.record;
    assert_eq!(settle(&instance, &mut cluster).0, []);
    // Nobody asks any more: what was restarted is not restarted back, also when the status was lost.
    instance.restart_at = None;
    assert_eq!(settle(&instance, &mut cluster.clone()).0, []);
    instance.record = Record::default();
    assert_eq!(settle(&instance, &mut cluster).0, []);
}

#[test]
fn a_restart_that_was_begun_or_ordered_does_not_wait_for_a_clock_that_is_behind() {
    let mut instance = serving("memcached", &json!({ "memory": "64Mi", "replicas": 2 }));
    let cluster = settled(&instance);
    // Not yet, by this clock.
    instance.restart_at = Some(at("2026-11-23T02:00:00Z"));
    assert_eq!(settle(&instance, &mut cluster.clone()).0, []);
    let ordered = Desired {
        ordered: true,
        ..instance.clone()
    };
    let decision = run(&ordered, &cluster);
    assert_eq!(said(&decision), (Progress::ReadyAndReconciling, Reason::Restarting));
    let mut restarted = cluster.clone();
    let all = settle(&ordered, &mut restarted).0;
    // The successor of the first node stands, and the clock is set back: it goes on rather than being taken away.
    let mut begun = cluster.clone();
    let Next::Act(step) = decision.step else {
        panic!("{decision:?}")
    };
    begun.act(&instance, &step);
    let rest = settle(&instance, &mut begun).0;
    assert_eq!(rest, all[1..]);
}

#[test]
fn a_pod_that_does_not_answer_is_told_apart_by_whether_it_ever_did() {
    let mut desired = desired("memcached", &json!({ "memory": "64Mi" }));
    let mut cluster = settled(&desired);
    let name = deployments(&cluster)[0].to_owned();
    cluster.edit(&name, |deployment| {
        deployment.status.as_mut().unwrap().available_replicas = None;
    });
    assert_eq!(run(&desired, &cluster).report.reason, Reason::Creating);
    desired.was_ready = true;
    assert_eq!(
        said(&run(&desired, &cluster)),
        (Progress::Reconciling, Reason::Unavailable)
    );
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
        (
            "redis",
            json!({ "memory": "1Gi", "persistence": { "size": "1Gi" } }),
            "give the plan a larger volume",
        ),
        (
            "redis",
            json!({ "memory": "128Mi", "maintenanceWindow": "mon:25:00-mon:26:00" }),
            "is no window of a week",
        ),
    ] {
        let decision = run(&desired(engine, &kubernetes), &Cluster::default());
        assert_eq!(
            (&decision.step, decision.report.progress),
            (&Next::Rest, Progress::Stalled)
        );
        assert!(decision.report.message.contains(part), "{}", decision.report.message);
    }
    let of = |class: &str| {
        serving(
            "redis",
            &json!({ "memory": "128Mi", "persistence": { "size": "1Gi", "storageClass": class } }),
        )
    };
    let cluster = settled(&of("a"));
    let decision = run(&of("b"), &cluster);
    assert_eq!(
        (&decision.step, decision.report.progress),
        (&Next::Rest, Progress::Stalled)
    );
    assert!(
        decision
            .report
            .message
            .contains("is of storage class a and cannot become b")
    );
    assert!(decision.report.endpoint.is_some() && decision.report.bound);
}

#[test]
fn deleting_waits_for_the_end_of_every_object_and_touches_nobody_elses() {
    let mut desired = desired("redis", &json!({ "memory": "128Mi", "persistence": { "size": "1Gi" } }));
    let mut cluster = settled(&desired);
    let kept = cluster.clone();
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    let Next::Act(Step::Delete(objects)) = run(&desired, &cluster).step else {
        panic!()
    };
    assert_eq!(objects.len(), 6, "{objects:?}");
    cluster.act(&desired, &Step::Delete(objects));
    assert_eq!(run(&desired, &cluster).step, Next::Rest);
    cluster.tick();
    assert_eq!(run(&desired, &cluster).step, Next::Release);

    desired.existence = Existence::Superseded;
    let Next::Act(Step::Delete(objects)) = run(&desired, &kept).step else {
        panic!()
    };
    assert!(objects.iter().all(|(kind, _)| *kind != Kind::Secret), "{objects:?}");

    desired.existence = Existence::Absent(DeletionPolicy::Retain);
    desired.was_ready = true;
    assert!(matches!(run(&desired, &kept).step, Next::Act(Step::Disown(kept)) if kept.len() == 6));
    desired.uid = "of a later instance".to_owned();
    desired.existence = Existence::Absent(DeletionPolicy::Delete);
    assert_eq!(run(&desired, &kept).step, Next::Release);
}

#[test]
fn the_workload_is_locked_down_and_keeps_within_its_memory() {
    let desired = desired("redis", &json!({ "memory": "256Mi", "evictionPolicy": "volatile-ttl" }));
    let observed = settled(&desired).observed;
    let deployment = observed.deployments.values().next().unwrap();
    let pod = deployment.spec.as_ref().unwrap().template.spec.clone().unwrap();
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
    assert_eq!((of("--save"), of("--appendonly")), (String::new(), "no".to_owned()));
    assert!(of("--maxmemory").trim_end_matches("mb").parse::<u32>().unwrap() < 256);
    assert!(
        !json!(**deployment).to_string().contains("hunter2"),
        "the password is in no command line"
    );
    let policy = observed.policies["i"].spec.as_ref().unwrap();
    assert_eq!(
        policy.policy_types.as_deref(),
        Some(["Ingress".to_owned(), "Egress".to_owned()].as_slice())
    );
    assert!(policy.egress.as_ref().is_none_or(Vec::is_empty));
}
