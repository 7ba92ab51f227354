//! One run: processes of the broker in a world, one thing at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache_broker::ambient;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::caches;
use crate::chance::Chance;
use crate::faults::{self, Faults, Striking};
use crate::gate::{Call, System, Verdict};
use crate::idle::Idle;
use crate::oracles::{self, Ending};
use crate::plans;
use crate::platform::{End, Platform};
use crate::postgres::Database;
use crate::process::Process;
use crate::scenarios::Doing;
use crate::truth::Happened;
use crate::watchman::Watchman;
use crate::world::{Counts, Late, OUTSIDE, OpenWatch, Surroundings, World, is_postgres};
use sandbox::in_memory_kubernetes::{ApiServer, Work};

/// How long nothing may be written until a run counts as at rest.
const REST: Duration = Duration::from_secs(75);
/// How long before an operation begins.
const SHORT_REST: Duration = Duration::from_secs(15);
/// How long a run may take from the end of its faults until it is at rest.
const BOUND: Duration = Duration::from_secs(8 * 3600);
/// How long nothing is written until a call that is late has its effect anyway.
const OVERDUE: Duration = Duration::from_secs(60);
/// How many turns a run may take.
const TURNS: u64 = 400_000;
/// How many turns may be taken while time stands still.
const TURNS_AT_ONCE: u64 = 20_000;
/// The least and the most that time goes on at once.
const LEAST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_secs(1);
/// How often watches are told how far they are, as the API server does it.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// What a run is.
pub struct Plan {
    pub seed: u64,
    /// How many processes there are at a time.
    pub processes: usize,
    pub faults: Faults,
    /// Whether calls are taken as chance has it, or first come first served.
    pub shuffled: bool,
    /// The plans that are offered.
    pub plans: Vec<&'static str>,
    /// Whether what happens to the API server is kept.
    pub recorded: bool,
    pub before: fn(Platform) -> Doing,
    pub operation: Box<dyn FnOnce(Platform) -> Doing + Send>,
}

/// What became of a run.
pub struct Report {
    pub ends: Vec<End>,
    pub ending: Ending,
    pub counts: Counts,
    pub wrong: Vec<String>,
    pub trace: Vec<String>,
    pub happened: Vec<Happened>,
    /// How many calls faults could have struck: those that change something, and all.
    pub writes: u64,
    pub calls: u64,
    pub turns: u64,
    pub checks: u64,
}

/// Something that may happen next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Event(usize, String, u64),
    Ticket(usize, Call, u64),
    Work(Work),
    Late(usize),
}

struct Run {
    world: Arc<World>,
    database: Arc<Database>,
    chance: Chance,
    striking: Striking,
    shuffled: bool,
    processes: Vec<Process>,
    started: usize,
    wanted: usize,
    step: Duration,
    turns: u64,
    /// How many of them since time went on.
    at_once: u64,
    storm_ends: Option<Instant>,
    watchman: Watchman,
    /// What the cluster has to do, at which revision of its objects.
    work: (usize, Vec<Work>),
    /// What time Postgres was told last.
    told: Option<Timestamp>,
    /// When watches were told last how far they are.
    bookmarked: Instant,
}

/// Does a run.
pub async fn run(idle: &Arc<Idle>, database: &Arc<Database>, plan: Plan) -> Report {
    idle.begin();
    database.reset().await;
    idle.end();
    let world = World::new(idle.clone(), database.ledger.clone());
    ambient::replace(Some(Box::new(Surroundings(world.clone()))));
    fastrand::seed(plan.seed);
    let mut run = Run {
        world: world.clone(),
        database: database.clone(),
        chance: Chance::new(plan.seed),
        striking: Striking::new(plan.faults),
        shuffled: plan.shuffled,
        processes: Vec::new(),
        started: OUTSIDE,
        wanted: plan.processes,
        step: LEAST,
        turns: 0,
        at_once: 0,
        storm_ends: None,
        watchman: Watchman::default(),
        work: (0, Vec::new()),
        told: None,
        bookmarked: Instant::now(),
    };
    world.state().happened = plan.recorded.then(Vec::new);
    let platform = Platform { world: world.clone() };
    for (name, spec) in plans::all() {
        if plan.plans.contains(&name) {
            platform.apply_plan(name, &spec);
        }
    }
    let before = tokio::spawn((plan.before)(platform.clone()));
    drop(run.until_done(before).await);
    run.rest("before the operation", SHORT_REST).await;
    run.expose(true);
    let operation = tokio::spawn((plan.operation)(platform.clone()));
    let mut ends = run.until_done(operation).await;
    // What was struck last has to be mended still.
    run.rest("after the operation", REST).await;
    run.expose(false);
    ends.sort();
    oracles::rested(&world);
    let ending = oracles::ending(&world, database, idle).await;
    run.end().await;
    ambient::replace(None);
    let mut state = world.state();
    Report {
        ends,
        ending,
        counts: state.counts.clone(),
        wrong: std::mem::take(&mut state.wrong),
        trace: std::mem::take(&mut state.trace),
        happened: state.happened.take().unwrap_or_default(),
        writes: run.striking.writes,
        calls: run.striking.calls,
        turns: run.turns,
        checks: run.watchman.checks,
    }
}

impl Run {
    fn expose(&mut self, exposed: bool) {
        self.world.state().exposed = exposed;
        if let Faults::Storm(storm) = &self.striking.faults {
            self.storm_ends = Some(Instant::now() + storm.lasts);
        }
    }

    fn storms(&self) -> bool {
        self.storm_ends.is_some_and(|ends| Instant::now() < ends) && self.world.state().exposed
    }

    /// Goes on until something is done.
    async fn until_done(&mut self, doing: JoinHandle<Vec<End>>) -> Vec<End> {
        while !doing.is_finished() && !self.hopeless() {
            self.turn().await;
        }
        if !doing.is_finished() {
            doing.abort();
        }
        match doing.await {
            Ok(ends) => ends,
            Err(error) => {
                self.world.accuse(format!("what was asked for was not done: {error}"));
                Vec::new()
            }
        }
    }

    fn hopeless(&self) -> bool {
        self.turns >= TURNS || self.at_once >= TURNS_AT_ONCE || self.world.state().wrong.len() > 20
    }

    /// Goes on until nothing was written for a while.
    async fn rest(&mut self, when: &str, long: Duration) {
        let began = Instant::now();
        loop {
            let last = self.world.state().last_write;
            let busy = self.storms() || !self.world.state().late.is_empty();
            if last.max(began).elapsed() >= long && !busy {
                return;
            }
            if began.elapsed() > BOUND || self.hopeless() {
                self.world.accuse(format!(
                    "no rest {when} after {:?}, {} turns",
                    began.elapsed(),
                    self.turns
                ));
                return;
            }
            self.turn().await;
        }
    }

    /// Lets one thing happen.
    async fn turn(&mut self) {
        self.world.idle.wait().await;
        self.turns += 1;
        self.at_once += 1;
        if self.at_once == TURNS_AT_ONCE {
            self.world.accuse("something is done over and over at one moment");
        }
        self.bury().await;
        while self.processes.len() - self.world.state().outlived.len() < self.wanted {
            self.started += 1;
            self.note(format!("process {} starts", self.started));
            self.processes.push(Process::start(&self.world, self.started));
            self.world.idle.wait().await;
        }
        if self.storms() {
            self.disturb().await;
        }
        let turns = self.possible();
        let patient = self.shuffled && self.chance.permille(30);
        if turns.is_empty() || patient {
            self.let_time_pass().await;
            return;
        }
        let chosen = if self.shuffled {
            self.chance.below(turns.len())
        } else {
            0
        };
        let turn = turns[chosen].clone();
        if !matches!(&turn, Turn::Ticket(_, call, _) if call.quiet) {
            self.step = LEAST;
        }
        self.take(turn).await;
        self.watchman.look(&self.world);
    }

    /// Ends the processes that are to die.
    async fn bury(&mut self) {
        let dying: Vec<_> = self.world.state().dying.iter().copied().collect();
        for number in dying {
            self.note(format!("process {number} dies"));
            if let Some(at) = self.processes.iter().position(|process| process.number == number) {
                self.processes.remove(at).kill(&self.world).await;
            }
            self.world.state().dying.remove(&number);
        }
        let ended = self.processes.iter_mut().position(Process::ended);
        if let Some(at) = ended {
            let process = self.processes.remove(at);
            self.note(format!("process {} ended by itself", process.number));
            process.kill(&self.world).await;
        }
    }

    async fn end(&mut self) {
        for process in std::mem::take(&mut self.processes) {
            process.kill(&self.world).await;
        }
        let mut state = self.world.state();
        state.tickets.clear();
        state.watches.clear();
    }

    /// What may happen next, in an order that is the same in each run.
    fn possible(&mut self) -> Vec<Turn> {
        let now = Instant::now();
        let (storms, hold) = match &self.striking.faults {
            Faults::Storm(storm) if self.storms() => (true, storm.hold),
            _ => (false, 0),
        };
        let mut state = self.world.state();
        state.tickets.retain(|ticket| !ticket.answer.is_closed());
        state.watches.retain(|watch| !watch.lines.is_closed());
        state
            .tickets
            .sort_by(|one, other| (one.process, &one.call, one.id).cmp(&(other.process, &other.call, other.id)));
        for ticket in &mut state.tickets {
            if ticket.batch.replace(ticket.batch.unwrap_or(self.turns)).is_none()
                && storms
                && self.chance.permille(hold)
            {
                let wait = Duration::from_millis(100 << self.chance.below(8));
                ticket.held_until = Some(now + wait);
            }
        }
        let free = |until: Option<Instant>| until.is_none_or(|until| until <= now);
        let mut turns = Vec::new();
        let state = &mut *state;
        let outlived = &state.outlived;
        let alive = |process: &usize| !outlived.contains(process);
        for watch in state
            .watches
            .iter_mut()
            .filter(|watch| free(watch.held_until) && alive(&watch.process))
        {
            if state.api.has_events(&mut watch.watch) || ApiServer::is_over(&watch.watch) {
                turns.push(Turn::Event(watch.process, watch.path.clone(), watch.id));
            }
        }
        turns.sort();
        let free = |ticket: &&crate::gate::Ticket| free(ticket.held_until) && alive(&ticket.process);
        let mut tickets: Vec<_> = state.tickets.iter().filter(free).collect();
        if !self.shuffled {
            // First come, first served; those that came together in the order of what they are.
            tickets.sort_by_key(|ticket| ticket.batch);
        }
        turns.extend(
            tickets
                .into_iter()
                .map(|ticket| Turn::Ticket(ticket.process, ticket.call.clone(), ticket.id)),
        );
        if self.work.0 != state.api.revision() {
            self.work = (state.api.revision(), state.api.work());
        }
        turns.extend(self.work.1.iter().cloned().map(Turn::Work));
        // Whoever is late comes at last also when nothing else happens.
        let due = self.striking.lands() || state.last_write.elapsed() > OVERDUE;
        if due && (self.shuffled || turns.is_empty() || matches!(self.striking.faults, Faults::Outlived { .. })) {
            turns.splice(0..0, (0..state.late.len()).map(Turn::Late));
        }
        turns
    }

    async fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Event(_, _, id) => self.deliver(id),
            Turn::Ticket(_, _, id) => self.grant(id).await,
            Turn::Work(work) => {
                let now = self.world.now();
                self.note(format!("cluster: {work:?}"));
                if let Work::End(pod) = &work {
                    caches::end(&self.world, pod);
                }
                {
                    let mut state = self.world.state();
                    state.api.perform(&work, now);
                    state.last_write = Instant::now();
                    let state = &mut *state;
                    if let Some(happened) = &mut state.happened {
                        let key = work.key().clone();
                        let stands = state.api.objects().any(|(found, _)| *found == key);
                        happened.push(Happened::Done {
                            work: work.clone(),
                            key,
                            stands,
                        });
                    }
                }
                if let Work::Start(pod) = &work {
                    caches::start(&self.world, pod);
                }
            }
            Turn::Late(at) => {
                let late = self.world.state().late.remove(at);
                match late {
                    Late::Kubernetes(request, sent) => {
                        self.note(format!("late: {} {}", request.method, request.path));
                        let made = |world: &World| world.state().api.made().clone();
                        let before = made(&self.world);
                        drop(self.world.kubernetes(&request));
                        let after = made(&self.world).into_iter();
                        let extra = after.filter(|(key, times)| {
                            let of = |made: &BTreeMap<_, u64>| made.get(key).copied().unwrap_or_default();
                            of(&sent) < of(&before) && of(&before) < *times
                        });
                        self.world.state().made_late.extend(extra.map(|(key, _)| key));
                    }
                    Late::ElastiCache(request) => {
                        self.note(format!("late: {} {:?}", request.operation, request.parameters));
                        drop(self.world.elasticache(&request));
                    }
                    Late::Cache(pod, words) => {
                        self.note(format!("late: {}", words[..words.len().min(3)].join(" ")));
                        drop(caches::obey(&self.world, &pod, &words));
                    }
                    Late::Postgres(attempt, come) => {
                        self.note(format!("late: {attempt}"));
                        self.set_clock().await;
                        if come.send(()).is_ok() {
                            self.world.state().strike("late call to Postgres came");
                        }
                        self.notify().await;
                    }
                }
            }
        }
    }

    fn deliver(&mut self, id: u64) {
        let repeats = match &self.striking.faults {
            Faults::Storm(storm) if self.storms() => self.chance.permille(storm.repeat_event),
            _ => false,
        };
        let mut state = self.world.state();
        let state = &mut *state;
        let Some(at) = state.watches.iter().position(|watch| watch.id == id) else {
            return;
        };
        let watch = &mut state.watches[at];
        match state.api.next_event(&mut watch.watch) {
            Some(event) => {
                let line = Bytes::from(format!("{event}\n"));
                if repeats {
                    drop(watch.lines.send(line.clone()));
                    state.counts.strike("event twice");
                }
                drop(watch.lines.send(line));
            }
            None => drop(state.watches.remove(at)),
        }
    }

    async fn grant(&mut self, id: u64) {
        let storms = self.storms();
        let (ticket, exposed, written) = {
            let mut state = self.world.state();
            let Some(at) = state.tickets.iter().position(|ticket| ticket.id == id) else {
                return;
            };
            (state.tickets.remove(at), state.exposed, state.writes)
        };
        let verdict = if exposed {
            self.striking.verdict(&ticket.call, written, &mut self.chance, storms)
        } else {
            Verdict::Go
        };
        if is_postgres(&ticket.call) && !matches!(verdict, Verdict::Fail(_)) {
            self.set_clock().await;
        }
        {
            let mut state = self.world.state();
            state.counts.calls += 1;
            if let Some(name) = faults::name(verdict) {
                state.strike(name);
            }
        }
        if !ticket.call.quiet || verdict != Verdict::Go {
            self.note(format!(
                "{} {} {}",
                ticket.process,
                ticket.call,
                faults::name(verdict).unwrap_or_default()
            ));
        }
        let wakes = ticket.call.system == System::Postgres && ticket.call.writes && !ticket.call.quiet;
        let _ = ticket.answer.send(verdict);
        if wakes {
            self.notify().await;
        }
    }

    /// Postgres tells of what was committed.
    async fn notify(&self) {
        self.world.idle.wait().await;
        let state = self.world.state();
        for notify in state.wakeups.values() {
            notify.notify_one();
        }
    }

    /// Tells Postgres the time, if it is another one.
    async fn set_clock(&mut self) {
        let now = self.world.now();
        if self.told != Some(now) {
            self.told = Some(now);
            self.world.idle.begin();
            self.database.set_clock(now).await;
            self.world.idle.end();
        }
    }

    async fn let_time_pass(&mut self) {
        let step = self.step;
        self.step = (self.step * 2).min(MOST);
        self.at_once = 0;
        tokio::time::advance(step).await;
        let now = self.world.now();
        self.world.state().elasticache.advance(now);
        self.keep_watches();
    }

    /// Ends the watches whose time is over, and tells the others now and then how far they are.
    fn keep_watches(&mut self) {
        let marks = self.bookmarked.elapsed() >= BOOKMARKS;
        if marks {
            self.bookmarked = Instant::now();
        }
        let mut state = self.world.state();
        let state = &mut *state;
        let over = |watch: &OpenWatch| watch.watch.lasts().is_some_and(|lasts| watch.opened.elapsed() >= lasts);
        state.watches.retain(|watch| !over(watch));
        if marks {
            for watch in &mut state.watches {
                if let Some(bookmark) = state.api.bookmark(&mut watch.watch) {
                    drop(watch.lines.send(Bytes::from(format!("{bookmark}\n"))));
                }
            }
        }
    }

    /// What may happen beside calls.
    async fn disturb(&mut self) {
        let Faults::Storm(storm) = self.striking.faults.clone() else {
            return;
        };
        let now = Instant::now();
        let chance = &mut self.chance;
        let mut told = Vec::new();
        {
            let mut state = self.world.state();
            if chance.permille(storm.close_watch) && !state.watches.is_empty() {
                state.watches.sort_by(|one, other| {
                    (one.process, &one.path, one.id).cmp(&(other.process, &other.path, other.id))
                });
                let at = chance.below(state.watches.len());
                let watch = state.watches.remove(at);
                state.strike("watch closed");
                told.push(format!("the watch of {} by {} is closed", watch.path, watch.process));
            }
            if chance.permille(storm.expire_watch) {
                state.api.forget_history();
                state.strike("history forgotten");
                told.push("the API server forgets its history".to_owned());
            }
            if chance.permille(storm.hold) && !state.watches.is_empty() {
                state.watches.sort_by(|one, other| {
                    (one.process, &one.path, one.id).cmp(&(other.process, &other.path, other.id))
                });
                let at = chance.below(state.watches.len());
                let wait = Duration::from_millis(100 << chance.below(9));
                state.watches[at].held_until = Some(now + wait);
                state.strike("watch late");
            }
            if chance.permille(storm.postgres_away) {
                let wait = Duration::from_secs(1 << chance.below(6));
                state.postgres_away = Some(now + wait);
                state.strike("Postgres away");
                told.push(format!("Postgres is away for {wait:?}"));
            }
            if chance.permille(storm.jump) {
                let seconds = i64::try_from(chance.below(600)).unwrap() - 120;
                state.jump += SignedDuration::from_secs(seconds);
                state.strike("clock jumps");
                told.push(format!("the clocks are set by {seconds} s"));
            }
            if chance.permille(storm.delusion)
                && state.deluded.is_none_or(|(_, until)| until < now)
                && !self.processes.is_empty()
            {
                let who = self.processes[chance.below(self.processes.len())].number;
                state.deluded = Some((who, now + Duration::from_secs(25)));
                state.strike("two leaders");
                told.push(format!("process {who} does not know that it leads no longer"));
            }
        }
        if self.chance.permille(storm.die) && self.chance.permille(100) && !self.processes.is_empty() {
            let at = self.chance.below(self.processes.len());
            let number = self.processes[at].number;
            self.world.state().dying.insert(number);
            self.world.state().strike("crash between calls");
            self.bury().await;
        }
        if self.chance.permille(storm.end_in_order) && self.chance.permille(100) && !self.processes.is_empty() {
            let at = self.chance.below(self.processes.len());
            self.processes[at].ask_to_end();
            self.world.state().strike("orderly end");
        }
        for line in told {
            self.note(line);
        }
    }

    fn note(&self, what: String) {
        let elapsed = self.world.elapsed();
        let mut state = self.world.state();
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            eprintln!("{:>9.3} {what}", elapsed.as_secs_f64());
        }
        state.trace.push(format!("{:>9.3} {what}", elapsed.as_secs_f64()));
    }
}
