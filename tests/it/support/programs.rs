//! Interpreters that some tests need, and that a machine may lack.

use std::process::Stdio;

use tokio::process::Command;

use super::{report, soon};

/// Major and minor.
pub(crate) type Version = [u32; 2];

/// Whether a program of this version or a newer one is here. Where it is not, the test says that it is skipped.
pub(crate) async fn is_here(test: &str, program: &str, at_least: Version) -> bool {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let said = soon(program, asked).await.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let is_here = said.and_then(|said| version(&said)).is_some_and(|version| version >= at_least);
    if !is_here {
        let [major, minor] = at_least;
        report::skipped(test, &format!("there is no {program} of version {major}.{minor} or newer"));
    }
    is_here
}

/// Of a line such as `v20.20.2` or `Python 3.11.7`.
fn version(said: &str) -> Option<Version> {
    let mut numbers = said.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    Some([numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?])
}
