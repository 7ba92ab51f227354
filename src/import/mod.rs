//! Moving here from akkeris/elasticache-broker: what its database says becomes plans, services, and rows of the ledger.
//!
//! What is to be written is a pure function of the rows and of what exists ([`catalog`], [`rows`]); around it, the old
//! database is read, caches are looked for, and files, rows and plans are written ([`run`]). Custom resources are written
//! by the outbox, from the ledger's rows, as those of any order. Everything is written whole or not at all, and what is
//! there already is left as it is, so an import can end anywhere and begin anew.

mod catalog;
mod details;
mod facts;
mod look;
mod old;
mod placeholders;
mod plans;
mod read;
mod report;
mod rows;
mod run;
mod services;
mod sound;

pub use report::{Fate, Kind, Line, Report};
pub use run::{Options, run};
