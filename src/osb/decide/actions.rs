//! Actions: what is asked of an instance beside the specification. They keep to its rules: 404 for what does not exist,
//! 422 `ConcurrencyError` for what is busy, 202 with the same operation for a repetition.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Reply, fetch};
use crate::ledger::{Connection, Held, Judgement, NewRestart, OperationKind, WebhookTarget};
use crate::osb::error::OsbError;
use crate::wire;

/// The decision on a restart.
pub fn restart(
    held: Option<&Held>,
    deadline: Duration,
    webhook: Option<WebhookTarget>,
) -> Judgement<Reply, NewRestart> {
    match usable(held) {
        Err(error) => Judgement::Answer(Err(error)),
        Ok(held) => match held.running() {
            Some(running) if running.kind == OperationKind::Restart => {
                Judgement::Answer(Ok(Answer::accepted(running.id)))
            }
            Some(running) => Judgement::Answer(Err(busy(running.kind))),
            None => Judgement::Accept(NewRestart { webhook, deadline }),
        },
    }
}

/// Where to reach the nodes of an instance that is to be looked at.
///
/// # Errors
/// When there is nothing to look at.
pub fn look(held: Option<&Held<Option<Connection>>>) -> Result<&Connection, OsbError> {
    reached(usable(held)?)
}

/// Where to reach the nodes of an instance that is to be emptied.
///
/// # Errors
/// When there is nothing to empty, or something else goes on.
pub fn flush(held: Option<&Held<Option<Connection>>>) -> Result<&Connection, OsbError> {
    let held = usable(held)?;
    match held.running() {
        Some(running) => Err(busy(running.kind)),
        None => reached(held),
    }
}

fn usable<S>(held: Option<&Held<S>>) -> Result<&Held<S>, OsbError> {
    let held = fetch::exists(held)?;
    if held.instance.unwanted {
        return Err(OsbError::concurrency("the instance is being deleted"));
    }
    match held.running() {
        Some(running) if running.kind == OperationKind::Provision => Err(busy(running.kind)),
        _ if held.instance.provisioned_at.is_none() && !held.instance.ready => Err(OsbError::unprocessable(
            None,
            "the instance could not be provisioned: delete it and order it again",
        )),
        _ => Ok(held),
    }
}

fn reached(held: &Held<Option<Connection>>) -> Result<&Connection, OsbError> {
    held.opened
        .as_ref()
        .ok_or_else(|| OsbError::unprocessable(None, "the instance has no connection: delete it and order it again"))
}

fn busy(kind: OperationKind) -> OsbError {
    OsbError::concurrency(format!(
        "the instance has a {} going on: try again once that ended",
        kind.as_str()
    ))
}

/// What is told of nodes that were emptied.
///
/// # Errors
/// When a node was not.
pub fn flushed(replies: &[wire::Reply<wire::Flushed>]) -> Reply {
    let failures: Vec<String> = replies
        .iter()
        .filter_map(|reply| Some(reply.outcome.as_ref().err()?.to_string()))
        .collect();
    if failures.is_empty() {
        Ok(Answer::new(StatusCode::OK, json!({ "flush_all": "ok" })))
    } else {
        Err(OsbError::unavailable(format!(
            "not every node was emptied, try again: {}",
            failures.join("; ")
        )))
    }
}

/// What is told of what nodes count.
///
/// # Errors
/// When no node answered.
pub fn counted(replies: &[wire::Reply<BTreeMap<String, String>>]) -> Reply {
    let Some(first) = replies.iter().find_map(|reply| reply.outcome.as_ref().ok()) else {
        let failures: Vec<String> = replies
            .iter()
            .filter_map(|reply| Some(reply.outcome.as_ref().err()?.to_string()))
            .collect();
        return Err(OsbError::unavailable(format!(
            "no node answered, try again: {}",
            failures.join("; ")
        )));
    };
    let stats: Vec<Value> = first
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    let nodes: Vec<Value> = replies
        .iter()
        .map(|reply| match &reply.outcome {
            Ok(stats) => json!({ "node": reply.node, "stats": stats }),
            Err(error) => json!({ "node": reply.node, "error": error.to_string() }),
        })
        .collect();
    Ok(Answer::new(StatusCode::OK, json!({ "stats": stats, "nodes": nodes })))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::ledger::OperationState;

    const HOUR: Duration = Duration::from_secs(3600);

    fn restarting<S>(opened: S) -> Held<S> {
        let mut held = held(opened);
        held.latest = Some(operation(OperationKind::Restart, OperationState::InProgress));
        held
    }

    fn code(error: &OsbError) -> String {
        let code = error.code().map(|code| format!(" {}", code.as_str()));
        format!("{}{}", error.status().as_u16(), code.unwrap_or_default())
    }

    /// Each row: what is held, and what a restart, a flush and a look at it are told.
    #[test]
    fn the_decision_table() {
        type State = fn(Option<Connection>) -> Held<Option<Connection>>;
        let rows: [(Option<State>, &str, &str, &str); 9] = [
            (None, "404", "404", "404"),
            (Some(tombstone), "404", "404", "404"),
            (
                Some(provisioning),
                "422 ConcurrencyError",
                "422 ConcurrencyError",
                "422 ConcurrencyError",
            ),
            (Some(failed), "422", "422", "422"),
            (Some(updating), "422 ConcurrencyError", "422 ConcurrencyError", "ok"),
            (
                Some(deprovisioning),
                "422 ConcurrencyError",
                "422 ConcurrencyError",
                "422 ConcurrencyError",
            ),
            (
                Some(undeleted),
                "422 ConcurrencyError",
                "422 ConcurrencyError",
                "422 ConcurrencyError",
            ),
            (Some(restarting), "repeated", "422 ConcurrencyError", "ok"),
            (Some(held), "ok", "ok", "ok"),
        ];
        for (state, restarted, emptied, looked) in rows {
            let held = state.map(|state| state(Some(connection())));
            let bare = held.clone().map(|held| Held {
                instance: held.instance,
                latest: held.latest,
                opened: (),
            });
            let told = match restart(bare.as_ref(), HOUR, None) {
                Judgement::Accept(_) => "ok".to_owned(),
                Judgement::Answer(Ok(answer)) => {
                    assert_eq!(answer, Answer::accepted(operation_id()));
                    "repeated".to_owned()
                }
                Judgement::Answer(Err(error)) => code(&error),
            };
            assert_eq!(told, restarted, "{held:?}");
            let told =
                |outcome: Result<&Connection, OsbError>| outcome.map_or_else(|error| code(&error), |_| "ok".to_owned());
            assert_eq!(told(flush(held.as_ref())), emptied, "{held:?}");
            assert_eq!(told(look(held.as_ref())), looked, "{held:?}");
        }
    }
}
