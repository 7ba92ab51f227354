//! Conditions and the words in them.
//!
//! `Ready`, `Reconciling` and `Stalled` mean what kstatus gives them; the reason of `Ready` is the one word that
//! `kubectl get` shows.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The cache answers and is as the spec of `observedGeneration` wants it.
pub const READY: &str = "Ready";
/// Work towards the spec is going on.
pub const RECONCILING: &str = "Reconciling";
/// Work has stopped: it cannot go on until somebody changes something.
pub const STALLED: &str = "Stalled";

/// The plan of an instance has a later revision than the one it runs from; the message says what moving to it would do.
pub const UPDATE_AVAILABLE: &str = "UpdateAvailable";

/// The provider supports the version of the engine that runs; the message says until when, and what it costs not to move.
pub const ENGINE_SUPPORTED: &str = "EngineSupported";

/// Why an instance is, or is not, ready: one word for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is being made.
    Creating,
    /// It answers.
    Available,
    /// It answered before and does not now.
    Unavailable,
    /// It is being changed in place.
    Updating,
    /// It answers; a change that loses data waits for the maintenance window or for consent.
    AwaitingMaintenance,
    /// Its nodes are being restarted.
    Restarting,
    /// A Pod of it does not start; what answered before goes on answering.
    WorkloadFailing,
    /// It is being filled from a backup.
    Restoring,
    /// A snapshot of it is being taken; it answers.
    Snapshotting,
    /// It is being given back.
    Deleting,
    /// It was deleted by somebody else than the platform that ordered it, and goes on as it is.
    DeletionHeld,
    /// Changes are stopped by an annotation.
    Paused,
    /// It cannot be made as it is asked for.
    Failed,
    /// The plan it names does not exist yet.
    PlanNotFound,
    /// The revision of the plan that it is pinned to cannot be read.
    PlanRevisionNotFound,
    /// The plan does not fit the instance: another engine, or no provider.
    PlanMismatch,
    /// Its parameters do not fit the plan.
    ParametersInvalid,
    /// The backup it is to be filled from cannot be read yet.
    BackupNotReady,
    /// The instance that a backup is of does not exist, or does not answer, yet.
    InstanceNotFound,
    /// The backup it is to be filled from does not fit it, or failed.
    BackupMismatch,
    /// It asks for something this version of the broker, or its provider, does not do.
    Unsupported,
    /// The plan is deprecated and takes no new instances.
    PlanDeprecated,
    /// The plan's provider is not switched on in the operator's settings.
    ProviderDisabled,
    /// Something of the same id exists in the provider and belongs to somebody else.
    NameConflict,
    /// What was made for it is gone from the provider.
    ProviderResourceMissing,
    /// The provider refused the request as one that can never work.
    ProviderRefused,
    /// The provider cannot be reached, is busy, out of capacity, over quota or refuses access; tried again.
    ProviderUnavailable,
    /// The provider answers with a state that is not known.
    ProviderStateUnknown,
    /// It does so for longer than an operation may take; it is looked at on.
    ProviderStateOverdue,
}

impl Reason {
    /// As it stands in the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Available => "Available",
            Self::Unavailable => "Unavailable",
            Self::Updating => "Updating",
            Self::AwaitingMaintenance => "AwaitingMaintenance",
            Self::Restarting => "Restarting",
            Self::WorkloadFailing => "WorkloadFailing",
            Self::Restoring => "Restoring",
            Self::Snapshotting => "Snapshotting",
            Self::Deleting => "Deleting",
            Self::DeletionHeld => "DeletionHeld",
            Self::Paused => "Paused",
            Self::Failed => "Failed",
            Self::PlanNotFound => "PlanNotFound",
            Self::PlanRevisionNotFound => "PlanRevisionNotFound",
            Self::PlanMismatch => "PlanMismatch",
            Self::ParametersInvalid => "ParametersInvalid",
            Self::BackupNotReady => "BackupNotReady",
            Self::InstanceNotFound => "InstanceNotFound",
            Self::BackupMismatch => "BackupMismatch",
            Self::Unsupported => "Unsupported",
            Self::PlanDeprecated => "PlanDeprecated",
            Self::ProviderDisabled => "ProviderDisabled",
            Self::NameConflict => "NameConflict",
            Self::ProviderResourceMissing => "ProviderResourceMissing",
            Self::ProviderRefused => "ProviderRefused",
            Self::ProviderUnavailable => "ProviderUnavailable",
            Self::ProviderStateUnknown => "ProviderStateUnknown",
            Self::ProviderStateOverdue => "ProviderStateOverdue",
        }
    }
}

/// How far an instance is, as kstatus sorts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Done: it answers and is as wanted.
    Ready,
    /// Under way: it gets there by itself.
    Reconciling,
    /// It answers as it was, and is being changed.
    ReadyAndReconciling,
    /// Stopped until somebody changes something.
    Stalled,
    /// Stopped on request.
    Paused,
}

/// The three standard conditions for an outcome. A condition that says the same as before keeps its transition time.
pub fn standard(
    previous: &[Condition],
    progress: Progress,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let (ready, reconciling, stalled) = match progress {
        Progress::Ready => (true, false, false),
        Progress::Reconciling => (false, true, false),
        Progress::ReadyAndReconciling => (true, true, false),
        Progress::Stalled => (false, false, true),
        // What answered when it was paused goes on answering.
        Progress::Paused => (
            find(previous, READY).is_some_and(|ready| ready.status == "True"),
            false,
            false,
        ),
    };
    [(READY, ready), (RECONCILING, reconciling), (STALLED, stalled)]
        .into_iter()
        .map(|(type_, status)| {
            condition(
                previous,
                type_,
                if status { "True" } else { "False" },
                reason.as_str(),
                message,
                generation,
                now,
            )
        })
        .collect()
}

/// One condition; its transition time is the previous one's if the status is the same.
pub fn condition(
    previous: &[Condition],
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let last_transition_time = find(previous, type_)
        .filter(|condition| condition.status == status)
        .map_or_else(|| Time(now), |condition| condition.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time,
    }
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of a type is `True` and speaks of that generation or a later one.
pub fn is_true(conditions: &[Condition], type_: &str, generation: i64) -> bool {
    find(conditions, type_).is_some_and(|condition| {
        condition.status == "True"
            && condition
                .observed_generation
                .is_some_and(|observed| observed >= generation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_does() {
        let creating = standard(&[], Progress::Reconciling, Reason::Creating, "being made", 1, at(10));
        let still = standard(
            &creating,
            Progress::Reconciling,
            Reason::Updating,
            "being changed",
            2,
            at(20),
        );
        let ready = standard(&still, Progress::Ready, Reason::Available, "answers", 2, at(30));
        let time = |conditions: &[Condition], type_| find(conditions, type_).unwrap().last_transition_time.0;
        assert_eq!(time(&still, READY), at(10));
        assert_eq!(time(&ready, READY), at(30));
        assert_eq!(time(&ready, STALLED), at(10));
    }

    #[test]
    fn a_condition_of_an_older_generation_is_not_true() {
        let ready = standard(&[], Progress::Ready, Reason::Available, "answers", 1, at(0));
        assert!(is_true(&ready, READY, 1));
        assert!(!is_true(&ready, READY, 2));
        assert!(!is_true(&ready, STALLED, 1));
    }
}
