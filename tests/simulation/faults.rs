//! What is done to a run.

use std::time::Duration;

use tokio::time::Instant;

use crate::chance::Chance;
use crate::gate::{Call, FAILURES, Failure, System, Verdict};

/// What strikes the calls of the broker.
#[derive(Clone, Debug)]
pub enum Faults {
    /// Nothing.
    None,
    /// One call fares so: the nth that changes something, or the nth of all.
    One { writes: bool, nth: u64, verdict: Verdict },
    /// The process dies over the nth call that changes something, and that call has its effect only when its successor
    /// has changed so many things.
    Outlived { nth: u64, by: u64 },
    /// Whatever comes by chance, for some time.
    Storm(Storm),
}

/// How often what happens, of a thousand calls or turns.
#[derive(Clone, Debug)]
pub struct Storm {
    pub lasts: Duration,
    pub fail: u32,
    pub lose: u32,
    pub slow: u32,
    pub late: u32,
    pub die: u32,
    pub hold: u32,
    pub repeat_event: u32,
    pub close_watch: u32,
    pub expire_watch: u32,
    pub postgres_away: u32,
    pub jump: u32,
    pub delusion: u32,
    pub end_in_order: u32,
}

impl Storm {
    /// A storm that follows from a seed: some are of all kinds, some of one.
    pub fn of(chance: &mut Chance) -> Self {
        let mut rate = |most: usize| {
            u32::try_from(if chance.permille(400) {
                0
            } else {
                chance.below(most) + 1
            })
            .unwrap()
        };
        Self {
            lasts: Duration::from_secs(120),
            fail: rate(60),
            lose: rate(40),
            slow: rate(60),
            late: rate(15),
            die: rate(8),
            hold: rate(60),
            repeat_event: rate(60),
            close_watch: rate(6),
            expire_watch: rate(3),
            postgres_away: rate(3),
            jump: rate(2),
            delusion: rate(3),
            end_in_order: rate(2),
        }
    }
}

/// Where a run is in its faults.
pub struct Striking {
    pub faults: Faults,
    /// Calls that count, so far.
    pub writes: u64,
    pub calls: u64,
    /// When a sweep was looked at last, by how much had been written then.
    swept: u64,
    /// When a process died over a call of ElastiCache that is still to come.
    hanging: Option<Instant>,
}

/// How late a call of ElastiCache may come: as long as the SDK may try.
const LATEST: Duration = Duration::from_secs(45);

impl Striking {
    pub fn new(faults: Faults) -> Self {
        Self {
            faults,
            writes: 0,
            calls: 0,
            swept: u64::MAX,
            hanging: None,
        }
    }

    /// What becomes of a call of the broker, or of one to it.
    pub fn verdict(&mut self, call: &Call, written: u64, chance: &mut Chance, storms: bool) -> Verdict {
        // A sweep finds something only if something was written since the last one.
        let counts = !call.quiet || (call.system == System::Postgres && call.writes && self.swept != written);
        if call.quiet && call.system == System::Postgres {
            self.swept = written;
        }
        if counts {
            self.calls += 1;
            self.writes += u64::from(call.writes);
        }
        match &self.faults {
            Faults::None => Verdict::Go,
            Faults::One { writes, nth, verdict } => {
                let at = if *writes {
                    call.writes && self.writes == *nth
                } else {
                    self.calls == *nth
                };
                if counts && at { *verdict } else { Verdict::Go }
            }
            Faults::Outlived { nth, .. } => {
                if counts && call.writes && self.writes == *nth {
                    self.hanging = (call.system == System::ElastiCache).then(Instant::now);
                    Verdict::Outlive
                } else {
                    Verdict::Go
                }
            }
            Faults::Storm(_) if !storms => Verdict::Go,
            Faults::Storm(storm) => {
                if chance.permille(storm.fail) {
                    Verdict::Fail(FAILURES[chance.below(FAILURES.len())])
                } else if call.writes && chance.permille(storm.lose) {
                    Verdict::Lose
                } else if chance.permille(storm.slow) {
                    Verdict::Slow(Duration::from_millis(250 << chance.below(6)))
                } else if call.writes && chance.permille(storm.late) {
                    Verdict::Late
                } else if call.writes && call.system != System::Facade && chance.permille(storm.die) {
                    [Verdict::Die, Verdict::DieBefore][chance.below(2)]
                } else {
                    Verdict::Go
                }
            }
        }
    }
}

impl Striking {
    /// Whether a call that is late may have its effect now.
    pub fn lands(&self) -> bool {
        match &self.faults {
            Faults::Outlived { nth, by } => {
                self.writes >= nth + by || self.hanging.is_some_and(|since| since.elapsed() >= LATEST)
            }
            _ => true,
        }
    }
}

/// A verdict's name in counts.
pub fn name(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Go => None,
        Verdict::Lose => Some("answer lost"),
        Verdict::Slow(_) => Some("answer late"),
        Verdict::DieBefore => Some("crash before a call"),
        Verdict::Die => Some("crash after a call"),
        Verdict::Late => Some("late call"),
        Verdict::Outlive => Some("late call of a dead process"),
        Verdict::Fail(Failure::Broken) => Some("connection refused"),
        Verdict::Fail(Failure::Throttled) => Some("throttled"),
        Verdict::Fail(Failure::Internal) => Some("500"),
        Verdict::Fail(Failure::Unavailable) => Some("503"),
        Verdict::Fail(Failure::Silence) => Some("no answer"),
    }
}
