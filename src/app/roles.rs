//! What a process does. With the embedded queue it does everything.

use std::fmt;

/// The roles of one process; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Takes webhook requests.
    pub webhook: bool,
    /// Works on messages.
    pub worker: bool,
    /// Keeps ledger and dead letters.
    pub control: bool,
}

impl Roles {
    pub const ALL: Self = Self { webhook: true, worker: true, control: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.webhook, "webhook"), (self.worker, "worker"), (self.control, "control")];
        let names: Vec<_> = names.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        f.write_str(&names.join(","))
    }
}
