//! When a change that loses data or drops connections may be made.

use std::time::Duration;

use jiff::civil::Weekday;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// A weekly maintenance window in UTC, such as `sun:05:00-sun:06:00` (ElastiCache, `PreferredMaintenanceWindow`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes since the beginning of Monday.
    opens: u32,
    /// Minutes since the beginning of Monday; before `opens` where the window reaches into the next week.
    closes: u32,
}

const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;

impl Window {
    /// Reads a window; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (opens, closes) = text.split_once('-')?;
        let (opens, closes) = (minute_of_week(opens)?, minute_of_week(closes)?);
        (opens != closes).then_some(Self { opens, closes })
    }

    /// How long until it opens; zero while it is open.
    pub fn opens_in(self, now: Timestamp) -> Duration {
        let utc = Offset::UTC.to_datetime(now);
        let days = match utc.weekday() {
            Weekday::Monday => 0,
            Weekday::Tuesday => 1,
            Weekday::Wednesday => 2,
            Weekday::Thursday => 3,
            Weekday::Friday => 4,
            Weekday::Saturday => 5,
            Weekday::Sunday => 6,
        };
        let seconds = |part: i8| u64::from(part.unsigned_abs());
        let now = days * 86_400 + seconds(utc.hour()) * 3600 + seconds(utc.minute()) * 60 + seconds(utc.second());
        let (week, opens) = (u64::from(WEEK) * 60, u64::from(self.opens) * 60);
        let length = u64::from((self.closes + WEEK - self.opens) % WEEK) * 60;
        if (now + week - opens) % week < length {
            Duration::ZERO
        } else {
            Duration::from_secs((opens + week - now) % week)
        }
    }
}

/// `sun:05:00` as minutes since the beginning of Monday.
fn minute_of_week(text: &str) -> Option<u32> {
    let mut parts = text.split(':');
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let day = parts.next()?;
    let day = u32::try_from(days.iter().position(|known| *known == day)?).ok()?;
    let mut number = |below: u32| parts.next()?.parse::<u32>().ok().filter(|number| *number < below);
    let minute = day * DAY + number(24)? * 60 + number(60)?;
    parts.next().is_none().then_some(minute)
}

/// Whether changes that lose data may be made whenever they are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// They may: it was ordered over OSB, where asking is consent, or an annotation says so.
    Given,
    /// They wait for the maintenance window, or for consent.
    Withheld,
}

/// Whether a change that loses data may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may.
    Granted,
    /// Once the window opens.
    At(Timestamp),
    /// Only with consent: there is no window.
    OnConsent,
}

impl Leave {
    /// Whether a change that loses data may be made now.
    pub fn of(consent: Consent, window: Option<Window>, now: Timestamp) -> Self {
        match (consent, window.map(|window| window.opens_in(now))) {
            (Consent::Given, _) | (_, Some(Duration::ZERO)) => Self::Granted,
            (Consent::Withheld, None) => Self::OnConsent,
            // Of whole seconds, as the wait is: what is said does not change from one look to the next.
            (Consent::Withheld, Some(wait)) => SignedDuration::try_from(wait)
                .ok()
                .and_then(|wait| Timestamp::from_second(now.as_second()).ok()?.checked_add(wait).ok())
                .map_or(Self::OnConsent, Self::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_open_between_its_ends_every_week() {
        let window = Window::parse("sun:05:00-sun:06:30").unwrap();
        // 2026-11-22 is a Sunday.
        for (now, wait) in [
            ("2026-11-22T05:00:00Z", 0),
            ("2026-11-22T06:29:59Z", 0),
            ("2026-11-22T06:30:00Z", 7 * 86_400 - 5400),
            ("2026-11-22T04:59:30Z", 30),
            ("2026-11-23T05:00:00Z", 6 * 86_400),
        ] {
            assert_eq!(window.opens_in(at(now)), Duration::from_secs(wait), "{now}");
        }
        let over_the_weekend = Window::parse("sun:23:00-mon:01:00").unwrap();
        assert_eq!(over_the_weekend.opens_in(at("2026-11-23T00:59:59Z")), Duration::ZERO);
        assert_ne!(over_the_weekend.opens_in(at("2026-11-23T01:00:00Z")), Duration::ZERO);
    }

    #[test]
    fn consent_needs_no_window_and_no_window_needs_consent() {
        let now = at("2026-11-23T00:00:00Z");
        let window = Window::parse("mon:01:00-mon:02:00");
        assert_eq!(Leave::of(Consent::Given, None, now), Leave::Granted);
        assert_eq!(Leave::of(Consent::Withheld, None, now), Leave::OnConsent);
        assert_eq!(
            Leave::of(Consent::Withheld, window, now),
            Leave::At(at("2026-11-23T01:00:00Z"))
        );
        assert_eq!(
            Leave::of(Consent::Withheld, window, at("2026-11-23T01:30:00Z")),
            Leave::Granted
        );
    }

    #[test]
    fn the_time_that_is_said_is_the_same_at_every_look() {
        let window = Window::parse("mon:01:00-mon:02:00");
        for now in ["2026-11-23T00:00:00.000000001Z", "2026-11-23T00:59:59.999Z"] {
            let leave = Leave::of(Consent::Withheld, window, at(now));
            assert_eq!(leave, Leave::At(at("2026-11-23T01:00:00Z")), "{now}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_window_or_none(text in ".{0,24}") {
            let _ = Window::parse(&text);
        }

        #[test]
        fn after_the_wait_it_is_open(opens in 0u32..WEEK, closes in 0u32..WEEK, second in 0i64..4_000_000_000) {
            prop_assume!(opens != closes);
            let window = Window { opens, closes };
            let now = Timestamp::from_second(second).unwrap();
            let wait = SignedDuration::try_from(window.opens_in(now)).unwrap();
            prop_assert_eq!(window.opens_in(now + wait), Duration::ZERO);
        }
    }
}
