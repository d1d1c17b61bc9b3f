//! Runs the command, prints the error chain once, chooses the exit code.

use std::process::ExitCode;

use soloist::cli;

fn main() -> ExitCode {
    cli::run().unwrap_or_else(|error| cli::failed(&error))
}
