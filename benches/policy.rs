//! How long one decision takes, for 1, 10 and 1,000 sessions of one user, the id of the decision included.
//!
//! The baseline is the least that any such rule must do: sort the same rows by login time and digest, and hash their
//! digests. Decision and baseline alternate; each number is the median of seven runs, with the whole spread.
#![expect(clippy::print_stdout, reason = "the table is what a benchmark is for")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use soloist::model::{Session, SessionDevice, TenantId, UserId, View};
use soloist::policy::{
    Buckets, Count, DeviceField, Limit, Marks, Policy, ResolvedPolicy, Source, Strategy, Subject, decide,
};

const RUNS: usize = 7;
const SESSIONS_PER_RUN: usize = 100_000;
const GOAL: Duration = Duration::from_micros(500);

fn main() {
    println!("policy: one decision, median of {RUNS} alternating runs (least to most)");
    println!("baseline: sort the same rows by login time and digest, SHA-256 of their digests\n");
    println!("{:<34} {:>8}  {:>24} {:>12} {:>6}", "policy", "sessions", "decide µs", "baseline µs", "ratio");
    let mut worst = Duration::ZERO;
    for (name, policy) in policies() {
        let policy = ResolvedPolicy::new(name, Source::Default, policy);
        for sessions in [1, 10, 1000] {
            worst = worst.max(measure(&view(sessions), &policy));
        }
    }
    let verdict = if worst <= GOAL { "reached" } else { "missed" };
    println!("\ngoal: at most {} µs for 1,000 sessions, the slowest median: {verdict}", GOAL.as_micros());
}

fn policies() -> [(&'static str, Policy); 6] {
    let at_most = |count| Limit::at_most(count).unwrap_or(Limit::ONE);
    let session = Policy::default();
    let limits = BTreeMap::from([("mobile".to_owned(), at_most(100)), ("desktop".to_owned(), at_most(100))]);
    let buckets = Some(Buckets { by: DeviceField::DeviceType, limits });
    let device =
        Policy { count: Count::Device, per_device: at_most(2), buckets, limit: at_most(150), ..session.clone() };
    let reject = Strategy::RejectNewest;
    [
        ("sessions, limit 1", session.clone()),
        ("sessions, limit 500", Policy { limit: at_most(500), ..session.clone() }),
        ("sessions, limit 500, reject_newest", Policy { limit: at_most(500), strategy: reject, ..session }),
        ("devices and buckets, limit 1", Policy { limit: Limit::ONE, ..device.clone() }),
        ("devices and buckets, limit 150", device.clone()),
        ("the same, reject_newest", Policy { strategy: reject, ..device }),
    ]
}

/// Sessions in no order, on as many devices as 3 types, 4 systems and 50 browsers make.
fn view(sessions: usize) -> View {
    let session = |n: usize| {
        let place = n * 7919 % 10_007;
        let text = |kinds: &[&str]| kinds.get(place % kinds.len()).map(|kind| (*kind).to_owned());
        let device = SessionDevice {
            device_type: text(&["Mobile", "Desktop", "Tablet"]),
            os: text(&["iOS", "Android", "Windows", "macOS"]),
            browser: Some(format!("Browser {}", place % 50)),
            ..SessionDevice::default()
        };
        let at = i64::try_from(place).ok().and_then(|ms| Timestamp::from_millisecond(1_700_000_000_000 + ms).ok());
        Session::new(&format!("token {n}"), at, device)
    };
    View { sessions: (0..sessions).map(session).collect(), complete: true }
}

/// Prints a line and gives the median for the goal.
fn measure(view: &View, policy: &ResolvedPolicy) -> Duration {
    let (tenant, user) = (TenantId::default_tenant(), UserId::parse("793fb102948e48c0bac4382200cc50a8").ok());
    let subject = Subject { tenant: Some(&tenant), user: user.as_ref() };
    let marks = Marks::default();
    let times = SESSIONS_PER_RUN / view.sessions.len().max(100);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..RUNS {
        ours.push(time(times, || drop(black_box(decide(black_box(view), policy, &marks, subject)))));
        theirs.push(time(times, || {
            black_box(baseline(black_box(view)));
        }));
    }
    ours.sort_unstable();
    theirs.sort_unstable();
    let micros = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
    let (median, base) = (micros(ours.get(RUNS / 2)), micros(theirs.get(RUNS / 2)));
    let spread = format!("{median:.1} ({:.1} to {:.1})", micros(ours.first()), micros(ours.last()));
    let (name, sessions, ratio) = (&policy.name, view.sessions.len(), median / base);
    println!("{name:<34} {sessions:>8}  {spread:>24} {base:>12.1} {ratio:>6.1}");
    ours.get(RUNS / 2).copied().unwrap_or_default()
}

fn time(times: usize, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        run();
    }
    start.elapsed() / u32::try_from(times).unwrap_or(u32::MAX)
}

fn baseline(view: &View) -> [u8; 32] {
    let mut rows: Vec<_> = view.sessions.iter().map(|session| (session.login_at, session.digest)).collect();
    rows.sort_unstable();
    let mut hash = Sha256::new();
    for (_, digest) in rows {
        hash.update(digest.0);
    }
    hash.finalize().into()
}
