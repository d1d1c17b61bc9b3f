//! What came of every damage, as a table that `tests/run` shows.

use super::bytes::Damage;
use crate::support::report;

pub(super) struct Row {
    pub(super) damage: Damage,
    pub(super) accepted: usize,
    pub(super) settled: usize,
    /// Sessions that should have stayed, and users without any.
    pub(super) wrong: usize,
    /// Dead letters.
    pub(super) dead: usize,
    /// It is in the log, and the damaged file is kept.
    pub(super) is_reported: bool,
}

pub(super) struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Shows the table, then fails if more was lost than was in the damaged bytes, or in silence.
    pub(super) fn report_and_judge(self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["damage", "accepted", "settled", "in the damaged bytes", "wrong", "told and set aside"]);
        for row in &self.rows {
            let told = match (row.is_reported, row.damage.leaves_a_trace) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no: it looks like an earlier end",
            };
            let counts = [row.accepted, row.settled, row.accepted - row.settled, row.wrong].map(|n| n.to_string());
            table.add_row([vec![row.damage.name.to_owned()], counts.to_vec(), vec![told.to_owned()]].concat());
        }
        report::add("damage", &format!("{}:\n{table}", self.title));
        for row in &self.rows {
            let name = row.damage.name;
            assert!(row.accepted - row.settled <= row.damage.lost_max, "{name}: {} settled", row.settled);
            assert_eq!(row.wrong, 0, "{name}");
            assert!(row.dead <= row.accepted - row.settled, "{name}: {} dead letters", row.dead);
            assert_eq!(row.is_reported, row.damage.leaves_a_trace, "{name}: whether it is told");
        }
    }
}
