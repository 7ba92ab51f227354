//! The Secrets of an instance.
//!
//! The *auth* Secret holds the generated password. It is made before the provider is asked for anything that uses it, and
//! is written again only to put back what a cache in the cluster was started with. The *connection* Secret is what
//! applications mount; it follows from the auth Secret and the endpoint, and is made again when somebody deletes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::kubernetes::Stores;
use super::{Desired, Done, Fault, Token, TokenStage, objects};
use crate::api::labels::{NAME, PLAN};
use crate::api::{Connection, EngineType, generate_password};

/// The key of the password in both Secrets.
pub const PASSWORD: &str = "password";
/// The key of the auth Secret that redis and valkey in the cluster read as a configuration file.
pub const REDIS_AUTH_CONF: &str = "auth.conf";

/// What can be done with an instance's Secrets.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretStep {
    /// Makes the auth Secret with a new password. One that exists is left as it is.
    CreateAuth,
    /// Writes the auth Secret again.
    ApplyAuth(BTreeMap<String, ByteString>),
    /// Writes the connection Secret.
    ApplyConnection(BTreeMap<String, ByteString>),
    /// Writes the Secret with the users that a redis in the cluster starts with.
    ApplyUsers(BTreeMap<String, ByteString>),
    /// Deletes those of these names.
    Delete(Vec<String>),
    /// Takes our owner references off those of these names, so that they outlive the instance.
    Disown(Vec<String>),
}

/// The names of those of the Secrets that belong to the instance and are not being deleted.
pub fn owned(desired: &Desired, secrets: &BTreeMap<String, Arc<Secret>>) -> Vec<String> {
    let ours = |secret: &Secret| {
        let owners = secret.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.uid == desired.uid)
    };
    secrets
        .iter()
        .filter(|(_, secret)| secret.metadata.deletion_timestamp.is_none() && ours(secret))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The step that makes the connection Secret say this; `None` if it does.
pub fn connection_step(
    desired: &Desired,
    secrets: &BTreeMap<String, Arc<Secret>>,
    connection: &Connection,
) -> Option<SecretStep> {
    let data = connection.secret_data();
    let stands = stands(desired, secrets.get(&desired.connection_secret), &data);
    (!stands).then_some(SecretStep::ApplyConnection(data))
}

/// The step that makes the Secret of users say this; `None` if it does.
pub fn users_step(
    desired: &Desired,
    secrets: &BTreeMap<String, Arc<Secret>>,
    data: BTreeMap<String, ByteString>,
) -> Option<SecretStep> {
    let stands = stands(desired, secrets.get(&desired.users_secret()), &data);
    (!stands).then_some(SecretStep::ApplyUsers(data))
}

/// Whether a Secret that follows from others says this, and is labelled with the plan that the instance is on now.
fn stands(desired: &Desired, secret: Option<&Arc<Secret>>, data: &BTreeMap<String, ByteString>) -> bool {
    let is_labelled = |secret: &Secret| {
        let plan = secret.metadata.labels.as_ref().and_then(|labels| labels.get(PLAN));
        plan.is_none_or(|plan| *plan == desired.plan_name)
    };
    secret.is_some_and(|secret| secret.data.as_ref() == Some(data) && is_labelled(secret))
}

/// The step that makes or mends the auth Secret of a redis in the cluster, which reads it when it starts and never again;
/// `None` if that is not to be done. The password is the one that applications were told when the Pods were made with it:
/// what somebody writes over it, or deletes, is put back.
pub fn auth_step(desired: &Desired, secrets: &BTreeMap<String, Arc<Secret>>) -> Option<SecretStep> {
    let auth = secrets.get(&desired.auth_secret());
    let connection = secrets.get(&desired.connection_secret).filter(|_| desired.was_ready);
    let told = connection.and_then(|secret| password(secret));
    let wanted = match auth.and_then(|secret| password(secret)) {
        // Of the two the one that was written since is wrong.
        Some(_) if auth.is_some_and(|secret| was_rewritten(desired, secret)) => told?,
        Some(password) => password,
        None => match told {
            Some(told) => told,
            None => return Some(SecretStep::CreateAuth),
        },
    };
    let data = auth_data(&wanted);
    let live = auth.and_then(|secret| secret.data.as_ref());
    let stands = live.is_some_and(|live| data.iter().all(|(key, value)| live.get(key) == Some(value)));
    (!stands).then_some(SecretStep::ApplyAuth(data))
}

fn was_rewritten(desired: &Desired, auth: &Secret) -> bool {
    let recorded = desired.record.token.as_ref().map(|token| &token.secret_version);
    recorded.is_some_and(|recorded| Some(recorded) != auth.metadata.resource_version.as_ref())
}

/// What to keep of the auth Secret of a redis in the cluster: its version, once applications were told what it says.
pub fn auth_record(desired: &Desired, secrets: &BTreeMap<String, Arc<Secret>>) -> Option<Token> {
    let said = |name: &str| secrets.get(name).and_then(|secret| value(secret, PASSWORD));
    let auth = secrets.get(&desired.auth_secret());
    let version = auth.and_then(|secret| secret.metadata.resource_version.clone());
    let told = said(&desired.connection_secret).filter(|told| !told.is_empty());
    match version {
        Some(secret_version) if told.is_some() && told == said(&desired.auth_secret()) => Some(Token {
            secret_version,
            stage: TokenStage::Alone,
        }),
        _ => desired.record.token.clone(),
    }
}

/// What an auth Secret says of a password.
pub fn auth_data(password: &SecretString) -> BTreeMap<String, ByteString> {
    let text = password.expose_secret();
    let conf = format!("requirepass {text}\n");
    [(PASSWORD, text.to_owned()), (REDIS_AUTH_CONF, conf)]
        .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
        .into()
}

/// How soon to decide anew after Secrets were deleted or let go, unless that is watched before.
const UNLESS_WATCHED: Duration = Duration::from_secs(1);

/// Does one step. What it writes is observed from then on, though no watch has told of it.
///
/// # Errors
/// When the API server cannot be reached or refuses, or a Secret of the name belongs to somebody else.
pub async fn act(client: &Client, stores: &Stores, desired: &Desired, step: &SecretStep) -> Result<Done, Fault> {
    let written = match step {
        SecretStep::CreateAuth => create_auth(client, desired).await?,
        SecretStep::ApplyAuth(data) => {
            let name = &desired.auth_secret();
            let body = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": auth_metadata(desired),
                "data": data,
            });
            objects::apply::<Secret>(client, desired, name, &body).await.map(Some)?
        }
        SecretStep::ApplyConnection(data) => {
            let name = &desired.connection_secret;
            let body = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "type": format!("servicebinding.io/{}", protocol(desired.plan.engine.type_)),
                "metadata": objects::metadata(desired, name),
                "data": data,
            });
            objects::apply::<Secret>(client, desired, name, &body).await.map(Some)?
        }
        SecretStep::ApplyUsers(data) => {
            let name = &desired.users_secret();
            let body = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": objects::metadata(desired, name),
                "data": data,
            });
            objects::apply::<Secret>(client, desired, name, &body).await.map(Some)?
        }
        SecretStep::Delete(names) => {
            for name in names {
                objects::delete::<Secret>(client, desired, name).await?;
            }
            None
        }
        SecretStep::Disown(names) => {
            for name in names {
                objects::disown::<Secret>(client, desired, name).await?;
            }
            None
        }
    };
    Ok(match written {
        Some(written) => {
            stores.wrote(written);
            Done::Observed
        }
        None => Done::Later(UNLESS_WATCHED),
    })
}

/// The type of the connection Secret, which cannot change: a redis that becomes valkey goes on speaking its protocol.
fn protocol(engine: EngineType) -> &'static str {
    match engine {
        EngineType::Memcached => "memcached",
        EngineType::Redis | EngineType::Valkey => "redis",
    }
}

/// It is not written again with the plan, so it is not labelled with what may change.
fn auth_metadata(desired: &Desired) -> Value {
    let mut metadata = objects::metadata(desired, &desired.auth_secret());
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|label, _| ![PLAN, NAME].contains(&label.as_str()));
    }
    metadata
}

async fn create_auth(client: &Client, desired: &Desired) -> Result<Option<Secret>, Fault> {
    let name = desired.auth_secret();
    let what = objects::attempt::<Secret>("creating", desired, &name);
    let body: Secret = serde_json::from_value(json!({
        "metadata": auth_metadata(desired),
        "data": auth_data(&generate_password()),
    }))
    .map_err(|_| Fault::refused(format!("{what}: its manifest cannot be written")))?;
    let api: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
    let how = PostParams {
        field_manager: Some(objects::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match objects::timed(api.create(&how, &body)).await {
        Ok(created) => Ok(Some(created)),
        // Somebody, perhaps we in an earlier run, was first: its password stands.
        Err(objects::Refusal::Api(status)) if status.is_already_exists() => {
            let existing = objects::timed(api.get_metadata(&name))
                .await
                .map_err(|refusal| refusal.fault(&what))?;
            objects::owned_by::<Secret>(desired, &name, existing.metadata.owner_references.as_deref())?;
            Ok(None)
        }
        Err(refusal) => Err(refusal.fault(&what)),
    }
}

/// One value of a Secret, as text.
pub fn value(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone()).ok()
}

/// The password in an instance's auth Secret.
pub fn password(auth: &Secret) -> Option<SecretString> {
    value(auth, PASSWORD)
        .filter(|password| !password.is_empty())
        .map(Into::into)
}
