//! The users of a redis in the cluster. They stand in a Secret that its Pods mount, so a Pod that starts has them; one
//! that runs is told of changes over its own protocol, and says what it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use secrecy::SecretString;

use super::super::users::{self, UserRecord};
use super::super::{Desired, Fault, secrets};
use super::observed::Observed;
use crate::api::{Connection, EngineType, ProviderKind};
use crate::provider::secrets::SecretStep;
use crate::wire::{self, AclChange, AclUser, DEFAULT_USER, PasswordHash, SeenUser, Target, Trust};

/// The key of the Secret of users that redis reads as a file.
pub const USERS_FILE: &str = "users.acl";

/// What the Pods of an instance answered when they were asked for their users, by name.
pub type Heard = BTreeMap<String, Result<BTreeMap<String, SeenUser>, String>>;

/// Whether an instance's Pods start with users. Those of a redis that was taken over ask for no password at all.
pub fn has_users(desired: &Desired) -> bool {
    desired.plan.engine.type_.is_redis_like() && desired.plan.has_users() && !desired.took_over_workload()
}

/// Whether an instance has users to look after: it has some, or it had.
pub fn are_kept(desired: &Desired) -> bool {
    has_users(desired) || !desired.record.users.is_empty()
}

/// Asks what decisions about users need: their passwords, and the Pods that answer.
///
/// # Errors
/// When the API server does not answer. A Pod that does not is noted as such.
pub async fn ask(kube: &Client, trust: &Trust, desired: &Desired, observed: &mut Observed) -> Result<(), Fault> {
    if !are_kept(desired) {
        return Ok(());
    }
    observed.credentials = users::find(kube, desired, &observed.secrets).await?;
    let Some(password) = default_password(desired, &observed.secrets) else {
        return Ok(());
    };
    let asked = observed
        .pods
        .iter()
        .filter_map(|(name, pod)| Some((name, address(pod, desired.plan.engine.type_)?)));
    let answers = asked.map(|(name, address)| {
        let target = target(desired, trust, &address, Some(&password));
        async move {
            let reply = wire::users(&target).await.pop();
            let outcome = reply.map_or_else(
                || Err("it has no address".to_owned()),
                |reply| reply.outcome.map_err(|error| error.to_string()),
            );
            (name.clone(), outcome)
        }
    });
    observed.heard = join_all(answers).await.into_iter().collect();
    Ok(())
}

/// Has a Pod change its users.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn change(
    trust: &Trust,
    desired: &Desired,
    secrets: &BTreeMap<String, Arc<Secret>>,
    address: &str,
    change: &AclChange,
) -> Result<(), Fault> {
    let password = default_password(desired, secrets)
        .ok_or_else(|| Fault::transient("the Secret with the password is not to be seen yet"))?;
    let target = target(desired, trust, address, Some(&password));
    for reply in wire::change_users(&target, change).await {
        reply
            .outcome
            .map_err(|error| Fault::transient(format!("{error}; trying again")))?;
    }
    Ok(())
}

fn default_password(desired: &Desired, secrets: &BTreeMap<String, Arc<Secret>>) -> Option<SecretString> {
    secrets
        .get(&desired.auth_secret())
        .and_then(|secret| secrets::password(secret))
}

/// Where a Pod answers, if its containers are ready.
pub fn address(pod: &Pod, engine: EngineType) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_ref()?;
    let ready = !containers.is_empty() && containers.iter().all(|container| container.ready);
    let address = status.pod_ip.as_ref().filter(|address| !address.is_empty())?;
    let port = engine.default_port();
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.clone()
    };
    (ready && pod.metadata.deletion_timestamp.is_none()).then(|| format!("{host}:{port}"))
}

/// A Pod to be spoken to as the default user, where its server has one.
pub fn target(desired: &Desired, trust: &Trust, address: &str, password: Option<&SecretString>) -> Target {
    let connection = Connection {
        engine: desired.plan.engine.type_,
        provider: ProviderKind::Kubernetes,
        host: address.to_owned(),
        port: desired.plan.engine.type_.default_port(),
        tls: false,
        username: password.map(|_| DEFAULT_USER.to_owned()),
        password: password.cloned(),
        nodes: vec![address.to_owned()],
    };
    Target::new(&connection, trust)
}

/// The users of an instance, and what stands of them.
#[derive(Clone, Debug)]
pub struct Users<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    /// All that a Pod is to have, the default one first.
    wanted: Vec<AclUser>,
}

impl<'a> Users<'a> {
    /// Those of an instance that has some; `password` is the default user's.
    pub fn of(desired: &'a Desired, observed: &'a Observed, password: &SecretString) -> Option<Self> {
        if !are_kept(desired) {
            return None;
        }
        let standing = standing(desired, observed);
        let user = |name: &str| -> Option<AclUser> {
            let hash = observed.credentials.get(name).map(|found| found.hash.clone());
            Some(AclUser {
                name: name.to_owned(),
                // Whoever lost a Secret does not lose the user with it.
                password: hash.or_else(|| standing.get(name).cloned())?,
            })
        };
        let default = AclUser {
            name: DEFAULT_USER.to_owned(),
            password: PasswordHash::of(password),
        };
        let others = desired.users.iter().filter_map(|wanted| user(&wanted.name));
        let wanted = std::iter::once(default).chain(others).collect();
        Some(Self {
            desired,
            observed,
            wanted,
        })
    }

    /// The step that makes the Secret that Pods mount say this; `None` if it does.
    pub fn file(&self) -> Option<SecretStep> {
        let text: String = self.wanted.iter().map(AclUser::line).collect();
        let data = BTreeMap::from([(USERS_FILE.to_owned(), ByteString(text.into_bytes()))]);
        secrets::users_step(self.desired, &self.observed.secrets, data)
    }

    /// A Pod that has other users than it is to have: its name, where it answers, and what it is to change.
    pub fn difference(&self) -> Option<(&'a str, String, AclChange)> {
        self.observed.heard.iter().find_map(|(name, heard)| {
            let change = AclChange::between(heard.as_ref().ok()?, &self.wanted);
            let address = address(self.observed.pods.get(name)?, self.desired.plan.engine.type_)?;
            (!change.is_empty()).then_some((name.as_str(), address, change))
        })
    }

    /// Secrets of users that are gone.
    pub fn surplus(&self, nodes: &[Vec<String>], now: Timestamp) -> Vec<String> {
        let gone = |name: &str| self.gone(nodes, name);
        users::surplus(self.desired, &self.observed.secrets, gone, now)
    }

    /// Whether one of these Pods has all the users that it is to have.
    pub fn stand_on(&self, pods: &[String]) -> bool {
        self.answers(pods)
            .any(|seen| AclChange::between(seen, &self.wanted).is_empty())
    }

    fn answers(&self, pods: &[String]) -> impl Iterator<Item = &'a BTreeMap<String, SeenUser>> {
        let heard = &self.observed.heard;
        let answers = pods.iter().filter_map(|pod| heard.get(pod)?.as_ref().ok());
        answers.collect::<Vec<_>>().into_iter()
    }

    /// What the Pods behind each node's Service make of the record. A node of which nobody was heard lets in whom it let
    /// in when it was.
    pub fn record(&self, nodes: &[Vec<String>]) -> Vec<UserRecord> {
        let before = |name: &str| {
            let mut records = self.desired.record.users.iter();
            records.any(|record| record.name == name && record.ready)
        };
        let ready = |name: &str| {
            let Some(wanted) = self.wanted.iter().find(|user| user.name == name) else {
                return false;
            };
            let lets_in = |pods: &Vec<String>| {
                let mut answers = self.answers(pods).peekable();
                match answers.peek() {
                    None => before(name),
                    Some(_) => answers.all(|seen| seen.get(name).is_some_and(|seen| seen.is(wanted))),
                }
            };
            !nodes.is_empty() && nodes.iter().all(lets_in)
        };
        let observed = self.observed;
        users::record(self.desired, &observed.credentials, &observed.secrets, ready, |name| {
            self.gone(nodes, name)
        })
    }

    /// Whether a user is refused everywhere: each node was heard, and no Pod that answers has it.
    pub fn gone(&self, nodes: &[Vec<String>], name: &str) -> bool {
        let refuses = |seen: &Result<BTreeMap<String, SeenUser>, String>| {
            seen.as_ref().is_ok_and(|seen| !seen.contains_key(name))
        };
        !nodes.is_empty()
            && nodes.iter().all(|pods| self.answers(pods).next().is_some())
            && self.observed.heard.values().all(refuses)
    }

    /// What is waited for, as a sentence; `None` if all is as it is to be.
    pub fn pending(&self, nodes: &[Vec<String>]) -> Option<String> {
        let known = |name: &str| self.wanted.iter().any(|user| user.name == name);
        if let Some(missing) = users::missing(self.desired, known) {
            return Some(missing);
        }
        let unheard = self.observed.heard.iter().find_map(|(pod, heard)| match heard {
            Err(error) => Some(format!("Pod {pod} cannot be asked for its users: {error}")),
            Ok(_) => None,
        });
        unheard.or_else(|| {
            let record = self.record(nodes);
            let wanted = |record: &&UserRecord| self.desired.users.iter().any(|user| user.name == record.name);
            let making = record.iter().filter(wanted).find(|record| !record.ready);
            let leaving = record.iter().find(|record| !wanted(record));
            match (making, leaving) {
                (Some(user), _) => Some(format!("waiting for user {} to be let in", user.name)),
                (None, Some(user)) => Some(format!("waiting for the end of user {}", user.name)),
                (None, None) => None,
            }
        })
    }
}

/// The passwords of the users in the Secret that Pods mount.
fn standing(desired: &Desired, observed: &Observed) -> BTreeMap<String, PasswordHash> {
    let secret = observed.secrets.get(&desired.users_secret());
    let text = secret.and_then(|secret| secrets::value(secret, USERS_FILE));
    let users = text.iter().flat_map(|text| text.lines()).filter_map(AclUser::read);
    users.map(|user| (user.name, user.password)).collect()
}
