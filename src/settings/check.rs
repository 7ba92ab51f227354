//! Settings checked against each other, and the files they name.

use std::collections::BTreeSet;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{Role, Settings};
use crate::ledger::{DatabaseUrl, KeyRing};

const NO_DATABASE: &str =
    "DATABASE_URL is not set: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or name a file with it by DATABASE_URL_FILE";

/// Why the settings do not make a broker that could start. One message for each thing to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// Settings that were checked against each other, with the files they name read.
#[derive(Debug)]
pub struct Checked {
    /// The settings as given.
    pub settings: Settings,
    /// Which parts to run.
    pub role: Role,
    /// The database.
    pub database_url: DatabaseUrl,
    /// The keys that seal secrets in the ledger.
    pub keys: KeyRing,
    /// Begins every id made in ElastiCache.
    pub name_prefix: String,
    /// User and password pairs of OSB platforms; `None` if there are no such callers.
    pub osb_credentials: Option<Vec<(String, SecretString)>>,
    /// Namespaces whose instances are reconciled.
    pub watch_namespaces: Namespaces,
}

/// A set of namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// Those.
    Named(BTreeSet<String>),
}

impl Namespaces {
    /// Whether a namespace belongs to them.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(namespace),
        }
    }
}

impl Settings {
    /// Checks the settings against each other and reads the files they name.
    ///
    /// # Errors
    /// When something that is needed is missing or malformed: one message for each, saying how to mend it.
    pub fn check(self) -> Result<Checked, SettingsError> {
        let mut errors = Vec::new();
        let role = if self.background_tasks {
            Role::Operator
        } else {
            self.role
        };
        let database_url = self.database().map_err(|error| errors.push(error)).ok();
        if self.name_prefix.is_none() {
            errors.push("NAME_PREFIX is not set: a short word that begins every id made, such as `akkeris`".to_owned());
        }
        let keys = read_keys(self.ledger_keys_file.as_deref())
            .map_err(|error| errors.push(error))
            .ok();
        let otherwise = self.osb_token_review || self.osb_client_ca_file.is_some();
        let passwords = self.osb_credentials_file.is_some() || !otherwise;
        let osb_credentials = if role.serves_api() && !self.insecure_no_auth && passwords {
            read_credentials(self.osb_credentials_file.as_deref())
                .map_err(|error| errors.push(error))
                .ok()
                .map(Some)
        } else {
            Some(None)
        };
        if role.serves_api() && !self.insecure && (self.tls_cert_file.is_none() || self.tls_key_file.is_none()) {
            errors.push(
                "TLS_CERT_FILE and TLS_KEY_FILE are not both set: name PEM files, or pass --insecure to serve plain HTTP"
                    .to_owned(),
            );
        }
        if role.serves_api() && self.insecure && self.osb_client_ca_file.is_some() {
            errors.push(
                "OSB_CLIENT_CA_FILE is set, and plain HTTP has no client certificates: serve TLS, or leave one of them out"
                    .to_owned(),
            );
        }
        if role.serves_api() && self.osb_client_ca_file.is_none() {
            let narrowed = [
                ("OSB_CLIENT_NAMES", !self.osb_client_names.is_empty()),
                ("OSB_CLIENT_CRL_FILE", self.osb_client_crl_file.is_some()),
            ];
            for (variable, _) in narrowed.into_iter().filter(|(_, is_set)| *is_set) {
                errors.push(format!(
                    "{variable} is set, and no client certificate lets in without OSB_CLIENT_CA_FILE: set that, or leave {variable} out"
                ));
            }
        }
        let watch_namespaces = self.watched();
        for (variable, namespace) in [
            ("MEMCACHED_NAMESPACE", &self.memcached_namespace),
            ("REDIS_NAMESPACE", &self.redis_namespace),
        ] {
            if !watch_namespaces.contains(namespace) {
                errors.push(format!(
                    "{variable} is {namespace}, which WATCH_NAMESPACES does not have: nothing ordered there would be made; add it"
                ));
            }
        }
        match (database_url, self.name_prefix.clone(), keys, osb_credentials) {
            (Some(database_url), Some(name_prefix), Some(keys), Some(osb_credentials)) if errors.is_empty() => {
                Ok(Checked {
                    role,
                    database_url,
                    keys,
                    name_prefix,
                    osb_credentials,
                    watch_namespaces,
                    settings: self,
                })
            }
            _ => Err(SettingsError(errors)),
        }
    }

    /// The namespaces whose instances are reconciled.
    pub fn watched(&self) -> Namespaces {
        if self.watch_namespaces.iter().any(|name| name == "*") {
            return Namespaces::All;
        }
        let names = self.watch_namespaces.iter().filter(|name| !name.is_empty());
        Namespaces::Named(names.cloned().collect())
    }

    /// Checks what is needed to reach the database.
    ///
    /// # Errors
    /// When `DATABASE_URL` or `LEDGER_KEYS_FILE` is missing or malformed.
    pub fn check_database(self) -> Result<(DatabaseUrl, KeyRing), SettingsError> {
        let mut errors = Vec::new();
        let database_url = self.database().map_err(|error| errors.push(error)).ok();
        let keys = read_keys(self.ledger_keys_file.as_deref())
            .map_err(|error| errors.push(error))
            .ok();
        database_url.zip(keys).ok_or(SettingsError(errors))
    }

    /// The database, by itself or from a file.
    fn database(&self) -> Result<DatabaseUrl, String> {
        let Some(path) = &self.database_url_file else {
            return self.database_url.clone().ok_or_else(|| NO_DATABASE.to_owned());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("reading DATABASE_URL_FILE {}: {error}", path.display()))?;
        let url = text.trim().parse::<DatabaseUrl>();
        url.map_err(|error| format!("DATABASE_URL_FILE {}: {error}", path.display()))
    }
}

fn read_keys(path: Option<&Path>) -> Result<KeyRing, String> {
    let Some(path) = path else {
        return Err("LEDGER_KEYS_FILE is not set: make a key file with `echo \"k1:$(head -c 32 /dev/urandom | base64)\" > ledger.keys`".to_owned());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("reading LEDGER_KEYS_FILE {}: {error}", path.display()))?;
    KeyRing::parse(&text.into()).map_err(|error| format!("LEDGER_KEYS_FILE {}: {error}", path.display()))
}

/// Reads a file of lines `USER:PASSWORD`; lines that are empty or begin with `#` are passed over.
///
/// # Errors
/// When there is no such file, or a line is something else, or there is none.
pub fn read_credentials(path: Option<&Path>) -> Result<Vec<(String, SecretString)>, String> {
    let Some(path) = path else {
        return Err("OSB_CREDENTIALS_FILE is not set: make one with `echo \"platform:$(head -c 24 /dev/urandom | base64)\" > osb.credentials`, or set OSB_TOKEN_REVIEW=true for Kubernetes tokens, or OSB_CLIENT_CA_FILE for client certificates, or pass --insecure-no-auth to serve anybody".to_owned());
    };
    let text = SecretString::from(
        std::fs::read_to_string(path)
            .map_err(|error| format!("reading OSB_CREDENTIALS_FILE {}: {error}", path.display()))?,
    );
    let mut credentials = Vec::new();
    for (index, line) in text.expose_secret().lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                credentials.push((user.to_owned(), SecretString::from(password.to_owned())));
            }
            _ => {
                return Err(format!(
                    "OSB_CREDENTIALS_FILE {}: line {} is not USER:PASSWORD",
                    path.display(),
                    index + 1
                ));
            }
        }
    }
    if credentials.is_empty() {
        return Err(format!(
            "OSB_CREDENTIALS_FILE {} has no line USER:PASSWORD",
            path.display()
        ));
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::CommandLine;

    fn check(arguments: &[&str]) -> Vec<String> {
        let arguments = std::iter::once("cache-broker")
            .chain(arguments.iter().copied())
            .map(OsString::from);
        CommandLine::read(arguments).unwrap().settings.check().unwrap_err().0
    }

    #[test]
    fn names_everything_that_is_missing_at_once() {
        let errors = check(&[]);
        for variable in [
            "DATABASE_URL",
            "NAME_PREFIX",
            "LEDGER_KEYS_FILE",
            "OSB_CREDENTIALS_FILE",
            "TLS_CERT_FILE",
        ] {
            assert!(
                errors.iter().any(|error| error.starts_with(variable)),
                "{variable}: {errors:?}"
            );
        }
    }

    #[test]
    fn a_database_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let flag = format!("--database-url-file={}", path.display());
        let of_file = |errors: Vec<String>| errors.into_iter().find(|error| error.contains("DATABASE_URL"));
        assert!(of_file(check(&[&flag])).unwrap().contains("No such file"));
        std::fs::write(&path, "mysql://u:hunter2@h/d").unwrap();
        let error = of_file(check(&[&flag])).unwrap();
        assert!(error.contains("postgres://") && !error.contains("hunter2"), "{error}");
        std::fs::write(&path, "postgres://u:hunter2@h/d\n").unwrap();
        assert_eq!(of_file(check(&[&flag])), None);
    }

    #[test]
    fn refuses_client_certificates_without_tls() {
        let refused = |error: &String| error.starts_with("OSB_CLIENT_CA_FILE");
        assert!(check(&["--insecure", "--osb-client-ca-file=ca"]).iter().any(refused));
        let errors = check(&["--osb-client-ca-file=ca"]);
        assert!(!errors.iter().any(refused));
        let asked = |error: &String| error.starts_with("OSB_CREDENTIALS_FILE");
        assert!(!errors.iter().any(asked), "{errors:?}");
    }

    #[test]
    fn refuses_to_narrow_what_lets_nobody_in() {
        for (flag, variable) in [
            ("--osb-client-names=a,b", "OSB_CLIENT_NAMES"),
            ("--osb-client-crl-file=crl", "OSB_CLIENT_CRL_FILE"),
        ] {
            let refused = |error: &String| error.starts_with(variable);
            assert!(check(&[flag]).iter().any(refused));
            assert!(!check(&[flag, "--osb-client-ca-file=ca"]).iter().any(refused));
        }
    }

    #[test]
    fn refuses_a_namespace_for_orders_that_is_not_watched() {
        let errors = check(&["--redis-namespace=elsewhere"]);
        assert!(
            errors
                .iter()
                .any(|error| error.starts_with("REDIS_NAMESPACE is elsewhere")),
            "{errors:?}"
        );
    }
}
