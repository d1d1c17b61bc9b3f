//! The laboratory: real workers on the real queue, in a world that is made from a seed, on a clock that jumps from event
//! to event. What is made of tests and of long runs is outside of it.
//!
//! | file | what |
//! |---|---|
//! | `plan`, `generate` | what happens in a run, as data, made from a seed |
//! | `world`, `rule`, `judge` | the provider and its users as they are, and whether what was done to them is right |
//! | `brakes` | the process that decides, with its budget |
//! | `hands`, `processes` | the ports of a worker that may die at each effect, and what dies and comes again |
//! | `paused`, `dice` | time that takes none, chance that repeats itself |
//! | `run`, `crew`, `counts` | one run, many on every core, and what came of them |
//! | `cases` | plans by hand that once failed |
//! | `exhaustive`, `alone` | every order of the effects of small cases |
//! | `shrink` | the smallest plan that fails in the same way |
//! | `mutants`, `planted` | faults that are planted to see that they are found |

mod alone;
mod brakes;
mod cases;
mod counts;
mod crew;
mod dice;
mod exhaustive;
mod generate;
mod hands;
mod judge;
mod mutants;
#[path = "../../../../benches/support/bare_ledger.rs"]
mod no_ledger;
mod paused;
mod plan;
mod planted;
mod processes;
mod rule;
mod run;
mod shrink;
mod world;

pub(crate) use self::cases::failures;
pub(crate) use self::crew::{explained, hunt, run_all};
pub(crate) use self::exhaustive::{Small, explore};
