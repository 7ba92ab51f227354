//! Users come to Pods that run, go from them, and are there in every Pod that starts.

use k8s_openapi::api::core::v1::Secret;
use secrecy::SecretString;

use super::*;
use crate::api::labels;
use crate::provider::users::{Credential, LOOK_AGAIN, UserRecord, UserRef};
use crate::wire::{AclUser, PasswordHash, SeenUser};

fn plan() -> Value {
    json!({ "memory": "128Mi", "connectionLimit": 10 })
}

/// A redis that serves, with a user for each binding, and nobody bound.
fn empty() -> (Desired, Cluster) {
    let mut desired = serving("redis", &plan());
    desired.plan.binding_credentials = crate::api::BindingCredentials::PerBinding;
    let mut cluster = Cluster::default();
    follow(&mut desired, &mut cluster);
    (desired, cluster)
}

/// Settles, and keeps what the status would.
fn follow(desired: &mut Desired, cluster: &mut Cluster) -> (Vec<Step>, Decision<Step>) {
    let mut all = Vec::new();
    loop {
        let decision = run(desired, cluster);
        let known = desired.record == decision.report.record;
        desired.record = decision.report.record.clone();
        match &decision.step {
            Next::Act(step) => {
                all.push(step.clone());
                cluster.act(desired, step);
                cluster.tick();
            }
            _ if known && {
                let before = cluster.clone();
                cluster.tick();
                before == *cluster
            } =>
            {
                return (all, decision);
            }
            _ => {}
        }
        assert!(all.len() < 40, "{all:#?}");
    }
}

fn hash(name: &str) -> PasswordHash {
    PasswordHash::of(&SecretString::from(format!("password-of-{name}")))
}

/// What the outbox makes of a binding.
fn bind(desired: &mut Desired, cluster: &mut Cluster, name: &str) {
    let secret = format!("i-user-{name}");
    let object: Secret = serde_json::from_value(json!({ "metadata": {
        "name": secret, "labels": { labels::USER: name },
        "ownerReferences": [{ "apiVersion": "v1", "kind": "CacheInstance", "name": "i", "uid": "u" }],
        "creationTimestamp": "2026-11-22T23:59:00Z",
    } }))
    .unwrap();
    cluster.observed.secrets.insert(secret.clone(), Arc::new(object));
    cluster.observed.credentials.insert(
        name.to_owned(),
        Credential {
            version: "1".to_owned(),
            hash: hash(name),
            suits_elasticache: true,
        },
    );
    desired.users.push(UserRef {
        name: name.to_owned(),
        secret,
    });
}

fn unbind(desired: &mut Desired, name: &str) {
    desired.users.retain(|user| user.name != name);
}

fn record(name: &str, ready: bool) -> UserRecord {
    UserRecord {
        name: name.to_owned(),
        ready,
        secret_version: ready.then(|| "1".to_owned()),
    }
}

fn file(cluster: &Cluster) -> String {
    let data = cluster.observed.secrets["i-users"].data.clone().unwrap();
    String::from_utf8(data["users.acl"].0.clone()).unwrap()
}

#[test]
fn the_users_that_a_pod_starts_with_are_written_before_it() {
    let (_, cluster) = empty();
    assert!(file(&cluster).starts_with("user default on #"), "{}", file(&cluster));
    let (_, deployment) = cluster.observed.deployments.first_key_value().unwrap();
    let pod = deployment.spec.clone().unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    assert_eq!(args[args.len() - 2..], ["--aclfile", "/etc/redis-users/users.acl"]);
    assert_eq!(
        pod.volumes.unwrap()[1].secret.as_ref().unwrap().secret_name.as_deref(),
        Some("i-users")
    );
}

#[test]
fn a_plan_with_shared_credentials_makes_what_it_always_made() {
    let cluster = settled(&serving("redis", &plan()));
    assert!(!cluster.observed.secrets.contains_key("i-users"));
    let (with_users, _) = empty();
    assert_ne!(deployments(&cluster), deployments(&settled(&with_users)));
}

#[test]
fn users_come_and_go_without_another_pod() {
    let (mut desired, mut cluster) = empty();
    let pods = deployments(&cluster).join(" ");
    bind(&mut desired, &mut cluster, "b-1");
    bind(&mut desired, &mut cluster, "b-2");
    let (steps, decision) = follow(&mut desired, &mut cluster);
    let [Step::Secret(SecretStep::ApplyUsers(_)), Step::Users { change, .. }] = &steps[..] else {
        panic!("{steps:#?}")
    };
    assert_eq!((change.set.len(), change.remove.len()), (2, 0));
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_eq!(desired.record.users, [record("b-1", true), record("b-2", true)]);

    unbind(&mut desired, "b-1");
    let (steps, decision) = follow(&mut desired, &mut cluster);
    let [
        Step::Secret(SecretStep::ApplyUsers(_)),
        Step::Users { change, .. },
        Step::Delete(gone),
    ] = &steps[..]
    else {
        panic!("{steps:#?}")
    };
    assert_eq!((change.set.len(), &change.remove), (0, &vec!["b-1".to_owned()]));
    assert_eq!(gone, &[(Kind::Secret, "i-user-b-1".to_owned())]);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_eq!(desired.record.users, [record("b-2", true)]);
    assert_eq!(deployments(&cluster).join(" "), pods);
    assert!(!file(&cluster).contains("b-1") && file(&cluster).contains("b-2"));
}

/// The record is there before the first step towards a user, and until the last trace of it is gone.
#[test]
fn a_user_is_on_record_as_long_as_it_may_be_anywhere() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    let decision = run(&desired, &cluster);
    assert!(matches!(decision.step, Next::Act(Step::Secret(_))));
    assert_eq!(decision.report.record.users, [record("b-1", false)]);
    assert_eq!(decision.report.progress, Progress::ReadyAndReconciling);
    follow(&mut desired, &mut cluster);
    unbind(&mut desired, "b-1");
    loop {
        let decision = run(&desired, &cluster);
        desired.record = decision.report.record.clone();
        let Next::Act(step) = &decision.step else { break };
        assert_eq!(desired.record.users, [record("b-1", true)], "before {step:?}");
        cluster.act(&desired, step);
        cluster.tick();
    }
    assert_eq!(desired.record.users, []);
}

#[test]
fn another_pod_serves_only_once_it_has_all_users() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    follow(&mut desired, &mut cluster);
    let before = cluster.served();
    desired.plan.kubernetes.as_mut().unwrap().connection_limit = Some(20);
    // It starts beside the one that serves, and does not hear of the second user.
    let Next::Act(step @ Step::Apply(_)) = run(&desired, &cluster).step else {
        panic!("no other Pod")
    };
    cluster.act(&desired, &step);
    cluster.tick();
    bind(&mut desired, &mut cluster, "b-2");
    let mut turned = false;
    for _ in 0..20 {
        let decision = run(&desired, &cluster);
        desired.record = decision.report.record.clone();
        if let Next::Act(step) = &decision.step {
            cluster.act(&desired, step);
            if cluster.served() != before && !turned {
                turned = true;
                let new = &cluster.served()["i"];
                let users = cluster.observed.heard[new].as_ref().unwrap();
                assert_eq!(users.keys().collect::<Vec<_>>(), ["b-1", "b-2", "default"]);
            }
        }
        cluster.tick();
    }
    assert!(turned);
    let (_, decision) = follow(&mut desired, &mut cluster);
    assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
    assert_eq!(desired.record.users, [record("b-1", true), record("b-2", true)]);
}

#[test]
fn what_somebody_changed_in_a_pod_is_put_right() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    follow(&mut desired, &mut cluster);
    let pod = cluster.observed.heard.keys().next().unwrap().clone();
    let other = AclUser {
        name: "backdoor".to_owned(),
        password: hash("backdoor"),
    };
    cluster
        .observed
        .heard
        .insert(pod, Ok([("backdoor".to_owned(), SeenUser::from(&other))].into()));
    let (steps, _) = follow(&mut desired, &mut cluster);
    let [Step::Users { change, .. }] = &steps[..] else {
        panic!("{steps:#?}")
    };
    assert_eq!((change.set.len(), &change.remove), (1, &vec!["backdoor".to_owned()]));
}

#[test]
fn a_pod_that_cannot_be_asked_is_said_and_asked_again() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    follow(&mut desired, &mut cluster);
    let pod = cluster.observed.heard.keys().next().unwrap().clone();
    cluster
        .observed
        .heard
        .insert(pod, Err("no complete answer within 5000 ms".to_owned()));
    bind(&mut desired, &mut cluster, "b-2");
    unbind(&mut desired, "b-1");
    let (_, decision) = follow(&mut desired, &mut cluster);
    assert_eq!(decision.report.progress, Progress::ReadyAndReconciling);
    assert!(
        decision.report.message.contains("no complete answer"),
        "{}",
        decision.report.message
    );
    assert_eq!(decision.again, Again::After(LOOK_AGAIN));
    // Nobody knows that the one is refused and the other let in.
    assert_eq!(desired.record.users, [record("b-1", true), record("b-2", false)]);
}

#[test]
fn whoever_loses_a_secret_does_not_lose_the_user() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    follow(&mut desired, &mut cluster);
    cluster.observed.credentials.clear();
    cluster.observed.secrets.remove("i-user-b-1");
    let (steps, decision) = follow(&mut desired, &mut cluster);
    assert_eq!(steps, []);
    assert_eq!(decision.report.progress, Progress::Ready);
    // One that never had any waits for it.
    desired.users.push(UserRef {
        name: "batch".to_owned(),
        secret: "batch-password".to_owned(),
    });
    let (_, decision) = follow(&mut desired, &mut cluster);
    assert!(
        decision.report.message.contains("Secret batch-password"),
        "{}",
        decision.report.message
    );
}

#[test]
fn a_secret_that_was_made_and_never_named_goes_after_a_while() {
    let (mut desired, mut cluster) = empty();
    bind(&mut desired, &mut cluster, "b-1");
    unbind(&mut desired, "b-1");
    assert_eq!(follow(&mut desired, &mut cluster).0, [], "it may be named in a moment");
    let secret = Arc::make_mut(cluster.observed.secrets.get_mut("i-user-b-1").unwrap());
    secret.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-11-22T23:00:00Z")).unwrap());
    let (steps, _) = follow(&mut desired, &mut cluster);
    assert_eq!(steps, [Step::Delete(vec![(Kind::Secret, "i-user-b-1".to_owned())])]);
}

#[test]
fn a_pod_may_be_reached_from_the_operators_namespace_where_it_has_users() {
    let peers = |users: bool| {
        let mut desired = serving("redis", &plan());
        if users {
            desired.plan.binding_credentials = crate::api::BindingCredentials::PerBinding;
        }
        desired.plan.kubernetes.as_mut().unwrap().allowed_from = Some(crate::api::AllowedFrom::default());
        let cluster = settled(&desired);
        let policy = cluster.observed.policies["i"].spec.clone().unwrap();
        policy.ingress.unwrap()[0].from.clone().unwrap().len()
    };
    assert_eq!((peers(false), peers(true)), (1, 2));
}

/// As somebody writes it by hand.
fn write(cluster: &mut Cluster, secret: &str, entries: &[(&str, &str)]) {
    let secret = Arc::make_mut(cluster.observed.secrets.get_mut(secret).unwrap());
    for (key, text) in entries {
        let text = k8s_openapi::ByteString(text.as_bytes().to_vec());
        secret.data.as_mut().unwrap().insert((*key).to_owned(), text);
    }
    if let Some(version) = &mut secret.metadata.resource_version {
        version.push('0');
    }
}

fn says(cluster: &Cluster, secret: &str, key: &str) -> String {
    crate::provider::secrets::value(&cluster.observed.secrets[secret], key).unwrap()
}

#[test]
fn the_password_stays_the_one_that_pods_were_started_with_whoever_writes_another() {
    let mut shared = serving("redis", &plan());
    let mut alone = Cluster::default();
    follow(&mut shared, &mut alone);
    for (mut desired, mut cluster) in [(shared, alone), empty()] {
        let edits: [&[(&str, &str)]; 3] = [
            &[("password", "mine")],
            &[("auth.conf", "requirepass mine\n")],
            &[("password", "mine"), ("auth.conf", "requirepass mine\n")],
        ];
        let stands = |cluster: &Cluster| {
            assert_eq!(says(cluster, "i-auth", "password"), "hunter2");
            assert_eq!(says(cluster, "i-auth", "auth.conf"), "requirepass hunter2\n");
            assert_eq!(says(cluster, "i-connection", "password"), "hunter2");
        };
        for edit in edits {
            write(&mut cluster, "i-auth", edit);
            let (steps, decision) = follow(&mut desired, &mut cluster);
            assert!(
                matches!(steps[..], [Step::Secret(SecretStep::ApplyAuth(_))]),
                "{steps:?}"
            );
            assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
            stands(&cluster);
        }
        // The connection follows from it, and is no witness of its own.
        write(&mut cluster, "i-connection", &[("password", "mine")]);
        let (steps, _) = follow(&mut desired, &mut cluster);
        assert!(
            matches!(steps[..], [Step::Secret(SecretStep::ApplyConnection(_))]),
            "{steps:?}"
        );
        stands(&cluster);
        cluster.observed.secrets.remove("i-auth").unwrap();
        follow(&mut desired, &mut cluster);
        stands(&cluster);
        // A label is no password.
        write(&mut cluster, "i-auth", &[]);
        assert!(follow(&mut desired, &mut cluster).0.is_empty());
        stands(&cluster);
    }
}

#[test]
fn the_secret_of_users_is_labelled_with_the_plan_that_the_instance_is_on() {
    let (mut desired, mut cluster) = empty();
    desired.plan_name = "another".to_owned();
    follow(&mut desired, &mut cluster);
    for name in ["i-users", "i-connection"] {
        let labels = cluster.observed.secrets[name].metadata.labels.clone().unwrap();
        assert_eq!(labels[labels::PLAN], "another", "{name}");
    }
}
