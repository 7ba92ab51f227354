//! What is to be done about each row of `resources` and `tasks`: a pure function of the rows and of what exists.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;
use serde::Deserialize;
use uuid::Uuid;

use super::facts::{Facts, PlanFate, Usable};
use super::old::{Old, OldResource, OldTask};
use super::report::{Fate, Kind, Line};
use super::sound::sound;
use crate::api::ProviderKind;
use crate::control::pool::member_name;
use crate::ledger::import::{Awaited, ImportedInstance, ImportedMember, Standing};
use crate::ledger::{InstanceId, WebhookTarget, resource_name};
use crate::webhooks;

/// Owner of what the old broker made ahead.
const PREPROVISIONED: &str = "preprovisioned";
/// What an id must be like to be the name of a `CacheInstance`.
const MAX_NAME: usize = 52;

/// Something to be written to the ledger, and the line of the report that it is.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The line; its fate is that of a write that succeeds.
    pub line: Line,
    /// What is to be written; nothing where the line says why.
    pub write: Option<Write>,
}

/// One write, whole or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// An instance, with what its platform waits for.
    Instance(Box<ImportedInstance>),
    /// A member of a pool.
    Member(ImportedMember),
}

/// What is to be done about every resource and task.
pub fn rows(old: &Old, plans: &BTreeMap<String, PlanFate>, facts: &Facts) -> Vec<Entry> {
    let mut tasks: BTreeMap<&str, Vec<&OldTask>> = BTreeMap::new();
    for task in &old.tasks {
        tasks.entry(&task.resource).or_default().push(task);
    }
    let mut names: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for resource in old.resources.iter().filter(|resource| !resource.deleted) {
        *names.entry(cache_of(resource, plans)).or_default() += 1;
    }
    let shared: BTreeSet<_> = names
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(name, _)| name)
        .collect();
    let mut pools = facts.holdings.pools.clone();
    let mut entries = Vec::new();
    for resource in &old.resources {
        let own = tasks.remove(resource.id.as_str()).unwrap_or_default();
        let row = Row {
            resource,
            tasks: &own,
            plan: plans.get(&resource.plan),
            facts,
            shared: !resource.deleted && shared.contains(&cache_of(resource, plans)),
        };
        entries.push(row.judge(&mut pools));
        entries.extend(own.iter().filter(|task| !task.is_open()).map(|task| {
            let why = if task.deleted { "deleted" } else { task.status.as_str() };
            skipped(
                Kind::Task,
                &task.id,
                format!("{} of {} is {why}", task.action, task.resource),
            )
        }));
        let wanted = entries.iter().rev().find(|entry| entry.line.id == resource.id);
        let written = wanted.is_some_and(|entry| matches!(entry.line.fate, Fate::Imported | Fate::Known));
        entries.extend(open_tasks(&own, resource, written, facts));
    }
    entries.extend(tasks.into_values().flatten().map(|task| {
        let why = format!("there is no resource {} that it could be about", task.resource);
        if task.is_open() {
            decision(
                Kind::Task,
                &task.id,
                format!("{why}: delete the task in the old database"),
            )
        } else {
            skipped(Kind::Task, &task.id, why)
        }
    }));
    entries
}

/// The provider and id of a cache: two rows with the same are about one.
fn cache_of<'a>(resource: &'a OldResource, plans: &'a BTreeMap<String, PlanFate>) -> (&'a str, String) {
    let place = match plans.get(&resource.plan).map(|plan| &plan.usable) {
        Some(Ok(usable)) if usable.provider.kind() == ProviderKind::Kubernetes => usable.provider.namespace(),
        _ => "",
    };
    // One that was never made has no name that it could share.
    let name = if resource.name.is_empty() {
        resource.id.clone()
    } else {
        resource.name.clone()
    };
    (place, name)
}

fn line(kind: Kind, id: &str, fate: Fate) -> Line {
    Line {
        kind,
        id: id.to_owned(),
        fate,
        notes: Vec::new(),
    }
}

fn skipped(kind: Kind, id: &str, why: String) -> Entry {
    Entry {
        line: line(kind, id, Fate::Skipped(why)),
        write: None,
    }
}

fn decision(kind: Kind, id: &str, why: String) -> Entry {
    Entry {
        line: line(kind, id, Fate::NeedsDecision(why)),
        write: None,
    }
}

/// What of a resource's tasks is still to be done.
fn open_tasks(own: &[&OldTask], resource: &OldResource, written: bool, facts: &Facts) -> Vec<Entry> {
    let open = own.iter().filter(|task| task.is_open());
    let one = |task: &&OldTask| {
        let id = &task.id;
        match task.action.as_str() {
            "notify-create-service-webhook" if resource.deleted => {
                skipped(Kind::Webhook, id, format!("instance {} was given back", resource.id))
            }
            "notify-create-service-webhook" if !resource.claimed => {
                skipped(Kind::Webhook, id, format!("nobody has ordered {}", resource.id))
            }
            "notify-create-service-webhook" => match target(task, facts.webhooks) {
                Err(why) => decision(Kind::Webhook, id, why),
                Ok(_) if written => Entry {
                    line: line(Kind::Webhook, id, Fate::Imported),
                    write: None,
                },
                Ok(_) => skipped(Kind::Webhook, id, format!("instance {} is not imported", resource.id)),
            },
            "notify-create-binding-webhook" => skipped(
                Kind::Webhook,
                id,
                "the old broker never sent webhooks about bindings".to_owned(),
            ),
            "resync-from-provider" | "resync-until-available" | "perform-post-provision" => skipped(
                Kind::Task,
                id,
                format!("{} is done by looking at what exists, always", task.action),
            ),
            // Said with the resource.
            "delete" | "change-plans" | "change-providers" | "restore" => skipped(
                Kind::Task,
                id,
                format!("{} of {} is for the old broker to finish", task.action, task.resource),
            ),
            action => decision(
                Kind::Task,
                id,
                format!("its action {action:?} is not known: see that it is done, or delete it in the old database"),
            ),
        }
    };
    open.map(one).collect()
}

/// `tasks.metadata` of a webhook.
#[derive(Deserialize)]
struct Metadata {
    url: SecretString,
    secret: SecretString,
}

fn target(task: &OldTask, policy: webhooks::Policy) -> Result<WebhookTarget, String> {
    use secrecy::ExposeSecret;
    let wrong = || {
        "metadata is no JSON object with url and secret, so nobody can be told: correct it in the old database, or delete \
         the task"
            .to_owned()
    };
    let Metadata { url, secret } = serde_json::from_str(&task.metadata).map_err(|_| wrong())?;
    webhooks::target(url.expose_secret(), policy).map_err(|error| {
        format!("its URL {error}: set WEBHOOK_ALLOW_PRIVATE=true if such are to be told, or delete the task in the old database")
    })?;
    Ok(WebhookTarget {
        url,
        secret: Some(secret).filter(|secret| !secret.expose_secret().is_empty()),
    })
}

/// A resource with what belongs to it.
struct Row<'a> {
    resource: &'a OldResource,
    tasks: &'a [&'a OldTask],
    plan: Option<&'a PlanFate>,
    facts: &'a Facts,
    /// Whether another row is about the same cache.
    shared: bool,
}

impl Row<'_> {
    fn kind(&self) -> Kind {
        match (self.resource.deleted, self.resource.claimed) {
            (true, _) => Kind::Tombstone,
            (false, true) => Kind::Instance,
            (false, false) => Kind::PoolMember,
        }
    }

    fn judge(&self, pools: &mut BTreeMap<String, usize>) -> Entry {
        let (kind, id) = (self.kind(), &self.resource.id);
        let outcome = match kind {
            Kind::Tombstone if !self.resource.claimed => {
                return skipped(kind, id, "it was made ahead, and nobody ever ordered it".to_owned());
            }
            Kind::Tombstone => self.tombstone(),
            Kind::PoolMember => self.member(pools),
            _ => self.instance(),
        };
        match outcome {
            Ok(entry) => entry,
            Err(Refused::Skip(why)) => skipped(kind, id, why),
            Err(Refused::Decide(why)) => decision(kind, id, why),
        }
    }

    fn known(&self) -> Entry {
        Entry {
            line: line(self.kind(), &self.resource.id, Fate::Known),
            write: None,
        }
    }

    fn plan(&self) -> Result<&PlanFate, Refused> {
        self.plan.ok_or_else(|| {
            Refused::Decide(format!(
                "its plan {} is not in table plans: put the plan back there, or deprovision the instance",
                self.resource.plan
            ))
        })
    }

    fn tombstone(&self) -> Result<Entry, Refused> {
        let resource = self.resource;
        match self.facts.holdings.instances.get(&resource.id) {
            Some(held) if held.gone => return Ok(self.known()),
            Some(_) => {
                return Err(Refused::Decide(
                    "the old broker deleted it after it was imported: deprovision it here, too".to_owned(),
                ));
            }
            None => {}
        }
        let plan = self.plan()?;
        let revision = plan.usable.as_ref().map_or(0, |usable| usable.revision);
        let new = self.imported(plan, revision, String::new(), Standing::Gone { at: resource.updated })?;
        Ok(Entry {
            line: line(Kind::Tombstone, &resource.id, Fate::Imported),
            write: Some(Write::Instance(Box::new(new))),
        })
    }

    fn imported(
        &self,
        plan: &PlanFate,
        revision: i64,
        organization: String,
        standing: Standing,
    ) -> Result<ImportedInstance, Refused> {
        let resource = self.resource;
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            Refused::Decide(format!("its {what} {error}: correct it in the old database"))
        };
        Ok(ImportedInstance {
            id: self.id()?,
            service_id: plan.service_id.parse().map_err(|error| wrong("service's id", &error))?,
            plan_id: resource.plan.parse().map_err(|error| wrong("plan's id", &error))?,
            plan_name: plan.name.clone(),
            plan_revision: revision,
            organization_guid: organization,
            created_at: resource.created,
            standing,
        })
    }

    fn id(&self) -> Result<InstanceId, Refused> {
        let id = self.resource.id.parse();
        id.map_err(|error| Refused::Decide(format!("its id {error}: correct it in the old database")))
    }

    fn usable(&self) -> Result<(&PlanFate, &Usable), Refused> {
        let plan = self.plan()?;
        match &plan.usable {
            Ok(usable) => Ok((plan, usable)),
            Err(why) => Err(Refused::Decide(format!("its plan {} is not usable: {why}", plan.name))),
        }
    }

    fn instance(&self) -> Result<Entry, Refused> {
        let resource = self.resource;
        if let Some(held) = self.facts.holdings.instances.get(&resource.id) {
            return match &held.adopt {
                _ if held.gone => Err(Refused::Skip("it was given back here after it was imported".to_owned())),
                Some(adopted) if *adopted != resource.name => Err(Refused::Decide(format!(
                    "it was imported as {adopted}, and the old broker has made {} for it since: stop the old broker, \
                     deprovision the instance here, and see which of the two applications use",
                    resource.name
                ))),
                _ => Ok(self.known()),
            };
        }
        let (plan, usable) = self.usable()?;
        self.settled()?;
        let id = self.id()?;
        if let Some(member) = self.facts.holdings.members.get(&resource.name) {
            return Err(Refused::Decide(match &member.claimed_by {
                Some(other) => format!(
                    "{} was imported into a pool and handed out here as instance {other}, and by the old broker as this \
                     one: order another cache for one of the two",
                    resource.name
                ),
                None => format!(
                    "{} was imported into a pool, and the old broker has handed it out since: set \
                     spec.deletionPolicy of the CacheInstance that adopts it to Retain, delete that, and import again",
                    resource.name
                ),
            }));
        }
        let sound = sound(resource, self.facts, usable)?;
        let mut notes = sound.notes;
        let (namespace, name) = self.place(usable, || resource_name(&id))?;
        let open = |action: &str| {
            let mut tasks = self.tasks.iter().filter(|task| task.is_open());
            tasks.find(|task| task.action == action)
        };
        let webhook = open("notify-create-service-webhook").and_then(|task| target(task, self.facts.webhooks).ok());
        let making = open("perform-post-provision").is_some()
            || matches!(resource.status.as_str(), "creating" | "provisioning" | "starting");
        let awaited = (making || webhook.is_some()).then_some(Awaited {
            usable: !making,
            webhook,
            deadline: usable.deadline,
        });
        if self.failed("delete") {
            notes.push("the old broker was asked to delete it and gave up: deprovision it again".to_owned());
        }
        let standing = Standing::Present {
            provider_id: resource.name.clone(),
            namespace,
            name,
            awaited,
        };
        let organization = sound
            .organization
            .filter(|owner| owner != PREPROVISIONED)
            .unwrap_or_default();
        let new = self.imported(plan, usable.revision, organization, standing)?;
        let mut line = line(Kind::Instance, &resource.id, Fate::Imported);
        line.notes = notes;
        Ok(Entry {
            line,
            write: Some(Write::Instance(Box::new(new))),
        })
    }

    fn member(&self, pools: &mut BTreeMap<String, usize>) -> Result<Entry, Refused> {
        let resource = self.resource;
        if self.facts.holdings.members.contains_key(&resource.name) && !resource.name.is_empty() {
            return Ok(self.known());
        }
        if resource.name.is_empty() {
            return Err(Refused::Skip("no cache was made for it".to_owned()));
        }
        let (plan, usable) = self.usable()?;
        self.settled()?;
        let room = usable
            .preprovision
            .saturating_sub(pools.get(&plan.name).copied().unwrap_or_default());
        let sound = sound(resource, self.facts, usable)?;
        if room == 0 {
            return Err(Refused::Decide(format!(
                "nobody has ordered {}, and the pool of CachePlan {} keeps {} caches: raise spec.preprovision and import \
                 again, or delete the cache",
                resource.name, plan.name, usable.preprovision
            )));
        }
        let id = Uuid::parse_str(&resource.id)
            .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, resource.id.as_bytes()));
        let (namespace, name) = self.place(usable, || member_name(id))?;
        let new = ImportedMember {
            id,
            plan_id: resource
                .plan
                .parse()
                .map_err(|error| Refused::Decide(format!("its plan's id {error}: correct it in the old database")))?,
            plan_name: plan.name.clone(),
            plan_revision: usable.revision,
            provider_id: resource.name.clone(),
            namespace,
            name,
        };
        *pools.entry(plan.name.clone()).or_default() += 1;
        let mut line = line(Kind::PoolMember, &resource.id, Fate::Imported);
        line.notes = sound.notes;
        Ok(Entry {
            line,
            write: Some(Write::Member(new)),
        })
    }

    fn failed(&self, action: &str) -> bool {
        let mut tasks = self.tasks.iter().filter(|task| !task.deleted);
        tasks.any(|task| task.action == action && task.status == "failed")
    }

    /// Refuses what the old broker is still at work on.
    fn settled(&self) -> Result<(), Refused> {
        let resource = self.resource;
        let working = ["delete", "change-plans", "change-providers", "restore"];
        let mut open = self.tasks.iter().filter(|task| task.is_open());
        if let Some(task) = open.find(|task| working.contains(&task.action.as_str())) {
            return Err(Refused::Decide(format!(
                "the old broker has task {} ({}) to finish: let it, and import again; or set the task's status to failed in \
                 the old database if it never will",
                task.id, task.action
            )));
        }
        if resource.name.is_empty() {
            return Err(Refused::Decide(
                "it names no cache: find its cache and put its id into column name, or delete the row".to_owned(),
            ));
        }
        if self.shared {
            return Err(Refused::Decide(format!(
                "another row names {} too, so one cache was handed out twice: order another one for one of the two, and \
                 delete that row",
                resource.name
            )));
        }
        Ok(())
    }

    /// Where the resource goes.
    fn place(&self, usable: &Usable, made_up: impl Fn() -> String) -> Result<(String, String), Refused> {
        let (namespace, name) = match usable.provider.kind() {
            ProviderKind::Kubernetes => (usable.provider.namespace().to_owned(), self.resource.name.clone()),
            ProviderKind::ElastiCache => {
                let namespace = self.facts.namespaces.of(usable.provider.engine());
                (namespace.to_owned(), made_up())
            }
        };
        let fits = name.len() <= MAX_NAME
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.ends_with(|last: char| last.is_ascii_lowercase() || last.is_ascii_digit())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(Refused::Decide(format!(
                "{name} cannot be the name of a CacheInstance, which has at most {MAX_NAME} lower-case letters, digits and \
                 hyphens: order another cache and give this one back"
            )));
        }
        if self
            .facts
            .watched
            .as_ref()
            .is_some_and(|watched| !watched.contains(&namespace))
        {
            return Err(Refused::Decide(format!(
                "it is in namespace {namespace}, which WATCH_NAMESPACES does not have: add it, for the broker too"
            )));
        }
        Ok((namespace, name))
    }
}

/// Why a row is not imported.
pub enum Refused {
    /// There is nothing to be done about it.
    Skip(String),
    /// Somebody must decide.
    Decide(String),
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
