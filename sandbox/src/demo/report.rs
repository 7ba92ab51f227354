//! What the demo says, and how it fails.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

/// The column that times stand in.
const WIDTH: usize = 96;

/// The step that failed, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("error: {step}: {why}{log}")]
pub struct Failure {
    step: String,
    why: String,
    log: String,
}

impl Failure {
    /// A failure of a step.
    pub fn new(step: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            step: step.into(),
            why: why.to_string(),
            log: String::new(),
        }
    }

    /// Adds the end of the broker's log, which is gone when the demo is.
    pub(super) fn with_log(mut self, tail: &str) -> Self {
        self.log = format!("\nThe end of the broker's log:\n{tail}");
        self
    }
}

/// Writes each step with its time.
pub(super) struct Report {
    start: Instant,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Nobody reading is no reason to fail: what the demo shows is in its exit code, too.
    pub(super) fn say(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    pub(super) fn chapter(&self, title: &str) {
        self.say(&format!("\n{title}"));
    }

    /// Does a step, which returns what the next ones need and a word on what happened.
    pub(super) async fn step<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<(T, String), String>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        match work.await {
            Ok((value, detail)) => {
                self.say(&line('✓', name, &detail, start.elapsed()));
                Ok(value)
            }
            Err(why) => {
                self.say(&line('✗', name, "failed", start.elapsed()));
                Err(Failure::new(name, why))
            }
        }
    }

    /// Says something that a program printed.
    pub(super) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.say(format!("      {line}").trim_end());
        }
    }

    pub(super) fn conclude(&self, remain: &str) {
        self.say(&format!(
            "\nLeft in ElastiCache, in the cluster and in the ledger: {remain}. All of it took {:.1} s.",
            self.start.elapsed().as_secs_f64()
        ));
    }
}

fn line(mark: char, name: &str, detail: &str, time: Duration) -> String {
    let text = match detail {
        "" => format!("  {mark} {name}"),
        detail => format!("  {mark} {name}: {detail}"),
    };
    format!("{text:<WIDTH$}{:>7.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_below_each_other() {
        let short = line('✓', "a", "", Duration::from_millis(5));
        let long = line('✗', "a longer name", "and a word", Duration::from_millis(12_345));
        assert_eq!(short.chars().count(), long.chars().count());
        assert!(long.ends_with("  12.35 s") || long.ends_with("  12.34 s"), "{long}");
    }

    #[tokio::test]
    async fn a_failure_names_its_step() {
        let failed = Report::new()
            .step("bind", async { Err::<((), String), _>("answered 500".to_owned()) })
            .await;
        let failure = failed.unwrap_err().with_log("a line");
        assert_eq!(
            failure.to_string(),
            "error: bind: answered 500\nThe end of the broker's log:\na line"
        );
    }
}
