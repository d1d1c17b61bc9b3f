//! Runs the command, prints the error chain once, chooses the exit code.

fn main() {}
