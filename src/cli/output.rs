//! The one place that writes to the terminal: lines, tables, JSON. Colours only where a person looks.

use std::fmt::Display;
use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use owo_colors::{OwoColorize as _, Stream};

/// Whoever read our output has gone, as `head` does. Not a failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct PipeClosed;

/// Writes one line to standard output.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// Tells a broken pipe from a real failure to write.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => PipeClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    })
}

/// Writes a note for people to standard error, so that standard output keeps what was asked for.
pub(super) fn note(text: impl Display) {
    // There is nowhere left to report that standard error is closed.
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// The whole chain of a failure, on standard error.
pub(super) fn error(error: &anyhow::Error) {
    note(format_args!("{} {error:#}", "error:".if_supports_color(Stream::Stderr, |text| text.red())));
}

/// A table without lines between its rows, at most as wide as the terminal, or as 80 columns where there is none.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_width(80);
    }
    table.set_header(header);
    table
}
