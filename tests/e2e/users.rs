//! Users for each binding, from the bind to the refusal of a client that was unbound.

use std::path::Path;

use cache_broker::api::CacheInstance;
use futures::future::join_all;
use http::StatusCode;
use sandbox::elasticache::Limits;
use serde_json::{Value, json};

use crate::caches::redis;
use crate::cluster::{Place, ready};
use crate::osb::{Order, Osb, REDIS, Reply};
use crate::secured::{offered, stays_with_its_provider};
use crate::world::{World, eventually, shared};

/// Waits for the Service and for a Pod, which a client hears of a moment later than the broker.
async fn says(uri: &str, ca_file: &Path, arguments: &[&str], expected: &str) {
    let host = uri.rsplit_once('@').unwrap().1;
    eventually(&format!("{expected:?} of {host} to {arguments:?}"), async || {
        (redis(uri, ca_file, arguments).await == expected).then_some(())
    })
    .await;
}

fn path(order: &Order, binding: &str) -> String {
    format!("/v2/service_instances/{}/service_bindings/{binding}", order.id)
}

async fn bind(osb: &Osb, order: &Order, binding: &str) -> Reply {
    let body = json!({ "service_id": order.service, "plan_id": order.plan, "bind_resource": { "app_guid": "app" } });
    osb.put(&format!("{}?accepts_incomplete=true", path(order, binding)), &body)
        .await
}

async fn unbind(osb: &Osb, order: &Order, binding: &str) -> Reply {
    let query = format!(
        "service_id={}&plan_id={}&accepts_incomplete=true",
        order.service, order.plan
    );
    osb.delete(&format!("{}?{query}", path(order, binding))).await
}

/// How an operation of a binding ends.
async fn ended(osb: &Osb, order: &Order, binding: &str, operation: &str) -> String {
    let last = format!("{}/last_operation?operation={operation}", path(order, binding));
    eventually(&format!("the end of {operation} of {binding}"), async || {
        let reply = osb.get(&last).await;
        match reply.status {
            StatusCode::GONE => Some("gone".to_owned()),
            StatusCode::OK if reply.body["state"] != json!("in progress") => {
                println!("{binding}: {}", reply.text);
                Some(reply.body["state"].as_str().unwrap().to_owned())
            }
            _ => None,
        }
    })
    .await
}

async fn credentials(osb: &Osb, order: &Order, binding: &str) -> Value {
    let fetched = osb.fetch_binding(order, binding).await;
    assert_eq!(fetched.status, StatusCode::OK, "{fetched:?}");
    fetched.body["credentials"].clone()
}

fn uri(credentials: &Value) -> String {
    credentials["REDIS_URL"].as_str().unwrap().to_owned()
}

/// Binds, waits, and returns the URI that was handed out.
async fn bound(osb: &Osb, order: &Order, binding: &str) -> String {
    let accepted = bind(osb, order, binding).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
    assert_eq!(ended(osb, order, binding, &accepted.operation()).await, "succeeded");
    uri(&credentials(osb, order, binding).await)
}

/// Has a binding succeed another one, waits, and returns the URI that was handed out.
async fn rotated(osb: &Osb, order: &Order, binding: &str, predecessor: &str) -> String {
    let path = format!("{}?accepts_incomplete=true", path(order, binding));
    let accepted = osb.put(&path, &json!({ "predecessor_binding_id": predecessor })).await;
    assert_eq!(ended(osb, order, binding, &accepted.operation()).await, "succeeded");
    uri(&credentials(osb, order, binding).await)
}

async fn unbound(osb: &Osb, order: &Order, binding: &str) {
    let accepted = unbind(osb, order, binding).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
    assert_eq!(ended(osb, order, binding, &accepted.operation()).await, "gone");
}

/// A plan whose bindings have users; returns its name, which is its id, too.
async fn plan(world: &World, engine: Value, provider: &str, spec: Value) -> String {
    let name = format!("users-{}", uuid::Uuid::new_v4().simple());
    let mut plan = json!({
        "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": name },
        "spec": {
            "service": "akkeris-redis", "id": name, "description": "Of a test.", "engine": engine,
            "bindingCredentials": "perBinding",
        },
    });
    plan["spec"][provider] = spec;
    world.apply(&plan).await;
    name
}

async fn in_cluster(world: &World, engine: &str) -> String {
    plan(
        world,
        json!({ "type": engine, "version": "7.2" }),
        "kubernetes",
        json!({ "memory": "64Mi", "connectionLimit": 50 }),
    )
    .await
}

/// Asks for a plan that its data cannot follow to, and is refused.
async fn is_not_moved(osb: &Osb, order: &Order, plan: &str) {
    let change = json!({ "service_id": REDIS, "plan_id": plan });
    let reply = eventually("a word on the plan elsewhere", async || {
        // A plan that was made just now is not offered yet.
        let reply = osb.patch(order, &change).await;
        (reply.status != StatusCode::BAD_REQUEST).then_some(reply)
    })
    .await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{reply:?}");
    assert!(reply.text.contains("valkey cannot take its data there"), "{reply:?}");
    assert_eq!(reply.body["instance_usable"], json!(true), "{reply:?}");
}

/// Orders of a plan that was made just now; the operation.
async fn accepted(osb: &Osb, order: &Order) -> String {
    eventually("an order of a new plan", async || {
        let reply = osb.provision(order).await;
        (reply.status == StatusCode::ACCEPTED).then(|| reply.operation())
    })
    .await
}

/// Waits until an instance says that a quota of ElastiCache is used up, and an Event as well.
async fn lacks_room(world: &World, place: &Place, quota: &str) -> CacheInstance {
    let instance = world
        .until(place, quota, |condition| {
            condition.reason == "ProviderUnavailable" && condition.message.contains(quota)
        })
        .await;
    eventually("an Event of that", async || {
        let told = world.events(place, "ProviderUnavailable").await;
        (!told.is_empty()).then_some(())
    })
    .await;
    instance
}

/// An order of a plan that was made just now, ready.
async fn have(osb: &Osb, plan: &str) -> Order {
    let order = Order::new(REDIS, plan);
    let operation = accepted(osb, &order).await;
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    order
}

fn users(instance: &CacheInstance) -> Vec<&str> {
    let status = instance.status.as_ref().unwrap();
    status.users.iter().map(|user| user.name.as_str()).collect()
}

fn refused(answer: &str) -> bool {
    answer.starts_with("WRONGPASS") || answer.starts_with("NOAUTH") || answer.contains("AUTH failed: WRONGPASS")
}

/// What is left of the users of an instance: Secrets, and names in its resource.
async fn secrets_of_users(world: &World, place: &Place) -> usize {
    let selector = format!("cache.akkeris.io/user,app.kubernetes.io/instance={}", place.name);
    let names = world
        .kubectl(&["get", "secrets", "-n", &place.namespace, "-l", &selector, "-o", "name"])
        .await;
    names.lines().count()
}

/// `redis-server` stands in for valkey, which has no package for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_cluster_each_binding_has_a_user_that_survives_its_pod_and_ends_with_it() {
    let world = shared().await;
    let osb = world.osb();
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    let order = have(&osb, &in_cluster(world, "valkey").await).await;
    let place = world.place(&order).await;
    let pods = async || {
        let children = world.children(&place).await;
        children
            .into_iter()
            .filter(|name| name.starts_with("pod/"))
            .collect::<Vec<_>>()
    };
    let before = pods().await;
    let (a, b) = tokio::join!(bound(&osb, &order, "a"), bound(&osb, &order, "b"));
    assert_ne!(a, b);
    says(&a, ca_file, &["set", "key", "value"], "OK").await;
    says(&b, ca_file, &["get", "key"], "value").await;
    // It cannot let itself in again, or make itself another user.
    let forbidden = redis(&a, ca_file, &["acl", "setuser", "own", "on", "nopass", "~*", "+@all"]).await;
    assert!(forbidden.starts_with("NOPERM"), "{forbidden}");
    assert_eq!(osb.unbind(&order, "a").await.status, StatusCode::UNPROCESSABLE_ENTITY);

    unbound(&osb, &order, "a").await;
    let answer = redis(&a, ca_file, &["get", "key"]).await;
    assert!(refused(&answer), "{answer}");
    says(&b, ca_file, &["get", "key"], "value").await;
    let micro = json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true });
    let valkey = json!({ "type": "valkey", "version": "8.0" });
    is_not_moved(&osb, &order, &plan(world, valkey, "elasticache", micro).await).await;
    says(&b, ca_file, &["get", "key"], "value").await;
    assert_eq!(pods().await, before, "no Pod was restarted for it");
    assert_eq!(secrets_of_users(world, &place).await, 1);
    let instance = world.instance(&place).await.unwrap();
    let [user] = &instance.spec.users[..] else {
        panic!("{:?}", instance.spec.users)
    };
    assert_eq!(users(&instance), [user.name.as_str()]);

    // What it holds cannot be taken to ElastiCache.
    let engine = json!({ "type": "redis", "version": "7.2" });
    let spec = json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true });
    let elsewhere = plan(world, engine, "elasticache", spec).await;
    offered(world, &[&elsewhere]).await;
    stays_with_its_provider(world, &order, &elsewhere, "redis").await;
    says(&b, ca_file, &["get", "key"], "value").await;

    // The shared connection goes on holding: it is the operator's, and that of the connection Secret.
    let emptied = osb.act(&order, "flush").await;
    assert_eq!(emptied.status, StatusCode::OK, "{emptied:?}");
    says(&b, ca_file, &["dbsize"], "0").await;

    // What somebody writes over the password, by which Pods start and the operator comes in, is put back.
    let auth = format!("{}-auth", place.name);
    let password = async |secret: &str| {
        let of = [
            "get",
            "secret",
            secret,
            "-n",
            &place.namespace,
            "-o",
            "jsonpath={.data.password}",
        ];
        world.kubectl(&of).await
    };
    let before_the_edit = password(&auth).await;
    let mine = json!({ "stringData": { "password": "of-somebody", "auth.conf": "requirepass of-somebody\n" } });
    let patch = [
        "patch",
        "secret",
        &auth,
        "-n",
        &place.namespace,
        "--type=merge",
        "-p",
        &mine.to_string(),
    ];
    world.kubectl(&patch).await;
    eventually("the password that the server has", async || {
        (password(&auth).await == before_the_edit).then_some(())
    })
    .await;
    assert_eq!(password(&format!("{}-connection", place.name)).await, before_the_edit);
    assert_eq!(osb.act(&order, "stats").await.status, StatusCode::OK);

    // A Pod that is killed comes back with its users.
    let [pod] = &before[..] else { panic!("{before:?}") };
    world
        .kubectl(&["delete", "-n", &place.namespace, pod, "--wait=true"])
        .await;
    says(&b, ca_file, &["set", "key", "again"], "OK").await;
    assert!(refused(&redis(&a, ca_file, &["get", "key"]).await));

    // So does one that takes its place.
    let operation = osb.act(&order, "restart").await.operation();
    let successor = bound_when_idle(&osb, &order, "c", &operation).await;
    for uri in [&b, &successor] {
        says(uri, ca_file, &["set", "key", "third"], "OK").await;
    }
    let d = rotated(&osb, &order, "d", "b").await;
    unbound(&osb, &order, "b").await;
    says(&d, ca_file, &["get", "key"], "third").await;
    assert!(refused(&redis(&b, ca_file, &["get", "key"]).await));
    osb.give_back(&order).await;
    world.until_nothing_is_left(&place, None).await;
}

/// Binds once an operation of the instance has ended.
async fn bound_when_idle(osb: &Osb, order: &Order, binding: &str, operation: &str) -> String {
    let busy = bind(osb, order, binding).await;
    assert_eq!(busy.body["error"], json!("ConcurrencyError"), "{busy:?}");
    assert_eq!(osb.ended(order, operation).await.0, "succeeded");
    bound(osb, order, binding).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_no_binding_and_no_unbinding() {
    let mut world = World::start(&[]).await;
    let name = in_cluster(&world, "redis").await;
    let order = have(&world.osb(), &name).await;
    let place = world.place(&order).await;
    let ids: Vec<_> = (0..8).map(|number| format!("b{number}")).collect();
    let osb = world.osb();
    let first = bound(&osb, &order, "first").await;
    let accepted = join_all(ids.iter().map(|id| bind(&osb, &order, id))).await;
    let ending = unbind(&osb, &order, "first").await.operation();
    world.kill_broker().await;
    world.start_broker().await;
    let osb = world.osb();
    let ca_file = world.sandbox.elasticache().unwrap().ca_file().to_owned();
    assert_eq!(ended(&osb, &order, "first", &ending).await, "gone");
    assert!(refused(&redis(&first, &ca_file, &["ping"]).await));
    let mut uris = Vec::new();
    for (id, accepted) in ids.iter().zip(&accepted) {
        assert_eq!(ended(&osb, &order, id, &accepted.operation()).await, "succeeded");
        uris.push(uri(&credentials(&osb, &order, id).await));
    }
    for uri in &uris {
        says(uri, &ca_file, &["ping"], "PONG").await;
    }
    // Some go while it is killed again.
    let endings = join_all(ids[..4].iter().map(|id| unbind(&osb, &order, id))).await;
    world.kill_broker().await;
    world.start_broker().await;
    let osb = world.osb();
    for (id, ending) in ids.iter().zip(&endings) {
        assert_eq!(ended(&osb, &order, id, &ending.operation()).await, "gone");
    }
    for (number, uri) in uris.iter().enumerate() {
        let answer = redis(uri, &ca_file, &["ping"]).await;
        assert_eq!(refused(&answer), number < 4, "{number}: {answer}");
    }
    assert_eq!(secrets_of_users(&world, &place).await, 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_elasticache_each_binding_has_a_user_and_none_is_left() {
    let world = shared().await;
    let osb = world.osb();
    let elasticache = || world.sandbox.elasticache().unwrap();
    let ca_file = elasticache().ca_file();
    let spec = json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true });
    let redis_plan = plan(
        world,
        json!({ "type": "redis", "version": "7.1" }),
        "elasticache",
        spec.clone(),
    )
    .await;
    let valkey_plan = plan(
        world,
        json!({ "type": "valkey", "version": "7.2" }),
        "elasticache",
        spec,
    )
    .await;
    // ElastiCache has no room for another group of users, and then for no other user: that is waited for, and said.
    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        elasticache().set_limits(limits);
    };
    limits(|limits| limits.user_groups = 0);
    let mut order = Order::new(REDIS, &redis_plan);
    let operation = accepted(&osb, &order).await;
    let place = world.place(&order).await;
    lacks_room(world, &place, "UserGroupQuotaExceeded").await;
    assert_eq!(osb.poll(&order, &operation).await.body["state"], json!("in progress"));
    // The default user was made already.
    limits(|limits| limits.users = 1);
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    let binding = bind(&osb, &order, "a").await.operation();
    let served = lacks_room(world, &place, "UserQuotaExceeded").await;
    assert!(served.status.unwrap().endpoint.is_some(), "it goes on serving");
    limits(|_| {});
    assert_eq!(ended(&osb, &order, "a", &binding).await, "succeeded");
    let a = uri(&credentials(&osb, &order, "a").await);
    let b = bound(&osb, &order, "b").await;
    says(&a, ca_file, &["set", "key", "value"], "OK").await;
    says(&b, ca_file, &["get", "key"], "value").await;
    let instance = world.instance(&place).await.unwrap();
    let status = instance.status.as_ref().unwrap();
    let group = status.user_group.clone().unwrap();
    assert!(elasticache().remaining().user_groups.contains(&group));
    let provider_id = status.provider_id.clone().unwrap();

    unbound(&osb, &order, "a").await;
    let answer = redis(&a, ca_file, &["get", "key"]).await;
    assert!(refused(&answer), "{answer}");
    says(&b, ca_file, &["get", "key"], "value").await;
    assert_eq!(
        elasticache().remaining().users.len(),
        2,
        "the default user, and that of b"
    );
    // The operator's own user holds.
    assert_eq!(osb.act(&order, "stats").await.status, StatusCode::OK);

    // Redis becomes valkey, with its users.
    let change = json!({ "service_id": REDIS, "plan_id": valkey_plan });
    let operation = osb.patch(&order, &change).await.operation();
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    order.plan = valkey_plan;
    says(&b, ca_file, &["get", "key"], "value").await;
    assert_eq!(osb.act(&order, "stats").await.status, StatusCode::OK);
    assert_eq!(osb.act(&order, "flush").await.status, StatusCode::OK);
    says(&b, ca_file, &["dbsize"], "0").await;
    says(&b, ca_file, &["set", "key", "value"], "OK").await;
    let c = bound(&osb, &order, "c").await;
    says(&c, ca_file, &["get", "key"], "value").await;
    let d = rotated(&osb, &order, "d", "c").await;
    says(&d, ca_file, &["get", "key"], "value").await;
    unbound(&osb, &order, "c").await;
    assert_eq!(secrets_of_users(world, &place).await, 2);

    // Another cache takes the place of this one: it has every user from its first day on.
    let subnets = crate::elasticache::client(world)
        .create_cache_subnet_group()
        .cache_subnet_group_name("users-subnets")
        .cache_subnet_group_description("of a test")
        .subnet_ids("subnet-00000000000000001");
    subnets.send().await.unwrap();
    let elsewhere = json!({
        "nodeType": "cache.t4g.micro", "transitEncryption": true, "subnetGroup": "users-subnets",
    });
    let engine = json!({ "type": "valkey", "version": "7.2" });
    let replacing_plan = plan(world, engine, "elasticache", elsewhere).await;
    let mut change = json!({ "service_id": REDIS, "plan_id": replacing_plan });
    let refused_change = eventually("a word on the other cache", async || {
        let reply = osb.patch(&order, &change).await;
        (reply.status == StatusCode::UNPROCESSABLE_ENTITY).then_some(reply)
    })
    .await;
    assert!(refused_change.text.contains("allow_replace"), "{refused_change:?}");
    change["parameters"] = json!({ "allow_replace": true });
    let operation = osb.patch(&order, &change).await.operation();
    let (state, description) = osb.ended(&order, &operation).await;
    assert_eq!(state, "succeeded", "{description}");
    order.plan = replacing_plan;
    let status = world.instance(&place).await.unwrap().status.unwrap();
    let (replacement, address) = (status.provider_id.unwrap(), status.endpoint.unwrap().address);
    assert_ne!(replacement, provider_id);
    let there = |uri: &str| format!("{}@{address}", uri.rsplit_once('@').unwrap().0);
    for uri in [&b, &d] {
        says(&there(uri), ca_file, &["get", "key"], "value").await;
        says(uri, ca_file, &["get", "key"], "value").await;
    }
    assert!(refused(&redis(&there(&c), ca_file, &["get", "key"]).await));
    // Who binds or rotates now is sent to the new one; what is unbound is revoked in both.
    let e = rotated(&osb, &order, "e", "d").await;
    assert!(e.ends_with(&address), "{address}");
    says(&e, ca_file, &["get", "key"], "value").await;
    unbound(&osb, &order, "b").await;
    for uri in [&b, &there(&b)] {
        assert!(refused(&redis(uri, ca_file, &["get", "key"]).await));
    }
    // The old one is kept as long as somebody was sent to it, and no longer.
    assert!(world.exists_in_elasticache(&provider_id), "d is there yet");
    unbound(&osb, &order, "d").await;
    eventually("the end of the cache that nobody is sent to any more", async || {
        (!world.exists_in_elasticache(&provider_id)).then_some(())
    })
    .await;
    says(&e, ca_file, &["get", "key"], "value").await;

    is_not_moved(&osb, &order, &in_cluster(world, "valkey").await).await;
    says(&e, ca_file, &["get", "key"], "value").await;
    osb.give_back(&order).await;
    for id in [&provider_id, &replacement] {
        world.until_nothing_is_left(&place, Some(id)).await;
    }
    let left = elasticache().remaining();
    assert_eq!(
        (left.users, left.user_groups),
        (Vec::<String>::new(), Vec::<String>::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_by_yaml_have_the_passwords_of_their_secrets() {
    let world = shared().await;
    let ca_file = world.sandbox.elasticache().unwrap().ca_file();
    let plan = in_cluster(world, "redis").await;
    let place = Place::new("redis-system", &format!("yaml-{}", &plan[6..16]));
    let secret = |password: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": format!("{}-batch", place.name), "namespace": place.namespace },
            "stringData": { "password": password },
        })
    };
    let instance = |users: Value| {
        json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": place.name, "namespace": place.namespace },
            "spec": { "planRef": { "name": plan }, "users": users },
        })
    };
    let batch = json!([{ "name": "batch", "secretRef": { "name": format!("{}-batch", place.name) } }]);
    world.apply(&instance(batch.clone())).await;
    let waiting = world
        .until(&place, "a word on the missing Secret", |condition| {
            condition.message.contains("waiting for Secret")
        })
        .await;
    assert_eq!(ready(&waiting).unwrap().status, "True");
    world.apply(&secret("correct-horse")).await;
    let ready = world
        .until(&place, "the user", |condition| condition.reason == "Available")
        .await;
    assert_eq!(users(&ready), ["batch"]);
    let address = ready.status.unwrap().endpoint.unwrap().address;
    let uri = |password: &str| format!("redis://batch:{password}@{address}");
    says(&uri("correct-horse"), ca_file, &["ping"], "PONG").await;
    assert!(refused(&redis(&uri("wrong"), ca_file, &["ping"]).await));
    world.apply(&instance(json!([]))).await;
    eventually("the end of the user", async || {
        refused(&redis(&uri("correct-horse"), ca_file, &["ping"]).await).then_some(())
    })
    .await;
    let left = world
        .kubectl(&[
            "get",
            "secret",
            "-n",
            &place.namespace,
            &format!("{}-batch", place.name),
            "-o",
            "name",
        ])
        .await;
    assert!(!left.is_empty(), "a Secret of somebody else stays");
    world.delete(&place).await;
    world.until_nothing_is_left(&place, None).await;
}
