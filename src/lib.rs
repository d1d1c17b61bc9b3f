//! Soloist keeps each account of a LoginRadius customer on as many devices as its plan allows.

pub mod model;
pub mod provider;
pub mod sandbox;
