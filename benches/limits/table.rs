//! What was measured: printed as a table, kept as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a measure is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    /// That share of the limit, or more.
    RatioAtLeast(f64),
    /// That multiple of the limit, or less.
    RatioAtMost(f64),
    /// That value, or less.
    AtMost(f64),
    /// That much more than the limit, or less.
    BeyondLimit(f64),
}

impl Goal {
    fn is_met(self, ours: f64, limit: Option<f64>) -> bool {
        let ratio = || limit.map(|limit| ours / limit);
        match self {
            Self::RatioAtLeast(least) => ratio().is_some_and(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio().is_some_and(|ratio| ratio <= most),
            Self::AtMost(most) => ours <= most,
            Self::BeyondLimit(most) => limit.is_some_and(|limit| ours - limit <= most),
        }
    }

    fn shown(self) -> String {
        match self {
            Self::RatioAtLeast(least) => format!("ratio >= {least}"),
            Self::RatioAtMost(most) => format!("ratio <= {most}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::BeyondLimit(most) => format!("limit + {most}"),
        }
    }
}

/// One measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What the broker does: the median of the rounds.
    pub ours: f64,
    /// What the machine does without it: the median of the rounds.
    pub limit: Option<f64>,
    /// The first by the second: the median of each round's.
    pub ratio: Option<f64>,
    /// Of what both are.
    pub unit: String,
    /// How often both were measured.
    pub rounds: usize,
    /// What it is to reach.
    pub goal: Goal,
    /// Whether it does.
    pub met: bool,
    /// When.
    pub measured_at: Timestamp,
}

impl Row {
    /// The row of some rounds, each of ours and the limit's figure.
    pub fn of(name: &str, unit: &str, goal: Goal, rounds: &[(f64, f64)]) -> Self {
        let ours = median(rounds.iter().map(|(ours, _)| *ours));
        let limit = median(rounds.iter().map(|(_, limit)| *limit));
        let ratio = median(rounds.iter().map(|(ours, limit)| ours / limit));
        let met = match goal {
            Goal::RatioAtLeast(least) => ratio >= least,
            Goal::RatioAtMost(most) => ratio <= most,
            goal => goal.is_met(ours, Some(limit)),
        };
        Self {
            name: name.to_owned(),
            ours,
            limit: Some(limit),
            ratio: Some(ratio),
            unit: unit.to_owned(),
            rounds: rounds.len(),
            goal,
            met,
            measured_at: Timestamp::now(),
        }
    }

    /// The row of a figure that has no limit beside it.
    pub fn alone(name: &str, unit: &str, goal: Goal, rounds: &[f64]) -> Self {
        let ours = median(rounds.iter().copied());
        Self {
            name: name.to_owned(),
            ours,
            limit: None,
            ratio: None,
            unit: unit.to_owned(),
            rounds: rounds.len(),
            goal,
            met: goal.is_met(ours, None),
            measured_at: Timestamp::now(),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    crate::load::quantile(values.collect(), 0.5)
}

/// Puts rows beside those that earlier runs left in a file, and returns all of them.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(path: &Path, rows: &[Row]) -> Result<Vec<Row>, String> {
    let before: Vec<Row> = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let mut all: BTreeMap<String, Row> = before.into_iter().map(|row| (row.name.clone(), row)).collect();
    all.extend(rows.iter().map(|row| (row.name.clone(), row.clone())));
    let all: Vec<_> = all.into_values().collect();
    let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(|error| format!("writing {}: {error}", path.display()))?;
    Ok(all)
}

/// Prints rows; of those that were not measured since `start` also when they were.
pub fn print(rows: &[Row], start: Timestamp) {
    println!(
        "{:<58} {:>12} {:>12} {:>7}  {:<8} {:<15} met",
        "measure", "ours", "limit", "ratio", "unit", "to reach"
    );
    for row in rows {
        let older = if row.measured_at < start {
            format!("  (measured {})", row.measured_at.strftime("%Y-%m-%d %H:%M"))
        } else {
            String::new()
        };
        println!(
            "{:<58} {:>12} {:>12} {:>7}  {:<8} {:<15} {}{older}",
            row.name,
            figure(row.ours),
            row.limit.map_or_else(|| "-".to_owned(), figure),
            row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.unit,
            row.goal.shown(),
            if row.met { "yes" } else { "NO" },
        );
    }
}

fn figure(value: f64) -> String {
    match value {
        value if value.abs() >= 100.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
