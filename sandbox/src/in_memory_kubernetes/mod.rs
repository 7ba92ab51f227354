//! Kubernetes in memory, without processes, sockets or clocks, for simulations: a request goes in, an answer comes out, and
//! time passes when it is said to.
//!
//! The rules are written anew, as far as an operator meets them: creation, replacement, merge patches, server-side apply
//! of one applier, deletion with finalizers, preconditions and propagation, `status` apart from the rest, generations,
//! resource versions, lists, watches by label; and what the cluster's controllers make of it. They are held to the truth
//! by requests that go to them and to a real API server.

mod api_server;
mod apply;
mod claims;
mod controllers;
mod object;

pub use api_server::{Answer, ApiServer, Request, Watch};
pub use controllers::Work;
pub use object::{Key, Kind};
