//! The progress of this migration's builds, from `pg_stat_progress_create_index` (PostgreSQL documentation 28.4.4), all in one query.

use std::time::Duration;

use crate::pg::{
    client::{self, Client},
    connect::{conninfo::Conninfo, session::Side},
};

/// A query that takes longer is cancelled.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// One build. Its index has no OID in that view before it is finished, so it is identified by its session.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildProgress {
    /// Number of the worker.
    pub worker: u32,
    pub phase: String,
    /// 0 to 1.
    pub fraction: f64,
}

/// Polls the progress on a connection of its own, made when it is first needed. Best effort: a failure here must not stop a build, which
/// then shows no progress.
pub struct BuildMonitor {
    pub target: Conninfo,
    /// `hyperlift/<id>/index-`; the number of the worker follows in the names of the sessions.
    pub prefix: String,
    pub client: Option<Client>,
}

/// TimescaleDB builds chunk by chunk and does not report to the view. For it, the chunks that the session has locked are counted.
const SQL: &str = "
    select a.application_name as name, coalesce(p.phase, 'building chunks') as phase,
           coalesce(p.blocks_done, c.locked)::float8 / nullif(coalesce(p.blocks_total, c.chunks), 0) as blocks,
           p.tuples_done::float8 / nullif(p.tuples_total, 0) as tuples
      from pg_stat_activity a
      left join pg_stat_progress_create_index p on p.pid = a.pid
      left join lateral (
           select count(distinct i.inhrelid) as locked, max(t.chunks) as chunks
             from pg_locks l join pg_inherits i on i.inhrelid = l.relation
             cross join lateral (select count(*) as chunks from pg_inherits s where s.inhparent = i.inhparent) t
            where l.pid = a.pid and l.granted and l.mode in ('ShareLock', 'AccessExclusiveLock')) c on p.pid is null
     where a.datname = current_database() and a.state = 'active' and starts_with(a.application_name, $1)";

impl BuildMonitor {
    /// Polls once.
    pub async fn poll(mut self) -> (Self, Vec<BuildProgress>) {
        let seen = tokio::time::timeout(QUERY_TIMEOUT, async {
            if self.client.as_ref().is_none_or(|c| c.is_closed()) {
                let name = format!("{}watch", self.prefix);
                self.client = Some(client::connect(&self.target, Side::Target, &name).await.ok()?);
            }
            let rows = self.client.as_ref()?.query(SQL, &[&self.prefix]).await.ok()?;
            Some(rows.iter().filter_map(|r| self.seen(r)).collect())
        });
        match seen.await.ok().flatten() {
            Some(seen) => (self, seen),
            None => (Self { client: None, ..self }, Vec::new()),
        }
    }

    fn seen(&self, row: &tokio_postgres::Row) -> Option<BuildProgress> {
        let worker = row.get::<_, &str>("name").strip_prefix(&self.prefix)?.parse().ok()?;
        let phase: String = row.get("phase");
        let fraction = fraction(&phase, row.get("blocks"), row.get("tuples"))?;
        Some(BuildProgress { worker, phase, fraction })
    }
}

/// The fraction of a whole build that is done. To read the table and sort what fits takes about two thirds of the time of a B-tree, and
/// nearly all the time of other kinds, which write their index while they read.
fn fraction(phase: &str, blocks: Option<f64>, tuples: Option<f64>) -> Option<f64> {
    let (from, to, part) = match phase {
        "building chunks" => (0.0, 1.0, blocks?),
        "building index: scanning table" => (0.0, 0.65, blocks.unwrap_or(0.0)),
        "building index: sorting live tuples" => (0.65, 0.7, 0.0),
        "building index: loading tuples in tree" => (0.7, 1.0, tuples.unwrap_or(0.0)),
        other if other.starts_with("building index") => (0.0, 0.95, blocks.unwrap_or(0.0)),
        _ => (0.0, 0.0, 0.0),
    };
    Some(from + (to - from) * part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn phases_follow_each_other() {
        let at = |phase: &str, blocks, tuples| fraction(&format!("building index{phase}"), blocks, tuples).unwrap();
        let in_order = [
            at(": scanning table", Some(0.1), None),
            at(": scanning table", Some(1.0), None),
            at(": sorting live tuples", Some(1.0), Some(0.0)),
            at(": loading tuples in tree", Some(1.0), Some(0.5)),
            at(": loading tuples in tree", Some(1.0), Some(1.0)),
        ];
        assert!(in_order.is_sorted(), "{in_order:?}");
        assert!((at("", Some(0.5), None) - 0.475).abs() < 1e-9, "of other kinds than B-tree");
    }
}
