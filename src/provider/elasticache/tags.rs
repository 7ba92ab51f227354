//! Tags on caches: whose they are, for whom, and from which plan; and how they are corrected when that changes.
//!
//! The API tells and takes tags only while a cache is available, and writing them makes it busy for a while; it refuses
//! with a 404 for caches that exist. So tags are read once after they may have changed, and one call is made at a time.
//! Which keys are ours stands in the instance's status: tags that somebody else put there are left alone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Desired;
use super::{OWNER_TAG, Ownership, RELEASED};
use crate::api::{ElastiCacheSpec, Owner};
use crate::digest::sha256_hex;

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// Begins the keys that are ours on every cache.
const OURS: &str = "cache.akkeris.io/";

/// What is known of the tags that were put on a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// Every key that may have been put there.
    pub keys: BTreeSet<String>,
    /// What they say, as a digest, once that was read back.
    pub digest: Option<String>,
}

/// What is to be done about the tags of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// Nothing: they are as they are to be, or cannot be told now.
    Rest,
    /// They were read, and are as they are to be: this is to be kept.
    Proven(Tagged),
    /// Write these. What is to be kept of it stands first, before the call.
    Write(Tagged, Tags),
    /// Take these keys away.
    Erase(Tagged, Vec<String>),
}

/// Whose a cache is, by its tags; they could not be read if absent.
pub fn ownership(tags: Option<&Tags>, uid: &str) -> Ownership {
    match tags.map(|tags| tags.get(OWNER_TAG).map(String::as_str)) {
        None => Ownership::Unreadable,
        Some(Some(owner)) if owner == uid => Ownership::Ours,
        Some(None | Some(RELEASED)) => Ownership::Unowned,
        Some(Some(_)) => Ownership::Foreign,
    }
}

/// Whether the tags of a cache are known to be as they are to be, so that they need not be read.
pub fn is_proven(tagged: &Tagged, wanted: &Tags) -> bool {
    tagged.digest.as_ref() == Some(&digest_of(wanted))
}

/// What is to be done about the tags of a cache, by what is known of them and what was read.
pub fn tagging(wanted: &Tags, tagged: &Tagged, live: Option<&Tags>) -> Tagging {
    let Some(live) = live.filter(|_| !is_proven(tagged, wanted)) else {
        return Tagging::Rest;
    };
    let known = live.keys().filter(|key| key.starts_with(OURS)).chain(&tagged.keys);
    let kept = Tagged {
        keys: known.chain(wanted.keys()).cloned().collect(),
        digest: None,
    };
    let missing: Tags = wanted
        .iter()
        .filter(|(key, value)| live.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let stale: Vec<_> = kept
        .keys
        .iter()
        .filter(|key| live.contains_key(*key) && !wanted.contains_key(*key))
        .cloned()
        .collect();
    if !missing.is_empty() {
        Tagging::Write(kept, missing)
    } else if !stale.is_empty() {
        Tagging::Erase(kept, stale)
    } else {
        Tagging::Proven(Tagged {
            keys: wanted.keys().cloned().collect(),
            digest: Some(digest_of(wanted)),
        })
    }
}

/// The tags that a cache is to have: the plan's, the owner's, and ours, which win.
pub fn wanted(desired: &Desired, spec: &ElastiCacheSpec) -> Tags {
    let Owner {
        organization,
        space,
        instance_name,
        labels,
    } = &desired.owner;
    let mut tags: Tags = spec
        .tags
        .iter()
        .chain(labels)
        .map(|(key, value)| (key.clone(), tag_value(value)))
        .collect();
    let named = [
        ("organization", organization),
        ("space", space),
        ("instance-name", instance_name),
    ];
    for (key, value) in named {
        if let Some(value) = value {
            tags.insert(format!("{OURS}{key}"), tag_value(value));
        }
    }
    tags.insert(format!("{OURS}plan"), tag_value(&desired.plan_name));
    tags.insert(
        format!("{OURS}instance"),
        format!("{}/{}", desired.namespace, desired.name),
    );
    tags.insert(OWNER_TAG.to_owned(), desired.uid.clone());
    tags
}

/// A text as a tag value: at most 256 letters, digits, spaces and `_ . : / = + - @`
/// (AWS, "Tag naming limits and requirements").
fn tag_value(text: &str) -> String {
    let value: String = text
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || " _.:/=+-@".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(256)
        .collect();
    value.trim().to_owned()
}

fn digest_of(tags: &Tags) -> String {
    let text = tags.iter().fold(String::new(), |text, (key, value)| {
        // Neither may hold a line feed.
        text + key + "\n" + value + "\n"
    });
    sha256_hex(text, 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{desired, redis};
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn an_owner_that_changes_is_written_and_what_was_said_of_the_one_before_is_taken_away() {
        let before = tags(&[("team", "a"), ("cost", "1"), (OWNER_TAG, "u")]);
        let proven = Tagged {
            keys: before.keys().cloned().collect(),
            digest: Some(digest_of(&before)),
        };
        assert_eq!(tagging(&before, &proven, Some(&before)), Tagging::Rest);
        let after = tags(&[("team", "b"), (OWNER_TAG, "u")]);
        assert_eq!(tagging(&after, &proven, None), Tagging::Rest, "they cannot be told now");
        let mut live = before;
        live.insert("somebody".to_owned(), "else".to_owned());
        let Tagging::Write(kept, missing) = tagging(&after, &proven, Some(&live)) else {
            panic!()
        };
        assert_eq!(missing, tags(&[("team", "b")]));
        live.extend(missing);
        let Tagging::Erase(kept, stale) = tagging(&after, &kept, Some(&live)) else {
            panic!()
        };
        assert_eq!(stale, ["cost"]);
        live.remove("cost");
        let Tagging::Proven(kept) = tagging(&after, &kept, Some(&live)) else {
            panic!()
        };
        assert!(is_proven(&kept, &after));
        assert!(live.contains_key("somebody"), "what others put there stays");
    }

    #[test]
    fn ours_win_and_values_are_as_aws_takes_them() {
        let mut desired = desired(redis());
        desired.owner.labels = [
            (OWNER_TAG.to_owned(), "stolen".to_owned()),
            ("note".to_owned(), " a;b\u{1f980} ".to_owned()),
        ]
        .into();
        let spec = desired.plan.elasticache.clone().unwrap();
        let wanted = wanted(&desired, &spec);
        assert_eq!(wanted[OWNER_TAG], desired.uid);
        assert_eq!(wanted["note"], "a-b-");
    }

    proptest! {
        /// Whatever the tags are, whatever was known of them, and wherever it is interrupted: it ends with the wanted
        /// tags beside those of others.
        #[test]
        fn it_ends_with_what_is_wanted(
            wishes in prop::collection::vec((prop::collection::btree_map("[abc]", "[xy]", 0..4), 0usize..4), 1..5),
            others in prop::collection::btree_map("[mn]", "[xy]", 0..3),
            lost: bool,
        ) {
            let (mut live, mut tagged): (Tags, Tagged) = (others.clone(), Tagged::default());
            let count = wishes.len();
            for (nth, (wanted, steps)) in wishes.into_iter().enumerate() {
                let last = nth + 1 == count;
                for step in 0..if last { 9 } else { steps } {
                    match tagging(&wanted, &tagged, Some(&live)) {
                        Tagging::Rest => break,
                        Tagging::Proven(kept) => tagged = kept,
                        // The call that was on record may not have been made.
                        Tagging::Write(kept, _) | Tagging::Erase(kept, _) if lost && step == 0 => tagged = kept,
                        Tagging::Write(kept, missing) => {
                            tagged = kept;
                            live.extend(missing);
                        }
                        Tagging::Erase(kept, stale) => {
                            tagged = kept;
                            live.retain(|key, _| !stale.contains(key));
                        }
                    }
                }
                if last {
                    let mut expected = wanted.clone();
                    expected.extend(others.clone());
                    prop_assert_eq!(&live, &expected);
                    prop_assert!(is_proven(&tagged, &wanted));
                }
            }
        }
    }
}
