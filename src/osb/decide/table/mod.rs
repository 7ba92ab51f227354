//! The decision table: what is answered, row by row, each named by the [section](sections) of OSB 2.17 that says so. Rows
//! begin with a request as it is sent.

mod bindings;
mod instances;
mod sections;
mod surface;

use std::collections::BTreeSet;

use super::fixtures::*;
use super::*;
use crate::ledger::Judgement;

/// What is asked with `accepts_incomplete`.
const WAIT: &str = "accepts_incomplete=true";
/// What is begun.
const ACCEPTED: &str = "accepted";
/// What goes on, asked for once more.
const SAME: &str = "202 with the same operation";
const ASYNC: &str = "422 AsyncRequired";
const BUSY: &str = "422 ConcurrencyError";
const STALE: &str = "422 MaintenanceInfoConflict";
const GONE: &str = "410 {}";
const DONE: &str = "200 {}";

/// A row.
struct Row {
    section: &'static str,
    /// What was asked, of what.
    what: String,
    told: String,
    expected: String,
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn row(&mut self, section: &'static str, what: impl Into<String>, told: impl Into<String>, expected: &str) {
        self.0.push(Row {
            section,
            what: what.into(),
            told: told.into(),
            expected: expected.to_owned(),
        });
    }

    fn all() -> Vec<Row> {
        let mut table = Self::default();
        surface::rows(&mut table);
        instances::rows(&mut table);
        bindings::rows(&mut table);
        table.0
    }
}

fn refusal(error: &OsbError) -> String {
    let status = error.status().as_u16();
    match error.code() {
        Some(code) => format!("{status} {}", code.as_str()),
        None if error.description().is_empty() => format!("{status} {{}}"),
        None => status.to_string(),
    }
}

fn shown(reply: &Reply) -> String {
    match reply {
        Err(error) => refusal(error),
        Ok(answer) if *answer == Answer::accepted(operation_id()) => SAME.to_owned(),
        Ok(answer) => {
            let status = answer.status.as_u16();
            match (&answer.body["state"], &answer.body["credentials"]) {
                (Value::String(state), _) => format!("{status} {state}"),
                (_, Value::Object(_)) => format!("{status} with credentials"),
                _ if answer.body == json!({}) => format!("{status} {{}}"),
                _ => status.to_string(),
            }
        }
    }
}

fn judged<N>(judgement: &Judgement<Reply, N>) -> String {
    match judgement {
        Judgement::Accept(_) => ACCEPTED.to_owned(),
        Judgement::Answer(reply) => shown(reply),
    }
}

/// An object with some members changed; `null` takes one away.
fn with(mut object: Value, changes: Value) -> Value {
    for (name, value) in members(changes) {
        let object = object.as_object_mut().unwrap();
        if value.is_null() {
            object.remove(&name);
        } else {
            object.insert(name, value);
        }
    }
    object
}

#[test]
fn each_row_is_answered_as_its_section_says() {
    let wrong: Vec<_> = Table::all()
        .into_iter()
        .filter(|row| row.told != row.expected)
        .map(|row| {
            format!(
                "{}: {}: {} instead of {}",
                row.section, row.what, row.told, row.expected
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_row_names_a_section_of_the_specification_and_each_section_with_rules_has_a_row() {
    let named: BTreeSet<_> = Table::all().iter().map(|row| row.section).collect();
    let with_rules: BTreeSet<_> = sections::WITH_RULES.iter().copied().collect();
    let without: BTreeSet<_> = sections::WITHOUT_RULES.iter().copied().collect();
    assert_eq!(with_rules.intersection(&without).count(), 0);
    let unknown: Vec<_> = named.difference(&with_rules).collect();
    assert!(unknown.is_empty(), "no such section, or none with rules: {unknown:?}");
    let bare: Vec<_> = with_rules.difference(&named).collect();
    assert!(bare.is_empty(), "no row: {bare:?}");
}
