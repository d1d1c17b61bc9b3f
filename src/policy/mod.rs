//! Stage 4: the rule, pure. Which sessions of a user stay, by which policy, and why.
//!
//! [`decide`] is a function of its arguments alone: no clock, no chance, no I/O, and no knowledge of the event that
//! woke us. "Keep the newest N by an immutable total order" is monotone: a list that misses rows ends too little,
//! never too much. So no lock, no leader and no message order is needed for safety.
//!
//! | file | job |
//! |---|---|
//! | `decide` | the whole decision, from a view to verdicts |
//! | `rows` | one row a session, in the order of the rule |
//! | `keys` | which device and which bucket a session belongs to, and the decision's id |
//! | `walk` | the caps, in one walk over the sessions |
//! | `witnesses` | the sessions that displaced another, shared between verdicts |
//! | `layers` | which policy and which exemption a user has |
//! | `written` | policies as people write them |

mod decide;
mod decision;
mod keys;
mod layers;
mod rows;
mod walk;
mod witnesses;
pub mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::model::{SessionDevice, TenantId, UserId};

pub use decide::{Subject, decide};
pub use decision::{Action, DecidedBy, Decision, DecisionId, ReasonCode, Refusal, Verdict};
pub use keys::device_count;
pub use layers::{Exemption, ExemptionEffect, Resolution, TenantPolicies, TraitsNeeded};
pub use rows::{Marks, distinct};
pub use witnesses::Witnesses;

/// How many devices of a user may stay, and which.
///
/// [`written`] makes only policies that keep the rule monotone: with [`Count::Device`] the buckets go by a device
/// field. Whoever builds one by hand owes the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: Mode,
    /// Devices (or sessions, see `count`) that may stay.
    pub limit: Limit,
    pub strategy: Strategy,
    pub count: Count,
    /// What makes a device, with [`Count::Device`].
    pub device_fields: Vec<DeviceField>,
    /// Sessions that may stay on one device, with [`Count::Device`].
    pub per_device: Limit,
    pub buckets: Option<Buckets>,
    /// With [`Strategy::RejectNewest`], an older session stands against a newer one only for so long.
    pub session_lifetime: Duration,
    /// Pins a user may have. Obeyed where pins are made; the rule honours every pin it is given.
    pub pins_max: u32,
    pub canary: CanaryShare,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            limit: Limit::ONE,
            strategy: Strategy::EvictOldest,
            count: Count::Session,
            device_fields: vec![DeviceField::DeviceType, DeviceField::Os, DeviceField::Browser],
            per_device: Limit::ONE,
            buckets: None,
            session_lifetime: Duration::from_hours(30 * 24),
            pins_max: 0,
            canary: CanaryShare::ALL,
        }
    }
}

impl Policy {
    /// Whether it ends the sessions of those who have just come.
    pub fn locks_people_out(&self) -> bool {
        self.strategy == Strategy::RejectNewest && self.mode == Mode::Enforce
    }

    /// Whether this user is among the share of users the policy is enforced for.
    ///
    /// A user stays inside when the share grows, and the choice is the same on every worker.
    pub fn in_canary(&self, tenant: &TenantId, user: &UserId) -> bool {
        let mut hash = Sha256::new();
        hash.update(tenant.as_str());
        hash.update([0]);
        hash.update(user.as_str());
        let digest = hash.finalize();
        let place = u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default());
        place % u64::from(CanaryShare::ALL.0) < u64::from(self.canary.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Enforce,
    /// Decide and record, end nothing.
    Observe,
    Off,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Observe, Self::Off];

    /// The greater, the less is done.
    fn caution(self) -> u8 {
        match self {
            Self::Enforce => 0,
            Self::Observe => 1,
            Self::Off => 2,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    EvictOldest,
    /// Who is over the limit does not get in. It can lock people out, so the caller executes it for logins only.
    RejectNewest,
}

impl Strategy {
    pub const ALL: [Self; 2] = [Self::EvictOldest, Self::RejectNewest];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvictOldest => "evict_oldest",
            Self::RejectNewest => "reject_newest",
        }
    }
}

/// What the limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    Session,
    Device,
}

impl Count {
    pub const ALL: [Self; 2] = [Self::Session, Self::Device];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Device => "device",
        }
    }
}

/// What a device or a bucket may be told by. Places are left out: they change while a device travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceField {
    DeviceType,
    Os,
    Browser,
    Device,
    Ip,
}

impl DeviceField {
    pub const ALL: [Self; 5] = [Self::DeviceType, Self::Os, Self::Browser, Self::Device, Self::Ip];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceType => "device_type",
            Self::Os => "os",
            Self::Browser => "browser",
            Self::Device => "device",
            Self::Ip => "ip",
        }
    }

    fn of(self, device: &SessionDevice) -> Option<&str> {
        match self {
            Self::DeviceType => device.device_type.as_deref(),
            Self::Os => device.os.as_deref(),
            Self::Browser => device.browser.as_deref(),
            Self::Device => device.device.as_deref(),
            Self::Ip => device.ip.as_deref(),
        }
    }
}

/// How many may stay: 1 to 1,000, or as many as there are. Zero does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    AtMost(NonZeroU32),
    Unlimited,
}

impl Limit {
    pub const MAX: u32 = 1000;
    pub const ONE: Self = Self::AtMost(NonZeroU32::MIN);

    /// `None` for zero and for more than [`Limit::MAX`].
    pub fn at_most(count: u32) -> Option<Self> {
        NonZeroU32::new(count).filter(|count| count.get() <= Self::MAX).map(Self::AtMost)
    }

    /// The greatest allowed number; `usize::MAX`, which no list reaches, when there is none.
    fn number(self) -> usize {
        match self {
            Self::AtMost(count) => usize::try_from(count.get()).unwrap_or(usize::MAX),
            Self::Unlimited => usize::MAX,
        }
    }
}

/// Caps for kinds of devices, before the cap over all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    pub by: DeviceField,
    /// Keyed by normalised value (trimmed, lower-case). What is not named here has no cap of its own.
    pub limits: BTreeMap<String, Limit>,
}

/// The share of users a policy is enforced for, in hundredths of a percent: 0 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CanaryShare(u16);

impl CanaryShare {
    pub const ALL: Self = Self(10_000);

    pub fn from_hundredths(hundredths: u16) -> Option<Self> {
        (hundredths <= Self::ALL.0).then_some(Self(hundredths))
    }

    pub fn hundredths(self) -> u16 {
        self.0
    }

    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// A policy with its name, its version and the layer it came from. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPolicy {
    pub name: Arc<str>,
    pub version: PolicyVersion,
    pub source: Source,
    pub policy: Arc<Policy>,
}

impl ResolvedPolicy {
    pub fn new(name: &str, source: Source, policy: Policy) -> Self {
        Self { name: name.into(), version: PolicyVersion::of(&policy), source, policy: Arc::new(policy) }
    }

    /// The same policy in a mode that ends no more than `cap` lets it.
    #[must_use]
    pub fn capped(self, cap: Mode) -> Self {
        if self.policy.mode.caution() >= cap.caution() {
            return self;
        }
        let policy = Policy { mode: cap, ..(*self.policy).clone() };
        Self { version: PolicyVersion::of(&policy), policy: Arc::new(policy), ..self }
    }
}

/// The layer a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Default,
    Tenant,
    Rule,
    Override,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Tenant => "tenant",
            Self::Rule => "rule",
            Self::Override => "override",
        }
    }
}

/// SHA-256 of a policy's canonical JSON: the written form, every key with its value, keys sorted, no spaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyVersion(pub [u8; 32]);

impl PolicyVersion {
    pub fn of(policy: &Policy) -> Self {
        Self(Sha256::digest(written::json(policy).to_string()).into())
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of_a_thousand(hundredths: u16) -> usize {
        let policy = Policy { canary: CanaryShare::from_hundredths(hundredths).unwrap(), ..Policy::default() };
        let tenant = TenantId::default_tenant();
        (0..1000).filter(|n| policy.in_canary(&tenant, &UserId::parse(&format!("user-{n}")).unwrap())).count()
    }

    #[test]
    fn the_canary_takes_about_its_share_and_all_or_none_at_the_ends() {
        assert_eq!((share_of_a_thousand(0), share_of_a_thousand(10_000)), (0, 1000));
        assert!((200..300).contains(&share_of_a_thousand(2500)));
    }

    #[test]
    fn the_canary_place_is_the_documented_hash() {
        // SHA-256("default" 0x00 "ann") starts with these eight bytes.
        let digest = Sha256::digest(b"default\0ann");
        let place = u64::from_be_bytes(digest[..8].try_into().unwrap()) % 10_000;
        let place = u16::try_from(place).unwrap();
        let tenant = TenantId::default_tenant();
        let user = UserId::parse("ann").unwrap();
        for (share, inside) in [(place, false), (place + 1, true)] {
            let policy = Policy { canary: CanaryShare::from_hundredths(share).unwrap(), ..Policy::default() };
            assert_eq!(policy.in_canary(&tenant, &user), inside);
        }
    }

    #[test]
    fn a_policys_version_changes_with_any_of_its_values() {
        let base = Policy::default();
        let others = [
            Policy { mode: Mode::Observe, ..base.clone() },
            Policy { limit: Limit::Unlimited, ..base.clone() },
            Policy { strategy: Strategy::RejectNewest, ..base.clone() },
            Policy { count: Count::Device, ..base.clone() },
            Policy { device_fields: vec![DeviceField::Ip], ..base.clone() },
            Policy { per_device: Limit::Unlimited, ..base.clone() },
            Policy { buckets: Some(Buckets { by: DeviceField::Os, limits: BTreeMap::new() }), ..base.clone() },
            Policy { session_lifetime: Duration::from_millis(1), ..base.clone() },
            Policy { pins_max: 1, ..base.clone() },
            Policy { canary: CanaryShare(1), ..base.clone() },
        ];
        for other in others {
            assert_ne!(PolicyVersion::of(&base), PolicyVersion::of(&other), "{other:?}");
        }
    }
}
