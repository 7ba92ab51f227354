//! Plans that come late, change, or stand in each other's way.

use cache_broker::api::conditions::{self, READY};
use cache_broker::api::{CacheInstance, CachePlan, FINALIZER};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::caches::use_credentials;
use crate::cluster::{Place, ready};
use crate::osb::{MEMCACHED, Order};
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
        (world.revision(&plan).await == Some(2)).then_some(())
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

/// The policy that refuses to delete a plan in use goes by its status, which may be behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_deletion_slips_through_stays_until_no_instance_uses_it() {
    let world = shared().await;
    let osb = world.osb();
    let name = unique("held");
    world.apply(&memcached(&name, &name, "64Mi")).await;
    eventually("its offer", async || {
        (offered(world, &name).await == [name.clone()]).then_some(())
    })
    .await;
    let order = Order::new(MEMCACHED, &name);
    osb.have(&order).await;
    let place = world.place(&order).await;
    let plans: Api<CachePlan> = Api::all(world.kube().await);
    eventually("a hold on the plan", async || {
        let plan = plans.get(&name).await.unwrap();
        plan.finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER)
            .then_some(())
    })
    .await;
    eventually("a deletion that slips through", async || {
        let unused = json!({ "status": { "instances": 0 } });
        plans
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&unused))
            .await
            .unwrap();
        plans.delete(&name, &DeleteParams::default()).await.ok()
    })
    .await;
    let user = format!("{}/{}", place.namespace, place.name);
    eventually("a condition that names who uses it", async || {
        let status = plans.get(&name).await.unwrap().status?;
        let ready = conditions::find(&status.conditions, READY)?;
        (ready.status == "False" && ready.reason == "Deleting" && ready.message.contains(&user)).then_some(())
    })
    .await;
    eventually("the end of its offer", async || {
        offered(world, &name).await.is_empty().then_some(())
    })
    .await;
    // The Events of what has no namespace are in this one.
    eventually("an Event of that", async || {
        let told = world.events(&Place::new("default", &name), "Deleting").await;
        (!told.is_empty()).then_some(())
    })
    .await;
    // What is there goes on.
    let bound = osb.bind(&order, "b").await;
    assert_eq!(bound.status, 201);
    use_credentials(
        &bound.body["credentials"],
        world.sandbox.elasticache().unwrap().ca_file(),
    )
    .await;
    assert_eq!(osb.provision(&order).await.status, 200);
    osb.unbind(&order, "b").await;
    osb.give_back(&order).await;
    eventually("the end of the plan", async || {
        plans.get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_says_what_the_newest_revision_of_its_plan_would_do_and_waits_to_be_moved() {
    let world = shared().await;
    let plan = unique("revised");
    world.apply(&memcached(&plan, &plan, "64Mi")).await;
    let place = world.order_by_yaml(&plan, json!({})).await;
    world.until_ready(&place).await;
    let said = async |status: &str| {
        eventually(&format!("UpdateAvailable={status}"), async || {
            let instance = world.instance(&place).await?;
            let conditions = instance.status?.conditions;
            let found = conditions::find(&conditions, "UpdateAvailable")?;
            (found.status == status).then(|| found.clone())
        })
        .await
    };
    assert_eq!(said("False").await.reason, "UpToDate");
    let before = world.instance(&place).await.unwrap();
    world.apply(&memcached(&plan, &plan, "96Mi")).await;
    let available = said("True").await;
    assert_eq!(available.reason, "LosesData");
    assert!(
        available.message.contains("the memory from 64Mi to 96Mi")
            && available.message.contains("cache.akkeris.io/update-to-revision=2"),
        "{available:?}"
    );
    // It is said, and nothing else.
    let after = world.instance(&place).await.unwrap();
    assert_eq!((revision(&after), &after.spec), (1, &before.spec));
    assert_eq!(ready(&after).unwrap().reason, "Available");
    assert_eq!(memory(world, &place).await, "64Mi");
    for annotation in [
        "cache.akkeris.io/approve-disruption=true",
        "cache.akkeris.io/update-to-revision=2",
    ] {
        world.annotate(&place, annotation).await;
    }
    assert_eq!(said("False").await.reason, "UpToDate");
    eventually("the new memory", async || {
        (memory(world, &place).await == "96Mi").then_some(())
    })
    .await;
    world.delete(&place).await;
    world.until_nothing_is_left(&place, None).await;
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
