//! Actions: what is asked of an instance beside the specification. They keep to its rules: 404 for what does not exist,
//! 422 `ConcurrencyError` for what is busy, 202 with the same operation for a repetition.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Reply, fetch};
use crate::api::{EngineType, ProviderKind};
use crate::ledger::{
    Backup, Connection, Deed, Held, Judgement, NewAction, OperationKind, OperationState, WebhookTarget,
};
use crate::osb::error::OsbError;
use crate::wire;

/// The decision on what takes time. `backups` are those of the instance, `filled` the one it was filled from last.
pub fn act(
    deed: Deed,
    held: Option<&Held<Option<Connection>>>,
    (backups, filled): (&[Backup], Option<&str>),
    deadline: Duration,
    webhook: Option<WebhookTarget>,
) -> Judgement<Reply, NewAction> {
    match judge(&deed, held, backups, filled) {
        Ok(Some(answer)) => Judgement::Answer(Ok(answer)),
        Ok(None) => Judgement::Accept(NewAction {
            deed,
            webhook,
            deadline,
        }),
        Err(error) => Judgement::Answer(Err(error)),
    }
}

fn judge(
    deed: &Deed,
    held: Option<&Held<Option<Connection>>>,
    backups: &[Backup],
    filled: Option<&str>,
) -> Result<Option<Answer>, OsbError> {
    let held = usable(held)?;
    if *deed != Deed::Restart {
        has_backups(held)?;
    }
    if let Some(running) = held.running() {
        let same = match deed {
            Deed::Restart => running.kind == OperationKind::Restart,
            Deed::Backup => running.kind == OperationKind::Backup,
            Deed::Restore(backup) => running.kind == OperationKind::Restore && filled == Some(backup),
        };
        return if same {
            Ok(Some(Answer::accepted(running.id)))
        } else {
            Err(busy(running.kind))
        };
    }
    if let Deed::Restore(name) = deed {
        let why = match backup(backups, name)?.state {
            OperationState::InProgress => "the backup is not complete yet: try again once it is",
            OperationState::Failed => "the backup failed: restore another one",
            OperationState::Succeeded if filled == Some(name) => {
                "the cache was filled from this backup last, and is not filled from one twice in a row: make a new backup"
            }
            OperationState::Succeeded => return Ok(None),
        };
        return Err(OsbError::unprocessable(None, why));
    }
    Ok(None)
}

/// Memcached has no backups, and neither has a cache in the cluster.
fn has_backups(held: &Held<Option<Connection>>) -> Result<(), OsbError> {
    let connection = reached(held)?;
    let who = if connection.engine == EngineType::Memcached {
        "memcached"
    } else if connection.provider == ProviderKind::Kubernetes {
        "a cache in the cluster"
    } else {
        return Ok(());
    };
    Err(OsbError::unprocessable(
        None,
        format!("{who} has no backups: only redis and valkey on ElastiCache have"),
    ))
}

fn backup<'a>(backups: &'a [Backup], name: &str) -> Result<&'a Backup, OsbError> {
    backups
        .iter()
        .find(|backup| backup.name == name)
        .ok_or_else(|| OsbError::not_found("the instance has no backup of this id that was asked for here"))
}

/// The backups of an instance, or the one of them that is named.
///
/// # Errors
/// When there is no such instance or backup, or the instance can have none.
pub fn backups(held: Option<&Held<Option<Connection>>>, backups: &[Backup], named: Option<&str>) -> Reply {
    let held = usable(held)?;
    has_backups(held)?;
    let shown = |backup: &Backup| {
        let (status, progress) = match backup.state {
            OperationState::InProgress => ("creating", 0),
            OperationState::Succeeded => ("available", 100),
            OperationState::Failed => ("failed", 0),
        };
        json!({
            "resource": { "name": held.instance.name },
            "id": backup.name,
            "progress": progress,
            "status": status,
            "created_at": backup.created_at,
        })
    };
    let body = match named {
        Some(name) => shown(backup(backups, name)?),
        None => backups.iter().map(shown).collect(),
    };
    Ok(Answer::new(StatusCode::OK, body))
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
        "the instance's {} is going on: try again once that ended",
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
            let told = match act(Deed::Restart, held.as_ref(), (&[], None), HOUR, None) {
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

    #[test]
    fn backups_are_made_and_restored_where_there_are_any() {
        let redis = || {
            Some(Connection {
                engine: EngineType::Redis,
                provider: ProviderKind::ElastiCache,
                ..connection()
            })
        };
        let made = |name: &str, state| Backup {
            name: name.to_owned(),
            state,
            description: None,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let all = [
            made("new", OperationState::InProgress),
            made("good", OperationState::Succeeded),
            made("bad", OperationState::Failed),
        ];
        let told = |deed: Deed, held: &Held<Option<Connection>>, filled| match act(
            deed,
            Some(held),
            (&all, filled),
            HOUR,
            None,
        ) {
            Judgement::Accept(_) => "ok".to_owned(),
            Judgement::Answer(Ok(_)) => "repeated".to_owned(),
            Judgement::Answer(Err(error)) => code(&error),
        };
        let restore = |name: &str| Deed::Restore(name.to_owned());
        let resting = held(redis());
        for (deed, filled, expected) in [
            (Deed::Backup, None, "ok"),
            (restore("good"), None, "ok"),
            (restore("good"), Some("bad"), "ok"),
            (restore("good"), Some("good"), "422"),
            (restore("new"), None, "422"),
            (restore("bad"), None, "422"),
            (restore("nothing"), None, "404"),
        ] {
            assert_eq!(told(deed.clone(), &resting, filled), expected, "{deed:?} {filled:?}");
        }
        let mut busy = held(redis());
        busy.latest = Some(operation(OperationKind::Restore, OperationState::InProgress));
        assert_eq!(told(restore("good"), &busy, Some("good")), "repeated");
        assert_eq!(told(restore("bad"), &busy, Some("good")), "422 ConcurrencyError");
        assert_eq!(told(Deed::Backup, &busy, Some("good")), "422 ConcurrencyError");
        // Memcached, and anything in the cluster.
        let in_cluster = held(redis().map(|redis| Connection {
            provider: ProviderKind::Kubernetes,
            ..redis
        }));
        for without in [held(Some(connection())), in_cluster] {
            assert_eq!(told(Deed::Backup, &without, None), "422");
            assert_eq!(backups(Some(&without), &all, None).unwrap_err().status().as_u16(), 422);
        }
        let listed = backups(Some(&resting), &all, None).unwrap().body;
        let states: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["status"].clone())
            .collect();
        assert_eq!(states, ["creating", "available", "failed"]);
        assert_eq!(
            backups(Some(&resting), &all, Some("good")).unwrap().body["id"],
            json!("good")
        );
    }
}
