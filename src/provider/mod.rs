//! What an instance is made of. One folder a provider; each observes, decides without I/O, and acts.
//!
//! `decide` reads no clock and names no SDK type. A new provider is a new folder and a new arm of [`Step`].

mod backups;
pub mod elasticache;
pub mod kubernetes;
mod objects;
mod providers;
mod record;
pub mod secrets;
mod seeding;
mod succession;
pub mod users;
mod window;

pub use providers::{ElastiCache, Observed, Providers, Seen, Switches};
pub use record::{Cluster, Place, Record, Restart, RestartingNode, Superseded, Token, TokenStage};
pub use window::{Consent, Leave, Window};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::conditions::{Progress, Reason};
use crate::api::{CachePlanSpec, DeletionPolicy, Endpoint, Node, Owner, RunningEngine};

/// What an instance is to be: its resource, read together with the revision of the plan it runs from.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The instance's namespace.
    pub namespace: String,
    /// The instance's name.
    pub name: String,
    /// The instance's uid.
    pub uid: String,
    /// Whether the cache is to exist.
    pub existence: Existence,
    /// Since when it is to be deleted. Nothing is made for it since, unless its deletion is held.
    pub deleted_at: Option<Timestamp>,
    /// The name of the plan.
    pub plan_name: String,
    /// The plan as it was in the instance's revision, the tenant's parameters applied.
    pub plan: CachePlanSpec,
    /// For whom it is.
    pub owner: Owner,
    /// The Secret that connection details are written to.
    pub connection_secret: String,
    /// Whether it ever answered.
    pub was_ready: bool,
    /// Whether changes that lose data may be made whenever they are due.
    pub consent: Consent,
    /// Whether all it asks for is what a platform ordered.
    pub ordered: bool,
    /// When its nodes are to be restarted, if that was ever asked for.
    pub restart_at: Option<Timestamp>,
    /// The id of a cache that exists in the provider and is to be taken over.
    pub adopt: Option<String>,
    /// Whether that one stays as it was found, whatever the plan says.
    pub as_found: bool,
    /// What it is to be filled from.
    pub restore: Option<RestoreFrom>,
    /// Its users beside the default one.
    pub users: Vec<users::UserRef>,
    /// The snapshot of the cache whose place it takes, to be filled from.
    pub seed: Option<String>,
    /// How long a cache is kept whose place another one took.
    pub grace: Duration,
    /// Whether nobody needs such a cache any more.
    pub release_superseded: bool,
    /// Whether it is made anew, empty, when it is gone from its provider.
    pub recreate: bool,
    /// What its status tells those who use it.
    pub published: Published,
    /// What was recorded of it in the provider.
    pub record: Record,
}

/// A backup that a cache is to be filled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreFrom {
    /// The name of the `CacheBackup`.
    pub backup: String,
    /// The snapshot's name in the provider.
    pub snapshot: String,
}

/// What a status tells those who use a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Where it answers.
    pub endpoint: Option<Endpoint>,
    /// Where its replicas answer reads.
    pub reader_endpoint: Option<Endpoint>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Whether the connection Secret is complete.
    pub bound: bool,
}

/// Whether a cache is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It is.
    Present,
    /// It is to go, in this way.
    Absent(DeletionPolicy),
    /// It is to go since another cache of the instance took its place: what the two share, the Secrets, stays.
    Superseded,
}

/// What to do next, what to say, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<A> {
    /// What to do.
    pub step: Next<A>,
    /// What to say in the status.
    pub report: Report,
    /// When to look again if nothing happens before.
    pub again: Again,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next<A> {
    /// Do this, then decide anew.
    Act(A),
    /// Nothing.
    Rest,
    /// Nothing is left in the provider: let the resource go.
    Release,
    /// Make another cache that takes the place of this one.
    Replace,
}

/// When to look again if nothing happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At the next change, or the resync.
    OnChange,
    /// After that long.
    After(Duration),
}

/// What follows from a step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// What it changed is observed already: the next one can be decided on at once.
    Observed,
    /// What it changed is observed later; look again after that long, unless something happens before.
    Later(Duration),
}

/// What is known of a cache, as its status says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How far it is.
    pub progress: Progress,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in one sentence.
    pub message: String,
    /// What to keep about the provider.
    pub record: Record,
    /// Where it answers.
    pub endpoint: Option<Endpoint>,
    /// Where its replicas answer reads.
    pub reader_endpoint: Option<Endpoint>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Whether the connection Secret is complete.
    pub bound: bool,
    /// The engine and its version, as they run; what was known before if absent.
    pub engine: Option<RunningEngine>,
    /// Whether it is encrypted at rest; what was known before if absent.
    pub encrypted_at_rest: Option<bool>,
    /// Whether the provider supports them; what was known before if absent.
    pub support: Option<EngineSupport>,
}

/// Whether a provider supports the version of the engine that a cache runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSupport {
    /// Whether it does.
    pub supported: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Until when, and what to do, in one sentence.
    pub message: String,
}

impl Report {
    /// A report on something that has no endpoint yet.
    pub fn new(progress: Progress, reason: Reason, message: impl Into<String>, record: Record) -> Self {
        Self {
            progress,
            reason,
            message: message.into(),
            record,
            endpoint: None,
            reader_endpoint: None,
            nodes: Vec::new(),
            bound: false,
            engine: None,
            encrypted_at_rest: None,
            support: None,
        }
    }

    /// The same, with what was told to those who use the cache before.
    #[must_use]
    pub fn publishing(self, published: &Published) -> Self {
        Self {
            endpoint: published.endpoint.clone(),
            reader_endpoint: published.reader_endpoint.clone(),
            nodes: published.nodes.clone(),
            bound: published.bound,
            ..self
        }
    }

    /// The same, as seen through a fault of the step that came of it.
    #[must_use]
    pub fn with_fault(self, fault: &Fault) -> Self {
        let (progress, reason) = match (fault.kind, self.progress) {
            (FaultKind::Refused, _) => (Progress::Stalled, Reason::ProviderRefused),
            // What answers goes on answering while a change of it is tried again.
            (FaultKind::Transient, Progress::Ready | Progress::ReadyAndReconciling) => {
                (Progress::ReadyAndReconciling, Reason::ProviderUnavailable)
            }
            (FaultKind::Transient, _) => (Progress::Reconciling, Reason::ProviderUnavailable),
        };
        Self {
            progress,
            reason,
            message: fault.message.clone(),
            ..self
        }
    }
}

/// A step of one of the providers.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// In the cluster.
    Kubernetes(kubernetes::Step),
    /// On ElastiCache.
    ElastiCache(elasticache::Step),
}

impl Step {
    /// Whether it makes something that goes on when the instance is gone: what is in the cluster goes with its owner.
    pub fn makes_what_outlives(&self) -> bool {
        use elasticache::{AccessStep, Step};

        matches!(
            self,
            Self::ElastiCache(
                Step::Create(_)
                    | Step::TakeSeed { .. }
                    | Step::Users(AccessStep::CreateUsers(_) | AccessStep::CreateGroup { .. })
            )
        )
    }

    /// Its name for logs, such as `Kubernetes/Apply`. What it carries may be large, or secret, and is not looked at.
    pub fn name(&self) -> String {
        use fmt::Write as _;

        /// Takes no more than a name can be long.
        struct Head(String);
        impl fmt::Write for Head {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.push_str(text);
                if self.0.len() < 40 { Ok(()) } else { Err(fmt::Error) }
            }
        }
        let mut head = Head(String::new());
        let _ = write!(head, "{self:?}");
        let words = head
            .0
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty());
        words.take(2).collect::<Vec<_>>().join("/")
    }
}

impl<A> Decision<A> {
    /// A decision to do something and then decide anew.
    pub fn act(step: A, report: Report) -> Self {
        Self {
            step: Next::Act(step),
            report,
            again: Again::OnChange,
        }
    }

    /// A decision to wait for a change.
    pub fn rest(report: Report) -> Self {
        Self {
            step: Next::Rest,
            report,
            again: Again::OnChange,
        }
    }

    /// A decision to let the resource go.
    pub fn release(report: Report) -> Self {
        Self {
            step: Next::Release,
            report,
            again: Again::OnChange,
        }
    }

    /// The same, looked at again after a time.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.again = Again::After(wait);
        self
    }

    /// The same, looked at again at once: its report alone changes what comes next.
    #[must_use]
    pub fn now(self) -> Self {
        self.after(Duration::ZERO)
    }

    /// The same, looked at again at a time or before.
    #[must_use]
    pub fn no_later_than(self, at: Timestamp, now: Timestamp) -> Self {
        let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        match self.again {
            Again::After(sooner) if sooner <= wait => self,
            Again::OnChange | Again::After(_) => self.after(wait),
        }
    }

    /// The same decision about a step of another type.
    pub fn map<B>(self, into: impl FnOnce(A) -> B) -> Decision<B> {
        let step = match self.step {
            Next::Act(step) => Next::Act(into(step)),
            Next::Rest => Next::Rest,
            Next::Release => Next::Release,
            Next::Replace => Next::Replace,
        };
        Decision {
            step,
            report: self.report,
            again: self.again,
        }
    }
}

/// A step that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whether trying again may help.
    pub kind: FaultKind,
    /// What was attempted, on what, what came back, and what the reader can do.
    pub message: String,
    /// Whether it may have had its effect all the same.
    pub effect: Effect,
}

/// Whether a step that did not succeed may have had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It had none: the provider weighed it, and says so.
    None,
    /// It may have had, or may have yet.
    Unknown,
}

/// Whether trying a step again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It may: the provider is away, busy, out of capacity, over quota, or lacks something the step depends on.
    Transient,
    /// It cannot: somebody must change the plan or the instance first.
    Refused,
}

impl FaultKind {
    /// It in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Transient => "provider_unavailable",
            Self::Refused => "provider_refused",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// A fault that passes.
    pub fn transient(message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Transient,
            message: message.into(),
            effect: Effect::Unknown,
        }
    }

    /// A fault that passes when there is room, or more is allowed.
    pub fn no_room(message: impl Into<String>) -> Self {
        Self {
            effect: Effect::None,
            ..Self::transient(message)
        }
    }

    /// A fault that stays until somebody changes something.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Refused,
            message: message.into(),
            effect: Effect::None,
        }
    }
}

impl Desired {
    /// Whether a cache of this id is the one that it was to take over.
    pub fn adopts(&self, id: &str) -> bool {
        let is = |adopted: &String| adopted.eq_ignore_ascii_case(id);
        self.adopt.as_ref().is_some_and(is)
    }

    /// The restart that is due. One that was ordered is due at once, whatever our clock says of the time at which Postgres
    /// accepted it.
    pub fn restart_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.restart_at.filter(|at| self.ordered || *at <= now)
    }

    /// The labels on everything that is made in the cluster for the instance.
    pub fn labels(&self) -> BTreeMap<String, String> {
        use crate::api::labels::{INSTANCE, MANAGED_BY, MANAGER, NAME, PLAN};
        [
            (MANAGED_BY, MANAGER),
            (INSTANCE, self.name.as_str()),
            (NAME, self.plan.engine.type_.as_str()),
            (PLAN, self.plan_name.as_str()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Whether it took over what stood under its name in the cluster, where its address and its lack of a password stay
    /// those that its users know.
    pub fn took_over_workload(&self) -> bool {
        self.adopt.as_ref() == Some(&self.name)
    }

    /// The name of the Secret with the password that the engine asks for.
    pub fn auth_secret(&self) -> String {
        format!("{}-auth", self.name)
    }

    /// The name of the Secret with the users that redis and valkey in the cluster start with.
    pub fn users_secret(&self) -> String {
        format!("{}-users", self.name)
    }
}
