//! Every flag and environment variable, with its default and its doc line. Nothing else reads the environment, but for
//! the AWS SDK's credential chain and kube's discovery of the cluster.
//!
//! The names are those of the broker this one replaces where it had them.

mod check;
mod command;
pub mod document;
mod old;
mod parse;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Args, Parser, ValueEnum};

use crate::ledger::{DatabaseUrl, Kept};

pub use check::{Checked, Namespaces, SettingsError, read_credentials};
pub use command::{Command, ImportArguments, Probe, WebhookState, Webhooks};

/// The longest `NAME_PREFIX`: with a hyphen and the 24 characters behind it, an id fits ElastiCache's 40.
pub const MAX_NAME_PREFIX: usize = 15;

/// The port of the OSB API.
const DEFAULT_PORT: u16 = 8443;

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
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = parse::database_url)]
    pub database_url: Option<DatabaseUrl>,

    /// File with what DATABASE_URL would be, so that it need not stand in the environment.
    #[arg(long, env = "DATABASE_URL_FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,

    /// How many connections to Postgres a process opens at most.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=512))]
    pub database_connections: u16,

    /// File with the keys that seal secrets in the ledger: lines ID:KEY, KEY being 32 random bytes in base64. The first
    /// seals, all open. Make one with: echo "k1:$(head -c 32 /dev/urandom | base64)"
    #[arg(long, env = "LEDGER_KEYS_FILE")]
    pub ledger_keys_file: Option<PathBuf>,

    /// Begins every id made in ElastiCache: at most 15 letters, digits and single hyphens, first a letter, last no
    /// hyphen.
    #[arg(long, env = "NAME_PREFIX", value_parser = parse::name_prefix)]
    pub name_prefix: Option<String>,

    /// Address to serve the OSB API on.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0")]
    pub listen_address: IpAddr,

    /// Port to serve the OSB API on.
    #[arg(long, env = "PORT", default_value_t = DEFAULT_PORT, value_parser = parse::port)]
    pub port: u16,

    /// Address to serve /livez, /readyz and /metrics on, plain HTTP.
    #[arg(long, env = "HEALTH_ADDRESS", default_value = "0.0.0.0")]
    pub health_address: IpAddr,

    /// Port to serve /livez, /readyz and /metrics on.
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

    /// Let in who has a Kubernetes bearer token and may, by RBAC, use the request's method in lower case as a verb on the
    /// non-resource URL /v2. OSB_CREDENTIALS_FILE is not needed then.
    #[arg(long, env = "OSB_TOKEN_REVIEW", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = parse::flag)]
    pub osb_token_review: bool,

    /// For whom a bearer token must be meant; for the API server itself if absent.
    #[arg(long, env = "OSB_TOKEN_AUDIENCE")]
    pub osb_token_audience: Option<String>,

    /// PEM file with the authorities whose client certificates let a caller in, under the certificate's subject; every
    /// certificate of theirs does, unless OSB_CLIENT_NAMES or OSB_CLIENT_CRL_FILE says otherwise. Read again when it
    /// changes. OSB_CREDENTIALS_FILE is not needed then.
    #[arg(long, env = "OSB_CLIENT_CA_FILE")]
    pub osb_client_ca_file: Option<PathBuf>,

    /// Whose client certificates let in, several separated by commas: the common name, or one of the alternative names
    /// (host, e-mail, URI), as it is spelled in the certificate. Any if absent.
    #[arg(long, env = "OSB_CLIENT_NAMES", value_delimiter = ',', value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub osb_client_names: Vec<String>,

    /// PEM file with lists of revoked client certificates (CRLs). Each authority that issues some must have one there; one
    /// that is out of date holds all the same. Read again when it changes.
    #[arg(long, env = "OSB_CLIENT_CRL_FILE")]
    pub osb_client_crl_file: Option<PathBuf>,

    /// Requests a second of one caller, on average; as many again may come at once. The catalog is not counted. 0 is no
    /// limit.
    #[arg(long, env = "OSB_RATE", default_value_t = 0)]
    pub osb_rate: u32,

    /// Requests of one caller at one time; the catalog is not counted. 0 is no limit.
    #[arg(long, env = "OSB_CONCURRENCY", default_value_t = 512)]
    pub osb_concurrency: u32,

    /// How many instances one organization may have, whatever their plans. 0 is no limit.
    #[arg(long, env = "ORGANIZATION_QUOTA", default_value_t = 0)]
    pub organization_quota: u32,

    /// How many instances there may be of a plan, as CACHEPLAN=NUMBER, several separated by commas.
    #[arg(long, env = "PLAN_QUOTAS", value_delimiter = ',', value_parser = parse::plan_quota)]
    pub plan_quotas: Vec<(String, u32)>,

    /// Days that it is remembered who asked for what. 0 is for ever.
    #[arg(long, env = "AUDIT_DAYS", default_value_t = 400)]
    pub audit_days: u32,

    /// Days that instances which were given back are remembered, and ended operations of the others. Until then a platform
    /// that lost the answer to its last request is told 410 rather than 404, and its id is not ordered anew by mistake. 0
    /// is for ever.
    #[arg(long, env = "RETENTION_DAYS", default_value_t = 400)]
    pub retention_days: u32,

    /// Days that webhooks are remembered which were delivered or given up. 0 is for ever.
    #[arg(long, env = "WEBHOOK_DAYS", default_value_t = 30)]
    pub webhook_days: u32,

    /// Serve the OSB API to anybody who can reach it.
    #[arg(long, action = ArgAction::SetTrue)]
    pub insecure_no_auth: bool,

    /// YAML file with the OSB services; akkeris-redis and akkeris-memcached if absent.
    #[arg(long, env = "SERVICES_FILE")]
    pub services_file: Option<PathBuf>,

    /// Make caches in the cluster.
    #[arg(long, env = "USE_KUBERNETES", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = parse::flag)]
    pub use_kubernetes: bool,

    /// Use the kubeconfig of the local user rather than the Pod's service account.
    #[arg(long, env = "USE_LOCAL_KUBE_CONTEXT", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = parse::flag)]
    pub use_local_kube_context: bool,

    /// The kubeconfig to use rather than the Pod's service account or the local user's.
    #[arg(long)]
    pub kube_config: Option<PathBuf>,

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

    /// The operator's own namespace: revisions of plans are kept there, and the lease that elects the leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "cache-broker-system")]
    pub namespace: String,

    /// What an operator is called in the lease that elects the leader; no two may have one name at the same time. A name
    /// that stays over a restart, as a Pod's does, lets the process go on at once; one made up if absent.
    #[arg(long, env = "POD_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub pod_name: Option<String>,

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

    /// PEM file with the certificate authorities of caches on ElastiCache, beside those of the operating system.
    #[arg(long, env = "ELASTICACHE_CA_FILE")]
    pub elasticache_ca_file: Option<PathBuf>,

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
    #[arg(long, env = "RETRY_WEBHOOKS", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = parse::any_flag)]
    pub retry_webhooks: bool,

    /// Let webhooks go to plain HTTP and to loopback, private and link-local addresses.
    #[arg(long, env = "WEBHOOK_ALLOW_PRIVATE", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = parse::flag)]
    pub webhook_allow_private: bool,

    /// What is logged: a level or tracing-subscriber directives.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,

    /// File with what is logged, instead of RUST_LOG. It is read again when it changes, and RUST_LOG holds while it is not
    /// there, so levels can be changed at run time.
    #[arg(long, env = "RUST_LOG_FILE")]
    pub log_file: Option<PathBuf>,

    /// Nothing any more; whoever sets it is told so.
    #[arg(long, env = "STACKIMPACT", hide = true, hide_env_values = true)]
    pub stackimpact: Option<String>,

    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The collector that is told of traces by OTLP, protobuf over HTTP, such as http://collector:4318; none if absent. It
    /// takes a program that was built with the feature otlp; any other says in its log that it tells none. The SDK's other variables of that kind hold, such as
    /// OTEL_TRACES_SAMPLER.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
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

impl CommandLine {
    /// Reads a command line in today's or the old broker's spelling.
    ///
    /// # Errors
    /// When it cannot be understood; the error prints itself as clap's do.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let normal = old::normalized(arguments, |name| std::env::var(name).ok());
        let mut line = Self::try_parse_from(normal).map_err(without_secrets)?;
        line.settings.forget_empty();
        Ok(line)
    }
}

/// An error about the database's URL does not repeat it: it has the password in it.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let about = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    if about.is_some_and(|about| about.contains("--database-url") || about.contains("--from")) {
        let hidden = ContextValue::String("(not shown)".to_owned());
        error.insert(ContextKind::InvalidValue, hidden);
    }
    error
}

/// The value of an environment variable that the plans of the old broker name.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Settings {
    /// A variable that is set to nothing says nothing.
    fn forget_empty(&mut self) {
        for text in [
            &mut self.aws_region,
            &mut self.aws_endpoint_url,
            &mut self.elasticache_security_group,
            &mut self.redis_subnet_group,
            &mut self.memcached_subnet_group,
            &mut self.stackimpact,
            &mut self.otlp_endpoint,
        ] {
            *text = text.take().filter(|text| !text.is_empty());
        }
    }

    /// Where instances go that are not made from a resource somebody wrote.
    pub fn namespaces(&self) -> crate::api::Namespaces {
        crate::api::Namespaces {
            memcached: self.memcached_namespace.clone(),
            redis: self.redis_namespace.clone(),
        }
    }

    /// What this process is called in the lease that elects the leader.
    pub fn identity(&self) -> String {
        let made_up = || format!("cache-broker-{}", uuid::Uuid::new_v4().simple());
        self.pod_name.clone().unwrap_or_else(made_up)
    }

    /// For how long what ended is remembered.
    pub fn kept(&self) -> Kept {
        let days = |days: u32| (days > 0).then(|| Duration::from_secs(86_400) * days);
        Kept {
            instances: days(self.retention_days),
            webhooks: days(self.webhook_days),
        }
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
    fn a_malformed_database_url_is_not_repeated() {
        let error = read(&["--database-url=mysql://u:hunter2@h/d"]).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("--database-url") && text.contains("postgres://"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn webhooks_to_be_delivered_anew_are_named() {
        for arguments in [
            &["--all"][..],
            &["--instance=i"],
            &["--event=00000000-0000-0000-0000-000000000001"],
        ] {
            assert!(
                read(&[&["webhooks", "retry"], arguments].concat()).is_ok(),
                "{arguments:?}"
            );
        }
        assert!(read(&["webhooks", "retry"]).is_err());
        assert!(read(&["webhooks", "retry", "--all", "--instance=i"]).is_err());
        assert!(read(&["webhooks", "list", "--state=dead,armed"]).is_ok());
    }

    #[test]
    fn quotas_are_of_plans() {
        let line = read(&["--plan-quotas=a=1,b = 2"]).unwrap();
        assert_eq!(line.settings.plan_quotas, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        for text in ["a", "a=", "=1", "a=-1", "a=x"] {
            assert!(read(&[&format!("--plan-quotas={text}")]).is_err(), "{text}");
        }
    }
}
