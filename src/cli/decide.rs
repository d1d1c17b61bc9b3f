//! `soloist decide`: the rule offline, one JSON object a line in, one a line out.

use std::io::{self, BufRead, BufReader, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::output;
use crate::app;

/// The longest line that is read; a row has about 300 bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

const EXAMPLES: &str = r#"Example:
  echo '{"policy": {"limit": 1}, "sessions": [
    {"AccessToken": "a", "LoginDate": "2026-01-01T10:00:00Z"},
    {"AccessToken": "b", "LoginDate": "2026-01-01T11:00:00Z"}]}' | tr -d '\n' | soloist decide

Fields of a line: policy (the keys of [policy]), sessions (rows as LoginRadius lists them), and where wanted
complete, pinned, ignored (session ids), tenant, uid. A line that cannot be read gives {"error": "…"}."#;

/// Decide offline which sessions would stay: JSON lines in, JSON lines out
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DecideArgs {}

/// Blocks: nothing else runs beside it.
pub(super) fn run(DecideArgs {}: DecideArgs) -> anyhow::Result<ExitCode> {
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = output::Lines::new();
    let mut all_read = true;
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.context("cannot read standard input")? == 0 {
            break;
        }
        let is_whole = line.last() == Some(&b'\n') || (line.len() as u64) < LINE_BYTES_MAX;
        if !is_whole {
            input.skip_until(b'\n').context("cannot read standard input")?;
        }
        if is_whole && line.trim_ascii().is_empty() {
            continue;
        }
        let decided = if is_whole { decide(&line) } else { Err(format!("longer than {LINE_BYTES_MAX} bytes")) };
        all_read &= decided.is_ok();
        output.line(decided.unwrap_or_else(|error| json!({ "error": error }).to_string()))?;
        // Whoever waits for an answer before asking on gets it; a file goes through in large pieces.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()?;
    Ok(if all_read { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn decide(line: &[u8]) -> Result<String, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8 (byte {})", error.valid_up_to()))?;
    let decision = app::decide_line(line)?;
    serde_json::to_string(&decision).map_err(|error| error.to_string())
}
