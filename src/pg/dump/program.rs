//! Running pg_dump: which programs there are, which one fits, and what it prints.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use super::toc;
use crate::{
    error::{Error, Result},
    name::ident,
    pg::{
        catalog::exclusion::{Excluded, exact_pattern},
        connect::conninfo::Conninfo,
    },
    plan::Plan,
};

/// A pg_dump program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgDump {
    pub path: PathBuf,
    pub major: u32,
}

/// Where distributions install the programs of each version: a folder, and how the names of the versions' folders in it begin.
const PLACES: [(&str, &str); 5] =
    [("/usr/lib/postgresql", ""), ("/usr/lib", "postgresql"), ("/usr", "pgsql-"), ("/usr/libexec", "postgresql"), ("/usr/local", "pgsql")];

/// The program for a server of this major version: the one that was given, else the lowest installed version that can dump it, which
/// prints what an older target is most likely to know.
pub async fn find(given: Option<&Path>, major: u32) -> Result<PgDump> {
    let get = format!(
        "install the client programs of PostgreSQL {major} or later (Debian: apt-get install postgresql-client-{major}, if need be from \
         apt.postgresql.org), or name one with --pg-dump or HYPERLIFT_PG_DUMP"
    );
    if let Some(path) = given {
        let program = version(path.to_owned()).await.ok_or_else(|| Error::refused(format!("{} is no pg_dump that can be run", path.display())));
        let program = program.map_err(|e| e.hint(&get))?;
        if program.major >= major {
            return Ok(program);
        }
        let message = format!("{} is version {}, the source is version {major}", path.display(), program.major);
        return Err(Error::refused(message).hint(get));
    }
    let installed = installed().await;
    choose(&installed, major).cloned().ok_or_else(|| {
        let found: Vec<String> = installed.iter().map(|p| format!("version {} ({})", p.major, p.path.display())).collect();
        let found = if found.is_empty() { "no pg_dump was found".into() } else { format!("found {}", found.join(", ")) };
        Error::refused(format!("the source is version {major}; {found}")).hint(get)
    })
}

/// All pg_dump programs of this machine, the lowest version first.
async fn installed() -> Vec<PgDump> {
    let mut candidates = Vec::new();
    for (dir, prefix) in PLACES {
        let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = folders.filter(|f| f.file_name().to_string_lossy().starts_with(prefix)).map(|f| f.path()).collect();
        folders.sort();
        candidates.extend(folders.iter().flat_map(|f| [f.join("bin/pg_dump"), f.join("pg_dump")]));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path).map(|dir| dir.join("pg_dump")));
    let mut found: Vec<PgDump> = Vec::new();
    for path in candidates.into_iter().filter(|p| p.is_file()) {
        let Some(program) = version(path).await else { continue };
        if !found.iter().any(|f| f.major == program.major) {
            found.push(program);
        }
    }
    found.sort_by_key(|p| p.major);
    found
}

/// Asks a program for its version; `None` when it cannot be run.
async fn version(path: PathBuf) -> Option<PgDump> {
    let output = tokio::process::Command::new(&path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().await.ok()?;
    Some(PgDump { major: major_of(&String::from_utf8_lossy(&output.stdout))?, path })
}

/// `pg_dump (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)`, or `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("pg_dump (PostgreSQL) ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The oldest one that can dump a server of this major version.
fn choose(installed: &[PgDump], major: u32) -> Option<&PgDump> {
    installed.iter().find(|p| p.major >= major)
}

/// The schema without the data, psql's meta commands and what is left out. Publications, subscriptions, owners and grants are in it only
/// where the plan asks for them.
pub(super) async fn run(program: &PgDump, source: &Conninfo, plan: &Plan, excluded: &Excluded, other_schemas: &[String]) -> Result<String> {
    let output = tokio::process::Command::new(&program.path)
        .args(["--schema-only", "--no-tablespaces", "--no-security-labels", "--encoding=UTF8"])
        .args((!plan.publications).then_some("--no-publications"))
        .args((!plan.subscriptions).then_some("--no-subscriptions"))
        .args((!plan.owners).then_some("--no-owner"))
        .args((!plan.grants).then_some("--no-privileges"))
        .args(["--lock-wait-timeout=30s", "--section=pre-data", "--section=post-data"])
        // The entries then name their objects by OID.
        .arg("--verbose")
        .args(other_schemas.iter().map(|schema| format!("--exclude-schema={}", ident(schema))))
        .args(excluded.unreadable.iter().map(|t| format!("--exclude-table={}", exact_pattern(t))))
        .env_clear()
        .envs(std::env::vars().filter(|(k, _)| matches!(k.as_str(), "PATH" | "HOME" | "LANG" | "LC_ALL" | "TZ")))
        .envs(source.child_env())
        .env("PGOPTIONS", options(source))
        .env("PGAPPNAME", "hyperlift/pg_dump")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::failed(format!("cannot run {}: {e}", program.path.display())).hint("install the PostgreSQL client programs"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|l| l.contains("error:")).unwrap_or_else(|| text.lines().next().unwrap_or("it printed no error"));
        return Err(Error::failed(format!("pg_dump of the source failed: {}", line.trim_start_matches("pg_dump: error: ")))
            .hint("the schema is dumped with the source's own user: it must be able to read every table's definition"));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| {
        Error::failed("pg_dump printed text that is not UTF-8").hint("the source's names, defaults and comments must be UTF-8: correct them there")
    })?;
    Ok(toc::in_scope(&clean(&text), excluded))
}

/// Settings of the database or the role that pg_dump does not set itself, and that would change what its text means: how it writes string
/// constants, and amounts of money. They come last, so they hold whatever the URI says.
fn options(source: &Conninfo) -> String {
    format!("{} -c standard_conforming_strings=on -c lc_monetary=C", source.options().unwrap_or_default()).trim_start().to_owned()
}

/// Takes out psql's meta commands: `\restrict TOKEN` of the header and the `\unrestrict` of the same token. pg_dump writes no others, so
/// similar lines belong to texts and bodies of functions.
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
    fn the_lowest_version_that_fits_is_chosen() {
        for (text, major) in [
            ("pg_dump (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n", Some(15)),
            ("pg_dump (PostgreSQL) 18beta1\n", Some(18)),
            ("pg_dump (PostgreSQL) 9.6.24", Some(9)),
            ("pg_dumpall (PostgreSQL) 15.8", None),
            ("", None),
        ] {
            assert_eq!(major_of(text), major, "{text:?}");
        }
        let all = [13, 15, 18].map(|major| PgDump { path: format!("/{major}").into(), major });
        for (source, chosen) in [(13, Some(13)), (14, Some(15)), (16, Some(18)), (18, Some(18)), (19, None)] {
            assert_eq!(choose(&all, source).map(|p| p.major), chosen, "for a source of version {source}");
        }
    }

    #[test]
    fn n_12_the_settings_that_change_a_dump_come_after_those_of_the_uri() {
        let options_of = |uri: &str| options(&Conninfo::parse(uri).unwrap());
        let own = "-c standard_conforming_strings=on -c lc_monetary=C";
        assert_eq!(options_of("postgres://u@h/d"), own);
        assert_eq!(options_of("postgres://u@h/d?options=-c%20search_path%3Dx"), format!("-c search_path=x {own}"));
    }

    #[test]
    fn meta_commands_are_taken_out_and_only_they() {
        let function = "select 1;\ncreate function f() as $$\n\\restrict x\n\\connect other\r\n\\unrestrict other\n$$;\n";
        assert_eq!(clean(&format!("--\n-- dump\n--\n\n\\restrict abc\n{function}\\unrestrict abc\n")), format!("--\n-- dump\n--\n\n{function}"));
        assert_eq!(clean(function), function);
    }
}
