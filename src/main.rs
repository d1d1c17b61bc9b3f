//! Runs the command, prints the error chain once, chooses the exit code.

use std::process::ExitCode;

use soloist::cli;

/// Requests wait for the disk with what they hold, which the system's allocator makes dear: a tenth of their time. It asks for
/// no huge pages: an open stream touches half of what it has asked for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run().unwrap_or_else(|error| cli::failed(&error))
}
