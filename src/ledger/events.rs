//! What receivers of webhooks are told: the kinds of events, and the body that is sent.
//!
//! A new kind is a new arm of [`EventKind`]. What ends an operation calls [`fire`](super::webhooks::fire), which
//! [`operations::end`](super::operations::end) does for all of them; what ends without one calls
//! [`announce`](super::webhooks::announce).

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{BindingId, InstanceId, OperationKind, OperationState};

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An instance was made.
    Provision,
    /// It was changed.
    Update,
    /// It was given back.
    Deprovision,
    /// Its nodes were restarted.
    Restart,
    /// A snapshot of it was taken.
    Backup,
    /// It was filled from one.
    Restore,
}

impl EventKind {
    /// As it stands in bodies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Update => "update",
            Self::Deprovision => "deprovision",
            Self::Restart => "restart",
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

impl From<OperationKind> for EventKind {
    fn from(kind: OperationKind) -> Self {
        match kind {
            OperationKind::Provision => Self::Provision,
            OperationKind::Update => Self::Update,
            OperationKind::Deprovision => Self::Deprovision,
            OperationKind::Restart => Self::Restart,
            OperationKind::Backup => Self::Backup,
            OperationKind::Restore => Self::Restore,
        }
    }
}

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
    /// The operation that ended, which the platform knows by this name; absent where it was told of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Uuid>,
    /// What it tells of.
    #[serde(serialize_with = "kind")]
    pub kind: EventKind,
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

fn kind<S: Serializer>(kind: &EventKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

fn milliseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: EventKind) -> Event {
        Event {
            id: Uuid::from_u128(1),
            state: OperationState::Failed,
            description: "out of \"capacity\"".to_owned(),
            instance_id: "i/1".parse().unwrap(),
            binding_id: None,
            operation: Some(Uuid::from_u128(2)),
            kind,
            time: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_body_says_what_ended_how_and_when() {
        let body: serde_json::Value = serde_json::from_str(&event(EventKind::Restore).body()).unwrap();
        assert_eq!(
            body,
            json!({
                "id": "00000000-0000-0000-0000-000000000001", "state": "failed", "description": "out of \"capacity\"",
                "instance_id": "i/1", "operation": "00000000-0000-0000-0000-000000000002", "kind": "restore",
                "time": "2026-01-02T03:04:05.678Z",
            })
        );
        let bound = Event {
            binding_id: Some("b".parse().unwrap()),
            operation: None,
            ..event(EventKind::Provision)
        };
        let body: serde_json::Value = serde_json::from_str(&bound.body()).unwrap();
        assert_eq!((&body["binding_id"], body.get("operation")), (&json!("b"), None));
    }

    #[test]
    fn every_operation_is_told_of_by_its_own_name() {
        for kind in OperationKind::ALL {
            assert_eq!(EventKind::from(kind).as_str(), kind.as_str());
        }
    }
}
