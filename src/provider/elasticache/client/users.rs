//! Users and user groups.

use std::collections::BTreeSet;

use aws_sdk_elasticache::error::SdkError;
use aws_sdk_elasticache::types::Tag;
use secrecy::{ExposeSecret, SecretString};

use super::super::super::Fault;
use super::super::OWNER_TAG;
use super::super::access::{NewUser, UserGroup, UserPhase};
use super::{Client, passing, sorted};
use crate::api::EngineType;

/// What a user may do; ElastiCache itself keeps the server's administration from everybody.
const ACCESS: &str = "on ~* &* +@all";

impl Client {
    /// A user group by its id. `None` is the API's own word that there is none.
    pub(in super::super) async fn user_group(&self, id: &str) -> Result<Option<UserGroup>, Fault> {
        self.turn().await;
        let described = self.sdk.describe_user_groups().user_group_id(id).send().await;
        let described = unless(described, |e| e.is_user_group_not_found_fault());
        let output = described.map_err(|error| passing(format!("describing user group {id}"), &error))?;
        let groups = output.and_then(|output| output.user_groups).unwrap_or_default();
        Ok(groups.into_iter().next().map(|group| {
            let phase = UserPhase::from_status(group.status().unwrap_or_default());
            let pending = group.pending_changes().is_some_and(|pending| {
                !(pending.user_ids_to_add().is_empty() && pending.user_ids_to_remove().is_empty())
            });
            UserGroup {
                engine: EngineType::named(group.engine().unwrap_or_default()).unwrap_or(EngineType::Redis),
                phase: if pending && phase == UserPhase::Active {
                    UserPhase::Busy
                } else {
                    phase
                },
                users: group
                    .user_ids()
                    .iter()
                    .map(|id| id.to_ascii_lowercase())
                    .collect::<BTreeSet<_>>(),
            }
        }))
    }

    /// How far a user is. `None` is the API's own word that there is none.
    pub(in super::super) async fn user(&self, id: &str) -> Result<Option<UserPhase>, Fault> {
        self.turn().await;
        let described = self.sdk.describe_users().user_id(id).send().await;
        let described = unless(described, |e| e.is_user_not_found_fault());
        let output = described.map_err(|error| passing(format!("describing user {id}"), &error))?;
        let phase = |user: &aws_sdk_elasticache::types::User| UserPhase::from_status(user.status().unwrap_or_default());
        Ok(output.and_then(|output| output.users().first().map(phase)))
    }

    /// Makes a user. One that exists is ours by its id, and has the password: that was there first.
    pub(in super::super) async fn create_user(
        &self,
        user: &NewUser,
        password: &SecretString,
        owner: &str,
    ) -> Result<(), Fault> {
        self.turn().await;
        let call = self
            .sdk
            .create_user()
            .user_id(&user.id)
            .user_name(&user.name)
            .engine(user.engine.as_str())
            .access_string(ACCESS)
            .passwords(password.expose_secret())
            .tags(owned(owner));
        let made = unless(call.send().await, |e| e.is_user_already_exists_fault());
        made.map(drop).map_err(|error| {
            let hopeless = error.as_service_error().is_some_and(|e| {
                e.is_invalid_parameter_value_exception() || e.is_invalid_parameter_combination_exception()
            });
            sorted(format!("making user {} ({})", user.name, user.id), &error, hopeless)
        })
    }

    /// Deletes a user, which leaves its group. One that is gone is no error.
    pub(in super::super) async fn delete_user(&self, id: &str) -> Result<(), Fault> {
        self.turn().await;
        let deleted = self.sdk.delete_user().user_id(id).send().await;
        let deleted = unless(deleted, |e| e.is_user_not_found_fault());
        deleted
            .map(drop)
            .map_err(|error| passing(format!("deleting user {id}"), &error))
    }

    /// Makes a user group. One that exists is ours by its id.
    pub(in super::super) async fn create_user_group(
        &self,
        id: &str,
        engine: EngineType,
        users: &[String],
        owner: &str,
    ) -> Result<(), Fault> {
        self.turn().await;
        let call = self
            .sdk
            .create_user_group()
            .user_group_id(id)
            .engine(engine.as_str())
            .set_user_ids(Some(users.to_vec()))
            .tags(owned(owner));
        let made = unless(call.send().await, |e| e.is_user_group_already_exists_fault());
        made.map(drop)
            .map_err(|error| passing(format!("making user group {id}"), &error))
    }

    /// Adds users to a group.
    pub(in super::super) async fn add_users(&self, group: &str, users: &[String]) -> Result<(), Fault> {
        self.turn().await;
        let call = self.sdk.modify_user_group().user_group_id(group);
        match call.set_user_ids_to_add(Some(users.to_vec())).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(passing(format!("adding users to user group {group}"), &error)),
        }
    }

    /// Deletes a user group. One that is gone is no error.
    pub(in super::super) async fn delete_user_group(&self, id: &str) -> Result<(), Fault> {
        self.turn().await;
        let deleted = self.sdk.delete_user_group().user_group_id(id).send().await;
        let deleted = unless(deleted, |e| e.is_user_group_not_found_fault());
        deleted
            .map(drop)
            .map_err(|error| passing(format!("deleting user group {id}"), &error))
    }
}

/// What a call gave; `None` where the API says of it what is no error: that it exists already, or is gone.
fn unless<T, E, R>(
    outcome: Result<T, SdkError<E, R>>,
    is_done: impl Fn(&E) -> bool,
) -> Result<Option<T>, SdkError<E, R>> {
    match outcome {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.as_service_error().is_some_and(is_done) => Ok(None),
        Err(error) => Err(error),
    }
}

fn owned(owner: &str) -> Tag {
    Tag::builder().key(OWNER_TAG).value(owner).build()
}
