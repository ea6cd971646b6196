//! The statements of the schema as of the beginning of the copy, kept in the work directory: the cutover needs them even if the source is
//! gone by then.

use std::path::Path;

use crate::{
    error::{Error, Result},
    migration::context::Context,
    pg::dump::Statement,
};

/// Their file in the work directory.
pub const STATEMENTS: &str = "sql/statements.json";

/// Leaves out those that may hold a password: they have been run already.
pub fn write(cx: &Context, statements: &[Statement]) -> Result<()> {
    let kept: Vec<&Statement> = statements.iter().filter(|s| !s.secret).collect();
    cx.work.replace(STATEMENTS, &serde_json::to_vec(&kept)?)
}

pub fn exist(dir: &Path) -> bool {
    dir.join(STATEMENTS).exists()
}

pub fn read(dir: &Path) -> Result<Vec<Statement>> {
    let path = dir.join(STATEMENTS);
    let text =
        std::fs::read(&path).map_err(|e| Error::failed(format!("cannot read {}: {e}", path.display())).hint("restore the file from a backup"))?;
    Ok(serde_json::from_slice(&text)?)
}
