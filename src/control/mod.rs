//! Reconcilers.
pub mod decide;
pub mod retries;
