//! `[sweep]`: how often every known user is looked at.

use std::time::Duration;

use super::reader::Reader;

/// `[sweep]`: how often every known user is looked at.
#[derive(Clone, Debug)]
pub struct SweepConfig {
    /// `None`: nobody is swept.
    pub interval: Option<Duration>,
}

pub(super) fn read(reader: &mut Reader) -> SweepConfig {
    SweepConfig { interval: reader.take("sweep.interval") }
}
