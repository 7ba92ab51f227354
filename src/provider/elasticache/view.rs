//! What is known of the caches of a region. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::client::OPERATION_TIMEOUT;
use super::{Live, Target};

/// How long after a call that makes something it may have its effect: what the SDK may take for it, and some more.
pub const LANDS: Duration = OPERATION_TIMEOUT.saturating_add(Duration::from_secs(15));

/// Caches, as they were last looked at.
#[derive(Debug, Default)]
pub struct Caches(HashMap<Target, Known>);

#[derive(Debug, Default)]
struct Known {
    look: Option<Look>,
    /// Since when it is not known any more how it is: what was asked earlier says nothing of it.
    doubted: Option<Instant>,
    /// When it was asked for, as long as no look has shown it since.
    asked_for: Option<Instant>,
    /// Whether a look has shown it, or it was refused: then it is not still to appear.
    settled: bool,
}

#[derive(Debug)]
struct Look {
    live: Option<Live>,
    /// When that was asked.
    at: Instant,
}

impl Caches {
    /// A cache as it was last seen, if it was: `Some(None)` is one that was seen to be gone.
    pub fn seen(&self, target: &Target) -> Option<Option<&Live>> {
        let look = self.0.get(target)?.look.as_ref()?;
        Some(look.live.as_ref())
    }

    /// Those that were there.
    pub fn there(&self) -> impl Iterator<Item = (&Target, &Live)> {
        self.0.iter().filter_map(|(target, known)| {
            let live = known.look.as_ref()?.live.as_ref()?;
            Some((target, live))
        })
    }

    /// Keeps what was seen of a cache, unless it may have changed since that was asked. Returns whether that is news.
    pub fn note(&mut self, target: &Target, live: Option<Live>, asked: Instant) -> bool {
        let known = self.0.entry(target.clone()).or_default();
        let is_later = known.look.as_ref().is_some_and(|look| look.at > asked);
        if is_later || known.doubted.is_some_and(|since| since > asked) {
            return false;
        }
        let is_news = known.look.as_ref().is_none_or(|look| look.live != live);
        if live.is_some() {
            known.settled = true;
            known.asked_for = None;
        }
        known.doubted = None;
        known.look = Some(Look { live, at: asked });
        is_news
    }

    /// Forgets how a cache was seen: a change was asked for whose outcome is not known. An answer that is under way may be of
    /// before it.
    pub fn doubt(&mut self, target: &Target, now: Instant) {
        let known = self.0.entry(target.clone()).or_default();
        known.look = None;
        known.doubted = Some(now);
    }

    /// Keeps that a cache was asked for. Whether that was heard or not, it may be some time until a look shows it.
    pub fn asked_for(&mut self, target: &Target, now: Instant) {
        let known = self.0.entry(target.clone()).or_default();
        known.asked_for = Some(now);
        known.settled = false;
    }

    /// Keeps that a cache was asked for and refused. What was asked for before may still come.
    pub fn refused(&mut self, target: &Target) {
        self.0.entry(target.clone()).or_default().settled = true;
    }

    /// For how long a cache that was not there may still appear, which others may have asked for until `others`; zero if that
    /// is over and nobody looked since.
    pub fn may_appear(&self, target: &Target, others: Instant, now: Instant) -> Option<Duration> {
        let known = self.0.get(target);
        let since = match known {
            Some(Known {
                asked_for: Some(asked), ..
            }) => *asked,
            Some(Known { settled: true, .. }) => return None,
            _ => others,
        };
        let until = since + LANDS;
        let look = known.and_then(|known| known.look.as_ref());
        let open = look.is_none_or(|look| look.at < until);
        open.then(|| until.saturating_duration_since(now))
    }

    /// Forgets all of a cache.
    pub fn forget(&mut self, target: &Target) {
        self.0.remove(target);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{made, memcached};
    use super::*;
    use crate::api::Topology;

    fn target() -> Target {
        Target {
            topology: Topology::CacheCluster,
            id: "cache".to_owned(),
        }
    }

    /// Else what was not made yet when it was described counts as gone, and nobody deletes it.
    #[test]
    fn what_was_asked_before_a_change_whose_answer_was_lost_says_nothing() {
        let (target, begin) = (target(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        let mut caches = Caches::default();
        // Described at 1, made at 2 without an answer: at 3 comes that there was none at 1.
        caches.doubt(&target, at(2));
        assert!(!caches.note(&target, None, at(1)));
        assert_eq!(caches.seen(&target), None);
        assert!(caches.note(&target, None, at(3)));
        assert_eq!(caches.seen(&target), Some(None));
        assert!(!caches.note(&target, None, at(4)), "no news");
        assert!(!caches.note(&target, Some(made(&memcached(), 0)), at(3)), "it is older");
    }

    #[test]
    fn what_is_not_there_may_appear_as_long_as_a_call_may_land() {
        let (target, began) = (target(), Instant::now());
        let at = |second| began + Duration::from_secs(second);
        let lands = LANDS.as_secs();
        let left = |caches: &Caches, second| caches.may_appear(&target, began, at(second));
        // Of the process before nobody knows what it asked for last.
        let mut caches = Caches::default();
        caches.note(&target, None, at(1));
        assert_eq!(left(&caches, 10), Some(LANDS - Duration::from_secs(10)));
        assert_eq!(
            left(&caches, lands + 5),
            Some(Duration::ZERO),
            "it is to be looked at anew"
        );
        caches.note(&target, None, at(lands + 5));
        assert_eq!(left(&caches, lands + 6), None);
        // A call of its own, whether it was answered or not: looks may not show at once what it made.
        for answer in [None, Some(made(&memcached(), 0))] {
            caches.note(&target, answer, at(100));
            caches.asked_for(&target, at(100));
            caches.note(&target, None, at(101));
            assert_eq!(left(&caches, 110), Some(LANDS - Duration::from_secs(10)));
        }
        caches.note(&target, None, at(100 + lands));
        assert_eq!(left(&caches, 101 + lands), None);
        // What a look has shown is there, or gone.
        caches.asked_for(&target, at(200));
        caches.note(&target, Some(made(&memcached(), 0)), at(201));
        caches.note(&target, None, at(202));
        assert_eq!(left(&caches, 203), None);
        // What was refused is not made, but for what was asked for before.
        caches.forget(&target);
        caches.refused(&target);
        assert_eq!(left(&caches, 1), None);
        caches.asked_for(&target, at(300));
        caches.refused(&target);
        assert_eq!(left(&caches, 301), Some(LANDS - Duration::from_secs(1)));
    }
}
