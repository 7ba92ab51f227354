//! What Argo CD and Flux make of an instance, by the samples that the project ships, for a stored object of every state.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;

use cel::{Context, Program, Value as CelValue, to_value};
use mlua::{Lua, LuaSerdeExt, Table};
use serde_json::Value;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

struct State {
    name: String,
    object: Value,
    argo: String,
    flux: String,
}

fn states() -> Vec<State> {
    let text = fs::read_to_string(format!("{PROJECT}/tests/gitops/states.yaml")).unwrap();
    let states: Vec<Value> = serde_yaml::from_str(&text).unwrap();
    let text = |state: &Value, field: &str| state[field].as_str().unwrap().to_owned();
    states
        .iter()
        .map(|state| State {
            name: text(state, "state"),
            object: state["object"].clone(),
            argo: text(state, "argo"),
            flux: text(state, "flux"),
        })
        .collect()
}

/// Every word that `kubectl get` shows as STATUS has its object here.
#[test]
fn every_state_is_stored() {
    let stored: BTreeSet<_> = states()
        .iter()
        .filter_map(|state| {
            let conditions = state.object["status"]["conditions"].as_array()?.clone();
            let ready = conditions
                .iter()
                .find(|condition| condition["type"] == "Ready")?
                .clone();
            Some(ready["reason"].as_str()?.to_owned())
        })
        .collect();
    for reason in [
        "Creating",
        "Available",
        "Updating",
        "Restarting",
        "Restoring",
        "Snapshotting",
        "Deleting",
        "Paused",
        "Failed",
    ] {
        assert!(stored.contains(reason), "{reason} is not among {stored:?}");
    }
    // And they are objects that the API server would take.
    for state in states() {
        let object = state.object.clone();
        serde_json::from_value::<cache_broker::api::CacheInstance>(object)
            .unwrap_or_else(|error| panic!("{}: {error}", state.name));
    }
}

#[test]
fn argo_cd_calls_them_by_their_names() {
    let script = fs::read_to_string(format!("{PROJECT}/examples/health-argocd.lua")).unwrap();
    for state in states() {
        // Argo CD's Lua is 5.1, without libraries that reach out.
        let lua = Lua::new();
        lua.globals().set("obj", lua.to_value(&state.object).unwrap()).unwrap();
        let health: Table = lua.load(&script).eval().unwrap();
        assert_eq!(health.get::<String>("status").unwrap(), state.argo, "{}", state.name);
        assert!(!health.get::<String>("message").unwrap().is_empty(), "{}", state.name);
    }
}

#[test]
fn flux_waits_for_what_goes_on_and_gives_up_on_what_is_stalled() {
    let text = fs::read_to_string(format!("{PROJECT}/examples/flux-healthchecks.yaml")).unwrap();
    let kustomization: Value = serde_yaml::from_str(&text).unwrap();
    let exprs = kustomization["spec"]["healthCheckExprs"][0].as_object().unwrap();
    assert_eq!(
        (&exprs["apiVersion"], &exprs["kind"]),
        (&"cache.akkeris.io/v1alpha1".into(), &"CacheInstance".into())
    );
    for state in states() {
        let holds = |name: &str| {
            let program = Program::compile(exprs[name].as_str().unwrap()).unwrap();
            let mut context = Context::default();
            let members = state.object.as_object().unwrap();
            for name in ["metadata", "spec", "status"] {
                let member = members
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                context.add_variable_from_value(name, to_value(member).unwrap());
            }
            let outcome = program.execute(&context);
            match outcome.unwrap_or_else(|error| panic!("{}: {name}: {error}", state.name)) {
                CelValue::Bool(holds) => holds,
                other => panic!("{}: {name} is {other:?}", state.name),
            }
        };
        // Flux looks at what failed first.
        let flux = match (holds("failed"), holds("current")) {
            (true, _) => "Failed",
            (false, true) => "Current",
            (false, false) => "InProgress",
        };
        assert_eq!(flux, state.flux, "{}", state.name);
    }
}
