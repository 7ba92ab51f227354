//! A whole cache-broker environment on one machine, without root and without containers.

pub mod address;
mod api_calls;
pub mod node;
pub mod service_proxy;
pub mod supervisor;
