//! memcached's text protocol (doc/protocol.txt of its source).

use std::collections::BTreeMap;

use super::Reason;
use super::session::{Parsed, Session, line, said};

const NAME: &str = "memcached";

pub(super) async fn flush(session: &mut Session) -> Result<(), Reason> {
    session.exchange(b"flush_all\r\n", |bytes| word(bytes, b"OK")).await
}

pub(super) async fn ping(session: &mut Session) -> Result<(), Reason> {
    session.exchange(b"version\r\n", |bytes| word(bytes, b"VERSION")).await
}

pub(super) async fn stats(session: &mut Session) -> Result<BTreeMap<String, String>, Reason> {
    session.exchange(b"stats\r\n", statistics).await
}

/// One line that begins with a word.
fn word(bytes: &[u8], expected: &[u8]) -> Parsed<()> {
    let Some((line, used)) = line(bytes) else {
        return Ok(None);
    };
    if line.split(|byte| *byte == b' ').next() == Some(expected) {
        return Ok(Some(((), used)));
    }
    Err(refusal(line))
}

/// Lines `STAT name value` and, last, `END`.
fn statistics(bytes: &[u8]) -> Parsed<BTreeMap<String, String>> {
    // Nothing follows the reply to the one request; without its last line it is not read line by line again and again.
    if bytes.starts_with(b"STAT ") && !bytes.ends_with(b"END\r\n") {
        return Ok(None);
    }
    let mut statistics = BTreeMap::new();
    let mut rest = bytes;
    while let Some((line, used)) = line(rest) {
        rest = rest.get(used..).unwrap_or_default();
        if line == b"END" {
            return Ok(Some((statistics, bytes.len() - rest.len())));
        }
        let text = String::from_utf8_lossy(line);
        let Some(("STAT", pair)) = text.split_once(' ') else {
            return Err(refusal(line));
        };
        // A value may be empty, and have spaces in it.
        let (name, value) = pair.split_once(' ').unwrap_or((pair, ""));
        statistics.insert(name.to_owned(), value.to_owned());
    }
    Ok(None)
}

fn refusal(line: &[u8]) -> Reason {
    let is_error = [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"]
        .iter()
        .any(|word| line.starts_with(word));
    if is_error {
        Reason::Refused(said(line))
    } else {
        Reason::Malformed(NAME)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statistics_end_with_a_line_of_their_own() {
        let text =
            b"STAT pid 1\r\nSTAT version 1.6.18\r\nSTAT libevent 2.1 stable\r\nSTAT empty\r\nSTAT last END\r\nEND\r\n";
        let (found, used) = statistics(text).unwrap().unwrap();
        assert_eq!(used, text.len());
        let expected = [
            ("pid", "1"),
            ("version", "1.6.18"),
            ("libevent", "2.1 stable"),
            ("empty", ""),
            ("last", "END"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        for cut in 0..used {
            assert!(statistics(&text[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn refusals_are_told_and_another_protocol_is_found_out() {
        let refused = |bytes: &[u8]| word(bytes, b"OK").unwrap_err().to_string();
        assert_eq!(refused(b"ERROR\r\n"), "it refused: ERROR");
        assert_eq!(
            refused(b"SERVER_ERROR out of memory\r\n"),
            "it refused: SERVER_ERROR out of memory"
        );
        assert!(refused(b"-ERR unknown command\r\n").contains("is it a memcached?"));
        assert!(matches!(statistics(b"HTTP/1.1 400\r\n"), Err(Reason::Malformed(_))));
        assert!(word(b"O", b"OK").unwrap().is_none());
        assert_eq!(word(b"VERSION 1.6\r\nx", b"VERSION").unwrap(), Some(((), 13)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(STAT|END|OK|ERROR|VERSION| |\r\n|\n|x){0,30}".prop_map(String::into_bytes),
        ]) {
            if let Ok(Some((_, used))) = statistics(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            if let Ok(Some(((), used))) = word(&bytes, b"OK") {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}
