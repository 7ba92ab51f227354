//! Users on ElastiCache: one user group for all caches of an instance, so a replacement has the users before it serves.
//! The group and the users are known by ids that follow from the instance's uid.
//!
//! A user that is deleted leaves its group by itself (`DeleteUser`), so until then the group tells who there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::id::derived_id;
use super::{Defaults, Observed};
use crate::api::EngineType;
use crate::provider::Desired;
use crate::provider::users::{self, Credentials, UserRecord};
use crate::wire::DEFAULT_USER;

/// A user group as ElastiCache describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserGroup {
    /// Its engine, which its users have as well.
    pub engine: EngineType,
    /// How far it is.
    pub phase: UserPhase,
    /// The ids of its users.
    pub users: BTreeSet<String>,
}

/// How far a user or a group of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserPhase {
    /// It is as it was asked for.
    Active,
    /// It is being made or changed.
    Busy,
    /// It is going away.
    Deleting,
}

impl UserPhase {
    /// Reads a status text.
    pub fn from_status(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "active" => Self::Active,
            "deleting" => Self::Deleting,
            // Also texts that are not known: they may pass.
            _ => Self::Busy,
        }
    }
}

/// What there is of an instance's users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its user group.
    pub group: Option<UserGroup>,
    /// Users that were asked for by their id and exist.
    pub users: BTreeMap<String, UserPhase>,
}

/// A user to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The Secret with its password.
    pub secret: String,
    /// Its engine.
    pub engine: EngineType,
}

/// What can be done with users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessStep {
    /// `CreateUser`
    CreateUsers(Vec<NewUser>),
    /// `DeleteUser`
    DeleteUsers(Vec<String>),
    /// `CreateUserGroup`
    CreateGroup {
        /// Its engine.
        engine: EngineType,
        /// The ids of its first users.
        users: Vec<String>,
    },
    /// `ModifyUserGroup` with `UserIdsToAdd`.
    AddUsers(Vec<String>),
    /// `DeleteUserGroup`
    DeleteGroup,
}

/// The id of an instance's user group.
pub fn group_id(defaults: &Defaults, desired: &Desired) -> String {
    derived_id(&defaults.name_prefix, &format!("{}/users", desired.uid))
}

/// The id of one of its users.
pub fn user_id(defaults: &Defaults, desired: &Desired, name: &str) -> String {
    derived_id(&defaults.name_prefix, &format!("{}/user/{name}", desired.uid))
}

/// Whether an instance has, or may have, a user group.
pub fn may_have_users(desired: &Desired) -> bool {
    desired.plan.has_users() || desired.record.user_group.is_some()
}

/// The ids of users that must be asked for one by one: those that a group does not tell of, or that are not to stay in it.
pub fn asked_users(
    defaults: &Defaults,
    desired: &Desired,
    group: Option<&UserGroup>,
    leaving: bool,
) -> BTreeSet<String> {
    let id = |name: &str| user_id(defaults, desired, name);
    let wanted: BTreeSet<String> = std::iter::once(DEFAULT_USER)
        .chain(desired.users.iter().map(|user| user.name.as_str()))
        .map(id)
        .collect();
    let recorded = desired.record.users.iter().map(|user| id(&user.name));
    let known: BTreeSet<String> = recorded.chain(wanted.iter().cloned()).collect();
    let members = group.map(|group| group.users.clone()).unwrap_or_default();
    if leaving {
        return known.union(&members).cloned().collect();
    }
    let strangers = members.difference(&wanted).cloned();
    known.difference(&members).cloned().chain(strangers).collect()
}

/// The users of an instance whose caches are wanted, and what there is of them.
#[derive(Clone, Debug)]
pub struct Users<'a> {
    defaults: &'a Defaults,
    desired: &'a Desired,
    access: &'a Access,
    credentials: &'a Credentials,
    secrets: &'a BTreeMap<String, Arc<Secret>>,
    /// Whether the serving cache asks for its users by the group.
    served: bool,
}

impl<'a> Users<'a> {
    /// Those of an instance whose plan says so.
    pub fn of(defaults: &'a Defaults, desired: &'a Desired, observed: &'a Observed) -> Option<Self> {
        let access = observed.access.as_ref().filter(|_| desired.plan.has_users())?;
        let group = group_id(defaults, desired);
        let config = observed.live.as_ref().map(|live| &live.config);
        Some(Self {
            defaults,
            desired,
            access,
            credentials: &observed.credentials,
            secrets: &observed.secrets,
            served: config.is_some_and(|config| config.user_groups.contains(&group)),
        })
    }

    /// The id of the group.
    pub fn group(&self) -> String {
        group_id(self.defaults, self.desired)
    }

    fn id(&self, name: &str) -> String {
        user_id(self.defaults, self.desired, name)
    }

    fn engine(&self) -> EngineType {
        let group = self.access.group.as_ref();
        group.map_or(self.desired.plan.engine.type_, |group| group.engine)
    }

    fn is_member(&self, id: &str) -> bool {
        let group = self.access.group.as_ref();
        group.is_some_and(|group| group.users.contains(id))
    }

    /// Users that are to be there: the default one, and each that has a password that ElastiCache takes.
    fn wanted(&self) -> Vec<NewUser> {
        let user = |name: &str, secret: String| NewUser {
            id: self.id(name),
            name: name.to_owned(),
            secret,
            engine: self.engine(),
        };
        let suits = |name: &str| self.credentials.get(name).is_some_and(|found| found.suits_elasticache);
        let others = self.desired.users.iter().filter(|wanted| suits(&wanted.name));
        std::iter::once(user(DEFAULT_USER, self.desired.auth_secret()))
            .chain(others.map(|wanted| user(&wanted.name, wanted.secret.clone())))
            .collect()
    }

    /// The next step, and what it is for.
    pub fn next(&self) -> Option<(AccessStep, String)> {
        let wanted = self.wanted();
        let exists = |user: &&NewUser| self.is_member(&user.id) || self.access.users.contains_key(&user.id);
        let missing: Vec<_> = wanted.iter().filter(|user| !exists(user)).cloned().collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|user| user.name.as_str()).collect();
            let doing = format!("making users {} on ElastiCache", names.join(", "));
            return Some((AccessStep::CreateUsers(missing), doing));
        }
        let ready: Vec<_> = wanted
            .iter()
            .filter(|user| !self.is_member(&user.id))
            .filter(|user| self.access.users.get(&user.id) == Some(&UserPhase::Active))
            .map(|user| user.id.clone())
            .collect();
        let Some(group) = &self.access.group else {
            let doing = format!("making user group {}", self.group());
            let step = AccessStep::CreateGroup {
                engine: self.engine(),
                users: ready,
            };
            return wanted
                .iter()
                .all(|user| self.access.users.get(&user.id) == Some(&UserPhase::Active))
                .then_some((step, doing));
        };
        if group.phase != UserPhase::Active {
            return None;
        }
        // A group that has a user that is being deleted takes no others.
        let all_rest = self.access.users.values().all(|phase| *phase == UserPhase::Active);
        if !ready.is_empty() && all_rest {
            let doing = format!("adding users to user group {}", self.group());
            return Some((AccessStep::AddUsers(ready), doing));
        }
        let leaving: Vec<_> = self
            .strangers()
            .filter(|(_, phase)| *phase == UserPhase::Active)
            .map(|(id, _)| id)
            .collect();
        (!leaving.is_empty()).then(|| {
            let doing = "removing users that are not wanted any more".to_owned();
            (AccessStep::DeleteUsers(leaving), doing)
        })
    }

    /// Users that exist and that nobody asks for.
    fn strangers(&self) -> impl Iterator<Item = (String, UserPhase)> {
        let named = self.desired.users.iter().map(|user| user.name.as_str());
        let wanted: BTreeSet<_> = named.chain([DEFAULT_USER]).map(|name| self.id(name)).collect();
        let users = self.access.users.clone().into_iter();
        users.filter(move |(id, _)| !wanted.contains(id))
    }

    /// Whether a cache can be made that is to have the users.
    pub fn can_serve(&self) -> bool {
        let group = self.access.group.as_ref();
        group.is_some_and(|group| group.phase == UserPhase::Active && group.users.contains(&self.id(DEFAULT_USER)))
    }

    /// What is waited for, as a sentence; `None` if all is as it is to be.
    pub fn pending(&self) -> Option<String> {
        let record = self.record();
        let unsuited = |name: &str| self.credentials.get(name).is_some_and(|found| !found.suits_elasticache);
        if let Some(user) = self.desired.users.iter().find(|user| unsuited(&user.name)) {
            return Some(format!(
                "the password of user {} in Secret {} is none that ElastiCache takes: make it 16 to 128 printable characters",
                user.name, user.secret
            ));
        }
        let known = |name: &str| {
            self.credentials.contains_key(name) || record.iter().any(|user| user.name == name && user.ready)
        };
        if let Some(missing) = users::missing(self.desired, known) {
            return Some(missing);
        }
        if !self.can_serve() {
            return Some(format!("waiting for user group {}", self.group()));
        }
        let wanted = |user: &&UserRecord| self.desired.users.iter().any(|wanted| wanted.name == user.name);
        let making = record.iter().filter(wanted).find(|user| !user.ready);
        let leaving = record.iter().find(|user| !wanted(user));
        match (making, leaving) {
            (Some(user), _) => Some(format!("waiting for user {} to be let in", user.name)),
            (None, Some(user)) => Some(format!("waiting for the end of user {}", user.name)),
            (None, None) => self
                .strangers()
                .next()
                .map(|(id, _)| format!("waiting for the end of user {id}")),
        }
    }

    /// The record of the users.
    pub fn record(&self) -> Vec<UserRecord> {
        let before = |name: &str| self.desired.record.users.iter().find(|record| record.name == name);
        let ready = |name: &str| {
            let id = self.id(name);
            // Those that were let in stay so while the group gets others.
            let applied = self.can_serve() || before(name).is_some_and(|record| record.ready);
            applied && self.served && self.is_member(&id) && !self.access.users.contains_key(&id)
        };
        let mut users = users::record(self.desired, self.credentials, self.secrets, ready, |name| {
            self.gone(name)
        });
        // It has the password that it was made with.
        for user in &mut users {
            let made = before(&user.name).and_then(|record| record.secret_version.clone());
            user.secret_version = made.or(user.secret_version.take());
        }
        users
    }

    fn gone(&self, name: &str) -> bool {
        let id = self.id(name);
        !self.is_member(&id) && !self.access.users.contains_key(&id)
    }

    /// Secrets of users that are gone.
    pub fn surplus(&self, now: Timestamp) -> Vec<String> {
        users::surplus(self.desired, self.secrets, |name| self.gone(name), now)
    }
}

/// What is next on the way to no users at all, once no cache uses the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// This is to be done.
    Do(AccessStep),
    /// ElastiCache is at work on it.
    Wait,
    /// Nothing is left.
    Done,
}

/// How an instance gets rid of its users.
pub fn removal(access: &Access) -> Removal {
    match &access.group {
        Some(group) if group.phase == UserPhase::Active => return Removal::Do(AccessStep::DeleteGroup),
        Some(_) => return Removal::Wait,
        None => {}
    }
    let active = access.users.iter().filter(|(_, phase)| **phase == UserPhase::Active);
    let active: Vec<_> = active.map(|(id, _)| id.clone()).collect();
    if !active.is_empty() {
        Removal::Do(AccessStep::DeleteUsers(active))
    } else if access.users.is_empty() {
        Removal::Done
    } else {
        Removal::Wait
    }
}
