//! Resource versions of the API server.

/// Whether a resource version is later than another of the same object. They are whole numbers that grow, which the API
/// promises since Kubernetes 1.35; anything else counts as later.
pub fn is_later(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_later("10", "9"));
        assert!(!is_later("9", "10") && !is_later("9", "9"));
        assert!(is_later("a", "b") && !is_later("a", "a"));
    }
}
