//! Patches: JSON merge patches (RFC 7396), and server-side apply as far as one applier owns what it applies.

use serde_json::{Map, Value};

/// Lists whose items have an identity, by the list's name, and the member that is it.
const KEYED: &[(&str, &str)] = &[
    ("ownerReferences", "uid"),
    ("conditions", "type"),
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
];

/// Applies a merge patch.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(into) = into else { return };
    for (name, value) in patch {
        if value.is_null() {
            into.remove(name);
        } else {
            merge(into.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a configuration after an earlier one of the same applier: what that had and this has not goes.
pub(super) fn apply(live: &mut Value, before: Option<&Value>, wanted: &Value) {
    apply_at("", live, before, wanted);
}

fn apply_at(name: &str, live: &mut Value, before: Option<&Value>, wanted: &Value) {
    match wanted {
        Value::Object(wanted) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Value::Object(live) = live else { return };
            for gone in before.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
                if wanted.get(gone).is_none_or(Value::is_null) {
                    live.remove(gone);
                }
            }
            for (name, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
                let before = before.and_then(|before| before.get(name));
                apply_at(name, live.entry(name.clone()).or_insert(Value::Null), before, value);
            }
        }
        Value::Array(wanted) => {
            let key = KEYED.iter().find(|(list, _)| *list == name).map(|(_, key)| *key);
            match (key, live) {
                (Some(key), Value::Array(live)) => apply_list(key, live, before, wanted),
                (_, live) => *live = Value::Array(wanted.clone()),
            }
        }
        wanted => *live = wanted.clone(),
    }
}

fn apply_list(key: &str, live: &mut Vec<Value>, before: Option<&Value>, wanted: &[Value]) {
    let before: &[Value] = before.and_then(Value::as_array).map_or(&[], Vec::as_slice);
    let same = |one: &Value, other: &Value| one.get(key).is_some() && one.get(key) == other.get(key);
    live.retain(|item| {
        let was_ours = before.iter().any(|before| same(before, item));
        !was_ours || wanted.iter().any(|wanted| same(wanted, item))
    });
    for item in wanted {
        let before = before.iter().find(|before| same(before, item));
        match live.iter_mut().find(|live| same(live, item)) {
            Some(live) => apply_at("", live, before, item),
            None => live.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_takes_away_what_is_null() {
        let mut live = json!({ "a": 1, "b": { "c": 2, "d": 3 } });
        merge(&mut live, &json!({ "a": null, "b": { "c": 4 }, "e": [1] }));
        assert_eq!(live, json!({ "b": { "c": 4, "d": 3 }, "e": [1] }));
    }

    #[test]
    fn what_an_applier_does_not_apply_any_more_goes_and_what_others_set_stays() {
        let before = json!({ "a": 1, "b": { "c": 2 }, "ownerReferences": [{ "uid": "1" }] });
        let mut live = json!({
            "a": 1, "b": { "c": 2, "theirs": true }, "ownerReferences": [{ "uid": "1", "x": 1 }, { "uid": "2" }],
        });
        apply(
            &mut live,
            Some(&before),
            &json!({ "b": {}, "ownerReferences": [{ "uid": "3" }] }),
        );
        assert_eq!(
            live,
            json!({ "b": { "theirs": true }, "ownerReferences": [{ "uid": "2" }, { "uid": "3" }] })
        );
    }
}
