//! Whether this machine has what the migration needs: pg_dump, and disk for the spool.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::{
    error::Result,
    format,
    migration::context::Context,
    pg::dump::{self, PgDump},
    replay::spool::disk_free,
    work_dir,
};

pub const PG_DUMP: &str = "pg_dump";
pub const DISK: &str = "disk";

/// With less than this the spool would soon be full, bytes.
const LEAST: u64 = 2 << 30;

#[derive(Debug)]
pub struct MachineFacts {
    /// The program to use, or why there is none.
    pub pg_dump: Result<PgDump>,
    /// The folder on whose disk the spool is, or will be.
    pub folder: PathBuf,
    /// Bytes.
    pub disk_free: u64,
}

/// `major` is the source's version.
pub async fn gather(cx: &Context, major: u32) -> MachineFacts {
    // `check` makes no work directory.
    let folder = work_dir::nearest(&cx.config.dir);
    MachineFacts { pg_dump: dump::find(cx.config.pg_dump.as_deref(), major).await, disk_free: disk_free(&folder), folder }
}

pub fn pg_dump(found: &Result<PgDump>) -> Finding {
    match found {
        Ok(p) => Finding::ok(format!("version {} ({})", p.major, p.path.display())),
        Err(e) => Finding::fail(&e.message, e.hint.as_deref().unwrap_or_default()),
    }
}

pub fn disk(folder: &Path, free: u64, source_bytes: u64) -> Finding {
    let sentence = format!("{} free at {} for the spool; the source holds {}", format::bytes(free), folder.display(), format::bytes(source_bytes));
    let fix = "give --dir a larger disk: all that the application writes during the copy is kept there";
    if free < LEAST {
        Finding::fail(sentence, fix)
    } else if free < source_bytes / 2 {
        Finding::warn(sentence, fix)
    } else {
        Finding::ok(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict;

    #[test]
    fn half_the_source_has_to_fit_on_the_disk() {
        const GIGABYTE: u64 = 1 << 30;
        for (free, source, verdict) in [(1, 1, Verdict::Fail), (4, 8, Verdict::Ok), (4, 10, Verdict::Warn)] {
            assert_eq!(disk(Path::new("/data"), free * GIGABYTE, source * GIGABYTE).verdict, verdict, "{free} of {source}");
        }
    }
}
