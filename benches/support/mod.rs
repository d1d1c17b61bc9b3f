//! What the benchmarks share: alternating runs, their spread, and the verdict over a goal.

pub(crate) mod bare;
pub(crate) mod bare_ledger;
pub(crate) mod broker;
pub(crate) mod child;
pub(crate) mod decisions;
pub(crate) mod disk;
pub(crate) mod enforcement;
pub(crate) mod events;
pub(crate) mod load;
pub(crate) mod rabbit;
pub(crate) mod server;
pub(crate) mod session_api;
pub(crate) mod tabs;
pub(crate) mod verdicts;
pub(crate) mod wire;

use std::fmt;
use std::path::PathBuf;

use tempfile::TempDir;

/// How many times ours and the baseline are measured, in turn.
pub(crate) const RUNS: usize = 7;

/// `cargo bench` passes `--bench`; without it (`cargo test --benches`) a benchmark has nothing to prove.
pub(crate) fn is_wanted() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// A folder that goes away with the run, on the disk that holds the build: durability costs nothing in memory.
pub(crate) fn scratch() -> anyhow::Result<TempDir> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&folder)?;
    Ok(TempDir::with_prefix_in("bench-", folder)?)
}

/// The median of several runs and how far they lie apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }

    /// Each of ours over the baseline that was measured beside it.
    pub(crate) fn of_ratios(ours: &[f64], baseline: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours / baseline).collect();
        Self::of(&ratios)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.median.abs() {
            large if large >= 100.0 => 0,
            middle if middle >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

/// What a measurement is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One line of the verdict: a goal counts as missed only if every single run missed it.
pub(crate) fn verdict(what: &str, unit: &str, measured: Spread, goal: Goal) -> String {
    let (sign, limit, median_meets, best_meets) = match goal {
        Goal::AtLeast(limit) => ("≥", limit, measured.median >= limit, measured.max >= limit),
        Goal::AtMost(limit) => ("≤", limit, measured.median <= limit, measured.min <= limit),
    };
    let word = match (median_meets, best_meets) {
        (true, _) => "met",
        (false, true) => "met by some runs",
        (false, false) => "MISSED",
    };
    format!("{what}: {measured}{unit}, goal {sign} {limit}{unit}: {word}")
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a list's length is one of its places"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
