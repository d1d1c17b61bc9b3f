//! The guide's own samples of a session listing.

use serde_json::Value;
use soloist::model::{Session, SessionDevice, View};
use soloist::policy::{Action, Marks, Policy, ReasonCode};

use super::cases::decision;

const SAMPLE_1_BROKEN: &str = include_str!("../../fixtures/active_sessions_guide_sample1_broken.json");
const SAMPLE_1_REPAIRED: &str = include_str!("../../fixtures/active_sessions_guide_sample1_repaired.json");
const SAMPLE_2: &str = include_str!("../../fixtures/active_sessions_guide_sample2.json");

/// Reads a sample, field names in any case.
fn view(sample: &str) -> Result<View, serde_json::Error> {
    let value: Value = serde_json::from_str(sample)?;
    let rows = value["data"].as_array().unwrap();
    let session = |row: &Value| {
        let field = |name: &str| {
            let row = row.as_object().unwrap();
            let (_, text) = row.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).unwrap();
            text.as_str().map(str::to_owned)
        };
        let device = SessionDevice {
            browser: field("Browser"),
            os: field("Os"),
            device: field("Device"),
            device_type: field("DeviceType"),
            city: field("City"),
            country: field("Country"),
            ip: field("Ip"),
        };
        let login_at = field("LoginDate").unwrap().parse().unwrap();
        Session::new(&field("AccessToken").unwrap(), Some(login_at), device)
    };
    Ok(View { sessions: rows.iter().map(session).collect(), complete: true })
}

#[test]
fn the_guides_three_sessions_come_down_to_the_newest_which_is_the_only_witness() {
    let view = view(SAMPLE_2).unwrap();
    let decision = decision(&view, &Policy::default(), &Marks::default());
    let newest = view.sessions[0].digest;

    let actions: Vec<_> = decision.verdicts.iter().map(|verdict| (verdict.digest, verdict.action)).collect();
    let rest = view.sessions[1..].iter().map(|session| (session.digest, Action::Revoke));
    assert_eq!(actions, [(newest, Action::Keep)].into_iter().chain(rest).collect::<Vec<_>>());
    let order: Vec<_> = decision.revocations().map(|verdict| verdict.digest).collect();
    assert_eq!(order, [view.sessions[2].digest, view.sessions[1].digest], "oldest first");
    for verdict in decision.revocations() {
        assert_eq!(verdict.reason, Some(ReasonCode::DisplacedByNewerLogin));
        assert_eq!(verdict.witnesses.iter().collect::<Vec<_>>(), [&newest]);
    }
}

#[test]
fn the_guides_first_sample_is_no_json_and_repaired_ends_nobody() {
    assert!(view(SAMPLE_1_BROKEN).is_err());
    let view = view(SAMPLE_1_REPAIRED).unwrap();
    assert_eq!(view.sessions.len(), 1);
    assert_eq!(view.sessions[0].device.city, None);
    assert_eq!(decision(&view, &Policy::default(), &Marks::default()).revocations().count(), 0);
}
