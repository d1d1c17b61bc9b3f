//! Where the admin API of the running instance listens, for commands beside it: its port may be any free one.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;

const FILE: &str = "admin.addr";

/// Replaces the address of the instance before this one.
pub(super) fn write(data_dir: &Path, addr: SocketAddr) -> anyhow::Result<()> {
    let (path, fresh) = (data_dir.join(FILE), data_dir.join("admin.addr.new"));
    std::fs::write(&fresh, format!("{addr}\n")).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// So that nobody takes the address of an instance that is gone for that of the one which starts.
pub(super) fn remove(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The address that the instance on this data folder wrote; `None` where there is none that can be read.
pub fn read(data_dir: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(data_dir.join(FILE)).ok()?.trim().parse().ok()
}
