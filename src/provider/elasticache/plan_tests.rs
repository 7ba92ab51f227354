use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::fixtures::{desired, made, memcached, modified, plan, redis};
use super::*;
use crate::api::{CachePlanSpec, Effect, forecast, worst};

fn next(plan: &CachePlanSpec, live: &Live) -> Option<Change> {
    let spec = plan.elasticache.clone().unwrap();
    next_change(&desired(plan.clone()), &spec, live)
}

fn with(plan: &CachePlanSpec, field: &str, value: &Value) -> CachePlanSpec {
    let mut plan = serde_json::to_value(plan).unwrap();
    match field {
        "version" | "type" => plan["engine"][field] = value.clone(),
        _ => plan["elasticache"][field] = value.clone(),
    }
    serde_json::from_value(plan).unwrap()
}

fn settings(edit: impl FnOnce(&mut Settings)) -> Modification {
    let mut settings = Settings::default();
    edit(&mut settings);
    Modification::Settings(Box::new(settings))
}

/// What a way is, without its change.
fn class(way: &Way) -> &'static str {
    match way {
        Way::InPlace(_) => "in place",
        Way::Cold(_) => "cold",
        Way::Replace => "replace",
        Way::Never => "never",
    }
}

#[test]
fn every_field_of_a_plan_has_its_class() {
    let bare = with(&redis(), "topology", &json!("cacheCluster"));
    let bare = with(&bare, "authentication", &json!("none"));
    let bare = with(&bare, "transitEncryption", &json!(false));
    for (from, field, value, expected) in [
        (redis(), "nodeType", json!("cache.r7g.large"), "in place"),
        (redis(), "replicas", json!(2), "in place"),
        (redis(), "version", json!("7.2"), "in place"),
        (redis(), "version", json!("6.2"), "never"),
        (redis(), "parameterGroup", json!("mine"), "in place"),
        (redis(), "securityGroupIds", json!(["sg-9"]), "in place"),
        (redis(), "maintenanceWindow", json!("sat:01:00-sat:02:00"), "in place"),
        (redis(), "snapshotWindow", json!("01:00-02:00"), "in place"),
        (redis(), "snapshotRetentionDays", json!(9), "in place"),
        (redis(), "transitEncryption", json!(false), "in place"),
        (redis(), "shards", json!(2), "replace"),
        (redis(), "subnetGroup", json!("other"), "replace"),
        (redis(), "port", json!(6380), "replace"),
        (memcached(), "port", json!(11311), "replace"),
        (redis(), "atRestEncryption", json!(true), "replace"),
        (redis(), "authentication", json!("none"), "replace"),
        (
            with(&redis(), "authentication", &json!("none")),
            "authentication",
            json!("token"),
            "in place",
        ),
        (redis(), "topology", json!("cacheCluster"), "replace"),
        (bare.clone(), "topology", json!("replicationGroup"), "replace"),
        (bare.clone(), "nodeType", json!("cache.r7g.large"), "in place"),
        (bare.clone(), "version", json!("7.2"), "in place"),
        (bare, "transitEncryption", json!(true), "replace"),
        (memcached(), "nodes", json!(3), "in place"),
        (memcached(), "nodes", json!(1), "cold"),
        (memcached(), "nodeType", json!("cache.r7g.large"), "cold"),
        (memcached(), "version", json!("1.7"), "cold"),
        (memcached(), "version", json!("1.5.16"), "replace"),
        (memcached(), "parameterGroup", json!("mine"), "in place"),
        (memcached(), "subnetGroup", json!("other"), "replace"),
        (memcached(), "multiAz", json!(true), "replace"),
        (memcached(), "transitEncryption", json!(true), "replace"),
    ] {
        let change = next(&with(&from, field, &value), &made(&from, 0)).unwrap();
        assert_eq!(class(&change.way), expected, "{field} = {value}: {}", change.what);
    }
}

#[test]
fn only_what_differs_is_sent() {
    let live = made(&redis(), 0);
    let asked = with(&redis(), "securityGroupIds", &json!(["sg-9"]));
    assert_eq!(
        next(&asked, &live).unwrap().way,
        Way::InPlace(settings(|s| s.security_groups = Some(["sg-9".to_owned()].into())))
    );
    // Version and parameter group go together.
    let asked = with(
        &with(&redis(), "version", &json!("7.2")),
        "parameterGroup",
        &json!("mine"),
    );
    assert_eq!(
        next(&asked, &live).unwrap().way,
        Way::InPlace(settings(|s| {
            s.version = Some("7.2".to_owned());
            s.parameter_group = Some("mine".to_owned());
        }))
    );
}

#[test]
fn redis_becomes_valkey_in_place_and_not_the_other_way() {
    let valkey = with(&with(&redis(), "type", &json!("valkey")), "version", &json!("8.0"));
    let change = next(&valkey, &made(&redis(), 0)).unwrap();
    assert_eq!(
        change.way,
        Way::InPlace(settings(|s| {
            s.engine = Some(EngineType::Valkey);
            s.version = Some("8.0".to_owned());
        }))
    );
    assert_eq!(next(&redis(), &made(&valkey, 0)).unwrap().way, Way::Never);
}

#[test]
fn nodes_that_go_are_named_by_the_ids_they_have() {
    let mut live = made(&with(&memcached(), "nodes", &json!(4)), 0);
    live.nodes.remove(1);
    live.config.nodes = Some(3);
    let change = next(&with(&memcached(), "nodes", &json!(1)), &live).unwrap();
    assert_eq!(
        change.way,
        Way::Cold(Modification::Nodes {
            count: 1,
            remove: vec!["0003".to_owned(), "0004".to_owned()],
        })
    );
}

#[test]
fn failover_comes_after_the_replicas_it_needs_and_goes_before_them() {
    let plain = redis();
    let safe = with(&with(&redis(), "replicas", &json!(1)), "multiAz", &json!(true));
    assert_eq!(
        next(&safe, &made(&plain, 0)).unwrap().way,
        Way::InPlace(Modification::Replicas { count: 1, more: true })
    );
    assert_eq!(
        next(&plain, &made(&safe, 0)).unwrap().way,
        Way::InPlace(settings(|s| s.multi_az = Some(false)))
    );
}

fn window() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof![
        Just("tue:05:00-tue:06:00".to_owned()),
        Just("sat:03:00-sat:04:30".to_owned())
    ])
}

fn version(engine: &'static str) -> impl Strategy<Value = &'static str> {
    prop::sample::select(match engine {
        "memcached" => vec!["1.5.16", "1.6.22", "1.7"],
        _ => vec!["6.2", "7.0", "7.1", "7.2"],
    })
}

/// Plans of one engine, with every field that may be planned.
fn plans(engine: &'static str) -> impl Strategy<Value = CachePlanSpec> {
    let group = engine != "memcached";
    (
        version(engine),
        prop::sample::select(vec!["cache.t4g.micro", "cache.r7g.large"]),
        1u16..5,
        (0u16..4, proptest::option::of(1u16..4), any::<bool>()),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        window(),
        proptest::option::of(prop::sample::select(vec!["mine", "yours"])),
        proptest::option::of(0u16..3),
    )
        .prop_map(
            move |(
                version,
                node_type,
                nodes,
                (replicas, shards, multi_az),
                (tls, rest, own, token),
                window,
                parameters,
                retention,
            )| {
                let mut spec = json!({
                    "nodeType": node_type, "maintenanceWindow": window, "parameterGroup": parameters,
                    "transitEncryption": tls,
                });
                if own {
                    spec["securityGroupIds"] = json!(["sg-7", "sg-8"]);
                }
                if group {
                    spec["replicas"] = json!(replicas);
                    spec["shards"] = json!(shards);
                    spec["multiAz"] = json!(multi_az && replicas > 0);
                    spec["atRestEncryption"] = json!(rest);
                    spec["authentication"] = json!(if tls && token { "token" } else { "none" });
                    spec["snapshotRetentionDays"] = json!(retention);
                } else {
                    spec["nodes"] = json!(nodes);
                }
                plan(engine, version, &spec)
            },
        )
}

/// Follows the planner to the end; `None` where it says that another cache is needed, or that it cannot be.
fn follow(plan: &CachePlanSpec, mut live: Live) -> Option<Live> {
    for _ in 0..20 {
        match next(plan, &live).map(|change| change.way) {
            None => return Some(live),
            Some(Way::InPlace(modification) | Way::Cold(modification)) => live = modified(live, &modification),
            Some(Way::Replace | Way::Never) => return None,
        }
    }
    panic!("no end: {plan:?} {live:?}");
}

/// What a plan says of a cache; what it leaves open is as it was.
fn told(live: &Live, plan: &CachePlanSpec) -> (Config, usize, usize) {
    let spec = plan.elasticache.as_ref().unwrap();
    let mut config = live.config.clone();
    config.token_changed = None;
    if spec.maintenance_window.is_none() {
        config.maintenance_window = None;
    }
    if spec.parameter_group.is_none() {
        config.parameter_group = None;
    }
    if spec.security_group_ids.is_empty() {
        config.security_groups = None;
    }
    if spec.snapshot_retention_days.is_none() {
        config.snapshot_retention = None;
    }
    (config, live.nodes.len(), live.shards().len())
}

use super::super::Config;

proptest! {
    #[test]
    fn what_is_as_asked_is_left_alone(plan in prop_oneof![plans("redis"), plans("valkey"), plans("memcached")]) {
        prop_assert_eq!(next(&plan, &made(&plan, 0)), None);
    }

    /// From every plan of an engine to every other there is a path: calls that the API takes, one after the other, or
    /// another cache. Where it ends is where the other plan begins.
    #[test]
    fn every_move_ends_where_the_new_plan_begins((from, to) in prop_oneof![
        (plans("redis"), plans("redis")), (plans("memcached"), plans("memcached")), (plans("redis"), plans("valkey")),
    ]) {
        if let Some(live) = follow(&to, made(&from, 0)) {
            prop_assert_eq!(told(&live, &to), told(&made(&to, 0), &to));
        }
    }

    /// What is said in advance of a move, from the two plans alone, is what the planner does.
    #[test]
    fn a_forecast_comes_true((from, to) in prop_oneof![
        (plans("redis"), plans("redis")), (plans("memcached"), plans("memcached")), (plans("redis"), plans("valkey")),
        (plans("valkey"), plans("redis")),
    ]) {
        let (mut live, mut done) = (made(&from, 0), Effect::None);
        while let Some(change) = next(&to, &live) {
            done = done.max(match &change.way {
                Way::InPlace(_) => Effect::InPlace,
                Way::Cold(_) => Effect::Cold,
                Way::Replace => Effect::Replace,
                Way::Never => Effect::Never,
            });
            match change.way {
                Way::InPlace(modification) | Way::Cold(modification) => live = modified(live, &modification),
                // The new cache is made from the plan that is asked for.
                Way::Replace | Way::Never => break,
            }
        }
        let differences = forecast(&from, &to);
        let said = worst(&differences);
        // A replacement makes what cannot be done in place needless; whether it may be is not the planner's to judge.
        if !(done == Effect::Replace && said == Effect::Never) {
            prop_assert_eq!(said, done, "{:?}", differences);
        }
    }
}
