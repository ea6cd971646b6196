//! The parts: what is copied, by which programs, and which ratios are required.

use hyperlift::{
    demo::{compare::compare, execute},
    error::{Error, Result},
};
use std::path::PathBuf;

use crate::{
    cluster::{Clusters, drop_database, value},
    data::{self, IOT_INDEXES, STEP_SECONDS, Scale},
    figures::{Measured, Rounds},
    peers::{self, INDEX_JOBS, TABLE_JOBS},
    program::{self, Costs, Job},
    report::{Report, Row},
};

/// The table has no key, and there is no operator to ask for its identity.
const INSERT_ONLY: &str = "[[identity]]\ntable = \"public.metrics\"\nuse = \"insert-only\"\n";
const HYPERTABLE: &str = "[[hypertable]]\ntable = \"public.metrics\"\ntime_column = \"time\"\nchunk_interval = \"1 day\"\nkey = \"refuse\"\n";
/// Days of the part `hypertable`: each is a chunk.
const DAYS: u64 = 90;
const HYPERLIFT: &str = "hyperlift";
const PSQL: &str = "two psql and a pipe";

pub struct Bench<'a> {
    pub clusters: Clusters,
    pub hyperlift: PathBuf,
    pub rounds: u32,
    /// Scale of the IoT data.
    pub scale: Scale,
    pub report: &'a mut Report,
}

impl Bench<'_> {
    /// Creates a database on the source.
    async fn source(&mut self, name: &str) -> Result<String> {
        self.report.progress(format_args!("data of {name}"));
        self.clusters.source.create_database(name).await
    }

    /// Vacuums and analyzes the source's data, so that no run has to; returns its size in bytes.
    async fn ready(&self, name: &str) -> Result<u64> {
        self.clusters.source.execute(name, "vacuum (analyze)").await?;
        let sql = "select sum(pg_table_size(oid)) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
        value(&self.clusters.source, name, sql).await?.parse().map_err(|_| Error::failed("no size"))
    }

    /// Creates an empty database on the target, and settles both servers, so that every run begins under the same conditions.
    async fn target(&self, name: &str) -> Result<String> {
        drop_database(&self.clusters.target, name).await?;
        let uri = self.clusters.target.create_database(name).await?;
        self.clusters.settle().await?;
        Ok(uri)
    }

    async fn migrate(&self, name: &str, bytes: u64, jobs: &str, plan: &str) -> Result<Costs> {
        let (source, target) = (self.clusters.source.uri(name), self.target(name).await?);
        let job = Job { program: &self.hyperlift, source: &source, target: &target, table_jobs: jobs, index_jobs: INDEX_JOBS, plan, bytes };
        program::migrate(&self.clusters, &job).await
    }

    /// A run that is fast but wrong does not count.
    async fn check(&self, name: &str) -> Result<()> {
        let differences = compare(&self.clusters.source.uri(name), &self.clusters.target.uri(name), None).await?;
        match differences.first() {
            None => Ok(()),
            Some(first) => Err(Error::failed(format!("source and target of {name} differ: {first}"))),
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        drop_database(&self.clusters.target, name).await?;
        drop_database(&self.clusters.source, name).await
    }
}

fn wall(m: &Measured) -> f64 {
    m.wall_s
}

/// Parts `clone` and `memory`, which have the same data.
pub async fn whole(bench: &mut Bench<'_>, clone: bool, memory: bool) -> Result<()> {
    let name = "iot";
    let source = bench.source(name).await?;
    data::iot(&source, bench.scale, STEP_SECONDS).await?;
    execute(&source, IOT_INDEXES).await?;
    let bytes = bench.ready(name).await?;
    let result = async {
        if clone {
            clones(bench, name, &source, bytes).await?;
        }
        if memory {
            let mut rounds = Rounds::new("memory");
            for _ in 0..bench.rounds {
                let costs = bench.migrate(name, bytes, "8", "").await?;
                rounds.add(bench.report, "hyperlift, 8 jobs", costs.whole)?;
            }
            let peaks = rounds.values("hyperlift, 8 jobs", |m| Some(m.peak_rss_bytes? as f64 / f64::from(1 << 20)));
            rounds.report(bench.report, [Row::new("peak RSS of hyperlift, 8 copy jobs", "MB", 0, peaks).map(|r| r.asked("128 (goal 48)"))]);
        }
        Ok(())
    }
    .await;
    bench.remove(name).await?;
    result
}

async fn clones(bench: &mut Bench<'_>, name: &str, source: &str, bytes: u64) -> Result<()> {
    let mut rounds = Rounds::new("clone");
    let pgcopydb = peers::pgcopydb(&bench.clusters).await;
    match &pgcopydb {
        Some((program, version)) => bench.report.progress(format_args!("{program} {version}")),
        None => println!("no pgcopydb (apt-get install pgcopydb, or set PGCOPYDB): clone is not compared with it"),
    }
    for _ in 0..bench.rounds {
        if let Some((program, _)) = &pgcopydb {
            let target = bench.target(name).await?;
            rounds.add(bench.report, "pgcopydb clone", peers::clone(&bench.clusters, program, source, &target, bytes).await?)?;
        }
        let target = bench.target(name).await?;
        rounds.add(bench.report, "pg_dump + pg_restore", peers::dump(&bench.clusters, source, &target, bytes).await?)?;
        rounds.add(bench.report, HYPERLIFT, bench.migrate(name, bytes, TABLE_JOBS, "").await?.whole)?;
        bench.check(name).await?;
    }
    let row = |what, peer, asked| Row::new(what, "×", 2, rounds.ratio(peer, HYPERLIFT, wall)).map(|r| r.asked(asked));
    let indexed = rounds.values(HYPERLIFT, |m| m.indexed_s);
    rounds.report(
        bench.report,
        [
            row("whole clone, wall: pgcopydb ÷ hyperlift", "pgcopydb clone", "1.7 (goal 2.2)"),
            row("whole clone, wall: pg_dump + pg_restore ÷ hyperlift", "pg_dump + pg_restore", "2 (goal 2.5)"),
            Row::new("hyperlift, from its start to the last index", "s", 1, indexed),
        ],
    );
    Ok(())
}

/// Part `largest`.
pub async fn largest(bench: &mut Bench<'_>) -> Result<()> {
    let name = "largest";
    let source = bench.source(name).await?;
    execute(&source, data::metrics_schema()).await?;
    data::metrics(&source, bench.scale, STEP_SECONDS).await?;
    let bytes = bench.ready(name).await?;
    let mut rounds = Rounds::new("largest");
    for _ in 0..bench.rounds {
        let target = bench.target(name).await?;
        execute(&target, data::metrics_schema()).await?;
        rounds.add(bench.report, PSQL, peers::pipe(&bench.clusters, "metrics", &source, &target, bytes).await?)?;
        rounds.add(bench.report, HYPERLIFT, bench.migrate(name, bytes, TABLE_JOBS, INSERT_ONLY).await?.copy)?;
        bench.check(name).await?;
    }
    let row = |what, values, asked| Row::new(what, "×", 2, values).map(|r: Row| r.asked(asked));
    rounds.report(
        bench.report,
        [
            row("largest table, wall: two psql and a pipe ÷ hyperlift", rounds.ratio(PSQL, HYPERLIFT, wall), "0.95 (goal 1.1)"),
            row("largest table, CPU of the tool: hyperlift ÷ two psql", rounds.ratio(HYPERLIFT, PSQL, |m| m.tool_cpu_s), "at most 0.7 (goal 0.35)"),
        ],
    );
    bench.remove(name).await
}

/// Part `hypertable`.
pub async fn hypertable(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.clusters.timescale {
        println!("no TimescaleDB (make setup): the part hypertable is skipped");
        return Ok(());
    }
    let name = "days";
    let source = bench.source(name).await?;
    execute(&source, data::metrics_schema()).await?;
    // The steps of time are as long as it takes to fill all the days, and not one more.
    data::metrics(&source, bench.scale, DAYS * 86_400 / data::iot_steps(bench.scale)).await?;
    let bytes = bench.ready(name).await?;
    let days = format!("{HYPERTABLE}{INSERT_ONLY}");
    let mut rounds = Rounds::new("hypertable");
    for _ in 0..bench.rounds {
        rounds.add(bench.report, "plain table, 2 jobs", bench.migrate(name, bytes, "2", INSERT_ONLY).await?.copy)?;
        rounds.add(bench.report, "hypertable, 1 job", bench.migrate(name, bytes, "1", &days).await?.copy)?;
        rounds.add(bench.report, "hypertable, 2 jobs", bench.migrate(name, bytes, "2", &days).await?.copy)?;
        bench.check(name).await?;
    }
    let target_cpu = rounds.ratio("hypertable, 2 jobs", "plain table, 2 jobs", |m| m.target_cpu_s);
    let two_jobs = rounds.ratio("hypertable, 2 jobs", "hypertable, 1 job", wall);
    let row = |what: String, values, asked| Row::new(what, "×", 2, values).map(|r: Row| r.asked(asked));
    rounds.report(
        bench.report,
        [
            row(format!("hypertable of {DAYS} chunks ÷ plain table, CPU of the target"), target_cpu, "at most 1.4 (goal 1.3)"),
            row(format!("hypertable of {DAYS} chunks, wall: 2 jobs ÷ 1 job"), two_jobs, "at most 0.8 (goal 0.65)"),
        ],
    );
    bench.remove(name).await
}

/// Part `small`.
pub async fn small(bench: &mut Bench<'_>, tables: u32) -> Result<()> {
    let name = "small";
    let source = bench.source(name).await?;
    let sql = format!(
        "do $$ begin
            for n in 1..{tables} loop
                execute format('create table public.t%s (id int primary key, name text not null, at timestamptz not null default now())', n);
                execute format('insert into public.t%s select i, ''row '' || i from generate_series(1, 10) i', n);
                -- One transaction cannot hold the locks of all these new tables.
                if n % 500 = 0 then commit; end if;
            end loop; end $$"
    );
    execute(&source, &sql).await?;
    let bytes = bench.ready(name).await?;
    let mut rounds = Rounds::new("small");
    for _ in 0..bench.rounds {
        let target = bench.target(name).await?;
        rounds.add(bench.report, "pg_dump + pg_restore", peers::dump(&bench.clusters, &source, &target, bytes).await?)?;
        rounds.add(bench.report, HYPERLIFT, bench.migrate(name, bytes, TABLE_JOBS, "").await?.whole)?;
    }
    let what = format!("{tables} tables of 10 rows, wall: pg_dump + pg_restore ÷ hyperlift");
    let ratio = Row::new(what, "×", 2, rounds.ratio("pg_dump + pg_restore", HYPERLIFT, wall)).map(|r| r.asked("0.8 (goal 1.3)"));
    let indexed = Row::new("hyperlift, from its start to the last index of the small tables", "s", 1, rounds.values(HYPERLIFT, |m| m.indexed_s));
    rounds.report(bench.report, [ratio, indexed]);
    bench.remove(name).await
}
