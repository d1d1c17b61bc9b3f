//! The rule: its properties, against a naive reading of its formulas, and exhaustively for small cases.

// Helpers count as tests too: they may unwrap and index.
#![cfg(test)]

mod cases;
mod exhaustive;
mod fixtures;
mod properties;
mod reference;
