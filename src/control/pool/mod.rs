//! Pools: instances made ahead of their orders, as many as a plan's `preprovision` says.
//!
//! The ledger says who is a member and how far it is; a member is on record before its resource is made, and retired
//! there before it is deleted, so no order gets one that is going away. An order takes a ready member in the transaction
//! that accepts it; the outbox then writes the order's owner and annotations into the member's resource, which from then
//! on is like any other.

mod decide;
mod keeper;
mod resource;

pub use decide::{Decision, Keep, Member, Seen, Step, Want, decide};
pub use keeper::{Keeper, View, Views};
pub use resource::{is_member, name as member_name, take_over};

/// The condition of a plan that says whether its pool is full.
pub const POOL_READY: &str = "PoolReady";
