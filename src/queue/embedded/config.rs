//! What the embedded queue may take.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an embedded queue is opened with.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The folder of `queue.db` and its lock.
    pub data_dir: PathBuf,
    /// How many messages may wait, delayed and dead ones included.
    pub messages_max: u64,
    /// How many bytes of disk they may take; `None` for no limit but the number.
    pub bytes_max: Option<u64>,
    /// How many tenants share that; each has an equal part.
    pub tenants: usize,
    /// How many events one transaction takes.
    pub batch_max: usize,
    pub dedupe_ids_max: usize,
    pub dedupe_window: Duration,
    /// Set a damaged file aside and carry its readable rows over; otherwise it is an error.
    pub repair: bool,
}

impl EmbeddedConfig {
    pub fn in_dir(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_path_buf(),
            messages_max: 10_000_000,
            bytes_max: None,
            tenants: 1,
            batch_max: 256,
            dedupe_ids_max: 1_000_000,
            dedupe_window: Duration::from_hours(24),
            repair: true,
        }
    }
}
