//! P1 to P11 of the rule, over random small cases.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;
use soloist::model::{Session, SessionDevice, View, read_time};
use soloist::policy::{Action, Count, DeviceField, Limit, Marks, Policy, ReasonCode, Refusal, Strategy as Rule};

use super::cases::{
    Case, at, at_most, bytes, cases, decidable_cases, decision, devices, revoked, rules, session, timeless_cases,
};
use super::reference::{self, Device, Row, bucket_limit, number};

fn rows(sessions: &[&Session], policy: &Policy) -> Vec<Row> {
    sessions.iter().map(|session| reference::row(session, policy)).collect()
}

fn device_count(rows: &[Row]) -> usize {
    rows.iter().map(|row| &row.device).collect::<HashSet<_>>().len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_rule_is_the_written_formula(case in cases()) {
        let decision = case.decide();
        let refused = decision.refused.is_some();
        let mut expected = reference::over_limit(&case);
        let pinned: Vec<_> = case.view.sessions.iter().filter(|s| case.marks.pinned.contains(&s.id())).collect();
        expected.retain(|digest, _| !refused && !pinned.iter().any(|s| s.digest == *digest));
        let actual: reference::Ends = decision
            .revocations()
            .map(|v| (v.digest, (v.reason.unwrap(), v.witnesses.iter().copied().collect())))
            .collect();
        prop_assert_eq!(actual, expected);
    }

    #[test]
    fn p1_the_order_and_the_repetition_of_rows_change_no_byte(
        case in cases(),
        repeated in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(0_i64..9), devices()), 0..4),
        order in prop::collection::vec(any::<u8>(), 16),
    ) {
        let mut case = case;
        for (which, second, device) in &repeated {
            if let Some(n) = case.view.sessions.len().checked_sub(1).map(|_| which.index(case.view.sessions.len())) {
                let twin = Session { login_at: second.map(at), device: device.clone(), ..case.view.sessions[n].clone() };
                case.view.sessions.push(twin);
            }
        }
        let mut shuffled = case.clone();
        shuffled.view.sessions.extend(case.view.sessions.first().cloned());
        let mut placed: Vec<_> = order.into_iter().cycle().zip(shuffled.view.sessions).collect();
        placed.sort_by_key(|(place, _)| *place);
        shuffled.view.sessions = placed.into_iter().map(|(_, session)| session).collect();
        prop_assert_eq!(bytes(&case.decide()), bytes(&shuffled.decide()));
    }

    #[test]
    fn p2_deciding_again_without_the_revoked_rows_revokes_nothing(case in cases()) {
        let gone = revoked(&case.decide());
        prop_assert!(revoked(&case.only(|s| !gone.contains(&s.digest)).decide()).is_empty());
    }

    #[test]
    fn p3_what_stays_is_within_every_cap(case in timeless_cases()) {
        let pins = case.pinned_and_counted();
        let survivors = rows(&case.survivors(&case.decide()), &case.policy);
        prop_assert!(device_count(&survivors) <= number(case.policy.limit).saturating_add(pins));
        let mut in_bucket: BTreeMap<_, HashSet<_>> = BTreeMap::new();
        let mut on_device: BTreeMap<&Device, usize> = BTreeMap::new();
        for row in &survivors {
            in_bucket.entry(&row.bucket).or_default().insert(&row.device);
            *on_device.entry(&row.device).or_default() += 1;
        }
        for (bucket, devices) in in_bucket {
            prop_assert!(devices.len() <= bucket_limit(&case.policy, bucket.as_ref()).saturating_add(pins));
        }
        prop_assert!(on_device.values().all(|sessions| *sessions <= number(case.policy.per_device).saturating_add(pins)));
    }

    #[test]
    fn p4_one_cap_leaves_exactly_as_many_devices_as_it_may(case in timeless_cases()) {
        let mut case = case;
        case.policy.buckets = None;
        case.marks.pinned.clear();
        let decision = case.decide();
        let before = rows(&case.counted(), &case.policy);
        let after = rows(&case.survivors(&decision), &case.policy);
        prop_assert_eq!(device_count(&after), device_count(&before).min(number(case.policy.limit)));
    }

    #[test]
    fn p4_nothing_is_revoked_when_nothing_exceeds(case in timeless_cases()) {
        let mut case = case;
        let devices = device_count(&rows(&case.counted(), &case.policy));
        case.policy.limit = at_most(u32::try_from(devices.max(1)).unwrap());
        (case.policy.buckets, case.policy.per_device) = (None, Limit::Unlimited);
        prop_assert!(revoked(&case.decide()).is_empty());
    }

    #[test]
    fn p5_a_longer_list_never_saves_a_session(case in decidable_cases(), kept in any::<u16>()) {
        let in_part: HashSet<_> =
            case.view.sessions.iter().enumerate().filter(|(n, _)| kept >> n & 1 == 1).map(|(_, s)| s.digest).collect();
        let part = case.only(|s| in_part.contains(&s.digest));
        prop_assert!(revoked(&part.decide()).is_subset(&revoked(&case.decide())));
    }

    #[test]
    fn p6_the_newest_login_stays(case in cases()) {
        let mut case = case;
        case.policy.strategy = Rule::EvictOldest;
        let newest = case.counted().into_iter().max_by_key(|s| (s.login_at, s.digest)).map(|s| s.digest);
        prop_assert!(newest.is_none_or(|newest| !revoked(&case.decide()).contains(&newest)));
    }

    #[test]
    fn p7_reject_newest_keeps_the_oldest_login_and_refuses_half_the_facts(case in cases()) {
        let mut case = case;
        case.policy.strategy = Rule::RejectNewest;
        let decision = case.decide();
        let oldest = case.counted().into_iter().min_by_key(|s| (s.login_at, s.digest)).map(|s| s.digest);
        prop_assert!(oldest.is_none_or(|oldest| !revoked(&decision).contains(&oldest)));
        let refusal = match (case.view.complete, case.has_unknown_time()) {
            (false, _) => Some(Refusal::IncompleteView),
            (true, true) => Some(Refusal::UnknownLoginTime),
            (true, false) => None,
        };
        prop_assert_eq!(decision.refused, refusal);
        prop_assert!(refusal.is_none() || revoked(&decision).is_empty());
    }

    #[test]
    fn p8_every_revoke_names_the_required_number_of_sessions_that_displaced_it(case in cases()) {
        let policy = &case.policy;
        let counted = rows(&case.counted(), policy);
        let find = |digest| counted.iter().find(|row| row.digest == digest);
        for verdict in case.decide().revocations() {
            let own = find(verdict.digest).unwrap();
            let all: Option<Vec<&Row>> = verdict.witnesses.iter().map(|digest| find(*digest)).collect();
            let all = all.expect("every witness is listed and counted");
            prop_assert_eq!(all.len(), verdict.witnesses.len());
            prop_assert!(all.is_sorted_by(|a, b| (a.at, a.digest) > (b.at, b.digest)), "newest first, none twice");
            let other_devices: HashSet<_> = all.iter().map(|w| &w.device).filter(|d| **d != own.device).collect();
            let over_limit = all.len() == number(policy.limit) && other_devices.len() == all.len();
            let over_bucket = all.len() == bucket_limit(policy, own.bucket.as_ref())
                && other_devices.len() == all.len() && all.iter().all(|w| w.bucket == own.bucket);
            let over_device = all.len() == number(policy.per_device) && other_devices.is_empty();
            let required = match verdict.reason.unwrap() {
                ReasonCode::DisplacedByNewerLogin => over_limit,
                ReasonCode::BucketLimit => over_bucket,
                ReasonCode::SameDeviceNewer => over_device,
                ReasonCode::RejectedOverLimit => over_limit || over_bucket || over_device,
                ReasonCode::ChosenByUser | ReasonCode::Admin => false,
            };
            prop_assert!(required);
            let lifetime = SignedDuration::try_from(policy.session_lifetime).unwrap();
            let in_reach = |w: &&Row| match policy.strategy {
                Rule::EvictOldest => (w.at, w.digest) > (own.at, own.digest),
                Rule::RejectNewest =>
                    (w.at, w.digest) < (own.at, own.digest) && own.at.duration_since(w.at) <= lifetime,
            };
            prop_assert!(all.iter().all(in_reach));
        }
    }

    #[test]
    fn p9_exempt_pinned_and_unknown_rows_are_not_revoked(case in cases()) {
        for verdict in case.decide().verdicts {
            let id = verdict.digest.session_id();
            let expected = match (case.marks.ignored.contains(&id), verdict.login_at, case.marks.pinned.contains(&id)) {
                (true, _, _) => Some(Action::Exempt),
                (false, None, _) => Some(Action::Defer),
                (false, Some(_), true) => Some(Action::Pinned),
                (false, Some(_), false) => None,
            };
            match expected {
                Some(action) => prop_assert_eq!(verdict.action, action),
                None => prop_assert!(matches!(verdict.action, Action::Keep | Action::Revoke)),
            }
        }
    }

    #[test]
    fn p9_an_exempt_row_changes_no_other_verdict(
        case in cases(), second in prop::option::of(0_i64..8), device in devices(), ignored in any::<bool>(),
    ) {
        let evict = case.policy.strategy == Rule::EvictOldest;
        let extra = session("extra", second.filter(|_| ignored || !evict), &device);
        let mut more = case.clone();
        if ignored || !evict {
            more.marks.ignored.insert(extra.id());
        }
        more.view.sessions.push(extra.clone());
        let mut verdicts = more.decide().verdicts;
        verdicts.retain(|verdict| verdict.digest != extra.digest);
        prop_assert_eq!(verdicts, case.decide().verdicts);
    }

    #[test]
    fn p10_of_logins_at_one_instant_exactly_the_limit_stays(k in 1_usize..12, limit in 1_u32..12, rule in rules()) {
        let device = SessionDevice::default();
        let sessions = (0..k).map(|n| session(&format!("token {n}"), Some(0), &device)).collect();
        let policy = Policy { limit: at_most(limit), strategy: rule, ..Policy::default() };
        let decision = decision(&View { sessions, complete: true }, &policy, &Marks::default());
        prop_assert_eq!(k - revoked(&decision).len(), k.min(limit as usize));
    }

    #[test]
    fn p11_shifting_all_times_changes_nothing(case in cases(), by in -1_000_000_000_000_i64..1_000_000_000_000) {
        // Closer than a second, so that cutting to whole seconds would tell.
        let mut case = case;
        for session in &mut case.view.sessions {
            session.login_at = session.login_at.map(|time| at(0) + time.duration_since(at(0)) / 3);
        }
        let mut shifted = case.clone();
        for session in &mut shifted.view.sessions {
            session.login_at = session.login_at.map(|at| at + SignedDuration::from_micros(by));
        }
        let told = |case: &Case| -> Vec<_> {
            case.decide().verdicts.into_iter().map(|v| (v.digest, v.action, v.reason, v.witnesses)).collect()
        };
        prop_assert_eq!(told(&case), told(&shifted));
    }

    #[test]
    fn surplus_that_stays_is_what_would_end_and_cannot(case in cases()) {
        let decision = case.decide();
        let over = reference::over_limit(&case);
        let ended = revoked(&decision).len();
        let kept = case.counted().into_iter().filter(|s| !over.contains_key(&s.digest)).collect::<Vec<_>>();
        let kept = device_count(&rows(&kept, &case.policy));
        let deferred = decision.verdicts.iter().filter(|v| v.action == Action::Defer).count();
        let over_by_deferred = (kept + deferred).saturating_sub(number(case.policy.limit)).min(deferred);
        prop_assert_eq!(decision.surplus_unresolved, over.len() - ended + over_by_deferred);
    }
}

/// Of two logins, as the provider writes their times, the later one stays. There are many pairs, so that an order by
/// digest alone is wrong for some.
#[test]
fn p11_the_later_login_stays_however_its_time_is_written() {
    let ends = |n: u32, older: &str, newer: &str| {
        let session = |name: &str, time: &str| {
            let login_at = read_time(&format!("2023-09-15T04:03:43{time}"));
            Session::new(&format!("{name} {n}"), Some(login_at.unwrap()), SessionDevice::default())
        };
        let (older, newer) = (session("older", older), session("newer", newer));
        let (gone, view) = (older.digest, View { sessions: vec![older, newer], complete: true });
        let decision = decision(&view, &Policy::default(), &Marks::default());
        assert_eq!(revoked(&decision), HashSet::from([gone]));
        bytes(&decision)
    };
    for n in 0..16 {
        for newer in [".7200001Z", ".720001Z", ".721Z", ".73Z", ".8Z"] {
            let once = ends(n, ".72Z", newer);
            for same in [".720Z", ".7200000Z", ".72", ".72+00:00"] {
                assert_eq!(ends(n, same, newer), once, "{same} {newer}");
            }
            assert_ne!(ends(n, ".7199999Z", newer), once);
        }
        ends(n, "Z", ".0000001Z");
    }
}

/// Nobody is turned away by a login that is older than the lifetime by a tenth of a microsecond.
#[test]
fn p11_a_lifetime_is_measured_to_the_digit() {
    let turned_away = |fraction: &str| {
        let session = |name: &str, time: &str| Session::new(name, read_time(time), SessionDevice::default());
        let newer = format!("2023-09-15T04:03:48{fraction}Z");
        let sessions = vec![session("older", "2023-09-15T04:03:43Z"), session("newer", &newer)];
        let session_lifetime = Duration::from_secs(5);
        let policy = Policy { strategy: Rule::RejectNewest, session_lifetime, ..Policy::default() };
        revoked(&decision(&View { sessions, complete: true }, &policy, &Marks::default())).len()
    };
    assert_eq!((turned_away(""), turned_away(".0000001")), (1, 0));
}

/// A device at 0, 1 and 3, and sessions live for 2: the login at 3 is turned away by the one at 1, not by the one at 0.
#[test]
fn p8_a_device_cap_names_only_sessions_within_the_lifetime() {
    let device = SessionDevice { os: Some("ios".to_owned()), ..SessionDevice::default() };
    let logins = [0, 1, 3].map(|second| session(&format!("{second}"), Some(second), &device));
    let policy = Policy {
        strategy: Rule::RejectNewest,
        count: Count::Device,
        device_fields: vec![DeviceField::Os],
        session_lifetime: Duration::from_secs(2),
        ..Policy::default()
    };
    let decision = decision(&View { sessions: logins.to_vec(), complete: true }, &policy, &Marks::default());
    let named: Vec<_> = decision.revocations().map(|v| (v.digest, v.witnesses.iter().copied().collect())).collect();
    assert_eq!(named, [(logins[1].digest, vec![logins[0].digest]), (logins[2].digest, vec![logins[1].digest])]);
}
