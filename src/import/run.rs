//! An import from beginning to end: reads, has it decided, and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use super::catalog::{self, Offer, Revision};
use super::facts::Facts;
use super::old::Old;
use super::placeholders::Variables;
use super::report::{Fate, Kind, Line, Report};
use super::rows::{self, Entry, Write};
use super::{look, read, services};
use crate::api::{CachePlan, CachePlanSpec};
use crate::control::plans::recorded;
use crate::ledger::{DatabaseUrl, Ledger, LedgerError, PlanId};
use crate::osb::Service;
use crate::provider::elasticache::Client as ElastiCache;

/// Who we are in the managed fields of plans.
const FIELD_MANAGER: &str = "cache-broker-import";
/// How long one call to the API server may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long caches may take to be taken over.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(500);

/// What is to be imported, and into what.
pub struct Options {
    /// The old broker's database.
    pub from: DatabaseUrl,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// The folder that plans and services are written to as YAML.
    pub out: Option<PathBuf>,
    /// Whether plans are to be applied to the cluster.
    pub apply: bool,
    /// Whether to wait until every cache is taken over.
    pub wait: bool,
    /// The ledger.
    pub ledger: Ledger,
    /// The API server.
    pub client: Client,
    /// ElastiCache, where it is switched on.
    pub elasticache: Option<ElastiCache>,
    /// Whether caches in the cluster are switched on.
    pub kubernetes: bool,
    /// Environment variables, for the placeholders in plans.
    pub variable: fn(&str) -> Option<String>,
    /// Namespaces whose instances are looked after; all if `None`.
    pub watched: Option<BTreeSet<String>>,
    /// Where instances on ElastiCache go.
    pub namespaces: crate::api::Namespaces,
    /// Which webhooks may be sent.
    pub webhooks: crate::webhooks::Policy,
}

/// A plan that is written to a file, and applied where that is asked for.
struct PlanFile {
    plan: CachePlan,
    standing: bool,
}

/// Imports.
///
/// # Errors
/// When a database, the API server or ElastiCache does not answer, or a file cannot be written: what was written stands,
/// and the next import goes on from there.
pub async fn run(options: &Options) -> Result<Report, String> {
    let old = read::read(&options.from).await?;
    let said = |error: LedgerError| error.to_string();
    if !options.dry_run {
        options.ledger.migrate().await.map_err(said)?;
    }
    let holdings = options.ledger.holdings().await.map_err(said)?;
    let variables = catalog::variables(&old);
    let known = variables.into_iter().filter_map(|name| {
        let value = (options.variable)(&name)?;
        Some((name, value))
    });
    let mut report = Report {
        dry_run: options.dry_run,
        ..Report::default()
    };
    let (services, lines) = catalog::services(&old);
    report.lines.extend(lines);

    let mut offers = catalog::offers(&old, &Variables(known.collect()));
    let standing = standing_plans(options).await?;
    let mut files = Vec::new();
    let mut fates = BTreeMap::new();
    for offer in &mut offers {
        let recorded = holdings.revisions.get(&offer.id).map(Vec::as_slice).unwrap_or_default();
        let (line, resolved) = plan(options, offer, &standing, recorded, &mut files).await?;
        report.lines.push(line);
        fates.insert(offer.id.clone(), catalog::fate(offer, resolved));
    }
    let facts = Facts {
        clusters: look::clusters(options.elasticache.as_ref(), &named(&old)).await?,
        workloads: look::workloads(&options.client, options.kubernetes).await?,
        watched: options.watched.clone(),
        namespaces: options.namespaces.clone(),
        holdings,
        webhooks: options.webhooks,
    };
    let entries = rows::rows(&old, &fates, &facts);
    if let Some(folder) = &options.out {
        write_files(folder, services, &files).map_err(|error| format!("writing to {}: {error}", folder.display()))?;
    }
    for entry in entries {
        report.lines.push(write(options, entry).await?);
    }
    if options.kubernetes {
        report.next.extend(look::strict_namespaces(&options.client).await.into_iter().map(|namespace| {
            format!(
                "A Pod of the old broker that ends in namespace {namespace} is not made again, since Pod Security refuses \
                 it: `kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=baseline`."
            )
        }));
    }
    let to_apply: Vec<_> = files
        .into_iter()
        .filter(|file| !file.standing)
        .map(|file| file.plan)
        .collect();
    let missing = to_apply.len();
    if options.apply && !options.dry_run {
        for plan in to_apply {
            create_plan(&options.client, &plan, false).await?.map_err(|refusal| {
                format!(
                    "applying CachePlan {}: {refusal}",
                    plan.metadata.name.as_deref().unwrap_or_default()
                )
            })?;
        }
    } else if missing > 0 {
        report.next.push(match &options.out {
            Some(folder) => format!(
                "{missing} plans are not in the cluster: `kubectl apply --server-side -k {}`, or import with --apply.",
                folder.join("plans").display()
            ),
            None => format!(
                "{missing} plans are not in the cluster: import with --apply, or with --out to apply them yourself."
            ),
        });
    }
    if options.wait {
        report.waiting = taken_over(&options.ledger).await.map_err(said)?;
    }
    Ok(report)
}

/// Waits until all that was ever imported is taken over; what is not, in the end.
async fn taken_over(ledger: &Ledger) -> Result<Vec<(String, String)>, LedgerError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let waiting = ledger.not_taken_over().await?;
        if waiting.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(waiting);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The ids of the caches that are named, as ElastiCache spells them.
fn named(old: &Old) -> BTreeSet<String> {
    let live = old.resources.iter().filter(|resource| !resource.deleted);
    live.map(|resource| resource.name.to_ascii_lowercase()).collect()
}

/// The plans in the cluster, by OSB id.
async fn standing_plans(options: &Options) -> Result<BTreeMap<String, CachePlan>, String> {
    let api: Api<CachePlan> = Api::all(options.client.clone());
    let plans = match timed(api.list(&ListParams::default())).await {
        Ok(plans) => plans.items,
        Err(Refusal::Api(status)) if status.is_not_found() && options.dry_run => Vec::new(),
        Err(Refusal::Api(status)) if status.is_not_found() => {
            return Err("the CustomResourceDefinitions are missing: `kubectl apply --server-side -k crds`".to_owned());
        }
        Err(refusal) => return Err(format!("listing CachePlans: {refusal}")),
    };
    Ok(plans.into_iter().map(|plan| (plan.spec.id.clone(), plan)).collect())
}

/// Judges one plan; what it resolves to is the name of its `CachePlan` and the revision of its instances.
async fn plan(
    options: &Options,
    offer: &mut Offer,
    standing: &BTreeMap<String, CachePlan>,
    recorded: &[(i64, Value)],
    files: &mut Vec<PlanFile>,
) -> Result<(Line, Result<(String, i64), String>), String> {
    let line = |fate, notes: &[String]| Line {
        kind: Kind::Plan,
        id: offer.id.clone(),
        fate,
        notes: notes.to_vec(),
    };
    let refused = |why: &str, notes: &[String]| (line(Fate::NeedsDecision(why.to_owned()), notes), Err(why.to_owned()));
    let rendered = match &mut offer.rendered {
        Ok(rendered) => rendered,
        Err(why) => return Ok(refused(why, &[])),
    };
    let notes = rendered.notes.clone();
    let stands = standing.get(&offer.id);
    if stands.is_none() {
        if let Some(other) = standing
            .values()
            .find(|plan| plan.metadata.name.as_ref() == Some(&offer.name))
        {
            let why = format!(
                "CachePlan {0} has its name and the id {1}: `kubectl delete cacheplan {0}`, and import again",
                offer.name, other.spec.id
            );
            return Ok(refused(&why, &notes));
        }
        // What the API server makes of it is what its revision is counted by.
        match create_plan(&options.client, &rendered.plan, true).await? {
            Ok(Some(spec)) => rendered.plan.spec = spec,
            Ok(None) => {}
            Err(refusal) => {
                let why = format!("the API server refuses it: {refusal}: correct the row in the old database");
                return Ok(refused(&why, &notes));
            }
        }
    }
    let revision = match catalog::revision(&rendered.plan.spec, stands, recorded) {
        Ok(revision) => revision,
        Err(why) => {
            files.push(PlanFile {
                plan: rendered.plan.clone(),
                standing: true,
            });
            return Ok(refused(&why, &notes));
        }
    };
    let (spec, number) = match revision {
        Revision::Recorded(number, spec) => (spec, Some(number)),
        Revision::ToRecord(spec) => (spec, None),
    };
    let mut plan = rendered.plan.clone();
    plan.spec = (*spec).clone();
    files.push(PlanFile {
        plan: match stands {
            Some(_) => rendered.plan.clone(),
            None => plan,
        },
        standing: stands.is_some(),
    });
    let name = stands
        .and_then(|plan| plan.metadata.name.clone())
        .unwrap_or_else(|| offer.name.clone());
    let fate = if stands.is_some() { Fate::Known } else { Fate::Imported };
    if stands.is_none() && !options.apply && !options.dry_run {
        let why =
            format!("CachePlan {name} is not in the cluster: import with --apply, or apply the file that --out writes");
        return Ok((line(Fate::Skipped(why.clone()), &notes), Err(why)));
    }
    let number = match number {
        Some(number) => number,
        None if options.dry_run => 1,
        None => record(options, &offer.id, &spec, stands).await?,
    };
    Ok((line(fate, &notes), Ok((name, number))))
}

/// Records a revision as the operator will, which finds it recorded.
async fn record(options: &Options, id: &str, spec: &CachePlanSpec, stands: Option<&CachePlan>) -> Result<i64, String> {
    let id: PlanId = id.parse().map_err(|error| format!("plan {id:?}: its id {error}"))?;
    let (data, digest) = recorded(spec).map_err(|error| format!("plan {}: {error}", id.as_str()))?;
    let kept = stands
        .and_then(|plan| plan.status.as_ref()?.revision)
        .map(|number| (number, digest.clone()));
    let revision = options.ledger.plan_revision(&id, &data, &digest, kept).await;
    revision.map_err(|error| error.to_string())
}

/// Writes one row. One that Postgres refuses for good keeps no other from being written.
async fn write(options: &Options, entry: Entry) -> Result<Line, String> {
    let Entry { mut line, write } = entry;
    let Some(write) = write.filter(|_| !options.dry_run) else {
        return Ok(line);
    };
    let written = match &write {
        Write::Instance(new) => options.ledger.import_instance(new).await,
        Write::Member(new) => options.ledger.import_member(new).await,
    };
    line.fate = match written {
        Ok(true) => Fate::Imported,
        Ok(false) => Fate::NeedsDecision(
            "something of its id, or of its resource's name, was recorded meanwhile: import again".to_owned(),
        ),
        Err(error) if error.is_transient() => return Err(format!("{error}; import again once that is mended")),
        Err(error) => Fate::NeedsDecision(error.to_string()),
    };
    Ok(line)
}

/// Makes a plan, or has the API server say what it would be. One that is there is left as it is.
async fn create_plan(
    client: &Client,
    plan: &CachePlan,
    dry_run: bool,
) -> Result<Result<Option<CachePlanSpec>, String>, String> {
    let api: Api<CachePlan> = Api::all(client.clone());
    let how = PostParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    match timed(api.create(&how, plan)).await {
        Ok(plan) => Ok(Ok(Some(plan.spec))),
        Err(Refusal::Api(status)) if status.is_already_exists() || dry_run && status.is_not_found() => Ok(Ok(None)),
        Err(Refusal::Api(status)) if status.is_invalid() || status.code == 400 => Ok(Err(status.message.clone())),
        Err(refusal) => Err(format!(
            "making CachePlan {}: {refusal}",
            plan.metadata.name.as_deref().unwrap_or_default()
        )),
    }
}

/// Writes the services file, and a folder of plans for `kubectl apply -k`.
fn write_files(folder: &Path, services: Vec<Service>, files: &[PlanFile]) -> std::io::Result<()> {
    let plans = folder.join("plans");
    std::fs::create_dir_all(&plans)?;
    if !services.is_empty() {
        let text = services::file(services).map_err(std::io::Error::other)?;
        std::fs::write(folder.join("services.yaml"), text)?;
    }
    let mut list = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n".to_owned();
    for PlanFile { plan, .. } in files {
        let name = format!("{}.yaml", plan.metadata.name.as_deref().unwrap_or_default());
        let mut value = serde_json::to_value(plan)?;
        if let Some(members) = value.as_object_mut() {
            members.remove("status");
        }
        let text = serde_yaml::to_string(&value).map_err(std::io::Error::other)?;
        std::fs::write(plans.join(&name), text)?;
        list.push_str(&format!("  - {name}\n"));
    }
    std::fs::write(plans.join("kustomization.yaml"), list)
}

/// Why a call to the API server came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The API server said no.
    #[error("{} ({})", .0.message, .0.reason)]
    Api(Box<kube::core::Status>),
    /// It did not answer.
    #[error("{0}")]
    Other(String),
}

/// A call to the API server with a deadline; the client has none of its own.
pub(super) async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(Refusal::Api(status)),
        Ok(Err(error)) => Err(Refusal::Other(error.to_string())),
        Err(_) => Err(Refusal::Other(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}
