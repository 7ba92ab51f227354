//! Values of settings, read from their text.

use super::{DEFAULT_PORT, MAX_NAME_PREFIX};
use crate::ledger::DatabaseUrl;

/// A URL of Postgres.
pub fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    text.parse::<DatabaseUrl>().map_err(|error| error.to_string())
}

/// Yes or no, in the words that are in use; nothing is no.
pub fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// The same, where whatever is none of those words is a yes.
pub fn any_flag(text: &str) -> Result<bool, std::convert::Infallible> {
    Ok(flag(text).unwrap_or(true))
}

/// A port; nothing is the default.
pub fn port(text: &str) -> Result<u16, std::num::ParseIntError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    text.parse()
}

/// `CACHEPLAN=NUMBER`.
pub fn plan_quota(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("{text:?} is not CACHEPLAN=NUMBER: write such as redis-premium-0=5");
    let (plan, number) = text.split_once('=').ok_or_else(wrong)?;
    let number = number.trim().parse().map_err(|_| wrong())?;
    let plan = plan.trim();
    if plan.is_empty() {
        Err(wrong())
    } else {
        Ok((plan.to_owned(), number))
    }
}

/// A prefix of ids that ElastiCache takes, in lower case.
pub fn name_prefix(text: &str) -> Result<String, String> {
    let refused = |why: &str| {
        Err(format!(
            "{why}: use at most {MAX_NAME_PREFIX} letters, digits and single hyphens, first a letter, last no hyphen"
        ))
    };
    if text.is_empty() || text.len() > MAX_NAME_PREFIX {
        refused("wrong length")
    } else if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        refused("does not begin with a letter")
    } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        refused("has a character that ElastiCache ids cannot have")
    } else if text.ends_with('-') || text.contains("--") {
        refused("has a hyphen at the end or two in a row, which ElastiCache refuses")
    } else {
        Ok(text.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_prefix_that_elasticache_would_refuse() {
        for prefix in ["", "1abc", "-a", "a--b", "ab-", "a_b", "abcdefghijklmnop"] {
            assert!(name_prefix(prefix).is_err(), "{prefix:?}");
        }
        assert_eq!(name_prefix("Akkeris-1").unwrap(), "akkeris-1");
    }
}
