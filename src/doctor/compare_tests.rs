use serde_json::{Map, json};

use super::*;

fn row(id: &str) -> Surveyed {
    Surveyed {
        id: id.parse().unwrap(),
        plan_name: "small".to_owned(),
        plan_revision: 1,
        parameters: Some(Map::new()),
        organization: "o".to_owned(),
        space: "s".to_owned(),
        namespace: "n".to_owned(),
        name: format!("osb-{id}"),
        desired: Desired::Present,
        desired_revision: 3,
        applied_revision: 3,
        outbox_error: None,
        returned: false,
        overdue: None,
    }
}

fn resource(id: &str) -> Resource {
    Resource {
        namespace: "n".to_owned(),
        name: format!("osb-{id}"),
        uid: format!("uid-{id}"),
        instance: Some(id.to_owned()),
        revision: Some(3),
        as_written: true,
        plan_name: "small".to_owned(),
        plan_revision: Some(1),
        organization: Some("o".to_owned()),
        space: Some("s".to_owned()),
        was_ready: true,
        serving: Some(format!("p-{id}")),
        ..Resource::default()
    }
}

fn cache(id: &str, owner: Option<Option<&str>>) -> Thing {
    Thing {
        kind: FoundKind::Cache,
        id: format!("p-{id}"),
        owner: owner.map(|owner| owner.map(str::to_owned)),
    }
}

/// Instance `a`, as all three say it, one thing of it changed.
fn found(change: impl FnOnce(&mut Survey, &mut Cluster, &mut Provider)) -> Vec<(Kind, Option<Fix>)> {
    let mut ledger = Survey {
        instances: vec![row("a")],
        members: Vec::new(),
    };
    let mut cluster = Cluster {
        resources: vec![resource("a")],
        ..Cluster::default()
    };
    let mut provider = Provider {
        looked: true,
        things: vec![cache("a", Some(Some("uid-a")))],
    };
    change(&mut ledger, &mut cluster, &mut provider);
    compare(&ledger, &cluster, &provider)
        .into_iter()
        .map(|finding| (finding.kind, finding.fix))
        .collect()
}

fn kinds(change: impl FnOnce(&mut Survey, &mut Cluster, &mut Provider)) -> Vec<Kind> {
    found(change).into_iter().map(|(kind, _)| kind).collect()
}

#[test]
fn what_agrees_is_not_spoken_of() {
    assert_eq!(kinds(|_, _, _| {}), []);
    // A tombstone, what was ordered by YAML, and what ElastiCache does not tell of while it is busy.
    assert_eq!(
        kinds(|ledger, cluster, provider| {
            ledger.instances.push(Surveyed {
                returned: true,
                ..row("gone")
            });
            cluster.resources.push(Resource {
                instance: None,
                ..resource("yaml")
            });
            provider.things.push(cache("yaml", None));
        }),
        []
    );
    assert_eq!(table(&[]), "");
}

#[test]
fn what_is_under_way_is_no_disagreement() {
    // Ordered and not written yet; being given back; being made on ElastiCache.
    assert_eq!(
        kinds(|ledger, cluster, provider| {
            ledger.instances.push(Surveyed {
                applied_revision: 0,
                ..row("new")
            });
            ledger.instances.push(Surveyed {
                desired: Desired::Absent,
                ..row("going")
            });
            cluster.resources.push(Resource {
                deleting: true,
                approved: true,
                ..resource("going")
            });
            ledger.instances.push(row("made"));
            cluster.resources.push(Resource {
                was_ready: false,
                ..resource("made")
            });
            provider.things.push(cache("going", Some(Some("uid-going"))));
        }),
        []
    );
}

#[test]
fn between_the_ledger_and_the_cluster() {
    assert_eq!(
        kinds(|_, cluster, provider| {
            cluster.resources.clear();
            provider.things.clear();
        }),
        [Kind::Missing]
    );
    assert_eq!(kinds(|ledger, _, _| ledger.instances.clear()), [Kind::Unrecorded]);
    assert_eq!(
        kinds(|_, cluster, provider| {
            cluster.resources.push(Resource {
                namespace: "elsewhere".to_owned(),
                uid: "copy".to_owned(),
                serving: None,
                ..resource("a")
            });
            provider.looked = false;
        }),
        [Kind::Copy]
    );
    assert_eq!(
        found(|ledger, _, _| ledger.instances[0].returned = true),
        [(Kind::Returned, Some(Fix::DeleteAgain("a".parse().unwrap())))]
    );
    // It was deleted before deletions said that they were asked for.
    assert_eq!(
        found(|ledger, cluster, _| {
            ledger.instances[0].desired = Desired::Absent;
            cluster.resources[0].deleting = true;
        }),
        [(Kind::Returned, Some(Fix::DeleteAgain("a".parse().unwrap())))]
    );
    assert_eq!(
        found(|ledger, cluster, _| {
            ledger.instances[0].returned = true;
            cluster.resources[0].adopts = true;
        }),
        [(Kind::Returned, None)]
    );
    assert_eq!(
        found(|_, cluster, _| cluster.resources[0].deleting = true),
        [(Kind::DeletionHeld, None)]
    );
    let later = Later {
        revision: 9,
        ..Later::default()
    };
    assert_eq!(
        found(|_, cluster, _| {
            cluster.resources[0].revision = Some(9);
            cluster.resources[0].plan_name = "large".to_owned();
        }),
        [(Kind::LedgerBehind, Some(Fix::CatchUp("a".parse().unwrap(), later)))]
    );
    assert_eq!(
        kinds(|ledger, _, _| {
            ledger.instances[0].applied_revision = 2;
            ledger.instances[0].outbox_error = Some("forbidden".to_owned());
        }),
        [Kind::Unwritten]
    );
    assert_eq!(
        kinds(|ledger, _, _| ledger.instances[0].overdue = Some("update".to_owned())),
        [Kind::Overdue]
    );
    assert_eq!(
        kinds(|ledger, _, _| ledger.instances[0].parameters = None),
        [Kind::Sealed]
    );
}

/// An edit is put back only where that cannot lose what is there by now.
#[test]
fn an_edit_is_told_and_only_its_owner_put_back() {
    type Edit = fn(&mut Resource);
    let edits: [(Edit, bool); 5] = [
        (|resource| resource.plan_name = "large".to_owned(), false),
        (|resource| resource.plan_revision = None, false),
        (
            |resource| resource.later.parameters = json!({ "nodes": 2 }).as_object().unwrap().clone(),
            false,
        ),
        (|resource| resource.as_written = false, false),
        (|resource| resource.space = Some("another".to_owned()), true),
    ];
    for (edit, mended) in edits {
        let fix = mended.then(|| Fix::WriteAgain("a".parse().unwrap()));
        assert_eq!(
            found(|_, cluster, _| edit(&mut cluster.resources[0])),
            [(Kind::Edited, fix)]
        );
    }
}

#[test]
fn members_of_pools() {
    let member = || Resource {
        instance: None,
        member: true,
        serving: None,
        ..resource("m")
    };
    assert_eq!(
        kinds(|_, cluster, _| cluster.resources.push(member())),
        [Kind::UnknownMember]
    );
    assert_eq!(
        kinds(|ledger, cluster, _| {
            cluster.resources.push(member());
            ledger.members.push(("n".to_owned(), "osb-m".to_owned()));
        }),
        []
    );
}

#[test]
fn between_the_cluster_and_elasticache() {
    assert_eq!(kinds(|_, _, provider| provider.things.clear()), [Kind::CacheMissing]);
    // Nothing is missing where nobody looked.
    assert_eq!(kinds(|_, _, provider| *provider = Provider::default()), []);
    assert_eq!(
        kinds(|_, _, provider| provider.things[0].owner = Some(Some("another".to_owned()))),
        [Kind::ForeignCache]
    );
    for (thing, orphan) in [
        (cache("old", Some(Some("uid-gone"))), true),
        // Nothing says whose it is, and nobody names it.
        (cache("old", Some(None)), true),
        // The API refuses to tell of what is busy.
        (cache("old", None), false),
        (
            Thing {
                kind: FoundKind::Snapshot,
                ..cache("snapshot", Some(None))
            },
            true,
        ),
        (
            Thing {
                kind: FoundKind::Snapshot,
                ..cache("known", Some(None))
            },
            false,
        ),
        (
            Thing {
                kind: FoundKind::User,
                ..cache("user", Some(Some("uid-gone")))
            },
            true,
        ),
        (
            Thing {
                kind: FoundKind::UserGroup,
                ..cache("group", Some(Some("uid-a")))
            },
            false,
        ),
        (
            Thing {
                kind: FoundKind::User,
                ..cache("somebody's", Some(None))
            },
            false,
        ),
    ] {
        let expected: &[Kind] = if orphan { &[Kind::Orphan] } else { &[] };
        assert_eq!(
            kinds(|_, cluster, provider| {
                cluster.snapshots.insert("p-known".to_owned());
                provider.things.push(thing.clone());
            }),
            expected,
            "{thing:?}"
        );
    }
    // Those that are to take its place, or whose place it took, are named by it.
    assert_eq!(
        kinds(|_, cluster, provider| {
            cluster.resources[0].others = vec!["p-old".to_owned()];
            provider.things.push(cache("old", Some(Some("uid-a"))));
        }),
        []
    );
}

#[test]
fn objects_of_instances_that_are_gone() {
    let object = |owner: &str| Object {
        kind: "Deployment".to_owned(),
        namespace: "n".to_owned(),
        name: "d".to_owned(),
        owner: Some(owner.to_owned()),
    };
    assert_eq!(kinds(|_, cluster, _| cluster.objects.push(object("uid-a"))), []);
    assert_eq!(
        kinds(|_, cluster, _| cluster.objects.push(object("uid-gone"))),
        [Kind::OrphanObject]
    );
}

#[test]
fn the_table_says_what_and_whether_it_is_mended() {
    let finding = |kind, subject: &str, fix| Finding {
        kind,
        subject: subject.to_owned(),
        detail: "why".to_owned(),
        fix,
    };
    let findings = [
        finding(Kind::Orphan, "cache p-1", None),
        finding(
            Kind::Returned,
            "instance abc",
            Some(Fix::DeleteAgain("abc".parse().unwrap())),
        ),
    ];
    assert_eq!(
        table(&findings),
        "KIND      SUBJECT       FIX  WHAT\n\
         Orphan    cache p-1     no   why\n\
         Returned  instance abc  yes  why\n"
    );
}
