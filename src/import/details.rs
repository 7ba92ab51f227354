//! `provider_private_details` of old plans, read as the old broker read them: names of members without regard to case,
//! null as absent.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::placeholders::Variables;

/// The members of a plan's details. Those that were asked for are taken out; what is left was not understood.
pub struct Details<'a> {
    members: BTreeMap<String, (String, Value)>,
    variables: &'a Variables,
}

impl<'a> Details<'a> {
    /// Reads the details of a plan.
    ///
    /// # Errors
    /// When they are no JSON object.
    pub fn read(text: &str, variables: &'a Variables) -> Result<Self, String> {
        let members: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            format!("provider_private_details is no JSON object ({error}): correct it in the old database")
        })?;
        let known = members.into_iter().filter(|(_, value)| !value.is_null());
        Ok(Self {
            members: known
                .map(|(name, value)| (name.to_ascii_lowercase(), (name, value)))
                .collect(),
            variables,
        })
    }

    /// A member, taken out.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(&name.to_ascii_lowercase()).map(|(_, value)| value)
    }

    /// A text as it stands, its placeholders not filled.
    pub fn raw(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a text")),
        }
    }

    /// A text with its placeholders filled; empty counts as absent.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let raw = self.raw(name)?;
        let filled = raw.map(|raw| self.fill(name, &raw)).transpose()?;
        Ok(filled.filter(|text| !text.is_empty()))
    }

    /// A text with its placeholders filled.
    pub fn fill(&self, name: &str, raw: &str) -> Result<String, String> {
        self.variables.expand(raw).map_err(|missing| {
            let missing: Vec<_> = missing.into_iter().collect();
            format!(
                "{name} of provider_private_details names the environment variable {}: set it as it was set for the old broker",
                missing.join(" and ")
            )
        })
    }

    /// Several texts as they stand.
    pub fn raw_texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(wrong(name, &other, "a list of texts")),
                })
                .collect(),
            Some(other) => Err(wrong(name, &other, "a list of texts")),
        }
    }

    /// A whole number, written as one or as a text.
    pub fn number(&mut self, name: &str) -> Result<Option<u32>, String> {
        let value = match self.take(name) {
            None => return Ok(None),
            Some(Value::String(text)) => self.fill(name, &text)?.trim().parse().ok(),
            Some(Value::Number(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Some(_) => None,
        };
        value.map(Some).ok_or_else(|| {
            format!("{name} of provider_private_details is no whole number: correct it in the old database")
        })
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    /// The names of what was not asked for.
    pub fn left(self) -> Vec<String> {
        let empty = |value: &Value| matches!(value, Value::Array(items) if items.is_empty());
        let left = self.members.into_values().filter(|(_, value)| !empty(value));
        left.map(|(name, _)| name).collect()
    }
}

fn wrong(name: &str, found: &Value, wanted: &str) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("{name} of provider_private_details is {found} where {wanted} is wanted: correct it in the old database")
}
