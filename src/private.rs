//! Files and folders that only their owner can read, because the work directory holds row data.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// What the group and all others may do.
const OTHERS: u32 = 0o077;
/// A folder such as `/tmp`, which all users share.
const STICKY: u32 = 0o1000;

/// Makes a folder (mode 0700) unless it exists, with the parents that are missing.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens for writing; a file that does not exist is made with mode 0600.
pub fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// Takes all rights on a file or a folder from the others, if we may. A link is not followed, because it may lead to what is not ours.
pub fn tighten(path: &Path) {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && !found.is_symlink()
        && found.mode() & OTHERS != 0
        && found.mode() & STICKY == 0
    {
        // Preflight warns when the mode is the same afterwards: some file systems have no modes and report success.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o700));
    }
}

/// The owner (uid) and the mode of a folder on which others have rights.
pub fn open_to_others(path: &Path) -> Option<(u32, u32)> {
    let found = std::fs::metadata(path).ok()?;
    (found.mode() & OTHERS != 0).then(|| (found.uid(), found.mode() & 0o7777))
}
