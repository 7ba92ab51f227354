//! The services that the catalog offers, from a YAML file of the owner's. Their plans are the `CachePlan`s that name
//! them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ledger::ServiceId;

/// The built-in file, with the services of the broker this one replaces.
const BUILT_IN: &str = include_str!("services.yaml");

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its OSB id, which never changes.
    pub id: ServiceId,
    /// Its OSB name, by which `CachePlan`s name it.
    pub name: String,
    /// One sentence on what it is.
    pub description: String,
    /// What platforms search for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The name shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// More than a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_description: Option<String>,
    /// A picture, as an `https:` or `data:` URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Who provides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_display_name: Option<String>,
    /// Where it is documented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documentation_url: Option<String>,
    /// Where to get help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_url: Option<String>,
    /// Whether an instance may be shared with other spaces of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shareable: Option<bool>,
    /// More for the catalog's metadata. It wins over the fields above.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// The services, in the order of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// They.
    pub services: Vec<Service>,
}

/// Why there are no services.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The file cannot be read.
    #[error("reading SERVICES_FILE {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("SERVICES_FILE {}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Services {
    /// Reads the owner's file, or the built-in one if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is wrong.
    pub fn read(path: Option<&Path>) -> Result<Self, ServicesError> {
        let refused = |reason| ServicesError::Refused {
            path: path.unwrap_or(Path::new("(built in)")).to_owned(),
            reason,
        };
        let Some(path) = path else {
            return Self::parse(BUILT_IN).map_err(refused);
        };
        let text = std::fs::read_to_string(path).map_err(|source| ServicesError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(refused)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for service in &read.services {
            let Service { id, name, .. } = service;
            if !is_name(name) {
                return Err(format!(
                    "the name {name:?} is not fit for command lines: use lower-case letters, digits and hyphens"
                ));
            }
            if service.description.trim().is_empty() {
                return Err(format!("service {name} has no description: write one sentence"));
            }
            if let Some(image) = service.image.as_deref().filter(|image| !is_picture(image)) {
                return Err(format!(
                    "the image {image:?} of service {name} is none that platforms show: give an https: URL, or a data:image/ one"
                ));
            }
            if !ids.insert(id) {
                return Err(format!("two services have the id {id}: ids must differ"));
            }
            if !names.insert(name) {
                return Err(format!("two services have the name {name}: names must differ"));
            }
        }
        if read.services.is_empty() {
            return Err("it has no service".to_owned());
        }
        Ok(read)
    }
}

fn is_picture(url: &str) -> bool {
    ["https://", "data:image/"].iter().any(|start| url.starts_with(start))
}

/// The rule of `CachePlan.spec.service`.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_services_are_those_of_the_old_broker() {
        let services = Services::read(None).unwrap().services;
        let known: Vec<_> = services
            .iter()
            .map(|service| (service.name.as_str(), service.id.as_str()))
            .collect();
        assert_eq!(
            known,
            [
                ("akkeris-redis", "0a8d668d-2971-4533-8e38-a816a7c01bec"),
                ("akkeris-memcached", "8cccbf79-3e08-4607-ad9f-193bd5f7ff83"),
            ]
        );
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        let one = "services:\n- {id: a, name: x, description: d}\n";
        assert!(Services::parse(one).is_ok());
        for (text, part) in [
            ("services: []".to_owned(), "no service"),
            (
                "services:\n- {id: a, name: x}".to_owned(),
                "missing field `description`",
            ),
            (
                "services:\n- {id: a, name: x, description: ' '}".to_owned(),
                "no description",
            ),
            (
                "services:\n- {id: a, name: X y, description: d}".to_owned(),
                "not fit for command lines",
            ),
            (
                "services:\n- {id: '', name: x, description: d}".to_owned(),
                "must not be empty",
            ),
            (
                "services:\n- {id: a, name: x, descriptio: d}".to_owned(),
                "unknown field",
            ),
            (
                "services:\n- {id: a, name: x, description: d, image: cache.svg}".to_owned(),
                "give an https: URL",
            ),
            (
                format!("{one}- {{id: a, name: y, description: d}}"),
                "two services have the id a",
            ),
            (
                format!("{one}- {{id: b, name: x, description: d}}"),
                "two services have the name x",
            ),
        ] {
            let reason = Services::parse(&text).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
