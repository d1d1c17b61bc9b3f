//! What `tests/run` prints at its end, also when every test passes: figures and tables.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// Shows `text` now, and adds it to the report of this name: a file in the folder that `tests/run` names. One report's
/// texts stand in the order they came.
pub(crate) fn add(name: &str, text: &str) {
    println!("{text}");
    let Some(folder) = std::env::var_os("SOLOIST_TEST_REPORTS").map(PathBuf::from) else { return };
    let file = OpenOptions::new().create(true).append(true).open(folder.join(name));
    file.and_then(|mut file| writeln!(file, "{text}")).unwrap();
}

/// A table with this header, as it reads in a text.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// Says that a test does not run, and why. It passes, so `tests/run` counts it from here.
pub(crate) fn skipped(test: &str, why: &str) {
    add("skipped", &format!("{test}: skipped: {why}"));
}
