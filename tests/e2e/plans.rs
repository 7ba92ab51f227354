//! Plans that come late, change, or stand in each other's way.

use cache_broker::api::CacheInstance;
use serde_json::{Value, json};

use crate::cluster::{Place, ready};
use crate::world::{World, eventually, shared};

fn memcached(name: &str, id: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": name },
        "spec": {
            "service": "akkeris-memcached", "id": id, "description": "Of a test.",
            "engine": { "type": "memcached", "version": "1.6.45" }, "kubernetes": { "memory": memory },
        },
    })
}

fn unique(word: &str) -> String {
    format!("{word}-{}", uuid::Uuid::new_v4().simple())
}

fn revision(instance: &CacheInstance) -> i64 {
    instance.status.as_ref().unwrap().plan.as_ref().unwrap().revision
}

async fn memory(world: &World, place: &Place) -> String {
    let selector = format!("app.kubernetes.io/instance={}", place.name);
    let path = "jsonpath={.items[*].spec.template.spec.containers[0].resources.limits.memory}";
    world
        .kubectl(&[
            "get",
            "deployments",
            "-n",
            &place.namespace,
            "-l",
            &selector,
            "-o",
            path,
        ])
        .await
}

/// The names of the offered plans that have an id.
async fn offered(world: &World, id: &str) -> Vec<String> {
    let catalog = world.osb().get("/v2/catalog").await;
    let services = catalog.body["services"].as_array().unwrap();
    let plans = services.iter().flat_map(|service| service["plans"].as_array().unwrap());
    plans
        .filter(|plan| plan["id"] == json!(id))
        .map(|plan| plan["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_waits_for_its_plan_and_keeps_its_revision() {
    let world = shared().await;
    let plan = unique("late");
    let first = world.order_by_yaml(&plan, json!({})).await;
    let waiting = world.until_reason(&first, "PlanNotFound").await;
    assert!(ready(&waiting).unwrap().message.contains(&plan));
    assert!(world.children(&first).await.is_empty());

    world.apply(&memcached(&plan, &plan, "64Mi")).await;
    assert_eq!(revision(&world.until_ready(&first).await), 1);
    assert_eq!(memory(world, &first).await, "64Mi");

    // An edit is for those who come later.
    world.apply(&memcached(&plan, &plan, "96Mi")).await;
    eventually("the second revision", async || {
        let path = "jsonpath={.status.revision}";
        (world.kubectl(&["get", "cplan", &plan, "-o", path]).await == "2").then_some(())
    })
    .await;
    let second = world.order_by_yaml(&plan, json!({})).await;
    assert_eq!(revision(&world.until_ready(&second).await), 2);
    assert_eq!(memory(world, &second).await, "96Mi");
    assert_eq!(revision(&world.until_ready(&first).await), 1);
    assert_eq!(memory(world, &first).await, "64Mi");

    // While instances run from it, it cannot be deleted.
    eventually("the count of its instances", async || {
        let path = "jsonpath={.status.instances}";
        (world.kubectl(&["get", "cplan", &plan, "-o", path]).await == "2").then_some(())
    })
    .await;
    let refused = crate::world::kubectl_command(&world.sandbox)
        .args(["delete", "cplan", &plan])
        .output()
        .await
        .unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("is in use (instances: 2)"), "{message}");
    for place in [&first, &second] {
        world.delete(place).await;
        world.until_nothing_is_left(place, None).await;
    }
    eventually("its deletion", async || {
        let output = crate::world::kubectl_command(&world.sandbox)
            .args(["delete", "cplan", &plan])
            .output();
        output.await.unwrap().status.success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plans_with_one_id_only_the_older_is_offered() {
    let world = shared().await;
    let id = unique("id");
    let (older, younger) = (format!("a-{id}"), format!("b-{id}"));
    world.apply(&memcached(&older, &id, "64Mi")).await;
    eventually("the offer of the older", async || {
        (offered(world, &id).await == [older.clone()]).then_some(())
    })
    .await;
    world.apply(&memcached(&younger, &id, "64Mi")).await;
    eventually("the refusal of the younger", async || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}";
        (world.kubectl(&["get", "cplan", &younger, "-o", path]).await == "Duplicate").then_some(())
    })
    .await;
    assert_eq!(offered(world, &id).await, std::slice::from_ref(&older));
    world.kubectl(&["delete", "cplan", &older, &younger]).await;
}
