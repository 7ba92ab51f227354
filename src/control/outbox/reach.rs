//! Whether the API server is there. While it is away one row at a time tries it, later and later: to try all would cost
//! Postgres a commit and the log a line for each, again and again.

use std::time::Duration;

use super::super::Error;

/// The least and the most between two tries.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// What an attempt to write says of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It answered.
    Yes,
    /// There is no connection.
    No,
    /// It was not asked, or was slow.
    Unknown,
}

impl Reached {
    /// What the outcome of an attempt says.
    pub fn of(written: &Result<(), Error>) -> Self {
        match written {
            Ok(()) | Err(Error::Kube(kube::Error::Api(_))) => Self::Yes,
            Err(Error::Kube(kube::Error::Service(_) | kube::Error::HyperError(_))) => Self::No,
            Err(_) => Self::Unknown,
        }
    }
}

/// How the API server was found to be.
#[derive(Debug, Default)]
pub struct Reach {
    /// How long is waited before the next try, while it is away.
    pause: Option<Duration>,
}

impl Reach {
    /// Whether it is away.
    pub fn is_away(&self) -> bool {
        self.pause.is_some()
    }

    /// Takes note of an attempt, of which it may have been the last under way. Returns in how long to go on, if that
    /// changes.
    pub fn found(&mut self, reached: Reached, last: bool) -> Option<Duration> {
        match (reached, self.pause) {
            (Reached::Yes, Some(_)) => {
                self.pause = None;
                tracing::info!("the API server is reached again; orders are written");
                Some(Duration::ZERO)
            }
            (Reached::No, None) => {
                self.pause = Some(SHORTEST);
                tracing::warn!("the API server cannot be reached; orders wait, and one at a time tries it");
                Some(SHORTEST)
            }
            (Reached::No, Some(pause)) if last => {
                let pause = (pause * 2).min(LONGEST);
                self.pause = Some(pause);
                Some(pause)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_is_tried_later_and_later() {
        let mut reach = Reach::default();
        assert_eq!(reach.found(Reached::Yes, true), None);
        assert_eq!(reach.found(Reached::No, false), Some(SHORTEST));
        // The others that were under way then say nothing new.
        for _ in 0..40 {
            assert_eq!(reach.found(Reached::No, false), None);
        }
        assert!(reach.is_away());
        let pauses: Vec<_> = (0..7).filter_map(|_| reach.found(Reached::No, true)).collect();
        assert_eq!(pauses[0], SHORTEST * 2);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[6], LONGEST);
    }

    #[test]
    fn the_first_answer_opens_the_way() {
        let mut reach = Reach::default();
        reach.found(Reached::No, true);
        assert_eq!(reach.found(Reached::Unknown, true), None, "a slow answer is none");
        assert!(reach.is_away());
        assert_eq!(reach.found(Reached::Yes, true), Some(Duration::ZERO));
        assert!(!reach.is_away());
    }

    #[test]
    fn an_answer_that_refuses_is_one() {
        let refused: kube::core::Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403,
        }))
        .unwrap();
        let refused = Err(Error::Kube(kube::Error::Api(Box::new(refused))));
        assert_eq!(Reached::of(&refused), Reached::Yes);
        let broken = kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
        assert_eq!(Reached::of(&Err(Error::Kube(broken))), Reached::No);
        assert_eq!(Reached::of(&Err(Error::Deadline)), Reached::Unknown);
    }
}
