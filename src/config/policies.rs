//! The policy tables of all tenants: as written, checked, and ready to be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Config, ConfigError, Mistake, Revocations};
use crate::model::TenantId;
use crate::policy::{TenantPolicies, written};

/// The policy tables as they are written, so that what is decided at run time can be laid over them.
#[derive(Clone, Debug, Default)]
pub struct WrittenPolicies {
    /// The `[policy]` table.
    pub default: Value,
    /// The `[policy]` table as it was, for tenants that the configuration has no more.
    pub defaults: BTreeMap<TenantId, Value>,
    /// Every tenant, with its own table where it has one.
    pub tenants: BTreeMap<TenantId, Option<Value>>,
    /// Whether `reject_newest` may be enforced: it can lock people out, so it needs a budget.
    pub has_budget: bool,
}

impl Config {
    /// Every tenant's policies, rules, overrides and exemptions, ready to be asked.
    ///
    /// # Errors
    /// None for a configuration that was loaded: its tables were checked.
    pub fn policies(&self) -> Result<BTreeMap<TenantId, Arc<TenantPolicies>>, ConfigError> {
        let mut all = BTreeMap::new();
        for (id, tenant) in &self.tenants {
            let policies =
                written::tenant_policies(&self.policy, "policy", tenant.own_policy(id)).map_err(|wrong| {
                    let mistake =
                        |m: written::Mistake| Mistake { path: m.path, value: None, origin: None, problem: m.problem };
                    ConfigError(wrong.into_iter().map(mistake).collect())
                })?;
            all.insert(id.clone(), Arc::new(policies));
        }
        Ok(all)
    }

    /// The tables themselves.
    pub fn written_policies(&self) -> WrittenPolicies {
        let own = |tenant: &super::TenantConfig| (tenant.policy_path != "policy").then(|| tenant.policy.clone());
        WrittenPolicies {
            default: self.policy.clone(),
            defaults: BTreeMap::new(),
            tenants: self.tenants.iter().map(|(id, tenant)| (id.clone(), own(tenant))).collect(),
            has_budget: self.budget.revocations != Revocations::Unlimited,
        }
    }
}

/// What is wrong in the policy tables: full path and problem of each mistake.
pub(super) fn mistakes(config: &Config) -> BTreeSet<(String, String)> {
    let own = config.tenants.iter().filter_map(|(id, tenant)| tenant.own_policy(id));
    let has_budget = config.budget.revocations != Revocations::Unlimited;
    let mut mistakes = BTreeSet::new();
    for own in std::iter::once(None).chain(own.map(Some)) {
        match written::tenant_policies(&config.policy, "policy", own) {
            Ok(policies) if !has_budget && policies.all().any(|policy| policy.policy.locks_people_out()) => {
                let path = format!("{}.strategy", own.map_or("policy", |(_, _, path)| path));
                let problem = "\"reject_newest\" can lock people out, so ending sessions by it needs a budget: set \
                               budget.revocations to a number, or use it with mode = \"observe\""
                    .to_owned();
                mistakes.insert((path, problem));
            }
            Ok(_) => {}
            Err(wrong) => mistakes.extend(wrong.into_iter().map(|mistake| (mistake.path, mistake.problem))),
        }
    }
    mistakes
}
