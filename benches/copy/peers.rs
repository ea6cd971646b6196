//! The other programs that are compared.

use hyperlift::error::{Error, Result};
use std::process::Stdio;

use crate::{
    cluster::{Clusters, run},
    figures::Measured,
};

/// Every program that copies a whole database has this many jobs.
pub const TABLE_JOBS: &str = "4";
pub const INDEX_JOBS: &str = "2";

/// The pgcopydb that `PGCOPYDB` names, or the one in PATH, with its version; `None` when there is none.
pub async fn pgcopydb(clusters: &Clusters) -> Option<(String, String)> {
    let name = std::env::var("PGCOPYDB").unwrap_or_else(|_| "pgcopydb".into());
    let text = run(clusters.other_program(&name).arg("--version")).await.ok()?;
    Some((name, text.lines().next().unwrap_or_default().trim_start_matches("pgcopydb version ").to_owned()))
}

pub async fn clone(clusters: &Clusters, program: &str, source: &str, target: &str, bytes: u64) -> Result<Measured> {
    let folder = clusters.scratch("pgcopydb");
    let mut command = clusters.other_program(program);
    command.args(["clone", "--source", source, "--target", target, "--table-jobs", TABLE_JOBS, "--index-jobs", INDEX_JOBS, "--dir"]).arg(&folder);
    let watch = clusters.stopwatch();
    run(&mut command).await?;
    let spent = watch.stop();
    std::fs::remove_dir_all(&folder)?;
    Ok(Measured::new(spent, spent.children_cpu, bytes))
}

/// `pg_dump` into a folder, uncompressed, then `pg_restore`.
pub async fn dump(clusters: &Clusters, source: &str, target: &str, bytes: u64) -> Result<Measured> {
    let folder = clusters.scratch("dump");
    let mut dump = clusters.program("pg_dump");
    dump.args(["-Fd", "-Z0", "-j", TABLE_JOBS, "-f"]).arg(&folder).arg(source);
    let mut restore = clusters.program("pg_restore");
    restore.args(["-j", TABLE_JOBS, "-d", target]).arg(&folder);
    let watch = clusters.stopwatch();
    run(&mut dump).await?;
    run(&mut restore).await?;
    let spent = watch.stop();
    std::fs::remove_dir_all(&folder)?;
    Ok(Measured::new(spent, spent.children_cpu, bytes))
}

/// One table through two psql and a pipe, in binary.
pub async fn pipe(clusters: &Clusters, table: &str, source: &str, target: &str, bytes: u64) -> Result<Measured> {
    let psql = |sql: String, uri: &str| {
        let mut command = clusters.program("psql");
        command.args(["-X", "-q", "-c", &sql, uri]);
        command
    };
    let watch = clusters.stopwatch();
    let mut out = psql(format!("copy {table} to stdout (format binary)"), source).stdout(Stdio::piped()).spawn()?;
    let pipe: Stdio = out.stdout.take().expect("stdout was asked to be a pipe").try_into()?;
    run(psql(format!("copy {table} from stdin (format binary)"), target).stdin(pipe)).await?;
    let status = out.wait().await?;
    let spent = watch.stop();
    if !status.success() {
        return Err(Error::failed(format!("psql: {status}")));
    }
    Ok(Measured::new(spent, spent.children_cpu, bytes))
}
