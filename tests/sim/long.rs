//! The command: reads what is asked for, runs it on every core, prints one line.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use crate::lab::{Small, explained, explore, failures, hunt, run_all};

const USAGE: &str = "usage: cargo test --release --test soloist-sim -- [--seeds N] [--first N] | --seed N | --mutants [N] | --small LOGINS";
/// Without arguments: enough to see that it works.
const SEEDS: u64 = 50;
/// Progress is shown this often.
const SHOWN_EVERY: u64 = 1_000;

enum Wanted {
    Seeds { first: u64, many: u64 },
    Mutants { most: u64 },
    Small { logins: usize },
}

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match wanted(&args) {
        Some(Wanted::Seeds { first, many }) => seeds(first, many),
        Some(Wanted::Mutants { most }) => mutants(most),
        Some(Wanted::Small { logins }) => small(logins),
        // A filter of names, or an option of the test harness: it is meant for the other tests.
        None => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
    }
}

fn wanted(args: &[String]) -> Option<Wanted> {
    let (mut first, mut many) = (0, SEEDS);
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|number| number.parse::<u64>().ok());
        match (word, number) {
            ("--seeds", Some(number)) => many = number,
            ("--first", Some(number)) => first = number,
            ("--seed", Some(number)) => (first, many) = (number, 1),
            ("--mutants", most) => return Some(Wanted::Mutants { most: most.unwrap_or(3_000) }),
            ("--small", Some(number)) => return Some(Wanted::Small { logins: usize::try_from(number).ok()? }),
            _ => return None,
        }
    }
    Some(Wanted::Seeds { first, many })
}

#[expect(clippy::disallowed_methods, reason = "the real time that a long run takes")]
fn seeds(first: u64, many: u64) -> ExitCode {
    let began = Instant::now();
    for (case, wrong) in failures() {
        println!("{case}: {wrong:?}");
    }
    let sum = run_all(first..first + many, |done, failed| {
        if let Some((seed, violations)) = failed {
            println!("seed {seed} fails:");
            for violation in violations {
                println!("  {}: {}", violation.property, violation.text);
            }
        }
        if done.is_multiple_of(SHOWN_EVERY) {
            eprint!("\r{done} of {many} seeds, {:.0} s", began.elapsed().as_secs_f64());
            std::io::stderr().flush().ok();
        }
    });
    if many >= SHOWN_EVERY {
        eprintln!();
    }
    println!("simulation: {}; {:.0} s", sum.counts, began.elapsed().as_secs_f64());
    for (seed, violation) in &sum.failures {
        println!("making the plan of seed {seed} smaller");
        println!("{}", explained(*seed, violation));
    }
    if sum.counts.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every order of this many logins, with one worker or two that may crash once.
fn small(logins: usize) -> ExitCode {
    let mut is_wrong = false;
    for (workers, limit, ties) in [(1, 1, false), (1, 2, false), (2, 1, false), (2, 2, false), (2, 1, true)] {
        let small = Small { logins, workers, limit, ties };
        match explore(small) {
            Ok(explored) => println!("{small:?}: {explored:?}"),
            Err(wrong) => {
                is_wrong = true;
                println!("{wrong}");
            }
        }
    }
    if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn mutants(most: u64) -> ExitCode {
    let (table, alive) = hunt(most);
    println!("{table}");
    if alive.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
