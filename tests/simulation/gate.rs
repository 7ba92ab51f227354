//! Outside calls: each waits at the gate until it is its turn, and may fail, be late, or lose its answer.

use std::fmt;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    /// The API server.
    Kubernetes,
    /// ElastiCache.
    ElastiCache,
    /// Postgres.
    Postgres,
    /// A cache, over its own protocol.
    Cache,
    /// A receiver of webhooks.
    Receiver,
    /// The facade, by a platform.
    Facade,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub system: System,
    /// What is asked, in words that are the same in each run.
    pub what: String,
    /// Whether it changes something.
    pub writes: bool,
    /// Whether it is of no account: elections, Events, and the sweeps that ask whether there is work.
    pub quiet: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.system, self.what)
    }
}

/// How a call fails without an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// The connection breaks.
    Broken,
    /// It is asked to come again later: 429, or `Throttling`.
    Throttled,
    /// 500.
    Internal,
    /// 503.
    Unavailable,
    /// No answer comes: the caller's deadline ends it.
    Silence,
}

pub const FAILURES: [Failure; 5] = [
    Failure::Broken,
    Failure::Throttled,
    Failure::Internal,
    Failure::Unavailable,
    Failure::Silence,
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has its effect, and its answer comes back.
    Go,
    /// It has its effect, and the connection breaks before its answer.
    Lose,
    /// It has its effect at once, and its answer comes when others have gone on: what was read is old by then.
    Slow(Duration),
    /// Its process dies over it, before it has an effect.
    DieBefore,
    /// It has its effect, and its process dies before its answer.
    Die,
    /// It has its effect long after its caller gave it up.
    Late,
    /// Its process dies, and it has its effect when another one has gone on.
    Outlive,
    /// It has no effect.
    Fail(Failure),
}

/// A call that waits.
pub struct Ticket {
    pub id: u64,
    pub process: usize,
    pub call: Call,
    pub answer: oneshot::Sender<Verdict>,
    /// It is not its turn before.
    pub held_until: Option<Instant>,
    /// When it was first seen.
    pub batch: Option<u64>,
}
