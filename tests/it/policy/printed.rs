//! What a decision looks like from the outside: its JSON, its marks, its counts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use soloist::model::{SessionDevice, TenantId, UserId, View};
use soloist::policy::{
    Buckets, Count, DeviceField, ExemptionEffect, Limit, Marks, Mode, Policy, ResolvedPolicy, Source, Strategy,
    Subject, decide, device_count,
};

use super::cases::{Case, at, bytes, decision, revoked, session};

fn on(os: &str) -> SessionDevice {
    SessionDevice { os: Some(os.to_owned()), ..SessionDevice::default() }
}

/// Five sessions: two of known time, one each pinned and ignored, and one of unknown time.
fn five() -> (View, Marks) {
    let seconds = [Some(5), Some(4), Some(3), Some(2), None];
    let sessions: Vec<_> =
        seconds.iter().zip("abcde".chars()).map(|(s, n)| session(&n.to_string(), *s, &on("ios"))).collect();
    let marks = Marks { pinned: [sessions[2].id()].into(), ignored: [sessions[3].id()].into() };
    (View { sessions, complete: false }, marks)
}

#[test]
fn a_decision_is_printed_as_documented() {
    let (view, marks) = five();
    let decision = decision(&view, &Policy::default(), &marks);
    let ids: Vec<String> = view.sessions.iter().map(|session| session.id().to_string()).collect();
    let verdict = |session: &str, action: &str, reason: Option<&str>, witnesses: &[&str]| json!({ "session": session, "action": action, "reason": reason, "witnesses": witnesses });
    let expected = json!({
        "id": decision.id.to_string(),
        "policy": { "name": "test", "version": decision.policy.version.to_string(), "source": "default" },
        "mode": "enforce",
        "complete": false,
        "verdicts": [
            verdict(&ids[0], "keep", None, &[]),
            verdict(&ids[1], "revoke", Some("displaced_by_newer_login"), &[&ids[0]]),
            verdict(&ids[2], "pinned", None, &[]),
            verdict(&ids[3], "exempt", None, &[]),
            verdict(&ids[4], "defer", None, &[]),
        ],
        "refused": null,
        "surplus_unresolved": 2,
        "recheck_after": 30,
    });
    assert_eq!(serde_json::from_str::<Value>(&bytes(&decision)).unwrap(), expected);
    assert!(bytes(&decision).starts_with("{\"id\":\"") && decision.id.to_string().len() == 64);
}

#[test]
fn a_refusal_says_why_and_keeps_everybody() {
    let (view, marks) = five();
    let policy = Policy { strategy: Strategy::RejectNewest, ..Policy::default() };
    let refused = decision(&view, &policy, &marks);
    let printed: Value = serde_json::from_str(&bytes(&refused)).unwrap();
    assert!(printed["refused"].as_str().unwrap().contains("incomplete"));
    assert_eq!(revoked(&refused).len(), 0);
    assert_eq!(refused.surplus_unresolved, 3, "two over the limit, of which one is pinned, and one of unknown time");
}

#[test]
fn the_id_covers_the_subject_the_policy_the_view_and_the_marks() {
    let (view, marks) = five();
    let id = |view: &View, policy: &Policy, marks: &Marks, subject: Subject<'_>| {
        decide(view, &ResolvedPolicy::new("test", Source::Default, policy.clone()), marks, subject).id
    };
    let (tenant, user) = (TenantId::default_tenant(), UserId::parse("ann").unwrap());
    let (policy, nobody) = (Policy::default(), Subject::default());
    let other_device = Policy { count: Count::Device, device_fields: vec![DeviceField::Os], ..policy.clone() };
    let mut moved = view.clone();
    moved.sessions[0].device = on("android");
    let (mut later, mut never) = (view.clone(), view.clone());
    later.sessions[0].login_at = Some(at(6));
    never.sessions[4].login_at = Some(Timestamp::UNIX_EPOCH);
    let buckets = Buckets { by: DeviceField::Os, limits: BTreeMap::from([("ios".to_owned(), Limit::ONE)]) };
    let bucketed = Policy { buckets: Some(buckets), ..policy.clone() };
    let ids = [
        id(&view, &policy, &marks, nobody),
        id(&view, &policy, &marks, Subject { tenant: Some(&tenant), user: None }),
        id(&view, &policy, &marks, Subject { tenant: Some(&tenant), user: Some(&user) }),
        id(&view, &Policy { mode: Mode::Observe, ..policy.clone() }, &marks, nobody),
        id(&View { complete: true, ..view.clone() }, &policy, &marks, nobody),
        id(&view, &policy, &Marks { ignored: marks.ignored.clone(), ..Marks::default() }, nobody),
        id(&view, &policy, &Marks { pinned: marks.pinned.clone(), ..Marks::default() }, nobody),
        id(&view, &other_device, &marks, nobody),
        id(&moved, &other_device, &marks, nobody),
        id(&later, &policy, &marks, nobody),
        id(&never, &policy, &marks, nobody),
        id(&view, &bucketed, &marks, nobody),
        id(&moved, &bucketed, &marks, nobody),
    ];
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    assert_eq!(id(&moved, &policy, &marks, nobody), ids[0], "a field that nothing counts is not in it");
}

#[test]
fn no_session_of_an_exempt_user_ends() {
    let (view, _) = five();
    for (effect, action) in [(ExemptionEffect::Ignored, "exempt"), (ExemptionEffect::Counted, "pinned")] {
        let mut case = Case { view: view.clone(), policy: Policy::default(), marks: Marks::default() };
        case.marks.exempt_all(&view, effect);
        let verdicts = case.decide().verdicts;
        assert!(verdicts.iter().take(4).all(|verdict| verdict.action.as_str() == action));
    }
}

#[test]
fn devices_are_counted_by_their_fields_and_an_empty_one_is_a_device_of_its_own() {
    let policy = Policy { device_fields: vec![DeviceField::Os], ..Policy::default() };
    let names = ["iOS", " ios", "Android", "", "unknown", "UNKNOWN ", "Écran", " écran"];
    let sessions = names.iter().map(|os| session(&format!("on {os:?}"), Some(0), &on(os))).collect();
    assert_eq!(device_count(&View { sessions, complete: true }, &policy), 6);

    // The fields are a tuple, not one text: "a" on "bc" is not "ab" on "c".
    let policy = Policy { device_fields: vec![DeviceField::DeviceType, DeviceField::Os], ..policy };
    let typed = |name: &str, os: &str| SessionDevice { device_type: Some(name.to_owned()), ..on(os) };
    let sessions = vec![session("1", Some(0), &typed("a", "bc")), session("2", Some(1), &typed("ab", "c"))];
    assert_eq!(device_count(&View { sessions, complete: true }, &policy), 2);
}

#[test]
fn of_two_rows_about_one_session_the_earlier_known_time_holds() {
    let row = |second: Option<i64>| session("twice", second, &on("ios"));
    let other = session("other", Some(4), &on("ios"));
    let view = View { sessions: vec![row(None), row(Some(5)), other, row(Some(3))], complete: true };
    let decision = decision(&view, &Policy::default(), &Marks::default());
    let times: Vec<_> = decision.verdicts.iter().map(|verdict| verdict.login_at).collect();
    assert_eq!(times, [Some(at(4)), Some(at(3))]);
}
