//! OSB 2.17, "Fetching a Service Instance".

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Reply};
use crate::ledger::{Held, OperationKind};
use crate::osb::catalog::maintenance_version;
use crate::osb::error::OsbError;
use crate::osb::version::Version;

/// An instance that was ordered and is not gone.
///
/// # Errors
/// When there is none.
pub fn exists<S>(held: Option<&Held<S>>) -> Result<&Held<S>, OsbError> {
    held.filter(|held| held.instance.deleted_at.is_none())
        .ok_or_else(|| OsbError::not_found("there is no instance of this id"))
}

/// The decision.
///
/// # Errors
/// When it does not exist yet, or is being changed.
pub fn instance(held: Option<&Held<Map<String, Value>>>, version: Version) -> Reply {
    let held = exists(held)?;
    let instance = &held.instance;
    match held.running() {
        Some(running) if running.kind == OperationKind::Provision => {
            return Err(OsbError::not_found(
                "the instance is being provisioned: fetch it once that ended",
            ));
        }
        // It stays what it is.
        Some(running)
            if matches!(
                running.kind,
                OperationKind::Restart | OperationKind::Backup | OperationKind::Restore
            ) => {}
        Some(running) => {
            return Err(OsbError::concurrency(format!(
                "the instance's {} is going on: fetch it once that ended",
                running.kind.as_str()
            )));
        }
        None => {}
    }
    if instance.provisioned_at.is_none() && !instance.ready {
        return Err(OsbError::not_found(
            "the instance could not be provisioned: delete it and order it again",
        ));
    }
    let mut body = json!({
        "service_id": instance.service_id,
        "plan_id": instance.plan_id,
        "parameters": held.opened,
    });
    if let Some(body) = body.as_object_mut().filter(|_| version >= Version::V15) {
        let version = maintenance_version(instance.plan_revision);
        body.insert("maintenance_info".to_owned(), json!({ "version": version }));
    }
    Ok(Answer::new(StatusCode::OK, body))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::ledger::OperationState;
    use crate::osb::error::Code;

    #[test]
    fn it_does_not_exist_until_it_is_provisioned() {
        for held in [
            None,
            Some(provisioning(Map::new())),
            Some(failed(Map::new())),
            Some(tombstone(Map::new())),
        ] {
            let error = instance(held.as_ref(), Version::V17).unwrap_err();
            assert_eq!(error.status(), StatusCode::NOT_FOUND, "{held:?}");
        }
    }

    #[test]
    fn it_is_not_fetched_while_it_is_changed() {
        for held in [updating(Map::new()), deprovisioning(Map::new())] {
            let error = instance(Some(&held), Version::V17).unwrap_err();
            assert_eq!(error.code(), Some(Code::Concurrency));
        }
    }

    #[test]
    fn it_is_fetched_while_it_restarts() {
        let mut restarting = held(Map::new());
        restarting.latest = Some(operation(OperationKind::Restart, OperationState::InProgress));
        assert!(instance(Some(&restarting), Version::V17).is_ok());
    }

    #[test]
    fn it_is_told_as_it_was_ordered() {
        let held = held(members(json!({ "connectionLimit": 5 })));
        let body = |version| instance(Some(&held), version).unwrap().body;
        let ordered = json!({ "service_id": SERVICE, "plan_id": "p", "parameters": { "connectionLimit": 5 } });
        assert_eq!(body(Version::V14), ordered);
        assert_eq!(body(Version::V15)["maintenance_info"], json!({ "version": "3.0.0" }));
        assert!(instance(Some(&undeleted(Map::new())), Version::V17).is_ok());
    }
}
