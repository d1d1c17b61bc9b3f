//! What workers must obey now: policies, overrides, exemptions, modes. Here they come from the configuration.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::{TenantId, UserId};
use crate::policy::TenantPolicies;

/// The directives are missing or too old to end a session by: a limit that we guess would log out the exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are no current directives for the tenant")]
pub struct Stale;

/// What holds for one user's tenant at this moment.
#[derive(Clone, Debug)]
pub struct Directive {
    pub policies: Arc<TenantPolicies>,
}

pub trait Directives: Send + Sync {
    fn current(&self, tenant: &TenantId, user: &UserId) -> Result<Directive, Stale>;
}

/// Directives as the configuration has them, replaced tenant by tenant when it is read again.
pub struct ConfiguredDirectives {
    tenants: RwLock<BTreeMap<TenantId, Arc<TenantPolicies>>>,
}

impl ConfiguredDirectives {
    pub fn new(tenants: BTreeMap<TenantId, Arc<TenantPolicies>>) -> Self {
        Self { tenants: RwLock::new(tenants) }
    }

    /// From now on these hold; a tenant that is not among them keeps its own, since it is worked on until the restart.
    /// A step that has begun goes on with the ones it began with.
    pub fn replace(&self, tenants: BTreeMap<TenantId, Arc<TenantPolicies>>) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).extend(tenants);
    }
}

impl Directives for ConfiguredDirectives {
    fn current(&self, tenant: &TenantId, _user: &UserId) -> Result<Directive, Stale> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).map(|policies| Directive { policies: Arc::clone(policies) }).ok_or(Stale)
    }
}
