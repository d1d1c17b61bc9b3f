//! How long the disk takes to make something durable, beside what is measured.

use std::io::Write as _;
use std::path::Path;

use tokio::time::Instant;

use super::quantile;

/// Writes with which the disk is measured between two runs, and how large one is: about what a commit writes.
const PROBES: usize = 30;
const PROBE_BYTES: usize = 64 * 1024;

/// What the disk under a folder took, in milliseconds.
#[derive(Default)]
pub(crate) struct Fsyncs(Vec<f64>);

impl Fsyncs {
    pub(crate) fn probe(&mut self, folder: &Path) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(folder.join("probe"))?;
        let block = vec![0x5a; PROBE_BYTES];
        for _ in 0..PROBES {
            file.write_all(&block)?;
            let from = Instant::now();
            file.sync_data()?;
            self.0.push(from.elapsed().as_secs_f64() * 1_000.0);
        }
        Ok(())
    }

    pub(crate) fn report(mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        let [p50, p99] = [0.5, 0.99].map(|share| quantile(&self.0, share));
        format!("fsync of {} KiB appended to a file there: p50 {p50:.2} ms, p99 {p99:.2} ms", PROBE_BYTES / 1024)
    }
}
