//! The two Secrets of an instance.
//!
//! The *auth* Secret holds the generated password. It is made before the provider is asked for anything that uses it and
//! is never written again. The *connection* Secret is what applications mount; it follows from the auth Secret and the
//! endpoint, and is made again when somebody deletes it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use secrecy::SecretString;

/// The key of the password in both Secrets.
pub const PASSWORD: &str = "password";

/// A new password: 32 random bytes as 43 letters, digits, hyphens and underscores.
///
/// ElastiCache takes 16 to 128 printable characters and, of the special ones, only `! & # $ ^ < > -`; so `_` is
/// replaced.
pub fn generate_password() -> SecretString {
    let bytes: [u8; 32] = rand::random();
    BASE64_URL_SAFE_NO_PAD.encode(bytes).replace('_', "-").into()
}

/// One value of a Secret, as text.
pub fn value(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone()).ok()
}

/// The password in an instance's auth Secret.
pub fn password(auth: &Secret) -> Option<SecretString> {
    value(auth, PASSWORD).filter(|password| !password.is_empty()).map(Into::into)
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
