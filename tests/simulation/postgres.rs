//! Postgres is real: one server, a database a thread, emptied before each run. What is not real is its clock: `now()` and
//! `clock_timestamp()` are found in a schema before that of Postgres, and say what the simulation says.

use std::pin::Pin;
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use cache_broker::ledger::gate::{Gate, Passing};
use cache_broker::ledger::{KeyRing, Ledger, LedgerError};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::database;
use crate::gate::{Call, System, Verdict};
use crate::world::World;

const CLOCK: &str = "
    create schema simulation;
    create table simulation.clock (at timestamptz not null);
    insert into simulation.clock values ('2026-01-01');
    create function simulation.now() returns timestamptz stable language sql
        as 'select at from simulation.clock';
    create function simulation.clock_timestamp() returns timestamptz stable language sql
        as 'select at from simulation.clock';
    create schema cache_broker;
";

/// A database of a thread.
pub struct Database {
    pub sql: tokio_postgres::Client,
    pub ledger: Ledger,
    url: String,
    clock: tokio_postgres::Statement,
}

impl Database {
    pub async fn new() -> Self {
        let url = database::empty_database().await;
        let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        sql.batch_execute(CLOCK).await.unwrap();
        // Statements end by the time of the run, as all else does, and not by that of the machine, which may be busy.
        let path = "options=-c%20search_path%3Dcache_broker%2Csimulation%2Cpg_catalog%20-c%20statement_timeout%3D0";
        let keys = KeyRing::parse(&database::KEYS.to_owned().into()).unwrap();
        let ledger = Ledger::new(format!("{url}&{path}").parse().unwrap(), keys, 8).unwrap();
        ledger.migrate().await.unwrap();
        sql.batch_execute("set search_path = cache_broker, simulation, pg_catalog")
            .await
            .unwrap();
        let clock = sql.prepare("update simulation.clock set at = $1").await.unwrap();
        Self {
            sql,
            ledger,
            url,
            clock,
        }
    }

    /// Empties it.
    pub async fn reset(&self) {
        self.sql
            .batch_execute(
                "do $$ begin execute (
                     select 'truncate ' || string_agg(format('%I', tablename), ', ') || ' restart identity'
                       from pg_tables where schemaname = 'cache_broker'
                        and tablename not in ('leader', 'refinery_schema_history'));
                 end $$;
                 update leader set epoch = 0",
            )
            .await
            .unwrap();
    }

    /// Has whoever asks for an instance wait, by the time of the machine, and returns when that has begun.
    pub fn hold_up(&self, long: Duration) {
        let (url, (held, holds)) = (self.url.clone(), mpsc::channel());
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let lock = "begin; lock table cache_broker.instances in access exclusive mode";
                client.batch_execute(lock).await.unwrap();
                held.send(()).unwrap();
                tokio::time::sleep(long).await;
                client.batch_execute("commit").await.unwrap();
            });
        });
        holds.recv().unwrap();
    }

    pub async fn set_clock(&self, now: Timestamp) {
        self.sql.execute(&self.clock, &[&now]).await.unwrap();
    }
}

/// How the attempts begin that change nothing, whatever they find.
const READS: &[&str] = &["asking ", "listing ", "looking ", "reading "];

/// Sweeps, which most of the time find nothing to do, and renewals of claims.
const SWEEPS: &[&str] = &[
    "claiming rows of the outbox",
    "claiming webhooks",
    "ending operations past their deadline",
    "holding rows of the outbox",
    "holding webhooks",
    "looking for the next row of the outbox",
    "looking for the next webhook",
    "forgetting claimed members of pools",
    "reading the pools",
];

fn reads(attempt: &str) -> bool {
    READS.iter().any(|beginning| attempt.starts_with(beginning))
}

struct Hold {
    world: Weak<World>,
    process: usize,
    /// What is to become of the call under way.
    verdict: parking_lot::Mutex<Verdict>,
    /// Calls that come late: whoever makes them waits for them, past its deadline, while all else in the process goes on.
    lingering: watch::Sender<usize>,
}

/// A ledger of one process.
pub fn ledger(world: &Arc<World>, process: usize) -> Ledger {
    let gate = Hold {
        world: Arc::downgrade(world),
        process,
        verdict: parking_lot::Mutex::new(Verdict::Go),
        lingering: watch::Sender::new(0),
    };
    world.ledger.clone().through(Arc::new(gate))
}

impl Hold {
    fn world(&self) -> Result<Arc<World>, LedgerError> {
        self.world.upgrade().ok_or_else(away)
    }
}

fn away() -> LedgerError {
    LedgerError::Unavailable("struck by the simulation".to_owned())
}

impl Gate for Hold {
    fn before<'a>(&'a self, attempt: &'a str) -> Passing<'a> {
        Box::pin(async move {
            let world = self.world()?;
            let call = Call {
                system: System::Postgres,
                what: attempt.to_owned(),
                writes: !reads(attempt),
                quiet: SWEEPS.contains(&attempt),
            };
            let verdict = world.pass(self.process, call).await;
            if world.state().is_postgres_away(self.process) {
                return Err(away());
            }
            match verdict {
                Verdict::Fail(crate::gate::Failure::Silence) => std::future::pending().await,
                Verdict::Fail(_) => Err(away()),
                Verdict::DieBefore => world.die(self.process).await,
                verdict => {
                    match verdict {
                        Verdict::Outlive => world.outlive(self.process, attempt).await,
                        Verdict::Late => {
                            self.lingering.send_modify(|calls| *calls += 1);
                            world.linger(attempt).await;
                        }
                        _ => {}
                    }
                    // One call is under way at a time.
                    *self.verdict.lock() = verdict;
                    world.idle.begin();
                    Ok(())
                }
            }
        })
    }

    fn after<'a>(&'a self, attempt: &'a str) -> Passing<'a> {
        Box::pin(async move {
            let world = self.world()?;
            world.idle.end();
            if !reads(attempt) && !SWEEPS.contains(&attempt) {
                world.state().wrote();
            }
            let verdict = std::mem::replace(&mut *self.verdict.lock(), Verdict::Go);
            match verdict {
                Verdict::Lose => Err(away()),
                Verdict::Late => {
                    self.lingering.send_modify(|calls| *calls -= 1);
                    Err(away())
                }
                Verdict::Slow(by) => {
                    tokio::time::sleep(by).await;
                    Ok(())
                }
                Verdict::Die | Verdict::Outlive => world.die(self.process).await,
                Verdict::Go | Verdict::DieBefore | Verdict::Fail(_) => Ok(()),
            }
        })
    }

    fn give_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let world = self.world.upgrade();
            if world.is_some_and(|world| world.state().outlived.contains(&self.process)) {
                std::future::pending::<()>().await;
            }
            // It is held by the gate, not by whoever waits for it.
            let _ = self.lingering.subscribe().wait_for(|calls| *calls == 0).await;
        })
    }

    fn listen(&self, channel: &'static str) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        notify.notify_one();
        if let Some(world) = self.world.upgrade() {
            world.state().wakeups.insert((self.process, channel), notify.clone());
        }
        notify
    }
}
