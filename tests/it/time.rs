//! Time: our own clock may jump, the vendor's times may be anything, and no decision depends on what time it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use soloist::clock::Clock;
use soloist::config::Rate;
use soloist::directives::LiveDirectives;
use soloist::ledger::SqliteLedger;
use soloist::model::{
    AccessToken, Lane, LoginEvent, Reason, Session, SessionDevice, TenantId, UserId, UserTraits, View,
};
use soloist::provider::{ProviderError, Revoked, SessionProvider};
use soloist::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use soloist::queue::{Next, Queue, Settlement, Why};
use soloist::sandbox::{Faults, LoginDate, LoginMade, SandboxConfig};
use soloist::telemetry::Metrics;
use soloist::worker::{Brakes, Enforcer as _, Look, TenantWorker, WorkerParts};

use crate::support::service::{self, Service};
use crate::support::{login, soon};

const DELAY: Duration = Duration::from_millis(150);

fn at(raw: &str) -> Timestamp {
    raw.parse().unwrap()
}

/// Pairs of what our clock shows before and after a restart.
const JUMPS: [(&str, &str); 5] = [
    ("2026-06-01T12:00:00Z", "2090-01-01T00:00:00Z"),
    ("2090-01-01T00:00:00Z", "2026-06-01T12:00:00Z"),
    ("2026-06-01T12:00:00Z", "1970-01-01T00:00:00Z"),
    ("2026-06-01T12:00:00Z", "2026-06-01T17:00:00Z"),
    ("2026-06-01T12:00:00Z", "2026-06-01T07:00:00Z"),
];

/// Puts four messages off while the clock shows `before`, and begins again with a clock that shows `after`: those that
/// are handed out then within the delay, and how many wait.
async fn over_a_jump(before: &str, after: &str) -> (Vec<(String, u32)>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::in_dir(folder.path());
    let (queue, thread) = EmbeddedQueue::open(&config, Clock::starting_at(at(before))).unwrap();
    let events: Vec<LoginEvent> = (0..4).map(|n| login("ann", &format!("h{n}"))).collect();
    queue.publish(&events).await.unwrap();
    let subscription = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, 8).await.unwrap();
    for _ in &events {
        let delivery = soon("a delivery", subscription.receive()).await.unwrap();
        let settlement = Settlement::Again { after: DELAY, next: Next::Retry, why: Why::Unavailable };
        subscription.settle(&[(delivery.tag, settlement)]).await.unwrap();
    }
    drop(subscription);
    queue.stop();
    soon("the queue to stop", thread.ended()).await.unwrap();

    let (queue, thread) = EmbeddedQueue::open(&config, Clock::starting_at(at(after))).unwrap();
    let subscription = queue.subscribe(&TenantId::default_tenant(), Lane::Logins, 8).await.unwrap();
    let mut handed_out = Vec::new();
    for _ in &events {
        let delivery = soon("what was put off", subscription.receive()).await.unwrap();
        handed_out.push((delivery.event.id.to_string(), delivery.attempt));
        subscription.settle(&[(delivery.tag, Settlement::Ack)]).await.unwrap();
    }
    handed_out.sort();
    let waiting = queue.stats().await.unwrap().iter().map(|lane| lane.ready + lane.delayed.unwrap()).sum();
    drop(subscription);
    queue.stop();
    soon("the queue to stop", thread.ended()).await.unwrap();
    (handed_out, waiting)
}

#[tokio::test]
async fn a_clock_that_jumped_by_hours_or_years_strands_no_message_loses_none_and_doubles_none() {
    let each_once: Vec<(String, u32)> = (0..4).map(|n| (format!("h{n}"), 2)).collect();
    for (before, after) in JUMPS {
        assert_eq!(over_a_jump(before, after).await, (each_once.clone(), 0), "{before} to {after}");
    }
}

#[tokio::test]
async fn after_a_jump_new_events_are_taken_and_known_ones_do_no_harm() {
    for (before, after) in JUMPS {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::in_dir(folder.path());
        let mut accepted = Vec::new();
        for (shows, id) in [(before, "old"), (after, "new"), (before, "newer")] {
            let (queue, thread) = EmbeddedQueue::open(&config, Clock::starting_at(at(shows))).unwrap();
            accepted.push(queue.publish(&[login("ann", id)]).await.unwrap().duplicates);
            accepted.push(queue.publish(&[login("ann", id)]).await.unwrap().duplicates);
            queue.stop();
            soon("the queue to stop", thread.ended()).await.unwrap();
        }
        assert_eq!(accepted, [0, 1, 0, 1, 0, 1], "{before} to {after}: new ones are taken, repeated ones known");
    }
}

#[tokio::test(start_paused = true)]
async fn our_clock_runs_with_the_monotonic_one_and_stops_at_the_end_of_time() {
    let (clock, last) = (Clock::starting_at(at("2026-01-01T00:00:00Z")), Clock::starting_at(Timestamp::MAX));
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(clock.now(), at("2026-01-01T00:01:30Z"));
    assert_eq!(last.now(), Timestamp::MAX);
}

/// Shows one view, ends nothing.
struct Shows(View);

#[async_trait]
impl SessionProvider for Shows {
    async fn list(&self, _user: &UserId) -> Result<View, ProviderError> {
        Ok(self.0.clone())
    }

    async fn revoke(&self, _token: &AccessToken) -> Result<Revoked, ProviderError> {
        Ok(Revoked::AlreadyGone)
    }

    async fn identify(&self, _token: &AccessToken) -> Result<UserId, ProviderError> {
        Err(ProviderError::Refused(anyhow::anyhow!("not asked")))
    }

    async fn traits(&self, _user: &UserId) -> Result<UserTraits, ProviderError> {
        Ok(UserTraits::default())
    }
}

/// What the worker's step decides about this view when our clock shows `now`, as text.
async fn decided_at(now: &str, view: &View, policy: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("soloist.toml");
    std::fs::write(&file, policy).unwrap();
    let config = service::config(folder.path(), "http://127.0.0.1:9", &[("SOLOIST_CONFIG", file.to_str().unwrap())]);
    let (clock, metrics) = (Clock::starting_at(at(now)), Metrics::new());
    let worker = TenantWorker::new(WorkerParts {
        chance: rand::random,
        tenant: TenantId::default_tenant(),
        provider: Arc::new(Shows(view.clone())),
        rate: Rate::Unlimited,
        queue: Arc::new(EmbeddedQueue::open(&EmbeddedConfig::in_dir(folder.path()), clock).unwrap().0),
        directives: Arc::new(LiveDirectives::own(config.written_policies(), Vec::new(), clock).unwrap()),
        ledger: Arc::new(SqliteLedger::open(folder.path(), 100, true, clock).unwrap().0),
        brakes: Brakes::alone(config.guard),
        config: config.worker,
        clock,
        metrics,
    });
    let user = UserId::parse("ann").unwrap();
    let look = Look { user, reason: Reason::Login, at: None, login_at: None, dry_run: false };
    let evaluation = worker.enforcer().evaluate(&look).await.unwrap();
    serde_json::to_string(&evaluation.decision).unwrap()
}

#[tokio::test]
async fn the_same_list_gives_the_same_bytes_in_any_year() {
    let times =
        ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "unknown"];
    let session =
        |(n, time): (usize, &&str)| Session::new(&format!("t{n}"), time.parse().ok(), SessionDevice::default());
    let view = View { sessions: times.iter().enumerate().map(session).collect(), complete: true };
    for policy in ["[policy]\nlimit = 2", "[policy]\nlimit = 1\nmode = \"observe\"\nstrategy = \"reject_newest\""] {
        let mut decisions = BTreeMap::new();
        for now in ["1970-01-01T00:00:00Z", "2026-01-01T00:00:30Z", "2098-12-31T23:59:59Z", "2200-01-01T00:00:00Z"] {
            decisions.entry(decided_at(now, &view, policy).await).or_insert_with(Vec::new).push(now);
        }
        assert_eq!(decisions.len(), 1, "{decisions:#?}");
    }
}

#[tokio::test]
async fn an_exemption_ends_by_our_clock_and_nothing_else_about_a_policy_does() {
    let exemptions = r#"[{ uid = "ann", reason = "kiosk", owner = "ops", expires = "2026-06-01T00:00:00Z" }]"#;
    let folder = tempfile::tempdir().unwrap();
    let config = service::config(folder.path(), "http://127.0.0.1:9", &[("SOLOIST_POLICY__EXEMPTIONS", exemptions)]);
    let policies = &config.policies().unwrap()[&TenantId::default_tenant()];
    let resolved = |now: &str| policies.resolve(&UserId::parse("ann").unwrap(), None, at(now)).unwrap();
    // A clock that is years behind prolongs it, one that is ahead ends it early: checked, and reported by `check`.
    assert!(resolved("1970-01-01T00:00:00Z").exemption.is_some());
    assert!(resolved("2026-05-31T23:59:59.999Z").exemption.is_some());
    assert!(resolved("2026-06-01T00:00:00Z").exemption.is_none());
    assert_eq!(resolved("2200-01-01T00:00:00Z").policy, resolved("1970-01-01T00:00:00Z").policy);
}

/// A service, and two silent logins of one user ten seconds apart, the older one first. What their rows show as login
/// time is as `written`, where that is something.
async fn two_logins(sandbox: SandboxConfig, written: [Option<&str>; 2]) -> (Service, [LoginMade; 2]) {
    let service = Service::start_with(sandbox, &[]).await;
    let older = service.sandbox.login_in_silence("ann", None).unwrap();
    service.sandbox.advance(Duration::from_secs(10));
    let newer = service.sandbox.login_in_silence("ann", None).unwrap();
    let dates = [&older, &newer].into_iter().zip(written);
    let login_dates = dates.filter_map(|(login, date)| Some((login.session.clone(), date?.to_owned()))).collect();
    service.sandbox.set_faults(Faults { login_dates, ..Faults::default() });
    (service, [older, newer])
}

/// Looks at the user; which of the two are left.
async fn left(service: &Service, logins: &[LoginMade; 2]) -> [bool; 2] {
    let (status, answer) = service.admin("POST", "/admin/v1/users/ann/enforce").await;
    assert_eq!(status, 200, "{answer}");
    let left = service.sandbox.sessions("ann");
    [0, 1].map(|n: usize| left.iter().any(|session| session.session == logins[n].session))
}

#[tokio::test]
async fn a_login_time_that_says_never_or_nothing_ends_nobody_and_is_not_ended() {
    for unknown in ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-01-01T00:00:00.0000000Z", "", "yesterday"] {
        for written in [[Some(unknown), None], [None, Some(unknown)]] {
            let (service, logins) = two_logins(SandboxConfig::default(), written).await;
            assert_eq!(left(&service, &logins).await, [true, true], "{written:?}");
            service.stop().await;
        }
    }
}

#[tokio::test]
async fn times_without_a_zone_and_with_any_number_of_digits_keep_their_order() {
    for [older, newer] in [
        ["2026-01-01T00:00:01", "2026-01-01T00:00:02"],
        ["2026-01-01T00:00:01Z", "2026-01-01T00:00:02"],
        ["2026-01-01T00:00:01.72Z", "2026-01-01T00:00:01.721Z"],
        ["2026-01-01T00:00:01.999", "2026-01-01T00:00:02Z"],
        ["2026-01-01T00:00:01.1234567Z", "2026-01-01T00:00:01.1234568Z"],
        ["2026-01-01T00:00:01Z", "2026-01-01T00:00:01.0000001Z"],
        ["2026-01-01T03:00:00+02:00", "2026-01-01T01:00:01Z"],
    ] {
        let (service, logins) = two_logins(SandboxConfig::default(), [Some(older), Some(newer)]).await;
        assert_eq!(left(&service, &logins).await, [false, true], "{older} {newer}");
        service.stop().await;
    }
}

#[tokio::test]
async fn logins_within_one_whole_second_leave_exactly_one() {
    let sandbox = SandboxConfig {
        login_date: LoginDate::Seconds,
        starts_at: Some(at("2026-01-01T00:00:00Z")),
        ..SandboxConfig::default()
    };
    let same = Some("2026-01-01T00:00:05Z");
    let (service, logins) = two_logins(sandbox, [same, same]).await;
    assert_eq!(left(&service, &logins).await.iter().filter(|is_left| **is_left).count(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_login_from_the_future_counts_as_the_newest_and_is_reported() {
    let (service, logins) = two_logins(SandboxConfig::default(), [Some("2099-01-01T00:00:00Z"), None]).await;
    let from_the_future = "soloist_sessions_from_the_future_total{tenant=\"default\"}";
    let (_, shown) = service.admin("GET", "/admin/v1/users/ann/sessions").await;
    let is_shown = |n: usize| shown["sessions"][n]["from_the_future"].as_bool();
    assert_eq!((is_shown(0), is_shown(1)), (Some(true), Some(false)), "{shown}");
    assert_eq!(left(&service, &logins).await, [true, false], "the order is by the provider's times alone");
    assert_eq!(service.metric(from_the_future), 1, "once, however often it is listed");

    // What an operator does about it, after which real logins stay again.
    let path = format!("/admin/v1/users/ann/sessions/{}", logins[0].session);
    assert_eq!(service.admin("DELETE", &path).await.0, 200);
    let newest = service.sandbox.login("ann", None).unwrap();
    service.settled().await;
    assert_eq!(service.sandbox.sessions("ann")[0].session, newest.session);
    service.stop().await;
}

#[tokio::test]
async fn a_world_whose_clock_is_years_off_is_enforced_all_the_same() {
    for starts_at in ["1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"] {
        let sandbox = SandboxConfig { starts_at: Some(at(starts_at)), ..SandboxConfig::default() };
        let service = Service::start_with(sandbox, &[]).await;
        service.sandbox.login("ann", None).unwrap();
        service.sandbox.advance(Duration::from_secs(1));
        let newest = service.sandbox.login("ann", None).unwrap();
        service.settled().await;
        let left = service.sandbox.sessions("ann");
        assert_eq!((left.len(), &left[0].session), (1, &newest.session), "{starts_at}");
        assert!(newest.login_at.duration_since(at(starts_at)) < SignedDuration::from_hours(1));
        service.stop().await;
    }
}
