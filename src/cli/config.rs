//! `soloist config`: the effective configuration, and where each value comes from.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Source, output};

/// Most settings are shorter, so that what follows stands in one column.
const SETTING_WIDTH: usize = 50;

/// Show every option with its value and where that comes from; secrets are hidden
#[derive(Args)]
#[command(after_help = "Example:\n  soloist config --config soloist.toml --json")]
pub(super) struct ConfigArgs {
    /// One JSON object an option
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConfigArgs, source: &Source) -> anyhow::Result<ExitCode> {
    let config = source.read()?;
    for option in config.effective() {
        let origin = option.origin.to_string();
        if args.json {
            output::line(json!({ "option": option.path, "value": option.value, "from": origin }))?;
        } else {
            let setting = format!("{} = {}", option.path, option.value);
            output::line(format_args!("{setting:<SETTING_WIDTH$} # {origin}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
