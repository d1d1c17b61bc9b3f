//! Runs the command, prints the error chain once, chooses the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use soloist::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when this fails, too.
            writeln!(std::io::stderr(), "soloist: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}
