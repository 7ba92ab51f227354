//! What stands in the database of akkeris/elasticache-broker, as it stands there: nothing of it is trusted yet.

use std::fmt;

use jiff::Timestamp;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Old {
    /// Table `services`.
    pub services: Vec<OldService>,
    /// Table `plans`.
    pub plans: Vec<OldPlan>,
    /// Table `resources`.
    pub resources: Vec<OldResource>,
    /// Table `tasks`.
    pub tasks: Vec<OldTask>,
}

/// A row of `services`.
#[derive(Clone, Debug, Default)]
pub struct OldService {
    /// `service`, the OSB id.
    pub id: String,
    /// `name`
    pub name: String,
    /// `human_name`
    pub human_name: String,
    /// `description`
    pub description: String,
    /// `categories`, by commas; the tags in the catalog.
    pub categories: String,
    /// `image`
    pub image: String,
    /// `beta`
    pub beta: bool,
    /// `deprecated`
    pub deprecated: bool,
    /// `deleted`
    pub deleted: bool,
}

/// A row of `plans`.
#[derive(Clone, Debug, Default)]
pub struct OldPlan {
    /// `plan`, the OSB id.
    pub id: String,
    /// `service`, the OSB id of its service.
    pub service: String,
    /// `name`
    pub name: String,
    /// `human_name`
    pub human_name: String,
    /// `description`
    pub description: String,
    /// `version` of the engine.
    pub version: String,
    /// `type`: the engine.
    pub engine: String,
    /// `cost_cents`
    pub cost_cents: i32,
    /// `cost_unit`
    pub cost_unit: String,
    /// `attributes`, JSON.
    pub attributes: String,
    /// `provider`
    pub provider: String,
    /// `provider_private_details`, JSON with placeholders.
    pub details: String,
    /// `preprovision`
    pub preprovision: i32,
    /// `beta`
    pub beta: bool,
    /// `deprecated`
    pub deprecated: bool,
    /// `deleted`
    pub deleted: bool,
}

/// A row of `resources`.
#[derive(Clone, Debug)]
pub struct OldResource {
    /// `id`: the OSB id of an instance, or one made up for a cache that nobody has ordered yet.
    pub id: String,
    /// `name`: the cache's id in the provider.
    pub name: String,
    /// `plan`, the OSB id of its plan.
    pub plan: String,
    /// `claimed`
    pub claimed: bool,
    /// `status`
    pub status: String,
    /// `endpoint`
    pub endpoint: String,
    /// Whether `username` or `password` says something; no provider ever wrote them.
    pub has_credentials: bool,
    /// `created`
    pub created: Timestamp,
    /// `updated`
    pub updated: Timestamp,
    /// `deleted`
    pub deleted: bool,
}

/// A row of `tasks`.
#[derive(Clone)]
pub struct OldTask {
    /// `task`
    pub id: String,
    /// `resource`
    pub resource: String,
    /// `action`
    pub action: String,
    /// `status`
    pub status: String,
    /// `metadata`: of webhooks, JSON with a secret.
    pub metadata: String,
    /// `deleted`
    pub deleted: bool,
}

impl fmt::Debug for OldTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldTask")
            .field("id", &self.id)
            .field("resource", &self.resource)
            .field("action", &self.action)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl OldTask {
    /// Whether it is still to be done.
    pub fn is_open(&self) -> bool {
        !self.deleted && matches!(self.status.as_str(), "pending" | "started")
    }
}
