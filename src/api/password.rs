use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::SecretString;

/// A new password: 32 random bytes as 43 letters, digits and hyphens.
///
/// ElastiCache takes 16 to 128 printable characters and, of the special ones, only `! & # $ ^ < > -`; so `_` is
/// replaced.
pub fn generate_password() -> SecretString {
    let bytes: [u8; 32] = rand::random();
    BASE64_URL_SAFE_NO_PAD.encode(bytes).replace('_', "-").into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn passwords_differ_and_suit_elasticache_and_uris() {
        let (a, b) = (generate_password(), generate_password());
        assert_ne!(a.expose_secret(), b.expose_secret());
        assert_eq!(a.expose_secret().len(), 43);
        assert!(a.expose_secret().chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    }
}
