//! Instances by YAML, many of them: until all are ready, over a restart, and at rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cache_broker::api::{CacheInstance, CacheInstanceStatus};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stage::{Broker, NAMESPACE, PLAN, Stage};
use crate::table::{Goal, Row};

const AT_ONCE: usize = 16;
/// The longest that so many instances may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How many objects are listed at a time.
const PAGE: u32 = 500;
/// How soon to look again whether a broker does anything.
const LOOK: Duration = Duration::from_millis(250);

fn said(error: kube::Error) -> String {
    error.to_string()
}

/// So many instances: how long they take, what a restart takes, and what they cost at rest and in memory. Each figure is
/// kept as soon as it is taken, since all together last long. Returns the milliseconds for each until ready.
///
/// The raw writes have a sandbox of their own: to delete so many takes longer than to make them.
pub async fn measure(
    rounds: usize,
    count: usize,
    idle: Duration,
    keep: impl Fn(&[Row]) -> Result<(), String>,
) -> Result<f64, String> {
    let stage = Stage::start(rounds).await?;
    stage.plans().await?;
    let client = stage.sandbox.kube().await.map_err(|error| error.to_string())?;
    let url = stage.database("instances").await?;
    let broker = stage.broker(&[("DATABASE_URL", &url)]).await?;
    broker.until("/v2/catalog", 200).await?;
    let started = broker.resident()?;
    let start = Instant::now();
    create(&client, PLAN, count).await?;
    all_ready(&client, count).await?;
    let ready = start.elapsed().as_secs_f64();
    let resident = broker.resident()?;

    keep(&[Row::alone(
        &format!("memory with {count} instances"),
        "MiB",
        Goal::AtMost(if count > 1_000 { 200.0 } else { 45.0 }),
        &[resident],
    )])?;
    if count <= 1_000 {
        keep(&[Row::alone("memory when started", "MiB", Goal::AtMost(25.0), &[started])])?;
    }
    let template = Template::of(&client, "bench-0").await?;
    let of = format!("{count} instances");
    keep(&rest(&stage, &client, &broker, &of, idle, 2).await?)?;
    broker.end().await?;
    keep(&restart(&stage, &client, &url, count).await?)?;
    stage.sandbox.stop().await;

    let bare = Stage::start(rounds).await?;
    let client = bare.sandbox.kube().await.map_err(|error| error.to_string())?;
    let raw = template.write(&client, count).await?;
    keep(&[Row::of(
        &format!("{count} instances by YAML until ready"),
        "1/s",
        Goal::RatioAtLeast(0.5),
        &[(count as f64 / ready, count as f64 / raw)],
    )])?;
    bare.sandbox.stop().await;
    Ok(ready / count as f64 * 1e3)
}

/// How much longer an instance takes when there are many, in milliseconds.
pub fn growth(few: f64, many: f64) -> Row {
    Row::of(
        "time an instance, 10,000 beside 1,000",
        "ms",
        Goal::RatioAtMost(1.3),
        &[(many, few)],
    )
}

/// Creates so many of a plan, as `kubectl apply` of a file would, without waiting for any.
pub async fn create(client: &Client, plan: &str, count: usize) -> Result<(), String> {
    let api = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE);
    futures::stream::iter(0..count)
        .map(|number| {
            let (api, name) = (api.clone(), format!("bench-{number}"));
            async move {
                let instance = json!({
                    "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                    "metadata": { "name": name }, "spec": { "planRef": { "name": plan } },
                });
                let how = PatchParams::apply("kubectl");
                api.patch(&name, &how, &Patch::Apply(&instance))
                    .await
                    .map(drop)
                    .map_err(said)
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Waits until that many are ready, looking at pages so that the look itself costs little.
pub async fn all_ready(client: &Client, count: usize) -> Result<(), String> {
    let start = Instant::now();
    let api = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE);
    let mut events = std::pin::pin!(kube::runtime::watcher(api, kube::runtime::watcher::Config::default()));
    let mut ready = std::collections::HashSet::new();
    while ready.len() < count {
        let event = tokio::time::timeout(PATIENCE.saturating_sub(start.elapsed()), events.next()).await;
        let event = event.map_err(|_| format!("{} of {count} instances are ready", ready.len()))?;
        if let Some(Ok(
            kube::runtime::watcher::Event::Apply(instance) | kube::runtime::watcher::Event::InitApply(instance),
        )) = event
            && instance.status.as_ref().is_some_and(is_ready)
        {
            ready.insert(instance.name_any());
        }
    }
    Ok(())
}

fn is_ready(status: &CacheInstanceStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What settled instances cost: writes by the broker, calls of ElastiCache beside those allowed, processor time.
pub async fn rest(
    stage: &Stage,
    client: &Client,
    broker: &Broker,
    of: &str,
    idle: Duration,
    calls_allowed: usize,
) -> Result<Vec<Row>, String> {
    let writes = Writes::begin(client).await?;
    let aws = stage.sandbox.elasticache().map_err(|error| error.to_string())?;
    let calls = aws.calls().len();
    let (start, processor) = (Instant::now(), broker.processor()?);
    tokio::time::sleep(idle).await;
    let processor = (broker.processor()? - processor) / start.elapsed().as_secs_f64() * 100.0;
    let calls = aws.calls().len() - calls;
    let writes = writes.end(client).await?;
    let name = |what: &str| format!("{of} at rest for {} s: {what}", idle.as_secs());
    Ok(vec![
        Row::alone(&name("API writes"), "", Goal::AtMost(0.0), &[writes]),
        Row::alone(
            &name("AWS calls"),
            "",
            Goal::AtMost(calls_allowed as f64),
            &[calls as f64],
        ),
        Row::alone(&name("processor"), "% core", Goal::AtMost(0.5), &[processor]),
    ])
}

/// How many instances, Deployments, Services, Secrets and NetworkPolicies changed meanwhile.
struct Writes(BTreeMap<String, String>);

impl Writes {
    async fn begin(client: &Client) -> Result<Self, String> {
        Ok(Self(versions(client).await?))
    }

    async fn end(self, client: &Client) -> Result<f64, String> {
        let now = versions(client).await?;
        let changed = now.iter().filter(|(name, version)| self.0.get(*name) != Some(version));
        Ok(changed.count() as f64)
    }
}

/// The resource versions of what instances are made of.
async fn versions(client: &Client) -> Result<BTreeMap<String, String>, String> {
    async fn of<K>(client: &Client) -> Result<Vec<(String, String)>, String>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
        let (mut page, mut found) = (ListParams::default().limit(PAGE), Vec::new());
        loop {
            let list = api.list_metadata(&page).await.map_err(said)?;
            found.extend(list.items.iter().map(|item| {
                let name = format!("{}/{}", K::kind(&()), item.name_any());
                (name, item.resource_version().unwrap_or_default())
            }));
            match list.metadata.continue_ {
                Some(token) if !token.is_empty() => page = page.continue_token(&token),
                _ => return Ok(found),
            }
        }
    }
    let mut all = BTreeMap::new();
    all.extend(of::<CacheInstance>(client).await?);
    all.extend(of::<Deployment>(client).await?);
    all.extend(of::<Service>(client).await?);
    all.extend(of::<Secret>(client).await?);
    all.extend(of::<NetworkPolicy>(client).await?);
    Ok(all)
}

/// Lists all objects of a kind that instances are made of, as a watch begins.
async fn list<K>(client: &Client) -> Result<(), String>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await.map_err(said)?;
        match list.metadata.continue_ {
            Some(token) if !token.is_empty() => page = page.continue_token(&token),
            _ => return Ok(()),
        }
    }
}

/// Lists all that instances are made of, kind beside kind.
async fn list_all(client: &Client) -> Result<(), String> {
    tokio::try_join!(
        list::<CacheInstance>(client),
        list::<Deployment>(client),
        list::<Service>(client),
        list::<Secret>(client),
        list::<NetworkPolicy>(client),
        list::<Pod>(client),
    )
    .map(drop)
}

/// Waits until a broker has looked at what it has to look at, and takes no more of the processor.
pub async fn caught_up(broker: &Broker) -> Result<(), String> {
    let mut before = broker.processor()?;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = broker.processor()?;
        if now - before < 0.02 {
            return Ok(());
        }
        before = now;
    }
}

/// A restart of the operator: how long until it has caught up, beside a list of the same objects; what it writes.
async fn restart(stage: &Stage, client: &Client, url: &str, count: usize) -> Result<Vec<Row>, String> {
    let writes = Writes::begin(client).await?;
    let mut rounds = Vec::new();
    for _ in 0..stage.rounds.min(3) {
        let start = Instant::now();
        list_all(client).await?;
        let listed = start.elapsed().as_secs_f64();
        let mut broker = stage.launch(&[("DATABASE_URL", url)])?;
        let start = Instant::now();
        broker.ready().await?;
        caught_up(&broker).await?;
        rounds.push(((start.elapsed() - LOOK).as_secs_f64(), listed));
        broker.end().await?;
    }
    let written = writes.end(client).await?;
    Ok(vec![
        Row::of(
            &format!("restart with {count} instances until caught up"),
            "s",
            Goal::RatioAtMost(3.0),
            &rounds,
        ),
        Row::alone(
            &format!("restart with {count} instances: API writes"),
            "",
            Goal::AtMost(0.0),
            &[written],
        ),
    ])
}

/// What one instance is made of, to be written again under other names.
struct Template {
    instance: Value,
    status: Value,
    deployments: Vec<Value>,
    services: Vec<Value>,
    secrets: Vec<Value>,
    policies: Vec<Value>,
}

impl Template {
    async fn of(client: &Client, name: &str) -> Result<Self, String> {
        let instance = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE)
            .get(name)
            .await
            .map_err(said)?;
        let uid = instance.uid().unwrap_or_default();
        let status = serde_json::to_value(&instance.status).map_err(|error| error.to_string())?;
        Ok(Self {
            instance: bare(&instance)?,
            status,
            deployments: owned::<Deployment>(client, &uid).await?,
            services: owned::<Service>(client, &uid).await?,
            secrets: owned::<Secret>(client, &uid).await?,
            policies: owned::<NetworkPolicy>(client, &uid).await?,
        })
    }

    /// Writes so many of them, with the calls that the broker cannot do without, and waits until every Deployment is
    /// available. Returns how long it took, in seconds.
    async fn write(&self, client: &Client, count: usize) -> Result<f64, String> {
        let start = Instant::now();
        futures::stream::iter(0..count)
            .map(|number| self.write_one(client, format!("raw-{number}")))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
        let mut events = std::pin::pin!(kube::runtime::watcher(
            deployments,
            kube::runtime::watcher::Config::default()
        ));
        let mut available = std::collections::HashSet::new();
        while available.len() < count {
            let event = tokio::time::timeout(PATIENCE, events.next())
                .await
                .map_err(|error| error.to_string())?;
            if let Some(Ok(
                kube::runtime::watcher::Event::Apply(deployment) | kube::runtime::watcher::Event::InitApply(deployment),
            )) = event
                && deployment.status.as_ref().and_then(|status| status.available_replicas) >= Some(1)
                && deployment.name_any().starts_with("raw-")
            {
                available.insert(deployment.name_any());
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    async fn write_one(&self, client: &Client, name: String) -> Result<(), String> {
        let instances = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE);
        // Without a plan that a broker knows, since none is to look after it.
        let mut instance = renamed(&self.instance, &name, None);
        let finalizers = instance.pointer_mut("/metadata/finalizers").map(Value::take);
        let created = instances
            .create(&PostParams::default(), &parsed(instance)?)
            .await
            .map_err(said)?;
        let uid = created.uid();
        let hold = json!({ "metadata": { "finalizers": finalizers } });
        instances
            .patch(&name, &PatchParams::default(), &Patch::Merge(hold))
            .await
            .map_err(said)?;
        apply::<Secret>(client, &self.secrets, &name, uid.as_deref()).await?;
        apply::<NetworkPolicy>(client, &self.policies, &name, uid.as_deref()).await?;
        apply::<Service>(client, &self.services, &name, uid.as_deref()).await?;
        apply::<Deployment>(client, &self.deployments, &name, uid.as_deref()).await?;
        let status = json!({ "status": self.status });
        instances
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .map(drop)
            .map_err(said)
    }
}

fn parsed<K: DeserializeOwned>(value: Value) -> Result<K, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// An object as somebody would write it anew.
fn bare<K: Serialize>(object: &K) -> Result<Value, String> {
    let mut value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "managedFields",
        ] {
            metadata.remove(field);
        }
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    Ok(value)
}

/// What an instance owns of one kind.
async fn owned<K>(client: &Client, uid: &str) -> Result<Vec<Value>, String>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let list = Api::<K>::namespaced(client.clone(), NAMESPACE)
        .list(&ListParams::default())
        .await
        .map_err(said)?;
    let owned = |object: &&K| object.owner_references().iter().any(|owner| owner.uid == uid);
    list.items.iter().filter(owned).map(bare).collect()
}

/// The object under another name, and owned by another instance.
fn renamed(object: &Value, name: &str, owner: Option<&str>) -> Value {
    let text = object.to_string().replace("bench-0", name);
    let mut object: Value = serde_json::from_str(&text).unwrap_or_default();
    if let Some(reference) = object.pointer_mut("/metadata/ownerReferences/0/uid") {
        *reference = json!(owner);
    }
    object
}

async fn apply<K>(client: &Client, objects: &[Value], name: &str, owner: Option<&str>) -> Result<(), String>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    for object in objects {
        let mut object = renamed(object, name, owner);
        if let Some(object) = object.as_object_mut() {
            object.insert("apiVersion".to_owned(), json!(K::api_version(&())));
            object.insert("kind".to_owned(), json!(K::kind(&())));
        }
        let called = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let how = PatchParams::apply("bench").force();
        api.patch(&called, &how, &Patch::Apply(&object)).await.map_err(said)?;
    }
    Ok(())
}
