//! Sealing: what is secret stands in Postgres only as AES-256-GCM ciphertext.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};

/// The first byte of everything sealed in this format.
const FORMAT: u8 = 1;
const KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 12;

/// The keys that seal and open. The first one seals, all of them open, so a key is retired by putting a new one
/// before it and removing it once nothing sealed under it is left.
pub struct KeyRing {
    sealing: Key,
    retired: Vec<Key>,
}

struct Key {
    id: String,
    key: RandomizedNonceKey,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().map(|key| &key.id)).finish()
    }
}

/// Why a key ring cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// The file has no key.
    #[error(
        "no key found: write one line ID:KEY, KEY being 32 random bytes in base64, such as `echo \"k1:$(head -c 32 /dev/urandom | base64)\"` prints"
    )]
    Empty,
    /// A line is not `ID:KEY`.
    #[error("line {0} is not ID:KEY, KEY being 32 random bytes in base64")]
    Malformed(usize),
    /// Two lines have one id.
    #[error("line {line} has the id {id:?} of an earlier line; ids must differ")]
    Duplicate {
        /// The line's number, from 1.
        line: usize,
        /// The id.
        id: String,
    },
}

/// The cipher would not seal a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cipher would not seal it")]
pub struct SealError;

/// Why something sealed cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed under a key that is not in the ring.
    #[error("sealed under key {0:?}, which the key file does not have: put that key back")]
    UnknownKey(String),
    /// It is not what was sealed, or was sealed for another place.
    #[error("damaged, or moved from where it was sealed")]
    Damaged,
}

impl KeyRing {
    /// Reads the lines `ID:KEY` of a key file; empty lines and lines that start with `#` are passed over.
    ///
    /// # Errors
    /// When there is no key, or a line is no key.
    pub fn parse(text: &SecretString) -> Result<Self, KeyRingError> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.expose_secret().lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = KeyRingError::Malformed(number);
            let (id, key) = line.split_once(':').ok_or_else(|| malformed.clone())?;
            let (id, key) = (
                id.trim(),
                BASE64_STANDARD.decode(key.trim()).map_err(|_| malformed.clone())?,
            );
            if id.is_empty() || id.len() > usize::from(u8::MAX) || key.len() != KEY_LENGTH {
                return Err(malformed);
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(KeyRingError::Duplicate {
                    line: number,
                    id: id.to_owned(),
                });
            }
            let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| malformed)?;
            keys.push(Key { id: id.to_owned(), key });
        }
        let mut keys = keys.into_iter();
        let sealing = keys.next().ok_or(KeyRingError::Empty)?;
        Ok(Self {
            sealing,
            retired: keys.collect(),
        })
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.sealing).chain(&self.retired)
    }

    /// Seals a text for one place, such as `instances.parameters/ID`: it can be opened only for the same place.
    ///
    /// # Errors
    /// When the cipher refuses, which it does only for texts of many gigabytes.
    pub fn seal(&self, place: &str, text: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = &self.sealing;
        let id_length = u8::try_from(key.id.len()).map_err(|_| SealError)?;
        let mut buffer = text.to_vec();
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut buffer)
            .map_err(|_| SealError)?;
        let mut sealed = Vec::with_capacity(2 + key.id.len() + NONCE_LENGTH + buffer.len());
        sealed.extend([FORMAT, id_length]);
        sealed.extend(key.id.as_bytes());
        sealed.extend(nonce.as_ref());
        sealed.extend(buffer);
        Ok(sealed)
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// When its key is not in the ring, or it is damaged or of another place.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (id, nonce, text) = parts(sealed).ok_or(OpenError::Damaged)?;
        let key = self
            .keys()
            .find(|key| key.id.as_bytes() == id)
            .ok_or_else(|| OpenError::UnknownKey(String::from_utf8_lossy(id).into_owned()))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Damaged)?;
        let mut buffer = text.to_vec();
        let opened = key
            .key
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut buffer)
            .map_err(|_| OpenError::Damaged)?
            .len();
        buffer.truncate(opened);
        Ok(buffer)
    }
}

fn parts(sealed: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&[format, id_length], rest) = sealed.split_first_chunk::<2>()?;
    if format != FORMAT {
        return None;
    }
    let (id, rest) = rest.split_at_checked(usize::from(id_length))?;
    let (nonce, text) = rest.split_at_checked(NONCE_LENGTH)?;
    Some((id, nonce, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ids: &[&str]) -> KeyRing {
        let lines: Vec<_> = ids
            .iter()
            .map(|id| format!("{id}:{}", BASE64_STANDARD.encode([id.as_bytes()[0]; KEY_LENGTH])))
            .collect();
        KeyRing::parse(&lines.join("\n").into()).unwrap()
    }

    #[test]
    fn opens_what_it_sealed_and_shows_nothing_of_it() {
        let ring = ring(&["a"]);
        let sealed = ring.seal("t/1", b"secret words").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(ring.open("t/1", &sealed).unwrap(), b"secret words");
        assert_ne!(ring.seal("t/1", b"secret words").unwrap(), sealed);
    }

    #[test]
    fn opens_only_for_the_place_and_only_undamaged() {
        let ring = ring(&["a"]);
        let sealed = ring.seal("t/1", b"x").unwrap();
        assert_eq!(ring.open("t/2", &sealed), Err(OpenError::Damaged));
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert!(ring.open("t/1", &damaged).is_err(), "byte {index}");
            assert!(ring.open("t/1", &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn an_older_key_goes_on_opening_until_it_is_removed() {
        let sealed = ring(&["old"]).seal("t/1", b"x").unwrap();
        assert_eq!(ring(&["new", "old"]).open("t/1", &sealed).unwrap(), b"x");
        assert_eq!(
            ring(&["new"]).open("t/1", &sealed),
            Err(OpenError::UnknownKey("old".to_owned()))
        );
    }

    #[test]
    fn refuses_a_file_that_is_no_key_ring() {
        let key = BASE64_STANDARD.encode([7; KEY_LENGTH]);
        for (text, error) in [
            (String::new(), KeyRingError::Empty),
            ("# a comment\n\n".to_owned(), KeyRingError::Empty),
            (format!("a:{key}\nb"), KeyRingError::Malformed(2)),
            (format!("a:{key}\nb:short"), KeyRingError::Malformed(2)),
            (format!(":{key}"), KeyRingError::Malformed(1)),
            (
                format!("a:{key}\na:{key}"),
                KeyRingError::Duplicate {
                    line: 2,
                    id: "a".to_owned(),
                },
            ),
        ] {
            assert_eq!(KeyRing::parse(&text.into()).map(|_| ()), Err(error));
        }
    }
}
