//! The life of a cache on ElastiCache: changed, restarted, moved, taken over, let go. What ElastiCache was asked, and what a
//! client saw meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cache_broker::provider::elasticache::{OWNER_TAG, RELEASED};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sandbox::elasticache::{Fault, FaultKind};
use serde_json::json;

use crate::cluster::{Place, provider_id, ready};
use crate::elasticache::{
    approve, ask, changes, client, fields, gone, host, move_to, move_to_revision, operations, patch, plan, settled,
    stalled, strike, tags,
};
use crate::steady::Cache;
use crate::world::{eventually, shared};

/// What a client may be refused while ElastiCache changes or restarts nodes, on a busy machine.
pub const FAILOVER: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_changed_in_place_call_by_call_and_keeps_its_data() {
    let world = shared().await;
    let small = json!({ "nodeType": "cache.t4g.micro", "parameterGroup": "default.redis6.x" });
    let name = plan(world, "redis", "6.2", small).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    assert_eq!(ask(&address, "SET kept yes").await.unwrap(), "+OK");

    let before = changes(world, &id).len();
    let target = json!({
        "engine": { "version": "7.1" },
        "elasticache": {
            "nodeType": "cache.m7g.large", "replicas": 2, "multiAz": true, "snapshotRetentionDays": 3,
            "maintenanceWindow": "sat:02:00-sat:03:00", "snapshotWindow": "05:00-06:00",
            "securityGroupIds": ["sg-0fedcba9876543210"], "parameterGroup": "default.redis7",
        },
    });
    let user = Cache::open(&address, true).use_steadily();
    move_to_revision(world, &place, world.edit(&name, &target).await).await;
    let instance = settled(world, &place, 2).await;
    let met = user.end().await;
    println!("a change in place: {met}");
    assert!(met.refused <= FAILOVER, "{met}");
    assert_eq!(provider_id(&instance), id);
    assert_eq!(host(&instance), address, "the address is kept");
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    let status = instance.status.unwrap();
    assert_eq!(status.nodes.len(), 3);
    assert_eq!(status.engine.unwrap().version, "7.1.0", "as it is live");
    let reader = status.reader_endpoint.unwrap();
    assert_eq!(ask(&reader.address, "GET kept").await.unwrap(), "yes");

    let calls = &changes(world, &id)[before..];
    assert_eq!(
        operations(calls),
        [
            "ModifyReplicationGroup",
            "ModifyReplicationGroup",
            "IncreaseReplicaCount",
            "ModifyReplicationGroup",
            "ModifyReplicationGroup"
        ]
    );
    assert_eq!(
        calls.iter().map(fields).collect::<Vec<_>>(),
        [
            BTreeSet::from([
                "PreferredMaintenanceWindow",
                "SecurityGroupIds.SecurityGroupId.1",
                "SnapshotRetentionLimit",
                "SnapshotWindow",
            ]),
            BTreeSet::from(["CacheParameterGroupName", "EngineVersion"]),
            BTreeSet::from(["NewReplicaCount"]),
            BTreeSet::from(["CacheNodeType"]),
            BTreeSet::from(["AutomaticFailoverEnabled", "MultiAZEnabled"]),
        ]
    );
    // And back: failover goes before the replicas it needs.
    let before = changes(world, &id).len();
    move_to(
        world,
        &place,
        &name,
        json!({ "nodeType": "cache.t4g.micro", "replicas": null, "multiAz": null }),
    )
    .await;
    settled(world, &place, 3).await;
    let calls = &changes(world, &id)[before..];
    assert_eq!(
        operations(calls),
        [
            "ModifyReplicationGroup",
            "ModifyReplicationGroup",
            "DecreaseReplicaCount"
        ]
    );
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    let large = json!({ "nodeType": "cache.m7g.large", "parameterGroup": "default.redis7" });
    let large = plan(world, "redis", "7.1", large).await;
    is_let_go_and_taken_over(&place, &large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_becomes_valkey_in_place() {
    let world = shared().await;
    let redis = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let valkey = plan(world, "valkey", "8.0", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&redis, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET kept yes").await.unwrap();
    patch(world, &place, json!({ "planRef": { "name": valkey } })).await;
    world
        .until(&place, "valkey", |ready| ready.message.starts_with("valkey answers"))
        .await;
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    let calls = changes(world, &id);
    // The name of the plan stands in its tags.
    assert_eq!(
        operations(&calls),
        ["CreateReplicationGroup", "ModifyReplicationGroup", "AddTagsToResource"]
    );
    assert_eq!(fields(&calls[1]), BTreeSet::from(["Engine", "EngineVersion"]));
    // The way back is refused, and so is that into the cluster; it goes on serving.
    let engine = json!({ "type": "valkey", "version": "8.0" });
    let cluster = world.plan(engine, "kubernetes", json!({ "memory": "64Mi" })).await;
    for (elsewhere, says) in [(redis, "which is redis"), (cluster, "without losing its data")] {
        patch(world, &place, json!({ "planRef": { "name": elsewhere } })).await;
        let refused = |ready: &Condition| ready.reason == "PlanMismatch" && ready.message.contains(says);
        let instance = world.until(&place, says, refused).await;
        assert_eq!(host(&instance), address);
        assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    }
    patch(world, &place, json!({ "planRef": { "name": valkey } })).await;
    let large = plan(world, "valkey", "8.0", json!({ "nodeType": "cache.m7g.large" })).await;
    is_let_go_and_taken_over(&place, &large).await;
}

/// A group that has the key `kept` is let go of, and taken over by an instance of a plan with a larger node type.
async fn is_let_go_and_taken_over(place: &Place, large: &str) {
    let world = shared().await;
    let instance = world.until_reason(place, "Available").await;
    let (id, address) = (provider_id(&instance), host(&instance));
    let place = place.clone();
    // Let go, it is tagged so and left as it stands, also if it tells no tags for a while, as if it were gone.
    patch(world, &place, json!({ "deletionPolicy": "Retain" })).await;
    let arn = instance.status.unwrap().provider_arn.unwrap();
    let hidden = Fault::new(FaultKind::TagsNotFound).times(3);
    strike(world, hidden, "ListTagsForResource", &arn);
    let before = changes(world, &id).len();
    world.delete(&place).await;
    world.until_gone(&place).await;
    let calls = &changes(world, &id)[before..];
    assert_eq!(operations(calls), ["AddTagsToResource"]);
    assert_eq!(tags(&calls[0]), BTreeMap::from([(OWNER_TAG, RELEASED)]));
    let told = world.events(&place, "ProviderUnavailable").await;
    let why = format!("reading the tags of {arn}: CacheClusterNotFound");
    assert!(
        told.iter().any(|(kind, note)| kind == "Warning" && note.contains(&why)),
        "{told:?}"
    );
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");

    // Whoever takes it over has its data, and changes nothing before that is asked for.
    let next = Place::new(&place.namespace, &format!("next-{}", place.name));
    world
        .apply(&json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": next.name, "namespace": next.namespace },
            "spec": { "planRef": { "name": large }, "adopt": { "providerId": id, "asOf": { "name": large } } },
        }))
        .await;
    let taken = world
        .until(&next, "the take-over", |ready| {
            ready.status == "True" && ready.message.contains("it is as it was taken over")
        })
        .await;
    assert_eq!((provider_id(&taken), host(&taken)), (id.clone(), address.clone()));
    let calls = &changes(world, &id)[before + 1..];
    assert_eq!(operations(calls), ["AddTagsToResource"]);
    assert_eq!(tags(&calls[0]).get(OWNER_TAG), taken.metadata.uid.as_deref().as_ref());
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    patch(world, &next, json!({ "adopt": { "asOf": null } })).await;
    settled(world, &next, 1).await;
    let calls = &changes(world, &id)[before + 2..];
    assert_eq!(operations(calls), ["ModifyReplicationGroup"]);
    assert_eq!(fields(&calls[0]), BTreeSet::from(["CacheNodeType"]));
    assert_eq!(ask(&address, "GET kept").await.unwrap(), "yes");
    gone(world, &next, &id).await;
    // Its Secrets were kept with it.
    let selector = format!("app.kubernetes.io/instance={}", place.name);
    world
        .kubectl(&["delete", "secrets", "-n", &place.namespace, "-l", &selector])
        .await;
    world.until_nothing_is_left(&place, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_one_by_one_while_the_others_answer() {
    let world = shared().await;
    let name = plan(
        world,
        "redis",
        "7.1",
        json!({ "nodeType": "cache.t4g.micro", "replicas": 1, "multiAz": true, "subnetGroup": "redis-subnets" }),
    )
    .await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let id = provider_id(&instance);
    let made = &changes(world, &id)[0].parameters;
    for (field, sent) in [
        ("NumCacheClusters", "2"),
        ("AutomaticFailoverEnabled", "true"),
        ("MultiAZEnabled", "true"),
        ("CacheSubnetGroupName", "redis-subnets"),
    ] {
        assert_eq!(made.get(field).map(String::as_str), Some(sent), "{field}");
    }
    let user = Cache::open(&host(&instance), true).use_steadily();
    let when = jiff::Timestamp::now().to_string();
    patch(world, &place, json!({ "restartAt": when })).await;
    let api = world.instances(&place.namespace).await;
    eventually("the end of the restart", async || {
        let instance = api.get(&place.name).await.unwrap();
        let status = instance.status.as_ref()?;
        let done = status.restarted_at.is_some() && status.restart.is_none();
        (done && ready(&instance)?.reason == "Available").then_some(())
    })
    .await;
    let met = user.end().await;
    println!("a restart of two nodes: {met}");
    assert!(met.refused <= FAILOVER, "{met}");
    let reboots: Vec<_> = changes(world, &id)
        .into_iter()
        .filter(|call| call.operation == "RebootCacheCluster")
        .map(|call| call.parameters["CacheClusterId"].clone())
        .collect();
    assert_eq!(
        reboots,
        [format!("{id}-002"), format!("{id}-001")],
        "the primary comes last"
    );
    gone(world, &place, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_before_is_taken_over_as_it_is_by_one_instance_only_and_let_go() {
    let world = shared().await;
    let old = format!("old-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let aws = client(world);
    aws.create_cache_cluster()
        .cache_cluster_id(&old)
        .engine("redis")
        .engine_version("7.1")
        .cache_node_type("cache.t4g.micro")
        .num_cache_nodes(1)
        .send()
        .await
        .unwrap();
    let bare = json!({ "nodeType": "cache.t4g.micro", "topology": "cacheCluster" });
    let name = plan(world, "redis", "7.1", bare).await;
    let other = plan(world, "memcached", "1.6.22", json!({ "nodeType": "cache.t4g.micro" })).await;
    let adopt_by = async |name: &str, suffix: &str| {
        let place = Place::new("redis-system", &format!("{old}-{suffix}"));
        world
            .apply(&json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                "metadata": { "name": place.name, "namespace": place.namespace },
                "spec": { "planRef": { "name": name }, "adopt": { "providerId": old }, "deletionPolicy": "Retain" },
            }))
            .await;
        place
    };
    let adopt = async |suffix: &str| adopt_by(&name, suffix).await;
    let mistaken = adopt_by(&other, "m").await;
    let message = stalled(world, &mistaken, "PlanMismatch").await;
    assert!(message.contains("name a plan of its engine"), "{message}");
    world.delete(&mistaken).await;
    world.until_gone(&mistaken).await;
    let first = adopt("a").await;
    let instance = world.until_ready(&first).await;
    assert_eq!(provider_id(&instance), old);
    let second = adopt("b").await;
    let message = stalled(world, &second, "NameConflict").await;
    assert!(message.contains("find out whose it is"), "{message}");
    world.delete(&second).await;
    world.until_gone(&second).await;
    assert_eq!(
        operations(&changes(world, &old)),
        ["CreateCacheCluster", "AddTagsToResource"],
        "nothing is restarted, changed or renamed"
    );
    assert_eq!(ask(&host(&instance), "PING").await.unwrap(), "+PONG");

    // While it is busy it takes no tags, and is let go with one all the same.
    let endpoint = world.sandbox.elasticache().unwrap();
    assert!(endpoint.force_status(&old, "snapshotting"));
    world.delete(&first).await;
    world
        .until(&first, "the end of a snapshot", |ready| {
            ready.reason == "Deleting" && ready.message.contains("is busy")
        })
        .await;
    assert!(endpoint.force_status(&old, "available"));
    world.until_gone(&first).await;
    assert!(world.exists_in_elasticache(&old));
    let arn = instance.status.unwrap().provider_arn.unwrap();
    // A cache is busy for a moment after its tags were changed, and then tells none.
    let owner = eventually("the tags of what was let go", async || {
        let tags = aws.list_tags_for_resource().resource_name(&arn).send().await.ok()?;
        let owner = tags.tag_list().iter().find(|tag| tag.key() == Some(OWNER_TAG))?;
        owner.value().map(str::to_owned)
    })
    .await;
    assert_eq!(owner, "released");

    // Whoever comes next may take it, and delete it.
    let third = adopt("c").await;
    world.until_ready(&third).await;
    patch(world, &third, json!({ "deletionPolicy": "Delete" })).await;
    gone(world, &third, &old).await;
    // Once it is gone there is nothing to take over.
    let late = adopt("d").await;
    let message = stalled(world, &late, "ProviderResourceMissing").await;
    assert!(message.contains("correct spec.adopt"), "{message}");
    world.delete(&late).await;
    world.until_gone(&late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subnet_takes_another_cache_and_the_old_one_has_its_grace() {
    let world = shared().await;
    let aws = client(world);
    let _ = aws
        .create_cache_subnet_group()
        .cache_subnet_group_name("moved-subnets")
        .cache_subnet_group_description("of a test")
        .subnet_ids("subnet-00000000000000001")
        .send()
        .await;
    let name = plan(world, "redis", "7.1", json!({ "nodeType": "cache.t4g.micro" })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), host(&instance));
    ask(&address, "SET kept yes").await.unwrap();
    let user = Cache::open(&address, true).use_steadily();
    move_to(world, &place, &name, json!({ "subnetGroup": "moved-subnets" })).await;
    let waiting = world.until_reason(&place, "AwaitingMaintenance").await;
    let message = ready(&waiting).unwrap().message;
    assert!(message.contains("filled from a snapshot of this one"), "{message}");
    approve(world, &place).await;
    let api = world.instances(&place.namespace).await;
    let moved = eventually("the new cache", async || {
        let instance = api.get(&place.name).await.unwrap();
        let ready = ready(&instance)?;
        let kept = ready.reason == "Available" && ready.message.contains("is kept until");
        kept.then_some(instance)
    })
    .await;
    assert_ne!(host(&moved), address);
    assert_eq!(
        ask(&host(&moved), "GET kept").await.unwrap(),
        "yes",
        "it begins with what the old one held"
    );
    let met = user.end().await;
    println!("a move to another subnet, at the old address: {met}");
    assert_eq!(met.refused, Duration::ZERO, "the old cache serves on");
    gone(world, &place, &provider_id(&moved)).await;
    assert!(!world.exists_in_elasticache(&id), "the old one goes with the instance");
    let snapshots = world.sandbox.elasticache().unwrap().remaining().snapshots;
    let seed = format!("{}-seed", provider_id(&moved));
    assert!(!snapshots.contains(&seed), "and what the new one was filled from");
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_moves_from_elasticache_into_the_cluster_and_back() {
    let world = shared().await;
    let aws = plan(world, "memcached", "1.6.22", json!({ "nodeType": "cache.t4g.micro" })).await;
    let engine = json!({ "type": "memcached", "version": "1.6.45" });
    let cluster = world.plan(engine, "kubernetes", json!({ "memory": "64Mi" })).await;
    let place = world.order_by_yaml(&aws, json!({})).await;
    let instance = world.until_ready(&place).await;
    let first = provider_id(&instance);
    patch(world, &place, json!({ "planRef": { "name": cluster } })).await;
    world.until_reason(&place, "AwaitingMaintenance").await;
    approve(world, &place).await;
    let moved = world
        .until(&place, "the cluster", |ready| ready.message.contains("is kept until"))
        .await;
    let status = moved.status.as_ref().unwrap();
    assert_eq!(status.provider.unwrap().as_str(), "kubernetes");
    crate::caches::use_memcached(&host(&moved)).await;
    assert!(world.exists_in_elasticache(&first));

    patch(world, &place, json!({ "planRef": { "name": aws } })).await;
    let api = world.instances(&place.namespace).await;
    let back = eventually("ElastiCache again", async || {
        let instance = api.get(&place.name).await.unwrap();
        let status = instance.status.as_ref()?;
        let there = status.provider?.as_str() == "elasticache" && status.provider_id.as_ref()? != &first;
        (there && ready(&instance)?.status == "True").then_some(instance)
    })
    .await;
    crate::caches::use_memcached(&host(&back)).await;
    gone(world, &place, &provider_id(&back)).await;
    assert!(!world.exists_in_elasticache(&first));
}
