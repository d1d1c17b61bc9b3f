//! The one place that writes to the terminal: lines, tables, JSON. Colours only where a person looks.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use owo_colors::{OwoColorize as _, Stream};
use serde_json::Value;

/// As wide as a table is where no terminal says how wide it is.
const WIDTH: u16 = 80;
/// A terminal that says it is narrower does not know how wide it is.
const WIDTH_MIN: u16 = 40;

/// Whoever read our output has gone, as `head` does. Not a failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct PipeClosed;

/// Writes one line to standard output.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// Tells a broken pipe from a real failure to write.
fn written(result: io::Result<()>) -> anyhow::Result<()> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => PipeClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    })
}

/// Many lines to standard output, gathered until they are flushed.
pub(super) struct Lines(BufWriter<StdoutLock<'static>>);

impl Lines {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    pub(super) fn line(&mut self, text: impl Display) -> anyhow::Result<()> {
        written(writeln!(self.0, "{text}"))
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        written(self.0.flush())
    }
}

/// Bytes that are gathered before they are written.
const GATHERED_MAX: usize = 64 << 10;

/// A line among many, for where a lock cannot be held; [`flush`] writes the last ones.
pub(super) fn gathered(lines: &mut Vec<u8>, line: &str) -> anyhow::Result<()> {
    lines.extend_from_slice(line.as_bytes());
    lines.push(b'\n');
    if lines.len() < GATHERED_MAX { Ok(()) } else { flush(lines) }
}

/// Writes what was gathered.
pub(super) fn flush(lines: &mut Vec<u8>) -> anyhow::Result<()> {
    let result = io::stdout().lock().write_all(lines);
    lines.clear();
    written(result)
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

/// Asks a person. `None`: there is nobody to ask.
pub(super) fn confirmed(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    write!(io::stderr().lock(), "{question} [y/N] ").ok()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// What a word in a table tells at a glance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Bad,
    Plain,
}

/// A coloured word, where colours are wanted.
pub(super) fn painted(word: &str, tone: Tone) -> String {
    let out = Stream::Stdout;
    match tone {
        Tone::Good => word.if_supports_color(out, |word| word.green()).to_string(),
        Tone::Warning => word.if_supports_color(out, |word| word.yellow()).to_string(),
        Tone::Bad => word.if_supports_color(out, |word| word.red()).to_string(),
        Tone::Plain => word.to_owned(),
    }
}

/// Text from outside without what could steer a terminal or fake a line: control characters and changes of direction.
pub(super) fn harmless(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A coloured cell, where colours are wanted.
pub(super) fn cell(text: impl AsRef<str>, tone: Tone) -> Cell {
    let cell = Cell::new(harmless(text.as_ref()));
    // The table itself knows terminals, but not NO_COLOR.
    let colours = painted("x", Tone::Bad) != "x";
    match tone {
        Tone::Good if colours => cell.fg(Color::Green),
        Tone::Warning if colours => cell.fg(Color::Yellow),
        Tone::Bad if colours => cell.fg(Color::Red),
        _ => cell,
    }
}

/// A table with one line under its header, no wider than the terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    let under = LineStyle::none().fill('─').junction(' ');
    table.load_style(TableStyle::new().header_separator(under));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    // Some terminals without a size report none.
    if !table.is_tty() || table.width().is_none_or(|width| width < WIDTH_MIN) {
        table.set_width(WIDTH);
    }
    table.set_header(header);
    table
}

/// Writes a table. Nothing is left at the ends of its lines, so that it can be searched and compared.
pub(super) fn show(table: &Table) -> anyhow::Result<()> {
    line(table.trim_fmt())
}

/// Keeps these columns from being broken into several lines.
pub(super) fn keep_whole(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// Keeps a column from becoming narrower than this, the space around its text included.
pub(super) fn keep_at_least(table: &mut Table, column: usize, width: u16) {
    if let Some(column) = table.column_mut(column) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
    }
}

/// A text of a JSON object, empty where there is none.
pub(super) fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number of a JSON object, 0 where there is none.
pub(super) fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// A list of a JSON object, empty where there is none.
pub(super) fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A time for people: UTC, whole seconds. What is no time stays as it is.
pub(super) fn time(raw: &str) -> String {
    raw.parse::<jiff::Timestamp>()
        .map_or_else(|_| raw.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// `1 session`, `2 sessions`.
pub(super) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_into_eighty_columns() {
        let mut table = table(["what", "long"]);
        table.add_row(["a", &"word ".repeat(60)]);
        assert!(table.to_string().lines().all(|line| line.chars().count() <= 80));
        assert!(table.to_string().lines().count() > 3);
    }

    #[test]
    fn times_and_counts_are_for_people() {
        assert_eq!(time("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05");
        assert_eq!((time(""), time("never")), (String::new(), "never".to_owned()));
        assert_eq!((counted(1, "session"), counted(0, "session")), ("1 session".to_owned(), "0 sessions".to_owned()));
    }
}
