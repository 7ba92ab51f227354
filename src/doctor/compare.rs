//! The comparison: a pure function of three snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::ledger::{Desired, InstanceId, Later, Survey, Surveyed};
use crate::provider::elasticache::FoundKind;

/// A custom resource, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The OSB instance that it says it is.
    pub instance: Option<String>,
    /// The ledger revision that it says it was written from.
    pub revision: Option<i64>,
    /// Whether plan and parameters are as the ledger wrote them.
    pub as_written: bool,
    /// What it says, for a ledger that is behind.
    pub later: Later,
    /// Its plan.
    pub plan_name: String,
    /// The revision of the plan that it is pinned to.
    pub plan_revision: Option<i64>,
    /// For which organization it is.
    pub organization: Option<String>,
    /// For which space.
    pub space: Option<String>,
    /// Whether it takes over a cache that exists.
    pub adopts: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether that was asked for over OSB, or approved.
    pub approved: bool,
    /// Whether it waits in a pool.
    pub member: bool,
    /// Whether it ever answered.
    pub was_ready: bool,
    /// The id of its cache on ElastiCache.
    pub serving: Option<String>,
    /// The ids of others that are to take its place, or whose place it took.
    pub others: Vec<String>,
}

/// An object in the cluster that an instance is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid of the instance that owns it.
    pub owner: Option<String>,
}

/// What the cluster has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Instances.
    pub resources: Vec<Resource>,
    /// Names of the snapshots that backups are of.
    pub snapshots: BTreeSet<String>,
    /// What instances are made of.
    pub objects: Vec<Object>,
}

/// Something on ElastiCache whose id begins with our prefix, and that is not going away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What it is.
    pub kind: FoundKind,
    /// Its id.
    pub id: String,
    /// The uid of the instance that its tags name, `Some(None)` if they name none; absent if they cannot be read.
    pub owner: Option<Option<String>>,
}

/// What the provider has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provider {
    /// Whether it was looked at; if not, nothing is missing there.
    pub looked: bool,
    /// What is there.
    pub things: Vec<Thing>,
}

/// What kind of disagreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The platform has an instance whose resource is not there.
    Missing,
    /// A resource says that it is an instance that the ledger does not know.
    Unrecorded,
    /// A resource says that it is an instance whose resource is another one.
    Copy,
    /// An instance was given back, and its resource is there.
    Returned,
    /// Somebody else than the platform deleted an instance; it is held.
    DeletionHeld,
    /// A resource is of a later revision than the ledger has.
    LedgerBehind,
    /// A resource is not what the platform was promised.
    Edited,
    /// An accepted request cannot be written to the cluster.
    Unwritten,
    /// An operation outlived its deadline and was not ended.
    Overdue,
    /// Something sealed in the ledger cannot be opened.
    Sealed,
    /// A resource is labelled as one of a pool and is on no record.
    UnknownMember,
    /// An instance's cache is not there.
    CacheMissing,
    /// An instance's cache is tagged as another's.
    ForeignCache,
    /// Something on ElastiCache belongs to no instance.
    Orphan,
    /// An object in the cluster belongs to no instance.
    OrphanObject,
}

impl Kind {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "Missing",
            Self::Unrecorded => "Unrecorded",
            Self::Copy => "Copy",
            Self::Returned => "Returned",
            Self::DeletionHeld => "DeletionHeld",
            Self::LedgerBehind => "LedgerBehind",
            Self::Edited => "Edited",
            Self::Unwritten => "Unwritten",
            Self::Overdue => "Overdue",
            Self::Sealed => "Sealed",
            Self::UnknownMember => "UnknownMember",
            Self::CacheMissing => "CacheMissing",
            Self::ForeignCache => "ForeignCache",
            Self::Orphan => "Orphan",
            Self::OrphanObject => "OrphanObject",
        }
    }
}

/// What mends a disagreement without a loss.
#[derive(Clone, Debug, PartialEq)]
pub enum Fix {
    /// The resource is written from the ledger again.
    WriteAgain(InstanceId),
    /// The resource is put up for deletion again: the platform gave the instance back.
    DeleteAgain(InstanceId),
    /// The ledger takes up what the resource says.
    CatchUp(InstanceId, Later),
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// What it is about, as people would look for it.
    pub subject: String,
    /// What does not agree, and what to do about it.
    pub detail: String,
    /// What `--fix` does; absent where a human must decide.
    pub fix: Option<Fix>,
}

impl Finding {
    /// Whether it is the same disagreement, seen at another time.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.subject) == (other.kind, &other.subject)
    }
}

/// The findings as a table, or nothing.
pub fn table(findings: &[Finding]) -> String {
    let mut rows = vec![["KIND", "SUBJECT", "FIX", "WHAT"].map(str::to_owned)];
    rows.extend(findings.iter().map(|finding| {
        let fix = if finding.fix.is_some() { "yes" } else { "no" };
        [
            finding.kind.as_str().to_owned(),
            finding.subject.clone(),
            fix.to_owned(),
            finding.detail.clone(),
        ]
    }));
    if findings.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let (kind, subject, fix) = (width(0), width(1), width(2));
    rows.iter().fold(String::new(), |mut table, [a, b, c, d]| {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{a:<kind$}  {b:<subject$}  {c:<fix$}  {d}");
        table
    })
}

/// What does not agree.
pub fn compare(ledger: &Survey, cluster: &Cluster, provider: &Provider) -> Vec<Finding> {
    let mut findings = Vec::new();
    let by_id: BTreeMap<&str, &Surveyed> = ledger.instances.iter().map(|row| (row.id.as_str(), row)).collect();
    let by_place: BTreeMap<(&str, &str), &Resource> = cluster
        .resources
        .iter()
        .map(|resource| ((resource.namespace.as_str(), resource.name.as_str()), resource))
        .collect();
    for row in &ledger.instances {
        let resource = by_place
            .get(&(row.namespace.as_str(), row.name.as_str()))
            .copied()
            .filter(|resource| resource.instance.as_deref().is_none_or(|id| id == row.id.as_str()));
        findings.extend(of_row(row, resource));
    }
    for resource in &cluster.resources {
        findings.extend(of_resource(resource, &by_id, ledger));
    }
    findings.extend(of_provider(cluster, provider));
    let uids: BTreeSet<&str> = cluster.resources.iter().map(|resource| resource.uid.as_str()).collect();
    for object in &cluster.objects {
        if object.owner.as_deref().is_some_and(|owner| !uids.contains(owner)) {
            findings.push(Finding {
                kind: Kind::OrphanObject,
                subject: format!("{} {}/{}", object.kind, object.namespace, object.name),
                detail: "the CacheInstance that owns it is gone: Kubernetes collects it; if it stays, look at the controller manager".to_owned(),
                fix: None,
            });
        }
    }
    findings.sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    findings
}

fn place(resource: &Resource) -> String {
    format!("CacheInstance {}/{}", resource.namespace, resource.name)
}

/// What is wrong with a row and the resource in its place.
fn of_row(row: &Surveyed, resource: Option<&Resource>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |kind, detail: String, fix| {
        findings.push(Finding {
            kind,
            subject: format!("instance {}", row.id),
            detail,
            fix,
        });
    };
    if let Some(kind) = &row.overdue {
        let detail =
            format!("its {kind} outlived its deadline and goes on: no operator leads, or it cannot reach Postgres");
        found(Kind::Overdue, detail, None);
    }
    if row.parameters.is_none() {
        let detail = "its parameters cannot be opened: put the key back that sealed them into LEDGER_KEYS_FILE";
        found(Kind::Sealed, detail.to_owned(), None);
    }
    let written = row.applied_revision == row.desired_revision;
    if let Some(error) = row.outbox_error.as_ref().filter(|_| !written) {
        found(
            Kind::Unwritten,
            format!("what was accepted is not in the cluster yet: {error}"),
            None,
        );
    }
    let Some(resource) = resource else {
        if !row.returned && row.desired == Desired::Present && written {
            let detail = format!(
                "its CacheInstance {}/{} is not there: deprovision it, or apply the resource again from a backup",
                row.namespace, row.name
            );
            found(Kind::Missing, detail, None);
        }
        return findings;
    };
    let returned = row.returned || row.desired == Desired::Absent;
    if returned {
        if resource.adopts && row.returned {
            let detail = format!(
                "it was given back, and {} takes over a cache: take annotation cache.akkeris.io/instance-id off, or delete it",
                place(resource)
            );
            found(Kind::Returned, detail, None);
        } else if written && !(resource.deleting && (resource.approved || !resource.was_ready)) {
            let detail = format!("it was given back, and {} is there and not let go", place(resource));
            found(Kind::Returned, detail, Some(Fix::DeleteAgain(row.id.clone())));
        }
        return findings;
    }
    if resource.deleting && !resource.approved && resource.was_ready {
        let detail = format!(
            "somebody deleted {}, and the platform still has it: deprovision it, or set annotation cache.akkeris.io/approve-deletion=true there",
            place(resource)
        );
        found(Kind::DeletionHeld, detail, None);
    }
    match resource.revision {
        Some(revision) if revision > row.desired_revision => {
            let detail = format!(
                "{} is of revision {revision}, the ledger of {}: it was restored from a backup",
                place(resource),
                row.desired_revision
            );
            let later = Later {
                revision,
                ..resource.later.clone()
            };
            found(Kind::LedgerBehind, detail, Some(Fix::CatchUp(row.id.clone(), later)));
        }
        _ if written => findings.extend(edited(row, resource)),
        _ => {}
    }
    findings
}

/// How a resource is not what the platform was promised.
fn edited(row: &Surveyed, resource: &Resource) -> Option<Finding> {
    let plan = (&resource.plan_name, resource.plan_revision) != (&row.plan_name, Some(row.plan_revision));
    let parameters = row
        .parameters
        .as_ref()
        .is_some_and(|parameters| *parameters != resource.later.parameters);
    let owner =
        resource.organization.as_ref() != Some(&row.organization) || resource.space.as_ref() != Some(&row.space);
    let cache = plan || parameters || !resource.as_written;
    let what: Vec<&str> = [
        (plan, "another plan"),
        (parameters, "other parameters"),
        (cache && !plan && !parameters, "something else to be filled from"),
        (owner, "another owner"),
    ]
    .iter()
    .filter_map(|(differs, what)| differs.then_some(*what))
    .collect();
    if what.is_empty() {
        return None;
    }
    let what = what.join(", ");
    Some(Finding {
        kind: Kind::Edited,
        subject: format!("instance {}", row.id),
        detail: if cache {
            format!(
                "somebody gave {} {what}: it runs as that says; edit it back, or order it so over OSB (plan {} revision {})",
                place(resource),
                row.plan_name,
                row.plan_revision
            )
        } else {
            format!(
                "somebody gave {} {what}, which changes tags and labels only",
                place(resource)
            )
        },
        // What was promised may lose data that is there by now.
        fix: (!cache).then(|| Fix::WriteAgain(row.id.clone())),
    })
}

/// What is wrong with a resource that no row has in its place.
fn of_resource(resource: &Resource, by_id: &BTreeMap<&str, &Surveyed>, ledger: &Survey) -> Option<Finding> {
    let found = |kind, detail: String| {
        Some(Finding {
            kind,
            subject: place(resource),
            detail,
            fix: None,
        })
    };
    if resource.member {
        let known = ledger
            .members
            .iter()
            .any(|(namespace, name)| *namespace == resource.namespace && *name == resource.name);
        return if known {
            None
        } else {
            found(
                Kind::UnknownMember,
                "it is labelled as one of a pool and on no record: delete it, if nobody uses it".to_owned(),
            )
        };
    }
    let id = resource.instance.as_deref()?;
    match by_id.get(id) {
        None => found(
            Kind::Unrecorded,
            format!(
                "the ledger does not know its instance {id}: restore a later backup of the ledger; if the platform does not have it either, delete the resource with annotation cache.akkeris.io/approve-deletion=true"
            ),
        ),
        Some(row) if (&row.namespace, &row.name) != (&resource.namespace, &resource.name) => found(
            Kind::Copy,
            format!(
                "it says that it is instance {id}, which is {}/{}: take annotation cache.akkeris.io/instance-id off",
                row.namespace, row.name
            ),
        ),
        Some(_) => None,
    }
}

/// What is wrong between resources and ElastiCache.
fn of_provider(cluster: &Cluster, provider: &Provider) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !provider.looked {
        return findings;
    }
    let things: BTreeMap<(FoundKind, &str), &Thing> = provider
        .things
        .iter()
        .map(|thing| ((thing.kind, thing.id.as_str()), thing))
        .collect();
    let uids: BTreeSet<&str> = cluster.resources.iter().map(|resource| resource.uid.as_str()).collect();
    let mut recorded: BTreeSet<&str> = BTreeSet::new();
    for resource in &cluster.resources {
        recorded.extend(resource.serving.iter().chain(&resource.others).map(String::as_str));
        let Some(id) = resource.serving.as_deref() else {
            continue;
        };
        let owner = match things.get(&(FoundKind::Cache, id)) {
            // One that is taken over may have any id, and what is being deleted is not listed.
            None if !resource.was_ready || resource.adopts || resource.deleting => continue,
            None => {
                findings.push(Finding {
                    kind: Kind::CacheMissing,
                    subject: place(resource),
                    detail: format!(
                        "its cache {id} is not on ElastiCache: restore it from a backup (spec.restore), or give it back"
                    ),
                    fix: None,
                });
                continue;
            }
            Some(thing) => &thing.owner,
        };
        if let Some(Some(owner)) = owner
            && *owner != resource.uid
        {
            findings.push(Finding {
                kind: Kind::ForeignCache,
                subject: place(resource),
                detail: format!(
                    "its cache {id} is tagged as that of the instance with uid {owner}: find out whose it is before anything is deleted"
                ),
                fix: None,
            });
        }
    }
    for thing in &provider.things {
        let is_known = match thing.kind {
            FoundKind::Cache => recorded.contains(thing.id.as_str()),
            FoundKind::Snapshot => cluster.snapshots.contains(&thing.id),
            FoundKind::User | FoundKind::UserGroup => false,
        };
        let owned = match &thing.owner {
            Some(Some(owner)) => uids.contains(owner.as_str()),
            // The API refuses to tell of what is busy.
            None => true,
            // Without a word of ours in its tags, it may be somebody else's.
            Some(None) => matches!(thing.kind, FoundKind::User | FoundKind::UserGroup),
        };
        if is_known || owned {
            continue;
        }
        let whose = match &thing.owner {
            Some(Some(owner)) => format!("it was made for the instance with uid {owner}, which is gone"),
            _ => "no instance and no backup names it".to_owned(),
        };
        findings.push(Finding {
            kind: Kind::Orphan,
            subject: format!("{} {}", thing.kind.as_str(), thing.id),
            detail: format!("{whose}: take it over (spec.adopt), or delete it in AWS"),
            fix: None,
        });
    }
    findings
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
