//! The image: built by the Rust that the crate asks for, run by nobody in particular, healthy when the service is.

use std::path::{Path, PathBuf};

use super::{image, is_understood, root, text};

/// The instructions of the Dockerfile, each with all of its lines.
fn instructions() -> Vec<(String, String)> {
    let file = text("deploy/Dockerfile");
    let code: Vec<&str> = file.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = code.join("\n").replace("\\\n", " ");
    let split = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    joined.lines().filter_map(split).collect()
}

fn all(name: &str) -> Vec<String> {
    instructions().into_iter().filter(|(of, _)| of == name).map(|(_, rest)| rest).collect()
}

/// The one instruction of this name.
fn only(name: &str) -> String {
    let [one]: [String; 1] = all(name).try_into().unwrap_or_else(|all| panic!("{name}: {all:?}"));
    one
}

/// A value of `Cargo.toml`.
fn cargo(key: &str) -> String {
    let manifest = text("Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
    line.trim_matches('"').to_owned()
}

#[test]
fn it_is_built_by_the_rust_that_the_crate_asks_for_from_the_lock_file() {
    let from = all("FROM");
    assert_eq!(from[0], format!("rust:{}-slim-bookworm AS build", cargo("rust-version")));
    assert_eq!(from[1], "debian:bookworm-slim", "the same Debian, for its libc");
    let builds: Vec<String> = all("RUN").into_iter().filter(|run| run.contains("cargo build")).collect();
    assert!(builds.len() == 2 && builds.iter().all(|run| run.contains("--profile dist --locked")), "{builds:?}");
    assert!(text("Cargo.toml").contains("[profile.dist]"));
    assert!(text("deploy/Dockerfile").contains(&format!("-t {} .", image())));
}

#[test]
fn what_it_is_built_from_reaches_the_builder() {
    let ignore = text(".dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for copy in all("COPY").iter().filter(|copy| !copy.starts_with("--from")) {
        let mut paths: Vec<&str> = copy.split_whitespace().collect();
        paths.pop();
        for path in paths {
            assert!(kept.contains(&path) && root().join(path).exists(), "{path}");
        }
    }
}

/// All Rust files below a folder that the program is built from.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn what_the_source_includes_from_outside_of_it_reaches_the_builder() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut outside = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for path in text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let included = file.parent().unwrap().join(path).canonicalize().unwrap();
            let included = included.strip_prefix(root().canonicalize().unwrap()).unwrap().to_owned();
            let is_copied = |copy: &String| copy.split_whitespace().any(|path| included.starts_with(path));
            assert!(all("COPY").iter().any(is_copied), "{}", included.display());
            outside += usize::from(!included.starts_with("src"));
        }
    }
    assert!(outside > 0, "nothing is included from elsewhere any more: then this test can go");
}

#[test]
fn it_runs_as_nobody_in_particular_on_a_volume() {
    let (user, group) = only("USER").split_once(':').map(|(user, group)| (user.to_owned(), group.to_owned())).unwrap();
    assert!(user == group && user.parse::<u32>().unwrap() > 0, "a number is needed to see that it is not root");
    assert_eq!(all("ENV"), [format!("SOLOIST_DATA_DIR={}", only("VOLUME")), "MIMALLOC_ALLOW_THP=0".to_owned()]);
    let prepared = all("RUN").iter().any(|run| run.contains(&format!("-m 700 {}", only("VOLUME"))));
    assert!(prepared, "a new volume has the owner and mode of the folder beneath it");
}

#[tokio::test]
async fn its_commands_are_understood() {
    let list = |instruction: &str| -> Vec<String> {
        serde_json::from_str(instruction.split_once("CMD ").map_or(instruction, |(_, command)| command)).unwrap()
    };
    assert_eq!(list(&only("ENTRYPOINT")), ["soloist"]);
    is_understood(&list(&only("CMD"))).await;
    let health = list(&only("HEALTHCHECK"));
    assert_eq!(health[0], "soloist");
    is_understood(&health[1..]).await;
    let listens = soloist::config::options().iter().find(|option| option.path == "admin.listen").unwrap();
    assert!(health.last().unwrap().ends_with(listens.default.unwrap()), "{health:?}");
}
