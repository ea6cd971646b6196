//! The data, and the loads that make a backlog of changes: the same on every run.

use clap::ValueEnum;
use hyperlift::{
    demo::{connect, execute, query_text},
    error::{Error, Result},
    lsn::Lsn,
};
use serde::Serialize;
use std::fmt;

use crate::{
    cluster::{self, Clusters, create_from, drop_database, run, value},
    data::{self, STEP_SECONDS, Scale},
};

/// Publication, in each database, of all its tables.
pub const PUBLICATION: &str = "bench";
/// One row, `n`: it is changed last, so whoever has it has everything.
const MARKER: &str = "create table public.bench_marker (id int primary key, n bigint not null); insert into public.bench_marker values (1, 0)";
/// Target database of the IoT data with its metrics in a hypertable.
pub const HYPERTABLE: &str = "iot_hypertable_data";

/// Names of loads in reports and of databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// pgbench's TPC-B, 8 clients: 3 updates and an insert each.
    Tpcb,
    /// 100 metrics, an update of a device and of an order, an event removed and one added each; 4 clients.
    Iot,
    /// One transaction that inserts metrics, updates half of them and deletes a quarter.
    Bigtx,
    /// As many transactions as rows.
    Many,
    /// One transaction of many rows.
    Huge,
}

/// What a load works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Tpcb,
    Iot,
    Rows,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tpcb => "TPC-B",
            Self::Iot => "IoT",
            Self::Bigtx => "bigtx",
            Self::Many => "many transactions",
            Self::Huge => "one huge transaction",
        })
    }
}

impl Data {
    /// The database of this name, on source and target, holds it untouched; others are copied from it.
    pub const fn database(self) -> &'static str {
        match self {
            Self::Tpcb => "tpcb_data",
            Self::Iot => "iot_data",
            Self::Rows => "rows_data",
        }
    }

    /// Makes it on both sides.
    pub async fn prepare(self, clusters: &Clusters, scale: Scale) -> Result<()> {
        let database = self.database();
        let uri = clusters.source.create_database(database).await?;
        match self {
            Self::Tpcb => {
                let size = scale.of(50).to_string();
                run(clusters.program("pgbench").args(["-i", "-q", "-s", &size, &uri])).await?;
            }
            Self::Iot => {
                data::iot(&uri, scale, STEP_SECONDS).await?;
                execute(&uri, "create sequence iot_batch").await?;
                execute(&uri, data::IOT_INDEXES).await?;
            }
            Self::Rows => execute(&uri, "create table public.rows (id bigint primary key, value text not null)").await?,
        }
        execute(&uri, MARKER).await?;
        execute(&uri, "vacuum (analyze)").await?;
        clusters.copy_to_target(database).await
    }

    /// Removes what [`prepare`](Self::prepare) has made.
    pub async fn remove(self, clusters: &Clusters) -> Result<()> {
        if self == Self::Iot {
            drop_database(&clusters.target, HYPERTABLE).await?;
        }
        drop_database(&clusters.target, self.database()).await?;
        drop_database(&clusters.source, self.database()).await
    }

    async fn fingerprint_of(self, uri: &str) -> Result<Fingerprint> {
        let mut rows = query_text(uri, self.fingerprint()).await?;
        rows.sort();
        Ok(rows)
    }

    /// One row a table: its name, how many rows it has and the sum of their hashes. Of metrics, only those that a load can have touched.
    const fn fingerprint(self) -> &'static str {
        match self {
            Self::Tpcb => {
                "select 'accounts', count(*), sum(hashtextextended(t::text, 0)) from pgbench_accounts t
                 union all select 'tellers', count(*), sum(hashtextextended(t::text, 0)) from pgbench_tellers t
                 union all select 'branches', count(*), sum(hashtextextended(t::text, 0)) from pgbench_branches t
                 union all select 'history', count(*), sum(hashtextextended(t::text, 0)) from pgbench_history t"
            }
            Self::Iot => {
                "select 'metrics', count(*), sum(hashtextextended(t::text, 0)) from metrics t where time >= '2025-06-01'
                 union all select 'devices', count(*), sum(hashtextextended(t::text, 0)) from devices t
                 union all select 'events', count(*), sum(hashtextextended(t::text, 0)) from events t
                 union all select 'orders', count(*), sum(hashtextextended(t::text, 0)) from orders t"
            }
            Self::Rows => "select 'rows', count(*), sum(hashtextextended(t::text, 0)) from rows t",
        }
    }
}

/// On the target, the IoT data a second time, with its metrics in a hypertable of 1-day chunks.
pub async fn prepare_hypertable(clusters: &Clusters) -> Result<()> {
    create_from(&clusters.target, HYPERTABLE, Data::Iot.database()).await?;
    let uri = clusters.target.uri(HYPERTABLE);
    for sql in [
        "create extension timescaledb",
        "alter table metrics drop constraint metrics_pkey; drop index metrics_time_idx",
        "select create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day', create_default_indexes => false, migrate_data => true)",
        "alter table metrics add primary key (device_id, time)",
        "create index metrics_time_idx on metrics (time desc)",
        "vacuum (analyze)",
    ] {
        execute(&uri, sql).await?;
    }
    Ok(())
}

/// What a load has left in the WAL of the source, for every consumer to read from a slot of its own.
pub struct Backlog {
    pub load: Load,
    /// Of the source.
    pub database: &'static str,
    /// A slot from before the load; it is copied, never read.
    slot: String,
    /// Where the slot became consistent.
    pub start: Lsn,
    /// After the load's last commit; the marker's commit follows.
    pub end: Lsn,
    /// From the first record of the load to the last.
    pub wal_bytes: u64,
    /// Row changes, as the source's statistics count them.
    pub changes: u64,
    fingerprint: Fingerprint,
}

/// Rows as text, see [`Data::fingerprint`].
type Fingerprint = Vec<Vec<Option<String>>>;

impl Load {
    pub const fn data(self) -> Data {
        match self {
            Self::Tpcb => Data::Tpcb,
            Self::Iot | Self::Bigtx => Data::Iot,
            Self::Many | Self::Huge => Data::Rows,
        }
    }

    const fn database(self) -> &'static str {
        match self {
            Self::Tpcb => "tpcb",
            Self::Iot => "iot",
            Self::Bigtx => "bigtx",
            Self::Many => "many",
            Self::Huge => "huge",
        }
    }

    /// Runs the load in a fresh copy of its data.
    pub async fn run(self, clusters: &Clusters, scale: Scale) -> Result<Backlog> {
        let (source, database) = (&clusters.source, self.database());
        let (slot, start) = open(clusters, database, self.data()).await?;
        let lsn = "select pg_current_wal_insert_lsn()";
        let from: Lsn = value(source, database, lsn).await?.parse()?;
        self.write(clusters, scale).await?;
        let end: Lsn = value(source, database, lsn).await?.parse()?;
        raise_marker(clusters, database).await?;
        let changes = counted_changes(clusters, database).await?;
        let fingerprint = self.data().fingerprint_of(&source.uri(database)).await?;
        Ok(Backlog { load: self, database, slot, start, end, wal_bytes: end.since(from), changes, fingerprint })
    }

    async fn write(self, clusters: &Clusters, scale: Scale) -> Result<()> {
        let uri = clusters.source.uri(self.database());
        match self {
            Self::Tpcb => {
                let transactions = (scale.of(100_000) / 8).max(1).to_string();
                let arguments = ["-n", "-M", "prepared", "-c", "8", "-j", "2", "-t", &transactions, "--random-seed=7"];
                run(clusters.program("pgbench").args(arguments).arg(uri)).await.map(drop)
            }
            Self::Iot => {
                let script = clusters.scratch("iot.pgbench");
                std::fs::write(&script, include_str!("sql/iot.pgbench"))?;
                let transactions = (scale.of(5_000) / 4).max(1).to_string();
                let mut pgbench = clusters.program("pgbench");
                pgbench.args(["-n", "-c", "4", "-j", "2", "-t", &transactions, "--random-seed=7", "-f"]).arg(script);
                for (name, full) in [("orders", 150_000), ("events", 1_000_000)] {
                    pgbench.args(["-D", &format!("{name}={}", scale.of(full))]);
                }
                run(pgbench.arg(uri)).await.map(drop)
            }
            Self::Bigtx => {
                let rows = scale.of(300_000).to_string();
                execute(&uri, &include_str!("sql/bigtx.sql").replace(":rows", &rows)).await
            }
            Self::Many => {
                let session = connect(&uri).await?;
                session.batch_execute("set synchronous_commit = off").await?;
                let rows = scale.of(1_000_000);
                let sql = format!("do $$ begin for i in 1..{rows} loop insert into public.rows values (i, md5(i::text)); commit; end loop; end $$");
                Ok(session.batch_execute(&sql).await?)
            }
            Self::Huge => {
                let rows = scale.of(5_000_000);
                execute(&uri, &format!("insert into public.rows select i, md5(i::text) from generate_series(1, {rows}) i")).await
            }
        }
    }
}

/// Makes a database of the source from its data, with publication and slot; the slot and where it became consistent.
pub async fn open(clusters: &Clusters, database: &str, data: Data) -> Result<(String, Lsn)> {
    let source = &clusters.source;
    create_from(source, database, data.database()).await?;
    source.execute(database, &format!("create publication {PUBLICATION} for all tables")).await?;
    clusters.settle().await?;
    let slot = format!("{database}_start");
    let start = value(source, database, &format!("select lsn from pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await?;
    Ok((slot, start.parse()?))
}

/// Changes the marker, durably, and gives its new value.
pub async fn raise_marker(clusters: &Clusters, database: &str) -> Result<i64> {
    let sql = "set synchronous_commit = on; update public.bench_marker set n = n + 1 returning n";
    value(&clusters.source, database, sql).await?.parse().map_err(|_| Error::failed("the marker is no number"))
}

/// All tables but the marker, once the sessions that made the changes have reported them to the statistics.
async fn counted_changes(clusters: &Clusters, database: &str) -> Result<u64> {
    let sql = "select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables where relname <> 'bench_marker'";
    let mut last = 0;
    cluster::until("the source's statistics", async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = value(&clusters.source, database, sql).await?.parse().unwrap_or(0);
        Ok(now > 0 && std::mem::replace(&mut last, now) == now)
    })
    .await?;
    Ok(last)
}

impl Backlog {
    /// A slot of its own for one consumer, at the position before the load.
    pub async fn slot_for(&self, clusters: &Clusters, consumer: &str) -> Result<String> {
        let slot = format!("{}_{consumer}", self.database);
        let sql = format!("select pg_copy_logical_replication_slot('{}', '{slot}')", self.slot);
        clusters.source.execute(self.database, &sql).await?;
        Ok(slot)
    }

    /// A database of the target as it was before the load.
    pub async fn target_for(&self, clusters: &Clusters, consumer: &str, template: &str) -> Result<String> {
        let database = format!("{}_{consumer}", self.database);
        create_from(&clusters.target, &database, template).await?;
        clusters.settle().await?;
        Ok(database)
    }

    /// Compares both sides, because a fast wrong result is no result, and removes the target.
    pub async fn check(&self, clusters: &Clusters, consumer: &str, target: &str) -> Result<()> {
        check(clusters, self.load.data(), &self.fingerprint, target).await.map_err(|e| e.context(format!("{} by {consumer}", self.load)))?;
        drop_database(&clusters.target, target).await
    }

    /// Removes what it has on the source.
    pub async fn close(self, clusters: &Clusters) -> Result<()> {
        clusters.drop_slot(&self.slot).await?;
        drop_database(&clusters.source, self.database).await
    }
}

/// Compares databases at rest.
pub async fn compare(clusters: &Clusters, data: Data, source: &str, target: &str) -> Result<()> {
    let expected = data.fingerprint_of(&clusters.source.uri(source)).await?;
    check(clusters, data, &expected, target).await
}

async fn check(clusters: &Clusters, data: Data, expected: &Fingerprint, target: &str) -> Result<()> {
    let found = data.fingerprint_of(&clusters.target.uri(target)).await?;
    let text = |row: &[Option<String>]| row.iter().map(|v| v.as_deref().unwrap_or("null")).collect::<Vec<_>>().join("/");
    let differing: Vec<String> = expected
        .iter()
        .zip(&found)
        .filter(|(here, there)| here != there)
        .map(|(here, there)| format!("{} on the source, {} on the target", text(here), text(there)))
        .collect();
    if expected.len() == found.len() && differing.is_empty() {
        Ok(())
    } else {
        Err(Error::failed("source and target differ").detail(differing.join("; ")))
    }
}
