//! Rules for names and values that tenants choose (API reference of the operations named at each).

use super::error::{ApiError, Outcome};

/// The longest `CacheClusterId` (CreateCacheCluster).
pub(crate) const CLUSTER_ID: usize = 50;
/// The longest `ReplicationGroupId` (CreateReplicationGroup).
pub(crate) const GROUP_ID: usize = 40;
/// The longest name of snapshots, users and the rest.
pub(crate) const OTHER_ID: usize = 255;

/// Checks an id and lower-cases it, as the API stores it: letters, digits and hyphens, a letter first, no hyphen
/// last and no two in a row (CreateCacheCluster, CreateReplicationGroup).
pub(crate) fn id(parameter: &str, text: &str, longest: usize) -> Outcome<String> {
    let refuse = |why: &str| {
        Err(ApiError::value(format!(
            "The parameter {parameter} is not a valid identifier: {why}."
        )))
    };
    if text.is_empty() || text.len() > longest {
        return refuse(&format!("it must have 1 to {longest} characters"));
    }
    if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return refuse("the first character must be a letter");
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return refuse("only letters, digits and hyphens are allowed");
    }
    if text.ends_with('-') || text.contains("--") {
        return refuse("it must not end with a hyphen or contain two in a row");
    }
    Ok(text.to_ascii_lowercase())
}

/// Checks an AUTH token: 16 to 128 letters, digits and `!&#$^<>-` (CreateReplicationGroup, `AuthToken`).
pub(crate) fn auth_token(token: &str) -> Outcome<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!&#$^<>-".contains(&byte);
    if !(16..=128).contains(&token.len()) || !token.bytes().all(allowed) {
        return Err(ApiError::value(
            "Invalid AuthToken provided: it must have 16 to 128 letters, digits and characters of !&#$^<>-.",
        ));
    }
    Ok(token.to_owned())
}

/// Checks the id of a security group: `sg-` and 8 or 17 hexadecimal digits.
pub(crate) fn security_groups(ids: Vec<String>) -> Outcome<Vec<String>> {
    for id in &ids {
        let digits = id.strip_prefix("sg-").unwrap_or_default();
        if ![8, 17].contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ApiError::value(format!("Some security group is invalid: {id}")));
        }
    }
    Ok(ids)
}

/// Checks a `SnapshotWindow`: `hh:mm-hh:mm`, 60 minutes or longer.
pub(crate) fn snapshot_window(text: &str) -> Outcome<String> {
    let minutes = text
        .split_once('-')
        .and_then(|(from, to)| Some((clock(from)?, clock(to)?)));
    match minutes {
        Some((from, to)) if (to + 1440 - from) % 1440 >= 60 => Ok(text.to_owned()),
        _ => Err(ApiError::value(format!(
            "SnapshotWindow must be hh24:mi-hh24:mi and last 60 minutes or longer: {text}"
        ))),
    }
}

/// Checks a `PreferredMaintenanceWindow`: `ddd:hh:mm-ddd:hh:mm`, 60 minutes or longer.
pub(crate) fn maintenance_window(text: &str) -> Outcome<String> {
    let text = text.to_ascii_lowercase();
    let minutes = text
        .split_once('-')
        .and_then(|(from, to)| Some((weekly(from)?, weekly(to)?)));
    match minutes {
        Some((from, to)) if (to + 10_080 - from) % 10_080 >= 60 => Ok(text),
        _ => Err(ApiError::value(format!(
            "PreferredMaintenanceWindow must be ddd:hh24:mi-ddd:hh24:mi and last 60 minutes or longer: {text}"
        ))),
    }
}

fn weekly(text: &str) -> Option<u32> {
    let (day, time) = text.split_once(':')?;
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let day = u32::try_from(days.iter().position(|known| *known == day)?).ok()?;
    Some(day * 1440 + clock(time)?)
}

fn clock(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_cased_and_checked() {
        assert_eq!(id("X", "My-Cache-1", 40).unwrap(), "my-cache-1");
        for bad in ["", "1abc", "a--b", "a-", "a_b", "a.b", &"a".repeat(41)] {
            assert_eq!(id("X", bad, 40).unwrap_err().code, "InvalidParameterValue", "{bad}");
        }
    }

    #[test]
    fn auth_tokens_are_checked() {
        assert!(auth_token("abcDEF123456!&#$^<>-").is_ok());
        for bad in [
            "short",
            "has a space in the midst",
            "slash/slash/slash/",
            "at@at@at@at@at@at@",
            &"a".repeat(129),
        ] {
            assert!(auth_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn windows_are_checked() {
        assert!(snapshot_window("23:30-00:30").is_ok());
        assert_eq!(
            maintenance_window("Sun:23:00-Mon:01:30").unwrap(),
            "sun:23:00-mon:01:30"
        );
        for bad in ["05:00-05:30", "25:00-26:00", "", "5-6"] {
            assert!(snapshot_window(bad).is_err(), "{bad}");
        }
        for bad in ["sun:05:00-sun:05:30", "day:01:00-day:02:00", "sun:05:00"] {
            assert!(maintenance_window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn security_groups_look_like_ids() {
        assert!(security_groups(vec!["sg-0123456789abcdef0".into(), "sg-01234567".into()]).is_ok());
        assert!(security_groups(vec!["default".into()]).is_err());
        assert!(security_groups(vec!["sg-xyz".into()]).is_err());
    }
}
