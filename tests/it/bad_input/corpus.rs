//! Every kept input, and mutations of each, through what the fuzzer calls.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::targets::{Check, TARGETS};

/// Mutations that are tried of a target's inputs: what takes a second or two.
const MUTATIONS: u32 = 2000;
/// A configuration is a file each time.
const MUTATED_FILES: u32 = 500;

fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fuzz").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Says which input it was when a check panics.
fn checked(check: Check, input: &[u8]) -> Result<(), TestCaseError> {
    let outcome = std::panic::catch_unwind(|| check(input));
    outcome.map_err(|_panic| {
        TestCaseError::fail(format!("a promise is broken (see above) by {:?}", String::from_utf8_lossy(input)))
    })
}

#[test]
fn the_fuzzer_has_a_program_for_every_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter().map(|program| program["name"].as_str().unwrap());
    assert_eq!(programs.collect::<Vec<_>>(), TARGETS.map(|(name, _)| name));
    for (name, _) in TARGETS {
        let program = std::fs::read_to_string(folder.join(format!("targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("soloist_fuzz::{name}::check(input)")), "{name}");
    }
}

#[test]
fn every_kept_input_is_taken_as_promised() {
    for (target, check) in TARGETS {
        let kept = kept(target);
        assert!(kept.len() >= 20, "{target} has only {} inputs", kept.len());
        for (path, input) in kept {
            checked(check, &input).unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
        }
    }
}

/// One change of an input, at a place from 0 to 1.
#[derive(Clone, Debug)]
enum Change {
    Flip { place: f64, bit: u8 },
    Cut { from: f64, to: f64 },
    Repeat { from: f64, to: f64 },
    Insert { place: f64, what: &'static [u8] },
    Splice { place: f64, other: prop::sample::Index },
}

/// What readers stumble over.
const TROUBLE: [&[u8]; 20] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    "\u{2028}".as_bytes(),
    b"%2f",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0.0..1.0, 0..8_u8).prop_map(|(place, bit)| Change::Flip { place, bit }),
        (0.0..1.0, 0.0..1.0).prop_map(|(from, to)| Change::Cut { from, to }),
        (0.0..1.0, 0.0..1.0).prop_map(|(from, to)| Change::Repeat { from, to }),
        (0.0..1.0, prop::sample::select(&TROUBLE[..])).prop_map(|(place, what)| Change::Insert { place, what }),
        (0.0..1.0, any::<prop::sample::Index>()).prop_map(|(place, other)| Change::Splice { place, other }),
    ];
    prop::collection::vec(change, 1..4)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place")]
fn at(place: f64, length: usize) -> usize {
    ((place * length as f64) as usize).min(length)
}

fn changed(input: &[u8], change: &Change, all: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut input = input.to_vec();
    let length = input.len();
    let range = |from: f64, to: f64| at(from.min(to), length)..at(from.max(to), length);
    match *change {
        Change::Flip { place, bit } => {
            if let Some(byte) = input.get_mut(at(place, length)) {
                *byte ^= 1 << bit;
            }
        }
        Change::Cut { from, to } => drop(input.drain(range(from, to))),
        Change::Repeat { from, to } => {
            let again = input[range(from, to)].to_vec();
            let end = range(from, to).end;
            input.splice(end..end, again);
        }
        Change::Insert { place, what } => {
            drop(input.splice(at(place, length)..at(place, length), what.iter().copied()));
        }
        Change::Splice { place, ref other } => {
            let (_, other) = other.get(all);
            input.truncate(at(place, length));
            input.extend_from_slice(&other[at(place, other.len())..]);
        }
    }
    input
}

fn mutations_are_taken_as_promised(target: &str, cases: u32) {
    let check = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let kept = kept(target);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mutation = (any::<prop::sample::Index>(), changes());
    let run = TestRunner::new(config).run(&mutation, |(which, changes)| {
        let (_, input) = which.get(&kept);
        let input = changes.iter().fold(input.clone(), |input, change| changed(&input, change, &kept));
        checked(check, &input)
    });
    run.unwrap_or_else(|broken| panic!("{target}: {broken}"));
}

#[test]
fn mutated_webhook_requests_are_answered_as_promised() {
    mutations_are_taken_as_promised("webhook", MUTATIONS);
}

#[test]
fn mutated_listings_are_read_as_promised() {
    mutations_are_taken_as_promised("listing", MUTATIONS);
}

#[test]
fn mutated_messages_are_read_as_promised() {
    mutations_are_taken_as_promised("message", MUTATIONS);
}

#[test]
fn mutated_configurations_are_read_as_promised() {
    mutations_are_taken_as_promised("configuration", MUTATED_FILES);
}

#[test]
fn mutated_lines_are_decided_as_promised() {
    mutations_are_taken_as_promised("decide", MUTATIONS);
}
