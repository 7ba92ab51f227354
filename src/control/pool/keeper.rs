//! Keeps the pools of all plans as full as they are to be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::Map;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::super::plans::is_offered;
use super::super::{Error, deadline};
use super::{Decision, Keep, Member, Seen, Step, Want, decide, resource};
use crate::ambient;
use crate::api::conditions::{self, READY, RECONCILING, STALLED};
use crate::api::{CacheInstance, CachePlan, Connection, Namespaces, PoolStatus, effective};
use crate::ledger::{Epoch, Ledger, LedgerError, NewMember, Noted, PoolMember, Verdict};
use crate::provider::Providers;

/// How long after a change the pools are looked at; more changes in that time count as one.
const SETTLE: Duration = Duration::from_millis(100);
/// How often they are looked at although nothing happened: a plan may be gone whose members are not.
const SWEEP: Duration = Duration::from_secs(60);
/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How many things are done at one time for a plan.
const AT_ONCE: usize = 8;

/// What is said of a plan's pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// How full it is; absent where there is none.
    pub status: Option<PoolStatus>,
    /// The condition `PoolReady`: whether it holds, a reason word and a sentence; absent where there is no pool.
    pub condition: Option<(bool, &'static str, String)>,
}

/// What is said of the pools, and the bell of their keeper. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    wake: Notify,
    /// By the plan's name; absent until the pools were looked at once.
    views: Mutex<Option<HashMap<String, View>>>,
}

impl Views {
    /// Makes the keeper look at the pools.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// How full each pool is: how many are ready and how many are wanted, by plan.
    pub fn fill(&self) -> HashMap<String, (i64, i64)> {
        let views = self.0.views.lock();
        let full = |view: &View| {
            let status = view.status.as_ref()?;
            Some((i64::from(status.ready), i64::from(status.wanted)))
        };
        let views = views.iter().flatten();
        views
            .filter_map(|(plan, view)| Some((plan.clone(), full(view)?)))
            .collect()
    }

    /// What is said of a plan's pool; `None` until it was looked at.
    pub fn of(&self, plan: &str) -> Option<View> {
        let views = self.0.views.lock();
        Some(views.as_ref()?.get(plan).cloned().unwrap_or_default())
    }
}

/// Keeps the pools while this process leads.
pub struct Keeper {
    /// The API server.
    pub client: Client,
    /// The ledger.
    pub ledger: Ledger,
    /// The epoch this process leads in.
    pub epoch: Epoch,
    /// The providers, for which are switched on and where connection Secrets are found.
    pub providers: Providers,
    /// The plans.
    pub plans: Store<CachePlan>,
    /// The instances of every scope.
    pub instances: Vec<Store<CacheInstance>>,
    /// Where members go.
    pub namespaces: Namespaces,
    /// Hears of every plan of whose pool there is something new to say.
    pub nudge: mpsc::Sender<ObjectRef<CachePlan>>,
    /// What is said of the pools.
    pub views: Views,
}

/// The resources of a plan's members, by namespace and name.
type Resources = BTreeMap<(String, String), Arc<CacheInstance>>;

/// A plan's pool as it is.
struct Pool {
    plan: Option<Arc<CachePlan>>,
    members: Vec<PoolMember>,
    resources: Resources,
}

impl Keeper {
    /// Keeps the pools for ever.
    ///
    /// # Errors
    /// When a later leader has begun.
    pub async fn run(self) -> Result<(), Error> {
        for store in &self.instances {
            // Waiting fails only when the watch, which is beside this, ends.
            let _ = store.wait_until_ready().await;
        }
        // Failures in a row, by plan, for pacing only.
        let mut failures = HashMap::new();
        let mut sweeps = tokio::time::interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut wait, mut empty) = (SWEEP, false);
        loop {
            let sweep = tokio::select! {
                biased;
                _ = sweeps.tick() => true,
                () = self.views.0.wake.notified() => false,
                () = tokio::time::sleep(wait) => false,
            };
            tokio::time::sleep(SETTLE).await;
            wait = match self.look(&mut failures, &mut empty, sweep).await {
                Ok(again) => again.unwrap_or(SWEEP),
                Err(Error::Ledger(error @ LedgerError::Fenced { .. })) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "the pools wait");
                    RETRY
                }
            };
        }
    }

    /// Looks at every pool and does what is to be done; says when to look again although nothing happens. `empty` spares
    /// asking the ledger where there are no pools, but for a sweep.
    async fn look(
        &self,
        failures: &mut HashMap<String, u32>,
        empty: &mut bool,
        sweep: bool,
    ) -> Result<Option<Duration>, Error> {
        let wanted: BTreeSet<String> = self
            .plans
            .state()
            .iter()
            .filter(|plan| plan.spec.preprovision > 0)
            .map(|plan| plan.name_any())
            .collect();
        if *empty && wanted.is_empty() && !sweep {
            return Ok(None);
        }
        if sweep {
            self.ledger.forget_claimed_members(self.epoch).await?;
        }
        let mut pools = self.pools(wanted).await?;
        *empty = pools.is_empty();
        let mut again: Option<Duration> = None;
        let mut views = HashMap::new();
        while let Some((name, pool)) = pools.pop_first() {
            let (view, soon) = self
                .keep(&name, &pool, failures.entry(name.clone()).or_default())
                .await?;
            again = again.into_iter().chain(soon).min();
            views.insert(name, view);
        }
        failures.retain(|name, _| views.contains_key(name));
        let before = self.views.0.views.lock().replace(views.clone()).unwrap_or_default();
        let names: BTreeSet<&String> = before.keys().chain(views.keys()).collect();
        for name in names {
            if before.get(name) != views.get(name) {
                // The receiver lives as long as the term.
                let _ = self.nudge.send(ObjectRef::new(name)).await;
            }
        }
        Ok(again)
    }

    /// Every pool that is wanted, or that there is something left of.
    async fn pools(&self, wanted: BTreeSet<String>) -> Result<BTreeMap<String, Pool>, Error> {
        let pool = |name: &str| Pool {
            plan: self.plans.get(&ObjectRef::new(name)),
            members: Vec::new(),
            resources: BTreeMap::new(),
        };
        let mut pools: BTreeMap<String, Pool> = wanted.into_iter().map(|name| (name.clone(), pool(&name))).collect();
        for member in self.ledger.pool_members().await? {
            let name = member.plan_name.clone();
            pools
                .entry(name.clone())
                .or_insert_with(|| pool(&name))
                .members
                .push(member);
        }
        for instance in self.instances.iter().flat_map(Store::state) {
            if resource::is_member(&instance) {
                let name = instance.spec.plan_ref.name.clone();
                let key = (instance.namespace().unwrap_or_default(), instance.name_any());
                pools
                    .entry(name.clone())
                    .or_insert_with(|| pool(&name))
                    .resources
                    .insert(key, instance);
            }
        }
        Ok(pools)
    }

    /// Looks at one pool and does what is to be done.
    async fn keep(&self, name: &str, pool: &Pool, failures: &mut u32) -> Result<(View, Option<Duration>), Error> {
        let (want, problem) = match &pool.plan {
            Some(plan) => self.want(plan),
            // Those that another broker made are on record before their plan is applied.
            None if pool
                .members
                .iter()
                .any(|member| member.adopt.is_some() && member.uid.is_none()) =>
            {
                (Want::Hold, None)
            }
            None => (nothing(), None),
        };
        let members: Vec<_> = pool.members.iter().map(|known| self.member(known, pool)).collect();
        let decision = decide(want, &members, *failures);
        let acts: Vec<_> = decision
            .steps
            .iter()
            .map(|step| self.act(name, pool, step).map(move |outcome| (step, outcome)).boxed())
            .collect();
        let outcomes: Vec<_> = futures::stream::iter(acts).buffer_unordered(AT_ONCE).collect().await;
        let mut again = decision.again;
        let mut errors = Vec::new();
        for (step, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    match step {
                        Step::Note(_, Verdict::Failed(_)) => *failures = failures.saturating_add(1),
                        Step::Note(_, Verdict::Ready) => *failures = 0,
                        // What is retired is to be removed.
                        Step::Retire(_) => again = Some(Duration::ZERO),
                        _ => {}
                    };
                }
                Err(Error::Ledger(error @ LedgerError::Fenced { .. })) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(plan = name, ?step, %error, "keeping a pool");
                    errors.push(error.to_string());
                    again = Some(again.map_or(RETRY, |again| again.min(RETRY)));
                }
            }
        }
        Ok((view(want, pool, &decision, problem, &errors), again))
    }

    /// What a plan wants of its pool, and why that is less than it says.
    fn want(&self, plan: &CachePlan) -> (Want, Option<String>) {
        // Members do not keep a plan from going.
        if plan.metadata.deletion_timestamp.is_some() {
            return (nothing(), None);
        }
        let enabled = plan
            .spec
            .provider()
            .is_some_and(|provider| self.providers.enabled(provider.kind()));
        let revision = plan.status.as_ref().and_then(|status| status.revision);
        let Some(revision) = revision.filter(|_| enabled && is_offered(plan)) else {
            return (Want::Hold, None);
        };
        if !plan.spec.state.takes_orders() {
            return (nothing(), None);
        }
        if let Err(error) = effective(&plan.spec, &Map::new()) {
            let message =
                format!("{error}: instances cannot be made ahead of what they need; remove spec.preprovision");
            return (nothing(), Some(message));
        }
        let keep = Keep {
            revision,
            count: usize::from(plan.spec.preprovision),
            deadline: plan.spec.operation_deadline(),
        };
        (Want::Keep(keep), None)
    }

    fn member(&self, known: &PoolMember, pool: &Pool) -> Member {
        let resource = pool.resources.get(&(known.namespace.clone(), known.name.clone()));
        Member {
            id: known.id,
            revision: known.plan_revision,
            state: known.state,
            age: known.age,
            uid: known.uid.clone(),
            message: known.message.clone(),
            verified: known.verified,
            seen: resource.map(|resource| Seen {
                uid: resource.uid().unwrap_or_default(),
                deleting: resource.metadata.deletion_timestamp.is_some(),
                verdict: self.verdict(resource),
            }),
        }
    }

    fn verdict(&self, instance: &CacheInstance) -> Verdict {
        let Some(status) = &instance.status else {
            return Verdict::No;
        };
        let generation = instance.metadata.generation.unwrap_or_default();
        let is = |type_| conditions::is_true(&status.conditions, type_, generation);
        if is(READY) && !is(RECONCILING) && self.connection(instance).is_some() {
            Verdict::Ready
        } else if is(STALLED) {
            let ready = conditions::find(&status.conditions, READY);
            Verdict::Failed(ready.map(|ready| ready.message.clone()).unwrap_or_default())
        } else {
            Verdict::No
        }
    }

    /// How to reach an instance, if its Secret is of the endpoint that its status has.
    fn connection(&self, instance: &CacheInstance) -> Option<Connection> {
        let status = instance.status.as_ref()?;
        let (binding, endpoint) = (status.binding.as_ref()?, status.endpoint.as_ref()?);
        let stores = &self.providers.stores;
        let secret = stores.secret(&instance.namespace()?, &instance.name_any(), &binding.name)?;
        Connection::from_secret_data(secret.data.as_ref()?)
            .filter(|connection| connection.host == endpoint.host && connection.port == endpoint.port)
    }

    async fn act(&self, name: &str, pool: &Pool, step: &Step) -> Result<(), Error> {
        let known = |id: &Uuid| pool.members.iter().find(|member| member.id == *id);
        match step {
            Step::Make => match &pool.plan {
                Some(plan) => self.make(name, plan).await,
                None => Ok(()),
            },
            Step::Write(id) => match known(id) {
                Some(member) => self.write(member).await,
                None => Ok(()),
            },
            Step::Note(id, verdict) => match known(id) {
                Some(member) => self.note(member, pool, verdict).await,
                None => Ok(()),
            },
            Step::Retire(id) => {
                let retired = self.ledger.retire_member(self.epoch, *id).await?;
                tracing::info!(plan = name, member = %id, retired, "a member of the pool is not wanted any more");
                Ok(())
            }
            Step::Remove(id) => match known(id) {
                Some(member) => self.remove(member).await,
                None => Ok(()),
            },
        }
    }

    async fn make(&self, name: &str, plan: &CachePlan) -> Result<(), Error> {
        let id = ambient::id();
        let plan_id = plan.spec.id.parse();
        let new = NewMember {
            id,
            plan_id: plan_id.map_err(|error| Error::Plan(format!("plan {name}: id {error}")))?,
            plan_name: name.to_owned(),
            plan_revision: plan
                .status
                .as_ref()
                .and_then(|status| status.revision)
                .unwrap_or_default(),
            namespace: self.namespaces.of(plan.spec.engine.type_).to_owned(),
            name: resource::name(id),
        };
        self.ledger.add_member(self.epoch, &new).await?;
        tracing::info!(plan = name, member = %new.name, "making an instance ahead");
        self.create(
            &new.namespace,
            &resource::unclaimed(&new.name, &new.namespace, (name, new.plan_revision), None),
        )
        .await
    }

    async fn write(&self, member: &PoolMember) -> Result<(), Error> {
        let plan = (member.plan_name.as_str(), member.plan_revision);
        let resource = resource::unclaimed(&member.name, &member.namespace, plan, member.adopt.as_deref());
        self.create(&member.namespace, &resource).await
    }

    async fn create(&self, namespace: &str, resource: &CacheInstance) -> Result<(), Error> {
        match deadline(self.api(namespace).create(&PostParams::default(), resource)).await {
            // The watch brings it.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn note(&self, member: &PoolMember, pool: &Pool, verdict: &Verdict) -> Result<(), Error> {
        let key = (member.namespace.clone(), member.name.clone());
        let Some(resource) = pool.resources.get(&key) else {
            return Ok(());
        };
        let noted = match (verdict, self.connection(resource)) {
            (Verdict::Ready, Some(connection)) => Noted::Ready(connection),
            (Verdict::Failed(why), _) => Noted::Failed(why.clone()),
            _ => Noted::Making,
        };
        let uid = resource.uid().unwrap_or_default();
        self.ledger.note_member(self.epoch, member.id, &uid, &noted).await?;
        Ok(())
    }

    /// Deletes the resource of a retired member, or forgets the member when there is none.
    async fn remove(&self, member: &PoolMember) -> Result<(), Error> {
        let api = self.api(&member.namespace);
        let existing = deadline(api.get_opt(&member.name)).await?;
        // One of another uid was not made for this member.
        let ours = existing
            .filter(|existing| resource::is_member(existing) && (member.uid.is_none() || member.uid == existing.uid()));
        let Some(existing) = ours else {
            return Ok(self.ledger.forget_member(self.epoch, member.id).await?);
        };
        let how = DeleteParams {
            preconditions: Some(Preconditions {
                uid: existing.uid(),
                // Between the look and this nobody made it an order's.
                resource_version: existing.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match deadline(api.delete(&member.name, &how)).await {
            Err(Error::Kube(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn api(&self, namespace: &str) -> Api<CacheInstance> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// An empty pool.
fn nothing() -> Want {
    Want::Keep(Keep {
        revision: 0,
        count: 0,
        deadline: Duration::MAX,
    })
}

/// What is said of a pool.
fn view(want: Want, pool: &Pool, decision: &Decision, problem: Option<String>, errors: &[String]) -> View {
    let wanted = match want {
        Want::Keep(keep) => keep.count,
        Want::Hold => pool.plan.as_ref().map_or(0, |plan| usize::from(plan.spec.preprovision)),
    };
    let status = (wanted > 0 || !pool.members.is_empty()).then(|| PoolStatus {
        ready: u32::try_from(decision.ready).unwrap_or(u32::MAX),
        wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
    });
    let name_of = |id: &Uuid| pool.members.iter().find(|member| member.id == *id);
    let failed = decision.failures.iter().find_map(|(id, why)| {
        let member = name_of(id)?;
        Some(format!("CacheInstance {}/{}: {why}", member.namespace, member.name))
    });
    let stranger = pool.resources.keys().find(|(namespace, name)| {
        !pool
            .members
            .iter()
            .any(|member| member.namespace == *namespace && member.name == *name)
    });
    let stranger = stranger.map(|(namespace, name)| {
        format!("CacheInstance {namespace}/{name} is labelled as one of the pool and not on record: delete it, if nobody uses it")
    });
    let trouble = problem
        .map(|problem| ("Impossible", problem))
        .or_else(|| failed.map(|failed| ("MemberFailed", failed)))
        .or_else(|| errors.first().map(|error| ("MemberFailed", error.clone())))
        .or_else(|| stranger.map(|stranger| ("UnknownMember", stranger)));
    let count = format!("{} of {wanted} ready", decision.ready);
    let condition = match trouble {
        Some((reason, why)) => Some((
            decision.ready >= wanted && reason == "UnknownMember",
            reason,
            format!("{count}; {why}"),
        )),
        None if wanted == 0 => None,
        None if decision.ready >= wanted => Some((true, "Full", count)),
        None => Some((false, "Filling", count)),
    };
    View { status, condition }
}
