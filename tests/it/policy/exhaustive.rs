//! P5 for every list of up to seven logins, and the case that makes it a condition that buckets go by device fields.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::json;
use soloist::model::{Session, SessionDevice, View};
use soloist::policy::{
    Buckets, Count, DeviceField, Limit, Marks, Policy, ResolvedPolicy, Source, Strategy, Subject, decide, written,
};

use super::cases::{Case, at_most, decision, revoked, session};
use super::reference;

const LOGINS_MAX: usize = 7;

/// Two phones, a desktop, and a phone that does not say what it is, so that each login is a device of its own.
const LETTERS: [(&str, &str); 4] = [("mobile", "a"), ("mobile", "b"), ("desktop", "a"), ("mobile", "unknown")];

fn device((device_type, os): (&str, &str)) -> SessionDevice {
    SessionDevice { device_type: Some(device_type.to_owned()), os: Some(os.to_owned()), ..SessionDevice::default() }
}

/// Each letter at each second, made once: most of the time goes into digests.
fn sessions() -> Vec<Vec<Session>> {
    let at =
        |letter: (&str, &str), second: i64| session(&format!("{letter:?} {second}"), Some(second), &device(letter));
    (0_i64..).take(LOGINS_MAX).map(|second| LETTERS.iter().map(|letter| at(*letter, second)).collect()).collect()
}

/// Which logins of the word end, by place.
fn ended(word: &[usize], policy: &ResolvedPolicy, sessions: &[Vec<Session>]) -> Vec<bool> {
    let sessions: Vec<Session> = word.iter().zip(sessions).map(|(letter, at)| at[*letter].clone()).collect();
    let view = View { sessions, complete: true };
    let revoked = revoked(&decide(&view, policy, &Marks::default(), Subject::default()));
    view.sessions.iter().map(|session| revoked.contains(&session.digest)).collect()
}

fn words(length: usize) -> impl Iterator<Item = Vec<usize>> {
    let count = LETTERS.len().pow(u32::try_from(length).unwrap());
    (0..count).map(move |mut n| {
        let letters = (0..length).map(|_| {
            let letter = n % LETTERS.len();
            n /= LETTERS.len();
            letter
        });
        letters.collect()
    })
}

/// Every list of up to seven logins against the same list without any one of them. Taking out one after the other
/// reaches every subset, so this covers every pair of a list and a part of it.
fn assert_monotone(policy: &Policy) {
    let sessions = sessions();
    let resolved = ResolvedPolicy::new("test", Source::Default, policy.clone());
    let mut shorter: HashMap<Vec<usize>, Vec<bool>> = HashMap::from([(Vec::new(), Vec::new())]);
    for length in 1..=LOGINS_MAX {
        let mut longer = HashMap::new();
        for word in words(length) {
            let ends = ended(&word, &resolved, &sessions);
            for missing in 0..length {
                let mut part = word.clone();
                part.remove(missing);
                let mut with_all = ends.clone();
                with_all.remove(missing);
                let saved = shorter[&part].iter().zip(&with_all).any(|(in_part, in_all)| *in_part && !in_all);
                assert!(!saved, "{word:?} saves a login that ends without login {missing}: {policy:?}");
            }
            longer.insert(word, ends);
        }
        shorter = longer;
    }
}

fn policy(strategy: Strategy, limit: u32, per_device: u32, mobile: Option<u32>) -> Policy {
    let buckets = mobile.map(|mobile| Buckets {
        by: DeviceField::DeviceType,
        limits: BTreeMap::from([("mobile".to_owned(), at_most(mobile))]),
    });
    Policy {
        strategy,
        limit: at_most(limit),
        count: Count::Device,
        device_fields: vec![DeviceField::DeviceType, DeviceField::Os],
        per_device: at_most(per_device),
        buckets,
        ..Policy::default()
    }
}

#[test]
fn p5_evict_oldest_is_monotone_for_every_list_of_seven() {
    assert_monotone(&policy(Strategy::EvictOldest, 1, 1, None));
    assert_monotone(&policy(Strategy::EvictOldest, 2, 1, Some(1)));
    assert_monotone(&policy(Strategy::EvictOldest, 2, 2, Some(1)));
    assert_monotone(&policy(Strategy::EvictOldest, 3, 2, Some(2)));
    assert_monotone(&Policy { count: Count::Session, ..policy(Strategy::EvictOldest, 2, 1, Some(1)) });
    assert_monotone(&Policy { limit: Limit::Unlimited, ..policy(Strategy::EvictOldest, 1, 2, Some(1)) });
}

#[test]
fn p5_reject_newest_is_monotone_for_every_list_of_seven() {
    assert_monotone(&policy(Strategy::RejectNewest, 1, 1, None));
    assert_monotone(&policy(Strategy::RejectNewest, 2, 1, Some(1)));
    assert_monotone(&policy(Strategy::RejectNewest, 2, 2, Some(1)));
    assert_monotone(&policy(Strategy::RejectNewest, 3, 2, Some(2)));
}

/// N = 2, mobile ≤ 1, a device is told by its os: a tablet S, a phone A, and B, which is once a desktop, once a phone.
fn bucket_that_is_no_device_field(by_is_a_device_field: bool) -> (Case, Case) {
    let logins = [("tablet", "s"), ("mobile", "a"), ("desktop", "b"), ("mobile", "b")];
    let sessions = logins.iter().zip(0..).map(|(login, n)| session(login.1, Some(n), &device(*login)));
    let mut sessions: Vec<_> = sessions.collect();
    sessions[3] = session("b on a phone", Some(3), &device(logins[3]));
    let mut policy = policy(Strategy::EvictOldest, 2, 2, Some(1));
    if !by_is_a_device_field {
        policy.device_fields = vec![DeviceField::Os];
    }
    let all = Case { view: View { sessions, complete: true }, policy, marks: Marks::default() };
    (all.only(|session| session.login_at < Some(super::cases::at(3))), all)
}

#[test]
fn a_bucket_that_is_no_device_field_would_let_one_more_login_save_an_older_one() {
    let (part, all) = bucket_that_is_no_device_field(false);
    let tablet = part.view.sessions[0].digest;
    assert!(reference::over_limit(&part).contains_key(&tablet));
    assert!(!reference::over_limit(&all).contains_key(&tablet));

    let (part, all) = bucket_that_is_no_device_field(true);
    let ends = |case: &Case| -> HashSet<_> { revoked(&decision(&case.view, &case.policy, &case.marks)) };
    assert!(ends(&part).contains(&tablet) && ends(&part).is_subset(&ends(&all)));
}

#[test]
fn a_bucket_that_is_no_device_field_is_a_configuration_error_where_devices_count() {
    let written = |count: &str, fields: &[&str]| {
        let buckets = json!({ "by": "device_type", "limits": { "mobile": 1 } });
        let value = json!({ "limit": 2, "count": count, "device_fields": fields, "buckets": buckets });
        written::policy(&value, "policy").map_err(|mistakes| mistakes[0].path.clone())
    };
    assert_eq!(written("device", &["os", "browser"]).unwrap_err(), "policy.buckets.by");
    assert!(written("device", &["os", "browser", "device_type"]).is_ok());
    assert!(written("session", &["os", "browser"]).is_ok());
}
