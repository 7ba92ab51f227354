//! What ElastiCache says happened to caches (`DescribeEvents`), and which of it is news.
//!
//! The API keeps events for a while and tells them late, in pages, without ids. They are read with the poller's looks,
//! from a little before the last one read; what was told already is known by what it says.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;

use crate::api::{CacheInstance, Topology};

/// How late an event may come to light.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// How far back is read when nothing was read before: a leader that went may not have told.
const FIRST: SignedDuration = SignedDuration::from_mins(10);
/// How many events are remembered at most; beyond that some may be told twice, which their names make one.
const REMEMBERED: usize = 10_000;

/// An event as the API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// What kind of source it has.
    pub topology: Topology,
    /// The replication group or cache cluster, which may be a member of a group.
    pub source: String,
    /// What happened.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Something that happened to the cache of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// The instance.
    pub instance: ObjectRef<CacheInstance>,
    /// The replication group or cache cluster, or a member of the group.
    pub source: String,
    /// What happened.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// How far events were read.
#[derive(Debug, Default)]
pub struct Heard {
    until: Option<Timestamp>,
    seen: HashSet<Told>,
}

impl Heard {
    /// From when on events are to be read now.
    pub fn since(&self, now: Timestamp) -> Timestamp {
        let back = |from: Timestamp, by| from.checked_sub(by).unwrap_or(Timestamp::MIN);
        self.until.map_or_else(|| back(now, FIRST), |until| back(until, LATE))
    }

    /// What of the events that were read at a time is news. Where more are left to be read, the next look goes on from
    /// the last of these.
    pub fn news(&mut self, told: Vec<Told>, all: bool, asked: Timestamp) -> Vec<Told> {
        let since = self.since(asked);
        let last = told.iter().map(|told| told.at).max().unwrap_or(asked);
        let until = if all { asked } else { last.min(asked) };
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        // The API tells no more of what is older.
        self.seen.retain(|seen| seen.at >= since);
        let mut news: Vec<_> = told.into_iter().filter(|told| !self.seen.contains(told)).collect();
        news.sort_by_key(|told| told.at);
        news.dedup();
        let room = REMEMBERED.saturating_sub(self.seen.len());
        self.seen.extend(news.iter().take(room).cloned());
        news
    }
}

/// The replication group that a cache cluster of this id would be a member of: `<group>-001`, `<group>-0001-001`.
pub fn group_of(member: &str) -> impl Iterator<Item = &str> {
    let cut = |id: &'_ str| -> Option<usize> {
        let at = id.rfind('-')?;
        let digits = id.get(at + 1..)?;
        (digits.len() >= 3 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(at)
    };
    let group = cut(member).and_then(|at| member.get(..at));
    let of_shard = group.and_then(|group| group.get(..cut(group)?));
    group.into_iter().chain(of_shard)
}

/// Whether somebody should look at what happened. The API tells it in words only.
pub fn is_trouble(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "fail", "insufficient", "unable", "error", "incompatible", "not enough", "unavailable", "unreachable",
        "recover", "expired", "exceed",
    ]
    .iter()
    .any(|word| message.contains(word))
        // "Failover complete" is how a failure ends well, and is worth a look all the same.
        && !message.contains("snapshot succeeded")
}

/// How long reading events may go on beside a look that takes so many pages: half as many, at least one.
pub fn pages(of_list: usize) -> usize {
    (of_list / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(message: &str, second: i64) -> Told {
        Told {
            topology: Topology::CacheCluster,
            source: "c".to_owned(),
            message: message.to_owned(),
            at: at(second),
        }
    }

    #[test]
    fn each_event_is_news_once_also_if_it_comes_late() {
        let mut heard = Heard::default();
        assert_eq!(heard.since(at(1000)), at(400));
        assert_eq!(heard.news(vec![told("a", 990)], true, at(1000)), [told("a", 990)]);
        assert_eq!(heard.since(at(1010)), at(970));
        let news = heard.news(vec![told("a", 990), told("b", 985)], true, at(1010));
        assert_eq!(news, [told("b", 985)], "it came late");
        let news = heard.news(vec![told("a", 990), told("a", 1012), told("a", 1012)], true, at(1020));
        assert_eq!(news, [told("a", 1012)], "the same again later is another one");
    }

    #[test]
    fn what_did_not_fit_into_the_pages_is_read_next() {
        let mut heard = Heard::default();
        heard.news(vec![told("a", 500)], false, at(1000));
        assert_eq!(heard.since(at(1001)), at(470));
        heard.news(vec![told("a", 500), told("b", 900)], true, at(1001));
        assert_eq!(heard.since(at(1002)), at(971));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut heard = Heard::default();
        for round in 0..3 {
            let events = (0..9000).map(|n| told(&format!("{round} {n}"), 990)).collect();
            heard.news(events, true, at(1000));
        }
        assert!(heard.seen.len() <= REMEMBERED);
        heard.news(Vec::new(), true, at(2000));
        heard.news(Vec::new(), true, at(2001));
        assert!(heard.seen.is_empty());
    }

    #[test]
    fn members_are_known_by_the_id_of_their_group() {
        for (member, groups) in [
            ("rg-001", &["rg"][..]),
            ("rg-0001-001", &["rg-0001", "rg"]),
            ("my-cache-12", &[]),
            ("cache", &[]),
            ("-001", &[""]),
        ] {
            assert_eq!(group_of(member).collect::<Vec<_>>(), groups, "{member}");
        }
    }

    #[test]
    fn trouble_is_told_from_its_words() {
        for message in [
            "Insufficient capacity in the availability zone",
            "Failed to create a node",
            "Failover from master node a to replica node b completed",
        ] {
            assert!(is_trouble(message), "{message}");
        }
        for message in [
            "Cache cluster created",
            "Snapshot succeeded for snapshot with ID 'failed-x'",
        ] {
            assert!(!is_trouble(message), "{message}");
        }
    }
}
