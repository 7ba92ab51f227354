//! The runs that are done, and what is told of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::faults::{Faults, Storm};
use crate::gate::{FAILURES, Verdict};
use crate::idle::{self, Idle};
use crate::mixture::Mixture;
use crate::platform::End;
use crate::postgres::Database;
use crate::run::{Plan, Report, run};
use crate::scenarios::{ALL, IDLE, Scenario};
use crate::truth::{Happened, Truth};

/// What became of the scenarios when nothing befell them, by name: all tests compare with the same runs.
static UNDISTURBED: Mutex<BTreeMap<&str, Arc<Report>>> = Mutex::new(BTreeMap::new());

/// How late an answer comes of which one of the calls of an operation is made.
const SLOW: Duration = Duration::from_secs(7);
/// Longer than Postgres may take for a statement, and the ledger for a call.
const HELD_UP: Duration = Duration::from_secs(14);
/// How many threads do runs.
const THREADS: usize = 2;
/// The mixtures that are among the tests, those that take least first.
const MIXTURES: [u64; 10] = [41, 120, 1, 2, 3, 4, 5, 6, 7, 8];
/// One of how many mixtures is run twice and compared.
const TWICE: u64 = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}

/// A thread's runtime and database.
pub struct Rig {
    // Given up before the runtime, which else would wait for it.
    _clock: std::sync::mpsc::Sender<()>,
    runtime: tokio::runtime::Runtime,
    idle: Arc<Idle>,
    database: Arc<Database>,
}

impl Rig {
    pub fn new() -> Self {
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

    pub fn run(&self, plan: Plan) -> Report {
        self.runtime.block_on(run(&self.idle, &self.database, plan))
    }

    /// A scenario's run in which nothing befalls it: the first one's report.
    fn undisturbed(&self, scenario: &Scenario) -> Arc<Report> {
        let known = UNDISTURBED.lock().unwrap().get(scenario.name).cloned();
        known.unwrap_or_else(|| {
            let report = Arc::new(self.run(Plan {
                recorded: true,
                ..plain(scenario, Faults::None, 1)
            }));
            UNDISTURBED.lock().unwrap().insert(scenario.name, report.clone());
            report
        })
    }
}

/// What was done, and found.
#[derive(Default)]
struct Told {
    runs: u64,
    calls: u64,
    turns: u64,
    checks: u64,
    /// How many were run twice and compared.
    repeated: u64,
    faults: BTreeMap<String, u64>,
    failures: Vec<String>,
}

impl Told {
    /// Whether to go no further: time is up, though something is always done, or too much has failed.
    fn is_enough(&self, began: Instant, limit: Option<Duration>) -> bool {
        let late = limit.is_some_and(|limit| began.elapsed() > limit);
        (late && self.runs > 0) || self.failures.len() > 8
    }

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
            self.failures.push(format!(
                "{name}:\n  {}\n  {}",
                wrong.join("\n  "),
                told_of(name, &report.trace)
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

/// Where the whole trace of a run was written to, or its end.
fn told_of(name: &str, trace: &[String]) -> String {
    let short = name.split(" (").next().unwrap_or_default();
    let file: String = short
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{file}.log"));
    match std::fs::write(&path, trace.join("\n")) {
        Ok(()) => format!("what happened is in {}", path.display()),
        Err(_) => format!(
            "what happened last:\n    {}",
            trace[trace.len().saturating_sub(120)..].join("\n    ")
        ),
    }
}

/// Tests take turns: each has all threads, and its time to itself.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does jobs on all threads until they are done or time is up. Returns what was done.
fn on_all_threads<J: Sync>(jobs: &[J], limit: Option<Duration>, each: impl Fn(&Rig, &J, &Mutex<Told>) + Sync) -> Told {
    let (told, next, began) = (Mutex::new(Told::default()), AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(jobs.len()) {
            scope.spawn(|| {
                let rig = Rig::new();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if told.lock().unwrap().is_enough(began, limit) {
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
        recorded: false,
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

/// The scenarios that are run: all, those whose name has something in it, or every so many-th of those.
fn chosen() -> Vec<&'static Scenario> {
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    let (only, part) = (text("SIMULATION_ONLY"), text("SIMULATION_PART"));
    let named = ALL.iter().filter(|scenario| scenario.name.contains(&only));
    let Some((nth, of)) = part.split_once('/') else {
        return named.collect();
    };
    let (nth, of): (usize, usize) = (nth.parse().unwrap(), of.parse().unwrap());
    named.skip(nth - 1).step_by(of).collect()
}

fn judge(what: &str, told: &Told, began: Instant) {
    told.tell(what, began);
    assert!(told.failures.is_empty(), "{}", told.failures.join("\n\n"));
}

/// A run without faults does what is asked for, and two of them are the same to the last call.
#[test]
fn undisturbed_operations_end_well_and_runs_repeat_exactly() {
    let (_alone, began) = (alone(), Instant::now());
    let told = on_all_threads(&chosen(), None, |rig, scenario, told| {
        let report = rig.undisturbed(scenario);
        let again = rig.run(plain(scenario, Faults::None, 1));
        let mut wrong = report.wrong.clone();
        wrong.extend(otherwise(&report, &again));
        told.lock().unwrap().add(scenario.name, &report, wrong);
    });
    judge("undisturbed", &told, began);
}

/// The requests of operations are answered by a real API server as they were in memory: of so many operations that every kind
/// of request is among them, or, in `make simulate`, of all.
#[test]
fn the_real_api_server_answers_the_same() {
    let (_alone, began) = (alone(), Instant::now());
    let recorded = Mutex::new(Vec::new());
    let told = on_all_threads(&chosen(), None, |rig, scenario, told| {
        let report = rig.undisturbed(scenario);
        told.lock().unwrap().add(scenario.name, &report, report.wrong.clone());
        recorded.lock().unwrap().push((scenario.name, report.happened.clone()));
    });
    judge("undisturbed, to be compared", &told, began);
    let all = number("SIMULATION_SEEDS").is_some();
    let replayed = async {
        let truth = Truth::start().await;
        let (mut shapes, mut operations, mut answers, mut wrong) = (BTreeSet::new(), 0, 0, Vec::new());
        let mut left = recorded.into_inner().unwrap();
        let fresh = |happened: &[Happened], shapes: &BTreeSet<String>| {
            let asked: BTreeSet<_> = happened.iter().filter_map(Happened::shape).collect();
            asked.difference(shapes).count()
        };
        // The one with most that is new comes next.
        while let Some(at) = (0..left.len()).max_by_key(|at| (fresh(&left[*at].1, &shapes), Reverse(left[*at].0))) {
            let (name, happened) = left.swap_remove(at);
            if !all && fresh(&happened, &shapes) == 0 {
                break;
            }
            operations += 1;
            shapes.extend(happened.iter().filter_map(Happened::shape));
            let (compared, disagreements) = truth.replay(&happened).await;
            answers += compared;
            wrong.extend(disagreements.into_iter().map(|wrong| format!("{name}: {wrong}")));
        }
        truth.stop().await;
        println!(
            "truth: {answers} answers to {} kinds of requests of {operations} operations, {:.0} s",
            shapes.len(),
            began.elapsed().as_secs_f64()
        );
        wrong
    };
    let wrong = tokio::runtime::Runtime::new().unwrap().block_on(replayed);
    let first = wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} answers disagree:\n{first}", wrong.len());
}

/// Nothing ends because the machine is slow: the time of a run is its own.
#[test]
#[ignore = "it waits longer than a call of the ledger may take"]
fn a_slow_postgres_changes_nothing() {
    let _alone = alone();
    let (rig, scenario) = (Rig::new(), &ALL[0]);
    let undisturbed = rig.undisturbed(scenario);
    let (database, began) = (rig.database.clone(), Instant::now());
    let slow = rig.run(Plan {
        operation: Box::new(move |platform| {
            database.hold_up(HELD_UP);
            (scenario.operation)(platform)
        }),
        ..plain(scenario, Faults::None, 1)
    });
    assert!(began.elapsed() > HELD_UP);
    assert_eq!(otherwise(&undisturbed, &slow), Vec::<String>::new());
}

#[test]
fn ten_idle_minutes_cost_no_write_and_one_resync_at_most() {
    let _alone = alone();
    let report = Rig::new().run(plain(&IDLE, Faults::None, 1));
    assert_eq!(report.wrong, Vec::<String>::new());
    assert_eq!(report.ends, [End::Succeeded]);
}

/// How many of the places where a fault may strike are tried in the tests; `make simulate` tries all.
fn every(usual: u64) -> u64 {
    number("SIMULATION_EVERY").unwrap_or(usual).max(1)
}

/// How long a test goes on.
fn limit() -> Duration {
    Duration::from_secs(number("SIMULATION_SECONDS").unwrap_or(30))
}

/// Every so many-th of an operation's calls; of each operation others.
fn points(operation: u64, calls: u64, every: u64) -> impl Iterator<Item = u64> {
    (1..=calls).filter(move |at| at % every == operation % every)
}

fn by_turns<T: Copy>(nth: u64, ways: &[T]) -> T {
    ways[usize::try_from(nth).unwrap() % ways.len()]
}

/// The calls of an operation that are struck, and how: each in all ways if all are, else by turns.
fn struck<T: Copy>(operation: u64, calls: u64, every: u64, ways: &[T]) -> Vec<(u64, T)> {
    let points = points(operation, calls, every);
    if every == 1 {
        return points.flat_map(|at| ways.iter().map(move |way| (at, *way))).collect();
    }
    points.map(|at| (at, by_turns(at / every + operation, ways))).collect()
}

/// Runs each operation once for each fault that is made of the number of calls it takes: the first of each operation, then
/// the second of each, so that what there is no time for is of all of them.
fn one_by_one(what: &str, faults: impl Fn(u64, &Report) -> Vec<(String, Faults)> + Sync) {
    let (_alone, chosen) = (alone(), chosen());
    on_all_threads(&chosen, None, |rig, scenario, _| drop(rig.undisturbed(scenario)));
    let mut struck = Vec::new();
    for (nth, scenario) in (0..).zip(&chosen) {
        let undisturbed = UNDISTURBED.lock().unwrap()[scenario.name].clone();
        let faults = (0_u64..).zip(faults(nth, &undisturbed));
        struck.extend(faults.map(|(round, (name, fault))| (round, scenario, undisturbed.clone(), name, fault)));
    }
    struck.sort_by_key(|struck| struck.0);
    let began = Instant::now();
    let told = on_all_threads(
        &struck,
        Some(limit()),
        |rig, (_, scenario, undisturbed, name, fault), told| {
            let report = rig.run(plain(scenario, fault.clone(), 1));
            let wrong = compare(&report, undisturbed);
            let name = format!("{}, {name}", scenario.name);
            told.lock().unwrap().add(&name, &report, wrong);
        },
    );
    judge(what, &told, began);
    println!(
        "{what}: {} of {} runs, of {} operations",
        told.runs,
        struck.len(),
        chosen.len()
    );
}

/// A process dies before or after a call that changes something, or the answer to it is lost.
#[test]
fn a_crash_or_a_lost_answer_at_calls_that_change_something() {
    one_by_one("crashes and lost answers, one by one", |nth, undisturbed| {
        let ways = [Verdict::DieBefore, Verdict::Die, Verdict::Lose];
        let struck = struck(nth, undisturbed.writes, every(19), &ways).into_iter();
        let faults = struck.map(|(nth, verdict)| {
            let fault = Faults::One {
                writes: true,
                nth,
                verdict,
            };
            (format!("{verdict:?} at change {nth} of {}", undisturbed.writes), fault)
        });
        faults.collect()
    });
}

/// A call fails without an effect, or its process dies over it, or its answer is old when it comes: each by turns.
#[test]
fn a_failure_of_calls_of_any_kind() {
    one_by_one("failures, one by one", |nth, undisturbed| {
        let ways = FAILURES.map(Verdict::Fail).into_iter();
        let ways: Vec<_> = ways.chain([Verdict::Slow(SLOW), Verdict::Die]).collect();
        let every = every(61);
        let at = points(nth, undisturbed.calls, every);
        let faults = at.map(|at| {
            let verdict = by_turns(at / every + nth, &ways);
            let fault = Faults::One {
                writes: false,
                nth: at,
                verdict,
            };
            (format!("{verdict:?} at call {at} of {}", undisturbed.calls), fault)
        });
        faults.collect()
    });
}

/// The last call of a leader that died comes when the next one has gone on.
#[test]
fn a_late_call_of_a_former_leader() {
    one_by_one("late calls of former leaders, one by one", |nth, undisturbed| {
        let struck = struck(nth, undisturbed.writes, every(23), &[1, 4, 12]).into_iter();
        let faults = struck.map(|(nth, by)| {
            let what = format!("change {nth} of {} comes {by} changes late", undisturbed.writes);
            (what, Faults::Outlived { nth, by })
        });
        faults.collect()
    });
}

/// Several platforms' orders and a storm that follow from a seed: all that is needed to run them again.
struct Stormy {
    seed: u64,
    mixture: Mixture,
    storm: Storm,
    processes: usize,
}

impl Stormy {
    fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            seed,
            mixture: Mixture::of(&mut chance, &mut Chance::new(!seed)),
            storm: Storm::of(&mut chance),
            processes: 1 + chance.below(2),
        }
    }

    fn plan(&self, faults: Faults, shuffled: bool, processes: usize) -> Plan {
        let mixture = self.mixture.clone();
        Plan {
            seed: self.seed,
            processes,
            faults,
            shuffled,
            plans: mixture.plans(),
            recorded: false,
            before: |_| Box::pin(async { Vec::new() }),
            operation: Box::new(move |platform| mixture.operate(platform)),
        }
    }

    /// The orders when nothing befalls them.
    fn undisturbed(&self) -> Plan {
        self.plan(Faults::None, false, 1)
    }

    /// The orders under whatever comes.
    fn disturbed(&self) -> Plan {
        self.plan(Faults::Storm(self.storm.clone()), true, self.processes)
    }
}

/// The seeds that are run, and whether each is run twice and compared.
fn seeds() -> Vec<(u64, bool)> {
    let first = number("SIMULATION_FIRST").unwrap_or(1);
    let seeds = match (number("SIMULATION_SEED"), number("SIMULATION_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(seeds)) => (first..first + seeds).collect(),
        (None, None) => MIXTURES.to_vec(),
    };
    let twice = number("SIMULATION_TWICE").unwrap_or(TWICE);
    let seeds = (0..).zip(seeds);
    seeds.map(|(nth, seed)| (seed, twice > 0 && nth % twice == 0)).collect()
}

/// Orders of all kinds at one time, and faults of all kinds. Some seeds are run a second time, which must be the same to the
/// last call.
#[test]
fn mixtures_under_whatever_comes() {
    let (_alone, began) = (alone(), Instant::now());
    let limited = number("SIMULATION_SEEDS").or(number("SIMULATION_SEED")).is_none();
    let seeds = seeds();
    let told = on_all_threads(&seeds, limited.then(limit), |rig, (seed, twice), told| {
        let stormy = Stormy::of(*seed);
        let undisturbed = rig.run(stormy.undisturbed());
        let report = rig.run(stormy.disturbed());
        let mut wrong = compare(&report, &undisturbed);
        if *twice {
            wrong.extend(otherwise(&report, &rig.run(stormy.disturbed())));
        }
        let mut told = told.lock().unwrap();
        told.repeated += u64::from(*twice);
        told.add(&format!("seed {seed} (make simulate SEED={seed})"), &report, wrong);
    });
    judge("mixtures", &told, began);
    println!(
        "mixtures: seeds {}; {} of them run twice and compared to the last call",
        listed(&seeds),
        told.repeated
    );
}

/// Seeds in words.
fn listed(seeds: &[(u64, bool)]) -> String {
    let seeds: Vec<_> = seeds.iter().map(|(seed, _)| *seed).collect();
    match (seeds.first(), seeds.last()) {
        (Some(first), Some(last)) if seeds.iter().copied().eq(*first..=*last) => format!("{first} to {last}"),
        _ => seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// In what a second run of the same was not the same.
fn otherwise(one: &Report, again: &Report) -> Vec<String> {
    let mut wrong: Vec<_> = parting(&one.trace, &again.trace).into_iter().collect();
    if wrong.is_empty() && (&one.ends, &one.counts, one.turns) != (&again.ends, &again.counts, again.turns) {
        wrong.push(format!(
            "again it was {:?} in {} turns instead of {:?} in {}",
            again.counts, again.turns, one.counts, one.turns
        ));
    }
    wrong.extend(one.ending.difference(&again.ending));
    wrong
}

/// Where two traces part, with what comes before.
fn parting(one: &[String], other: &[String]) -> Option<String> {
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    let at = at.or((one.len() != other.len()).then_some(one.len().min(other.len())))?;
    let of = |trace: &[String]| trace.get(at).cloned().unwrap_or_else(|| "the end".to_owned());
    let before = &one[at.saturating_sub(12)..at];
    Some(format!(
        "not the same again at line {at}:\n    {}\n  {}\n  and then\n  {}",
        before.join("\n    "),
        of(one),
        of(other)
    ))
}

/// What was changed into something is as what was made so.
#[test]
fn what_is_changed_is_as_what_is_made() {
    let pairs: &[(&str, &str)] = &[
        ("update to more nodes in the cluster", "memcached-two"),
        ("update in the cluster", "memcached-large"),
        ("update with a volume", "redis-kept-large"),
        ("update in place on ElastiCache", "aws-redis-large"),
        ("update to replicas on ElastiCache", "aws-redis-replicas"),
        ("update to more nodes on ElastiCache", "aws-memcached-two"),
    ];
    let (_alone, began) = (alone(), Instant::now());
    let told = on_all_threads(pairs, None, |rig, (name, plan), told| {
        let scenario = ALL.iter().find(|scenario| scenario.name == *name).unwrap();
        let changed = rig.undisturbed(scenario);
        let plan = *plan;
        let made = rig.run(Plan {
            operation: Box::new(move |platform| {
                Box::pin(async move { vec![platform.provision("one", plan, &serde_json::json!({})).await] })
            }),
            before: |_| Box::pin(async { Vec::new() }),
            ..plain(scenario, Faults::None, 1)
        });
        let compared = [
            "deployments",
            "services",
            "secrets",
            "networkpolicies",
            "poddisruptionbudgets",
            "Describe",
        ];
        let wrong = made.ending.only(&compared).difference(&changed.ending.only(&compared));
        told.lock().unwrap().add(name, &changed, wrong);
    });
    judge("changed and made", &told, began);
}
