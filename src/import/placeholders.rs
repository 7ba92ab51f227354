//! Placeholders in the details of old plans: `${NAME}` and `$NAME` stand for environment variables, as in Go's
//! `os.ExpandEnv`.

use std::collections::{BTreeMap, BTreeSet};

/// Environment variables that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(pub BTreeMap<String, String>);

/// A part of a text.
enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        parts.push(Part::Text(before));
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (bare, after_bare) = after.split_at(end.unwrap_or(after.len()));
        rest = match braced {
            Some((name, after)) => {
                parts.push(Part::Variable(name));
                after
            }
            None if bare.is_empty() => {
                parts.push(Part::Text("$"));
                after
            }
            None => {
                parts.push(Part::Variable(bare));
                after_bare
            }
        };
    }
    parts.push(Part::Text(rest));
    parts
}

/// The names in a text.
pub fn names(text: &str) -> BTreeSet<String> {
    let name = |part: Part<'_>| match part {
        Part::Variable(name) => Some(name.to_owned()),
        Part::Text(_) => None,
    };
    parts(text).into_iter().filter_map(name).collect()
}

/// The name of the one variable that a text is, if it is no more than that.
pub fn sole(text: &str) -> Option<&str> {
    let mut name = None;
    for part in parts(text) {
        match part {
            Part::Text("") => {}
            Part::Variable(variable) if name.is_none() => name = Some(variable),
            _ => return None,
        }
    }
    name
}

impl Variables {
    /// A text with the variables put in.
    ///
    /// # Errors
    /// The names of those that are not known.
    pub fn expand(&self, text: &str) -> Result<String, BTreeSet<String>> {
        let missing: BTreeSet<_> = names(text)
            .into_iter()
            .filter(|name| !self.0.contains_key(name))
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let value = |part: Part<'_>| match part {
            Part::Text(text) => text.to_owned(),
            Part::Variable(name) => self.0.get(name).cloned().unwrap_or_default(),
        };
        Ok(parts(text).into_iter().map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variables_are_put_in_as_go_does_it() {
        let variables = Variables(
            [("A", "1"), ("B_2", "two")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into(),
        );
        for (text, expanded) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "1"),
            ("x-${A}-$B_2.y", "x-1-two.y"),
            ("$A$A", "11"),
            ("cost: $", "cost: $"),
            ("$ ${A", "$ ${A"),
        ] {
            assert_eq!(variables.expand(text).as_deref(), Ok(expanded), "{text}");
        }
        let missing = variables.expand("${A} ${NOPE} $GONE").unwrap_err();
        assert_eq!(missing.into_iter().collect::<Vec<_>>(), ["GONE", "NOPE"]);
    }

    #[test]
    fn a_text_that_is_one_variable_is_known_as_such() {
        for (text, name) in [
            ("${REDIS_SUBNET_GROUP}", Some("REDIS_SUBNET_GROUP")),
            ("$REDIS_SUBNET_GROUP", Some("REDIS_SUBNET_GROUP")),
            ("${A}${B}", None),
            ("a-${A}", None),
            ("plain", None),
            ("", None),
        ] {
            assert_eq!(sole(text), name, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,32}") {
            let all = names(&text).into_iter().map(|name| (name, String::new())).collect();
            prop_assert!(Variables(all).expand(&text).is_ok());
        }
    }
}
