//! The rules of the custom resources, as the types carry them. The end-to-end tests put the same table to the API server.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../tests/common/cel_cases.rs"]
mod cel_cases;

use cel_cases::Case;
use kube::core::cel::{validate_cel, validate_cel_update};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CacheInstance, CachePlan};

fn judge<K: DeserializeOwned, E: ToString>(cases: &[Case], validate: impl Fn(&K, Option<&K>) -> Result<(), E>) {
    let read = |value: &Value| serde_json::from_value::<K>(value.clone()).unwrap();
    for case in cases {
        let old = case.old.as_ref().map(read);
        let verdict = validate(&read(&case.new), old.as_ref()).map_err(|error| error.to_string());
        match case.refused {
            None => assert_eq!(verdict, Ok(()), "{}: {}", case.what, case.new),
            Some(part) => assert!(
                verdict.as_ref().is_err_and(|message| message.contains(part)),
                "{}: {} was not refused with {part:?} but: {verdict:?}",
                case.what,
                case.new
            ),
        }
    }
}

#[test]
fn the_rules_of_plans() {
    judge(&cel_cases::plans(), |new: &CachePlan, old| match old {
        Some(old) => validate_cel_update(new, old),
        None => validate_cel(new),
    });
}

#[test]
fn the_rules_of_instances() {
    judge(&cel_cases::instances(), |new: &CacheInstance, old| match old {
        Some(old) => validate_cel_update(new, old),
        None => validate_cel(new),
    });
}
