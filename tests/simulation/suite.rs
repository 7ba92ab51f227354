//! The runs that are done, and what is told of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::faults::{Faults, Storm};
use crate::gate::{FAILURES, Verdict};
use crate::idle::{self, Idle};
use crate::postgres::Database;
use crate::run::{Plan, Report, run};
use crate::scenarios::{ALL, Scenario};

/// How many threads do runs.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}

/// A thread's runtime and database.
struct Rig {
    // Given up before the runtime, which else would wait for it.
    _clock: std::sync::mpsc::Sender<()>,
    runtime: tokio::runtime::Runtime,
    idle: Arc<Idle>,
    database: Arc<Database>,
}

impl Rig {
    fn new() -> Self {
        let (clock, runtime, idle) = idle::runtime();
        idle.begin();
        let database = Arc::new(runtime.block_on(Database::new()));
        idle.end();
        Self {
            _clock: clock,
            runtime,
            idle,
            database,
        }
    }

    fn run(&self, plan: Plan) -> Report {
        self.runtime.block_on(run(&self.idle, &self.database, plan))
    }
}

/// What was done, and found.
#[derive(Default)]
struct Told {
    runs: u64,
    calls: u64,
    turns: u64,
    checks: u64,
    faults: BTreeMap<String, u64>,
    failures: Vec<String>,
}

impl Told {
    fn add(&mut self, name: &str, report: &Report, wrong: Vec<String>) {
        self.runs += 1;
        self.calls += report.counts.calls;
        self.turns += report.turns;
        self.checks += report.checks + 12;
        for (fault, times) in &report.counts.faults {
            *self.faults.entry(fault.clone()).or_default() += times;
        }
        if std::env::var_os("SIMULATION_VERBOSE").is_some() {
            eprintln!("{name}: {} turns, {} writes, {wrong:?}", report.turns, report.writes);
        }
        if !wrong.is_empty() {
            let last = report.trace.len().saturating_sub(120);
            self.failures.push(format!(
                "{name}:\n  {}\n  what happened last:\n    {}",
                wrong.join("\n  "),
                report.trace[last..].join("\n    ")
            ));
        }
    }

    fn tell(&self, what: &str, began: Instant) {
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        println!(
            "{what}: {} runs, {} calls, {} turns, {} faults ({}), {} checks, {} failed, {:.0} s",
            self.runs,
            self.calls,
            self.turns,
            self.faults.values().sum::<u64>(),
            faults.join(", "),
            self.checks,
            self.failures.len(),
            began.elapsed().as_secs_f64()
        );
    }
}

/// Does jobs on all threads until they are done or time is up. Returns what was done.
fn on_all_threads<J: Sync>(jobs: &[J], limit: Option<Duration>, each: impl Fn(&Rig, &J, &Mutex<Told>) + Sync) -> Told {
    let (told, next, began) = (Mutex::new(Told::default()), AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(jobs.len()) {
            scope.spawn(|| {
                let rig = Rig::new();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if limit.is_some_and(|limit| began.elapsed() > limit) || told.lock().unwrap().failures.len() > 8 {
                        break;
                    }
                    each(&rig, job, &told);
                }
            });
        }
    });
    told.into_inner().unwrap()
}

fn plain(scenario: &Scenario, faults: Faults, processes: usize) -> Plan {
    Plan {
        seed: 1,
        processes,
        faults,
        shuffled: false,
        plans: scenario.plans.to_vec(),
        before: scenario.before,
        operation: Box::new(scenario.operation),
    }
}

/// What is wrong with a run, beside an undisturbed one.
fn compare(report: &Report, undisturbed: &Report) -> Vec<String> {
    let mut wrong = report.wrong.clone();
    if report.ends != undisturbed.ends {
        wrong.push(format!(
            "it ended as {:?} instead of {:?}",
            report.ends, undisturbed.ends
        ));
    }
    wrong.extend(undisturbed.ending.difference(&report.ending));
    wrong
}

fn chosen() -> Vec<&'static Scenario> {
    let only = std::env::var("SIMULATION_ONLY").unwrap_or_default();
    ALL.iter().filter(|scenario| scenario.name.contains(&only)).collect()
}

fn judge(what: &str, told: &Told, began: Instant) {
    told.tell(what, began);
    assert!(told.failures.is_empty(), "{}", told.failures.join("\n\n"));
}

/// A run without faults does what is asked for, and two of them are the same to the last call.
#[test]
fn undisturbed_operations_end_well_and_runs_repeat_exactly() {
    let began = Instant::now();
    let told = on_all_threads(&chosen(), None, |rig, scenario, told| {
        let report = rig.run(plain(scenario, Faults::None, 1));
        let again = rig.run(plain(scenario, Faults::None, 1));
        let mut wrong = report.wrong.clone();
        if report.trace != again.trace {
            let at = report
                .trace
                .iter()
                .zip(&again.trace)
                .position(|(one, other)| one != other);
            let of = |report: &Report| at.and_then(|at| report.trace.get(at)).cloned().unwrap_or_default();
            wrong.push(format!("not the same again: {} and then {}", of(&report), of(&again)));
        }
        told.lock().unwrap().add(scenario.name, &report, wrong);
    });
    judge("undisturbed", &told, began);
}

/// A process dies after each call that changes something, or the answer of it is lost.
#[test]
fn a_crash_or_a_lost_answer_at_every_call_that_changes_something() {
    let began = Instant::now();
    let every = number("SIMULATION_EVERY").unwrap_or(1);
    let limit = Duration::from_secs(number("SIMULATION_SECONDS").unwrap_or(100));
    let told = on_all_threads(&chosen(), Some(limit), |rig, scenario, told| {
        let undisturbed = rig.run(plain(scenario, Faults::None, 1));
        for nth in 1..=undisturbed.writes {
            for verdict in [Verdict::Die, Verdict::Lose] {
                if nth % every != 0 || began.elapsed() > limit {
                    continue;
                }
                let fault = Faults::One {
                    writes: true,
                    nth,
                    verdict,
                };
                let report = rig.run(plain(scenario, fault, 1));
                let name = format!(
                    "{}, {verdict:?} at change {nth} of {}",
                    scenario.name, undisturbed.writes
                );
                let wrong = compare(&report, &undisturbed);
                told.lock().unwrap().add(&name, &report, wrong);
            }
        }
    });
    judge("crashes and lost answers, one by one", &told, began);
}
