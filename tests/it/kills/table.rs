//! What came of every kill, as a table that `tests/run` shows.

use crate::support::report;

/// Kills at one moment.
#[derive(Clone)]
pub(super) struct Row {
    moment: &'static str,
    pub(super) kills: usize,
    /// Logins whose webhook was answered 202.
    pub(super) accepted: usize,
    pub(super) settled: usize,
    /// Users who are left with more than one session.
    pub(super) lost: usize,
    /// Sessions that should have stayed, and users without any.
    pub(super) wrong: usize,
    /// Dead letters.
    pub(super) dead: usize,
}

impl Row {
    pub(super) fn new(moment: &'static str) -> Self {
        Self { moment, kills: 0, accepted: 0, settled: 0, lost: 0, wrong: 0, dead: 0 }
    }
}

/// Shows the table, then fails if anything was lost or anybody was logged out wrongly.
pub(super) fn report_and_judge(title: &str, rows: &[Row]) {
    let mut table = report::table(["killed", "kills", "accepted", "settled", "lost", "wrong", "dead letters"]);
    for row in rows {
        let counts = [row.kills, row.accepted, row.settled, row.lost, row.wrong].map(|count| count.to_string());
        table.add_row([vec![row.moment.to_owned()], counts.to_vec(), vec![row.dead.to_string()]].concat());
    }
    let kills: usize = rows.iter().map(|row| row.kills).sum();
    report::add("kills", &format!("{title}, {kills} times:\n{table}"));
    for row in rows {
        assert!(row.kills > 0 && row.accepted > 0, "{}: nothing happened", row.moment);
        assert_eq!((row.lost, row.wrong, row.dead), (0, 0, 0), "lost, wrong, dead: {}, {}", title, row.moment);
    }
}
