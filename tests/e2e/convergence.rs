//! Many instances at once, with Pods and clusters that are simulated: they converge with no more calls to AWS than the
//! poller's looks and one create each need, and cost nothing once they rest.

use std::time::{Duration, Instant};

use cache_broker::api::CacheInstance;
use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, PostParams};
use sandbox::Sandbox;
use sandbox::elasticache::{self, Call, Nodes};
use sandbox::node::{self, Pods};
use serde_json::json;

use crate::cluster::ready;
use crate::elasticache::plan;
use crate::quiet::versions;
use crate::world::{PATIENCE, World, eventually, within};

/// `make scale` runs it with 500.
const INSTANCES: &str = "CONVERGENCE_INSTANCES";
const FEW: usize = 120;
/// The shortest that the broker takes; a minute of it is more than an hour of the default.
const RESYNC: Duration = Duration::from_secs(10);

/// Calls that list the region rather than ask for one cache, by operation.
fn lists<'a>(calls: &'a [Call], operation: &'a str) -> impl Iterator<Item = &'a Call> {
    calls.iter().filter(move |call| {
        let named = ["ReplicationGroupId", "CacheClusterId", "SourceIdentifier"];
        call.operation == operation && !named.iter().any(|name| call.parameters.contains_key(*name))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_converge_with_few_calls_and_then_cost_nothing() {
    let instances = std::env::var(INSTANCES).map_or(FEW, |number| number.parse().unwrap());
    let sandbox = Sandbox::builder()
        .node(node::Options {
            pods: Pods::simulated(),
            ..node::Options::default()
        })
        .elasticache(elasticache::Options {
            nodes: Nodes::Simulated,
            ..elasticache::Options::default()
        })
        .start()
        .await
        .unwrap();
    sandbox.elasticache().unwrap().set_limits(elasticache::Limits {
        nodes: 10 * instances,
        ..elasticache::Limits::default()
    });
    let resync = RESYNC.as_secs().to_string();
    let variables = [
        ("RESYNC_SECONDS", resync.as_str()),
        ("AWS_CALLS_PER_SECOND", "1000"),
        ("ELASTICACHE_POLL_MS", "1000"),
    ];
    let world = World::on(sandbox, &variables).await;
    let micro = json!({ "nodeType": "cache.t4g.micro" });
    let replicated = json!({ "nodeType": "cache.t4g.micro", "replicas": 1 });
    let plans = [
        plan(&world, "redis", "7.1", replicated).await,
        plan(&world, "memcached", "1.6.22", micro).await,
        world
            .plan(
                json!({ "type": "memcached", "version": "1.6.45" }),
                "kubernetes",
                json!({ "memory": "64Mi" }),
            )
            .await,
        world
            .plan(
                json!({ "type": "redis", "version": "8.2" }),
                "kubernetes",
                json!({ "memory": "64Mi" }),
            )
            .await,
    ];
    let aws = world.sandbox.elasticache().unwrap();
    let api: Api<CacheInstance> = Api::namespaced(world.kube().await, "redis-system");
    aws.forget_calls();
    let start = Instant::now();
    let orders = (0..instances).map(|nth| {
        let spec = serde_json::from_value(json!({ "planRef": { "name": plans[nth % plans.len()] } })).unwrap();
        let instance = CacheInstance::new(&format!("many-{nth}"), spec);
        let api = api.clone();
        async move { api.create(&PostParams::default(), &instance).await.unwrap() }
    });
    let _: Vec<_> = futures::stream::iter(orders).buffer_unordered(16).collect().await;
    let ordered = start.elapsed();
    // More of them take longer.
    let patience = PATIENCE * u32::try_from(instances.div_ceil(FEW)).unwrap();
    within(patience, "all to be ready", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let all = api.list(&ListParams::default()).await.unwrap().items;
        let done = all
            .iter()
            .filter(|instance| ready(instance).is_some_and(|ready| ready.reason == "Available"));
        (done.count() == instances).then_some(())
    })
    .await;
    let converged = start.elapsed();

    let calls = aws.calls();
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    let creates = count("CreateReplicationGroup") + count("CreateCacheCluster");
    let on_aws = (0..instances).filter(|nth| nth % plans.len() < 2).count();
    let polls = lists(&calls, "DescribeReplicationGroups")
        .filter(|call| !call.parameters.contains_key("Marker"))
        .count();
    let pages = lists(&calls, "DescribeReplicationGroups").count() + lists(&calls, "DescribeCacheClusters").count();
    // All groups, and all clusters with the members of groups, in pages of a hundred.
    let groups = (0..instances).filter(|nth| nth % plans.len() == 0).count();
    let each = groups.div_ceil(100) + (on_aws + groups).div_ceil(100);
    let allowed = 2 * (each * polls + on_aws);
    println!(
        "{instances} instances, {on_aws} of them on ElastiCache: ordered in {:.1} s, ready in {:.1} s; {} calls to AWS: \
         {creates} creates, {polls} polls of {pages} pages together (at most {each} each), {} reads of events, {} of tags, \
         {} others; {allowed} are allowed",
        ordered.as_secs_f64(),
        converged.as_secs_f64(),
        calls.len(),
        count("DescribeEvents"),
        count("ListTagsForResource"),
        calls.len() - creates - pages - count("DescribeEvents") - count("ListTagsForResource"),
    );
    assert_eq!(creates, on_aws, "one create each");
    assert!(calls.len() <= allowed, "{} calls", calls.len());
    assert!(pages <= each * polls, "{pages} pages in {polls} polls");
    // A look takes a second at the least.
    assert!(
        u64::try_from(polls).unwrap() <= converged.as_secs() + 2,
        "{polls} polls"
    );

    // What was nudged by the last changes has come to rest when two looks in a row are the same.
    let mut before = versions(&world).await;
    eventually("rest", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = versions(&world).await;
        let rests = now == before;
        before = now;
        rests.then_some(())
    })
    .await;
    aws.forget_calls();
    tokio::time::sleep(RESYNC + RESYNC / 2).await;
    assert_eq!(versions(&world).await, before, "nothing is written");
    let calls = aws.calls();
    let listed = on_aws.div_ceil(2);
    // Groups, clusters and the members of groups, and a page of events.
    let pages = listed.div_ceil(100) + (2 * listed + on_aws / 2).div_ceil(100) + 1;
    println!(
        "{} calls to AWS in {:?} of rest, {pages} a resync",
        calls.len(),
        RESYNC + RESYNC / 2
    );
    assert!(
        calls.iter().all(|call| call.operation.starts_with("Describe")),
        "{calls:?}"
    );
    assert!(calls.len() <= 2 * pages, "{} calls", calls.len());
    world.stop().await;
}
