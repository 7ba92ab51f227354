//! Refusals, with the codes and HTTP statuses of the API model 2015-02-02.
//!
//! The model is irregular: some codes end in `Fault` on the wire and some do not, and two kinds of "not found" are
//! answered with 400.

use std::borrow::Cow;

/// A refusal as the API answers it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// The code on the wire.
    pub code: Cow<'static, str>,
    /// What went wrong.
    pub message: String,
}

/// The codes this endpoint answers and the HTTP statuses the API model gives them.
const CODES: &[(&str, u16)] = &[
    ("AccessDenied", 403),
    ("CacheClusterAlreadyExists", 400),
    ("CacheClusterNotFound", 404),
    ("CacheParameterGroupNotFound", 404),
    ("CacheSubnetGroupAlreadyExists", 400),
    ("CacheSubnetGroupInUse", 400),
    ("CacheSubnetGroupNotFoundFault", 400),
    ("ClusterQuotaForCustomerExceeded", 400),
    ("DefaultUserAssociatedToUserGroup", 400),
    ("DefaultUserRequired", 400),
    ("DuplicateUserName", 400),
    ("IncompleteSignature", 400),
    ("InsufficientCacheClusterCapacity", 400),
    ("InternalFailure", 500),
    ("InvalidARN", 400),
    ("InvalidAction", 400),
    ("InvalidCacheClusterState", 400),
    ("InvalidParameterCombination", 400),
    ("InvalidParameterValue", 400),
    ("InvalidReplicationGroupState", 400),
    ("InvalidSnapshotState", 400),
    ("InvalidUserGroupState", 400),
    ("InvalidUserState", 400),
    ("MalformedQueryString", 404),
    ("MissingAction", 400),
    ("MissingAuthenticationToken", 403),
    ("MissingParameter", 400),
    ("NoOperationFault", 400),
    ("NodeGroupNotFoundFault", 404),
    ("NodeGroupsPerReplicationGroupQuotaExceeded", 400),
    ("NodeQuotaForClusterExceeded", 400),
    ("NodeQuotaForCustomerExceeded", 400),
    ("ReplicationGroupAlreadyExists", 400),
    ("ReplicationGroupNotFoundFault", 404),
    ("RequestExpired", 400),
    ("ServiceUnavailable", 503),
    ("SignatureDoesNotMatch", 403),
    ("SnapshotAlreadyExistsFault", 400),
    ("SnapshotFeatureNotSupportedFault", 400),
    ("SnapshotNotFoundFault", 404),
    ("SnapshotQuotaExceededFault", 400),
    ("SubnetInUse", 400),
    ("TagNotFound", 404),
    ("TagQuotaPerResourceExceeded", 400),
    ("TestFailoverNotAvailableFault", 400),
    ("Throttling", 400),
    ("UserAlreadyExists", 400),
    ("UserGroupAlreadyExists", 400),
    ("UserGroupNotFound", 404),
    ("UserGroupQuotaExceeded", 400),
    ("UserNotFound", 404),
    ("UserQuotaExceeded", 400),
];

impl ApiError {
    /// A refusal with the status the API model gives the code.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = CODES
            .iter()
            .find(|(known, _)| *known == code)
            .map_or(400, |(_, status)| *status);
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    pub(crate) fn no_cluster(id: &str) -> Self {
        Self::new("CacheClusterNotFound", format!("CacheCluster not found: {id}"))
    }

    pub(crate) fn no_group(id: &str) -> Self {
        Self::new(
            "ReplicationGroupNotFoundFault",
            format!("ReplicationGroup {id} not found."),
        )
    }

    pub(crate) fn cluster_state(message: impl Into<String>) -> Self {
        Self::new("InvalidCacheClusterState", message)
    }

    pub(crate) fn group_state(message: impl Into<String>) -> Self {
        Self::new("InvalidReplicationGroupState", message)
    }
}

/// What every operation of the pure core answers.
pub(crate) type Outcome<T> = Result<T, ApiError>;
