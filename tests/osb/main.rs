//! The facade over real HTTP, on a real Postgres. What the projector would see of the cluster is told to the ledger by
//! the tests.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod actions;
mod audit;
mod bindings;
mod broker;
// Of what it has, these tests need some.
#[allow(dead_code)]
#[path = "../common/caches.rs"]
mod caches;
mod concurrency;
mod conformance;
#[path = "../common/database.rs"]
mod database;
mod document;
mod examples;
mod fuzz;
mod hostile;
mod http_rules;
mod instance_life;
mod limits;
mod outage;
mod pool;
#[path = "../common/receiver.rs"]
mod receiver;
mod secrets;
mod serving;
mod tls;
mod updates;
mod webhooks;
