//! cache-broker: a Kubernetes operator with an Open Service Broker facade, for caches.

pub mod api;
pub mod ledger;
pub mod osb;
pub mod settings;
pub mod webhooks;
