//! What the program once did wrong: small plans by hand, and those found by chance, which stay as they are.

use super::counts::Violation;
use super::generate;
use super::plan::{Act, Cut, Event, Fault, FaultKind, Habits, Plan, Rules, Standing, What};
use super::run::run;

/// Every case with the first property that does not hold in it.
pub(crate) fn failures() -> Vec<(&'static str, Violation)> {
    let first = |(name, plan): (&'static str, Plan)| Some((name, run(&plan, None).violations.into_iter().next()?));
    all().into_iter().filter_map(first).collect()
}

fn all() -> Vec<(&'static str, Plan)> {
    vec![
        ("logins that waited together are all turned away", {
            let logins = [login(0, 0, 0), login(1_000, 2, 0), login(100_000, 3, 0)];
            let rules = Rules { strategy: "reject_newest", ..RULES };
            Plan { rules, faults: vec![fault(500, 200_000, FaultKind::StaleDirectives)], ..plan(&logins) }
        }),
        ("a login that is not listed yet is looked for while directives are stale", {
            let logins = [login(0, 0, 0), login(10_000, 2, 20_000)];
            Plan { faults: vec![fault(9_000, 12_000, FaultKind::StaleDirectives)], ..plan(&logins) }
        }),
        ("a session whose end was answered at the second try only is paid for", {
            let logins = [login(0, 0, 0), login(10_000, 2, 0), login(20_000, 3, 0), login(30_000, 4, 0)];
            let lost = Fault { percent: 50, ..fault(0, 100_000, FaultKind::AnswerLost) };
            Plan { budget: Some(1), faults: vec![lost], ..plan(&logins) }
        }),
        ("looks that share a low rate end one after the other, and not never", generate::plan(502_578)),
        ("looks that wait for their turn at a low rate do not lose the time for what follows", generate::plan(217_520)),
        ("surplus that is looked for again takes away no look for a login of an unknown time", generate::plan(280_966)),
        (
            "ends of one device in a row, which lost answers make of refreshes, do not delay the guard",
            generate::plan(846_663),
        ),
        ("a worker all of whose steps settle while the queue ends, ends with it", generate::plan(1_246)),
    ]
}

const RULES: Rules = Rules {
    mode: "enforce",
    limit: 1,
    strategy: "evict_oldest",
    by_device: false,
    bucketed: false,
    session_lifetime: "30d",
};

fn plan(acts: &[Act]) -> Plan {
    Plan {
        seed: 1,
        rules: RULES,
        habits: Habits {
            listed_times: Cut::Millis,
            events_tell_login: true,
            refresh_replaces: true,
            refresh_restamps: false,
            ghosts_ms: 0,
            revoked_listed_ms: 0,
            latency_ms: 1,
            refreshes_at_revoke: 0,
        },
        workers: 1,
        is_one_process: false,
        requests_per_second: None,
        attempts_max: 12,
        budget: None,
        guard_evictions: 6,
        clock_off_hours: 0,
        users: vec![Standing::Plain],
        acts: acts.to_vec(),
        faults: Vec::new(),
        crashes: Vec::new(),
        queue_crashes: Vec::new(),
    }
}

fn login(at_ms: u64, device: u64, lag_ms: u64) -> Act {
    let event = Event { delay_ms: 0, copies: 1, is_lost: false };
    Act { at_ms, user: 0, what: What::Login { device, lag_ms, time_known: true, event } }
}

fn fault(from_ms: u64, to_ms: u64, kind: FaultKind) -> Fault {
    Fault { from_ms, to_ms, user: None, percent: 100, kind }
}
