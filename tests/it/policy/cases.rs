//! Small views, policies and marks, chosen to collide: few instants, few devices, few names.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use soloist::model::{Session, SessionDevice, TokenDigest, View};
use soloist::policy::{
    Action, Buckets, Count, Decision, DeviceField, Limit, Marks, Policy, ResolvedPolicy, Source, Strategy as Rule,
    Subject, decide,
};

pub(super) const LONG: Duration = Duration::from_hours(24);

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub view: View,
    pub policy: Policy,
    pub marks: Marks,
}

impl Case {
    pub(super) fn decide(&self) -> Decision {
        decision(&self.view, &self.policy, &self.marks)
    }

    /// Sessions that count: not ignored, login time known.
    pub(super) fn counted(&self) -> Vec<&Session> {
        let counts = |s: &&Session| s.login_at.is_some() && !self.marks.ignored.contains(&s.id());
        self.view.sessions.iter().filter(counts).collect()
    }

    pub(super) fn has_unknown_time(&self) -> bool {
        self.view.sessions.iter().any(|s| s.login_at.is_none() && !self.marks.ignored.contains(&s.id()))
    }

    /// The same without the sessions that `keep` does not want.
    pub(super) fn only(&self, keep: impl Fn(&Session) -> bool) -> Self {
        let mut case = self.clone();
        case.view.sessions.retain(keep);
        case
    }

    pub(super) fn survivors(&self, decision: &Decision) -> Vec<&Session> {
        let revoked = revoked(decision);
        self.counted().into_iter().filter(|s| !revoked.contains(&s.digest)).collect()
    }

    pub(super) fn pinned_and_counted(&self) -> usize {
        self.counted().iter().filter(|s| self.marks.pinned.contains(&s.id())).count()
    }
}

pub(super) fn decision(view: &View, policy: &Policy, marks: &Marks) -> Decision {
    decide(view, &ResolvedPolicy::new("test", Source::Default, policy.clone()), marks, Subject::default())
}

pub(super) fn bytes(decision: &Decision) -> String {
    serde_json::to_string(decision).unwrap()
}

pub(super) fn revoked(decision: &Decision) -> HashSet<TokenDigest> {
    decision.verdicts.iter().filter(|v| v.action == Action::Revoke).map(|v| v.digest).collect()
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(super) fn at_most(count: u32) -> Limit {
    Limit::at_most(count).unwrap()
}

pub(super) fn session(name: &str, second: Option<i64>, device: &SessionDevice) -> Session {
    Session::new(name, second.map(at), device.clone())
}

fn text(of: &'static [Option<&'static str>]) -> impl Strategy<Value = Option<String>> {
    proptest::sample::select(of).prop_map(|text| text.map(str::to_owned))
}

pub(super) fn devices() -> impl Strategy<Value = SessionDevice> {
    let device_type = text(&[Some("Mobile"), Some(" mobile"), Some("Desktop"), Some("tablet"), Some("unknown"), None]);
    let os = text(&[Some("iOS"), Some("ios "), Some("macOS"), Some("")]);
    (device_type, os).prop_map(|(device_type, os)| SessionDevice { device_type, os, ..SessionDevice::default() })
}

pub(super) fn limits(max: u32) -> impl Strategy<Value = Limit> {
    prop_oneof![9 => (1..=max).prop_map(at_most), 1 => Just(Limit::Unlimited)]
}

pub(super) fn rules() -> impl Strategy<Value = Rule> {
    prop_oneof![2 => Just(Rule::EvictOldest), 1 => Just(Rule::RejectNewest)]
}

fn buckets() -> impl Strategy<Value = Option<Buckets>> {
    let buckets = (limits(2), limits(3)).prop_map(|(mobile, desktop)| Buckets {
        by: DeviceField::DeviceType,
        limits: BTreeMap::from([("mobile".to_owned(), mobile), ("desktop".to_owned(), desktop)]),
    });
    option::of(buckets)
}

/// Every strategy, count, cap and lifetime; buckets always go by a device field.
pub(super) fn policies() -> impl Strategy<Value = Policy> {
    let lifetime = prop_oneof![Just(LONG), (1_u64..6).prop_map(Duration::from_secs)];
    let count = prop_oneof![Just(Count::Session), Just(Count::Device)];
    (limits(4), rules(), count, limits(3), buckets(), lifetime).prop_map(
        |(limit, strategy, count, per_device, buckets, session_lifetime)| Policy {
            limit,
            strategy,
            count,
            per_device,
            buckets,
            session_lifetime,
            device_fields: vec![DeviceField::DeviceType, DeviceField::Os],
            ..Policy::default()
        },
    )
}

#[derive(Clone, Copy, Debug)]
enum Mark {
    None,
    Pinned,
    Ignored,
    Both,
}

/// Up to ten sessions within eight seconds, a few of them of unknown time, pinned, ignored.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    let time = prop_oneof![14 => (0_i64..8).prop_map(Some), 1 => Just(None)];
    let mark = prop_oneof![
        16 => Just(Mark::None), 2 => Just(Mark::Pinned), 2 => Just(Mark::Ignored), 1 => Just(Mark::Both)
    ];
    let rows = vec((time, devices(), mark), 0..10);
    (rows, policies(), prop::bool::weighted(0.9)).prop_map(|(rows, policy, complete)| {
        let mut case = Case { view: View { sessions: Vec::new(), complete }, policy, marks: Marks::default() };
        for (n, (second, device, mark)) in rows.into_iter().enumerate() {
            let session = session(&format!("token {n}"), second, &device);
            if matches!(mark, Mark::Pinned | Mark::Both) {
                case.marks.pinned.insert(session.id());
            }
            if matches!(mark, Mark::Ignored | Mark::Both) {
                case.marks.ignored.insert(session.id());
            }
            case.view.sessions.push(session);
        }
        case
    })
}

/// The same, where a reject_newest looks at all that is listed and decides.
pub(super) fn decidable_cases() -> impl Strategy<Value = Case> {
    cases().prop_map(|case| {
        let mut case = if case.policy.strategy == Rule::RejectNewest {
            case.only(|session| session.login_at.is_some())
        } else {
            case
        };
        case.view.complete = true;
        case
    })
}

/// The same, where no session is too old to stand against another.
pub(super) fn timeless_cases() -> impl Strategy<Value = Case> {
    decidable_cases().prop_map(|mut case| {
        case.policy.session_lifetime = LONG;
        case
    })
}
