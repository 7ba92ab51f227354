//! The broker as it is run, on a real control plane, a real Postgres, real caches and the sandbox's ElastiCache.
//!
//! Most tests share one sandbox and one broker, and each keeps to what it ordered itself. Tests that take something away
//! have a sandbox of their own.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod backups;
mod caches;
mod callers;
mod canary;
mod cel;
#[path = "../common/cel_cases.rs"]
mod cel_cases;
mod changes;
mod cluster;
mod convergence;
mod crash;
mod doctor;
mod drift;
mod elasticache;
mod import;
mod leader;
mod life;
mod lives;
mod memory;
mod old_broker;
mod osb;
mod outside;
mod plans;
mod pool;
mod provider;
mod quiet;
#[path = "../common/receiver.rs"]
mod receiver;
mod refusals;
mod secured;
mod settings;
mod soak;
mod steady;
mod stories;
mod updates;
mod users;
mod world;
mod yaml;
mod zero;
