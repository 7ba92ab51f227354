//! Short digests, of which names, marks and ETags are made.

use aws_lc_rs::digest::{SHA256, digest};

/// The first bytes of the SHA-256 of something as hexadecimal digits: two for each, of at most 32 bytes.
pub fn sha256_hex(content: impl AsRef<[u8]>, bytes: usize) -> String {
    let digest = digest(&SHA256, content.as_ref());
    let whole = digest.as_ref();
    hex::encode(whole.get(..bytes).unwrap_or(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_as_the_digest_does() {
        // FIPS 180-2, appendix B.1.
        let whole = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for bytes in 0..40 {
            assert_eq!(sha256_hex("abc", bytes), whole[..whole.len().min(2 * bytes)]);
        }
    }
}
