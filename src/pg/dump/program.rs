//! Running pg_dump: which programs there are, which one fits, and what it prints.

use std::{path::PathBuf, process::Stdio};

use crate::{
    error::{Error, Result},
    pg::conninfo::Conninfo,
    plan::Plan,
};

/// A pg_dump program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgDump {
    pub path: PathBuf,
    pub major: u32,
}

/// All pg_dump programs of this machine, the lowest version first.
pub async fn installed() -> Vec<PgDump> {
    let mut candidates: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin/pg_dump")).filter(|p| p.exists()).collect())
        .unwrap_or_default();
    candidates.push("pg_dump".into());
    let mut found: Vec<PgDump> = Vec::new();
    for path in candidates {
        let Ok(output) = tokio::process::Command::new(&path).arg("--version").stderr(Stdio::null()).output().await else { continue };
        // "pg_dump (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split(") ").nth(1).and_then(|v| v.split(['.', ' ', 'b', 'r']).next()).and_then(|v| v.trim().parse().ok());
        if let Some(major) = version
            && !found.iter().any(|f| f.major == major)
        {
            found.push(PgDump { path, major });
        }
    }
    found.sort_by_key(|p| p.major);
    found
}

/// The oldest one that can dump a server of this major version.
pub fn choose(installed: &[PgDump], major: u32) -> Option<&PgDump> {
    installed.iter().find(|p| p.major >= major)
}

/// The schema before and behind the data, with owners and grants if the plan has them, cleaned of psql's meta commands.
pub(super) async fn run(program: &PgDump, source: &Conninfo, plan: &Plan) -> Result<String> {
    let output = tokio::process::Command::new(&program.path)
        .args(["--schema-only", "--no-publications", "--no-subscriptions", "--no-tablespaces", "--no-security-labels"])
        .args((!plan.owners).then_some("--no-owner"))
        .args((!plan.grants).then_some("--no-privileges"))
        .args(["--lock-wait-timeout=30s", "--section=pre-data", "--section=post-data", "--exclude-schema=_hyperlift"])
        .env_clear()
        .envs(std::env::vars().filter(|(k, _)| matches!(k.as_str(), "PATH" | "HOME" | "LANG" | "LC_ALL" | "TZ")))
        .envs(source.child_env())
        .env("PGAPPNAME", "hyperlift/pg_dump")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::failed(format!("cannot run {}: {e}", program.path.display())).hint("install the PostgreSQL client programs"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|l| l.contains("error:")).unwrap_or_else(|| text.lines().next().unwrap_or("it said nothing"));
        return Err(Error::failed(format!("pg_dump of the source failed: {}", line.trim_start_matches("pg_dump: error: ")))
            .hint("the schema is dumped with the source's own user: it must be able to read every table's definition"));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| Error::failed("pg_dump printed text that is not UTF-8").hint("set client_encoding of the source database to UTF8"))?;
    Ok(clean(&text))
}

/// Takes out psql's meta commands: `\restrict TOKEN` of the header and the `\unrestrict` of the same token. Other lines that look like
/// them stand in texts and bodies of functions; pg_dump writes no others.
fn clean(text: &str) -> String {
    let mut header = text.lines().take_while(|l| l.is_empty() || l.starts_with("--") || l.starts_with('\\'));
    let token = header.find_map(|l| l.strip_prefix("\\restrict ")).map(str::trim);
    let command = |line: &str| token.is_some_and(|t| ["\\restrict ", "\\unrestrict "].iter().any(|c| line.strip_prefix(c).map(str::trim) == Some(t)));
    // Line ends stay as they are: a function's body may have carriage returns.
    text.split_inclusive('\n').filter(|l| !command(l)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_commands_are_taken_out_and_only_they() {
        let function = "select 1;\ncreate function f() as $$\n\\restrict x\n\\connect other\r\n\\unrestrict other\n$$;\n";
        assert_eq!(clean(&format!("--\n-- dump\n--\n\n\\restrict abc\n{function}\\unrestrict abc\n")), format!("--\n-- dump\n--\n\n{function}"));
        assert_eq!(clean(function), function);
    }
}
