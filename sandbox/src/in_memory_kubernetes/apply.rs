//! Patches: JSON merge patches (RFC 7396), and server-side apply: who manages which field, and what goes when its last
//! manager does not apply it any more. Conflicts are not found: whoever applies here forces.

use std::collections::{BTreeMap, BTreeSet};

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
/// Lists whose items are what they are.
const SETS: &[&str] = &["finalizers"];
/// What of an object's metadata is managed.
const METADATA: &[&str] = &["labels", "annotations", "ownerReferences", "finalizers"];

/// A step of the way to a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Member(String),
    /// An item of a list: the text of what identifies it.
    Item(String),
}

type Path = Vec<Part>;

/// The fields that a manager has.
pub(super) type Fields = BTreeSet<Path>;

/// Who manages which fields: appliers, and those who write otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(BTreeMap<(Manner, String), Fields>);

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Apply,
    Update,
}

impl Managers {
    /// Those of an object that somebody changed otherwise than by applying: what changed is theirs alone.
    pub(super) fn updated(mut self, manager: &str, before: &Value, after: &Value) -> Self {
        let (before, after) = (leaves(before), leaves(after));
        self.lose(&before, &after);
        let changed = after.iter().filter(|(path, value)| before.get(*path) != Some(value));
        let changed: Vec<_> = changed.map(|(path, _)| path.clone()).collect();
        if !changed.is_empty() {
            let theirs = self.0.entry((Manner::Update, manager.to_owned())).or_default();
            theirs.extend(changed);
        }
        self.0.retain(|_, fields| !fields.is_empty());
        self
    }

    /// Applies a configuration to an object. Returns the managers it has then.
    pub(super) fn apply(mut self, manager: &str, live: &mut Value, wanted: &Value) -> Self {
        let wanted = managed(wanted);
        let key = (Manner::Apply, manager.to_owned());
        let theirs: Fields = leaves(&wanted).into_keys().collect();
        let had = self.0.remove(&key).unwrap_or_default();
        let before = leaves(live);
        merge_in("", live, &wanted);
        for gone in had.difference(&theirs) {
            if !self.0.values().any(|fields| fields.contains(gone)) {
                remove(live, gone);
            }
        }
        self.lose(&before, &leaves(live));
        self.0.retain(|_, fields| !fields.is_empty());
        self.0.insert(key, theirs);
        self
    }

    /// Takes from everybody what is not as it was.
    fn lose(&mut self, before: &BTreeMap<Path, Value>, after: &BTreeMap<Path, Value>) {
        for fields in self.0.values_mut() {
            fields.retain(|path| before.get(path) == after.get(path));
        }
    }
}

/// What of an object is managed.
fn managed(object: &Value) -> Value {
    let Value::Object(members) = object else {
        return object.clone();
    };
    let mut members = members.clone();
    for name in ["apiVersion", "kind", "status"] {
        members.remove(name);
    }
    if let Some(Value::Object(metadata)) = members.get_mut("metadata") {
        metadata.retain(|name, _| METADATA.contains(&name.as_str()));
    }
    Value::Object(members)
}

fn key_of(list: &str) -> Option<&'static str> {
    KEYED.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

/// The leaves of what is managed of an object.
fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut into = BTreeMap::new();
    collect("", &managed(object), &mut Vec::new(), &mut into);
    into
}

fn collect(name: &str, value: &Value, at: &mut Path, into: &mut BTreeMap<Path, Value>) {
    let mut below = |part: Part, name: &str, value: &Value| {
        at.push(part);
        collect(name, value, at, into);
        at.pop();
    };
    match value {
        Value::Null => {}
        Value::Object(members) if !members.is_empty() || name == "metadata" => {
            for (name, value) in members {
                below(Part::Member(name.clone()), name, value);
            }
        }
        Value::Array(items) if SETS.contains(&name) => {
            for item in items {
                below(Part::Item(item.to_string()), "", item);
            }
        }
        Value::Array(items) => match key_of(name) {
            Some(key) => {
                for item in items {
                    below(Part::Item(identity(item, key)), "", item);
                }
            }
            None => drop(into.insert(at.clone(), value.clone())),
        },
        leaf => drop(into.insert(at.clone(), leaf.clone())),
    }
}

fn identity(item: &Value, key: &str) -> String {
    item.get(key).unwrap_or(&Value::Null).to_string()
}

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

/// Puts what is wanted into what is.
fn merge_in(name: &str, live: &mut Value, wanted: &Value) {
    match (wanted, live) {
        (Value::Object(wanted), live) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Value::Object(live) = live else { return };
            for (name, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
                merge_in(name, live.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(wanted), Value::Array(live)) if SETS.contains(&name) => {
            for item in wanted {
                if !live.contains(item) {
                    live.push(item.clone());
                }
            }
        }
        (Value::Array(wanted), Value::Array(live)) if key_of(name).is_some() => {
            let key = key_of(name).unwrap_or_default();
            for item in wanted {
                match live.iter_mut().find(|live| live.get(key) == item.get(key)) {
                    Some(live) => merge_in("", live, item),
                    None => live.push(item.clone()),
                }
            }
        }
        (wanted, live) => *live = wanted.clone(),
    }
}

/// Takes a field away; an item of a list goes with what identifies it.
fn remove(live: &mut Value, path: &[Part]) {
    remove_from("", live, path);
}

fn remove_from(name: &str, live: &mut Value, path: &[Part]) {
    let Some((part, rest)) = path.split_first() else {
        return;
    };
    match (part, live) {
        (Part::Member(member), Value::Object(members)) => {
            if rest.is_empty() {
                members.remove(member);
            } else if let Some(below) = members.get_mut(member) {
                remove_from(member, below, rest);
            }
        }
        (Part::Item(item), Value::Array(items)) => {
            let key = key_of(name);
            let is_it = |value: &Value| match key {
                Some(key) => identity(value, key) == *item,
                None => item.parse::<Value>().is_ok_and(|item| item == *value),
            };
            let identifies = match (key, rest) {
                (Some(key), [Part::Member(member)]) => member == key,
                (_, rest) => rest.is_empty(),
            };
            if identifies {
                items.retain(|value| !is_it(value));
            } else if let Some(below) = items.iter_mut().find(|value| is_it(value)) {
                remove_from("", below, rest);
            }
        }
        _ => {}
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
        let owned = |uids: &[&str]| {
            let owners: Vec<_> = uids.iter().map(|uid| json!({ "uid": uid })).collect();
            json!({ "ownerReferences": owners })
        };
        let mut live = json!({});
        let first = json!({ "a": 1, "b": { "c": 2 }, "metadata": owned(&["1"]) });
        let managers = Managers::default().apply("one", &mut live, &first);
        let before = live.clone();
        live["b"]["theirs"] = json!(true);
        live["metadata"] = owned(&["1", "2"]);
        let managers = managers.updated("somebody", &before, &live);
        let second = json!({ "b": {}, "metadata": owned(&["3"]) });
        managers.apply("one", &mut live, &second);
        assert_eq!(live, json!({ "b": { "theirs": true }, "metadata": owned(&["2", "3"]) }));
    }

    #[test]
    fn what_two_apply_stays_until_neither_does() {
        let mut live = json!({});
        let managers = Managers::default().apply("one", &mut live, &json!({ "a": 1, "b": 1 }));
        let managers = managers.apply("other", &mut live, &json!({ "a": 1 }));
        let managers = managers.apply("one", &mut live, &json!({ "b": 1 }));
        assert_eq!(live, json!({ "a": 1, "b": 1 }));
        managers.apply("other", &mut live, &json!({}));
        assert_eq!(live, json!({ "b": 1 }));
    }
}
