//! Transactions of the source that could still commit rows after the end of the stream.

use std::time::Duration;
use tokio_postgres::Row;

use crate::{error::Result, format, name::literal, pg::client::Client};

/// A transaction of this database that has written and is still open: its commit is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWriter {
    /// `None` for a prepared transaction, which belongs to no session.
    pub pid: Option<i32>,
    /// Its transaction id.
    pub xid: String,
    /// `app@shop psql`; the global identifier of a prepared transaction.
    pub who: String,
    /// As `pg_stat_activity` has it; empty without the right to see it.
    pub state: String,
    pub seconds: Option<u64>,
}

impl OpenWriter {
    /// Those that are open now and were open before.
    pub fn still_open(before: &[Self], now: Vec<Self>) -> Vec<Self> {
        now.into_iter().filter(|writer| before.iter().any(|b| (b.pid, &b.xid) == (writer.pid, &writer.xid))).collect()
    }

    /// What ends it.
    pub fn remedy(&self) -> String {
        match self.pid {
            Some(pid) => format!("end pid {pid}: commit it, or select pg_terminate_backend({pid})"),
            None => format!("commit prepared {0}, or rollback prepared {0}", literal(&self.who)),
        }
    }
}

impl std::fmt::Display for OpenWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}, {}", self.who)?,
            None => write!(f, "prepared transaction {}", literal(&self.who))?,
        }
        if !self.state.is_empty() {
            write!(f, ", {}", self.state)?;
        }
        match self.seconds {
            Some(seconds) => write!(f, ", open for {}", format::duration(Duration::from_secs(seconds))),
            None => Ok(()),
        }
    }
}

/// The transactions of this database that have written and are still open, the oldest first. Every role sees the transaction ids of all
/// sessions; state and age only of its own, or with the rights of `pg_read_all_stats`. Autovacuum, which has no role, writes no rows.
pub async fn open_writers(client: &Client) -> Result<Vec<OpenWriter>> {
    let sql = "select s.pid, s.backend_xid::text as xid,
                s.usename::text || '@' || s.datname::text || coalesce(' ' || nullif(s.application_name, ''), '') as who,
                coalesce(s.state, '') as state, extract(epoch from clock_timestamp() - s.xact_start)::float8::bigint as seconds
           from pg_stat_activity s
          where s.backend_xid is not null and s.datid = (select oid from pg_database where datname = current_database())
            and s.pid <> pg_backend_pid() and s.usename is not null and s.application_name !~ '^hyperlift/'
          union all
         select null, p.transaction::text, p.gid, '', extract(epoch from clock_timestamp() - p.prepared)::float8::bigint
           from pg_prepared_xacts p where p.database = current_database()
          order by seconds desc nulls last";
    let writer = |r: &Row| OpenWriter {
        pid: r.get("pid"),
        xid: r.get("xid"),
        who: r.get("who"),
        state: r.get("state"),
        seconds: r.get::<_, Option<i64>>("seconds").map(|s| s.max(0) as u64),
    };
    Ok(client.query(sql, &[]).await?.iter().map(writer).collect())
}
