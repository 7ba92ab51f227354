//! `cache-broker doctor`: do the ledger, the custom resources and the provider say the same? What they do not agree on is
//! listed; with `--fix`, what can be mended without a loss is mended.
//!
//! Three snapshots ([`look`]), a pure comparison of them ([`compare()`]), and the mending ([`mend`]). The snapshots are not
//! taken at one moment, so whatever is under way would look like a disagreement: what was found is looked for a second
//! time, and only what is there both times counts.

pub mod compare;
mod look;
mod mend;

use std::time::Duration;

use kube::Client;

pub use compare::{Cluster, Finding, Fix, Kind, Provider, Resource, Thing, compare};

use crate::ledger::Ledger;
use crate::provider::elasticache;
use crate::settings::Namespaces;

/// How long what is under way has to settle before it is looked for again.
const SETTLE: Duration = Duration::from_secs(4);

/// Exit codes of the command.
pub mod exit {
    /// All agree, or all that did not was mended.
    pub const HEALTHY: u8 = 0;
    /// Something could not be looked at.
    pub const BLIND: u8 = 1;
    /// There are disagreements.
    pub const DISAGREEMENTS: u8 = 3;
}

/// What the doctor needs.
pub struct Doctor {
    /// The ledger.
    pub ledger: Ledger,
    /// The API server.
    pub client: Client,
    /// Namespaces whose instances are this broker's.
    pub namespaces: Namespaces,
    /// ElastiCache, if the broker uses it, and how ids begin there.
    pub elasticache: Option<(elasticache::Client, String)>,
}

impl Doctor {
    /// Looks, tells on standard output, mends if asked to, and returns the exit code.
    ///
    /// # Errors
    /// When something could not be looked at, or mended.
    pub async fn run(&self, fix: bool) -> Result<u8, String> {
        let mut findings = self.look().await?;
        if !findings.is_empty() {
            tokio::time::sleep(SETTLE).await;
            let again = self.look().await?;
            findings.retain(|finding| again.iter().any(|other| finding.is_same(other)));
        }
        print!("{}", compare::table(&findings));
        let mut left = 0;
        for finding in &findings {
            match &finding.fix {
                Some(remedy) if fix => {
                    let done = mend::mend(&self.ledger, remedy).await?;
                    println!("mended: {}: {done}", finding.subject);
                }
                _ => left += 1,
            }
        }
        let mendable = findings.iter().filter(|finding| finding.fix.is_some()).count();
        println!(
            "{}",
            match (findings.len(), fix) {
                (0, _) => "ledger, custom resources and provider agree".to_owned(),
                (all, true) => format!("{all} disagreements: {mendable} mended, {left} for you to decide"),
                (all, false) => format!(
                    "{all} disagreements: --fix mends {mendable}, {} for you to decide",
                    all - mendable
                ),
            }
        );
        Ok(if left == 0 { exit::HEALTHY } else { exit::DISAGREEMENTS })
    }

    async fn look(&self) -> Result<Vec<Finding>, String> {
        let cluster = look::cluster(&self.client, &self.namespaces).await?;
        let ledger = self.ledger.survey().await.map_err(|error| error.to_string())?;
        let provider = match &self.elasticache {
            Some((client, prefix)) => look::elasticache(client, prefix).await?,
            None => Provider::default(),
        };
        Ok(compare(&ledger, &cluster, &provider))
    }
}
