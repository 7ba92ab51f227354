//! A whole cache-broker environment on one machine, without root and without containers.

pub mod address;
pub mod elasticache;
pub mod supervisor;
