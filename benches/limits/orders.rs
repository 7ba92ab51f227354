//! Orders: accepted, written to the cluster, and handed out of a pool.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cache_broker::api::{CacheInstance, CacheInstanceSpec, Owner, PlanRef, annotations};
use cache_broker::ledger::{NewMember, Noted};
use futures::{StreamExt, TryStreamExt};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::load::{self, Make, Work, millis, quantile};
use crate::pgbench;
use crate::rows::{self, Plan};
use crate::stage::{Broker, NAMESPACE, PLAN, Stage, order};
use crate::table::{Goal, Row};

const CONNECTIONS: usize = 16;
const TIME: Duration = Duration::from_secs(3);

/// The statement with which an order is recorded, without what wakes others.
const INSERT: &str = "with instance as (
        insert into instances (id, service_id, plan_id, plan_name, plan_revision, organization_guid, space_guid, context,
            parameters, namespace, name)
        values ('pg-' || :a || '-' || :b, 's', 'p', 'plan', 1, 'bench-organization', 'bench-space', '{}',
            decode(repeat('00', 40), 'hex'), 'memcached-system', 'osb-' || :a || '-' || :b)
        on conflict do nothing returning id, desired_revision
    ), operation as (
        insert into operations (id, instance_id, kind, desired_revision, created_at, deadline_at)
        select gen_random_uuid(), id, 'provision', desired_revision, clock_timestamp(),
            clock_timestamp() + interval '1 hour' from instance returning id, instance_id
    )
    insert into audit (instance_id, request, caller, plan_id, parameters, status, operation_id)
    select instance_id, 'provision', 'bench', 'p', array[]::text[], 202, id from operation;";

/// The write that hands out a member, and nothing else.
const CLAIM: &str = "update pool_members set state = 'retired', since = now() where id = (
        select id from pool_members where state = 'ready' and plan_id = 'limit' and plan_revision = 1
        order by created_at limit 1 for update skip locked) returning id;";

fn orders(broker: &Broker, prefix: &str, plan: &Plan) -> Make {
    let (address, authorization) = (broker.address, broker.authorization.clone());
    let (prefix, body) = (prefix.to_owned(), order(&plan.id));
    Arc::new(move |number| {
        let path = format!("/v2/service_instances/{prefix}-{number}?accepts_incomplete=true");
        load::request("PUT", &path, address, &authorization, &body)
    })
}

/// Orders accepted, while the API server is away: their way into the cluster is measured by itself.
pub async fn accepted(stage: &Stage, plan: &Plan) -> Result<Vec<Row>, String> {
    let url = stage.database("orders").await?;
    let broker = stage.broker(&[("ROLE", "api"), ("DATABASE_URL", &url)]).await?;
    broker.until("/v2/catalog", 200).await?;
    let control_plane = stage.sandbox.control_plane().map_err(|error| error.to_string())?;
    control_plane
        .stop_api_server()
        .await
        .map_err(|error| error.to_string())?;
    let script = format!(
        "\\set a random(1, 2000000000)\n\\set b random(1, 2000000000)\n{}\n",
        INSERT.replace('\n', " ")
    );
    let mut rounds = Vec::new();
    for round in 0..stage.rounds {
        let make = orders(&broker, &format!("r{round}"), plan);
        let measured = load::run(broker.address, CONNECTIONS, Work::For(TIME), make)
            .await?
            .all(202)?;
        let limit = pgbench::rate(&url, &script, stage.folder.path(), TIME).await?;
        rounds.push((measured.rate(), limit));
    }
    broker.end().await?;
    control_plane
        .start_api_server()
        .await
        .map_err(|error| error.to_string())?;
    Ok(vec![Row::of(
        "PUT provision accepted",
        "req/s",
        Goal::RatioAtLeast(0.35),
        &rounds,
    )])
}

/// Orders that a member of the pool is ready for.
pub async fn from_the_pool(stage: &Stage) -> Result<Vec<Row>, String> {
    const MEMBERS: u64 = 1_000;
    /// Those that are ordered at a pace rather than as fast as it goes, which says how long one takes.
    const PACED: u64 = 400;
    const PER_SECOND: f64 = 100.0;
    const POOLED: &str = "bench-pooled";
    stage
        .apply(&serde_json::json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": POOLED },
            "spec": {
                "service": "akkeris-memcached", "id": "5b1f9a52-0c55-4b0a-9a36-3a0d8f3e7c11", "name": "bench-pooled",
                "description": "Made ahead.", "engine": { "type": "memcached", "version": "1.6.45" },
                "preprovision": 1, "kubernetes": { "memory": "64Mi" },
            },
        }))
        .await?;
    let plans = stage.plans().await?;
    let plan = plans.get(POOLED).ok_or_else(|| format!("there is no plan {POOLED}"))?;
    let url = stage.database("pool").await?;
    let (ledger, sql) = (stage.ledger(&url)?, stage.sql("pool").await?);
    let said = |error: cache_broker::ledger::LedgerError| error.to_string();
    let epoch = ledger.next_epoch().await.map_err(said)?;
    let plan_id = plan.id.parse().map_err(|error| format!("{error}"))?;
    let members = u64::try_from(stage.rounds).unwrap_or(1) * (MEMBERS + PACED);
    for number in 0..members {
        let id = uuid::Uuid::new_v4();
        let new = NewMember {
            id,
            plan_id: Clone::clone(&plan_id),
            plan_name: POOLED.to_owned(),
            plan_revision: plan.revision,
            namespace: NAMESPACE.to_owned(),
            name: format!("pool-{number}"),
        };
        ledger.add_member(epoch, &new).await.map_err(said)?;
        let ready = Noted::Ready(rows::connection());
        ledger
            .note_member(epoch, id, &format!("uid-{number}"), &ready)
            .await
            .map_err(said)?;
    }
    sql.batch_execute(
        "insert into pool_members (id, plan_id, plan_name, plan_revision, namespace, name, uid, state, connection)
         select gen_random_uuid(), 'limit', 'limit', 1, 'limit', 'limit-' || n, 'u', 'ready', ''
         from generate_series(1, 60000) n",
    )
    .await
    .map_err(|error| error.to_string())?;
    let broker = stage.broker(&[("ROLE", "api"), ("DATABASE_URL", &url)]).await?;
    broker.until("/v2/catalog", 200).await?;
    let control_plane = stage.sandbox.control_plane().map_err(|error| error.to_string())?;
    control_plane
        .stop_api_server()
        .await
        .map_err(|error| error.to_string())?;
    let (mut rounds, mut slowest) = (Vec::new(), Vec::new());
    for round in 0..stage.rounds {
        let make = orders(&broker, &format!("p{round}"), plan);
        let measured = load::run(broker.address, CONNECTIONS, Work::Count(MEMBERS), make)
            .await?
            .all(201)?;
        let script = CLAIM.replace('\n', " ");
        let limit = pgbench::rate(&url, &script, stage.folder.path(), Duration::from_secs(2)).await?;
        rounds.push((measured.rate(), limit));
        let work = Work::Paced {
            count: PACED,
            per_second: PER_SECOND,
        };
        let make = orders(&broker, &format!("paced{round}"), plan);
        let paced = load::run(broker.address, CONNECTIONS, work, make).await?.all(201)?;
        let time = Duration::from_secs_f64(PACED as f64 / PER_SECOND);
        let alone = pgbench::paced(&url, &script, stage.folder.path(), PER_SECOND, time).await?;
        slowest.push((paced.quantile(0.99), quantile(alone, 0.99)));
    }
    broker.end().await?;
    control_plane
        .start_api_server()
        .await
        .map_err(|error| error.to_string())?;
    Ok(vec![
        Row::of("PUT provision from the pool", "req/s", Goal::RatioAtLeast(0.0), &rounds),
        Row::of(
            "PUT provision from the pool, at 100/s: p99",
            "ms",
            Goal::AtMost(20.0),
            &slowest,
        ),
    ])
}

/// When resources were first seen by a bare watcher, by the order that they carry.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, Instant>>>);

impl Seen {
    /// Begins to watch the instances of the namespace; those that are there count as seen now.
    pub async fn watch(client: kube::Client) -> Result<(Self, tokio::task::AbortHandle), String> {
        let seen = Self::default();
        let (listed, ready) = tokio::sync::oneshot::channel();
        let mut listed = Some(listed);
        let noted = seen.clone();
        let api = Api::<CacheInstance>::namespaced(client, NAMESPACE);
        let watching = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(instance) | watcher::Event::InitApply(instance)) => {
                        let id = instance.annotation(annotations::INSTANCE_ID);
                        let name = id.map_or_else(|| instance.name_any(), str::to_owned);
                        noted.lock().entry(name).or_insert_with(Instant::now);
                    }
                    Ok(watcher::Event::InitDone) => {
                        if let Some(listed) = listed.take() {
                            let _ = listed.send(());
                        }
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("watching: {error}"),
                }
            }
        });
        ready.await.map_err(|_| "the watch ended".to_owned())?;
        Ok((seen, watching.abort_handle()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When those whose name begins so were seen, once there are that many.
    pub async fn all(&self, prefix: &str, count: usize) -> Result<HashMap<String, Instant>, String> {
        let start = Instant::now();
        loop {
            let found: HashMap<_, _> = {
                let seen = self.lock();
                let ours = seen.iter().filter(|(name, _)| name.starts_with(prefix));
                ours.map(|(name, at)| (name.clone(), *at)).collect()
            };
            if found.len() >= count {
                return Ok(found);
            }
            if start.elapsed() > Duration::from_secs(300) {
                return Err(format!("{} of {count} resources {prefix}… were seen", found.len()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How many a second, from the first to the last.
fn rate(seen: &HashMap<String, Instant>) -> Option<f64> {
    let (first, last) = (seen.values().min()?, seen.values().max()?);
    Some(seen.len().saturating_sub(1) as f64 / (*last - *first).as_secs_f64())
}

/// Takes all instances of the namespace away, and waits until they are gone.
pub async fn clear(client: &kube::Client) -> Result<(), String> {
    let api = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE);
    let said = |error: kube::Error| error.to_string();
    let start = Instant::now();
    loop {
        match api
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
        {
            // So many that the API server gives up in the middle, or the connection is lost.
            Err(kube::Error::Api(status)) if status.code == 504 => {}
            Err(kube::Error::Service(_) | kube::Error::HyperError(_)) => {}
            outcome => drop(outcome.map_err(said)?),
        }
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Err(kube::Error::Service(_) | kube::Error::HyperError(_)) => {}
            left => {
                if left.map_err(said)?.items.is_empty() {
                    return Ok(());
                }
            }
        }
        if start.elapsed() > Duration::from_secs(3600) {
            return Err("instances did not go".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// From accepted to visible, and how many a second the outbox writes.
pub async fn outbox(stage: &Stage, plan: &Plan) -> Result<Vec<Row>, String> {
    const BACKLOG: u64 = 2_000;
    const PACED: u64 = 2_400;
    let client = stage.sandbox.kube().await.map_err(|error| error.to_string())?;
    let url = stage.database("outbox").await?;
    let ledger = stage.ledger(&url)?;
    let (mut rounds, mut late) = (Vec::new(), BTreeMap::<&str, Vec<f64>>::new());
    for round in 0..stage.rounds {
        // A backlog, written by a broker that just started.
        let prefix = format!("backlog{round}");
        rows::accept(&ledger, plan, &prefix, BACKLOG).await?;
        let (seen, watching) = Seen::watch(client.clone()).await?;
        let broker = stage.broker(&[("ROLE", "api"), ("DATABASE_URL", &url)]).await?;
        let count = usize::try_from(BACKLOG).unwrap_or(usize::MAX);
        let ours = rate(&seen.all(&format!("{prefix}-"), count).await?).ok_or("nothing was written")?;
        // The same by nobody but a client.
        let raw = format!("raw{round}-");
        post(&client, plan, &raw, BACKLOG).await?;
        let limit = rate(&seen.all(&raw, count).await?).ok_or("nothing was written")?;
        rounds.push((ours, limit));

        let prefix = format!("paced{round}");
        let work = Work::Paced {
            count: PACED,
            per_second: 300.0,
        };
        broker.until("/v2/catalog", 200).await?;
        let answers = load::run(broker.address, CONNECTIONS, work, orders(&broker, &prefix, plan))
            .await?
            .all(202)?;
        let visible = seen
            .all(&format!("{prefix}-"), usize::try_from(PACED).unwrap_or(usize::MAX))
            .await?;
        let waits: Vec<_> = answers
            .answers
            .iter()
            .filter_map(|answer| {
                let at = visible.get(&format!("{prefix}-{}", answer.number))?;
                Some(millis(at.saturating_duration_since(answer.at)))
            })
            .collect();
        late.entry("p50").or_default().push(quantile(waits.clone(), 0.5));
        late.entry("p99").or_default().push(quantile(waits, 0.99));
        watching.abort();
        broker.end().await?;
        clear(&client).await?;
    }
    let mut all = vec![Row::of(
        "outbox: resources written",
        "1/s",
        Goal::RatioAtLeast(0.6),
        &rounds,
    )];
    for (quantile, goal) in [("p50", 250.0), ("p99", 250.0)] {
        let waits = late.get(quantile).cloned().unwrap_or_default();
        let name = format!("accepted until visible, at 300/s: {quantile}");
        all.push(Row::alone(&name, "ms", Goal::AtMost(goal), &waits));
    }
    Ok(all)
}

/// Creates that many resources as the outbox does, as many at one time as go fastest.
async fn post(client: &kube::Client, plan: &Plan, prefix: &str, count: u64) -> Result<(), String> {
    let api = Api::<CacheInstance>::namespaced(client.clone(), NAMESPACE);
    futures::stream::iter(0..count)
        .map(|number| {
            let api = api.clone();
            let instance = instance(&format!("{prefix}{number}"), plan.revision);
            async move {
                api.create(&PostParams::default(), &instance)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await
}

/// An instance as an order makes it.
fn instance(name: &str, revision: i64) -> CacheInstance {
    let spec = CacheInstanceSpec {
        plan_ref: PlanRef {
            name: PLAN.to_owned(),
            revision: Some(revision),
        },
        parameters: serde_json::Map::new(),
        owner: Some(Owner {
            organization: Some("bench-organization".to_owned()),
            space: Some("bench-space".to_owned()),
            instance_name: Some("bench".to_owned()),
            labels: BTreeMap::new(),
        }),
        deletion_policy: None,
        connection_secret: None,
        restart_at: None,
        restore: None,
        adopt: None,
        users: Vec::new(),
    };
    let mut instance = CacheInstance::new(name, spec);
    let annotations = [
        (annotations::INSTANCE_ID, name.to_owned()),
        (annotations::LEDGER_REVISION, "1".to_owned()),
    ];
    instance.metadata.annotations = Some(annotations.map(|(name, value)| (name.to_owned(), value)).into());
    instance.metadata.namespace = Some(NAMESPACE.to_owned());
    instance
}
