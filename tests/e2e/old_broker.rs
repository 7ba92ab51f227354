//! What the old broker left: its tables and rows, and caches as it made them.

use aws_sdk_elasticache::types::Tag;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::elasticache::client;
use crate::world::{World, eventually};

/// Its tables, by their columns, types and defaults. Without the references between them: rows that lead nowhere are a
/// part of what is tested.
const TABLES: &str = "
    create type enginetype as enum ('redis', 'memcached');
    create type clientdbtype as enum ('redis', 'memcached', '');
    create domain cents as int check (value >= 0);
    create type costunit as enum ('year', 'month', 'day', 'hour', 'minute', 'second', 'cycle', 'byte', 'megabyte',
        'gigabyte', 'terabyte', 'petabyte', 'op', 'unit');
    create type task_status as enum ('pending', 'started', 'finished', 'failed');
    create domain alpha_numeric as varchar(128);
    create table services (
        service uuid primary key, name alpha_numeric not null, human_name text not null, description text not null,
        categories varchar(1024) not null default 'Data Stores', image text not null default '',
        beta boolean not null default false, deprecated boolean not null default false,
        deleted boolean not null default false,
        created timestamptz not null default now(), updated timestamptz not null default now());
    create table plans (
        plan uuid primary key, service uuid not null, name alpha_numeric not null, human_name text not null,
        description text not null, version text not null, type enginetype not null, scheme clientdbtype not null,
        categories text not null default '', cost_cents cents not null default 0,
        cost_unit costunit not null default 'month', attributes json not null,
        provider varchar(1024) not null, provider_private_details json not null,
        installable_inside_private_network bool not null default true,
        installable_outside_private_network bool not null default true,
        supports_multiple_installations bool not null default true, supports_sharing bool not null default true,
        preprovision int not null default 0, beta boolean not null default false,
        deprecated boolean not null default false, deleted boolean not null default false,
        created timestamptz not null default now(), updated timestamptz not null default now());
    create table resources (
        id varchar(1024) primary key, name varchar(200) not null, plan uuid not null,
        claimed boolean not null default false, status varchar(1024) not null default 'unknown',
        username varchar(128), password varchar(128), endpoint varchar(128),
        created timestamptz not null default now(), updated timestamptz not null default now(),
        deleted bool not null default false);
    create table tasks (
        task uuid primary key, resource varchar(1024) not null, action varchar(1024) not null,
        status task_status not null default 'pending', retries int not null default 0,
        metadata text not null default '', result text not null default '',
        created timestamptz not null default now(), updated timestamptz not null default now(),
        started timestamptz, finished timestamptz, deleted bool not null default false);";

/// The old broker's database.
pub struct OldBroker {
    pub url: String,
    pub sql: Client,
}

/// A fresh id.
pub fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl OldBroker {
    /// One without rows but its two services. Names of plans and caches end in `mark`, which is nobody else's.
    pub async fn new(world: &World) -> Self {
        let database = format!("old_{}", uuid::Uuid::new_v4().simple());
        world.sandbox.postgres().create_database(&database).await.unwrap();
        Self::within(world, &database).await
    }

    /// One in the database of the ledger.
    pub async fn beside_the_ledger(world: &World) -> Self {
        Self::within(world, "cache_broker").await
    }

    async fn within(world: &World, database: &str) -> Self {
        let postgres = world.sandbox.postgres();
        let sql = postgres.connect(database).await.unwrap();
        sql.batch_execute(TABLES).await.unwrap();
        let broker = Self {
            url: postgres.database_url(database),
            sql,
        };
        for (id, name) in [
            (crate::osb::REDIS, "akkeris-redis"),
            (crate::osb::MEMCACHED, "akkeris-memcached"),
        ] {
            broker
                .run(&format!(
                    "insert into services (service, name, human_name, description) values ('{id}', '{name}', 'Old', 'Of old.')"
                ))
                .await;
        }
        broker
    }

    pub async fn run(&self, statement: &str) {
        self.sql
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    /// A plan; returns its id. `more` are columns with their values.
    pub async fn plan(&self, name: &str, provider: &str, details: &Value, more: &str) -> String {
        let (id, redis) = (id(), provider.contains("redis"));
        let (service, engine) = if redis {
            (crate::osb::REDIS, "redis")
        } else {
            (crate::osb::MEMCACHED, "memcached")
        };
        self.run(&format!(
            "insert into plans (plan, service, name, human_name, description, version, type, scheme, cost_cents,
                attributes, provider, provider_private_details)
             values ('{id}', '{service}', '{name}', '{name}', 'Of old.', '1', '{engine}', '{engine}', 1500,
                '{{\"presistance\": false}}', '{provider}', '{details}');
             {}",
            if more.is_empty() {
                String::new()
            } else {
                format!("update plans set {more} where plan = '{id}';")
            }
        ))
        .await;
        id
    }

    /// A resource, claimed and available.
    pub async fn resource(&self, id: &str, name: &str, plan: &str, endpoint: &str) {
        self.run(&format!(
            "insert into resources (id, name, plan, claimed, status, username, password, endpoint)
             values ('{id}', '{name}', '{plan}', true, 'available', '', '', '{endpoint}')"
        ))
        .await;
    }

    pub async fn task(&self, resource: &str, action: &str, status: &str, metadata: &str) -> String {
        let id = id();
        self.run(&format!(
            "insert into tasks (task, resource, action, status, metadata)
             values ('{id}', '{resource}', '{action}', '{status}', '{metadata}')"
        ))
        .await;
        id
    }

    /// All that stands in it.
    pub async fn content(&self) -> Vec<String> {
        let mut all = Vec::new();
        for table in ["services", "plans", "resources", "tasks"] {
            let rows = self
                .sql
                .query(&format!("select t::text from {table} t order by 1"), &[])
                .await
                .unwrap();
            all.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        all
    }
}

/// A cache cluster of one node, and where it answers.
pub async fn cluster(world: &World, id: &str, engine: &str, version: &str, node_type: &str) -> String {
    let api = client(world);
    api.create_cache_cluster()
        .cache_cluster_id(id)
        .engine(engine)
        .engine_version(version)
        .cache_node_type(node_type)
        .num_cache_nodes(1)
        .tags(Tag::builder().key("BillingCode").value("old-org").build())
        .send()
        .await
        .unwrap();
    eventually(&format!("cluster {id}"), async || {
        let found = api
            .describe_cache_clusters()
            .cache_cluster_id(id)
            .show_cache_node_info(true)
            .send()
            .await
            .unwrap();
        let cluster = found.cache_clusters().first()?.clone();
        let endpoint = cluster.cache_nodes().first()?.endpoint()?.clone();
        (cluster.cache_cluster_status() == Some("available"))
            .then(|| format!("{}:{}", endpoint.address().unwrap(), endpoint.port().unwrap()))
    })
    .await
}

/// A Deployment and a Service of one name as the old broker made them, and where that answers. Their Pods may run as root,
/// which the namespace must let them.
pub async fn workload(world: &World, namespace: &str, name: &str, container: Value, port: u16) -> String {
    let baseline = "pod-security.kubernetes.io/enforce=baseline";
    world
        .kubectl(&["label", "--overwrite", "namespace", namespace, baseline])
        .await;
    deployed(world, namespace, name, container, port).await
}

/// A Deployment and a Service of one name, made by hand, and where that answers.
pub async fn deployed(world: &World, namespace: &str, name: &str, container: Value, port: u16) -> String {
    let labels = json!({ "app": name });
    let metadata = json!({
        "name": name, "namespace": namespace, "labels": labels, "annotations": { "owner": "old-org" },
    });
    world
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 1, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels, "annotations": { "owner": "old-org" } },
                    "spec": { "containers": [container] },
                },
            },
        }))
        .await;
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "type": "NodePort", "selector": labels, "ports": [{ "port": port, "targetPort": port }] },
        }))
        .await;
    let wait = format!("deployment/{name}");
    world
        .kubectl(&[
            "wait",
            "--for=condition=Available",
            "-n",
            namespace,
            &wait,
            "--timeout=90s",
        ])
        .await;
    let address = world
        .kubectl(&[
            "get",
            "service",
            "-n",
            namespace,
            name,
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
        .await;
    format!("{address}:{port}")
}

/// The container of a memcached as the old broker made it.
pub fn memcached(megabytes: u32, port: u16) -> Value {
    json!({
        "name": "memcached", "image": "memcached:1.6.6",
        "args": [format!("-m {megabytes}"), "-I 50M", format!("-p {port}")],
        "ports": [{ "containerPort": port, "protocol": "TCP" }],
        "resources": { "limits": { "memory": format!("{megabytes}Mi") } },
    })
}

/// The container of a redis as the old broker made it.
pub fn redis(megabytes: u32) -> Value {
    json!({
        "name": "redis", "image": "redis:6.0.7",
        "ports": [{ "containerPort": 6379, "protocol": "TCP" }],
        "resources": { "limits": { "memory": format!("{megabytes}Mi") } },
    })
}
