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

/// Shows the table, then fails if more was lost than was in the damaged bytes, or in silence.
pub(super) fn report_and_judge(title: &str, rows: &[Row]) {
    let mut table =
        report::table(["damage", "accepted", "settled", "in the damaged bytes", "wrong", "told and set aside"]);
    for row in rows {
        let told = match (row.is_reported, row.damage.leaves_a_trace) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "no: it looks like an earlier end",
        };
        let counts = [row.accepted, row.settled, row.accepted - row.settled, row.wrong].map(|n| n.to_string());
        table.add_row([vec![row.damage.name.to_owned()], counts.to_vec(), vec![told.to_owned()]].concat());
    }
    report::add("damage", &format!("{title}:\n{table}"));
    for row in rows {
        let name = row.damage.name;
        assert!(row.accepted - row.settled <= row.damage.lost_max, "{name}: {} settled", row.settled);
        assert_eq!(row.wrong, 0, "{name}");
        assert!(row.dead <= row.accepted - row.settled, "{name}: {} dead letters", row.dead);
        assert_eq!(row.is_reported, row.damage.leaves_a_trace, "{name}: whether it is told");
    }
}
