//! The key of the admin API: made anew at every start, readable by the owner of the data folder only.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

const FILE: &str = "admin.key";

/// Makes a key of 256 random bits and writes it with mode 0600, replacing the one before it.
pub(super) fn write(data_dir: &Path) -> anyhow::Result<SecretString> {
    let key = SecretString::from(hex::encode(rand::random::<[u8; 32]>()));
    let (path, fresh) = (data_dir.join(FILE), data_dir.join("admin.key.new"));
    std::fs::remove_file(&fresh).ok();
    create(&fresh, &key).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}

fn create(path: &Path, key: &SecretString) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.expose_secret().as_bytes())?;
    file.write_all(b"\n")
}

/// The key of the instance that runs on this data folder.
pub fn read(data_dir: &Path) -> anyhow::Result<SecretString> {
    let path = data_dir.join(FILE);
    let key = std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read the admin key {}: run this as the user who runs soloist", path.display())
    })?;
    Ok(SecretString::from(key.trim().to_owned()))
}
