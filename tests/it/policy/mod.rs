//! The rule: its properties, against a naive reading of its formulas, and exhaustively for small cases.

mod cases;
mod exhaustive;
mod fixtures;
mod properties;
mod reference;
