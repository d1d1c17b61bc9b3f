//! Stage 3
mod rate;
