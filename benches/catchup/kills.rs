//! Part two, kills: the program itself migrates a database on which eight sessions write, is killed three times before the cutover, and
//! cuts over. No row may be lost or doubled.

use hyperlift::{
    demo::compare::compare,
    error::{Error, Result},
};
use serde::Serialize;
use serde_json::Value;
use std::{path::Path, process::Stdio, time::Instant};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    cluster::{Clusters, PATIENCE, run as run_program, until, value},
    data::Scale,
    report::{Report, Row},
};

const DATABASE: &str = "kills";
const KILLS: u64 = 3;
/// pgbench's history has no key; rows are only added to it.
const PLAN: &str = "[[identity]]\ntable = \"public.pgbench_history\"\nuse = \"insert-only\"\n";

#[derive(Serialize)]
struct Line {
    transactions: u64,
    /// Stages in which it was killed.
    killed_in: Vec<String>,
    /// From the end of the writing to the end of the program, cutover included; seconds.
    rest_s: f64,
    /// Rows of the history on the target, less those on the source.
    rows_too_many: i64,
    differences: Vec<String>,
}

pub async fn run(clusters: &Clusters, scale: Scale, report: &mut Report) -> Result<()> {
    let source = clusters.source.create_database(DATABASE).await?;
    let target = clusters.target.create_database(DATABASE).await?;
    run_program(clusters.program("pgbench").args(["-i", "-q", "-s", &scale.of(10).to_string(), &source])).await?;
    let folder = clusters.scratch("kills");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plan.toml"), PLAN)?;
    let start = |cut_over: bool| Program::start(&source, &target, &folder, cut_over);

    let mut program = start(false)?;
    program.catch_up().await?;
    let transactions = scale.of(200_000) / 8 * 8;
    report.progress(format_args!("{transactions} transactions by eight writers"));
    let mut pgbench = clusters.program("pgbench");
    pgbench.args(["-n", "-M", "prepared", "-c", "8", "-j", "2", "-t", &(transactions / 8).to_string(), &source]);
    let writers = tokio::spawn(async move { run_program(&mut pgbench).await });
    let mut killed_in = Vec::new();
    for kill in 1..=KILLS {
        program.catch_up().await?;
        let due = transactions * kill / (KILLS + 1);
        until("the writers' progress", async || Ok(writers.is_finished() || written(clusters).await? >= due)).await?;
        let stage = program.kill().await?;
        report.progress(format_args!("killed in {stage}"));
        killed_in.push(stage);
        program = start(false)?;
    }
    writers.await.map_err(|e| Error::failed(format!("the writers died: {e}")))??;
    let wrote = Instant::now();
    program.catch_up().await?;
    program.stop().await?;
    start(true)?.ended(0).await?;
    let rest_s = wrote.elapsed().as_secs_f64();

    let differences: Vec<String> = compare(&source, &target, None).await?.iter().map(ToString::to_string).collect();
    let history = "select count(*) from public.pgbench_history";
    let rows = async |server| -> Result<i64> { Ok(value(server, DATABASE, history).await?.parse().unwrap_or(0)) };
    let rows_too_many = rows(&clusters.target).await? - rows(&clusters.source).await?;
    report.line("kills", &Line { transactions, killed_in: killed_in.clone(), rest_s, rows_too_many, differences: differences.clone() })?;
    if !differences.is_empty() {
        return Err(Error::failed(format!("after {KILLS} kills source and target differ")).detail(differences.join("; ")));
    }
    let what = format!("{transactions} transactions, killed {KILLS} times ({})", killed_in.join(", "));
    report.rows(Row::new(format!("{what}: rows lost or doubled"), "", 0, vec![rows_too_many.unsigned_abs() as f64]));
    report.rows(Row::new("from the last commit to the end of the program, cutover included", "s", 1, vec![rest_s]));
    clusters.source.execute("postgres", &format!("drop database {DATABASE} with (force)")).await?;
    clusters.target.execute("postgres", &format!("drop database {DATABASE} with (force)")).await
}

/// Transactions so far, by the statistics, to which the sessions report with a delay of a second at most.
async fn written(clusters: &Clusters) -> Result<u64> {
    let sql = "select n_tup_ins from pg_stat_user_tables where relname = 'pgbench_history'";
    Ok(value(&clusters.source, DATABASE, sql).await?.parse().unwrap_or(0))
}

/// One process of `hyperlift migrate --json`.
struct Program {
    child: Child,
    /// The stage that runs.
    stage: watch::Receiver<String>,
    stderr: JoinHandle<String>,
}

impl Program {
    fn start(source: &str, target: &str, folder: &Path, cut_over: bool) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyperlift"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PG") || text.starts_with("HYPERLIFT_") || text == "SOURCE" || text == "TARGET" {
                command.env_remove(&name);
            }
        }
        command.args(["migrate", "--json", "--yes", "--linger", "1", "--source", source, "--target", target]);
        command.arg("--dir").arg(folder.join("work")).arg("--plan").arg(folder.join("plan.toml"));
        if cut_over {
            command.args(["--cutover-when-ready", "--quiet-for", "1"]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe")).lines();
        let mut errors = child.stderr.take().expect("stderr was asked to be a pipe");
        let (sender, stage) = watch::channel(String::from("start"));
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // A killed process may leave half a line.
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                if event["event"] == "stage_changed" && event["state"] == "running" {
                    sender.send_replace(event["stage"].as_str().unwrap_or_default().into());
                }
            }
        });
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text).await;
            text
        });
        Ok(Self { child, stage, stderr })
    }

    /// Waits until it replays.
    async fn catch_up(&mut self) -> Result<()> {
        let waited = timeout(PATIENCE, self.stage.wait_for(|stage| stage == "catch_up")).await;
        if matches!(waited, Ok(Ok(_))) {
            return Ok(());
        }
        let _ = self.child.start_kill();
        let why = Error::failed("hyperlift has not come to catch-up");
        Err(why.detail((&mut self.stderr).await.unwrap_or_default()))
    }

    /// SIGKILL; the stage in which it hit.
    async fn kill(mut self) -> Result<String> {
        let stage = self.stage.borrow().clone();
        if let Some(status) = self.child.try_wait()? {
            return Err(Error::failed(format!("hyperlift ended by itself in {stage}: {status}")).detail(self.stderr.await.unwrap_or_default()));
        }
        self.child.kill().await?;
        Ok(stage)
    }

    /// SIGTERM: it stops safely, to be continued.
    async fn stop(self) -> Result<()> {
        let pid = self.child.id().ok_or_else(|| Error::failed("hyperlift has ended by itself"))?;
        run_program(Command::new("kill").arg(pid.to_string())).await?;
        self.ended(4).await
    }

    /// Waits for its end with this exit code.
    async fn ended(mut self, code: i32) -> Result<()> {
        let status = timeout(PATIENCE, self.child.wait()).await.map_err(|_| Error::failed("hyperlift does not end"))??;
        if status.code() == Some(code) {
            return Ok(());
        }
        Err(Error::failed(format!("hyperlift ended with {status}, not with {code}")).detail(self.stderr.await.unwrap_or_default()))
    }
}
