//! Many runs, on every core.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use comfy_table::Table;

use super::counts::{Counts, Violation};
use super::generate;
use super::mutants::Mutant;
use super::run::run;
use super::shrink::shrunk;

/// Seeds that are explained; the others that fail are counted.
const FAILURES_MAX: usize = 3;

/// What came of a range of seeds, and the first that failed.
pub(crate) struct Sum {
    pub(crate) counts: Counts,
    pub(crate) failures: Vec<(u64, Violation)>,
}

/// Runs every seed; `progress` is told how many are done, and at once of each that fails and all that did not hold.
pub(crate) fn run_all(seeds: Range<u64>, progress: impl Fn(u64, Option<(u64, &[Violation])>) + Sync) -> Sum {
    let (next, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let sum = Mutex::new(Sum { counts: Counts::default(), failures: Vec::new() });
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run(&generate::plan(seed), None);
            let failed = (!outcome.violations.is_empty()).then_some((seed, &*outcome.violations));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, failed);
            let mut sum = sum.lock().unwrap();
            sum.counts += outcome.counts;
            let failure = outcome.violations.into_iter().next().filter(|_| sum.failures.len() < FAILURES_MAX);
            sum.failures.extend(failure.map(|violation| (seed, violation)));
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A failing seed: what did not hold, how to see it again, and the smallest plan that fails in the same way.
pub(crate) fn explained(seed: u64, violation: &Violation) -> String {
    let small = shrunk(&generate::plan(seed), violation.property, None);
    let mut text = format!("seed {seed}: {}: {}\n", violation.property, violation.text);
    text.push_str("again: cargo test --test soloist-sim -- --seed ");
    writeln!(text, "{seed}\nthe smallest plan that fails so:\n{small}").unwrap();
    for Violation { property, text: what } in run(&small, None).violations {
        writeln!(text, "  then {property}: {what}").unwrap();
    }
    text
}

/// Runs seeds from 0 on for each planted fault until one finds it: the table, and those that none of the first `most`
/// seeds finds.
pub(crate) fn hunt(most: u64) -> (String, Vec<Mutant>) {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(&mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let killer = (0..most).find_map(|seed| {
                let violations = run(&generate::plan(seed), Some(mutant)).violations;
                violations.into_iter().next().map(|violation| (seed, violation.property))
            });
            found.lock().unwrap().push((mutant, killer));
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(mutant, _)| *mutant);
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["planted fault: the program", "seeds until found", "by property"]);
    for (mutant, killer) in &found {
        let (seeds, property) =
            killer.map_or((format!("not in {most}"), "-"), |(seed, by)| ((seed + 1).to_string(), by));
        table.add_row([mutant.in_words(), &seeds, property]);
    }
    let alive = found.iter().filter(|(_, killer)| killer.is_none()).map(|(mutant, _)| *mutant).collect();
    (table.to_string(), alive)
}
