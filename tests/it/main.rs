//! The integration tests: one binary, one module a subject.

#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod sandbox_faults;
