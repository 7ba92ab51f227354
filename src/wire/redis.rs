//! The redis protocol, version 2 (redis.io, "Redis serialization protocol specification"), which valkey speaks as well.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::session::{Parsed, Session, line, said};
use super::{Flush, Flushed, Login, Reason};

const NAME: &str = "redis";
/// How deep lists may stand in lists; `ROLE` of a primary has three levels.
const DEEPEST: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Status(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    List(Vec<Value>),
}

pub(super) async fn log_in(session: &mut Session, login: &Login) -> Result<(), Reason> {
    let mut words = vec!["AUTH"];
    words.extend(login.username.as_deref());
    words.push(login.password.expose_secret());
    match session.exchange(&command(&words), value).await? {
        Value::Status(_) => Ok(()),
        // No more than its first word: a redis that does not know the command repeats what it was sent.
        Value::Error(text) => Err(Reason::Login(said(first_word(&text)))),
        _ => Err(Reason::Malformed(NAME)),
    }
}

pub(super) async fn ping(session: &mut Session) -> Result<(), Reason> {
    ok(session.exchange(&command(&["PING"]), value).await?)
}

pub(super) async fn stats(session: &mut Session) -> Result<BTreeMap<String, String>, Reason> {
    match session.exchange(&command(&["INFO"]), value).await? {
        Value::Bulk(text) => Ok(pairs(&String::from_utf8_lossy(&text))),
        other => Err(refusal(other)),
    }
}

pub(super) async fn flush(session: &mut Session, flush: Flush) -> Result<Flushed, Reason> {
    // Where `ROLE` is forbidden the flush itself tells.
    let role = session.exchange(&command(&["ROLE"]), value).await?;
    if is_replica(&role) {
        return Ok(Flushed::Replica);
    }
    if let Flush::Database(number) = flush {
        ok(session
            .exchange(&command(&["SELECT", &number.to_string()]), value)
            .await?)?;
    }
    let word = match flush {
        Flush::All => "FLUSHALL",
        Flush::Database(_) => "FLUSHDB",
    };
    match session.exchange(&command(&[word, "ASYNC"]), value).await? {
        // It became a replica just now.
        Value::Error(text) if first_word(&text) == b"READONLY" => Ok(Flushed::Replica),
        reply => ok(reply).map(|()| Flushed::Emptied),
    }
}

fn is_replica(role: &Value) -> bool {
    // `slave` is what the protocol says.
    matches!(role, Value::List(items) if items.first() == Some(&Value::Bulk(b"slave".to_vec())))
}

/// One command and its reply.
pub(super) async fn call(session: &mut Session, words: &[&str]) -> Result<Value, Reason> {
    session.exchange(&command(words), value).await
}

pub(super) fn malformed() -> Reason {
    Reason::Malformed(NAME)
}

pub(super) fn ok(reply: Value) -> Result<(), Reason> {
    match reply {
        Value::Status(_) => Ok(()),
        other => Err(refusal(other)),
    }
}

pub(super) fn refusal(reply: Value) -> Reason {
    match reply {
        Value::Error(text) if matches!(first_word(&text), b"NOAUTH" | b"WRONGPASS") => {
            Reason::Login(said(first_word(&text)))
        }
        Value::Error(text) => Reason::Refused(said(&text)),
        _ => Reason::Malformed(NAME),
    }
}

fn first_word(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b' ').next().unwrap_or_default()
}

/// The lines `name:value` of an `INFO`; headings and empty lines are passed over.
fn pairs(info: &str) -> BTreeMap<String, String> {
    info.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

fn value(bytes: &[u8]) -> Parsed<Value> {
    let mut rest = bytes;
    let parsed = take(&mut rest, DEEPEST)?;
    Ok(parsed.map(|value| (value, bytes.len() - rest.len())))
}

/// Takes one value from the front of what was read.
fn take(rest: &mut &[u8], depth: usize) -> Result<Option<Value>, Reason> {
    let malformed = || Reason::Malformed(NAME);
    match rest.first() {
        None => return Ok(None),
        Some(b'+' | b'-' | b':' | b'$' | b'*') => {}
        // What speaks another protocol may never send the end of a line.
        Some(_) => return Err(malformed()),
    }
    let Some((head, used)) = line(rest) else {
        return Ok(None);
    };
    let (&kind, text) = head.split_first().ok_or_else(malformed)?;
    *rest = rest.get(used..).unwrap_or_default();
    let number = || {
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        text.parse::<i64>().map_err(|_| malformed())
    };
    Ok(Some(match kind {
        b'+' => Value::Status(text.to_vec()),
        b'-' => Value::Error(text.to_vec()),
        b':' => Value::Integer(number()?),
        b'$' => match number()? {
            -1 => Value::Nil,
            length => {
                let length = usize::try_from(length).map_err(|_| malformed())?;
                let Some((text, after)) = rest.split_at_checked(length) else {
                    return Ok(None);
                };
                match after {
                    [b'\r', b'\n', after @ ..] => *rest = after,
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(malformed()),
                }
                Value::Bulk(text.to_vec())
            }
        },
        _ => match number()? {
            -1 => Value::Nil,
            count => {
                let count = usize::try_from(count).map_err(|_| malformed())?;
                let depth = depth.checked_sub(1).ok_or_else(malformed)?;
                // Room is made for what came, not for what is announced.
                let mut items = Vec::new();
                for _ in 0..count {
                    match take(rest, depth)? {
                        Some(item) => items.push(item),
                        None => return Ok(None),
                    }
                }
                Value::List(items)
            }
        },
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(value: &Value) -> Vec<u8> {
        let line = |kind: char, text: &[u8]| [kind.to_string().as_bytes(), text, b"\r\n"].concat();
        match value {
            Value::Status(text) => line('+', text),
            Value::Error(text) => line('-', text),
            Value::Integer(number) => line(':', number.to_string().as_bytes()),
            Value::Bulk(text) => [
                line('$', text.len().to_string().as_bytes()),
                text.clone(),
                b"\r\n".to_vec(),
            ]
            .concat(),
            Value::Nil => b"$-1\r\n".to_vec(),
            Value::List(items) => {
                let items: Vec<u8> = items.iter().flat_map(encode).collect();
                let count = match value {
                    Value::List(items) => items.len(),
                    _ => 0,
                };
                [line('*', count.to_string().as_bytes()), items].concat()
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let line = || "[ -~]{0,20}".prop_map(String::into_bytes);
        let leaf = prop_oneof![
            line().prop_map(Value::Status),
            line().prop_map(Value::Error),
            any::<i64>().prop_map(Value::Integer),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
            Just(Value::Nil),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Value::List)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_once_it_is_complete(written in values(), after in proptest::collection::vec(any::<u8>(), 0..9)) {
            let bytes = encode(&written);
            for cut in 0..bytes.len() {
                prop_assert_eq!(value(&bytes[..cut]).unwrap(), None);
            }
            let all = [bytes.clone(), after].concat();
            prop_assert_eq!(value(&all).unwrap(), Some((written, bytes.len())));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "([*$:+-]|-?[0-9]{1,20}|\r\n|\n|x){0,40}".prop_map(String::into_bytes),
        ]) {
            if let Ok(Some((_, used))) = value(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }

    #[test]
    fn lists_in_lists_have_an_end_and_announced_lengths_take_no_room() {
        assert!(matches!(value(&b"*1\r\n".repeat(1000)), Err(Reason::Malformed(_))));
        for text in ["*9223372036854775807\r\n", "$9223372036854775807\r\n"] {
            assert_eq!(value(text.as_bytes()).unwrap(), None);
        }
        for text in [
            "$-2\r\n",
            "*x\r\n",
            ":\r\n",
            "$1\r\nabc",
            "HTTP",
            "$99999999999999999999\r\n",
        ] {
            assert!(matches!(value(text.as_bytes()), Err(Reason::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn roles_are_told_apart() {
        let role = |text: &str| value(text.as_bytes()).unwrap().unwrap().0;
        assert!(!is_replica(&role("*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n")));
        assert!(is_replica(&role(
            "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:6379\r\n$9\r\nconnected\r\n:1\r\n"
        )));
        assert!(!is_replica(&role("-NOPERM no\r\n")));
    }

    #[test]
    fn info_is_pairs() {
        let found = pairs("# Server\r\nredis_version:7.0.15\r\n\r\n# Keyspace\r\ndb0:keys=1,expires=0\r\n");
        let expected = [("db0", "keys=1,expires=0"), ("redis_version", "7.0.15")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
    }
}
