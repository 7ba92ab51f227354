use std::error::Error as StdError;

use tokio_postgres::error::SqlState;

use super::seal::OpenError;

/// Why the ledger could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Postgres cannot be reached, or gave no connection in time.
    #[error("reaching Postgres: {0}")]
    Unavailable(String),
    /// Postgres refused a statement.
    #[error("{attempt}: {reason}")]
    Statement {
        /// What was attempted, on which row.
        attempt: String,
        /// What Postgres said.
        reason: String,
    },
    /// Something sealed cannot be opened.
    #[error("opening {place}: {source}")]
    Sealed {
        /// Where it stands.
        place: String,
        /// Why not.
        source: OpenError,
    },
    /// A row holds something that this version of the broker does not understand.
    #[error("reading {place}: {reason}")]
    Row {
        /// Which row and column.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A later leader has begun; this process leads no longer.
    #[error("this process led in epoch {ours}, and the present one is {current}: it leads no longer")]
    Fenced {
        /// The epoch this process led in.
        ours: i64,
        /// The present one.
        current: i64,
    },
    /// The migrations did not run.
    #[error("migrating the database: {0}")]
    Migration(String),
}

impl LedgerError {
    /// A refused statement.
    pub fn statement(attempt: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let attempt = attempt.into();
        move |error| {
            if error.as_db_error().is_none_or(|refusal| passes(refusal.code())) {
                Self::Unavailable(format!("{attempt}: {}", chain(&error)))
            } else {
                Self::Statement {
                    attempt,
                    reason: chain(&error),
                }
            }
        }
    }

    /// Whether trying again later may work without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Whether a refusal is of the server's state rather than of the statement (Postgres, appendix A: classes 08, 40, 53, 57,
/// and the read-only state of a standby), so that the same statement may work later.
fn passes(code: &SqlState) -> bool {
    ["08", "40", "53", "57"]
        .iter()
        .any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stops_is_not_the_statements_fault() {
        for code in ["57P01", "57014", "53300", "40P01", "08006", "25006"] {
            assert!(passes(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "42P01", "22P02"] {
            assert!(!passes(&SqlState::from_code(code)), "{code}");
        }
    }
}
