use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::super::facts::{Cluster, Looked};
use super::super::plans::OldProvider;
use super::*;
use crate::ledger::import::{HeldInstance, HeldMember, Holdings};
use crate::provider::kubernetes::adopt::Found;
use crate::webhooks::Policy;

fn resource(id: &str, name: &str, plan: &str) -> OldResource {
    OldResource {
        id: id.to_owned(),
        name: name.to_owned(),
        plan: plan.to_owned(),
        claimed: true,
        status: "available".to_owned(),
        endpoint: String::new(),
        has_credentials: false,
        created: "2020-01-01T00:00:00Z".parse().unwrap(),
        updated: "2021-01-01T00:00:00Z".parse().unwrap(),
        deleted: false,
    }
}

fn task(id: &str, of: &str, action: &str, status: &str) -> OldTask {
    OldTask {
        id: id.to_owned(),
        resource: of.to_owned(),
        action: action.to_owned(),
        status: status.to_owned(),
        metadata: r#"{"url":"https://example.com/hook","secret":"s3cret"}"#.to_owned(),
        deleted: false,
    }
}

fn workload(name: &str) -> Found {
    let labels = json!({ "app": name });
    let deployment = json!({
        "metadata": { "name": name, "annotations": { "owner": "org-1" } },
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
            "spec": { "containers": [{ "name": "memcached", "image": "memcached:1.6" }] },
        } },
    });
    let service = json!({
        "metadata": { "name": name },
        "spec": { "selector": labels, "ports": [{ "port": 11211 }] },
    });
    Found {
        deployment: Some(Arc::new(serde_json::from_value(deployment).unwrap())),
        service: Some(Arc::new(serde_json::from_value(service).unwrap())),
    }
}

fn plans() -> BTreeMap<String, PlanFate> {
    let plan = |name: &str, usable| PlanFate {
        service_id: "service".to_owned(),
        name: name.to_owned(),
        usable,
    };
    let usable = |provider| {
        Ok(Usable {
            provider,
            revision: 4,
            preprovision: 1,
            deadline: Duration::from_secs(60),
        })
    };
    [
        ("aws", plan("redis-aws", usable(OldProvider::AwsRedis))),
        ("k8s", plan("memcached-k8s", usable(OldProvider::KubernetesMemcached))),
        (
            "broken",
            plan("broken", Err("invalid details: correct them".to_owned())),
        ),
    ]
    .map(|(id, plan)| (id.to_owned(), plan))
    .into()
}

fn facts() -> Facts {
    let cluster = |edit: &dyn Fn(&mut Cluster)| {
        let mut cluster = Cluster {
            engine: Some(crate::api::EngineType::Redis),
            nodes: 1,
            address: Some("c1.example:6379".to_owned()),
            billing_code: Some("org-2".to_owned()),
            ..Cluster::default()
        };
        edit(&mut cluster);
        cluster
    };
    Facts {
        clusters: Looked::Found(
            [
                ("c1", cluster(&|_| {})),
                ("c2", cluster(&|_| {})),
                ("member", cluster(&|one| one.group = Some("g".to_owned()))),
                ("three", cluster(&|one| one.nodes = 3)),
                (
                    "memcached",
                    cluster(&|one| one.engine = Some(crate::api::EngineType::Memcached)),
                ),
                ("leaving", cluster(&|one| one.deleting = true)),
                ("owned", cluster(&|one| one.owner = Some("u".to_owned()))),
            ]
            .map(|(id, cluster)| (id.to_owned(), cluster))
            .into(),
        ),
        workloads: Looked::Found(
            ["w1", "w2", "9w"]
                .map(|name| (("memcached-system".to_owned(), name.to_owned()), workload(name)))
                .into(),
        ),
        watched: None,
        namespaces: crate::api::Namespaces {
            memcached: "memcached-system".to_owned(),
            redis: "redis-system".to_owned(),
        },
        holdings: Holdings::default(),
        webhooks: Policy::Public,
    }
}

fn judged(resources: Vec<OldResource>, tasks: Vec<OldTask>, facts: &Facts) -> Vec<Entry> {
    let old = Old {
        resources,
        tasks,
        ..Old::default()
    };
    let entries = rows(&old, &plans(), facts);
    assert_eq!(
        entries.len(),
        old.resources.len() + old.tasks.len(),
        "every row has its line"
    );
    entries
}

fn one(resource: OldResource) -> Entry {
    judged(vec![resource], Vec::new(), &facts()).remove(0)
}

fn instance(entry: &Entry) -> &ImportedInstance {
    match &entry.write {
        Some(Write::Instance(new)) => new,
        other => panic!("{other:?} {:?}", entry.line),
    }
}

fn why(entry: &Entry) -> &str {
    match &entry.line.fate {
        Fate::NeedsDecision(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_is_taken_over_where_its_cache_is() {
    let entry = one(resource("i1", "C1", "aws"));
    let new = instance(&entry);
    assert_eq!((new.plan_name.as_str(), new.plan_revision), ("redis-aws", 4));
    assert_eq!(new.organization_guid, "org-2");
    let made_up = resource_name(&"i1".parse().unwrap());
    let Standing::Present {
        provider_id,
        namespace,
        name,
        awaited,
    } = &new.standing
    else {
        panic!("{new:?}")
    };
    assert_eq!(
        (provider_id.as_str(), namespace.as_str(), name, awaited),
        ("C1", "redis-system", &made_up, &None)
    );

    let entry = one(resource("i2", "w1", "k8s"));
    let new = instance(&entry);
    assert_eq!(new.organization_guid, "org-1");
    let Standing::Present { namespace, name, .. } = &new.standing else {
        panic!()
    };
    assert_eq!(
        (namespace.as_str(), name.as_str()),
        ("memcached-system", "w1"),
        "its host name is kept"
    );
}

#[test]
fn one_that_was_given_back_stays_known_whatever_became_of_its_plan() {
    for plan in ["aws", "k8s", "broken"] {
        let mut gone = resource("i1", "nowhere", plan);
        gone.deleted = true;
        let entry = one(gone.clone());
        assert_eq!(instance(&entry).standing, Standing::Gone { at: gone.updated });
        gone.claimed = false;
        assert!(matches!(one(gone).line.fate, Fate::Skipped(_)));
    }
}

#[test]
fn what_is_broken_is_told_with_what_to_do() {
    let cases: [(&str, &str, &str); 11] = [
        ("gone", "aws", "there is no cache cluster gone"),
        ("gone", "k8s", "there is no Deployment gone"),
        ("c1", "unknown", "its plan unknown is not in table plans"),
        ("c1", "broken", "invalid details: correct them"),
        ("member", "aws", "replication group g"),
        ("three", "aws", "has 3 nodes"),
        ("memcached", "aws", "does not run redis"),
        ("owned", "aws", "CacheInstance of uid u"),
        ("", "aws", "names no cache"),
        ("9w", "k8s", "cannot be the name of a CacheInstance"),
        ("w2", "k8s", "which WATCH_NAMESPACES does not have"),
    ];
    for (name, plan, part) in cases {
        let mut facts = facts();
        if name == "w2" {
            facts.watched = Some(["redis-system".to_owned()].into());
        }
        let entry = judged(vec![resource("i", name, plan)], Vec::new(), &facts).remove(0);
        assert!(
            entry.write.is_none() && why(&entry).contains(part),
            "{name}: {:?}",
            entry.line
        );
    }
    assert!(matches!(
        one(resource("i", "leaving", "aws")).line.fate,
        Fate::Skipped(_)
    ));
    assert!(why(&one(resource("", "c1", "aws"))).contains("its id must not be empty"));
    let mut off = facts();
    off.clusters = Looked::Not("set AWS_REGION".to_owned());
    let entry = judged(vec![resource("i", "c1", "aws")], Vec::new(), &off).remove(0);
    assert_eq!(why(&entry), "set AWS_REGION");
}

#[test]
fn a_cache_that_was_handed_out_twice_is_nobodys_to_guess() {
    let rows = vec![
        resource("i1", "c1", "aws"),
        resource("i2", "c1", "aws"),
        resource("i3", "c2", "aws"),
    ];
    let entries = judged(rows, Vec::new(), &facts());
    for entry in &entries[..2] {
        assert!(why(entry).contains("handed out twice"), "{:?}", entry.line);
    }
    instance(&entries[2]);
}

#[test]
fn tasks_are_carried_on_where_they_can_be() {
    // What the old broker works on is left to it.
    for action in ["delete", "change-plans", "change-providers", "restore"] {
        for (status, open) in [
            ("pending", true),
            ("started", true),
            ("finished", false),
            ("failed", false),
        ] {
            let entries = judged(
                vec![resource("i", "c1", "aws")],
                vec![task("t", "i", action, status)],
                &facts(),
            );
            assert_eq!(entries[0].write.is_none(), open, "{action} {status}");
            if open {
                assert!(why(&entries[0]).contains("task t"), "{:?}", entries[0].line);
            }
            let gave_up = action == "delete" && status == "failed";
            assert_eq!(entries[0].line.notes.len(), usize::from(gave_up), "{action} {status}");
        }
    }
    // Somebody waits for the end of a provision.
    for (action, status, usable) in [
        ("perform-post-provision", "pending", Some(false)),
        ("notify-create-service-webhook", "started", Some(true)),
        ("resync-until-available", "pending", None),
        ("perform-post-provision", "finished", None),
        ("notify-create-service-webhook", "failed", None),
        ("notify-create-binding-webhook", "pending", None),
    ] {
        let entries = judged(
            vec![resource("i", "c1", "aws")],
            vec![task("t", "i", action, status)],
            &facts(),
        );
        let Standing::Present { awaited, .. } = &instance(&entries[0]).standing else {
            panic!()
        };
        assert_eq!(
            awaited.as_ref().map(|awaited| awaited.usable),
            usable,
            "{action} {status}"
        );
        let hook = action == "notify-create-service-webhook" && status == "started";
        assert_eq!(awaited.as_ref().is_some_and(|awaited| awaited.webhook.is_some()), hook);
        assert_eq!(entries[1].line.fate == Fate::Imported, hook, "{:?}", entries[1].line);
    }
}

/// What the old broker is asked to do (`TaskAction`), and how far it may be (`task_status`).
const ACTIONS: [&str; 9] = [
    "delete",
    "resync-from-provider",
    "resync-until-available",
    "notify-create-service-webhook",
    "notify-create-binding-webhook",
    "change-providers",
    "change-plans",
    "restore",
    "perform-post-provision",
];
const STATES: [&str; 4] = ["pending", "started", "finished", "failed"];

#[test]
fn every_task_in_every_state_of_every_kind_of_row_has_its_fate() {
    let word = |entry: &Entry| match entry.line.fate {
        Fate::Imported => "imported",
        Fate::Known => "known",
        Fate::Skipped(_) => "skipped",
        Fate::NeedsDecision(_) => "decision",
    };
    for action in ACTIONS {
        for (status, deleted) in STATES.into_iter().flat_map(|status| [(status, false), (status, true)]) {
            for (claimed, given_back) in [(true, false), (false, false), (true, true), (false, true)] {
                let mut row = resource("0123456789abcdef0123456789abcdef", "c1", "aws");
                (row.claimed, row.deleted) = (claimed, given_back);
                let mut task = task("t", &row.id, action, status);
                task.deleted = deleted;
                let entries = judged(vec![row], vec![task], &facts());
                let open = !deleted && ["pending", "started"].contains(&status);
                let at_work = ["delete", "change-providers", "change-plans", "restore"].contains(&action) && open;
                let of_row = match (given_back, claimed) {
                    (true, true) => "imported",
                    (true, false) => "skipped",
                    (false, _) if at_work => "decision",
                    (false, _) => "imported",
                };
                let tells = action == "notify-create-service-webhook" && open && claimed && !given_back;
                let of_task = if tells { "imported" } else { "skipped" };
                assert_eq!(
                    (word(&entries[0]), word(&entries[1])),
                    (of_row, of_task),
                    "{action} {status} deleted: {deleted} claimed: {claimed} given back: {given_back}"
                );
            }
        }
    }
}

#[test]
fn whatever_its_status_was_a_cache_that_stands_is_taken_over() {
    for (status, made) in [
        ("available", true),
        ("creating", false),
        ("provisioning", false),
        ("starting", false),
        ("modifying", true),
        ("snapshotting", true),
        ("backing-up", true),
        ("deleting", true),
        ("unknown", true),
        ("", true),
    ] {
        let mut row = resource("i", "c1", "aws");
        row.status = status.to_owned();
        let entry = one(row);
        let Standing::Present { awaited, .. } = &instance(&entry).standing else {
            panic!("{entry:?}")
        };
        assert_eq!(awaited.is_none(), made, "{status}");
    }
}

#[test]
fn a_webhook_that_cannot_be_sent_keeps_no_instance_from_being_imported() {
    for (metadata, part) in [
        ("nonsense", "no JSON object"),
        (r#"{"url":7,"secret":""}"#, "no JSON object"),
        (
            r#"{"url":"http://10.0.0.1/","secret":"s3cret"}"#,
            "WEBHOOK_ALLOW_PRIVATE",
        ),
    ] {
        let mut task = task("t", "i", "notify-create-service-webhook", "pending");
        task.metadata = metadata.to_owned();
        let entries = judged(vec![resource("i", "c1", "aws")], vec![task], &facts());
        instance(&entries[0]);
        assert!(why(&entries[1]).contains(part), "{:?}", entries[1].line);
        assert!(!format!("{entries:?}").contains("s3cret"));
    }
    let unknown = task("t", "i", "dance", "pending");
    let lost = task("u", "nobody", "delete", "pending");
    let entries = judged(vec![resource("i", "c1", "aws")], vec![unknown, lost], &facts());
    assert!(why(&entries[1]).contains("\"dance\""));
    assert!(why(&entries[2]).contains("no resource nobody"));
}

#[test]
fn caches_made_ahead_fill_the_pool_and_no_more() {
    let ahead = |id: &str, name: &str| OldResource {
        claimed: false,
        ..resource(id, name, "aws")
    };
    let id = "0123456789abcdef0123456789abcdef";
    let entries = judged(
        vec![ahead(id, "c1"), ahead("other", "c2"), ahead("none", "")],
        Vec::new(),
        &facts(),
    );
    let Some(Write::Member(member)) = &entries[0].write else {
        panic!("{:?}", entries[0])
    };
    assert_eq!(
        (member.provider_id.as_str(), member.name.as_str()),
        ("c1", "pool-0123456789abcdef0123")
    );
    assert!(
        why(&entries[1]).contains("raise spec.preprovision"),
        "{:?}",
        entries[1].line
    );
    assert!(matches!(entries[2].line.fate, Fate::Skipped(_)));
}

#[test]
fn what_was_imported_before_stays_and_what_has_changed_since_is_told() {
    let mut facts = facts();
    let held = |adopt: &str, gone| HeldInstance {
        adopt: Some(adopt.to_owned()),
        gone,
    };
    facts.holdings.instances = [
        ("same", held("c1", false)),
        ("moved", held("w1", false)),
        ("returned", held("c2", true)),
        ("deleted", held("c2", false)),
    ]
    .map(|(id, held)| (id.to_owned(), held))
    .into();
    facts.holdings.members = [("w2".to_owned(), HeldMember { claimed_by: None })].into();
    let mut deleted = resource("deleted", "c2", "aws");
    deleted.deleted = true;
    let mut ahead = resource("ahead", "w2", "k8s");
    ahead.claimed = false;
    let rows = vec![
        resource("same", "c1", "aws"),
        resource("moved", "w9", "k8s"),
        resource("returned", "c2", "aws"),
        deleted,
        ahead,
    ];
    let entries = judged(rows, Vec::new(), &facts);
    assert!(entries.iter().all(|entry| entry.write.is_none()));
    assert_eq!(entries[0].line.fate, Fate::Known);
    assert!(why(&entries[1]).contains("has made w9 for it since"));
    assert!(matches!(entries[2].line.fate, Fate::Skipped(_)));
    assert!(why(&entries[3]).contains("deprovision it here, too"));
    assert_eq!(entries[4].line.fate, Fate::Known);
    // Handed out by the old broker after it was imported.
    let entry = judged(vec![resource("i", "w2", "k8s")], Vec::new(), &facts).remove(0);
    assert!(why(&entry).contains("handed it out since"), "{:?}", entry.line);
}

#[test]
fn an_address_that_is_not_what_applications_were_told_is_noted() {
    let mut told = resource("i", "c1", "aws");
    told.endpoint = "old.example:6379".to_owned();
    assert!(one(told.clone()).line.notes[0].contains("were told old.example:6379"));
    told.endpoint = "C1.example:6379".to_owned();
    assert!(one(told).line.notes.is_empty());
}
