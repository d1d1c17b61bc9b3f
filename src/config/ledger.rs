//! `[ledger]`: the evidence that is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;

#[derive(Clone, Debug)]
pub struct LedgerConfig {
    pub decisions_max: u64,
    /// Of the whole file.
    pub bytes_max: u64,
    /// How long a decision is kept.
    pub retention: Duration,
    /// What the chain of records is sealed with; `None` for a file in the data folder.
    pub key_file: Option<PathBuf>,
    /// Whether IP addresses are recorded.
    pub keep_ip: bool,
    /// For workers that send their records to the control process.
    pub required: bool,
}

pub(super) fn read(reader: &mut Reader) -> LedgerConfig {
    LedgerConfig {
        decisions_max: reader.take("ledger.decisions_max"),
        bytes_max: reader.take("ledger.bytes_max"),
        retention: reader.take("ledger.retention"),
        key_file: reader.take_optional("ledger.key_file"),
        keep_ip: reader.take("ledger.keep_ip"),
        required: reader.take("ledger.required"),
    }
}
