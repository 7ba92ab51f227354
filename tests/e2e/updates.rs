//! Changes of an ordered instance, from the request to the cache.

use serde_json::json;

use crate::caches::use_credentials;
use crate::cluster::ready;
use crate::elasticache::{pause, resume};
use crate::osb::{MEMCACHED, MEMCACHED_IN_CLUSTER, Order, REDIS, REDIS_ON_AWS};
use crate::world::{eventually, shared};

/// `memcached-standard-0` of deploy/plans.
const STANDARD_0: &str = "36120f94-2cd2-3133-8196-c2ef98deffb6";

#[tokio::test(flavor = "multi_thread")]
async fn a_memcached_in_the_cluster_moves_to_a_larger_plan_and_keeps_its_address() {
    let world = shared().await;
    let osb = world.osb();
    let mut order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    let mut body = order.body();
    body["parameters"] = json!({ "maxItemSize": "2Mi" });
    let path = format!("/v2/service_instances/{}?accepts_incomplete=true", order.id);
    let operation = osb.put(&path, &body).await.operation();
    assert_eq!(osb.ended(&order, &operation).await.0, "succeeded");
    let place = world.place(&order).await;
    let before = world.instance(&place).await.unwrap();
    assert_eq!(before.spec.parameters["maxItemSize"], json!("2Mi"));

    let change = json!({
        "service_id": MEMCACHED, "plan_id": STANDARD_0, "parameters": { "maxItemSize": null },
        "context": { "platform": "e2e", "instance_name": "renamed" },
    });
    // While somebody has it paused, the platform is told that nothing ended.
    pause(world, &place).await;
    let operation = osb.patch(&order, &change).await.operation();
    let sql = world.sql().await;
    eventually("the ledger's look at the update that waits", async || {
        let instance = world.instance(&place).await.unwrap();
        let waits = instance.spec.plan_ref.name == "memcached-standard-0" && ready(&instance)?.reason == "Paused";
        let query = "select observed_version from instances where id = $1";
        let seen: Option<String> = sql.query_one(query, &[&order.id]).await.unwrap().get(0);
        (waits && seen == instance.metadata.resource_version).then_some(())
    })
    .await;
    assert_eq!(osb.poll(&order, &operation).await.body["state"], json!("in progress"));
    resume(world, &place).await;
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    let after = world.instance(&place).await.unwrap();
    assert_eq!(after.spec.plan_ref.name, "memcached-standard-0");
    assert!(after.spec.parameters.is_empty(), "{:?}", after.spec.parameters);
    assert_eq!(
        after.spec.owner.as_ref().unwrap().instance_name.as_deref(),
        Some("renamed")
    );
    let (before, after) = (before.status.unwrap(), after.status.unwrap());
    assert_eq!(after.plan.unwrap().name, "memcached-standard-0");
    assert_eq!(after.endpoint, before.endpoint);

    order.plan = STANDARD_0.to_owned();
    let bound = osb.bind(&order, "b").await;
    assert_eq!(bound.status, 201, "{bound:?}");
    osb.give_back(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_emptied_and_tells_what_it_counts() {
    let world = shared().await;
    let osb = world.osb();
    let order = Order::new(MEMCACHED, MEMCACHED_IN_CLUSTER);
    osb.have(&order).await;
    let credentials = osb.bind(&order, "b").await.body["credentials"].clone();
    use_credentials(&credentials, world.sandbox.elasticache().unwrap().ca_file()).await;
    let items = async || {
        let counted = osb.act(&order, "stats").await;
        assert_eq!(counted.status, 200, "{counted:?}");
        let stats = counted.body["stats"].as_array().unwrap();
        let of = |name: &str| {
            let stat = stats.iter().find(|stat| stat["key"] == json!(name)).unwrap();
            stat["value"].as_str().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(counted.body["nodes"].as_array().unwrap().len(), 1);
        (of("cmd_flush"), of("cmd_set"))
    };
    let before = items().await;
    assert!(before.0 == 0 && before.1 > 0, "{before:?}");
    let emptied = osb.act(&order, "flush").await;
    assert_eq!(
        (emptied.status.as_u16(), &emptied.body),
        (200, &json!({ "flush_all": "ok" }))
    );
    assert_eq!(items().await.0, 1);
    osb.give_back(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_on_elasticache_is_restarted_backed_up_and_restored() {
    let world = shared().await;
    let osb = world.osb();
    let order = Order::new(REDIS, REDIS_ON_AWS);
    osb.have(&order).await;
    let done = async |accepted: crate::osb::Reply| {
        let operation = accepted.operation();
        let (state, description) = osb.ended(&order, &operation).await;
        assert_eq!(state, "succeeded", "{description}");
    };
    done(osb.act(&order, "restart").await).await;
    done(osb.act(&order, "backups").await).await;
    let listed = osb
        .get(&format!("/v2/service_instances/{}/actions/backups", order.id))
        .await;
    let backups = listed.body.as_array().unwrap();
    assert_eq!(
        (backups.len(), &backups[0]["status"]),
        (1, &json!("available")),
        "{listed:?}"
    );
    let backup = backups[0]["id"].as_str().unwrap();
    let place = world.place(&order).await;
    let before = world.instance(&place).await.unwrap().status.unwrap();
    assert_eq!(osb.bind(&order, "old").await.status, 201);
    let accepted = osb.restore(&order, backup).await;
    let operation = accepted.operation();
    assert_eq!(osb.restore(&order, backup).await.operation(), operation);
    assert_eq!(osb.poll(&order, &operation).await.body["state"], json!("in progress"));
    // Without a name, the latest operation that the specification knows.
    let last = format!("/v2/service_instances/{}/last_operation", order.id);
    assert_eq!(osb.get(&last).await.body["state"], json!("succeeded"));
    done(accepted).await;
    assert_eq!(osb.poll(&order, &operation).await.body["state"], json!("succeeded"));
    let after = world.instance(&place).await.unwrap().status.unwrap();
    assert_eq!(after.restored_from.as_deref(), Some(backup));
    assert_ne!(after.provider_id, before.provider_id);
    assert_eq!(osb.restore(&order, backup).await.status, 422, "not twice in a row");
    let bound = osb.bind(&order, "b").await;
    assert_eq!(bound.body["credentials"]["host"], json!(after.endpoint.unwrap().host));
    // Whoever was sent to the old one is not cut off; once nobody is left it goes, long before its time of grace is over.
    let old = before.provider_id.unwrap();
    assert!(world.exists_in_elasticache(&old));
    assert_eq!(osb.unbind(&order, "old").await.status, 200);
    eventually("the end of the cache that nobody is sent to any more", async || {
        (!world.exists_in_elasticache(&old)).then_some(())
    })
    .await;
    assert!(world.exists_in_elasticache(&after.provider_id.unwrap()));
    osb.give_back(&order).await;
}
