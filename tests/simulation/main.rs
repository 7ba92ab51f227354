//! The broker in a simulated world: its own code from the facade to the operator, on one thread, with one outside call at a
//! time, and with whatever may befall such a call.
//!
//! Kubernetes and ElastiCache are in memory ([`sandbox::in_memory_kubernetes`], [`sandbox::elasticache::InMemory`]),
//! Postgres is real, receivers of webhooks are in memory behind real HTTP. A run repeats to the last call, which is tried of every
//! operation and of some mixtures.
//!
//! `make simulate SEEDS=1000` does more of it than the tests do; `make simulate SEED=7` repeats one run and prints it;
//! `TWICE=1` runs each mixture twice and compares.

// The settings for tests do not reach the functions that runs share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/database.rs"]
#[expect(dead_code, reason = "ledgers pass a gate here")]
mod database;

mod caches;
mod chance;
mod elasticache;
mod faults;
mod gate;
mod held_up;
mod idle;
mod kubernetes;
mod mixture;
mod oracles;
mod pipeline;
mod plans;
mod platform;
mod postgres;
mod process;
mod receiver;
mod run;
mod scenarios;
mod suite;
mod truth;
mod watchman;
mod world;
