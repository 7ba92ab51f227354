//! What must hold at the end of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::idle::Idle;
use crate::platform::is_settled;
use crate::postgres::Database;
use crate::world::World;

/// How things stand at the end, without what may differ from run to run: times, versions, passwords, addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending(pub BTreeMap<String, String>);

impl Ending {
    /// In what two differ.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .flat_map(|name| {
                let of = |ending: &Self| ending.0.get(name).map(String::as_str).unwrap_or_default().to_owned();
                let (wanted, is) = (of(self), of(other));
                leaves(&wanted, &is)
                    .into_iter()
                    .map(move |(at, wanted, is)| format!("{name}{at}: {is} instead of {wanted}"))
            })
            .collect()
    }

    /// The part that begins with one of these.
    pub fn only(&self, beginnings: &[&str]) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(name, _)| beginnings.iter().any(|beginning| name.starts_with(beginning)));
        Self(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// The leaves in which two texts of JSON differ; two texts that are none are one leaf.
fn leaves(wanted: &str, is: &str) -> Vec<(String, String, String)> {
    fn collect(value: &Value, at: String, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                members
                    .iter()
                    .for_each(|(name, value)| collect(value, format!("{at} {name}"), into));
            }
            Value::Array(items) if !items.is_empty() => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(nth, value)| collect(value, format!("{at} {nth}"), into));
            }
            leaf => drop(into.insert(at, leaf.to_string())),
        }
    }
    let read = |text: &str| {
        let mut leaves = BTreeMap::new();
        match serde_json::from_str(text) {
            Ok(value) => collect(&value, String::new(), &mut leaves),
            Err(_) => drop(leaves.insert(String::new(), format!("{text:?}"))),
        }
        leaves
    };
    let (wanted, is) = (read(wanted), read(is));
    let places: BTreeSet<_> = wanted.keys().chain(is.keys()).collect();
    let of = |leaves: &BTreeMap<String, String>, at: &String| {
        leaves.get(at).cloned().unwrap_or_else(|| "nothing".to_owned())
    };
    let differ = places.into_iter().filter(|at| wanted.get(*at) != is.get(*at));
    differ.map(|at| (at.clone(), of(&wanted, at), of(&is, at))).collect()
}

/// Looks at a world at rest.
pub fn rested(world: &World) {
    for (key, instance) in world.objects("cacheinstances") {
        let written = instance["metadata"]["annotations"]["cache.akkeris.io/ledger-revision"].as_str();
        let seen = instance["status"]["ledgerRevision"]
            .as_i64()
            .map(|seen| seen.to_string());
        if written != seen.as_deref() {
            world.accuse(format!(
                "{}/{} was written from revision {written:?} of the ledger and says {seen:?}",
                key.namespace, key.name
            ));
        }
        let stalled = crate::platform::condition(&instance, "Stalled") == Some("True");
        if !is_settled(&instance) && !stalled {
            world.accuse(format!(
                "{}/{} does not settle: {}",
                key.namespace, key.name, instance["status"]["conditions"]
            ));
        }
    }
    orphans(world);
}

/// What is on ElastiCache belongs to somebody, or was let go.
fn orphans(world: &World) {
    let mut known = BTreeSet::new();
    for (_, instance) in world.objects("cacheinstances") {
        let status = &instance["status"];
        let superseded = status["superseded"].as_array().cloned().unwrap_or_default();
        for place in [status, &status["replacement"]].into_iter().chain(&superseded) {
            known.insert(place["providerId"].as_str().unwrap_or_default().to_owned());
        }
    }
    let remaining = world.state().elasticache.remaining();
    let groups = &remaining.replication_groups;
    let members = |id: &String| groups.iter().any(|group| id.starts_with(&format!("{group}-")));
    let clusters = remaining.cache_clusters.iter().filter(|id| !members(id));
    let lost: Vec<_> = groups
        .iter()
        .chain(clusters)
        .filter(|id| !known.contains(*id))
        .cloned()
        .collect();
    let allowed = world.state().let_go.clone();
    for id in lost {
        if !allowed.contains(&id) {
            world.accuse(format!("{id} is on ElastiCache and belongs to nobody"));
        }
    }
}

/// How a world at rest stands.
pub async fn ending(world: &World, database: &Arc<Database>, idle: &Arc<Idle>) -> Ending {
    let mut ending = BTreeMap::new();
    let mut names = backups(world);
    names.extend(members(world));
    names.extend(users(world));
    objects(world, &names, &mut ending);
    elasticache(world, &names, &mut ending);
    caches(world, &mut ending);
    idle.begin();
    ledger(world, database, &mut ending).await;
    idle.end();
    Ending(ending)
}

const UNTOLD: &[&str] = &[
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "observedGeneration",
    "lastTransitionTime",
    "firstReadyTime",
    "restartAt",
    "restartedAt",
    "time",
    "completedAt",
    "since",
    "until",
    "requested",
    "message",
    "password",
    "uri",
    "REDIS_URL",
    "REDISS_URL",
    "auth.conf",
    "users.acl",
    "secretVersion",
    "startedAt",
    "cache.akkeris.io/ledger-revision",
    // Whoever asks again after a lost answer may have asked twice.
    "ledgerRevision",
    "cache.akkeris.io/operation-id",
    "cache.akkeris.io/restarted-at",
    "instances",
    "clusterIP",
    "cache.akkeris.io/applied-digest",
    // Of a specification that names a backup, whose name is another one in each run.
    "cache.akkeris.io/ledger-spec",
    // Of the tags of a cache, which name it: a member of a pool has another name in each run. The tags are compared.
    "digest",
];

fn told(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !UNTOLD.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), told(value)))
            .collect(),
        Value::Array(items) => items.iter().map(told).collect(),
        other => other.clone(),
    }
}

/// Backups that were ordered, and their snapshots, are named by what is another one in each run: here by their instance
/// and which of its backups they are.
fn backups(world: &World) -> Vec<(String, String)> {
    let mut backups: Vec<_> = world.objects("cachebackups").into_iter().collect();
    let text = |value: &Value, at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    backups.sort_by_key(|(_, backup)| text(backup, "/metadata/creationTimestamp"));
    let mut names = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (key, backup) in backups.iter().filter(|(key, _)| key.name.starts_with("osb-")) {
        let instance = text(backup, "/spec/instanceRef/name");
        let nth = counts.entry(instance.clone()).or_default();
        *nth += 1;
        names.push((key.name.clone(), format!("backup-{nth}-of-{instance}")));
        names.push((
            text(backup, "/status/snapshot"),
            format!("snapshot-{nth}-of-{instance}"),
        ));
    }
    names.retain(|(name, _)| !name.is_empty());
    names
}

/// Members of pools, and their caches, are named by what is another one in each run, too: here by who has them. Whether an
/// order finds a member that is ready is a matter of time, so what was made for it alone is told as a member is.
fn members(world: &World) -> Vec<(String, String)> {
    let instances = world.objects("cacheinstances").into_iter();
    let members = instances.filter(|(_, instance)| {
        let plan = instance["spec"]["planRef"]["name"].as_str().unwrap_or_default();
        plan.ends_with("-pooled")
    });
    members
        .flat_map(|(key, instance)| {
            let owner = instance["metadata"]["annotations"]["cache.akkeris.io/instance-id"].as_str();
            let told = format!("member-of-{}", owner.unwrap_or("the-pool"));
            let id = instance["status"]["providerId"].as_str().unwrap_or_default().to_owned();
            [(key.name, told.clone()), (id, format!("cache-of-{told}"))]
        })
        .filter(|(name, told)| !name.is_empty() && name != told)
        .collect()
}

/// So are users of bindings: here by whose they are and which of them.
fn users(world: &World) -> Vec<(String, String)> {
    let instances = world.objects("cacheinstances").into_iter();
    let named = instances.flat_map(|(_, instance)| {
        let users = instance["spec"]["users"].as_array().into_iter().flatten();
        let mut users: Vec<_> = users
            .filter_map(|user| user["name"].as_str().map(str::to_owned))
            .collect();
        users.sort();
        (1..)
            .zip(users)
            .map(|(nth, name)| (name, format!("user-{nth}")))
            .collect::<Vec<_>>()
    });
    named.collect()
}

/// Who is let in where: in the cluster each server has the users that its instance has, with the passwords of their Secrets.
fn caches(world: &World, ending: &mut BTreeMap<String, String>) {
    use base64::Engine as _;
    let secrets: BTreeMap<_, _> = world.objects("secrets").into_iter().collect();
    let instances: BTreeMap<_, _> = world.objects("cacheinstances").into_iter().collect();
    let mut wrong = Vec::new();
    {
        let state = world.state();
        for (key, pod) in state.api.objects().filter(|(key, _)| key.plural == "pods") {
            let Some(cache) = state.caches.get(pod["metadata"]["uid"].as_str().unwrap_or_default()) else {
                continue;
            };
            let owner = pod["metadata"]["labels"]["app.kubernetes.io/instance"]
                .as_str()
                .unwrap_or_default();
            let mut instance = instances
                .iter()
                .filter(|(found, _)| found.namespace == key.namespace && found.name == owner);
            let users = instance
                .next()
                .and_then(|(_, instance)| instance["spec"]["users"].as_array().cloned());
            let mut wanted: Vec<_> = users
                .into_iter()
                .flatten()
                .map(|user| user["name"].as_str().unwrap_or_default().to_owned())
                .collect();
            for user in &wanted {
                let secret = secrets.iter().find(|(found, secret)| {
                    found.namespace == key.namespace
                        && secret["metadata"]["labels"]["app.kubernetes.io/instance"] == owner
                        && secret["metadata"]["labels"]["cache.akkeris.io/user"] == user.as_str()
                });
                let password = secret.and_then(|(_, secret)| secret["data"]["password"].as_str());
                let password = base64::prelude::BASE64_STANDARD.decode(password.unwrap_or_default());
                if !cache.admits(user, &String::from_utf8_lossy(&password.unwrap_or_default())) {
                    wrong.push(format!("{} does not let {user} in", key.name));
                }
            }
            wanted.push("default".to_owned());
            wanted.sort();
            let has = cache.users();
            if !has.is_empty() && has != wanted {
                wrong.push(format!("{} has the users {has:?} instead of {wanted:?}", key.name));
            }
        }
        let remaining = state.elasticache.remaining();
        for (what, standing) in [
            ("users on ElastiCache", &remaining.users),
            ("groups of users on ElastiCache", &remaining.user_groups),
        ] {
            ending.insert(what.to_owned(), standing.len().to_string());
        }
    }
    for what in wrong {
        world.accuse(what);
    }
}

fn renamed(text: &str, names: &[(String, String)]) -> String {
    names
        .iter()
        .fold(text.to_owned(), |text, (name, told)| text.replace(name, told))
}

fn objects(world: &World, backups: &[(String, String)], ending: &mut BTreeMap<String, String>) {
    let state = world.state();
    // Deployments are named by a digest of what they are made from, times among it.
    let mut digests = Vec::new();
    for (key, deployment) in state.api.objects().filter(|(key, _)| key.plural == "deployments") {
        if let Some((_, digest)) = key.name.rsplit_once('-') {
            digests.push(digest.to_owned());
        }
        if let Some(labels) = deployment["spec"]["selector"]["matchLabels"].as_object() {
            digests.extend(
                labels
                    .values()
                    .filter_map(Value::as_str)
                    .filter(|text| text.len() == 10)
                    .map(str::to_owned),
            );
        }
    }
    let shown = |text: &str| {
        let mut text = renamed(&addressless(text), backups);
        for digest in &digests {
            text = text.replace(digest.as_str(), "#");
        }
        text
    };
    for (key, object) in state.api.objects() {
        if ["events", "leases", "pods"].contains(&key.plural) {
            continue;
        }
        let mut object = told(object);
        if key.plural == "secrets" {
            let data = object["data"].as_object().cloned().unwrap_or_default();
            let read = |value: &Value| {
                use base64::Engine as _;
                let bytes = base64::prelude::BASE64_STANDARD.decode(value.as_str().unwrap_or_default());
                json!(String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default())
            };
            object["data"] = data.iter().map(|(name, value)| (name.clone(), read(value))).collect();
        }
        let name = shown(&format!("{} {}/{}", key.plural, key.namespace, key.name));
        ending.insert(name, shown(&object.to_string()));
    }
    for (key, times) in state.api.made() {
        // Whoever did not hear that an update failed asks for it again, and a trial is of one update.
        let is_trial = key.plural == "deployments" && key.name.ends_with("-try");
        let is_twice = *times > 1 + u64::from(state.made_late.contains(key));
        if !["events", "leases", "pods"].contains(&key.plural) && is_twice && !is_trial {
            ending.insert(
                shown(&format!("made {} {}/{}", key.plural, key.namespace, key.name)),
                times.to_string(),
            );
        }
    }
    for (id, times) in state.counts.created.iter().filter(|(_, times)| **times > 1) {
        ending.insert(shown(&format!("made {id}")), times.to_string());
    }
}

/// A text without the addresses that caches get.
fn addressless(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("10.0.") {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        out.push_str("IP");
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    }
    out.push_str(rest);
    out
}

fn elasticache(world: &World, backups: &[(String, String)], ending: &mut BTreeMap<String, String>) {
    let now = world.now();
    let mut state = world.state();
    for operation in [
        "DescribeReplicationGroups",
        "DescribeCacheClusters",
        "DescribeSnapshots",
    ] {
        let body = format!("Action={operation}&Version=2015-02-02");
        let request = state.elasticache.read(&body).unwrap();
        let (_, answer) = state.elasticache.answer(&request, now);
        let answer = renamed(&timeless(&addressless(&answer)), backups);
        // Each by itself: their order is that of their names.
        for item in ["ReplicationGroup", "CacheCluster", "Snapshot"] {
            let (open, close) = (format!("<{item}>"), format!("</{item}>"));
            let parts = answer.split(&open).skip(1).filter_map(|part| part.split(&close).next());
            let mut parts: Vec<_> = parts.collect();
            parts.sort_unstable();
            if !parts.is_empty() {
                ending.insert(format!("{operation} {item}"), parts.join("\n"));
            }
        }
    }
}

/// XML without its times.
fn timeless(xml: &str) -> String {
    let mut out = String::new();
    for part in xml.split('<') {
        let (tag, _) = part.split_once('>').unwrap_or((part, ""));
        if tag.ends_with("Time") {
            out.push_str(&format!("<{tag}>"));
        } else if !part.is_empty() {
            out.push_str(&format!("<{part}"));
        }
    }
    out
}

/// What is in the ledger, and whether all that was promised was kept.
async fn ledger(world: &World, database: &Arc<Database>, ending: &mut BTreeMap<String, String>) {
    let rows = |query: &'static str| async move {
        let rows = database.sql.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let instances = rows(
        "select concat_ws(' ', id, plan_name, plan_revision, desired, ready, deleted_at is not null,
                          applied_revision = desired_revision, connection is not null, restore is not null)
           from instances order by id",
    );
    let operations =
        rows("select distinct concat_ws(' ', instance_id, kind, state) as told from operations order by told");
    let bindings =
        rows("select concat_ws(' ', instance_id, id, deleted_at is null) from bindings order by instance_id, id");
    let pools = rows(
        "select concat_ws(' ', plan_name, state, count(*)) from pool_members group by plan_name, state order by 1",
    );
    ending.insert("ledger instances".to_owned(), instances.await.join("; "));
    ending.insert("ledger operations".to_owned(), operations.await.join("; "));
    ending.insert("ledger bindings".to_owned(), bindings.await.join("; "));
    ending.insert("ledger pools".to_owned(), pools.await.join("; "));
    for unended in
        rows("select concat_ws(' ', instance_id, kind, id) from operations where state = 'in_progress'").await
    {
        world.accuse(format!("an operation that does not end: {unended}"));
    }
    for behind in rows("select id from instances where applied_revision < desired_revision").await {
        world.accuse(format!("the resource of {behind} was not written"));
    }
    webhooks(world, database).await;
}

/// Every operation that ended was told of, as it ended, under one id however often, and those of one instance in their order.
async fn webhooks(world: &World, database: &Arc<Database>) {
    let rows = database
        .sql
        .query(
            "select w.id::text, w.state, w.body, o.id::text, o.kind, o.state, o.instance_id
               from operations o left join webhooks w on w.operation_id = o.id
              order by w.sequence",
            &[],
        )
        .await
        .unwrap();
    let mut got: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut order: BTreeMap<String, usize> = BTreeMap::new();
    for event in world.state().receiver.got.values().flatten() {
        let id = event["id"].as_str().unwrap_or_default().to_owned();
        let next = order.len();
        order.entry(id.clone()).or_insert(next);
        got.entry(id).or_default().push(event.clone());
    }
    let mut known = BTreeSet::new();
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for row in &rows {
        let (id, told, body): (Option<String>, Option<String>, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let (operation, kind, state, instance): (String, String, String, String) =
            (row.get(3), row.get(4), row.get(5), row.get(6));
        let Some(id) = id else {
            if kind != "unbind" {
                world.accuse(format!("{kind} of {instance} has no webhook"));
            }
            continue;
        };
        let came = got.get(&id).cloned().unwrap_or_default();
        if told.as_deref() != Some("delivered") || came.is_empty() {
            world.accuse(format!(
                "the webhook {id} of {kind} is {told:?} and came {} times",
                came.len()
            ));
        }
        let body: Value = serde_json::from_str(&body.unwrap_or_default()).unwrap_or_default();
        if came.iter().any(|event| *event != body) {
            world.accuse(format!("webhook {id} came as {came:?} instead of {body}"));
        }
        let says = json!([
            body["id"],
            body["operation"],
            body["kind"],
            body["state"],
            body["instance_id"]
        ]);
        if says != json!([id, operation, kind, state, instance])
            || body["description"].as_str().is_none_or(str::is_empty)
        {
            world.accuse(format!(
                "webhook {id} of {kind} {operation}, which {state}, says {body}"
            ));
        }
        // Operations of an instance come one after the other; those of its bindings beside them.
        let at = order.get(&id).copied().unwrap_or_default();
        if kind != "bind" && last.insert(instance.clone(), at).is_some_and(|before| before > at) {
            world.accuse(format!(
                "the webhook of {kind} of {instance} came before an earlier one"
            ));
        }
        known.insert(id);
    }
    for id in got.keys().filter(|id| !known.contains(*id)) {
        world.accuse(format!("a webhook {id} came that nobody knows"));
    }
}
