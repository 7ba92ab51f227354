//! How many instances there may be. A refusal is a 4xx, so that a platform cleans up nothing (OSB 2.17, "Orphan
//! Mitigation").

use std::collections::HashMap;

use crate::ledger::{PlanId, Scope, Usage};
use crate::osb::catalog::OfferedPlan;
use crate::osb::error::OsbError;

/// The owner's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Instances of one organization, whatever their plans.
    pub organization: Option<u32>,
    /// Instances of a plan, by the name of its `CachePlan`.
    pub plans: HashMap<String, u32>,
}

impl Quotas {
    /// What must be counted before an instance of a plan may be added.
    pub fn scope(&self, organization: Option<&str>, plan: Option<&OfferedPlan>) -> Scope {
        Scope {
            organization: organization.filter(|_| self.organization.is_some()).map(str::to_owned),
            plan: plan
                .filter(|plan| self.plans.contains_key(&plan.resource))
                .map(|plan: &OfferedPlan| -> PlanId { plan.id.clone() }),
        }
    }

    /// Whether one instance more of an organization fits.
    ///
    /// # Errors
    /// When it does not.
    pub fn organization_has_room(&self, usage: &Usage) -> Result<(), OsbError> {
        match self.organization {
            Some(limit) if usage.organization >= i64::from(limit) => Err(OsbError::unprocessable(
                None,
                format!(
                    "the organization has {} instances, and its quota is {limit}: give one back first",
                    usage.organization
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether one instance more of a plan fits.
    ///
    /// # Errors
    /// When it does not.
    pub fn plan_has_room(&self, resource: &str, usage: &Usage) -> Result<(), OsbError> {
        match self.plans.get(resource) {
            Some(limit) if usage.plan >= i64::from(*limit) => Err(OsbError::unprocessable(
                None,
                format!(
                    "there are {} instances of this plan, and its quota is {limit}: choose another plan",
                    usage.plan
                ),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn only_what_has_a_quota_is_counted_and_only_the_last_one_is_one_too_many() {
        let catalog = catalog(&[plan(json!({}))]);
        let offered = catalog.plan_by_id("p");
        assert!(Quotas::default().scope(Some("o"), offered).is_empty());
        let quotas = Quotas {
            organization: Some(2),
            plans: HashMap::from([("memcached-small".to_owned(), 0)]),
        };
        let scope = quotas.scope(Some("o"), offered);
        assert_eq!((scope.organization.as_deref(), scope.plan.is_some()), (Some("o"), true));
        let used = |organization, plan| Usage { organization, plan };
        assert!(quotas.organization_has_room(&used(1, 0)).is_ok());
        for refused in [
            quotas.organization_has_room(&used(2, 0)),
            quotas.plan_has_room("memcached-small", &used(0, 0)),
        ] {
            assert_eq!(refused.unwrap_err().status().as_u16(), 422);
        }
        assert!(quotas.plan_has_room("another", &used(9, 9)).is_ok());
    }
}
