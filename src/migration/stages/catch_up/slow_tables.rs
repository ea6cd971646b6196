//! Tables that replay changes slowly because the target has no index to find their rows by (C-20, B-7): recognised by what is read
//! sequentially there while their changes are applied, and reported once with the statement that fixes it.
//!
//! It needs one more session of the target, and only where there is such a table. Nothing depends on it: without that session, or
//! without statistics, it is silent.

use std::time::{Duration, Instant};
use tokio::sync::watch;

use crate::{
    bus::Reporter,
    error::Result,
    event::{Event, SlowTable},
    format,
    name::{TableName, plain_ident},
    pg::{
        catalog,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        target_table::{self, Equality, TableKind, TargetTable},
    },
    replay::{
        lane::LaneProgress,
        relation::{Relation, RelationCounters, RelationIndex},
    },
};

const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// After a session was refused or lost.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// A query that takes longer is cancelled.
const PATIENCE: Duration = Duration::from_secs(10);
/// A change that reads more rows than this takes a multiple of what an index would.
const ROWS_PER_CHANGE: u64 = 1_000;
/// Fewer rows than this prove nothing.
const ROWS: u64 = 100_000;
/// What was read longer ago says nothing about now.
const LONGEST: Duration = Duration::from_secs(60);
/// A table is no longer slow after this many changes that read little, and after this time: sessions report what they read seconds later.
const FIXED_CHANGES: u64 = 20;
const FIXED_AFTER: Duration = Duration::from_secs(20);

/// How the rows of a table are found, where that may be slow.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    /// By these columns, on which the target has no index.
    Key(Vec<String>),
    /// By the whole row; the columns on which an index would help, the best first.
    WholeRow(Vec<String>),
}

/// A table that may be slow.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Index among the replayed relations.
    relation: RelationIndex,
    table: TableName,
    kind: TableKind,
    found_by: Match,
}

impl Suspect {
    /// A relation of the source and its table on the target. `distinct`: its columns, those with the most values first; `indexed`:
    /// columns with which an index of the target begins.
    fn of(relation: RelationIndex, source: &catalog::SourceRelation, target: &TargetTable, distinct: &[String], indexed: &[String]) -> Option<Self> {
        let key = match source.identity {
            'f' if !target.primary_key.is_empty() => return None,
            'f' => None,
            'i' => Some(source.index(source.identity_index.as_ref()?)?),
            _ => Some(source.primary_key()?),
        };
        let found_by = match key {
            Some(key) if key.columns.iter().any(|c| indexed.contains(c)) => return None,
            Some(key) => Match::Key(key.columns.clone()),
            None => {
                let equality = |c: &String| target.columns.get(c).map(|c| c.equality).filter(|e| *e != Equality::Text);
                let mut columns: Vec<String> = distinct.to_vec();
                // Without statistics: types that compare exactly first, in their order.
                let mut others: Vec<_> = source.columns.iter().map(|c| c.name.clone()).filter(|c| !distinct.contains(c)).collect();
                others.sort_by_key(|c| equality(c) != Some(Equality::Exact));
                columns.extend(others);
                Match::WholeRow(columns.into_iter().filter(|c| equality(c).is_some() && !indexed.contains(c)).collect())
            }
        };
        Some(Self { relation, table: source.table.clone(), kind: target.kind, found_by })
    }

    fn reason(&self, rows_per_change: u64) -> String {
        let rows = format::count(rows_per_change);
        match &self.found_by {
            Match::Key(key) => format!("each UPDATE and DELETE reads about {rows} rows of the target, which has no index on ({})", columns(key)),
            Match::WholeRow(_) => {
                format!(
                    "each UPDATE and DELETE reads about {rows} rows of the target: they are matched by the whole row (REPLICA IDENTITY FULL, no key)"
                )
            }
        }
    }

    /// The statement for the target; or advice, where no index would help.
    fn fix(&self) -> String {
        let key = match &self.found_by {
            Match::Key(key) => columns(key),
            Match::WholeRow(candidates) => match candidates.first() {
                Some(column) => plain_ident(column),
                None => {
                    return format!(
                        "on the source: a primary key for {}, or alter table {} replica identity using index ...;",
                        self.table, self.table
                    );
                }
            },
        };
        // In the form that lets replay write meanwhile, as far as the kind of table allows.
        match self.kind {
            TableKind::Plain => format!("create index concurrently on {} ({key});", self.table),
            TableKind::Partitioned => format!("create index on {} ({key});", self.table),
            TableKind::Hypertable => format!("create index on {} ({key}) with (timescaledb.transaction_per_chunk);", self.table),
        }
    }
}

fn columns(names: &[String]) -> String {
    names.iter().map(|c| plain_ident(c)).collect::<Vec<_>>().join(", ")
}

/// The tables that may be slow.
pub async fn suspects(source: &Client, target: &Client, from: &[catalog::SourceRelation], relations: &[Relation]) -> Result<Vec<Suspect>> {
    let mut found = Vec::new();
    for (index, relation) in relations.iter().enumerate().map(|(i, r)| (RelationIndex(i), r)).filter(|(_, r)| !r.skipped) {
        let Some(of_source) = from.iter().find(|r| r.oid == relation.oid) else { continue };
        // The rows of most tables are found by their own key: no query is needed for those.
        let keyed = of_source.identity != 'f' && of_source.primary_key().is_some_and(|k| k.columns.first() == relation.shape.primary_key.first());
        if keyed && of_source.identity == 'd' {
            continue;
        }
        let indexed = target_table::leading_columns(target, &relation.table).await?;
        let distinct = if of_source.identity == 'f' { catalog::most_distinct(source, &relation.table).await? } else { Vec::new() };
        found.extend(Suspect::of(index, of_source, &relation.shape, &distinct, &indexed));
    }
    Ok(found)
}

/// What was read and changed of a suspect since it was judged last.
struct Window {
    /// Rows read sequentially, of all chunks and leaves; `None` before the first poll.
    read: Option<u64>,
    changes: u64,
    since: Instant,
    slow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Slow {
        rows_per_change: u64,
    },
    Fixed,
    /// Nothing new.
    Open,
}

impl Window {
    fn new(read: Option<u64>, changes: u64, since: Instant) -> Self {
        Self { read, changes, since, slow: false }
    }

    /// Judges by the rows read and the changes applied until now.
    fn judge(&mut self, read: u64, changes: u64, now: Instant) -> Verdict {
        // Fewer than before: the server has restarted, or a chunk was dropped.
        let Some(rows) = self.read.and_then(|before| read.checked_sub(before)) else {
            (self.read, self.changes, self.since) = (Some(read), changes, now);
            return Verdict::Open;
        };
        let done = changes.saturating_sub(self.changes);
        let per_change = rows / done.max(1);
        let slow = done > 0 && rows >= ROWS && per_change >= ROWS_PER_CHANGE;
        let fixed = done >= FIXED_CHANGES && now.saturating_duration_since(self.since) >= FIXED_AFTER && per_change < ROWS_PER_CHANGE / 10;
        if !slow && !fixed {
            if now.saturating_duration_since(self.since) >= LONGEST {
                *self = Self { slow: self.slow, ..Self::new(Some(read), changes, now) };
            }
            return Verdict::Open;
        }
        let news = self.slow != slow;
        *self = Self { read: Some(read), changes, since: now, slow };
        match (news, slow) {
            (false, _) => Verdict::Open,
            (true, true) => Verdict::Slow { rows_per_change: per_change },
            (true, false) => Verdict::Fixed,
        }
    }
}

/// Polls the suspects for as long as replay runs.
pub struct Watch {
    pub suspects: Vec<Suspect>,
    /// Of all replayed relations.
    pub counters: Vec<watch::Receiver<RelationCounters>>,
    pub lanes: Vec<watch::Receiver<LaneProgress>>,
    pub target: Conninfo,
    pub application: String,
    pub reporter: Reporter,
}

impl Watch {
    pub async fn run(self, first: Option<Vec<u64>>) {
        let start = Instant::now();
        let mut windows: Vec<_> =
            (0..self.suspects.len()).map(|i| Window::new(first.as_ref().and_then(|s| s.get(i)).copied(), self.changes(i), start)).collect();
        let mut session: Option<Client> = None;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            // A target may allow few sessions: the lanes come first.
            if self.lanes.iter().any(|l| l.borrow().blocked_by.is_some()) {
                session = None;
                continue;
            }
            if (0..windows.len()).all(|i| self.changes(i) == windows[i].changes) {
                continue;
            }
            match tokio::time::timeout(PATIENCE, self.poll(session.take())).await {
                Ok(Ok((client, scanned))) => {
                    session = Some(client);
                    self.judge(&mut windows, &scanned).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "slow tables are not polled");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(_) => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }

    /// Changes of a suspect that had to find a row.
    fn changes(&self, suspect: usize) -> u64 {
        let c = self.counters[self.suspects[suspect].relation.0].borrow();
        c.updates + c.deletes
    }

    async fn poll(&self, session: Option<Client>) -> Result<(Client, Vec<u64>)> {
        let client = match session {
            Some(client) => client,
            None => client::connect(&self.target, Side::Target, &self.application).await?,
        };
        let scanned = rows_scanned(&client, &self.suspects).await?;
        Ok((client, scanned))
    }

    async fn judge(&self, windows: &mut [Window], scanned: &[u64]) {
        for (i, (suspect, window)) in self.suspects.iter().zip(windows).enumerate() {
            let Some(read) = scanned.get(i) else { continue };
            let table = suspect.table.clone();
            let event = match window.judge(*read, self.changes(i), Instant::now()) {
                Verdict::Slow { rows_per_change } => {
                    Event::SlowedDown(SlowTable { table, reason: suspect.reason(rows_per_change), fix: suspect.fix() })
                }
                Verdict::Fixed => Event::SpedUp { table },
                Verdict::Open => continue,
            };
            self.reporter.report(event).await;
        }
    }
}

/// Rows that were read sequentially of each suspect so far.
pub async fn rows_scanned(client: &Client, suspects: &[Suspect]) -> Result<Vec<u64>> {
    let tables: Vec<_> = suspects.iter().map(|s| (&s.table, s.kind)).collect();
    target_table::rows_scanned(client, &tables).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{
        catalog::{Column, UniqueIndex},
        target_table::TargetColumn,
    };

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn source(identity: char, key: &[&str], columns: &[&str]) -> catalog::SourceRelation {
        let column = |name: &&str| Column { name: name.to_string(), data_type: String::new(), not_null: true, generated: false, identity: false };
        let index = |primary| UniqueIndex {
            name: "k".into(),
            primary,
            columns: strings(key),
            usable: true,
            expression: false,
            referenced: false,
            in_query: false,
            constraint: None,
        };
        catalog::SourceRelation {
            oid: 1,
            table: TableName::new("public", "Odd"),
            storage: catalog::Storage::Heap,
            unlogged: false,
            bytes: 0,
            rows: 0,
            identity,
            identity_index: (identity == 'i').then(|| "k".into()),
            indexes: if key.is_empty() { vec![] } else { vec![index(identity != 'i')] },
            columns: columns.iter().map(column).collect(),
            inherits: false,
            has_rules: false,
            owned: true,
            full_is_possible: true,
            bare_leaf: None,
            repeating_leaf: None,
            updated_rows: 0,
            deleted_rows: 0,
        }
    }

    fn target(primary_key: &[&str], kind: TableKind, columns: &[(&str, Equality)]) -> TargetTable {
        let columns = columns
            .iter()
            .map(|(n, equality)| {
                ((*n).to_owned(), TargetColumn { data_type: String::new(), equality: *equality, base_type: String::new(), operator: None })
            })
            .collect();
        TargetTable { columns, primary_key: strings(primary_key), kind, ..TargetTable::default() }
    }

    fn fix(source: &catalog::SourceRelation, target: &TargetTable, distinct: &[&str], indexed: &[&str]) -> Option<String> {
        Suspect::of(RelationIndex(0), source, target, &strings(distinct), &strings(indexed)).map(|s| s.fix())
    }

    #[test]
    fn b_7_a_key_without_an_index_on_the_target_is_named_with_the_statement() {
        let plain = target(&["a"], TableKind::Plain, &[]);
        assert_eq!(fix(&source('d', &["id", "At"], &[]), &plain, &[], &["At", "other"]), None);
        let index = Some("create index concurrently on public.\"Odd\" (id, \"At\");".to_owned());
        assert_eq!(fix(&source('d', &["id", "At"], &[]), &plain, &[], &["other"]), index);
        assert_eq!(fix(&source('i', &["id", "At"], &[]), &plain, &[], &[]), index);
        // h_12: by the source's key, which lacks the time
        let hyper = target(&[], TableKind::Hypertable, &[]);
        let per_chunk = "create index on public.\"Odd\" (id) with (timescaledb.transaction_per_chunk);".to_owned();
        assert_eq!(fix(&source('d', &["id"], &[]), &hyper, &[], &["ts"]), Some(per_chunk));
        let parts = target(&[], TableKind::Partitioned, &[]);
        assert_eq!(fix(&source('d', &["id"], &[]), &parts, &[], &[]), Some("create index on public.\"Odd\" (id);".into()));
        // Insert-only: no row is ever searched for.
        assert_eq!(fix(&source('d', &[], &["a"]), &plain, &[], &[]), None);
    }

    #[test]
    fn c_20_a_table_matched_by_its_whole_row_needs_an_index_on_its_best_column() {
        use Equality::{Exact, Loose, Text};
        let columns = [("j", Text), ("n", Loose), ("a", Exact), ("b", Exact)];
        let full = source('f', &[], &["j", "n", "a", "b"]);
        let bare = target(&[], TableKind::Plain, &columns);
        let on = |column: &str| Some(format!("create index concurrently on public.\"Odd\" ({column});"));
        assert_eq!(fix(&full, &bare, &["j", "b", "n"], &[]), on("b"));
        assert_eq!(fix(&full, &bare, &["j", "b", "n"], &["b"]), on("n"));
        assert_eq!(fix(&full, &bare, &[], &[]), on("a"));
        let advice = fix(&full, &target(&[], TableKind::Plain, &columns[..1]), &["j"], &[]).unwrap();
        assert!(advice.starts_with("on the source: a primary key for public.\"Odd\""), "{advice}");
        // With a key on the target the key finds it.
        assert_eq!(fix(&full, &target(&["a"], TableKind::Plain, &columns), &[], &[]), None);
    }

    #[test]
    fn slow_is_reported_once_and_taken_back_when_little_is_read() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut w = Window::new(Some(1_000_000), 50, start);
        // Another session scans the table: no change of ours.
        assert_eq!(w.judge(9_000_000, 50, at(5)), Verdict::Open);
        let mut w2 = Window::new(Some(0), 0, start);
        // Sets: a scan for thousands of changes; a few changes of a small table.
        assert_eq!((w2.judge(500_000, 5_000, at(5)), Window::new(Some(0), 0, start).judge(90_000, 20, at(5))), (Verdict::Open, Verdict::Open));
        assert_eq!(w.judge(9_200_000, 60, at(10)), Verdict::Slow { rows_per_change: 820_000 });
        assert_eq!(w.judge(9_400_000, 70, at(15)), Verdict::Open);
        // The index exists; but sessions that have not yet reported what they read are no proof.
        assert_eq!(w.judge(9_400_000, 170, at(20)), Verdict::Open);
        assert_eq!(w.judge(9_400_000, 270, at(36)), Verdict::Fixed);
        assert_eq!(w.judge(9_400_000, 999, at(90)), Verdict::Open);
        assert_eq!(w.judge(19_400_000, 1_000, at(95)), Verdict::Slow { rows_per_change: 10_000_000 });
    }

    #[test]
    fn a_server_that_has_lost_its_statistics_is_judged_again_from_0() {
        let start = Instant::now();
        let mut w = Window::new(Some(5_000_000), 0, start);
        assert_eq!(w.judge(10, 100, start), Verdict::Open);
        assert_eq!(w.judge(400_010, 200, start), Verdict::Slow { rows_per_change: 4_000 });
        // What was fast long ago does not outweigh what is slow now.
        let mut w = Window::new(Some(0), 0, start);
        assert_eq!(w.judge(30_000_000, 100_000, start + LONGEST), Verdict::Open);
        assert_eq!(w.judge(30_200_000, 100_100, start + LONGEST), Verdict::Slow { rows_per_change: 2_000 });
        // No statistics at all.
        let mut w = Window::new(None, 0, start);
        assert_eq!((w.judge(0, 100, start), w.judge(0, 100_000, start + FIXED_AFTER)), (Verdict::Open, Verdict::Open));
    }
}
