//! Whether the data folder can be written, and how much room there is.

use std::path::Path;

use super::Finding;

const MIB: u64 = 1 << 20;
/// A million waiting events take about 300 MiB.
const SPACE_WANTED: u64 = 1024 * MIB;
const SPACE_NEEDED: u64 = 100 * MIB;

pub(super) fn check(data_dir: &Path) -> Finding {
    let about = "disk";
    let shown = data_dir.display();
    // Before the first start there is only the folder that it will be made in.
    let existing = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let Some(existing) = existing.ancestors().find(|folder| folder.is_dir()) else {
        return Finding::problem(about, format!("no folder of the path {shown} exists"), "set data_dir");
    };
    if let Err(error) = tempfile::tempfile_in(existing) {
        let remedy = "run soloist as the owner of the folder, or set data_dir to one that it may write";
        return Finding::problem(about, format!("{} cannot be written: {error}", existing.display()), remedy);
    }
    match rustix::fs::statvfs(existing) {
        Ok(stat) => space(stat.f_bavail.saturating_mul(stat.f_frsize), &shown.to_string()),
        Err(error) => Finding::warning(
            about,
            format!("{shown} can be written, but its free space cannot be asked: {error}"),
            "make sure yourself that there is 1 GiB",
        ),
    }
}

fn space(free: u64, data_dir: &str) -> Finding {
    let found = format!("{} MiB are free for {data_dir}", free / MIB);
    let remedy = "make room: on a full disk new events are refused, and LoginRadius does not send them again";
    match free {
        SPACE_WANTED.. => Finding::ok("disk", found),
        SPACE_NEEDED.. => Finding::warning("disk", found, remedy),
        _ => Finding::problem("disk", found, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn little_space_is_told() {
        for (free, state) in [(2048 * MIB, State::Ok), (500 * MIB, State::Warning), (MIB, State::Problem)] {
            assert!(space(free, "data").state == state, "{free}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_looked_for_above() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(&folder.path().join("not/yet")).state != State::Problem);
        assert!(!folder.path().join("not").exists());
    }
}
