//! Faults on demand: refusals, silence and lost answers, by operation and resource.

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::query::Request;

/// A fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// Only calls of this operation; absent means every one.
    pub operation: Option<String>,
    /// Only calls one of whose parameters has this value: an id, an ARN.
    pub resource: Option<String>,
    /// How many calls it still strikes; absent means until it is taken away.
    pub times: Option<u32>,
    /// How many matching calls pass before the first it strikes.
    pub skip: u32,
    /// The fraction of matching calls it strikes, from 0 to 1.
    pub fraction: f64,
    /// What it does.
    pub kind: FaultKind,
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            operation: None,
            resource: None,
            times: None,
            skip: 0,
            fraction: 1.0,
            kind: FaultKind::Throttle,
        }
    }
}

impl Fault {
    /// A fault that strikes every call until it is taken away.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// Strikes only calls of one operation.
    #[must_use]
    pub fn on(mut self, operation: impl Into<String>) -> Self {
        self.operation = Some(operation.into());
        self
    }

    /// Strikes only calls that name one resource.
    #[must_use]
    pub fn of(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Strikes only so many calls.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes only a fraction of the calls.
    #[must_use]
    pub fn fraction(mut self, fraction: f64) -> Self {
        self.fraction = fraction;
        self
    }
}

/// What a fault does to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FaultKind {
    /// `Throttling`, "Rate exceeded".
    Throttle,
    /// HTTP 500 `InternalFailure`, without an effect.
    ServerError,
    /// HTTP 503 `ServiceUnavailable`, without an effect.
    Unavailable,
    /// Never answers, without an effect.
    Timeout,
    /// Does what was asked and closes the connection without an answer.
    LostAnswer,
    /// Answers after a while.
    Slow {
        /// How long, in milliseconds.
        milliseconds: u64,
    },
    /// A creation that is accepted and ends in a bad state, with the reason in an event.
    CreateFailed {
        /// The state; `create-failed` for groups and `incompatible-network` for clusters unless told.
        #[serde(default)]
        status: Option<String>,
        /// The event's message.
        #[serde(default)]
        message: Option<String>,
    },
    /// `InsufficientCacheClusterCapacity`.
    Capacity,
    /// `NodeQuotaForCustomerExceeded`.
    Quota,
    /// `AccessDenied`.
    AccessDenied,
    /// The 404 of tag calls for what exists but is busy; for tag calls only.
    TagsNotFound,
    /// Any refusal.
    Refuse {
        /// The code on the wire.
        code: String,
        /// The message.
        #[serde(default)]
        message: String,
        /// The HTTP status; the model's unless told.
        #[serde(default)]
        status: Option<u16>,
    },
}

impl FaultKind {
    /// The refusal it means, if it is one.
    pub(crate) fn refusal(&self, request: &Request) -> Option<ApiError> {
        Some(match self {
            FaultKind::Throttle => ApiError::new("Throttling", "Rate exceeded"),
            FaultKind::ServerError => ApiError::new("InternalFailure", "An internal error has occurred."),
            FaultKind::Unavailable => ApiError::new("ServiceUnavailable", "The service is temporarily unavailable."),
            FaultKind::Capacity => ApiError::new(
                "InsufficientCacheClusterCapacity",
                "There is not enough capacity in the availability zone for the requested cache node type.",
            ),
            FaultKind::Quota => ApiError::new("NodeQuotaForCustomerExceeded", "The quota of nodes is used up."),
            FaultKind::AccessDenied => ApiError::new(
                "AccessDenied",
                format!("User is not authorized to perform: elasticache:{}", request.operation),
            ),
            FaultKind::TagsNotFound => {
                let arn = request.text("ResourceName").unwrap_or_default();
                let id = arn.rsplit(':').next().unwrap_or(arn);
                ApiError::new(
                    "CacheClusterNotFound",
                    format!("{id} is either not present or not available."),
                )
            }
            FaultKind::Refuse { code, message, status } => {
                let mut error = ApiError::new(code.clone(), message.clone());
                error.status = status.unwrap_or(error.status);
                error
            }
            FaultKind::Timeout | FaultKind::LostAnswer | FaultKind::Slow { .. } | FaultKind::CreateFailed { .. } => {
                return None;
            }
        })
    }
}

/// The faults that are set, with the little randomness that fractions need.
#[derive(Debug, Default)]
pub(crate) struct FaultList {
    pub(crate) faults: Vec<Fault>,
    drawn: u64,
}

impl FaultList {
    /// The fault that strikes this call, if one does, and counts it.
    pub(crate) fn strike(&mut self, request: &Request) -> Option<FaultKind> {
        let mut struck = None;
        for fault in &mut self.faults {
            let tags_only = fault.kind == FaultKind::TagsNotFound && !request.operation.contains("Tags");
            let other = fault
                .operation
                .as_ref()
                .is_some_and(|operation| *operation != request.operation)
                || fault
                    .resource
                    .as_ref()
                    .is_some_and(|id| !request.parameters.values().any(|value| value == id));
            if tags_only || other || fault.times == Some(0) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            self.drawn += 1;
            if draw(self.drawn) >= fault.fraction {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            struck = Some(fault.kind.clone());
            break;
        }
        self.faults.retain(|fault| fault.times != Some(0));
        struck
    }
}

/// A number from 0 to 1 that looks random and is the same for the same `n` (SplitMix64).
#[expect(clippy::cast_precision_loss)]
fn draw(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: &str) -> Request {
        Request {
            operation: operation.into(),
            ..Request::default()
        }
    }

    #[test]
    fn a_fault_strikes_its_operation_so_many_times() {
        let mut list = FaultList::default();
        list.faults
            .push(Fault::new(FaultKind::Throttle).on("CreateUser").times(2));
        assert_eq!(list.strike(&call("DeleteUser")), None);
        assert_eq!(list.strike(&call("CreateUser")), Some(FaultKind::Throttle));
        assert_eq!(list.strike(&call("CreateUser")), Some(FaultKind::Throttle));
        assert_eq!(list.strike(&call("CreateUser")), None);
        assert!(list.faults.is_empty());
    }

    #[test]
    fn a_fraction_strikes_about_as_often() {
        let mut list = FaultList::default();
        list.faults.push(Fault::new(FaultKind::ServerError).fraction(0.3));
        let struck = (0..1000).filter(|_| list.strike(&call("CreateUser")).is_some()).count();
        assert!((250..350).contains(&struck), "{struck}");
    }

    #[test]
    fn a_fault_is_written_as_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"operation": "DescribeUsers", "times": 1, "kind": {"type": "refuse", "code": "AccessDenied"}}"#,
        )
        .unwrap();
        assert_eq!(fault.kind.refusal(&call("DescribeUsers")).unwrap().status, 403);
    }
}
