//! Kubernetes Events of what is said in conditions.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use super::deadline;
use crate::api::conditions::{Progress, Reason};

/// The longest note an Event may have, in bytes (Event v1).
const LONGEST_NOTE: usize = 1000;

/// What is said of an object.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Whether somebody should look.
    pub warning: bool,
    /// Why, in one word.
    pub reason: &'a str,
    /// Why, in one sentence.
    pub message: &'a str,
}

impl<'a> Said<'a> {
    /// What a condition says.
    pub fn of(progress: Progress, reason: Reason, message: &'a str) -> Self {
        let warning = progress == Progress::Stalled
            || matches!(
                reason,
                Reason::ProviderUnavailable
                    | Reason::ProviderStateUnknown
                    | Reason::Unavailable
                    | Reason::WorkloadFailing
            );
        Self {
            warning,
            reason: reason.as_str(),
            message,
        }
    }
}

/// Publishes what is said of an object. One that is refused is not tried again: an object in a namespace that is going
/// away cannot have Events any more.
pub async fn publish(recorder: &Recorder, object: &ObjectReference, said: Said<'_>) {
    let event = Event {
        type_: if said.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: said.reason.to_owned(),
        note: Some(note(said.message)),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = deadline(recorder.publish(&event, object)).await {
        tracing::debug!(object = object.name.as_deref(), %error, "publishing an Event");
    }
}

/// A message as the note of an Event.
pub fn note(message: &str) -> String {
    let mut end = message.len().min(LONGEST_NOTE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_note_is_never_too_long(message in ".{0,600}") {
            let note = note(&message);
            prop_assert!(note.len() <= LONGEST_NOTE && message.starts_with(&note));
        }
    }
}
