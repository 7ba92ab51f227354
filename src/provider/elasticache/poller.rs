//! What ElastiCache was last seen to hold, kept fresh by one poller for all instances.
//!
//! The API tells of no change by itself. While something is in flight the region is listed at a steady pace, or, when
//! fewer caches are in flight than there are pages, each is described; at the resync period everything is listed. An
//! instance whose cache changed is nudged; nothing else is woken. Between the looks it is read what happened meanwhile,
//! for all caches at once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use parking_lot::{Mutex, RwLock};
use secrecy::SecretString;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::super::{Effect, Fault};
use super::events::{self, Heard, Occurrence, Told};
use super::lifecycle::Offered;
use super::view::Caches;
use super::{
    Access, Client, Create, Live, LiveNode, Modification, OWNER_TAG, Ownership, Phase, RELEASED, Tags, TokenStrategy,
    UserGroup, UserPhase, tags,
};
use crate::ambient;
use crate::api::{CacheInstance, Topology};
use crate::telemetry::metrics::record::{self, SavedBy};

/// One cache of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Replication group or cache cluster.
    pub topology: Topology,
    /// Its id.
    pub id: String,
}

/// Keeps what ElastiCache holds in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Poller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    prefix: String,
    interval: Duration,
    resync: Duration,
    /// Since when it looks. What an earlier process asked for may have its effect for some time after that.
    began: Instant,
    view: RwLock<View>,
    offered: RwLock<Option<Arc<Offered>>>,
    heard: Mutex<Heard>,
    work: Notify,
    listed: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct View {
    caches: Caches,
    instances: HashMap<Target, Interest>,
    /// Users, by the id of their group, that were at rest when they were last asked for.
    access: HashMap<String, Access>,
    /// Why caches failed, as far as that was asked.
    causes: HashMap<Target, Option<String>>,
    pages: usize,
}

/// Who hears of what the poller finds.
#[derive(Clone, Debug)]
pub struct Ears {
    /// Hears of every instance whose cache changed.
    pub nudge: mpsc::Sender<ObjectRef<CacheInstance>>,
    /// Hears of what happened to caches of instances.
    pub occurred: mpsc::Sender<Occurrence>,
}

/// How many looks go by between two readings of events.
const LOOKS: u32 = 3;
/// How often the versions on offer are asked for.
const VERSIONS_EVERY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Interest {
    instance: ObjectRef<CacheInstance>,
    in_flight: bool,
}

impl Poller {
    /// A poller over a client, for caches whose id begins with a prefix.
    pub fn new(client: Client, prefix: &str, interval: Duration, resync: Duration) -> Self {
        let prefix = format!("{}-", prefix.to_ascii_lowercase());
        Self::over(Arc::new(client), prefix, interval, resync)
    }

    fn over(client: Arc<Client>, prefix: String, interval: Duration, resync: Duration) -> Self {
        Self(Arc::new(Shared {
            client,
            prefix,
            interval,
            resync,
            began: Instant::now(),
            view: RwLock::default(),
            offered: RwLock::default(),
            heard: Mutex::default(),
            work: Notify::new(),
            listed: tokio::sync::watch::Sender::new(false),
        }))
    }

    /// A poller that has seen nothing yet, over the same client and its bucket of calls.
    pub fn renewed(&self) -> Self {
        let Shared {
            client,
            prefix,
            interval,
            resync,
            ..
        } = &*self.0;
        Self::over(client.clone(), prefix.clone(), *interval, *resync)
    }

    /// The cache as last seen, if it was: `Some(None)` is one that was seen to be gone.
    pub fn seen(&self, target: &Target) -> Option<Option<Live>> {
        let view = self.0.view.read();
        view.caches.seen(target).map(Option::<&Live>::cloned)
    }

    /// The cache as last seen, or as described now if it was not seen yet.
    ///
    /// # Errors
    /// When ElastiCache does not answer.
    pub async fn look(&self, target: &Target) -> Result<Option<Live>, Fault> {
        if let Some(seen) = self.seen(target) {
            record::aws_calls_saved(SavedBy::Memory, 1);
            return Ok(seen);
        }
        let asked = Instant::now();
        let live = self.0.client.describe(target.topology, &target.id).await?;
        self.note(target, live.clone(), asked);
        Ok(live)
    }

    /// The cache as [`Self::look`] tells of it, and of one that is not there, for how long it may still appear: it was asked for
    /// a moment ago, or may have been by an earlier process, but not since its instance is being deleted. Once that time is
    /// over it is asked about once more.
    ///
    /// # Errors
    /// When ElastiCache does not answer.
    pub async fn ascertain(
        &self,
        target: &Target,
        deleted_at: Option<Timestamp>,
    ) -> Result<(Option<Live>, Option<Duration>), Fault> {
        let live = self.look(target).await?;
        if live.is_some() {
            return Ok((live, None));
        }
        let now = Instant::now();
        let ago = deleted_at.and_then(|at| Duration::try_from(ambient::now().duration_since(at)).ok());
        let deleted = ago.and_then(|ago| now.checked_sub(ago));
        let others = deleted.map_or(self.0.began, |deleted| deleted.min(self.0.began));
        let left = self.0.view.read().caches.may_appear(target, others, now);
        match left {
            None => Ok((None, None)),
            Some(Duration::ZERO) => {
                let live = self.0.client.describe(target.topology, &target.id).await?;
                self.note(target, live.clone(), now);
                Ok((live, None))
            }
            Some(left) => Ok((None, Some(left))),
        }
    }

    /// Tells the poller whose a cache is and whether something is going on with it.
    pub fn interest(&self, target: &Target, instance: ObjectRef<CacheInstance>, in_flight: bool) {
        let news = self
            .0
            .view
            .write()
            .instances
            .insert(target.clone(), Interest { instance, in_flight })
            .is_none_or(|before| !before.in_flight);
        if in_flight && news {
            self.0.work.notify_one();
        }
    }

    /// Forgets a cache whose instance is gone.
    pub fn forget(&self, target: &Target) {
        let mut view = self.0.view.write();
        view.instances.remove(target);
        view.caches.forget(target);
        view.causes.remove(target);
    }

    /// Asks for a cache to be made.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn create(&self, create: &Create, token: Option<SecretString>) -> Result<(), Fault> {
        let target = Target {
            topology: create.topology,
            id: create.id.clone(),
        };
        let outcome = self.0.client.create(create, token).await;
        let outcome = self.noted(&target, outcome);
        let caches = &mut self.0.view.write().caches;
        match &outcome {
            Err(fault) if fault.effect == Effect::None => caches.refused(&target),
            Ok(()) | Err(_) => caches.asked_for(&target, Instant::now()),
        }
        outcome
    }

    /// Asks for a cache to be deleted.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn delete(&self, target: &Target, final_snapshot: Option<&str>) -> Result<(), Fault> {
        let outcome = self.0.client.delete(target.topology, &target.id, final_snapshot).await;
        self.noted(target, outcome)
    }

    /// Asks for a cache to be changed in place.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn modify(&self, target: &Target, modification: &Modification) -> Result<(), Fault> {
        let outcome = self.0.client.modify(target, modification).await;
        self.noted(target, outcome)
    }

    /// Asks for a password to be let in, or to be the only one, unless the group is busy or its password was changed
    /// since `before`: then what it is like now is noted, for another decision. The call takes no condition, so this is
    /// read right before it.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn set_token(
        &self,
        target: &Target,
        token: SecretString,
        strategy: TokenStrategy,
        before: Option<&String>,
    ) -> Result<(), Fault> {
        let client = &self.0.client;
        let outcome = match client.describe(target.topology, &target.id).await {
            Ok(Some(live)) if live.phase == Phase::Available && live.config.token_changed.as_ref() == before => {
                client.set_token(&target.id, &token, strategy).await
            }
            outcome => outcome,
        };
        self.noted(target, outcome)
    }

    /// Asks for a node to be restarted.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn reboot(&self, target: &Target, node: &LiveNode) -> Result<(), Fault> {
        let outcome = self.0.client.reboot(target, node).await;
        self.noted(target, outcome)
    }

    /// The users of a group, as last seen if they were at rest then. `asked` says which of them the group does not tell
    /// of.
    ///
    /// # Errors
    /// When ElastiCache does not answer.
    pub async fn access(
        &self,
        group: &str,
        asked: impl Fn(Option<&UserGroup>) -> BTreeSet<String>,
    ) -> Result<Access, Fault> {
        let seen = self.0.view.read().access.get(group).cloned();
        if let Some(seen) = seen.filter(|seen| asked(seen.group.as_ref()).is_empty()) {
            return Ok(seen);
        }
        let client = &self.0.client;
        let mut access = Access {
            group: client.user_group(group).await?,
            ..Access::default()
        };
        for id in asked(access.group.as_ref()) {
            if let Some(phase) = client.user(&id).await? {
                access.users.insert(id, phase);
            }
        }
        let at_rest = access
            .group
            .as_ref()
            .is_some_and(|group| group.phase == UserPhase::Active);
        if at_rest && access.users.is_empty() {
            self.0.view.write().access.insert(group.to_owned(), access.clone());
        } else {
            self.users_changed(group);
        }
        Ok(access)
    }

    /// Forgets what was seen of a group's users.
    pub fn users_changed(&self, group: &str) {
        self.0.view.write().access.remove(group);
    }

    /// Asks for a snapshot of a cache, which is busy meanwhile and looked at anew.
    ///
    /// # Errors
    /// When ElastiCache refuses or does not answer.
    pub async fn take_snapshot(&self, name: &str, of: &Target) -> Result<(), Fault> {
        let outcome = self.0.client.take_snapshot(name, of).await;
        self.0.view.write().caches.doubt(of, Instant::now());
        outcome
    }

    /// The API itself, for what is not looked at again and again: snapshots and tags.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The ids under which a list found caches, of those that are asked about.
    pub fn known(&self, ids: impl Iterator<Item = Target>) -> Vec<Target> {
        let view = self.0.view.read();
        ids.filter(|target| view.caches.seen(target).is_some_and(|seen| seen.is_some()))
            .collect()
    }

    /// The tags of a cache, if they can be read now.
    pub async fn tags(&self, arn: &str) -> Option<Tags> {
        let tags = self.0.client.tags(arn).await;
        tags.inspect_err(|fault| tracing::debug!(%fault, "reading tags")).ok()
    }

    /// Tags a cache as nobody's, unless its tags say that it is not its owner's. Without that tag nobody could take it over
    /// later: who cannot read its tags has not let it go.
    ///
    /// # Errors
    /// When its tags cannot be read or written.
    pub async fn release(&self, arn: &str, owner: &str) -> Result<(), Fault> {
        let client = &self.0.client;
        let outcome = match client.tags(arn).await {
            Ok(tags) if tags::ownership(Some(&tags), owner) == Ownership::Ours => {
                let released = [(OWNER_TAG.to_owned(), RELEASED.to_owned())].into();
                client.tag(arn, &released).await
            }
            Ok(_) => Ok(()),
            Err(fault) => Err(fault),
        };
        self.tagged(arn, outcome)
    }

    /// Keeps that the tags of a cache were written, which makes it busy for a while, or could not be, which may mean that it
    /// is busy or gone: it is looked at anew.
    ///
    /// # Errors
    /// When writing them failed.
    pub fn tagged(&self, arn: &str, outcome: Result<(), Fault>) -> Result<(), Fault> {
        let mut view = self.0.view.write();
        let there = view.caches.there();
        let its = there.filter(|(_, live)| live.arn.as_deref() == Some(arn));
        let its: Vec<_> = its.map(|(target, _)| target.clone()).collect();
        for target in its {
            view.caches.doubt(&target, Instant::now());
        }
        outcome
    }

    /// Why a cache failed, as the newest of its events says it. It is asked once for each failure.
    pub async fn cause(&self, target: &Target) -> Option<String> {
        if let Some(known) = self.0.view.read().causes.get(target) {
            return known.clone();
        }
        let cause = self.0.client.newest_event(target.topology, &target.id).await;
        self.0.view.write().causes.insert(target.clone(), cause.clone());
        cause
    }

    /// The versions that can be ordered, once that was asked.
    pub fn offered(&self) -> Option<Arc<Offered>> {
        self.0.offered.read().clone()
    }

    /// Waits until the region was listed once.
    pub async fn ready(&self) {
        // The sender lives as long as self: waiting cannot fail.
        let _ = self.0.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// Lists the region once, then polls for ever.
    pub async fn run(&self, ears: &Ears) {
        loop {
            match self.list(&ears.nudge).await {
                Ok(()) => break,
                Err(fault) => {
                    tracing::warn!(%fault, "ElastiCache cannot be listed; instances there wait");
                    tokio::time::sleep(self.0.interval).await;
                }
            }
        }
        self.ask_versions().await;
        self.0.listed.send_replace(true);
        let mut resync = tokio::time::interval_at(Instant::now() + self.0.resync, self.0.resync);
        let mut versions = tokio::time::interval_at(Instant::now() + VERSIONS_EVERY, VERSIONS_EVERY);
        // Looks since events were read.
        let mut unheard = 0;
        loop {
            let idle = self.in_flight().is_empty();
            let outcome = tokio::select! {
                biased;
                _ = resync.tick() => {
                    unheard = LOOKS;
                    self.list(&ears.nudge).await
                }
                _ = versions.tick() => {
                    self.ask_versions().await;
                    continue;
                }
                () = self.0.work.notified(), if idle => continue,
                () = tokio::time::sleep(self.0.interval), if !idle => {
                    unheard += 1;
                    self.poll(&ears.nudge).await
                }
                // What was the last to be in flight may have left something to be told.
                () = tokio::time::sleep(self.0.interval), if idle && unheard > 0 => {
                    unheard = LOOKS;
                    Ok(())
                }
            };
            if let Err(fault) = outcome {
                tracing::warn!(%fault, "polling ElastiCache");
            }
            if unheard >= LOOKS {
                unheard = 0;
                if let Err(fault) = self.listen(&ears.occurred).await {
                    tracing::warn!(%fault, "reading the events of ElastiCache");
                }
            }
        }
    }

    async fn ask_versions(&self) {
        match self.0.client.engine_versions().await {
            Ok(offered) => *self.0.offered.write() = Some(Arc::new(offered)),
            // Without them it is only not known which versions are not offered any more.
            Err(fault) => tracing::warn!(%fault, "the versions that ElastiCache offers are not known"),
        }
    }

    /// Reads what happened since it was read last.
    async fn listen(&self, occurred: &mpsc::Sender<Occurrence>) -> Result<(), Fault> {
        let now = ambient::now();
        let since = self.0.heard.lock().since(now);
        let pages = events::pages(self.0.view.read().pages);
        let (told, all) = self.0.client.events(since, pages).await?;
        let news = self.0.heard.lock().news(told, all, now);
        let mut lost = 0_usize;
        for told in news {
            let Some(instance) = self.whose(&told) else { continue };
            let occurrence = Occurrence {
                instance,
                source: told.source,
                message: told.message,
                at: told.at,
            };
            // Nobody waits for whoever writes them down.
            lost += usize::from(occurred.try_send(occurrence).is_err());
        }
        if lost > 0 {
            tracing::warn!(lost, "more happened on ElastiCache than can be written down");
        }
        Ok(())
    }

    /// The instance whose cache, or a member of it, an event is about.
    fn whose(&self, told: &Told) -> Option<ObjectRef<CacheInstance>> {
        let view = self.0.view.read();
        let of = |topology, id: &str| {
            let target = Target {
                topology,
                id: id.to_ascii_lowercase(),
            };
            view.instances.get(&target).map(|interest| interest.instance.clone())
        };
        of(told.topology, &told.source).or_else(|| {
            let mut groups = events::group_of(&told.source);
            groups.find_map(|group| of(Topology::ReplicationGroup, group))
        })
    }

    fn in_flight(&self) -> Vec<Target> {
        let view = self.0.view.read();
        let in_flight = view.instances.iter().filter(|(_, interest)| interest.in_flight);
        in_order(in_flight.map(|(target, _)| target.clone()))
    }

    async fn poll(&self, nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) -> Result<(), Fault> {
        let in_flight = self.in_flight();
        // A group takes a call for itself and one for each member.
        let calls: usize = {
            let view = self.0.view.read();
            let members = |target: &Target| {
                let live = view.caches.seen(target)??;
                (target.topology == Topology::ReplicationGroup).then_some(live.nodes.len())
            };
            in_flight.iter().map(|target| 1 + members(target).unwrap_or(0)).sum()
        };
        let pages = self.0.view.read().pages;
        if calls <= pages {
            for target in &in_flight {
                self.describe(target, nudge).await?;
            }
            Ok(())
        } else {
            record::aws_calls_saved(SavedBy::List, calls.saturating_sub(pages));
            self.list(nudge).await
        }
    }

    async fn list(&self, nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) -> Result<(), Fault> {
        let asked = Instant::now();
        let (found, pages) = self.0.client.list().await?;
        let mut missing: HashSet<_> = {
            let mut view = self.0.view.write();
            view.access.clear();
            view.pages = pages;
            view.caches.there().map(|(target, _)| target.clone()).collect()
        };
        for live in found {
            let target = Target {
                topology: live.topology,
                id: live.id.clone(),
            };
            missing.remove(&target);
            let ours = live.id.starts_with(&self.0.prefix) || self.0.view.read().instances.contains_key(&target);
            if ours && let Some(instance) = self.note(&target, Some(live), asked) {
                let _ = nudge.send(instance).await;
            }
        }
        // Only a Describe by id proves that something is gone.
        for target in in_order(missing.into_iter()) {
            self.describe(&target, nudge).await?;
        }
        Ok(())
    }

    async fn describe(&self, target: &Target, nudge: &mpsc::Sender<ObjectRef<CacheInstance>>) -> Result<(), Fault> {
        let asked = Instant::now();
        let live = self.0.client.describe(target.topology, &target.id).await?;
        if let Some(instance) = self.note(target, live, asked) {
            let _ = nudge.send(instance).await;
        }
        Ok(())
    }

    /// Keeps the reply to a change. A change that failed may have had its effect: the cache is looked at anew.
    fn noted(&self, target: &Target, outcome: Result<Option<Live>, Fault>) -> Result<(), Fault> {
        match outcome {
            Ok(live) => {
                self.note(target, live, Instant::now());
                Ok(())
            }
            Err(fault) => {
                self.0.view.write().caches.doubt(target, Instant::now());
                Err(fault)
            }
        }
    }

    fn note(&self, target: &Target, live: Option<Live>, asked: Instant) -> Option<ObjectRef<CacheInstance>> {
        self.0.view.write().note(target, live, asked)
    }
}

impl View {
    /// Keeps what was seen of a cache. Returns the instance to nudge if that is news.
    fn note(&mut self, target: &Target, live: Option<Live>, asked: Instant) -> Option<ObjectRef<CacheInstance>> {
        if !self.caches.note(target, live, asked) {
            return None;
        }
        self.causes.remove(target);
        self.instances.get(target).map(|interest| interest.instance.clone())
    }
}

/// Targets in an order that is the same each time.
fn in_order(targets: impl Iterator<Item = Target>) -> Vec<Target> {
    let mut targets: Vec<_> = targets.collect();
    targets.sort_by(|one, other| one.id.cmp(&other.id));
    targets
}
