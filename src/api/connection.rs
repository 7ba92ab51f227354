//! How to reach a cache: one type for the connection Secret, the ledger and OSB credentials.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{EngineType, ProviderKind};

/// How to reach a cache. Its debug form shows no password.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// The engine.
    pub engine: EngineType,
    /// Who made it.
    pub provider: ProviderKind,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The user, where the engine has users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password, where one is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub password: Option<SecretString>,
    /// `host:port` of every node, where clients spread keys themselves or read from replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl Connection {
    /// As one URI: `redis://`, `rediss://` or `memcached://`.
    pub fn uri(&self) -> String {
        let scheme = match (self.engine, self.tls) {
            (EngineType::Memcached, _) => "memcached",
            (_, true) => "rediss",
            (_, false) => "redis",
        };
        format!("{scheme}://{}{}:{}", self.user_info(), self.host, self.port)
    }

    /// The variable that the broker this one replaces handed to applications: `REDIS_URL` as a URI, or
    /// `MEMCACHED_URL` as `host:port`, by commas where there are several nodes.
    pub fn legacy_variable(&self) -> (&'static str, String) {
        if self.engine != EngineType::Memcached {
            ("REDIS_URL", self.uri())
        } else if self.nodes.len() > 1 {
            ("MEMCACHED_URL", self.nodes.join(","))
        } else {
            ("MEMCACHED_URL", format!("{}:{}", self.host, self.port))
        }
    }

    /// As the data of a connection Secret, by the well-known keys of the Service Binding specification (`type`,
    /// `provider`, `host`, `port`, `uri`, `username`, `password`), with `tls`, `nodes` and the
    /// [legacy variable](Self::legacy_variable).
    pub fn secret_data(&self) -> BTreeMap<String, ByteString> {
        let (legacy, legacy_value) = self.legacy_variable();
        let mut data = BTreeMap::from([
            ("type", self.engine.as_str().to_owned()),
            ("provider", self.provider.as_str().to_owned()),
            ("host", self.host.clone()),
            ("port", self.port.to_string()),
            ("tls", self.tls.to_string()),
            ("uri", self.uri()),
            (legacy, legacy_value),
        ]);
        if !self.nodes.is_empty() {
            data.insert("nodes", self.nodes.join(","));
        }
        if let Some(username) = &self.username {
            data.insert("username", username.clone());
        }
        if let Some(password) = &self.password {
            data.insert("password", password.expose_secret().to_owned());
        }
        data.into_iter()
            .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
            .collect()
    }

    /// Reads the data of a connection Secret back. `None` if it is not complete.
    pub fn from_secret_data(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        let word = |key: &str| text(key).map(serde_json::Value::String);
        Some(Self {
            engine: serde_json::from_value(word("type")?).ok()?,
            provider: serde_json::from_value(word("provider")?).ok()?,
            host: text("host")?,
            port: text("port")?.parse().ok()?,
            tls: text("tls")?.parse().ok()?,
            username: text("username"),
            password: text("password").map(Into::into),
            nodes: text("nodes")
                .map(|nodes| nodes.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        })
    }

    fn user_info(&self) -> String {
        let password = self.password.as_ref().map(|password| encoded(password.expose_secret()));
        match (self.username.as_deref().map(encoded), password) {
            (None, None) => String::new(),
            (user, password) => format!("{}:{}@", user.unwrap_or_default(), password.unwrap_or_default()),
        }
    }
}

/// Percent-encodes what may not stand in the user information of a URI (RFC 3986, 3.2.1).
fn encoded(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            encoded
        })
}

fn exposed<S: serde::Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(ExposeSecret::expose_secret).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis() -> Connection {
        Connection {
            engine: EngineType::Redis,
            provider: ProviderKind::ElastiCache,
            host: "h".to_owned(),
            port: 6379,
            tls: true,
            username: None,
            password: Some("p@ss/word".to_owned().into()),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn a_password_is_encoded_in_the_uri() {
        assert_eq!(redis().uri(), "rediss://:p%40ss%2Fword@h:6379");
        assert_eq!(
            redis().legacy_variable(),
            ("REDIS_URL", "rediss://:p%40ss%2Fword@h:6379".to_owned())
        );
    }

    #[test]
    fn memcached_clients_get_every_node() {
        let mut cache = Connection {
            engine: EngineType::Memcached,
            tls: false,
            password: None,
            ..redis()
        };
        assert_eq!(cache.uri(), "memcached://h:6379");
        assert_eq!(cache.legacy_variable(), ("MEMCACHED_URL", "h:6379".to_owned()));
        cache.nodes = vec!["a:1".to_owned(), "b:2".to_owned()];
        assert_eq!(cache.legacy_variable().1, "a:1,b:2");
    }

    #[test]
    fn it_is_read_back_from_its_secret_and_not_from_half_of_one() {
        let mut data = redis().secret_data();
        let read = Connection::from_secret_data(&data).unwrap();
        assert_eq!(
            (read.uri(), read.host, read.engine),
            (redis().uri(), redis().host, EngineType::Redis)
        );
        data.remove("port");
        assert!(Connection::from_secret_data(&data).is_none());
    }

    #[test]
    fn it_survives_sealing_but_does_not_show_its_password() {
        let text = serde_json::to_string(&redis()).unwrap();
        let read: Connection = serde_json::from_str(&text).unwrap();
        assert_eq!(read.uri(), redis().uri());
        assert!(!format!("{:?}", redis()).contains("p@ss"));
    }
}
