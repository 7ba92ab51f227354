//! Until when AWS supports the versions of an engine.
//!
//! The dates are AWS's own and change seldom: they stand in [`ENDS`] and nowhere else. Which versions can be ordered is
//! asked of the API (`DescribeCacheEngineVersions`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::Offset;

use super::super::EngineSupport;
use crate::api::{EngineType, Order, compare_versions};

/// When support of some versions ends.
struct End {
    engine: EngineType,
    /// Every version that is this one, as loosely as it says.
    version: &'static str,
    /// The last day of standard support.
    standard: Date,
    /// The last day of extended support, which is billed; then AWS upgrades by force. Absent where it is not announced.
    extended: Option<Date>,
}

/// As of November 2026 (ElastiCache user guide, "Extended support versions and end of life").
const ENDS: &[End] = &[
    End {
        engine: EngineType::Redis,
        version: "4",
        standard: date(2026, 1, 31),
        extended: Some(date(2029, 1, 31)),
    },
    End {
        engine: EngineType::Redis,
        version: "5",
        standard: date(2026, 1, 31),
        extended: Some(date(2029, 1, 31)),
    },
    End {
        engine: EngineType::Redis,
        version: "6",
        standard: date(2027, 1, 31),
        extended: None,
    },
];

/// The versions that can be ordered, by engine, as the API lists them.
pub type Offered = BTreeMap<EngineType, Vec<String>>;

/// Whether AWS supports what a cache runs. What is not known to be offered, because the API was not asked yet, is not
/// held against it.
pub fn support(engine: EngineType, version: &str, offered: Option<&Offered>, now: Timestamp) -> EngineSupport {
    let today = Offset::UTC.to_datetime(now).date();
    let is = |other: &str| compare_versions(version, other) == Order::Same;
    let end = ENDS.iter().find(|end| end.engine == engine && is(end.version));
    let mend = "move the instance to a plan of a later version";
    let say = |supported: bool, reason: &'static str, message: String| EngineSupport {
        supported,
        reason,
        message,
    };
    match end {
        Some(End {
            standard,
            extended: Some(extended),
            ..
        }) if today > *extended => say(
            false,
            "EndOfLife",
            format!(
                "support of {engine} {version} ended on {standard}, and its extended support on {extended}: AWS upgrades it by force; {mend}"
            ),
        ),
        Some(End { standard, extended, .. }) if today > *standard => {
            let until = extended.map_or_else(String::new, |extended| {
                format!(" until {extended}, when AWS upgrades it by force")
            });
            say(
                false,
                "ExtendedSupport",
                format!(
                    "standard support of {engine} {version} ended on {standard}: AWS bills extended support{until}; {mend}"
                ),
            )
        }
        end => {
            let versions = offered.and_then(|offered| offered.get(&engine));
            if versions.is_some_and(|versions| !versions.iter().any(|listed| is(listed))) {
                let message = format!("ElastiCache does not offer {engine} {version} any more: {mend}");
                return say(false, "NotOffered", message);
            }
            match end {
                Some(End { standard, .. }) => say(
                    true,
                    "Ending",
                    format!("AWS supports {engine} {version} until {standard}: {mend} before"),
                ),
                None => say(true, "Supported", format!("AWS supports {engine} {version}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_day() {
        let offered: Offered = [
            (EngineType::Redis, vec!["6.2".to_owned(), "7.1".to_owned()]),
            (EngineType::Memcached, vec!["1.6.12".to_owned(), "1.6.22".to_owned()]),
        ]
        .into();
        for (engine, version, now, supported, reason) in [
            (EngineType::Redis, "5.0.6", "2026-01-31T23:59:59Z", false, "NotOffered"),
            (
                EngineType::Redis,
                "5.0.6",
                "2026-02-01T00:00:00Z",
                false,
                "ExtendedSupport",
            ),
            (
                EngineType::Redis,
                "4.0.10",
                "2029-01-31T12:00:00Z",
                false,
                "ExtendedSupport",
            ),
            (EngineType::Redis, "4.0.10", "2029-02-01T00:00:00Z", false, "EndOfLife"),
            (EngineType::Redis, "6.2.6", "2026-11-25T00:00:00Z", true, "Ending"),
            (
                EngineType::Redis,
                "6.2.6",
                "2027-02-01T00:00:00Z",
                false,
                "ExtendedSupport",
            ),
            (EngineType::Redis, "7.1.0", "2026-11-25T00:00:00Z", true, "Supported"),
            (EngineType::Redis, "7.0.7", "2026-11-25T00:00:00Z", false, "NotOffered"),
            // A patch that AWS brought by itself.
            (
                EngineType::Memcached,
                "1.6.23",
                "2026-11-25T00:00:00Z",
                true,
                "Supported",
            ),
            (
                EngineType::Memcached,
                "1.6.6",
                "2026-11-25T00:00:00Z",
                false,
                "NotOffered",
            ),
            // Of an engine that the list does not have nothing is known.
            (EngineType::Valkey, "8.0.1", "2026-11-25T00:00:00Z", true, "Supported"),
        ] {
            let said = support(engine, version, Some(&offered), now.parse().unwrap());
            assert_eq!(
                (said.supported, said.reason),
                (supported, reason),
                "{engine} {version}: {said:?}"
            );
            if reason == "ExtendedSupport" || reason == "Ending" {
                assert!(said.message.contains("-01-31"), "{}", said.message);
            }
        }
        let said = support(
            EngineType::Redis,
            "7.0.7",
            None,
            "2026-11-25T00:00:00Z".parse().unwrap(),
        );
        assert!(said.supported, "what was not asked for is not held against it");
    }
}
