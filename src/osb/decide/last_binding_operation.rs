//! OSB 2.17, "Polling Last Operation for Service Bindings".

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::last_operation::pause_since;
use super::{Answer, Reply};
use crate::ledger::{OperationKind, OperationState, PolledBinding};
use crate::osb::error::OsbError;

/// The operation that a poll names; `None` asks for the latest.
///
/// # Errors
/// When it is none that this broker gave out.
pub fn named(operation: Option<&str>) -> Result<Option<Uuid>, OsbError> {
    operation.map(|text| text.parse().map_err(|_| unknown())).transpose()
}

fn unknown() -> OsbError {
    OsbError::bad_request(
        "the query parameter operation is none of this binding: send it as it was answered, or leave it out",
    )
}

/// The decision. `named` says whether the platform named the operation.
///
/// # Errors
/// 404 for an id that was never bound, 410 for a finished unbinding, 400 for an operation of another binding.
pub fn judge(polled: Option<&PolledBinding>, named: bool, now: Timestamp) -> Reply {
    let polled = polled.ok_or_else(|| OsbError::not_found("there is no binding of this id"))?;
    let Some(operation) = &polled.operation else {
        return match (polled.live, named) {
            (_, true) => Err(unknown()),
            (false, false) => Err(OsbError::gone()),
            (true, false) => Ok(Answer::new(StatusCode::OK, json!({ "state": "succeeded" }))),
        };
    };
    // A bind that failed is polled for its reason although nothing is left of it.
    let ended_so = operation.kind == OperationKind::Bind && operation.state == OperationState::Failed;
    if operation.kind == OperationKind::Unbind && operation.state == OperationState::Succeeded
        || !polled.live && !named && !ended_so
    {
        return Err(OsbError::gone());
    }
    let (state, description) = match operation.state {
        OperationState::InProgress => (
            "in progress",
            Some(match operation.kind {
                OperationKind::Unbind => "the user of the binding is being removed",
                _ => "the user of the binding is being made",
            }),
        ),
        OperationState::Succeeded => ("succeeded", operation.description.as_deref()),
        OperationState::Failed => ("failed", operation.description.as_deref()),
    };
    let mut body = Map::new();
    body.insert("state".to_owned(), json!(state));
    if let Some(description) = description.filter(|description| !description.is_empty()) {
        body.insert("description".to_owned(), json!(description));
    }
    let mut answer = Answer::new(StatusCode::OK, Value::Object(body));
    if operation.state == OperationState::InProgress {
        answer.retry_after = Some(pause_since(operation.created_at, now));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::PolledOperation;

    fn polled(live: bool, kind: OperationKind, state: OperationState) -> PolledBinding {
        PolledBinding {
            live,
            operation: Some(PolledOperation {
                kind,
                state,
                description: Some("ended so".to_owned()),
                created_at: Timestamp::UNIX_EPOCH,
                remains: None,
            }),
        }
    }

    fn answer(polled: Option<&PolledBinding>, named: bool) -> Reply {
        judge(polled, named, Timestamp::from_second(80).unwrap())
    }

    #[test]
    fn a_binding_without_operations_was_there_at_once() {
        let bare = |live| PolledBinding { live, operation: None };
        let body = answer(Some(&bare(true)), false).unwrap().body;
        assert_eq!(body, json!({ "state": "succeeded" }));
        assert_eq!(answer(Some(&bare(false)), false), Err(OsbError::gone()));
        for live in [true, false] {
            let error = answer(Some(&bare(live)), true).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn a_poll_says_when_to_ask_again_and_why_it_failed() {
        let going = answer(
            Some(&polled(true, OperationKind::Unbind, OperationState::InProgress)),
            true,
        )
        .unwrap();
        assert_eq!(going.retry_after, Some(Duration::from_secs(10)));
        assert_eq!(
            going.body["description"],
            json!("the user of the binding is being removed")
        );
        let failed = answer(Some(&polled(true, OperationKind::Unbind, OperationState::Failed)), true).unwrap();
        assert_eq!(
            (failed.body, failed.retry_after),
            (json!({ "state": "failed", "description": "ended so" }), None)
        );
        assert!(named(Some("task_10")).is_err());
        let id = Uuid::from_u128(1);
        assert_eq!(named(Some(&id.to_string())), Ok(Some(id)));
        assert_eq!(named(None), Ok(None));
    }
}
