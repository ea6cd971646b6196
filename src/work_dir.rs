//! The work directory: who may use it, what this migration is, and what it has changed on the source.
//!
//! `lock migration.json plan.toml journal.jsonl hyperlift.log spool/ sql/ report/`. It holds row data, so only its owner may read it.

use crate::record::Record;
use rustix::{
    fs::{Access, access},
    process::geteuid,
};
use std::{
    fs::File,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    event::Stamped,
    plan::Plan,
    private,
};

pub struct WorkDir {
    path: PathBuf,
    /// Locked while the program runs.
    _lock: File,
    resumed: bool,
}

impl WorkDir {
    /// Opens or makes the directory and takes its lock.
    pub fn open(path: &Path) -> Result<Self> {
        let fresh = !path.exists();
        private::create_folder(path).map_err(|e| unusable(path, &e))?;
        if fresh {
            // umask may have removed bits of the mode.
            let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
        }
        refuse_strange(path)?;
        let lock = private::file().truncate(false).open(path.join("lock")).map_err(|e| unusable(path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::usage(format!("another hyperlift is running in {}", path.display()))
                    .hint("find it with `ps aux | grep hyperlift`; only one may run a migration"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(unusable(path, &e)),
        }
        for dir in ["sql", "report"] {
            private::create_folder(&path.join(dir)).map_err(|e| unusable(path, &e))?;
        }
        // An earlier version, or whoever made the directory (a volume), may have let others read.
        for name in KNOWN {
            private::tighten(&path.join(name));
        }
        private::tighten(&path.canonicalize().unwrap_or_else(|_| path.into()));
        let resumed = path.join("migration.json").exists();
        Ok(Self { path: path.into(), _lock: lock, resumed })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// Whether an earlier run left its record here.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub fn read_record(&self) -> Result<Record> {
        let path = self.path.join("migration.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::usage(format!("cannot read {}: {e}", path.display())))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::usage(format!("{} is damaged: {e}", path.display())).hint("restore it from a backup, or start in a new directory"))
    }

    pub fn write_record(&self, record: &Record) -> Result<()> {
        self.replace("migration.json", serde_json::to_string_pretty(record)?.as_bytes())
    }

    pub fn read_plan(&self) -> Result<Option<Plan>> {
        let path = self.path.join("plan.toml");
        if path.exists() { Plan::read(&path).map(Some) } else { Ok(None) }
    }

    pub fn write_plan(&self, plan: &Plan) -> Result<()> {
        self.replace("plan.toml", plan.to_toml().as_bytes())
    }

    /// Writes a file as a whole: a temporary one, synced, renamed over the old one, and the directory synced.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = private::file().truncate(true).open(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(path.parent().unwrap_or(&self.path))?.sync_all()
        };
        write().map_err(|e| {
            Error::failed(format!("cannot write {}: {e}", path.display()))
                .hint("see that the disk of the work directory is not full and can be written")
        })
    }

    /// The journal of facts, one JSON object a line.
    pub fn journal(&self) -> Result<impl FnMut(&Stamped) + Send + 'static> {
        let mut file = self.append_to("journal.jsonl")?;
        Ok(move |event: &Stamped| {
            let line = serde_json::to_string(event).map_err(std::io::Error::other).and_then(|line| writeln!(file, "{line}"));
            if let Err(error) = line {
                tracing::warn!(%error, "cannot write the journal");
            }
        })
    }

    /// The log file.
    pub fn log(&self) -> Result<File> {
        self.append_to("hyperlift.log")
    }

    fn append_to(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        private::file().append(true).open(&path).map_err(|e| unusable(&path, &e))
    }

    /// Removes the spool; whether there was one.
    pub fn remove_spool(&self) -> Result<bool> {
        match std::fs::remove_dir_all(self.spool()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            removed => Ok(removed.is_ok()),
        }
    }
}

/// What hyperlift itself puts into its directory.
const KNOWN: &[&str] = &[
    "lock", "migration.json", "migration.json.new", "plan.toml", "plan.toml.new", "journal.jsonl", "hyperlift.log", "control.sock", "spool", "sql",
    "report",
];

/// What mkfs puts into a new ext4 volume.
const LOST_AND_FOUND: &str = "lost+found";

/// Fails as [`WorkDir::open`] would, as far as that can be known without making or changing anything.
pub fn check(path: &Path) -> Result<()> {
    let nearest = nearest(path);
    if !nearest.is_dir() {
        return Err(unusable(path, &std::io::ErrorKind::NotADirectory.into()));
    }
    access(&nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| unusable(path, &e.into()))?;
    if !path.exists() {
        return Ok(());
    }
    refuse_strange(path)?;
    for ours in KNOWN.iter().map(|name| path.join(name)).filter(|p| p.exists()) {
        access(&ours, Access::WRITE_OK).map_err(|e| unusable(&ours, &e.into()))?;
    }
    Ok(())
}

/// The directory, or its nearest parent that exists.
pub fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|p| p.exists()).unwrap_or(&absolute).to_owned()
}

/// A directory with other things in it is left alone, unless a migration has begun there.
fn refuse_strange(path: &Path) -> Result<()> {
    if path.join("migration.json").exists() {
        return Ok(());
    }
    let names = std::fs::read_dir(path).map_err(|e| unusable(path, &e))?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    match names.into_iter().find(|n| n != LOST_AND_FOUND && !KNOWN.contains(&n.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("{} is not a work directory: it holds {name}", path.display()))
            .hint("give --dir a new or empty directory, or one that an earlier run of hyperlift made")),
    }
}

/// A directory that cannot be used, with its owner where that is the reason.
fn unusable(path: &Path, e: &std::io::Error) -> Error {
    let error = Error::usage(format!("the work directory {} cannot be used: {e}", path.display()));
    if e.kind() != std::io::ErrorKind::PermissionDenied {
        return error.hint("give --dir a directory on a disk that can hold the spool");
    }
    let nearest = nearest(path);
    let error = match std::fs::metadata(&nearest) {
        Ok(found) => error.detail(format!("{} belongs to uid {} (mode {:o})", nearest.display(), found.uid(), found.mode() & 0o7777)),
        Err(_) => error,
    };
    // A container's user cannot change the owner, and its shell has another uid than that of the host.
    error.hint(format!(
        "hyperlift runs as uid {}: {} and all in it must belong to that user (for a container's volume: the folder on the host); \
         or give another --dir",
        geteuid().as_raw(),
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Stage, lsn::Lsn, record::new_id};

    #[test]
    fn a_directory_serves_one_program_at_a_time_and_keeps_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a1");
        let work = WorkDir::open(&path).unwrap();
        assert!(!work.is_resumed());
        assert!(WorkDir::open(&path).err().unwrap().to_string().contains("another hyperlift"));
        let record = Record { id: new_id(), slot: Some(Lsn(7)), finished: vec![Stage::Identity], ..Record::default() };
        work.write_record(&record).unwrap();
        drop(work);
        let work = WorkDir::open(&path).unwrap();
        assert!(work.is_resumed());
        assert_eq!(work.read_record().unwrap(), record);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("holiday.jpg"), "").unwrap();
        let error = WorkDir::open(dir.path()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("holiday.jpg"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something was written into it");
    }

    #[test]
    fn a_check_says_what_opening_would_say_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new, strange) = (dir.path().join("file"), dir.path().join("new/a1"), dir.path().join("strange"));
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(&strange).unwrap();
        std::fs::write(strange.join("holiday.jpg"), "").unwrap();
        for path in [&file, &file.join("work"), &strange] {
            let checked = check(path).unwrap_err();
            assert_eq!(checked.exit_code(), WorkDir::open(path).err().unwrap().exit_code());
            assert!(checked.to_string().contains(&path.display().to_string()), "{checked}");
        }
        check(&new).unwrap();
        assert!(!dir.path().join("new").exists());
        let work = WorkDir::open(&new).unwrap();
        check(&new).unwrap();
        work.write_record(&Record::default()).unwrap();
        drop(work);
        check(&new).unwrap();
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_in_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&folder.path().join("not/yet")), folder.path());
        assert_eq!(nearest(folder.path()), folder.path());
        assert_eq!(nearest(Path::new("no-such-folder")), std::env::current_dir().unwrap());
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_both_users() {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o700);
        let path = dir.path().join("new/a1");
        let error = unusable(&path, &std::io::ErrorKind::PermissionDenied.into());
        let uid = std::fs::metadata(dir.path()).unwrap().uid();
        assert_eq!(error.detail.unwrap(), format!("{} belongs to uid {uid} (mode 700)", dir.path().display()));
        let hint = error.hint.unwrap();
        // Who made the folder is who runs the test.
        assert!(hint.starts_with(&format!("hyperlift runs as uid {uid}: {} and all in it must belong", path.display())), "{hint}");
        assert!(hint.contains("the folder on the host") && hint.contains("another --dir"), "{hint}");
    }

    #[test]
    fn a_new_volume_is_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        set_mode(&dir.path().join("lost+found"), 0o755);
        assert!(!WorkDir::open(dir.path()).unwrap().is_resumed());
        assert_eq!(mode(&dir.path().join("lost+found")), 0o755, "it is not ours");
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_existed_is_closed_to_others_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        set_mode(path, 0o755);
        for folder in ["spool", "sql"] {
            std::fs::create_dir(path.join(folder)).unwrap();
            set_mode(&path.join(folder), 0o755);
        }
        std::fs::write(path.join("hyperlift.log"), "").unwrap();
        set_mode(&path.join("hyperlift.log"), 0o644);
        let work = WorkDir::open(path).unwrap();
        work.replace("plan.toml", b"").unwrap();
        drop((work.log().unwrap(), work.journal().unwrap()));
        for folder in ["", "spool", "sql", "report"] {
            assert_eq!(mode(&path.join(folder)), 0o700, "{folder}");
        }
        for file in ["lock", "hyperlift.log", "journal.jsonl", "plan.toml"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
        assert_eq!(private::open_to_others(path), None);
    }

    #[test]
    fn what_is_shared_or_linked_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, elsewhere) = (dir.path().join("shared"), dir.path().join("elsewhere"));
        for (folder, mode) in [(&shared, 0o1777), (&elsewhere, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            set_mode(folder, mode);
        }
        std::os::unix::fs::symlink(&elsewhere, shared.join("spool")).unwrap();
        WorkDir::open(&shared).unwrap();
        assert_eq!((mode(&shared), mode(&elsewhere)), (0o1777, 0o755));
        assert!(private::open_to_others(&shared).is_some_and(|(_, mode)| mode == 0o1777));
    }
}
