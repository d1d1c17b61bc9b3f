//! Plans from seeds.

use super::dice::Dice;
use super::plan::{Act, Crash, Cut, Effect, Event, Fault, FaultKind, Habits, Plan, Rules, Side, Standing, What};

/// How long people log in and out.
const ACTIVE_MS: u64 = 120_000;
/// Longer than the re-checks go on, so that some logins are found by the sweep only.
const LAG_MAX_MS: u64 = 200_000;
/// Longer than the queue's ladder takes to spend most attempts.
const FAULT_MAX_MS: u64 = 900_000;

pub(crate) fn plan(seed: u64) -> Plan {
    let mut dice = Dice::of(seed ^ 0x5010_1057);
    let users = dice.between(1, 4);
    let mode = if dice.chance(12) { "observe" } else { "enforce" };
    let is_one_process = dice.chance(40);
    let mut plan = Plan {
        seed,
        rules: rules(&mut dice, mode),
        habits: habits(&mut dice),
        workers: if is_one_process { 1 } else { usize::try_from(dice.between(1, 3)).unwrap() },
        is_one_process,
        requests_per_second: dice.chance(30).then(|| u32::try_from(dice.between(1, 20)).unwrap()),
        attempts_max: u32::try_from(dice.between(5, 12)).unwrap(),
        budget: dice.chance(12).then(|| dice.one_of(&[1, 3, 10])),
        guard_evictions: dice.one_of(&[4, 6]),
        clock_off_hours: dice.one_of(&[0, 0, 0, -3, 5, 20_000]),
        users: (0..users).map(|_| standing(&mut dice)).collect(),
        acts: Vec::new(),
        faults: Vec::new(),
        crashes: Vec::new(),
        queue_crashes: Vec::new(),
    };
    let pace = dice.one_of(&[500, 5_000, ACTIVE_MS]);
    let is_lossy = dice.chance(40);
    let lags = dice.one_of(&[0, 0, 3_000, 100_000, LAG_MAX_MS]);
    for user in 0..plan.users.len() {
        if plan.users[user] == Standing::Stubborn {
            plan.acts.extend(duel(&mut dice, user));
            continue;
        }
        let many = dice.between(1, 6);
        for _ in 0..many {
            let act = act(&mut dice, user, pace, is_lossy, lags);
            plan.acts.push(act);
        }
    }
    plan.acts.sort_by_key(|act| act.at_ms);
    if dice.chance(60) {
        let many = dice.between(1, 3);
        plan.faults = (0..many).map(|_| fault(&mut dice, plan.users.len())).collect();
    }
    if dice.chance(60) {
        let many = dice.between(1, 4);
        plan.crashes = (0..many).map(|_| crash(&mut dice, plan.workers)).collect();
    }
    if dice.chance(20) {
        plan.queue_crashes.push((dice.between(0, ACTIVE_MS), dice.between(1, 5_000)));
    }
    plan
}

fn rules(dice: &mut Dice, mode: &'static str) -> Rules {
    let by_device = dice.chance(35);
    Rules {
        mode,
        limit: dice.one_of(&[1, 1, 2, 3]),
        strategy: if dice.chance(25) { "reject_newest" } else { "evict_oldest" },
        by_device,
        bucketed: dice.chance(25),
        session_lifetime: dice.one_of(&["30d", "30d", "60s"]),
    }
}

fn habits(dice: &mut Dice) -> Habits {
    Habits {
        listed_times: dice.one_of(&[Cut::Nanos, Cut::Millis, Cut::Seconds]),
        events_tell_login: dice.chance(75),
        refresh_replaces: dice.chance(70),
        refresh_restamps: dice.chance(25),
        ghosts_ms: dice.one_of(&[0, 0, 20_000, 400_000]),
        revoked_listed_ms: dice.one_of(&[0, 0, 2_000]),
        latency_ms: dice.one_of(&[1, 50, 400, 3_000]),
        refreshes_at_revoke: dice.one_of(&[0, 0, 1, 3]),
    }
}

fn standing(dice: &mut Dice) -> Standing {
    match dice.between(0, 9) {
        0 => Standing::Override(u32::try_from(dice.between(1, 3)).unwrap()),
        1 => Standing::Exempt,
        2 if dice.chance(50) => Standing::Stubborn,
        _ => Standing::Plain,
    }
}

fn act(dice: &mut Dice, user: usize, pace: u64, is_lossy: bool, lags: u64) -> Act {
    let at_ms = dice.between(0, pace);
    let which = usize::try_from(dice.between(0, 3)).unwrap();
    let lag_ms = if lags > 0 && dice.chance(40) { dice.between(1, lags) } else { 0 };
    let what = match dice.between(0, 9) {
        0 => What::Logout { which },
        1 => What::Refresh { which, lag_ms },
        2 => What::Use { which },
        _ => {
            let event = Event {
                delay_ms: dice.one_of(&[0, 10, 1_000, 30_000, 90_000]),
                copies: dice.one_of(&[1, 1, 1, 2, 3]),
                is_lost: is_lossy && dice.chance(50),
            };
            What::Login { device: dice.between(0, 5), lag_ms, time_known: !dice.chance(4), event }
        }
    };
    Act { at_ms, user, what }
}

/// Two devices, the clients of which give way to nobody.
fn duel(dice: &mut Dice, user: usize) -> [Act; 2] {
    let first = dice.between(0, ACTIVE_MS);
    let event = Event { delay_ms: 0, copies: 1, is_lost: false };
    [(first, 0), (first + dice.between(500, 9_000), 2)].map(|(at_ms, device)| {
        let what = What::Login { device, lag_ms: 0, time_known: true, event };
        Act { at_ms, user, what }
    })
}

fn fault(dice: &mut Dice, users: usize) -> Fault {
    let from_ms = dice.between(0, ACTIVE_MS);
    let longest = dice.one_of(&[2_000, 60_000, FAULT_MAX_MS]);
    let user = dice.chance(40).then(|| usize::try_from(dice.between(0, users as u64 - 1)).unwrap());
    let percent = dice.one_of(&[20, 60, 100]);
    Fault { from_ms, to_ms: from_ms + dice.between(1, longest), user, percent, kind: dice.one_of(&FaultKind::ALL) }
}

fn crash(dice: &mut Dice, workers: usize) -> Crash {
    Crash {
        worker: usize::try_from(dice.between(0, workers as u64 - 1)).unwrap(),
        effect: dice.one_of(&Effect::ALL),
        nth: u32::try_from(dice.between(1, 5)).unwrap(),
        side: dice.one_of(&[Side::Before, Side::After]),
        down_ms: dice.between(1, 20_000),
    }
}
