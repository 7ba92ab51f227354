//! OSB 2.17, "Polling Last Operation for Service Instances".

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Answer, Reply};
use crate::ledger::{InstanceId, OperationKind, OperationState, Polled};
use crate::osb::error::OsbError;
use crate::osb::version::Version;

/// The operation that a poll names; `None` asks for the latest. The broker this one replaces gave out the instance id.
///
/// # Errors
/// When it is none that this broker gave out.
pub fn named(operation: Option<&str>, instance: &InstanceId) -> Result<Option<Uuid>, OsbError> {
    match operation {
        None => Ok(None),
        Some(text) if text == instance.as_str() => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| unknown()),
    }
}

fn unknown() -> OsbError {
    OsbError::bad_request(
        "the query parameter operation is none of this instance: send it as it was answered, or leave it out",
    )
}

/// The decision. `named` says whether the platform named the operation.
///
/// # Errors
/// 404 for an id that was never ordered, 410 for a finished delete, 400 for an operation of another instance.
pub fn judge(polled: Option<&Polled>, named: bool, version: Version, now: Timestamp) -> Reply {
    let polled = polled.ok_or_else(|| OsbError::not_found("there is no instance of this id"))?;
    let Some(operation) = &polled.operation else {
        return match (polled.deleted, named) {
            (true, _) => Err(OsbError::gone()),
            (false, true) => Err(unknown()),
            (false, false) => Ok(Answer::new(StatusCode::OK, json!({ "state": "succeeded" }))),
        };
    };
    // Whoever polls a provision or update by name hears how that ended, even after the instance is gone.
    if operation.kind == OperationKind::Deprovision && (polled.deleted || operation.state == OperationState::Succeeded)
        || polled.deleted && !named
    {
        return Err(OsbError::gone());
    }
    let (state, description) = match operation.state {
        OperationState::InProgress => ("in progress", polled.message.as_deref()),
        OperationState::Succeeded => ("succeeded", operation.description.as_deref()),
        OperationState::Failed => ("failed", operation.description.as_deref()),
    };
    let mut body = Map::new();
    body.insert("state".to_owned(), json!(state));
    if let Some(description) = description.filter(|description| !description.is_empty()) {
        body.insert("description".to_owned(), json!(description));
    }
    if operation.state == OperationState::Failed && version >= Version::V16 {
        match operation.kind {
            OperationKind::Provision
            | OperationKind::Restart
            | OperationKind::Backup
            | OperationKind::Restore
            | OperationKind::Bind
            | OperationKind::Unbind => {}
            OperationKind::Update => {
                let remains = operation.remains;
                let (usable, repeatable) = remains.map_or((true, true), |it| (it.usable, it.repeatable));
                body.insert("instance_usable".to_owned(), json!(usable));
                body.insert("update_repeatable".to_owned(), json!(repeatable));
            }
            // Deleting goes on; who knows what is left of it.
            OperationKind::Deprovision => {
                body.insert("instance_usable".to_owned(), json!(false));
            }
        }
    }
    let mut answer = Answer::new(StatusCode::OK, Value::Object(body));
    if operation.state == OperationState::InProgress {
        answer.retry_after = Some(pause_since(operation.created_at, now));
    }
    Ok(answer)
}

/// When to ask again for what began at a time.
pub fn pause_since(begun: Timestamp, now: Timestamp) -> Duration {
    pause(Duration::try_from(now.duration_since(begun)).unwrap_or_default())
}

/// What goes on for longer is asked for less often.
fn pause(age: Duration) -> Duration {
    Duration::from_secs((age.as_secs() / 8).clamp(2, 30))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::polled;
    use super::*;

    fn answer(polled: &Polled, named: bool) -> Reply {
        judge(Some(polled), named, Version::V17, Timestamp::from_second(80).unwrap())
    }

    #[test]
    fn an_operation_is_told_as_it_stands() {
        for kind in OperationKind::ALL {
            let running = answer(&polled(kind, OperationState::InProgress), true).unwrap();
            assert_eq!(
                running.body,
                json!({ "state": "in progress", "description": "being made" })
            );
            assert_eq!(running.retry_after, Some(Duration::from_secs(10)));
        }
        let done = answer(&polled(OperationKind::Provision, OperationState::Succeeded), false).unwrap();
        assert_eq!(
            (done.body, done.retry_after),
            (json!({ "state": "succeeded", "description": "ended so" }), None)
        );
    }

    /// OSB 2.17, "Service Broker Errors": which failures say how usable the instance is.
    #[test]
    fn a_failure_says_what_is_left() {
        let failed = |kind, version| {
            judge(
                Some(&polled(kind, OperationState::Failed)),
                true,
                version,
                Timestamp::UNIX_EPOCH,
            )
            .unwrap()
            .body
        };
        let plain = json!({ "state": "failed", "description": "ended so" });
        assert_eq!(failed(OperationKind::Provision, Version::V17), plain);
        assert_eq!(failed(OperationKind::Restart, Version::V17), plain);
        assert_eq!(failed(OperationKind::Deprovision, Version::V15), plain);
        assert_eq!(
            failed(OperationKind::Deprovision, Version::V16)["instance_usable"],
            json!(false)
        );
        let update = failed(OperationKind::Update, Version::V16);
        assert_eq!(
            (&update["instance_usable"], &update["update_repeatable"]),
            (&json!(true), &json!(false))
        );
    }

    #[test]
    fn a_finished_delete_is_gone_and_an_unknown_id_is_not_found() {
        assert_eq!(
            judge(None, false, Version::V17, Timestamp::UNIX_EPOCH)
                .unwrap_err()
                .status(),
            StatusCode::NOT_FOUND
        );
        let deleted = |kind, state| Polled {
            deleted: true,
            ..polled(kind, state)
        };
        let delete = deleted(OperationKind::Deprovision, OperationState::Succeeded);
        for named in [true, false] {
            assert_eq!(answer(&delete, named), Err(OsbError::gone()));
            // Deleted by somebody else, or forgotten: it is gone all the same.
            let lost = deleted(OperationKind::Deprovision, OperationState::Failed);
            assert_eq!(answer(&lost, named), Err(OsbError::gone()));
        }
        let superseded = deleted(OperationKind::Provision, OperationState::Failed);
        assert_eq!(answer(&superseded, true).unwrap().body["state"], json!("failed"));
        assert_eq!(answer(&superseded, false), Err(OsbError::gone()));
    }

    #[test]
    fn an_operation_of_another_instance_is_a_bad_request() {
        let none = Polled {
            operation: None,
            ..polled(OperationKind::Provision, OperationState::InProgress)
        };
        assert_eq!(answer(&none, true).unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer(&none, false).unwrap().body, json!({ "state": "succeeded" }));

        let instance: InstanceId = "i".parse().unwrap();
        let id = Uuid::from_u128(1);
        assert_eq!(named(Some(&id.to_string()), &instance), Ok(Some(id)));
        for latest in [None, Some("i")] {
            assert_eq!(named(latest, &instance), Ok(None));
        }
        assert!(named(Some("task_10"), &instance).is_err());
    }

    #[test]
    fn polls_grow_rarer() {
        for (age, pauses) in [(0, 2), (16, 2), (80, 10), (100_000, 30)] {
            assert_eq!(pause(Duration::from_secs(age)).as_secs(), pauses);
        }
    }

    proptest! {
        /// What a poll answers is never empty, and says nothing that its version or operation does not have.
        #[test]
        fn every_poll_is_answered_by_the_rules(
            kind in prop::sample::select(OperationKind::ALL.to_vec()),
            state in prop::sample::select(vec![
                OperationState::InProgress, OperationState::Succeeded, OperationState::Failed,
            ]),
            version in prop::sample::select(Version::ALL.to_vec()),
            (deleted, named) in any::<(bool, bool)>(),
            message in prop::option::of(prop::sample::select(vec!["", "being made"])),
            second in 0..200_000_i64,
        ) {
            let polled = Polled {
                deleted,
                message: message.map(str::to_owned),
                ..polled(kind, state)
            };
            match judge(Some(&polled), named, version, Timestamp::from_second(second).unwrap()) {
                Ok(answer) => {
                    prop_assert_eq!(answer.retry_after.is_some(), state == OperationState::InProgress);
                    prop_assert_ne!(answer.body.get("description"), Some(&json!("")));
                    let usable = answer.body.get("instance_usable").is_some();
                    let failed = state == OperationState::Failed && version >= Version::V16;
                    let tells = [OperationKind::Update, OperationKind::Deprovision].contains(&kind);
                    prop_assert_eq!(usable, failed && tells);
                    let repeatable = answer.body.get("update_repeatable").is_some();
                    prop_assert_eq!(repeatable, failed && kind == OperationKind::Update);
                }
                Err(error) => {
                    prop_assert_eq!(error, OsbError::gone());
                    prop_assert!(deleted || kind == OperationKind::Deprovision);
                }
            }
        }
    }
}
