//! Users and user groups of Redis and Valkey.

use std::collections::BTreeMap;

use super::catalog::Engine;
use super::error::{ApiError, Outcome};
use super::model::Group;
use super::names;
use super::nodes::Acl;
use super::query::Params;
use super::state::{Cloud, Then};
use super::xml::Fields;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub id: String,
    pub name: String,
    pub status: &'static str,
    pub engine: Engine,
    pub access: String,
    pub passwords: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

impl User {
    /// The user every account has.
    pub(crate) fn defaults() -> BTreeMap<String, User> {
        let user = User {
            id: "default".into(),
            name: "default".into(),
            status: "active",
            engine: Engine::Redis,
            access: "on ~* +@all".into(),
            passwords: Vec::new(),
            tags: BTreeMap::new(),
        };
        BTreeMap::from([(user.id.clone(), user)])
    }

    /// As a node knows it.
    pub(crate) fn acl(&self) -> Acl {
        Acl {
            name: self.name.clone(),
            passwords: self.passwords.clone(),
            access: self.access.clone(),
        }
    }
}

/// A user group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserGroup {
    pub id: String,
    pub status: &'static str,
    pub engine: Engine,
    pub users: Vec<String>,
    pub pending: Option<(Vec<String>, Vec<String>)>,
    pub tags: BTreeMap<String, String>,
}

impl Cloud {
    pub(crate) fn user(&self, id: &str) -> Outcome<&User> {
        self.users
            .get(&id.to_ascii_lowercase())
            .ok_or_else(|| ApiError::new("UserNotFound", format!("User {id} not found.")))
    }

    pub(crate) fn user_group(&self, id: &str) -> Outcome<&UserGroup> {
        self.user_groups
            .get(&id.to_ascii_lowercase())
            .ok_or_else(|| ApiError::new("UserGroupNotFound", format!("User group {id} not found.")))
    }

    pub(crate) fn create_user(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "UserId",
            "UserName",
            "Engine",
            "Passwords",
            "AccessString",
            "NoPasswordRequired",
            "Tags",
            "AuthenticationMode",
        ])?;
        let id = names::id("UserId", p.need("UserId")?, 40)?;
        if self.users.contains_key(&id) {
            return Err(ApiError::new("UserAlreadyExists", format!("User {id} already exists.")));
        }
        if self.users.len() > self.limits.users {
            return Err(ApiError::new("UserQuotaExceeded", "The quota of users is used up."));
        }
        let engine = rbac_engine(p.need("Engine")?)?;
        let name = p.need("UserName")?.to_owned();
        if name.contains(char::is_whitespace) {
            return Err(ApiError::value("UserName must not contain white space."));
        }
        let Some(passwords) = passwords(p)? else {
            return Err(ApiError::value(
                "Passwords, NoPasswordRequired or an AuthenticationMode must be provided.",
            ));
        };
        let user = User {
            id: id.clone(),
            name,
            status: "active",
            engine,
            access: access_string(p.need("AccessString")?)?,
            passwords,
            tags: p.tags()?,
        };
        let reply = self.show_user(&user);
        self.users.insert(id, user);
        Ok(reply)
    }

    pub(crate) fn modify_user(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&[
            "UserId",
            "AccessString",
            "AppendAccessString",
            "Passwords",
            "NoPasswordRequired",
            "AuthenticationMode",
            "Engine",
        ])?;
        let mut user = self.user(p.need("UserId")?)?.clone();
        if user.status != "active" {
            return Err(ApiError::new(
                "InvalidUserState",
                format!("User {} is not active: {}.", user.id, user.status),
            ));
        }
        match (p.text("AccessString"), p.text("AppendAccessString")) {
            (Some(_), Some(_)) => {
                return Err(ApiError::combination(
                    "AccessString and AppendAccessString exclude each other.",
                ));
            }
            (Some(access), None) => user.access = access_string(access)?,
            (None, Some(more)) => user.access = access_string(&format!("{} {more}", user.access))?,
            (None, None) => {}
        }
        if let Some(engine) = p.text("Engine") {
            user.engine = rbac_engine(engine)?;
        }
        if let Some(passwords) = passwords(p)? {
            user.passwords = passwords;
        }
        user.status = "modifying";
        let id = user.id.clone();
        let reply = self.show_user(&user);
        self.users.insert(id.clone(), user);
        let steps = self.refresh(|group| group.users.contains(&id));
        self.start(self.times.users, steps, Then::UserActive(id));
        Ok(reply)
    }

    pub(crate) fn delete_user(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["UserId"])?;
        let user = self.user(p.need("UserId")?)?.clone();
        if user.status != "active" {
            return Err(ApiError::new(
                "InvalidUserState",
                format!("User {} is not active: {}.", user.id, user.status),
            ));
        }
        if user.id == "default" {
            return Err(ApiError::value("The user default cannot be deleted."));
        }
        if user.name == "default" && self.user_groups.values().any(|group| group.users.contains(&user.id)) {
            return Err(ApiError::new(
                "DefaultUserAssociatedToUserGroup",
                format!("User {} is the default user of a user group.", user.id),
            ));
        }
        let id = user.id;
        if let Some(user) = self.users.get_mut(&id) {
            user.status = "deleting";
        }
        let reply = self.show_user(self.user(&id)?);
        self.start(self.times.users, Vec::new(), Then::UserDeleted(id));
        Ok(reply)
    }

    pub(crate) fn describe_users(&self, p: Params) -> Outcome<Fields> {
        p.only(&["Engine", "UserId", "MaxRecords", "Marker"])?;
        let engine = p.text("Engine").map(rbac_engine).transpose()?;
        if let Some(id) = p.text("UserId") {
            self.user(id)?;
        }
        let found: Vec<(String, &User)> = (self.users.iter())
            .filter(|(id, _)| p.text("UserId").is_none_or(|wanted| wanted.eq_ignore_ascii_case(id)))
            .filter(|(_, user)| engine.is_none_or(|engine| user.engine == engine))
            .map(|(id, user)| (id.clone(), user))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items: Vec<Fields> = page.into_iter().map(|user| self.show_user(user)).collect();
        Ok(Fields::new().list("Users", "member", items).some("Marker", marker))
    }

    pub(crate) fn create_user_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["UserGroupId", "Engine", "UserIds", "Tags"])?;
        let id = names::id("UserGroupId", p.need("UserGroupId")?, 40)?;
        if self.user_groups.contains_key(&id) {
            return Err(ApiError::new(
                "UserGroupAlreadyExists",
                format!("User group {id} already exists."),
            ));
        }
        if self.user_groups.len() >= self.limits.user_groups {
            return Err(ApiError::new(
                "UserGroupQuotaExceeded",
                "The quota of user groups is used up.",
            ));
        }
        let engine = rbac_engine(p.need("Engine")?)?;
        let users = lower(p.texts("UserIds", "member"));
        self.check_members(engine, &users)?;
        let group = UserGroup {
            id: id.clone(),
            status: "creating",
            engine,
            users,
            pending: None,
            tags: p.tags()?,
        };
        let reply = self.show_user_group(&group);
        self.user_groups.insert(id.clone(), group);
        self.start(self.times.users, Vec::new(), Then::UserGroupActive(id));
        Ok(reply)
    }

    pub(crate) fn modify_user_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["UserGroupId", "UserIdsToAdd", "UserIdsToRemove"])?;
        let group = self.user_group(p.need("UserGroupId")?)?.clone();
        active_group(&group)?;
        let (add, remove) = (
            lower(p.texts("UserIdsToAdd", "member")),
            lower(p.texts("UserIdsToRemove", "member")),
        );
        if add.is_empty() && remove.is_empty() {
            return Err(ApiError::combination("Provide UserIdsToAdd or UserIdsToRemove."));
        }
        if let Some(other) = remove.iter().find(|id| !group.users.contains(id)) {
            return Err(ApiError::value(format!(
                "User {other} is not in the user group {}.",
                group.id
            )));
        }
        let kept = group.users.iter().filter(|id| !remove.contains(id));
        let users: Vec<String> = kept
            .chain(add.iter().filter(|id| !group.users.contains(id)))
            .cloned()
            .collect();
        self.check_members(group.engine, &users)?;
        let id = group.id;
        if let Some(group) = self.user_groups.get_mut(&id) {
            group.status = "modifying";
            group.pending = Some((add, remove));
        }
        let reply = self.show_user_group(self.user_group(&id)?);
        if let Some(group) = self.user_groups.get_mut(&id) {
            group.users = users;
        }
        let steps = self.refresh(|group| group.id == id);
        self.start(self.times.users, steps, Then::UserGroupActive(id));
        Ok(reply)
    }

    pub(crate) fn delete_user_group(&mut self, p: Params) -> Outcome<Fields> {
        p.only(&["UserGroupId"])?;
        let group = self.user_group(p.need("UserGroupId")?)?.clone();
        active_group(&group)?;
        if self.groups.values().any(|other| other.user_groups.contains(&group.id)) {
            return Err(ApiError::new(
                "InvalidUserGroupState",
                format!("User group {} is in use by a replication group.", group.id),
            ));
        }
        let id = group.id;
        if let Some(group) = self.user_groups.get_mut(&id) {
            group.status = "deleting";
        }
        let reply = self.show_user_group(self.user_group(&id)?);
        self.start(self.times.users, Vec::new(), Then::UserGroupDeleted(id));
        Ok(reply)
    }

    pub(crate) fn describe_user_groups(&self, p: Params) -> Outcome<Fields> {
        p.only(&["UserGroupId", "MaxRecords", "Marker"])?;
        if let Some(id) = p.text("UserGroupId") {
            self.user_group(id)?;
        }
        let found: Vec<(String, &UserGroup)> = (self.user_groups.iter())
            .filter(|(id, _)| {
                p.text("UserGroupId")
                    .is_none_or(|wanted| wanted.eq_ignore_ascii_case(id))
            })
            .map(|(id, group)| (id.clone(), group))
            .collect();
        let (marker, page) = self.page(p, found)?;
        let items: Vec<Fields> = page.into_iter().map(|group| self.show_user_group(group)).collect();
        Ok(Fields::new().list("UserGroups", "member", items).some("Marker", marker))
    }

    /// Members exist, are active, have different names, and in a Redis group one is called `default`.
    fn check_members(&self, engine: Engine, users: &[String]) -> Outcome<()> {
        let mut seen: Vec<&str> = Vec::new();
        for id in users {
            let user = self.user(id)?;
            if user.status == "deleting" {
                return Err(ApiError::value(format!("User {id} is being deleted.")));
            }
            if seen.contains(&user.name.as_str()) {
                return Err(ApiError::new(
                    "DuplicateUserName",
                    format!("The user name {} occurs twice.", user.name),
                ));
            }
            if engine == Engine::Redis && user.engine == Engine::Valkey {
                return Err(ApiError::value(format!(
                    "User {id} is of the engine valkey, its group of redis."
                )));
            }
            seen.push(&user.name);
        }
        if engine == Engine::Redis && !seen.contains(&"default") {
            return Err(ApiError::new(
                "DefaultUserRequired",
                "A user group of redis needs a user named default.",
            ));
        }
        Ok(())
    }

    /// User groups that a replication group shall use exist, are active and fit its engine.
    pub(crate) fn check_user_groups(&self, ids: &[String], engine: Engine) -> Outcome<()> {
        if ids.len() > 1 {
            return Err(ApiError::value("A replication group can have one user group."));
        }
        for id in ids {
            let group = self.user_group(id)?;
            active_group(group)?;
            if group.engine == Engine::Valkey && engine == Engine::Redis {
                return Err(ApiError::combination(format!(
                    "User group {id} is not of the engine {engine}."
                )));
            }
        }
        Ok(())
    }

    /// Steps that tell the nodes of groups about changed users.
    fn refresh(&self, concerns: impl Fn(&UserGroup) -> bool) -> Vec<super::nodes::Step> {
        let uses = |group: &&Group| {
            group
                .user_groups
                .iter()
                .filter_map(|id| self.user_groups.get(id))
                .any(&concerns)
        };
        (self.groups.values())
            .filter(|group| !["creating", "create-failed", "deleting"].contains(&group.status.as_str()))
            .filter(uses)
            .flat_map(|group| self.run_group(group))
            .collect()
    }

    pub(crate) fn user_active(&mut self, id: &str) {
        if let Some(user) = self.users.get_mut(id) {
            user.status = "active";
        }
    }

    /// A deleted user leaves its groups, too.
    pub(crate) fn user_deleted(&mut self, id: &str) {
        let steps = {
            let concerned: Vec<String> = (self.user_groups.values())
                .filter(|group| group.users.iter().any(|user| user == id))
                .map(|group| group.id.clone())
                .collect();
            for group in concerned.iter() {
                if let Some(group) = self.user_groups.get_mut(group) {
                    group.users.retain(|user| user != id);
                }
            }
            self.refresh(|group| concerned.contains(&group.id))
        };
        self.users.remove(id);
        self.start(std::time::Duration::ZERO, steps, Then::Nothing);
    }

    pub(crate) fn user_group_active(&mut self, id: &str) {
        if let Some(group) = self.user_groups.get_mut(id) {
            group.status = "active";
            group.pending = None;
        }
    }

    fn show_user(&self, user: &User) -> Fields {
        let groups = self
            .user_groups
            .values()
            .filter(|group| group.users.contains(&user.id))
            .map(|group| &group.id);
        let kind = if user.passwords.is_empty() {
            "no-password"
        } else {
            "password"
        };
        let authentication = Fields::new().text("Type", kind).some(
            "PasswordCount",
            (!user.passwords.is_empty()).then_some(user.passwords.len()),
        );
        Fields::new()
            .text("UserId", &user.id)
            .text("UserName", &user.name)
            .text("Status", user.status)
            .text("Engine", user.engine)
            .text(
                "MinimumEngineVersion",
                if user.engine == Engine::Valkey { "7.2" } else { "6.0" },
            )
            .text("AccessString", &user.access)
            .texts("UserGroupIds", "member", groups)
            .with("Authentication", authentication)
            .text("ARN", self.arn("user", &user.id))
    }

    fn show_user_group(&self, group: &UserGroup) -> Fields {
        let used = self
            .groups
            .values()
            .filter(|other| other.user_groups.contains(&group.id))
            .map(|other| &other.id);
        let pending = group.pending.as_ref().map(|(add, remove)| {
            Fields::new()
                .texts("UserIdsToRemove", "member", remove)
                .texts("UserIdsToAdd", "member", add)
        });
        Fields::new()
            .text("UserGroupId", &group.id)
            .text("Status", group.status)
            .text("Engine", group.engine)
            .texts("UserIds", "member", &group.users)
            .text(
                "MinimumEngineVersion",
                if group.engine == Engine::Valkey { "7.2" } else { "6.0" },
            )
            .some_with("PendingChanges", pending)
            .texts("ReplicationGroups", "member", used)
            .texts("ServerlessCaches", "member", Vec::<String>::new())
            .text("ARN", self.arn("usergroup", &group.id))
    }
}

fn lower(ids: Vec<String>) -> Vec<String> {
    ids.into_iter().map(|id| id.to_ascii_lowercase()).collect()
}

fn active_group(group: &UserGroup) -> Outcome<()> {
    if group.status != "active" {
        return Err(ApiError::new(
            "InvalidUserGroupState",
            format!("User group {} is not active: {}.", group.id, group.status),
        ));
    }
    Ok(())
}

fn rbac_engine(text: &str) -> Outcome<Engine> {
    Engine::parse(text)
        .ok()
        .filter(|engine| engine.replicates())
        .ok_or_else(|| ApiError::value(format!("Users are of the engine redis or valkey, not {text}.")))
}

fn access_string(text: &str) -> Outcome<String> {
    let first = text.split_whitespace().next();
    if !matches!(first, Some("on" | "off")) || text.contains(['>', '<', '#', '"', '\\', '\n']) {
        return Err(ApiError::value(format!("Invalid AccessString: {text}")));
    }
    Ok(text.to_owned())
}

/// The passwords of a request: up to two of 16 to 128 characters, or none needed; absent if it says nothing.
fn passwords(p: Params) -> Outcome<Option<Vec<String>>> {
    let kind = p.text("AuthenticationMode.Type");
    let given = match kind {
        None => p.texts("Passwords", "member"),
        Some(_) => p.texts("AuthenticationMode.Passwords", "member"),
    };
    let without = match kind {
        None => p.flag("NoPasswordRequired")?.unwrap_or(false),
        Some("no-password-required") => true,
        Some("password") => false,
        Some("iam") => {
            return Err(ApiError::value(
                "The sandbox does not support the AuthenticationMode iam.",
            ));
        }
        Some(other) => return Err(ApiError::value(format!("Invalid AuthenticationMode: {other}"))),
    };
    if kind.is_some() && (p.has("Passwords") || p.has("NoPasswordRequired")) {
        return Err(ApiError::combination(
            "AuthenticationMode excludes Passwords and NoPasswordRequired.",
        ));
    }
    match (without, given.len()) {
        (true, 0) => Ok(Some(Vec::new())),
        (true, _) => Err(ApiError::combination(
            "Passwords and no password required exclude each other.",
        )),
        (false, 0) if kind.is_none() => Ok(None),
        (false, 1 | 2) => {
            let good = |password: &String| {
                (16..=128).contains(&password.len()) && password.bytes().all(|b| b.is_ascii_graphic())
            };
            if given.iter().all(good) {
                return Ok(Some(given));
            }
            Err(ApiError::value("A password must have 16 to 128 printable characters."))
        }
        (false, _) => Err(ApiError::value("A user can have one or two passwords.")),
    }
}
