//! Which policy and which exemption a user has. First match wins: user override, rule, tenant, default.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::ResolvedPolicy;
use crate::model::{UserId, UserTraits};

/// Everything that is written for one tenant.
#[derive(Clone, Debug)]
pub struct TenantPolicies {
    pub(super) base: ResolvedPolicy,
    /// In the order they are written: the first that matches wins.
    pub(super) rules: Vec<(TraitMatch, ResolvedPolicy)>,
    pub(super) overrides: HashMap<UserId, ResolvedPolicy>,
    /// In the order they are written: the first that matches and has not expired wins.
    pub(super) exemptions: Vec<(ExemptionMatch, Exemption)>,
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TraitMatch {
    /// Compared exactly, as the provider does.
    Role(String),
    CustomField {
        name: String,
        equals: String,
    },
    /// Lower-case.
    EmailDomain(String),
}

impl TraitMatch {
    fn matches(&self, traits: &UserTraits) -> bool {
        match self {
            Self::Role(role) => traits.roles.contains(role),
            Self::CustomField { name, equals } => traits.custom_fields.get(name) == Some(equals),
            Self::EmailDomain(domain) => traits.email_domains.contains(domain),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExemptionMatch {
    User(UserId),
    Traits(TraitMatch),
}

/// Leave to stay above the limit, for a reason, on somebody's word, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemption {
    pub effect: ExemptionEffect,
    pub reason: Arc<str>,
    pub owner: Arc<str>,
    /// From this instant on it is as if it were not written. This is all that our clock has to do with a decision: who
    /// resolves says what time it is, so a clock that runs ahead ends an exemption early, and one behind prolongs it.
    pub expires: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExemptionEffect {
    /// The sessions neither count nor are ended.
    Ignored,
    /// The sessions count and are not ended.
    Counted,
}

impl ExemptionEffect {
    pub const ALL: [Self; 2] = [Self::Ignored, Self::Counted];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Counted => "counted",
        }
    }
}

/// What holds for one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub policy: ResolvedPolicy,
    /// Holds for all of the user's sessions; see [`Marks::exempt_all`](super::Marks::exempt_all).
    pub exemption: Option<Exemption>,
}

/// A rule or an exemption looks at roles, domains or custom fields, and they are not there. Falling back to another
/// layer would log out the exempt, so there is no answer without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user's roles, e-mail domains and custom fields are needed to choose the policy")]
pub struct TraitsNeeded;

impl TenantPolicies {
    /// The policy of a user whom no rule and no override names.
    pub fn base(&self) -> &ResolvedPolicy {
        &self.base
    }

    /// Every policy a user of this tenant can have, for checks that hold for all of them.
    pub fn all(&self) -> impl Iterator<Item = &ResolvedPolicy> {
        let rules = self.rules.iter().map(|(_, policy)| policy);
        std::iter::once(&self.base).chain(rules).chain(self.overrides.values())
    }

    /// Whether [`TenantPolicies::resolve`] has no answer for this user without the traits.
    pub fn needs_traits(&self, user: &UserId, now: Timestamp) -> bool {
        self.resolve(user, None, now).is_err()
    }

    pub fn resolve(
        &self,
        user: &UserId,
        traits: Option<&UserTraits>,
        now: Timestamp,
    ) -> Result<Resolution, TraitsNeeded> {
        Ok(Resolution { exemption: self.exemption(user, traits, now)?, policy: self.policy(user, traits)? })
    }

    fn policy(&self, user: &UserId, traits: Option<&UserTraits>) -> Result<ResolvedPolicy, TraitsNeeded> {
        if let Some(policy) = self.overrides.get(user) {
            return Ok(policy.clone());
        }
        for (rule, policy) in &self.rules {
            if rule.matches(traits.ok_or(TraitsNeeded)?) {
                return Ok(policy.clone());
            }
        }
        Ok(self.base.clone())
    }

    fn exemption(
        &self,
        user: &UserId,
        traits: Option<&UserTraits>,
        now: Timestamp,
    ) -> Result<Option<Exemption>, TraitsNeeded> {
        for (who, exemption) in self.exemptions.iter().filter(|(_, exemption)| now < exemption.expires) {
            let matches = match who {
                ExemptionMatch::User(exempt) => exempt == user,
                ExemptionMatch::Traits(wanted) => wanted.matches(traits.ok_or(TraitsNeeded)?),
            };
            if matches {
                return Ok(Some(exemption.clone()));
            }
        }
        Ok(None)
    }
}
