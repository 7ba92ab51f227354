//! ElastiCache in memory, without processes, sockets or a clock, for simulations: a request goes in, an answer comes out,
//! and time passes when it is said to. The rules are those of the endpoint: it is the same code.

use std::net::Ipv4Addr;

use http::StatusCode;
use jiff::Timestamp;

use super::error::ApiError;
use super::state::Cloud;
use super::{Options, Remaining, Request, xml};

/// An account of ElastiCache whose nodes are nothing.
pub struct InMemory {
    cloud: Cloud,
    region: String,
}

impl std::fmt::Debug for InMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemory")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl InMemory {
    /// An account with nothing in it.
    pub fn new(options: Options) -> Self {
        let mut last = u32::from(Ipv4Addr::new(10, 0, 0, 0));
        let next = move || {
            last += 1;
            Ipv4Addr::from(last)
        };
        Self {
            region: options.region.clone(),
            cloud: Cloud::new(
                options.region,
                options.times,
                options.limits,
                options.subnet_groups,
                options.parameter_groups,
                Box::new(next),
            ),
        }
    }

    /// Lets time come to `now`.
    pub fn advance(&mut self, now: Timestamp) {
        self.cloud.advance(now);
        // Nothing runs: what shall run does at once.
        for job in self.cloud.take_jobs() {
            self.cloud.finished(job.id, &Ok(()));
        }
        self.cloud.advance(now);
    }

    /// Reads a request as it stands on the wire.
    ///
    /// # Errors
    /// When it is none: the answer to it.
    pub fn read(&self, body: &str) -> Result<Request, (StatusCode, String)> {
        Request::decode(body).map_err(|error| refused(&error))
    }

    /// Answers a request.
    pub fn answer(&mut self, request: &Request, now: Timestamp) -> (StatusCode, String) {
        self.advance(now);
        let result = self.cloud.handle(request, now);
        self.advance(now);
        match result {
            Ok(reply) => (StatusCode::OK, xml::answer(&request.operation, "request", &reply)),
            Err(error) => refused(&error),
        }
    }

    /// What exists.
    pub fn remaining(&self) -> Remaining {
        self.cloud.remaining()
    }
}

fn refused(error: &ApiError) -> (StatusCode, String) {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, xml::refusal(error, "request"))
}
