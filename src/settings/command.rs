//! What the program does other than serve.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::parse;
use crate::ledger::{DatabaseUrl, InstanceId, LetterState};

/// What to do other than serve.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Looks whether a start would succeed, as far as that can be told: settings, files, database, cluster, AWS. Says what to
    /// mend.
    Check,
    /// Prints the plans as a table.
    Plans,
    /// Prints the instances as a table: those of WATCH_NAMESPACES, or of one namespace.
    Instances {
        /// The namespace.
        #[arg(long, short)]
        namespace: Option<String>,
    },
    /// Writes the CustomResourceDefinitions, to standard output or one file each into a folder, or applies them.
    Crds {
        /// The folder.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Apply them to the cluster.
        #[arg(long, conflicts_with = "out")]
        apply: bool,
    },
    /// Asks a broker for its catalog, as a platform would, and ends well if it is served.
    Probe(Probe),
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
    /// Prints docs/SETTINGS.md.
    #[command(hide = true)]
    SettingsDocument,
    /// Brings the database's tables up to date and ends.
    Migrate,
    /// Takes over what akkeris/elasticache-broker made: writes its plans and services as YAML, and its instances, those
    /// given back, pending webhooks and caches made ahead into the ledger. It changes nothing in the old database and
    /// may run again at any time. Exit code 3: some rows need a decision.
    Import(Box<ImportArguments>),
    /// Prints who asked what of an instance, when, and how it ended.
    Audit {
        /// The OSB id of the instance.
        #[arg(long)]
        instance: InstanceId,
    },
    /// Shows webhooks that wait or were given up, and has those that were given up delivered anew.
    #[command(subcommand)]
    Webhooks(Webhooks),
    /// Compares the ledger, the custom resources and ElastiCache, and lists what they do not agree on. Exits with 0 if they
    /// agree, 1 if something could not be looked at, 3 if there are disagreements (left).
    Doctor {
        /// Mend what can be mended without a loss.
        #[arg(long)]
        fix: bool,
    },
}

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Prints webhooks, the latest first: event, state, when, of what, of which instance, receiver, attempts, last error.
    List {
        /// In which states; those that wait and those that were given up if absent.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "due,dead")]
        state: Vec<WebhookState>,
        /// Only those of an instance, by its OSB id.
        #[arg(long)]
        instance: Option<InstanceId>,
    },
    /// Has webhooks that were given up delivered anew.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Retry {
        /// All of them.
        #[arg(long, group = "which")]
        all: bool,
        /// Those of an instance, by its OSB id.
        #[arg(long, group = "which")]
        instance: Option<InstanceId>,
        /// One, by its event's id.
        #[arg(long, group = "which")]
        event: Option<uuid::Uuid>,
    },
}

/// How far a webhook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WebhookState {
    /// What it is to tell of has not ended.
    Armed,
    /// It is to be delivered.
    Due,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Dead,
}

impl From<WebhookState> for LetterState {
    fn from(state: WebhookState) -> Self {
        match state {
            WebhookState::Armed => Self::Armed,
            WebhookState::Due => Self::Due,
            WebhookState::Delivered => Self::Delivered,
            WebhookState::Dead => Self::Dead,
        }
    }
}

/// What is to be imported.
#[derive(Clone, Debug, Args)]
pub struct ImportArguments {
    /// The old broker's database; DATABASE_URL if absent, since both brokers can share one.
    #[arg(long, env = "OLD_DATABASE_URL", hide_env_values = true, value_parser = parse::database_url)]
    pub from: Option<DatabaseUrl>,
    /// Say what would be imported, and write nothing but the files of --out.
    #[arg(long)]
    pub dry_run: bool,
    /// The folder to write plans and services to, as YAML.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Apply the plans that are not in the cluster.
    #[arg(long)]
    pub apply: bool,
    /// Wait, ten minutes at most, until the operator has taken over every cache that was imported.
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// A broker to be asked.
#[derive(Clone, Debug, Args)]
pub struct Probe {
    /// Where it is: `https://HOST[:PORT]` or `http://HOST[:PORT]`.
    #[arg(long)]
    pub url: String,
    /// File of lines USER:PASSWORD, of which the first is used.
    #[arg(long)]
    pub credentials_file: PathBuf,
    /// PEM file with the certificate that the broker must show; one that the machine trusts if absent.
    #[arg(long)]
    pub certificate_file: Option<PathBuf>,
    /// For how many seconds it is asked again until it answers.
    #[arg(long, default_value_t = 60)]
    pub patience: u64,
}
