//! What receivers of webhooks are told: the body of an event.
//!
//! Every event tells of an operation that ended, and [`operations::end`](super::operations::end) writes it, for all kinds
//! of them.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{BindingId, InstanceId, OperationKind, OperationState};

/// One event: the body of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its id: it stays the same however often the event is delivered.
    pub id: Uuid,
    /// Whether it went well.
    #[serde(serialize_with = "word")]
    pub state: OperationState,
    /// How it ended, for people. Never empty.
    pub description: String,
    /// The instance it tells of.
    pub instance_id: InstanceId,
    /// The binding it tells of, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_id: Option<BindingId>,
    /// The operation that ended, which the platform knows by this name.
    pub operation: Uuid,
    /// What it did.
    #[serde(serialize_with = "kind")]
    pub kind: OperationKind,
    /// When it ended.
    #[serde(serialize_with = "milliseconds")]
    pub time: Timestamp,
}

impl Event {
    /// As it is sent, byte for byte: signatures are of this.
    pub fn body(&self) -> String {
        // Nothing in it can fail to be JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn word<S: Serializer>(state: &OperationState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

fn kind<S: Serializer>(kind: &OperationKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

fn milliseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_says_what_ended_how_and_when() {
        let event = Event {
            id: Uuid::from_u128(1),
            state: OperationState::Failed,
            description: "out of \"capacity\"".to_owned(),
            instance_id: "i/1".parse().unwrap(),
            binding_id: None,
            operation: Uuid::from_u128(2),
            kind: OperationKind::Restore,
            time: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        };
        let body = |event: &Event| serde_json::from_str::<serde_json::Value>(&event.body()).unwrap();
        assert_eq!(
            body(&event),
            json!({
                "id": "00000000-0000-0000-0000-000000000001", "state": "failed", "description": "out of \"capacity\"",
                "instance_id": "i/1", "operation": "00000000-0000-0000-0000-000000000002", "kind": "restore",
                "time": "2026-01-02T03:04:05.678Z",
            })
        );
        let bound = Event {
            binding_id: Some("b".parse().unwrap()),
            ..event
        };
        assert_eq!(body(&bound)["binding_id"], json!("b"));
    }
}
