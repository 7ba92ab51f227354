//! Encryption, passwords and shards of a replication group, and several nodes of memcached in the cluster: each step that
//! the provider saw, and what clients and the actions of the API make of it.

use std::collections::BTreeSet;
use std::time::Duration;

use cache_broker::api::CacheInstance;
use sandbox::elasticache::{Call, Fault, FaultKind};
use serde_json::{Value, json};

use crate::caches::{redis, use_memcached, use_redis};
use crate::cluster::provider_id;
use crate::elasticache::{changes, fields, gone, move_to, operations, plan, settled, strike};
use crate::osb::{MEMCACHED, Order, REDIS};
use crate::steady::Cache;
use crate::world::{World, eventually, shared};

const MICRO: &str = "cache.t4g.micro";

/// Waits until plans are in the catalog.
pub async fn offered(world: &World, plans: &[&String]) {
    eventually("the plans in the catalog", async || {
        let catalog = world.osb().get("/v2/catalog").await.text;
        plans.iter().all(|plan| catalog.contains(plan.as_str())).then_some(())
    })
    .await;
}

/// Is refused a plan of another provider, where the data would be lost.
pub async fn stays_with_its_provider(world: &World, order: &Order, elsewhere: &str, engine: &str) {
    let change = json!({ "service_id": order.service, "plan_id": elsewhere });
    let refused = world.osb().patch(order, &change).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let description = refused.body["description"].as_str().unwrap();
    let says = format!("{engine} cannot take its data there; order a new instance of that plan instead");
    assert!(description.contains(&says), "{description}");
}

/// Moves an order to another plan, and waits for the end of that.
async fn update(world: &World, order: &mut Order, plan: &str) {
    let body = json!({ "service_id": order.service, "plan_id": plan });
    let operation = world.osb().patch(order, &body).await.operation();
    let (state, description) = world.osb().ended(order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    order.plan = plan.to_owned();
}

async fn credentials(world: &World, order: &Order) -> Value {
    let binding = uuid::Uuid::new_v4().to_string();
    let bound = world.osb().bind(order, &binding).await;
    assert_eq!(bound.status, 201, "{bound:?}");
    bound.body["credentials"].clone()
}

/// The strategies of the passwords that ElastiCache was asked for.
fn strategies(world: &World, id: &str) -> Vec<String> {
    let strategy = |call: Call| call.parameters.get("AuthTokenUpdateStrategy").cloned();
    changes(world, id).into_iter().filter_map(strategy).collect()
}

async fn asked(world: &World, id: &str, expected: &[&str]) {
    eventually(&format!("{expected:?}"), async || {
        (strategies(world, id) == expected).then_some(())
    })
    .await;
}

/// How many nodes answered with statistics.
async fn counted(world: &World, order: &Order) -> usize {
    let stats = world.osb().act(order, "stats").await;
    assert_eq!(stats.status, 200, "{stats:?}");
    stats.body["nodes"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_and_passwords_come_call_by_call_and_shut_nobody_out_before_the_time() {
    let world = shared().await;
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    let open = plan(world, "redis", "7.1", json!({ "nodeType": MICRO })).await;
    let spec = json!({ "nodeType": MICRO, "transitEncryption": true, "authentication": "token" });
    let secured = plan(world, "redis", "7.1", spec.clone()).await;
    let valkey = plan(world, "valkey", "8.0", spec).await;
    let engine = json!({ "type": "valkey", "version": "8.0" });
    let memory = json!({ "memory": "64Mi" });
    let valkey_in_cluster = world.plan(engine, "kubernetes", memory.clone()).await;
    let engine = json!({ "type": "redis", "version": "8.2" });
    let redis_in_cluster = world.plan(engine, "kubernetes", memory).await;
    offered(
        world,
        &[&open, &secured, &valkey, &valkey_in_cluster, &redis_in_cluster],
    )
    .await;
    let mut order = Order::new(REDIS, &open);
    world.osb().have(&order).await;
    stays_with_its_provider(world, &order, &redis_in_cluster, "redis").await;
    let place = world.place(&order).await;
    let id = provider_id(&world.instance(&place).await.unwrap());
    let plain = credentials(world, &order).await;
    let uri = plain["REDIS_URL"].as_str().unwrap().to_owned();
    assert_eq!(redis(&uri, ca_file, &["set", "kept", "yes"]).await, "OK");

    update(world, &mut order, &secured).await;
    let calls = changes(world, &id);
    assert_eq!(
        operations(&calls)[..4],
        [
            "CreateReplicationGroup",
            "ModifyReplicationGroup",
            "ModifyReplicationGroup",
            "ModifyReplicationGroup"
        ]
    );
    let encryption = BTreeSet::from(["TransitEncryptionEnabled", "TransitEncryptionMode"]);
    let token = BTreeSet::from(["AuthToken", "AuthTokenUpdateStrategy"]);
    assert_eq!(
        calls[1..4].iter().map(fields).collect::<Vec<_>>(),
        [encryption.clone(), encryption, token]
    );
    let modes = calls[1..3]
        .iter()
        .map(|call| call.parameters["TransitEncryptionMode"].as_str());
    assert_eq!(modes.collect::<Vec<_>>(), ["preferred", "required"]);
    asked(world, &id, &["ROTATE"]).await;

    // Who knows the password and who does not are both let in, and nothing was lost.
    let known = credentials(world, &order).await;
    let with = known["REDIS_URL"].as_str().unwrap().to_owned();
    let without = format!("rediss://{}", uri.strip_prefix("redis://").unwrap());
    assert!(with.starts_with("rediss://") && with.contains('@'), "it has a password");
    assert_eq!(redis(&with, ca_file, &["get", "kept"]).await, "yes");
    assert_eq!(redis(&without, ca_file, &["get", "kept"]).await, "yes");
    assert_eq!(counted(world, &order).await, 1);

    world.annotate(&place, "cache.akkeris.io/release-superseded=true").await;
    asked(world, &id, &["ROTATE", "SET"]).await;
    eventually("the end of clients without a password", async || {
        let answer = redis(&without, ca_file, &["get", "kept"]).await;
        answer.contains("NOAUTH").then_some(())
    })
    .await;
    assert_eq!(redis(&with, ca_file, &["get", "kept"]).await, "yes");
    world.until_reason(&place, "Available").await;

    // Another password in the Secret: the one before holds until it is let go.
    world.annotate(&place, "cache.akkeris.io/release-superseded-").await;
    let other = "another-password-of-mine";
    // ElastiCache does what it is asked, and the answer is lost: asked twice it would shut the password before out.
    strike(
        world,
        Fault::new(FaultKind::LostAnswer).times(1),
        "ModifyReplicationGroup",
        &id,
    );
    let patch = json!({ "stringData": { "password": other } }).to_string();
    let secret = format!("{}-auth", place.name);
    world
        .kubectl(&[
            "patch",
            "secret",
            "-n",
            &place.namespace,
            &secret,
            "--type=merge",
            "-p",
            &patch,
        ])
        .await;
    let next = eventually("the other password in credentials", async || {
        let credentials = credentials(world, &order).await;
        (credentials["password"] == json!(other)).then(|| credentials["REDIS_URL"].as_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(strategies(world, &id), ["ROTATE", "SET", "ROTATE"]);
    let rotations = world.calls("ModifyReplicationGroup", &id).into_iter();
    let rotations = rotations.filter(|call| {
        call.parameters
            .get("AuthTokenUpdateStrategy")
            .is_some_and(|s| s == "ROTATE")
    });
    let outcomes: Vec<_> = rotations.map(|call| (call.outcome, call.lost)).collect();
    let ok = |lost| ("ok".to_owned(), lost);
    assert_eq!(outcomes, [ok(false), ok(true)], "it was not asked again");
    for each in [&with, &next] {
        assert_eq!(redis(each, ca_file, &["get", "kept"]).await, "yes");
    }
    // Nobody needs the one before any more once every binding that was handed it, or none, is gone.
    let sql = world.sql().await;
    let bindings =
        "select id from bindings where instance_id = $1 and deleted_at is null order by created_at desc offset 1";
    for row in sql.query(bindings, &[&order.id]).await.unwrap() {
        assert_eq!(strategies(world, &id), ["ROTATE", "SET", "ROTATE"], "there is one yet");
        assert_eq!(world.osb().unbind(&order, row.get(0)).await.status, 200);
    }
    asked(world, &id, &["ROTATE", "SET", "ROTATE", "SET"]).await;
    eventually("the end of the password before", async || {
        let answer = redis(&with, ca_file, &["get", "kept"]).await;
        ["NOAUTH", "WRONGPASS"]
            .iter()
            .any(|word| answer.contains(word))
            .then_some(())
    })
    .await;
    assert_eq!(redis(&next, ca_file, &["get", "kept"]).await, "yes");
    world.until_reason(&place, "Available").await;

    // The actions of the API, over TLS and with the password, of redis and of the valkey that it becomes.
    use_redis(&next, ca_file).await;
    assert_eq!(counted(world, &order).await, 1);
    let emptied = world.osb().act(&order, "flush").await;
    assert_eq!(emptied.status, 200, "{emptied:?}");
    assert_eq!(redis(&next, ca_file, &["get", "kept"]).await, "");
    assert_eq!(redis(&next, ca_file, &["set", "kept", "yes"]).await, "OK");
    update(world, &mut order, &valkey).await;
    let running = world.instance(&place).await.unwrap().status.unwrap().engine.unwrap();
    assert_eq!(running.type_.as_str(), "valkey");
    stays_with_its_provider(world, &order, &valkey_in_cluster, "valkey").await;
    assert_eq!(redis(&next, ca_file, &["get", "kept"]).await, "yes");
    assert_eq!(counted(world, &order).await, 1);
    let emptied = world.osb().act(&order, "flush").await;
    assert_eq!(emptied.status, 200, "{emptied:?}");
    assert_eq!(redis(&next, ca_file, &["get", "kept"]).await, "");
    world.osb().give_back(&order).await;
    assert!(!world.exists_in_elasticache(&id));
}

fn shards(instance: &CacheInstance) -> usize {
    instance.status.as_ref().unwrap().nodes.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_come_and_go_where_they_stand() {
    let world = shared().await;
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    let name = plan(world, "redis", "7.1", json!({ "nodeType": MICRO, "shards": 2 })).await;
    let place = world.order_by_yaml(&name, json!({})).await;
    let instance = world.until_ready(&place).await;
    let (id, address) = (provider_id(&instance), crate::elasticache::host(&instance));
    let uri = format!("redis://{address}");
    let keys = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    for key in keys {
        assert_eq!(redis(&uri, ca_file, &["-c", "set", key, "kept"]).await, "OK");
    }
    let mut asked = changes(world, &id).len();
    for (revision, count, sent) in [
        (2, 3, vec!["NodeGroupCount"]),
        (3, 2, vec!["NodeGroupCount", "NodeGroupsToRemove.NodeGroupToRemove.1"]),
    ] {
        move_to(world, &place, &name, json!({ "nodeType": MICRO, "shards": count })).await;
        let instance = settled(world, &place, revision).await;
        assert_eq!((provider_id(&instance), shards(&instance)), (id.clone(), count));
        let calls = changes(world, &id).split_off(asked);
        assert_eq!(operations(&calls), ["ModifyReplicationGroupShardConfiguration"]);
        assert_eq!(fields(&calls[0]).into_iter().collect::<Vec<_>>(), sent);
        assert_eq!(calls[0].parameters["NodeGroupCount"], count.to_string());
        asked += calls.len();
        for key in keys {
            assert_eq!(redis(&uri, ca_file, &["-c", "get", key]).await, "kept", "{key}");
        }
    }
    gone(world, &place, &id).await;
}

/// What a client of a node may be refused while one Pod takes the place of another.
const UNNOTICED: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_of_memcached_in_the_cluster_are_looked_after_one_by_one() {
    let world = shared().await;
    let engine = || json!({ "type": "memcached", "version": "1.6.45" });
    let nodes = |count: u16| json!({ "memory": "64Mi", "replicas": count });
    let two = world.plan(engine(), "kubernetes", nodes(2)).await;
    let three = world.plan(engine(), "kubernetes", nodes(3)).await;
    offered(world, &[&two, &three]).await;
    let mut order = Order::new(MEMCACHED, &two);
    world.osb().have(&order).await;
    let addresses = async |order: &Order| -> Vec<String> {
        let credentials = credentials(world, order).await;
        let url = credentials["MEMCACHED_URL"].as_str().unwrap().to_owned();
        url.split(',').map(str::to_owned).collect()
    };
    let first = addresses(&order).await;
    assert_eq!(first.len(), 2, "{first:?}");
    for address in &first {
        use_memcached(address).await;
    }
    let instance = world.instance(&world.place(&order).await).await.unwrap();
    let running = instance.status.unwrap().engine.unwrap();
    assert_ne!(running.version, "1.6.45", "what runs here says its own version");
    assert!(running.version.starts_with("1.6."), "{running:?}");
    assert_eq!(counted(world, &order).await, 2);

    let clients: Vec<_> = first
        .iter()
        .map(|address| Cache::open(address, false).use_steadily())
        .collect();
    let operation = world.osb().act(&order, "restart").await.operation();
    assert_eq!(world.osb().ended(&order, &operation).await.0, "succeeded");
    update(world, &mut order, &three).await;
    for client in clients {
        let tally = client.end().await;
        assert!(tally.refused <= UNNOTICED, "{tally:?}");
    }
    let then = addresses(&order).await;
    assert_eq!((&then[..2], then.len()), (&first[..], 3), "addresses stay");
    use_memcached(&then[2]).await;
    assert_eq!(counted(world, &order).await, 3);
    let emptied = world.osb().act(&order, "flush").await;
    assert_eq!(
        (emptied.status.as_u16(), &emptied.body),
        (200, &json!({ "flush_all": "ok" }))
    );
    for address in &then {
        assert!(!Cache::open(address, false).has("key").await.unwrap(), "{address}");
    }
    world.osb().give_back(&order).await;
}
