//! OSB 2.17, "Binding".

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Reply};
use crate::ledger::{Binding, Connection, Credentials, Held, Judgement, NewBinding, OperationKind};
use crate::osb::credentials;
use crate::osb::error::OsbError;
use crate::osb::request::BindRequest;
use crate::osb::version::Version;

/// The decision. A binding that exists is compared before anything is asked of its instance.
pub fn judge(
    request: &BindRequest,
    held: Option<&Held<Option<Connection>>>,
    existing: Option<&Binding>,
    version: Version,
) -> Judgement<Reply, NewBinding> {
    match decide(request, held, existing, version) {
        Ok(Judgement::Answer(answer)) => Judgement::Answer(Ok(answer)),
        Ok(Judgement::Accept(new)) => Judgement::Accept(new),
        Err(error) => Judgement::Answer(Err(error)),
    }
}

fn decide(
    request: &BindRequest,
    held: Option<&Held<Option<Connection>>>,
    existing: Option<&Binding>,
    version: Version,
) -> Result<Judgement<Answer, NewBinding>, OsbError> {
    let held = held
        .filter(|held| held.instance.deleted_at.is_none())
        .ok_or_else(|| OsbError::not_found("there is no instance of this id to bind to"))?;
    let instance = &held.instance;
    if let Some(existing) = existing {
        let same = existing.service_id == request.service_id.as_str()
            && existing.plan_id == request.plan_id.as_str()
            && existing.app_guid == request.app_guid
            && existing.parameters == request.parameters;
        if !same {
            return Err(OsbError::conflict(
                "a binding of this id exists with other attributes: bind with a new id, or send what was sent first",
            ));
        }
        return Ok(Judgement::Answer(bound(StatusCode::OK, &existing.credentials, version)));
    }
    // While it moves, a platform knows the plan it comes from.
    let moves = held
        .running()
        .is_some_and(|running| running.kind == OperationKind::Update);
    if !moves && (instance.service_id != request.service_id.as_str() || instance.plan_id != request.plan_id.as_str()) {
        return Err(OsbError::bad_request(format!(
            "the instance is of service {} and plan {}: send those as service_id and plan_id",
            instance.service_id, instance.plan_id
        )));
    }
    if let Some(running) = held.running() {
        return Err(OsbError::concurrency(format!(
            "the instance's {} is going on: bind once it ended",
            running.kind.as_str()
        )));
    }
    if instance.unwanted {
        return Err(OsbError::concurrency(
            "the instance is being deleted and takes no more bindings",
        ));
    }
    let connection = held.opened.as_ref().ok_or_else(|| unusable(held))?;
    Ok(Judgement::Accept(NewBinding {
        service_id: request.service_id.clone(),
        plan_id: request.plan_id.clone(),
        app_guid: request.app_guid.clone(),
        context: request.context.clone(),
        parameters: request.parameters.clone(),
        credentials: credentials::of(connection),
    }))
}

fn unusable<S>(held: &Held<S>) -> OsbError {
    let why = held
        .latest
        .as_ref()
        .and_then(|latest| latest.description.as_deref())
        .or(held.instance.message.as_deref())
        .unwrap_or("it has no connection");
    OsbError::unprocessable(
        None,
        format!("the instance cannot be bound to: {why}; delete it and order it again"),
    )
}

/// The reply with a binding's credentials.
pub fn bound(status: StatusCode, credentials: &Credentials, version: Version) -> Answer {
    Answer::new(status, Value::Object(body(credentials, version)))
}

fn body(credentials: &Credentials, version: Version) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("credentials".to_owned(), Value::Object(credentials.expose().clone()));
    if version >= Version::V15 {
        body.insert("endpoints".to_owned(), json!(credentials::endpoints(credentials)));
    }
    body
}

/// OSB 2.17, "Fetching a Service Binding".
///
/// # Errors
/// When there is none.
pub fn fetched(binding: Option<&Binding>, version: Version) -> Reply {
    let binding = binding.ok_or_else(|| OsbError::not_found("there is no binding of this id"))?;
    let mut body = body(&binding.credentials, version);
    if !binding.parameters.is_empty() {
        body.insert("parameters".to_owned(), Value::Object(binding.parameters.clone()));
    }
    Ok(Answer::new(StatusCode::OK, Value::Object(body)))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::osb::error::Code;

    fn request() -> BindRequest {
        BindRequest {
            service_id: SERVICE.parse().unwrap(),
            plan_id: "p".parse().unwrap(),
            app_guid: Some("app".to_owned()),
            context: Map::new(),
            parameters: Map::new(),
        }
    }

    fn existing() -> Binding {
        Binding {
            service_id: SERVICE.to_owned(),
            plan_id: "p".to_owned(),
            app_guid: Some("app".to_owned()),
            parameters: Map::new(),
            credentials: credentials::of(&connection()),
        }
    }

    type Row = Option<Held<Option<Connection>>>;

    fn refusal(request: &BindRequest, held: &Row, binding: Option<&Binding>) -> OsbError {
        match judge(request, held.as_ref(), binding, Version::V17) {
            Judgement::Answer(Err(error)) => error,
            other => panic!("no refusal: {other:?}"),
        }
    }

    #[test]
    fn an_instance_that_has_a_connection_is_bound_to() {
        let Judgement::Accept(new) = judge(&request(), Some(&held(Some(connection()))), None, Version::V17) else {
            panic!("refused");
        };
        assert_eq!(new.credentials, credentials::of(&connection()));
        // It may be out of order for a moment: its address is the same.
        let mut unready = held(Some(connection()));
        unready.instance.ready = false;
        assert!(matches!(
            judge(&request(), Some(&unready), None, Version::V17),
            Judgement::Accept(_)
        ));
    }

    #[test]
    fn what_is_busy_is_a_concurrency_error() {
        let bare = || Some(connection());
        for held in [
            provisioning(None),
            updating(bare()),
            deprovisioning(bare()),
            undeleted(bare()),
        ] {
            assert_eq!(refusal(&request(), &Some(held), None).code(), Some(Code::Concurrency));
        }
    }

    #[test]
    fn what_failed_says_why() {
        let error = refusal(&request(), &Some(failed(None)), None);
        assert_eq!((error.status(), error.code()), (StatusCode::UNPROCESSABLE_ENTITY, None));
        assert!(error.description().contains("out of capacity"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for held in [None, Some(tombstone(Some(connection())))] {
            assert_eq!(
                refusal(&request(), &held, Some(&existing())).status(),
                StatusCode::NOT_FOUND
            );
        }
    }

    #[test]
    fn a_binding_that_exists_is_compared_first() {
        let row = Some(updating(Some(connection())));
        let same = judge(&request(), row.as_ref(), Some(&existing()), Version::V17);
        assert_eq!(
            same,
            Judgement::Answer(Ok(bound(StatusCode::OK, &existing().credentials, Version::V17)))
        );
        let other_plan = BindRequest {
            plan_id: "q".parse().unwrap(),
            ..request()
        };
        assert_eq!(
            refusal(&other_plan, &row, Some(&existing())).status(),
            StatusCode::CONFLICT
        );
        assert_eq!(refusal(&other_plan, &row, None).code(), Some(Code::Concurrency));
        let resting = Some(held(Some(connection())));
        assert_eq!(refusal(&other_plan, &resting, None).status(), StatusCode::BAD_REQUEST);
        for request in [
            BindRequest {
                app_guid: None,
                ..request()
            },
            BindRequest {
                parameters: members(json!({ "a": 1 })),
                ..request()
            },
        ] {
            assert_eq!(
                refusal(&request, &row, Some(&existing())).status(),
                StatusCode::CONFLICT
            );
        }
    }

    #[test]
    fn endpoints_are_told_from_2_15_on() {
        let answer = |version| bound(StatusCode::CREATED, &existing().credentials, version).body;
        assert_eq!(answer(Version::V14).get("endpoints"), None);
        assert_eq!(
            answer(Version::V15)["endpoints"],
            json!([{ "host": "cache.example", "ports": ["11211"], "protocol": "tcp" }])
        );
    }

    #[test]
    fn a_binding_is_fetched_as_it_was_made() {
        assert_eq!(fetched(None, Version::V17).unwrap_err().status(), StatusCode::NOT_FOUND);
        let body = fetched(Some(&existing()), Version::V17).unwrap().body;
        assert_eq!(body["credentials"]["MEMCACHED_URL"], json!("cache.example:11211"));
        assert_eq!(body.get("parameters"), None);
    }
}
