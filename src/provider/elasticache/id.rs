use crate::digest::sha256_hex;

/// The id of an instance's cache: the prefix and a digest of the instance's uid and of how many times its cache was
/// replaced. It follows from what cannot change, so a create is safe to repeat and a lost status can be found again.
///
/// At most 40 lower-case letters, digits and hyphens, as `CreateReplicationGroup` takes.
pub fn provider_id(prefix: &str, uid: &str, generation: u32) -> String {
    derived_id(prefix, &format!("{uid}/{generation}"))
}

/// An id that follows from a text.
pub fn derived_id(prefix: &str, text: &str) -> String {
    format!("{}-{}", prefix.to_ascii_lowercase(), sha256_hex(text, 12))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::MAX_NAME_PREFIX;

    proptest! {
        #[test]
        fn is_always_an_id_that_elasticache_takes(prefix in "[a-zA-Z][a-zA-Z0-9]{0,14}", uid in ".*", generation: u32) {
            let id = provider_id(&prefix, &uid, generation);
            prop_assert!(prefix.len() <= MAX_NAME_PREFIX);
            prop_assert!(id.len() <= 40, "{id}");
            prop_assert!(id.starts_with(|first: char| first.is_ascii_lowercase()));
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            prop_assert!(!id.ends_with('-') && !id.contains("--"));
        }

        #[test]
        fn differs_by_instance_and_by_replacement(a: u64, b: u64, n in 0u32..9, m in 0u32..9) {
            let same = a == b && n == m;
            let (a, b) = (a.to_string(), b.to_string());
            prop_assert_eq!(provider_id("p", &a, n) == provider_id("p", &b, m), same);
        }
    }
}
