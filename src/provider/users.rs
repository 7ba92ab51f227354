//! The users of an instance beside its default one: whose they are, and their passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};

use super::{Desired, Fault, objects, secrets};
use crate::api::labels;
use crate::wire::PasswordHash;

/// How soon to look again while users are on their way.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a Secret is left to whoever made it for a user that the instance does not name yet.
const UNNAMED: SignedDuration = SignedDuration::from_mins(10);

/// A user that an instance asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef {
    /// Its name.
    pub name: String,
    /// The Secret with its password.
    pub secret: String,
}

/// What an instance's status keeps about a user. It stands there before the provider is asked for the user, and until
/// the user is gone from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Its name.
    pub name: String,
    /// Whether the cache lets it in.
    pub ready: bool,
    /// The version of the Secret that its password was last taken from.
    pub secret_version: Option<String>,
}

/// The password of a user, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The version of the Secret.
    pub version: String,
    /// What a redis keeps of it.
    pub hash: PasswordHash,
    /// Whether ElastiCache takes it (`CreateUser`: 16 to 128 printable characters).
    pub suits_elasticache: bool,
}

/// The passwords that were found, by user.
pub type Credentials = BTreeMap<String, Credential>;

impl Credential {
    fn of(secret: &Secret) -> Option<Self> {
        let password = secrets::password(secret)?;
        let text = password.expose_secret();
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        Some(Self {
            version: secret.resource_version().unwrap_or_default(),
            hash: PasswordHash::of(&password),
            suits_elasticache: (16..=128).contains(&text.len()) && printable,
        })
    }
}

/// Finds the passwords of an instance's users: in what is watched, else by asking, since Secrets that somebody else made
/// are not watched.
///
/// # Errors
/// When the API server does not answer.
pub async fn find(
    kube: &Client,
    desired: &Desired,
    watched: &BTreeMap<String, Arc<Secret>>,
) -> Result<Credentials, Fault> {
    let mut found = Credentials::new();
    for user in &desired.users {
        let credential = match watched.get(&user.secret) {
            Some(secret) => Credential::of(secret),
            None => read(kube, desired, &user.secret)
                .await?
                .as_ref()
                .and_then(Credential::of),
        };
        found.extend(credential.map(|credential| (user.name.clone(), credential)));
    }
    Ok(found)
}

async fn read(kube: &Client, desired: &Desired, name: &str) -> Result<Option<Secret>, Fault> {
    let api: Api<Secret> = Api::namespaced(kube.clone(), &desired.namespace);
    objects::timed(api.get_opt(name))
        .await
        .map_err(|refusal| refusal.fault(&objects::attempt::<Secret>("reading", desired, name)))
}

/// The password of one user, to be handed to a provider.
///
/// # Errors
/// When the API server does not answer, or there is no such password.
pub async fn password(kube: &Client, desired: &Desired, secret: &str) -> Result<SecretString, Fault> {
    let found = read(kube, desired, secret).await?;
    found
        .as_ref()
        .and_then(secrets::password)
        .ok_or_else(|| Fault::transient(format!("Secret {}/{secret} has no password", desired.namespace)))
}

/// What of the users' Secrets is missing, as a sentence; `None` if nothing is.
pub fn missing(desired: &Desired, found: impl Fn(&str) -> bool) -> Option<String> {
    let user = desired.users.iter().find(|user| !found(&user.name))?;
    Some(format!(
        "waiting for Secret {} with the password of user {}: make it, or take the user back",
        user.secret, user.name
    ))
}

/// Secrets of users that the instance does not have any more: it had them and they are gone from the cache, or it was
/// never told of them.
pub fn surplus(
    desired: &Desired,
    watched: &BTreeMap<String, Arc<Secret>>,
    gone: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Vec<String> {
    let recorded = |user: &str| desired.record.users.iter().any(|record| record.name == user);
    let is_surplus = |secret: &Secret| {
        let owners = secret.metadata.owner_references.iter().flatten();
        let ours = owners.into_iter().any(|owner| owner.uid == desired.uid);
        let Some(user) = secret.labels().get(labels::USER).filter(|_| ours) else {
            return false;
        };
        let made = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let old = made.is_some_and(|made| now.duration_since(made) > UNNAMED);
        secret.metadata.deletion_timestamp.is_none() && if recorded(user) { gone(user) } else { old }
    };
    watched
        .iter()
        .filter(|(name, _)| !desired.users.iter().any(|user| user.secret == **name))
        .filter(|(_, secret)| is_surplus(secret))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The record of an instance's users: those that it asks for, and those that it had and that may still be there.
pub fn record(
    desired: &Desired,
    credentials: &Credentials,
    watched: &BTreeMap<String, Arc<Secret>>,
    ready: impl Fn(&str) -> bool,
    gone: impl Fn(&str) -> bool,
) -> Vec<UserRecord> {
    let before = |name: &str| desired.record.users.iter().find(|record| record.name == name);
    let has_secret = |name: &str| {
        let of = |secret: &Arc<Secret>| secret.labels().get(labels::USER).is_some_and(|user| user == name);
        watched.values().any(of)
    };
    let wanted = desired.users.iter().map(|user| {
        let ready = ready(&user.name);
        let applied = credentials.get(&user.name).filter(|_| ready);
        UserRecord {
            name: user.name.clone(),
            ready,
            secret_version: applied
                .map(|credential| credential.version.clone())
                .or_else(|| before(&user.name)?.secret_version.clone()),
        }
    });
    let leaving = desired
        .record
        .users
        .iter()
        .filter(|record| !desired.users.iter().any(|user| user.name == record.name))
        .filter(|record| !gone(&record.name) || has_secret(&record.name));
    let mut users: Vec<_> = wanted.chain(leaving.cloned()).collect();
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users
}
