//! cache-broker: a Kubernetes operator with an Open Service Broker facade, for caches.

pub mod ambient;
pub mod api;
pub mod cluster;
pub mod commands;
pub mod control;
pub mod dial;
pub mod digest;
pub mod doctor;
pub mod import;
pub mod ledger;
pub mod osb;
pub mod provider;
pub mod serve;
pub mod settings;
pub mod telemetry;
pub mod tls;
pub mod webhooks;
pub mod wire;
