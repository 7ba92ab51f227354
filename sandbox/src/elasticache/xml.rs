//! Answers as XML in the shape of the AWS Query protocol.

use std::fmt::Write as _;

use quick_xml::escape::escape;

use super::error::ApiError;

/// The namespace of every answer.
const NAMESPACE: &str = "http://elasticache.amazonaws.com/doc/2015-02-02/";

/// The members of one structure, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(&'static str, Value)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Fields(Fields),
    List(&'static str, Vec<Value>),
}

impl Fields {
    /// No members yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a plain value.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "most callers give literals and numbers")]
    pub fn text(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, Value::Text(value.to_string())));
        self
    }

    /// Adds a plain value if there is one.
    #[must_use]
    pub fn some(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a structure.
    #[must_use]
    pub fn with(mut self, name: &'static str, fields: Fields) -> Self {
        self.0.push((name, Value::Fields(fields)));
        self
    }

    /// Adds a structure if there is one.
    #[must_use]
    pub fn some_with(self, name: &'static str, fields: Option<Fields>) -> Self {
        match fields {
            Some(fields) => self.with(name, fields),
            None => self,
        }
    }

    /// Adds a list of structures whose elements are called `member`.
    #[must_use]
    pub fn list(mut self, name: &'static str, member: &'static str, items: impl IntoIterator<Item = Fields>) -> Self {
        let items = items.into_iter().map(Value::Fields).collect();
        self.0.push((name, Value::List(member, items)));
        self
    }

    /// Adds a list of plain values whose elements are called `member`.
    #[must_use]
    pub fn texts<T: ToString>(
        mut self,
        name: &'static str,
        member: &'static str,
        items: impl IntoIterator<Item = T>,
    ) -> Self {
        let items = items.into_iter().map(|item| Value::Text(item.to_string())).collect();
        self.0.push((name, Value::List(member, items)));
        self
    }

    fn write(&self, out: &mut String) {
        for (name, value) in &self.0 {
            value.write(name, out);
        }
    }

    /// The text at a path of member names; list elements are addressed by position.
    #[cfg(test)]
    pub fn get(&self, path: &str) -> Option<String> {
        let (head, rest) = path.split_once('.').unwrap_or((path, ""));
        let value = &self.0.iter().find(|(name, _)| *name == head)?.1;
        value.get(rest)
    }

    /// How many elements the list at a member name has.
    #[cfg(test)]
    pub fn len(&self, name: &str) -> usize {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, Value::List(_, items))) => items.len(),
            _ => 0,
        }
    }
}

impl Value {
    fn write(&self, name: &str, out: &mut String) {
        let _ = write!(out, "<{name}>");
        match self {
            Value::Text(text) => out.push_str(&escape(text.as_str())),
            Value::Fields(fields) => fields.write(out),
            Value::List(member, items) => items.iter().for_each(|item| item.write(member, out)),
        }
        let _ = write!(out, "</{name}>");
    }

    #[cfg(test)]
    fn get(&self, path: &str) -> Option<String> {
        match self {
            Value::Text(text) => path.is_empty().then(|| text.clone()),
            Value::Fields(fields) => fields.get(path),
            Value::List(_, items) => {
                let (index, rest) = path.split_once('.').unwrap_or((path, ""));
                items.get(index.parse::<usize>().ok()?)?.get(rest)
            }
        }
    }
}

/// The body of a successful answer.
pub(crate) fn answer(operation: &str, request_id: &str, fields: &Fields) -> String {
    let mut out = format!("<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>");
    fields.write(&mut out);
    let _ = write!(
        out,
        "</{operation}Result><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
    );
    out
}

/// The body of a refusal.
pub(crate) fn refusal(error: &ApiError, request_id: &str) -> String {
    let side = if error.status >= 500 { "Receiver" } else { "Sender" };
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{side}</Type><Code>{}</Code><Message>{}</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>",
        escape(error.code.as_ref()),
        escape(error.message.as_str()),
    )
}
