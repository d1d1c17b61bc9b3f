//! The simulation: years of bad luck in a minute, and the promises that hold all the same.

mod lab;

use self::lab::{Small, explained, explore, failures, hunt, run_all};
use crate::support::report;

/// Seeds that every fault is found in, many times over.
const HUNT_MAX: u64 = 3_000;

/// Logins, workers, limit, and whether all logins are at one instant.
const SMALL: [(usize, usize, usize, bool); 4] = [(4, 1, 1, false), (4, 1, 2, false), (3, 2, 1, false), (3, 2, 2, true)];

/// Seeds of each run. `soloist-sim` runs any number of them, fast.
const SEEDS: u64 = 2_000;

#[test]
fn every_promise_holds_whatever_races_lags_fails_and_dies() {
    let sum = run_all(0..SEEDS, |_, _| ());
    report::add("simulation", &format!("simulation: {}", sum.counts));
    let failures: String = sum.failures.iter().map(|(seed, violation)| explained(*seed, violation)).collect();
    assert_eq!(sum.counts.violations, 0, "{failures}");
}

#[test]
fn every_order_of_the_effects_of_small_cases_leaves_the_newest() {
    let mut lines = Vec::new();
    for (logins, workers, limit, ties) in SMALL {
        let small = Small { logins, workers, limit, ties };
        let explored = explore(small).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(explored.ends > 0, "{small:?} has no end");
        lines.push(format!(
            "{logins} logins, {workers} workers, limit {limit}, ties {ties}: {} states",
            explored.states
        ));
    }
    report::add("simulation-small", &format!("every order of small cases, one crash in each:\n{}", lines.join("\n")));
}

#[test]
fn what_once_went_wrong_does_so_no_more() {
    let failed: Vec<String> = failures().iter().map(|(case, wrong)| format!("{case}: {wrong:?}")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_planted_fault_is_found() {
    let (table, alive) = hunt(HUNT_MAX);
    report::add("simulation-mutants", &format!("planted faults, all to be found:\n{table}"));
    assert_eq!(alive, [], "not found by {HUNT_MAX} seeds:\n{table}");
}
