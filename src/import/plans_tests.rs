use serde_json::json;

use super::*;

const AWS: &str = r#"{"AZMode":null,"AuthToken":null,"AutoMinorVersionUpgrade":true,"CacheClusterId":null,
    "CacheNodeType":"cache.t2.micro","CacheParameterGroupName":"default.redis5.0","CacheSecurityGroupNames":null,
    "CacheSubnetGroupName":"${REDIS_SUBNET_GROUP}","Engine":"redis","EngineVersion":"5.0.4","NumCacheNodes":1,"Port":6379,
    "SecurityGroupIds":["${ELASTICACHE_SECURITY_GROUP}"],"SnapshotArns":null,"Tags":null}"#;

fn service() -> OldService {
    OldService {
        id: "s".to_owned(),
        name: "akkeris-redis".to_owned(),
        ..OldService::default()
    }
}

fn row(engine: &str, provider: &str, details: &str) -> OldPlan {
    OldPlan {
        id: "c7b8e0b0-429a-4fa8-92a0-e60d9e781cac".to_owned(),
        service: "s".to_owned(),
        name: "hobby-dev".to_owned(),
        human_name: "Hobby".to_owned(),
        description: "For hobbies.".to_owned(),
        version: "5.0.4".to_owned(),
        engine: engine.to_owned(),
        cost_cents: 1500,
        cost_unit: "month".to_owned(),
        attributes: r#"{"ram":"512MB","presistance":false}"#.to_owned(),
        provider: provider.to_owned(),
        details: details.to_owned(),
        ..OldPlan::default()
    }
}

fn rendered(row: &OldPlan) -> Result<Rendered, String> {
    let variables = Variables([("SG".to_owned(), "sg-9".to_owned())].into());
    let rendered = render(row, &service(), "redis-hobby-dev", &variables)?;
    // What cannot be a CachePlan must not come out.
    kube::core::cel::validate_cel(&rendered.plan).map_err(|error| format!("{error:?}"))?;
    Ok(rendered)
}

#[test]
fn a_redis_on_elasticache_is_a_bare_cluster_and_its_placeholders_are_settings() {
    let Rendered { plan, notes, .. } = rendered(&row("redis", "aws-redis-instance", AWS)).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(
        serde_json::to_value(&plan.spec).unwrap(),
        json!({
            "service": "akkeris-redis", "id": "c7b8e0b0-429a-4fa8-92a0-e60d9e781cac", "name": "hobby-dev",
            "displayName": "Hobby", "description": "For hobbies.", "price": { "cents": 1500, "unit": "month" },
            "state": "ga", "attributes": { "ram": "512MB", "presistance": false },
            "engine": { "type": "redis", "version": "5.0.4" }, "deletionPolicy": "Snapshot",
            "elasticache": {
                "topology": "cacheCluster", "nodeType": "cache.t2.micro", "parameterGroup": "default.redis5.0",
            },
        })
    );
}

#[test]
fn other_placeholders_are_put_in_or_asked_for() {
    let with = |details: &str| rendered(&row("redis", "aws-redis-instance", details));
    let details =
        r#"{"cachenodetype":"cache.m5.large","SecurityGroupIds":["${SG}","sg-1"],"CacheSubnetGroupName":"a-${SG}"}"#;
    let spec = with(details).unwrap().plan.spec.elasticache.unwrap();
    assert_eq!(spec.security_group_ids, ["sg-9", "sg-1"]);
    assert_eq!(spec.subnet_group.as_deref(), Some("a-sg-9"));
    let why = with(r#"{"CacheNodeType":"cache.m5.large","CacheSubnetGroupName":"${NOWHERE}"}"#).unwrap_err();
    assert!(why.contains("NOWHERE") && why.contains("set it"), "{why}");
}

#[test]
fn a_memcached_on_elasticache_keeps_its_nodes() {
    let details = r#"{"CacheNodeType":"cache.t2.micro","NumCacheNodes":3,"AZMode":"cross-az","Port":6379,
        "CacheSubnetGroupName":"${MEMCACHED_SUBNET_GROUP}","SnapshotWindow":"03:00-04:00","NotificationTopicArn":"arn"}"#;
    let Rendered { plan, notes, .. } = rendered(&row("memcached", "aws-memcached-instance", details)).unwrap();
    let spec = plan.spec.elasticache.unwrap();
    assert_eq!((spec.nodes, spec.multi_az, spec.topology), (Some(3), Some(true), None));
    assert_eq!((spec.subnet_group, spec.snapshot_window), (None, None));
    assert_eq!(plan.spec.deletion_policy, None);
    let notes = notes.join("; ");
    for part in ["port 6379", "no snapshots", "NotificationTopicArn"] {
        assert!(notes.contains(part), "{notes}");
    }
}

#[test]
fn caches_in_the_cluster_keep_size_version_and_image() {
    let memcached = |details: &str| rendered(&row("memcached", "kubernetes-memcached-instance", details));
    let Rendered { plan, notes, .. } = memcached(r#"{"size_in_megabytes":"1000","version":"1.6.6"}"#).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(plan.spec.engine.version, "1.6.6");
    assert_eq!(
        serde_json::to_value(plan.spec.kubernetes).unwrap(),
        json!({ "memory": "1000Mi", "maxItemSize": "50Mi" })
    );
    let details = r#"{"size_in_megabytes":64,"version":"1.6.45","docker_image":"example.org/memcached","port":11311}"#;
    let Rendered { plan, notes, .. } = memcached(details).unwrap();
    assert_eq!(
        serde_json::to_value(plan.spec.kubernetes).unwrap(),
        json!({ "image": "example.org/memcached:1.6.45", "memory": "64Mi" })
    );
    let notes = notes.join("; ");
    assert!(
        notes.contains("port 11311") && notes.contains("items of 50Mi"),
        "{notes}"
    );
    let redis = row(
        "redis",
        "kubernetes-redis-instance",
        r#"{"size_in_megabytes":"512","version":"6.0.7"}"#,
    );
    let plan = rendered(&redis).unwrap().plan;
    assert_eq!(
        serde_json::to_value(plan.spec.kubernetes).unwrap(),
        json!({ "memory": "512Mi" })
    );
}

#[test]
fn flags_say_whether_it_may_be_ordered() {
    let state = |edit: &dyn Fn(&mut OldPlan, &mut OldService)| {
        let (mut row, mut of) = (row("redis", "aws-redis-instance", AWS), service());
        row.preprovision = 3;
        edit(&mut row, &mut of);
        let spec = render(&row, &of, "p", &Variables::default()).unwrap().plan.spec;
        (spec.state, spec.preprovision)
    };
    assert_eq!(state(&|_, _| {}), (PlanState::Ga, 3));
    assert_eq!(state(&|row, _| row.beta = true), (PlanState::Beta, 3));
    assert_eq!(
        state(&|row, _| (row.beta, row.deprecated) = (true, true)),
        (PlanState::Deprecated, 0)
    );
    assert_eq!(state(&|_, of| of.deprecated = true), (PlanState::Deprecated, 0));
    assert_eq!(
        state(&|row, _| (row.deprecated, row.deleted) = (true, true)),
        (PlanState::Withdrawn, 0)
    );
    assert_eq!(state(&|_, of| of.deleted = true), (PlanState::Withdrawn, 0));
}

#[test]
fn a_broken_row_says_what_to_do() {
    for (engine, provider, details, part) in [
        ("redis", "aws-redis-instance", "[]", "no JSON object"),
        ("redis", "aws-redis-instance", "{\"a\":", "no JSON object"),
        ("redis", "aws-redis-instance", "{}", "no CacheNodeType"),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":7}"#,
            "CacheNodeType of provider_private_details is a number",
        ),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":"db.t2.micro"}"#,
            "CacheNodeType \"db.t2.micro\"",
        ),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":"cache.t2.micro","NumCacheNodes":2}"#,
            "has one node",
        ),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":"cache.t2.micro","Engine":"memcached"}"#,
            "Engine",
        ),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":"cache.t2.micro","ReplicationGroupId":"g"}"#,
            "replication group g",
        ),
        (
            "redis",
            "aws-redis-instance",
            r#"{"CacheNodeType":"cache.t2.micro","EngineVersion":"5 beta"}"#,
            "no version",
        ),
        ("memcached", "aws-redis-instance", AWS, "correct one of them"),
        ("redis", "gcloud-redis-instance", AWS, "is none of aws-redis-instance"),
        ("memcached", "kubernetes-memcached-instance", "{}", "size_in_megabytes"),
        (
            "memcached",
            "kubernetes-memcached-instance",
            r#"{"size_in_megabytes":"lots"}"#,
            "no whole number",
        ),
        (
            "memcached",
            "kubernetes-memcached-instance",
            r#"{"size_in_megabytes":"4"}"#,
            "raise size_in_megabytes",
        ),
    ] {
        let why = rendered(&row(engine, provider, details)).map(drop).unwrap_err();
        assert!(why.contains(part), "{details}: {why}");
    }
    let mut odd = row("redis", "aws-redis-instance", AWS);
    odd.attributes = "7".to_owned();
    assert!(rendered(&odd).map(drop).unwrap_err().contains("attributes"));
}

#[test]
fn names_are_those_of_the_default_plans_and_differ() {
    let mut rows = Vec::new();
    for (id, name) in [
        ("aaaaaaaa-1", "hobby-dev"),
        ("bbbbbbbb-2", "Hobby_dev"),
        ("cccccccc-3", "hobby-dev"),
        ("d", "-"),
    ] {
        let mut row = row("redis", "aws-redis-instance", AWS);
        (row.id, row.name) = (id.to_owned(), name.to_owned());
        rows.push(row);
    }
    let of = service();
    let names = names(&rows, &[("s", &of)].into());
    let names: Vec<_> = rows.iter().map(|row| names[&row.id].as_str()).collect();
    assert_eq!(
        names,
        [
            "redis-hobby-dev",
            "redis-hobby-dev-bbbbbbbb",
            "redis-hobby-dev-cccccccc",
            "redis-unnamed"
        ]
    );
    let mut row = rows.remove(1);
    row.description = String::new();
    let Rendered { plan, notes, .. } = rendered(&row).unwrap();
    assert_eq!(plan.spec.name.as_deref(), Some("hobby-dev"));
    assert_eq!(plan.spec.description, "Hobby");
    assert!(notes[0].contains("Hobby_dev"), "{notes:?}");
}
