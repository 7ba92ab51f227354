//! Paths and methods.

use http::Method;

use super::actions::Action;
use super::error::OsbError;
use super::request::{binding_id, decoded, instance_id};
use crate::ledger::{BindingId, InstanceId};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Catalog,
    Provision(InstanceId),
    Update(InstanceId),
    Fetch(InstanceId),
    Deprovision(InstanceId),
    LastOperation(InstanceId),
    Bind(InstanceId, BindingId),
    FetchBinding(InstanceId, BindingId),
    Unbind(InstanceId, BindingId),
    LastBindingOperation(InstanceId, BindingId),
    Act(InstanceId, Action, Option<String>),
    ActionSchema(InstanceId, Action),
}

impl Call {
    /// Reads a method and a path as it stands in the request line.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, OsbError> {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        if segments.next() != Some("v2") {
            return Err(unknown());
        }
        let (collection, id) = (segments.next(), segments.next());
        let (below, below_id, deepest) = (segments.next(), segments.next(), segments.next());
        if segments.next().is_some() {
            return Err(unknown());
        }
        if let (Some("service_instances"), Some(id), Some("actions"), Some(name)) = (collection, id, below, below_id) {
            return Self::action(method, id, name, deepest);
        }
        let binding = (collection, id, below, below_id, deepest);
        if let (Some("service_instances"), Some(id), Some("service_bindings"), Some(binding), Some("last_operation")) =
            binding
        {
            let (id, binding) = (instance_id(segment(id)?)?, binding_id(segment(binding)?)?);
            return match *method {
                Method::GET => Ok(Self::LastBindingOperation(id, binding)),
                _ => Err(OsbError::method_not_allowed("GET")),
            };
        }
        if deepest.is_some() {
            return Err(unknown());
        }
        match (collection, id, below, below_id) {
            (Some("catalog"), None, ..) => match *method {
                Method::GET => Ok(Self::Catalog),
                _ => Err(OsbError::method_not_allowed("GET")),
            },
            (Some("service_instances"), Some(id), None, _) => {
                let id = instance_id(segment(id)?)?;
                match *method {
                    Method::PUT => Ok(Self::Provision(id)),
                    Method::PATCH => Ok(Self::Update(id)),
                    Method::GET => Ok(Self::Fetch(id)),
                    Method::DELETE => Ok(Self::Deprovision(id)),
                    _ => Err(OsbError::method_not_allowed("GET, PUT, PATCH, DELETE")),
                }
            }
            (Some("service_instances"), Some(id), Some("last_operation"), None) => {
                let id = instance_id(segment(id)?)?;
                match *method {
                    Method::GET => Ok(Self::LastOperation(id)),
                    _ => Err(OsbError::method_not_allowed("GET")),
                }
            }
            (Some("service_instances"), Some(id), Some("service_bindings"), Some(binding)) => {
                let (id, binding) = (instance_id(segment(id)?)?, binding_id(segment(binding)?)?);
                match *method {
                    Method::PUT => Ok(Self::Bind(id, binding)),
                    Method::GET => Ok(Self::FetchBinding(id, binding)),
                    Method::DELETE => Ok(Self::Unbind(id, binding)),
                    _ => Err(OsbError::method_not_allowed("GET, PUT, DELETE")),
                }
            }
            _ => Err(unknown()),
        }
    }

    fn action(method: &Method, id: &str, name: &str, below: Option<&str>) -> Result<Self, OsbError> {
        let id = instance_id(segment(id)?)?;
        let path = match (name, below) {
            ("backups", Some(_)) => "backups/{backup}",
            (_, None) => name,
            (_, Some("schema")) => {
                let action = Action::named(name).ok_or_else(unknown_action)?;
                return match *method {
                    Method::GET => Ok(Self::ActionSchema(id, action)),
                    _ => Err(OsbError::method_not_allowed("GET")),
                };
            }
            (_, Some(_)) => return Err(unknown()),
        };
        let at_path = || Action::ALL.into_iter().filter(|action| action.path() == path);
        match at_path().find(|action| action.methods().contains(method)) {
            Some(action) => Ok(Self::Act(id, action, below.map(segment).transpose()?)),
            None if at_path().next().is_none() => Err(unknown_action()),
            None => Err(OsbError::method_not_allowed(match path {
                "stats" | "backups" => "GET, POST",
                "backups/{backup}" => "GET, PUT",
                _ => "POST",
            })),
        }
    }

    /// Whether it is part of the specification.
    pub(super) fn is_specified(&self) -> bool {
        !matches!(self, Self::Act(..) | Self::ActionSchema(..))
    }

    /// Its name in logs, and the ids it is about.
    pub(super) fn log_fields(&self) -> (&'static str, Option<&InstanceId>, Option<&BindingId>) {
        match self {
            Self::Catalog => ("catalog", None, None),
            Self::Provision(id) => ("provision", Some(id), None),
            Self::Update(id) => ("update", Some(id), None),
            Self::Fetch(id) => ("fetch", Some(id), None),
            Self::Deprovision(id) => ("deprovision", Some(id), None),
            Self::LastOperation(id) => ("last_operation", Some(id), None),
            Self::Bind(id, binding) => ("bind", Some(id), Some(binding)),
            Self::FetchBinding(id, binding) => ("fetch_binding", Some(id), Some(binding)),
            Self::Unbind(id, binding) => ("unbind", Some(id), Some(binding)),
            Self::LastBindingOperation(id, binding) => ("last_binding_operation", Some(id), Some(binding)),
            Self::Act(id, action, _) => (action.name(), Some(id), None),
            Self::ActionSchema(id, _) => ("action_schema", Some(id), None),
        }
    }

    /// Whether it may change anything.
    pub(super) fn changes(&self) -> bool {
        matches!(
            self,
            Self::Provision(_)
                | Self::Update(_)
                | Self::Deprovision(_)
                | Self::Bind(..)
                | Self::Unbind(..)
                | Self::Act(
                    _,
                    Action::Flush | Action::Restart | Action::CreateBackup | Action::RestoreBackup,
                    _
                )
        )
    }
}

fn segment(text: &str) -> Result<String, OsbError> {
    decoded(text).ok_or_else(|| {
        OsbError::bad_request("an id in the path is not percent-encoded UTF-8: encode it by RFC 3986, section 2.1")
    })
}

fn unknown_action() -> OsbError {
    OsbError::not_found("there is no such action: there are flush, stats, restart, backups and backups/BACKUP")
}

fn unknown() -> OsbError {
    OsbError::not_found(
        "this path is not part of the API: use /v2/catalog, /v2/service_instances/ID[/last_operation], /v2/service_instances/ID/service_bindings/ID[/last_operation] or /v2/service_instances/ID/actions/NAME[/schema]",
    )
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn instance(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn every_call_has_its_method_and_path() {
        let binding: BindingId = "b".parse().unwrap();
        for (method, path, call) in [
            (Method::GET, "/v2/catalog", Call::Catalog),
            (Method::PUT, "/v2/service_instances/i", Call::Provision(instance("i"))),
            (Method::PATCH, "/v2/service_instances/i", Call::Update(instance("i"))),
            (Method::GET, "/v2/service_instances/i", Call::Fetch(instance("i"))),
            (
                Method::DELETE,
                "/v2/service_instances/i",
                Call::Deprovision(instance("i")),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/last_operation",
                Call::LastOperation(instance("i")),
            ),
            (
                Method::PUT,
                "/v2/service_instances/i/service_bindings/b",
                Call::Bind(instance("i"), binding.clone()),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/service_bindings/b",
                Call::FetchBinding(instance("i"), binding.clone()),
            ),
            (
                Method::DELETE,
                "/v2/service_instances/i/service_bindings/b",
                Call::Unbind(instance("i"), binding.clone()),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/service_bindings/b/last_operation",
                Call::LastBindingOperation(instance("i"), binding),
            ),
            (
                Method::POST,
                "/v2/service_instances/i/actions/restart",
                Call::Act(instance("i"), Action::Restart, None),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/actions/stats",
                Call::Act(instance("i"), Action::Stats, None),
            ),
            (
                Method::PUT,
                "/v2/service_instances/i/actions/backups/a%20b",
                Call::Act(instance("i"), Action::RestoreBackup, Some("a b".to_owned())),
            ),
            (
                Method::POST,
                "/v2/service_instances/i/actions/backups",
                Call::Act(instance("i"), Action::CreateBackup, None),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/actions/get_backup/schema",
                Call::ActionSchema(instance("i"), Action::GetBackup),
            ),
            (
                Method::GET,
                "/v2/service_instances/i/actions/flush/schema",
                Call::ActionSchema(instance("i"), Action::Flush),
            ),
        ] {
            assert_eq!(Call::of(&method, path), Ok(call), "{method} {path}");
        }
    }

    /// OSB 2.17, "URL Properties".
    #[test]
    fn ids_may_have_any_characters_percent_encoded() {
        assert_eq!(
            Call::of(&Method::GET, "/v2/service_instances/a%2Fb%20%C3%BC..~"),
            Ok(Call::Fetch(instance("a/b ü..~")))
        );
    }

    #[test]
    fn everything_else_is_refused_as_json_can_say() {
        for (method, path, status) in [
            (Method::GET, "/", StatusCode::NOT_FOUND),
            (Method::GET, "/v2", StatusCode::NOT_FOUND),
            (Method::GET, "/v3/catalog", StatusCode::NOT_FOUND),
            (Method::GET, "/v2/catalog/", StatusCode::NOT_FOUND),
            (Method::GET, "/v2/service_instances", StatusCode::NOT_FOUND),
            (Method::PUT, "/v2/service_instances/i/", StatusCode::NOT_FOUND),
            (Method::PUT, "/v2/service_instances/i/x", StatusCode::NOT_FOUND),
            (
                Method::PUT,
                "/v2/service_instances/i/service_bindings",
                StatusCode::NOT_FOUND,
            ),
            (
                Method::GET,
                "/v2/service_instances/i/service_bindings/b/c",
                StatusCode::NOT_FOUND,
            ),
            (Method::POST, "/v2/service_instances/i/actions", StatusCode::NOT_FOUND),
            (
                Method::POST,
                "/v2/service_instances/i/actions/explode",
                StatusCode::NOT_FOUND,
            ),
            (
                Method::POST,
                "/v2/service_instances/i/actions/flush/x",
                StatusCode::NOT_FOUND,
            ),
            (
                Method::GET,
                "/v2/service_instances/i/actions/flush/schema/x",
                StatusCode::NOT_FOUND,
            ),
            (
                Method::GET,
                "/v2/service_instances/i/actions/flush",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (
                Method::PUT,
                "/v2/service_instances/i/actions/flush/schema",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (Method::PUT, "/v2/service_instances/", StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/service_instances/%00", StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/service_instances/%zz", StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/service_instances/%ff", StatusCode::BAD_REQUEST),
            (Method::POST, "/v2/catalog", StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/v2/service_instances/i", StatusCode::METHOD_NOT_ALLOWED),
            (
                Method::PUT,
                "/v2/service_instances/i/last_operation",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (
                Method::PATCH,
                "/v2/service_instances/i/service_bindings/b",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (
                Method::PUT,
                "/v2/service_instances/i/service_bindings/b/last_operation",
                StatusCode::METHOD_NOT_ALLOWED,
            ),
        ] {
            assert_eq!(Call::of(&method, path).unwrap_err().status(), status, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_judged_without_a_panic(path: String) {
            let _ = Call::of(&Method::GET, &path);
        }
    }
}
