//! Every flag and environment variable, with its default and its doc line. Nothing else reads the environment, but for
//! the AWS SDK's credential chain and kube's discovery of the cluster.
//!
//! The names are those of the broker this one replaces where it had them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use secrecy::{ExposeSecret, SecretString};

use crate::ledger::{DatabaseUrl, KeyRing};

/// The longest `NAME_PREFIX`: with a hyphen and the 24 characters behind it, an id fits ElastiCache's 40.
pub const MAX_NAME_PREFIX: usize = 15;

const NO_DATABASE: &str = "DATABASE_URL is not set: postgres://USER:PASSWORD@HOST:PORT/DATABASE";

/// A Kubernetes operator with an Open Service Broker facade, for caches.
#[derive(Debug, Parser)]
#[command(name = "cache-broker", version, about, max_term_width = 120)]
pub struct CommandLine {
    /// What to do; serve if absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do other than serve.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes the CustomResourceDefinitions, to standard output or one file each into a folder.
    Crds {
        /// The folder.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Brings the database's tables up to date and ends.
    Migrate,
}

/// Which parts of the broker a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The OSB API.
    Api,
    /// The reconcilers and the projector.
    Operator,
    /// Both.
    #[default]
    All,
}

impl Role {
    /// Whether the OSB API is served.
    pub fn serves_api(self) -> bool {
        matches!(self, Self::Api | Self::All)
    }

    /// Whether resources are reconciled.
    pub fn reconciles(self) -> bool {
        matches!(self, Self::Operator | Self::All)
    }
}

/// Which host of an in-cluster cache is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ServiceHost {
    /// The Service's DNS name.
    #[default]
    Dns,
    /// The Service's ClusterIP, for clients without the cluster's DNS.
    ClusterIp,
}

/// Settings of a serving process.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Which parts to run.
    #[arg(long, env = "ROLE", value_enum, default_value_t)]
    pub role: Role,

    /// Same as --role=operator, as the broker this one replaces spelled it.
    #[arg(long, action = ArgAction::SetTrue)]
    pub background_tasks: bool,

    /// The Postgres database: postgres://USER:PASSWORD@HOST:PORT/DATABASE. TLS unless ?sslmode=disable.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = parse_database_url)]
    pub database_url: Option<DatabaseUrl>,

    /// How many connections to Postgres a process opens at most.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=512))]
    pub database_connections: u16,

    /// File with the keys that seal secrets in the ledger: lines ID:KEY, KEY being 32 random bytes in base64. The first
    /// seals, all open. Make one with: echo "k1:$(head -c 32 /dev/urandom | base64)"
    #[arg(long, env = "LEDGER_KEYS_FILE")]
    pub ledger_keys_file: Option<PathBuf>,

    /// Begins every id made in ElastiCache: at most 15 letters, digits and single hyphens, first a letter, last no
    /// hyphen.
    #[arg(long, env = "NAME_PREFIX", value_parser = parse_name_prefix)]
    pub name_prefix: Option<String>,

    /// Address to serve the OSB API on.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0")]
    pub listen_address: IpAddr,

    /// Port to serve the OSB API on.
    #[arg(long, env = "PORT", default_value_t = 8443)]
    pub port: u16,

    /// Address to serve /livez and /readyz on, plain HTTP.
    #[arg(long, env = "HEALTH_ADDRESS", default_value = "0.0.0.0")]
    pub health_address: IpAddr,

    /// Port to serve /livez and /readyz on.
    #[arg(long, env = "HEALTH_PORT", default_value_t = 8081)]
    pub health_port: u16,

    /// Serve the OSB API over plain HTTP.
    #[arg(long, env = "INSECURE", action = ArgAction::SetTrue)]
    pub insecure: bool,

    /// PEM file with the server's certificate chain.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the server's private key.
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// File with the credentials that OSB platforms use: lines USER:PASSWORD. Several may hold at once.
    #[arg(long, env = "OSB_CREDENTIALS_FILE")]
    pub osb_credentials_file: Option<PathBuf>,

    /// Serve the OSB API to anybody who can reach it.
    #[arg(long, action = ArgAction::SetTrue)]
    pub insecure_no_auth: bool,

    /// YAML file with the OSB services; akkeris-redis and akkeris-memcached if absent.
    #[arg(long, env = "SERVICES_FILE")]
    pub services_file: Option<PathBuf>,

    /// Make caches in the cluster.
    #[arg(long, env = "USE_KUBERNETES", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub use_kubernetes: bool,

    /// Use the kubeconfig of the local user rather than the Pod's service account.
    #[arg(long, env = "USE_LOCAL_KUBE_CONTEXT", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub use_local_kube_context: bool,

    /// Namespaces whose CacheInstances are reconciled, by comma; * for all.
    #[arg(
        long,
        env = "WATCH_NAMESPACES",
        value_delimiter = ',',
        default_value = "memcached-system,redis-system"
    )]
    pub watch_namespaces: Vec<String>,

    /// Namespace for memcached ordered over OSB.
    #[arg(long, env = "MEMCACHED_NAMESPACE", default_value = "memcached-system")]
    pub memcached_namespace: String,

    /// Namespace for redis and valkey ordered over OSB.
    #[arg(long, env = "REDIS_NAMESPACE", default_value = "redis-system")]
    pub redis_namespace: String,

    /// The operator's own namespace: revisions of plans are kept there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "cache-broker-system")]
    pub namespace: String,

    /// Which host of an in-cluster cache is published.
    #[arg(long, env = "SERVICE_HOST", value_enum, default_value_t)]
    pub service_host: ServiceHost,

    /// Domain of the cluster's Services.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// AWS region to make ElastiCache clusters in; without it no ElastiCache plan is offered.
    #[arg(long, env = "AWS_REGION")]
    pub aws_region: Option<String>,

    /// Endpoint of the ElastiCache API, where it is not AWS's own for the region.
    #[arg(long, env = "AWS_ENDPOINT_URL_ELASTICACHE")]
    pub aws_endpoint_url: Option<String>,

    /// Security group for clusters whose plan names none.
    #[arg(long, env = "ELASTICACHE_SECURITY_GROUP")]
    pub elasticache_security_group: Option<String>,

    /// Subnet group for redis and valkey whose plan names none.
    #[arg(long, env = "REDIS_SUBNET_GROUP")]
    pub redis_subnet_group: Option<String>,

    /// Subnet group for memcached whose plan names none.
    #[arg(long, env = "MEMCACHED_SUBNET_GROUP")]
    pub memcached_subnet_group: Option<String>,

    /// How often ElastiCache is asked while something is in flight there, in milliseconds.
    #[arg(long, env = "ELASTICACHE_POLL_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(50..))]
    pub elasticache_poll_ms: u64,

    /// How often everything is compared with the provider although nothing happened, in seconds.
    #[arg(long, env = "RESYNC_SECONDS", default_value_t = 1_800, value_parser = clap::value_parser!(u64).range(10..))]
    pub resync_seconds: u64,

    /// Calls to AWS a second on average, at most.
    #[arg(long, env = "AWS_CALLS_PER_SECOND", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub aws_calls_per_second: u32,

    /// Deliver webhooks again for a day when the receiver does not take them; else each is tried once.
    #[arg(long, env = "RETRY_WEBHOOKS", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub retry_webhooks: bool,

    /// Let webhooks go to plain HTTP and to loopback, private and link-local addresses.
    #[arg(long, env = "WEBHOOK_ALLOW_PRIVATE", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub webhook_allow_private: bool,

    /// What is logged: a level or tracing-subscriber directives.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,

    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

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
    /// User and password pairs of OSB platforms; `None` serves anybody.
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

impl CommandLine {
    /// Reads a command line in today's or the old broker's spelling.
    ///
    /// # Errors
    /// When it cannot be understood; the error prints itself as clap's do.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(normalized(arguments))
    }
}

/// The old broker took glog's flags with one hyphen and `-background-tasks`, `-insecure`.
fn normalized(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut normal = Vec::new();
    let mut arguments = arguments.into_iter();
    normal.extend(arguments.next());
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            normal.push(argument);
            continue;
        };
        let name = text.trim_start_matches('-');
        let (name, value) = name
            .split_once('=')
            .map_or((name, None), |(name, value)| (name, Some(value)));
        match name {
            "background-tasks" | "insecure" if text.starts_with('-') => {
                if value.is_none_or(|value| value == "true" || value == "1") {
                    normal.push(format!("--{name}").into());
                }
            }
            "logtostderr" | "alsologtostderr" if text.starts_with('-') => {}
            "stderrthreshold" | "v" if text.starts_with('-') && name.len() > 1 || name == "v" && value.is_some() => {
                if value.is_none() {
                    arguments.next();
                }
            }
            _ => normal.push(argument),
        }
    }
    normal
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
        let database_url = self.database_url.clone();
        if database_url.is_none() {
            errors.push(NO_DATABASE.to_owned());
        }
        if self.name_prefix.is_none() {
            errors.push("NAME_PREFIX is not set: a short word that begins every id made, such as `akkeris`".to_owned());
        }
        let keys = read_keys(self.ledger_keys_file.as_deref())
            .map_err(|error| errors.push(error))
            .ok();
        let osb_credentials = if role.serves_api() && !self.insecure_no_auth {
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
        let watch_namespaces = if self.watch_namespaces.iter().any(|name| name == "*") {
            Namespaces::All
        } else {
            Namespaces::Named(
                self.watch_namespaces
                    .iter()
                    .filter(|name| !name.is_empty())
                    .cloned()
                    .collect(),
            )
        };
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

    /// Checks what is needed to reach the database.
    ///
    /// # Errors
    /// When `DATABASE_URL` or `LEDGER_KEYS_FILE` is missing or malformed.
    pub fn check_database(self) -> Result<(DatabaseUrl, KeyRing), SettingsError> {
        let mut errors = Vec::new();
        if self.database_url.is_none() {
            errors.push(NO_DATABASE.to_owned());
        }
        let keys = read_keys(self.ledger_keys_file.as_deref())
            .map_err(|error| errors.push(error))
            .ok();
        self.database_url.zip(keys).ok_or(SettingsError(errors))
    }

    /// How often ElastiCache is asked while something is in flight there.
    pub fn elasticache_poll(&self) -> Duration {
        Duration::from_millis(self.elasticache_poll_ms)
    }

    /// How often everything is compared with the provider although nothing happened.
    pub fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_seconds)
    }
}

fn parse_database_url(text: &str) -> Result<DatabaseUrl, String> {
    text.parse::<DatabaseUrl>().map_err(|error| error.to_string())
}

fn parse_name_prefix(text: &str) -> Result<String, String> {
    let refused = |why: &str| {
        Err(format!(
            "{why}: use at most {MAX_NAME_PREFIX} letters, digits and single hyphens, first a letter, last no hyphen"
        ))
    };
    if text.is_empty() || text.len() > MAX_NAME_PREFIX {
        refused("wrong length")
    } else if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        refused("does not begin with a letter")
    } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        refused("has a character that ElastiCache ids cannot have")
    } else if text.ends_with('-') || text.contains("--") {
        refused("has a hyphen at the end or two in a row, which ElastiCache refuses")
    } else {
        Ok(text.to_ascii_lowercase())
    }
}

fn read_keys(path: Option<&std::path::Path>) -> Result<KeyRing, String> {
    let Some(path) = path else {
        return Err("LEDGER_KEYS_FILE is not set: make a key file with `echo \"k1:$(head -c 32 /dev/urandom | base64)\" > ledger.keys`".to_owned());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("reading LEDGER_KEYS_FILE {}: {error}", path.display()))?;
    KeyRing::parse(&text.into()).map_err(|error| format!("LEDGER_KEYS_FILE {}: {error}", path.display()))
}

fn read_credentials(path: Option<&std::path::Path>) -> Result<Vec<(String, SecretString)>, String> {
    let Some(path) = path else {
        return Err("OSB_CREDENTIALS_FILE is not set: make one with `echo \"platform:$(head -c 24 /dev/urandom | base64)\" > osb.credentials`, or pass --insecure-no-auth to serve anybody".to_owned());
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
    use super::*;

    fn read(arguments: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::read(
            std::iter::once("cache-broker")
                .chain(arguments.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn takes_the_old_brokers_command_lines() {
        let line = read(&[
            "-insecure",
            "-logtostderr=1",
            "-stderrthreshold",
            "0",
            "-background-tasks",
        ])
        .unwrap();
        assert!(line.settings.insecure && line.settings.background_tasks);
        let line = read(&["-insecure=false", "-logtostderr", "-v=4"]).unwrap();
        assert!(!line.settings.insecure && !line.settings.background_tasks);
    }

    #[test]
    fn refuses_a_prefix_that_elasticache_would_refuse() {
        for prefix in ["", "1abc", "-a", "a--b", "ab-", "a_b", "abcdefghijklmnop"] {
            assert!(parse_name_prefix(prefix).is_err(), "{prefix:?}");
        }
        assert_eq!(parse_name_prefix("Akkeris-1").unwrap(), "akkeris-1");
    }

    #[test]
    fn names_everything_that_is_missing_at_once() {
        let SettingsError(errors) = read(&[]).unwrap().settings.check().unwrap_err();
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
    fn refuses_a_namespace_for_orders_that_is_not_watched() {
        let SettingsError(errors) = read(&["--redis-namespace=elsewhere"])
            .unwrap()
            .settings
            .check()
            .unwrap_err();
        assert!(
            errors
                .iter()
                .any(|error| error.starts_with("REDIS_NAMESPACE is elsewhere")),
            "{errors:?}"
        );
    }
}
