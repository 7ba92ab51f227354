//! Users of bindings on their way from the ledger into the cluster: a Secret with the password of each, and then its name
//! in the resource of the instance.

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Error, deadline};
use crate::api::{CacheInstance, LocalRef, User, labels};
use crate::ledger::{BindingUser, Desired, Ledger, OutboxItem};

/// The users that a row asks for.
///
/// # Errors
/// When Postgres cannot be read, or a password cannot be opened.
pub async fn of(ledger: &Ledger, item: &OutboxItem) -> Result<Vec<BindingUser>, Error> {
    // Every binding with a user counts the row's revision up; most rows have none.
    if item.desired == Desired::Absent || item.revision == 1 {
        return Ok(Vec::new());
    }
    Ok(ledger.binding_users(&item.instance).await?)
}

/// The name of the Secret with the password of a binding's user.
fn secret_name(instance: &CacheInstance, user: &str) -> String {
    format!("{}-user-{user}", instance.name_any())
}

/// The users that an instance is to have: those of bindings, beside those that somebody else gave it.
pub fn wanted(existing: &CacheInstance, users: &[BindingUser]) -> Vec<User> {
    let others = existing.spec.users.iter();
    let others = others.filter(|user| user.secret_ref.name != secret_name(existing, &user.name));
    let ours = users.iter().map(|user| User {
        name: user.name.clone(),
        secret_ref: LocalRef {
            name: secret_name(existing, &user.name),
        },
    });
    others.cloned().chain(ours).collect()
}

/// Makes the Secrets of those users that the resource does not name yet. One that exists is left as it is: no two
/// bindings ever have a user of the same name.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn make_secrets(client: &Client, instance: &CacheInstance, users: &[BindingUser]) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &instance.namespace().unwrap_or_default());
    for user in users {
        if instance.spec.users.iter().any(|named| named.name == user.name) {
            continue;
        }
        let secret = secret(instance, user)?;
        match deadline(api.create(&PostParams::default(), &secret)).await {
            Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

fn secret(instance: &CacheInstance, user: &BindingUser) -> Result<Secret, Error> {
    let name = secret_name(instance, &user.name);
    let secret = json!({
        "metadata": {
            "name": name,
            "namespace": instance.namespace(),
            "labels": {
                labels::MANAGED_BY: labels::MANAGER,
                labels::INSTANCE: instance.name_any(),
                labels::USER: user.name,
            },
            "ownerReferences": [{
                "apiVersion": CacheInstance::api_version(&()),
                "kind": CacheInstance::kind(&()),
                "name": instance.name_any(),
                "uid": instance.uid().unwrap_or_default(),
                "controller": true,
            }],
        },
        "immutable": true,
        "stringData": { "username": user.name, "password": user.password.expose_secret() },
    });
    serde_json::from_value(secret).map_err(|_| Error::Resource(format!("Secret {name} cannot be written")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn instance(users: Value) -> CacheInstance {
        serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "osb-1", "namespace": "n", "uid": "u" },
            "spec": { "planRef": { "name": "p" }, "users": users },
        }))
        .unwrap()
    }

    fn user(name: &str) -> BindingUser {
        BindingUser {
            name: name.to_owned(),
            password: "hunter2".to_owned().into(),
        }
    }

    #[test]
    fn users_of_bindings_come_and_go_and_those_of_others_stay() {
        let named = |name: &str, secret: &str| json!({ "name": name, "secretRef": { "name": secret } });
        let standing = instance(json!([
            named("b-1", "osb-1-user-b-1"),
            named("batch", "batch-password"),
            named("b-2", "osb-1-user-b-2"),
        ]));
        let users = wanted(&standing, &[user("b-2"), user("b-3")]);
        assert_eq!(
            json!(users),
            json!([
                named("batch", "batch-password"),
                named("b-2", "osb-1-user-b-2"),
                named("b-3", "osb-1-user-b-3"),
            ])
        );
        assert_eq!(wanted(&instance(json!([])), &[]), []);
    }

    #[test]
    fn a_secret_goes_with_its_instance_and_says_whose_it_is() {
        let secret = secret(&instance(json!([])), &user("b-1")).unwrap();
        assert_eq!(secret.name_any(), "osb-1-user-b-1");
        assert_eq!(secret.labels()[labels::USER], "b-1");
        assert_eq!(secret.owner_references()[0].uid, "u");
        assert_eq!(secret.string_data.unwrap()["password"], "hunter2");
    }
}
