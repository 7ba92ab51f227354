//! Users of a redis (redis.io, "ACL"): what it has, and how it is given others without a restart.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::Reason;
use super::redis::{self, Value};
use super::session::Session;
use crate::digest::sha256_hex;

/// The user that everybody is who names none. It is the operator's, and is never changed here.
pub const DEFAULT_USER: &str = "default";

/// What a redis keeps of a password: its SHA-256 in hexadecimal digits. It does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// That of a password.
    pub fn of(password: &SecretString) -> Self {
        Self(sha256_hex(password.expose_secret(), 32))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// A user as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: PasswordHash,
}

impl AclUser {
    /// What it may do: everything but administer the server, which could undo its own revocation. The default user
    /// may do that too.
    fn rules(&self) -> Vec<String> {
        let mut rules = vec!["on".to_owned(), format!("#{}", self.password.0)];
        rules.extend(["~*", "&*", "+@all"].map(str::to_owned));
        if self.name != DEFAULT_USER {
            rules.push("-@admin".to_owned());
        }
        rules
    }

    /// Its line in a file of users.
    pub fn line(&self) -> String {
        format!("user {} {}\n", self.name, self.rules().join(" "))
    }

    /// The user of a line of such a file, as far as it was [written](Self::line) here.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let ("user", name, "on") = (words.next()?, words.next()?, words.next()?) else {
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            password: PasswordHash(words.next()?.strip_prefix('#')?.to_owned()),
        })
    }
}

/// A user that a redis has, as it tells itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUser {
    on: bool,
    without_password: bool,
    passwords: Vec<PasswordHash>,
    /// Whether it may use all keys and channels, and commands.
    unbounded: bool,
}

impl SeenUser {
    /// A line of `ACL LIST`: `user NAME on #HASH ~* &* +@all -@admin`.
    fn parse(line: &str) -> Option<(String, Self)> {
        let mut words = line.split_whitespace();
        if words.next() != Some("user") {
            return None;
        }
        let name = words.next()?.to_owned();
        let rules: Vec<_> = words.collect();
        let has = |rule: &str| rules.contains(&rule);
        let passwords = rules.iter().filter_map(|rule| rule.strip_prefix('#'));
        let seen = Self {
            on: has("on"),
            without_password: has("nopass"),
            passwords: passwords.map(|hash| PasswordHash(hash.to_owned())).collect(),
            unbounded: has("~*") && has("&*") && has("+@all"),
        };
        Some((name, seen))
    }

    /// Whether it is as it is to be.
    pub fn is(&self, wanted: &AclUser) -> bool {
        self.on && !self.without_password && self.unbounded && self.passwords == [wanted.password.clone()]
    }
}

#[cfg(test)]
impl From<&AclUser> for SeenUser {
    fn from(user: &AclUser) -> Self {
        let (_, seen) = Self::parse(user.line().trim()).unwrap();
        seen
    }
}

/// What makes the users of a redis those that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclChange {
    /// Users that are made, or made anew.
    pub set: Vec<AclUser>,
    /// Users that are removed; their connections end.
    pub remove: Vec<String>,
}

impl AclChange {
    /// The way from what a redis has to what is wanted; the default user is left alone.
    pub fn between(seen: &BTreeMap<String, SeenUser>, wanted: &[AclUser]) -> Self {
        let stands = |user: &&AclUser| !seen.get(&user.name).is_some_and(|seen| seen.is(user));
        let unwanted = |name: &&String| *name != DEFAULT_USER && !wanted.iter().any(|wanted| wanted.name == **name);
        Self {
            set: wanted
                .iter()
                .filter(|user| user.name != DEFAULT_USER)
                .filter(stands)
                .cloned()
                .collect(),
            remove: seen.keys().filter(unwanted).cloned().collect(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

pub(super) async fn list(session: &mut Session) -> Result<BTreeMap<String, SeenUser>, Reason> {
    match redis::call(session, &["ACL", "LIST"]).await? {
        Value::List(items) => items
            .into_iter()
            .map(|item| match item {
                Value::Bulk(line) => SeenUser::parse(&String::from_utf8_lossy(&line)),
                _ => None,
            })
            .map(|user| user.ok_or_else(redis::malformed))
            .collect(),
        other => Err(redis::refusal(other)),
    }
}

pub(super) async fn change(session: &mut Session, change: &AclChange) -> Result<(), Reason> {
    for user in &change.set {
        let rules = user.rules();
        let mut words = vec!["ACL", "SETUSER", &user.name, "reset"];
        words.extend(rules.iter().map(String::as_str));
        redis::ok(redis::call(session, &words).await?)?;
    }
    if !change.remove.is_empty() {
        let mut words = vec!["ACL", "DELUSER"];
        words.extend(change.remove.iter().map(String::as_str));
        match redis::call(session, &words).await? {
            // How many there were.
            Value::Integer(_) => {}
            other => return Err(redis::refusal(other)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> AclUser {
        AclUser {
            name: name.to_owned(),
            password: PasswordHash::of(&password.to_owned().into()),
        }
    }

    fn seen(lines: &[&str]) -> BTreeMap<String, SeenUser> {
        lines.iter().map(|line| SeenUser::parse(line).unwrap()).collect()
    }

    #[test]
    fn a_password_is_kept_as_redis_keeps_it_and_not_shown() {
        // printf a | sha256sum
        let hash = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        let a = user("b-1", "a");
        assert_eq!(a.line(), format!("user b-1 on #{hash} ~* &* +@all -@admin\n"));
        assert_eq!(
            user("default", "a").line(),
            format!("user default on #{hash} ~* &* +@all\n")
        );
        assert_eq!(AclUser::read(&a.line()), Some(a.clone()));
        assert!(!format!("{a:?}").contains("ca97"));
        for no in ["", "user", "user a off #x", "user a on nopass", "# user a on #x"] {
            assert_eq!(AclUser::read(no), None, "{no}");
        }
    }

    #[test]
    fn what_differs_is_set_and_what_is_unwanted_is_removed() {
        let (a, b) = (user("a", "1"), user("b", "2"));
        let (line_a, line_b) = (a.line(), b.line());
        let wanted = [user("default", "0"), a.clone(), b.clone()];
        let change = |lines: &[&str]| AclChange::between(&seen(lines), &wanted);
        assert!(change(&["user default on nopass ~* &* +@all", &line_a, &line_b]).is_empty());
        // Redis adds words of its own.
        let worded = line_a.replace("user a on", "user a on sanitize-payload");
        assert!(change(&[&worded, &line_b]).is_empty());
        for other in [
            line_b.replace(" on ", " off "),
            line_b.replace(" ~*", " ~x:*"),
            line_b.replace(" ~*", " nopass ~*"),
            line_b.replace(" ~*", &format!(" #{} ~*", "0".repeat(64))),
            user("b", "3").line(),
        ] {
            let expected = AclChange {
                set: vec![b.clone()],
                remove: vec!["c".to_owned()],
            };
            assert_eq!(
                change(&[&line_a, &other, "user c on nopass ~* &* +@all"]),
                expected,
                "{other}"
            );
        }
    }
}
