//! What applications are handed.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::ambient;
use crate::api::generate_password;
use crate::ledger::{Connection, Credentials};

/// A user that a binding may be given.
#[derive(Clone, Debug)]
pub struct FreshUser {
    /// Its name. No two bindings ever have the same, so what is revoked never comes back.
    pub name: String,
    /// Its password.
    pub password: SecretString,
}

impl FreshUser {
    /// A user with a name and a password that nobody had before.
    pub fn generate() -> Self {
        let digits = ambient::id().simple().to_string();
        Self {
            name: format!("b-{}", digits.get(..20).unwrap_or(&digits)),
            password: generate_password(),
        }
    }
}

/// The credentials object for a connection, as a user of its own.
pub fn of_user(connection: &Connection, user: &FreshUser) -> Credentials {
    of(&Connection {
        username: Some(user.name.clone()),
        password: Some(user.password.clone()),
        ..connection.clone()
    })
}

/// The credentials object for a connection. It has the variable of the broker this one replaces, too.
pub fn of(connection: &Connection) -> Credentials {
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| {
        members.insert(name.to_owned(), value);
    };
    put("uri", json!(connection.uri()));
    put("host", json!(connection.host));
    put("port", json!(connection.port));
    put("tls", json!(connection.tls));
    if let Some(username) = &connection.username {
        put("username", json!(username));
    }
    if let Some(password) = &connection.password {
        put("password", json!(password.expose_secret()));
    }
    if !connection.nodes.is_empty() {
        put("nodes", json!(connection.nodes));
    }
    let (variable, value) = connection.legacy_variable();
    put(variable, json!(value));
    Credentials::new(members)
}

/// The endpoints that those credentials lead to: every node, so that platforms can open their networks (OSB 2.17,
/// "Endpoint Object").
pub fn endpoints(credentials: &Credentials) -> Vec<Value> {
    let members = credentials.expose();
    let endpoint = |host: &str, port: String| json!({ "host": host, "ports": [port], "protocol": "tcp" });
    let main = match (members.get("host"), members.get("port")) {
        (Some(Value::String(host)), Some(Value::Number(port))) => Some(endpoint(host, port.to_string())),
        _ => None,
    };
    let nodes = members
        .get("nodes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|node| node.as_str()?.rsplit_once(':'))
        .map(|(host, port)| endpoint(host, port.to_owned()));
    let mut endpoints: Vec<Value> = Vec::new();
    for endpoint in main.into_iter().chain(nodes) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{EngineType, ProviderKind};

    fn connection() -> Connection {
        Connection {
            engine: EngineType::Redis,
            provider: ProviderKind::ElastiCache,
            host: "h".to_owned(),
            port: 6379,
            tls: true,
            username: Some("u".to_owned()),
            password: Some("p".to_owned().into()),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn applications_get_every_spelling() {
        assert_eq!(
            Value::Object(of(&connection()).expose().clone()),
            json!({
                "uri": "rediss://u:p@h:6379", "REDIS_URL": "rediss://u:p@h:6379",
                "host": "h", "port": 6379, "tls": true, "username": "u", "password": "p",
            })
        );
    }

    #[test]
    fn a_user_of_its_own_takes_the_place_of_the_shared_one() {
        let (one, other) = (FreshUser::generate(), FreshUser::generate());
        assert!(one.name != other.name && one.password.expose_secret() != other.password.expose_secret());
        let members = of_user(&connection(), &one).expose().clone();
        assert_eq!(members["username"], json!(one.name));
        let uri = format!("rediss://{}:{}@h:6379", one.name, one.password.expose_secret());
        assert_eq!((&members["uri"], &members["REDIS_URL"]), (&json!(uri), &json!(uri)));
    }

    #[test]
    fn every_node_is_an_endpoint_once() {
        let mut connection = connection();
        connection.nodes = vec!["h:6379".to_owned(), "n:6380".to_owned()];
        assert_eq!(
            endpoints(&of(&connection)),
            [
                json!({ "host": "h", "ports": ["6379"], "protocol": "tcp" }),
                json!({ "host": "n", "ports": ["6380"], "protocol": "tcp" }),
            ]
        );
    }
}
