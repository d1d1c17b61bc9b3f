//! A file of policies to be tried out: the `[policy]` tables of a configuration, whatever else stands in the file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mistake::{ConfigError, Mistake};
use super::settings::{Origin, read_toml};
use crate::model::TenantId;
use crate::policy::{TenantPolicies, written};

/// The policies of a file, as written.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: PathBuf,
    root: Value,
}

impl PolicyFile {
    /// # Errors
    /// Also where the file has no `[policy]`: then it is hardly the file that was meant.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError(vec![Mistake::of_file(path, problem)]);
        let root = Value::Object(read_toml(path).map_err(wrong)?);
        if root.get("policy").is_none() {
            return Err(wrong("has no [policy] table".to_owned()));
        }
        Ok(Self { path: path.to_owned(), root })
    }

    /// What the file says for a tenant.
    pub fn policies(&self, tenant: &TenantId) -> Result<TenantPolicies, ConfigError> {
        let none = Value::Null;
        let default = self.root.get("policy").unwrap_or(&none);
        let at = format!("tenants.{tenant}.policy");
        let own = self.root.get("tenants").and_then(|tenants| tenants.get(tenant.as_str())?.get("policy"));
        let own = own.map(|own| (tenant, own, at.as_str()));
        written::tenant_policies(default, "policy", own).map_err(|mistakes| {
            let origin = Origin::File(self.path.clone());
            let told = mistakes.into_iter().map(|mistake| Mistake {
                path: mistake.path,
                value: None,
                origin: Some(origin.clone()),
                problem: mistake.problem,
            });
            ConfigError(told.collect())
        })
    }

    /// The tenants that have a policy of their own here.
    pub fn tenants(&self) -> Vec<TenantId> {
        let tenants = self.root.get("tenants").and_then(Value::as_object);
        let names = tenants.into_iter().flatten().filter(|(_, tenant)| tenant.get("policy").is_some());
        names.filter_map(|(name, _)| TenantId::parse(name).ok()).collect()
    }

    /// A list besides the keys of a policy, as written: rules, overrides or exemptions.
    pub fn list(&self, tenant: &TenantId, name: &str) -> Value {
        let own = self.root.get("tenants").and_then(|tenants| tenants.get(tenant.as_str())?.get("policy")?.get(name));
        let default = self.root.get("policy").and_then(|policy| policy.get(name));
        own.or(default).cloned().unwrap_or_else(|| Value::Array(Vec::new()))
    }
}
