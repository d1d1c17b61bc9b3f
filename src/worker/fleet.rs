//! Who shares the tenants' rates with this process, by heartbeats, and how much of them is its own. No I/O; time is an
//! argument.
//!
//! All workers together have nine tenths of a rate, all control processes together the last tenth, for the session API.
//! A member divides its role's part by the members that it counts. So no part is exceeded while any two members that
//! have a share count each other, and that is what [`Fleet::share`] sees to:
//!
//! - A newcomer has nothing until every member that it hears says to count it. After [`LISTEN_FOR`] it hears every
//!   member that has a share, and each of those then counts it.
//! - A member is counted until [`RISE_AFTER`] past its [`MEMBER_TIMEOUT`], longer than anybody alive is unheard.
//!
//! So nothing is exceeded at any instant, as long as each heartbeat is heard within [`HEARTBEAT_INTERVAL`] after it was
//! due by those without a share and within three by the others, or is lost in an outage of three intervals or more that
//! cuts off all alike. What heartbeats cannot tell: a newcomer that does not hear a member in that time has too much
//! until it does; and a member that was cut off alone, for longer than it is counted, has what others took over, until
//! they hear it again.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

/// How often a member sends a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A member that is not heard for this long is gone.
pub const MEMBER_TIMEOUT: Duration = Duration::from_secs(5);
/// What a member had is used by the others this long after it went.
pub const RISE_AFTER: Duration = Duration::from_secs(10);
/// How long a newcomer listens at least: everybody sends once in the first interval, and it arrives in the second.
pub const LISTEN_FOR: Duration = Duration::from_secs(2);
/// One part in so many of a rate is for the control processes; the rest is the workers'.
pub const CONTROLS_PART: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Further members are not counted, and so get no share.
const MEMBERS_MAX: usize = 500;

/// A part of a rate. Nothing of it closes the gate.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    numerator: u32,
    denominator: NonZeroU32,
}

impl Share {
    pub const WHOLE: Self = Self { numerator: 1, denominator: NonZeroU32::MIN };
    pub const NONE: Self = Self { numerator: 0, denominator: NonZeroU32::MIN };

    pub fn of(numerator: u32, denominator: NonZeroU32) -> Self {
        Self { numerator, denominator }
    }

    pub fn is_none(self) -> bool {
        self.numerator == 0
    }

    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator.get())
    }
}

/// 9/20 is 18/40.
impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let crossed = |a: &Self, b: &Self| u64::from(a.numerator) * u64::from(b.denominator.get());
        crossed(self, other).cmp(&crossed(other, self))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

/// Names one run of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Instance(pub Uuid);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> Self {
        instance.to_string()
    }
}

impl TryFrom<String> for Instance {
    type Error = uuid::Error;

    fn try_from(raw: String) -> Result<Self, Self::Error> {
        Uuid::try_parse(&raw).map(Self)
    }
}

/// Which part of the rates a process takes from: the workers', the control processes', or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    pub worker: bool,
    pub control: bool,
}

/// What every member tells all others: `{"instance":"…","worker":true,"control":false,"sees":["…"]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub instance: Instance,
    #[serde(flatten)]
    pub roles: Roles,
    /// The members whom it hears and counts.
    pub sees: Vec<Instance>,
}

struct Member {
    roles: Roles,
    heard: Instant,
    /// Whether its newest heartbeat says that it counts us.
    counts_us: bool,
    /// Whether the share that we told last makes room for it.
    is_counted: bool,
}

impl Member {
    fn is_live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < MEMBER_TIMEOUT
    }
}

/// What a process knows of the others.
pub struct Fleet {
    us: Instance,
    roles: Roles,
    /// When our own heartbeat came back last, and since when they have done so without a gap.
    heard_us: Option<Instant>,
    listening_since: Option<Instant>,
    /// Every member counts us: from then on we have a share.
    is_member: bool,
    others: BTreeMap<Instance, Member>,
}

impl Fleet {
    pub fn new(us: Instance, roles: Roles) -> Self {
        Self { us, roles, heard_us: None, listening_since: None, is_member: false, others: BTreeMap::new() }
    }

    /// Takes in a heartbeat, our own ones too. Those of one member must come in the order they were sent.
    pub fn heard(&mut self, heartbeat: &Heartbeat, now: Instant) {
        let Heartbeat { instance, roles, .. } = *heartbeat;
        if instance == self.us {
            return self.came_back(now);
        }
        let known = self.others.get(&instance);
        let has_none = !roles.worker && !roles.control;
        if has_none || (known.is_none() && self.others.len() >= MEMBERS_MAX) {
            return;
        }
        let is_counted = known.is_some_and(|member| member.is_counted && member.roles == roles);
        let counts_us = heartbeat.sees.contains(&self.us);
        self.others.insert(instance, Member { roles, heard: now, counts_us, is_counted });
    }

    /// Whether this is a heartbeat of another process that decides, as we do.
    pub fn heard_another_control(&self, heartbeat: &Heartbeat) -> bool {
        self.roles.control && heartbeat.roles.control && heartbeat.instance != self.us
    }

    /// Our part of every tenant's rate, to be used from now on. It is to be asked after every heartbeat that was heard,
    /// and before each that is sent.
    pub fn share(&mut self, now: Instant) -> Share {
        if !self.is_cut_off(now) {
            self.others.retain(|_, other| now.saturating_duration_since(other.heard) < MEMBER_TIMEOUT + RISE_AFTER);
            self.is_member = self.is_member || self.may_begin(now);
        }
        for other in self.others.values_mut() {
            other.is_counted = true;
        }
        if self.is_member { self.part() } else { Share::NONE }
    }

    /// What to send now.
    pub fn heartbeat(&self, now: Instant) -> Heartbeat {
        let seen = self.others.iter().filter(|(_, other)| other.is_counted && other.is_live(now));
        let sees = seen.map(|(instance, _)| *instance).collect();
        Heartbeat { instance: self.us, roles: self.roles, sees }
    }

    fn came_back(&mut self, now: Instant) {
        let gap = self.heard_us.map(|before| now.saturating_duration_since(before));
        if gap.is_none_or(|gap| gap > LISTEN_FOR) {
            self.listening_since = Some(now);
        }
        if gap.is_some_and(|gap| gap >= MEMBER_TIMEOUT) {
            // While we were cut off we could not hear them: they get their time anew.
            for other in self.others.values_mut() {
                other.heard = now;
            }
        }
        self.heard_us = Some(now);
    }

    /// Without the broker nobody is heard: then nobody is taken for gone, and nothing begins or rises.
    fn is_cut_off(&self, now: Instant) -> bool {
        self.heard_us.is_none_or(|heard| now.saturating_duration_since(heard) >= MEMBER_TIMEOUT)
    }

    /// Only what has come back proves that we were listening until then.
    fn may_begin(&self, now: Instant) -> bool {
        let (Some(since), Some(until)) = (self.listening_since, self.heard_us) else { return false };
        let has_listened = until.saturating_duration_since(since) > LISTEN_FOR;
        let is_listening = now.saturating_duration_since(until) <= LISTEN_FOR;
        has_listened && is_listening && self.others.values().all(|other| other.counts_us || !other.is_live(now))
    }

    /// Nine tenths by the workers, if we are one, and a tenth by the control processes, if we are one.
    fn part(&self) -> Share {
        let with_us = |others: usize| u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let workers = with_us(self.others.values().filter(|other| other.roles.worker).count());
        let controls = with_us(self.others.values().filter(|other| other.roles.control).count());
        let of_workers = if self.roles.worker { controls.saturating_mul(CONTROLS_PART.get() - 1) } else { 0 };
        let of_controls = if self.roles.control { workers } else { 0 };
        let whole = workers.saturating_mul(controls).saturating_mul(CONTROLS_PART.get());
        NonZeroU32::new(whole).map_or(Share::NONE, |whole| Share::of(of_workers.saturating_add(of_controls), whole))
    }
}
