use serde_json::Value;

/// Whether everything that `desired` says stands in `live`. What `live` has beyond that was filled in by the server or
/// is somebody else's. Empty and null count as unsaid, since the API server leaves them out.
pub fn stands_in(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired
            .iter()
            .all(|(key, value)| is_empty(value) || live.get(key).is_some_and(|live| stands_in(value, live))),
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len() && desired.iter().zip(live).all(|(desired, live)| stands_in(desired, live))
        }
        (desired, live) => desired == live,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_adds_is_no_difference_and_what_somebody_changes_is() {
        let desired = json!({ "spec": { "replicas": 1, "args": ["-m", "10"], "egress": [], "selector": {} } });
        for (live, same) in [
            (
                json!({ "spec": { "replicas": 1, "args": ["-m", "10"], "added": true }, "status": {} }),
                true,
            ),
            (json!({ "spec": { "replicas": 2, "args": ["-m", "10"] } }), false),
            (json!({ "spec": { "replicas": 1, "args": ["-m", "10", "-v"] } }), false),
            (json!({ "spec": { "args": ["-m", "10"] } }), false),
            (json!({}), false),
        ] {
            assert_eq!(stands_in(&desired, &live), same, "{live}");
        }
    }
}
