//! What came of every fault, as one table: `cargo test --test it rabbitmq::faults -- --nocapture` prints it at its end,
//! and so does `tests/run`.

use std::sync::Mutex;
use std::time::Duration;

use super::faults;
use crate::support::report;

/// What was counted while one fault happened.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) fault: &'static str,
    pub(super) accepted: usize,
    /// Of these, by the journal: the broker did not confirm.
    pub(super) in_journal: usize,
    pub(super) settled: usize,
    pub(super) lost: usize,
    /// Settlements of accepted events beyond the first of each, as the workers log them.
    pub(super) duplicated: usize,
    /// Between two 202s.
    pub(super) longest_pause: Duration,
    /// From a login to the end of every older session of its user.
    pub(super) longest_settling: Duration,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

impl Row {
    /// Prints the row and, when it is the last that is expected, the table of all faults.
    pub(super) fn record(self) {
        self.show();
        let mut rows = ROWS.lock().unwrap();
        rows.push(self);
        if rows.len() == faults::ALL {
            report::add("rabbitmq-faults", &format!("Every fault:\n{}", rendered(&rows)));
        }
    }

    pub(super) fn show(&self) {
        println!("{}", rendered(std::slice::from_ref(self)));
    }
}

fn rendered(rows: &[Row]) -> String {
    let mut table = report::table([
        "fault",
        "accepted",
        "by journal",
        "settled",
        "lost",
        "duplicated",
        "longest pause",
        "longest login to settled",
    ]);
    for row in rows {
        let counts = [row.accepted, row.in_journal, row.settled, row.lost, row.duplicated].map(|n| n.to_string());
        let times = [row.longest_pause, row.longest_settling].map(|time| format!("{:.2} s", time.as_secs_f64()));
        table.add_row([vec![row.fault.to_owned()], counts.to_vec(), times.to_vec()].concat());
    }
    table.to_string()
}
