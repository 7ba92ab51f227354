//! A search for every secret that a world used, in all that its brokers told: logs, Events, objects, metrics and the ledger.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use sandbox::Sandbox;
use tokio::process::Command;

use crate::world::{PATIENCE, kubectl};

/// What is shorter may stand somewhere by chance.
const SHORTEST: usize = 12;
/// The length of the passwords that the broker makes.
const GENERATED: usize = 43;

/// The secrets of a world: those that it begins with, and all that ever stood in a Secret of its cluster.
#[derive(Clone)]
pub struct Canary {
    secrets: Arc<Mutex<BTreeSet<String>>>,
}

impl Canary {
    /// Begins to collect, until the runtime ends.
    pub async fn start(sandbox: &Sandbox) -> Self {
        let variables: BTreeMap<_, _> = sandbox.environment().into_iter().collect();
        let mut secrets = BTreeSet::new();
        for file in ["OSB_CREDENTIALS_FILE", "LEDGER_KEYS_FILE"] {
            let text = fs::read_to_string(&variables[file]).unwrap();
            secrets.extend(text.lines().filter_map(|line| Some(line.split_once(':')?.1.to_owned())));
        }
        let user = variables["DATABASE_URL"]
            .split_once("://")
            .unwrap()
            .1
            .split_once('@')
            .unwrap()
            .0;
        secrets.insert(user.split_once(':').unwrap().1.to_owned());
        let secrets = Arc::new(Mutex::new(secrets));
        tokio::spawn(collect(sandbox.kube().await.unwrap(), secrets.clone()));
        Self { secrets }
    }

    /// Searches. The API server and Postgres have to be there.
    pub async fn search(&self, sandbox: &Sandbox, logs: &[PathBuf], health: &[String]) {
        let needles = Needles::new(self.secrets.lock().iter());
        let mut places: Vec<(String, String)> = Vec::new();
        for log in logs {
            let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            places.push((log.display().to_string(), text.unwrap_or_default()));
        }
        for kinds in [
            "events",
            "cacheinstances,cacheplans,cachebackups",
            "deployments,services,configmaps,networkpolicies,leases,controllerrevisions,pods,poddisruptionbudgets",
        ] {
            places.push((
                kinds.to_owned(),
                kubectl(sandbox, &["get", kinds, "--all-namespaces", "-o", "json"]).await,
            ));
        }
        places.push(("the ledger".to_owned(), dump(sandbox).await));
        places.extend(health.iter().map(|text| ("metrics".to_owned(), text.clone())));
        for (place, text) in places {
            if let Some(secret) = needles.found_in(&text) {
                panic!(
                    "a secret of {} characters stands in {place}: {}",
                    secret.len(),
                    around(&text, &secret)
                );
            }
        }
    }
}

/// Collects what stands in Secrets, as long as the cluster is there.
async fn collect(client: Client, secrets: Arc<Mutex<BTreeSet<String>>>) {
    let events = watcher(Api::<Secret>::all(client), watcher::Config::default());
    let mut events = std::pin::pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) = event else {
            continue;
        };
        for (key, value) in secret.data.into_iter().flatten() {
            let text = String::from_utf8_lossy(&value.0).into_owned();
            let mut secrets = secrets.lock();
            // URIs, configurations and lists of users have passwords within.
            secrets.extend(runs(&text).filter(|run| run.len() == GENERATED).map(str::to_owned));
            if key == "password" && text.len() >= SHORTEST {
                secrets.insert(text);
            }
        }
    }
}

async fn dump(sandbox: &Sandbox) -> String {
    let mut command = Command::new("pg_dump");
    command
        .arg(sandbox.postgres().database_url("cache_broker"))
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cache_broker.instances"), "the dump has no instances");
    text
}

/// The longest parts of a text that are made of what passwords are made of.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|run| run.len() >= SHORTEST)
}

/// What is searched for: secrets, and what they look like as bytes in a dump.
struct Needles {
    /// Those that are one run each, by their length.
    by_length: BTreeMap<usize, HashSet<String>>,
    others: Vec<String>,
}

impl Needles {
    fn new<'a>(secrets: impl Iterator<Item = &'a String>) -> Self {
        let mut needles = Self {
            by_length: BTreeMap::new(),
            others: Vec::new(),
        };
        for secret in secrets {
            assert!(secret.len() >= SHORTEST, "a secret of {} characters", secret.len());
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            for needle in [secret.clone(), hex] {
                if runs(&needle).next() == Some(needle.as_str()) {
                    needles.by_length.entry(needle.len()).or_default().insert(needle);
                } else {
                    needles.others.push(needle);
                }
            }
        }
        needles
    }

    /// A needle that stands in a text. Many are looked for in one pass.
    fn found_in(&self, text: &str) -> Option<String> {
        if let Some(found) = self.others.iter().find(|needle| text.contains(needle.as_str())) {
            return Some(found.clone());
        }
        for run in runs(text) {
            for (length, needles) in self.by_length.range(..=run.len()) {
                // Of ASCII alone.
                let windows = (0..=run.len() - length).map(|at| &run[at..at + length]);
                if let Some(found) = windows.into_iter().find(|window| needles.contains(*window)) {
                    return Some(found.to_owned());
                }
            }
        }
        None
    }
}

/// What stands before a secret.
fn around(text: &str, secret: &str) -> String {
    let before = text.split(secret).next().unwrap_or_default();
    let from = before.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
    before[from..].to_owned()
}

/// Whether a log is one of a sandbox.
pub fn is_of(log: &Path, sandbox: &Sandbox) -> bool {
    log.parent() == sandbox.supervisor().log_of("any").parent()
}

#[test]
fn a_needle_is_found_wherever_it_stands() {
    let (password, key) = (
        "abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQ".to_owned(),
        "aaaa+BBBB/cccc=".to_owned(),
    );
    let needles = Needles::new([&password, &key].into_iter());
    let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
    for text in [
        format!("uri: redis://:{password}@host:6379"),
        format!("x{password}y"),
        format!("\\\\x00{hex}ff"),
        format!("key={key}"),
    ] {
        assert!(needles.found_in(&text).is_some(), "{text}");
        assert!(
            needles.found_in(&text.to_uppercase().replace("68", "86")).is_none(),
            "{text}"
        );
    }
    assert_eq!(around("a secret", "secret"), "a ");
}
