//! Moves the rows of one part from the source to the target, and records them in the ledger.

use std::{borrow::Cow, time::Duration};

use super::{parts::Part, spec::CopySpec, throttle::Throttle};
use crate::{
    error::{Error, Kind, Result},
    event::CopyFormat,
    name::{TableName, idents, literal},
    pg::{
        ledger, local_rows,
        target_table::TableKind,
        wire::{Copied, Failed, Pipe, Request, Wire},
    },
    sqlstate,
};

pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// From which table to which a part goes, and how.
pub struct PartRoute<'a> {
    pub part: &'a Part,
    pub spec: &'a CopySpec,
    /// The target's table: the relation, or its leaf.
    pub into: &'a TableName,
    /// The target's transaction begins with it, see [`ledger::LedgerMigration::path`].
    pub path: &'a str,
}

impl PartRoute<'_> {
    fn copy_out(&self) -> String {
        let (list, from) = (idents(&self.spec.columns), self.part.table.sql());
        let rows = match &self.part.condition {
            Some(condition) => format!("(select {list} from only {from} where {condition})"),
            None => format!("{from} ({list})"),
        };
        format!("copy {rows} to stdout{}", self.options())
    }

    fn copy_in(&self) -> String {
        format!("copy {} ({}) from stdin{}", self.into.sql(), idents(&self.spec.columns), self.options())
    }

    fn options(&self) -> &'static str {
        match self.spec.format {
            CopyFormat::Binary => " (format binary)",
            CopyFormat::Text => "",
        }
    }
}

/// Why a part was not copied.
pub struct TransferError {
    pub error: Error,
    /// The source is still sending rows: they must be read before the next statement.
    pub source_sends: bool,
}

impl From<Error> for TransferError {
    /// An error after which the source can take another statement, if its connection is alive.
    fn from(error: Error) -> Self {
        Self { error, source_sends: false }
    }
}

/// Copies the rows into a transaction of the target that stays open. `on_moved` gets the rows and bytes so far; its error ends the copy.
pub async fn rows(
    throttle: &Throttle,
    route: &PartRoute<'_>,
    source: &mut Wire,
    target: &mut Wire,
    on_moved: &mut (dyn FnMut(u64, u64) -> Result<()> + Send),
) -> Result<Copied, TransferError> {
    if route.spec.columns.is_empty() {
        return Ok(no_columns(route, source, target).await?);
    }
    let (out, into) = (route.copy_out(), route.copy_in());
    let begin = format!("begin; {}", route.path);
    let (sends, takes) = tokio::join!(source.copy_out(&out), target.copy_in_after(&begin, &into));
    sends.map_err(|e| e.context("source"))?;
    takes.map_err(|e| TransferError { error: e.context("target"), source_sends: true })?;
    let mut pipe = Pipe::default();
    let mut passed = 0;
    let copied = loop {
        match pipe.step(source, target).await {
            Ok(Some(copied)) => break copied,
            Ok(None) => {}
            Err(error) => return Err(TransferError { error, source_sends: !pipe.source_ended }),
        }
        let held = async {
            on_moved(pipe.frames, pipe.bytes)?;
            throttle.moved(pipe.bytes - std::mem::replace(&mut passed, pipe.bytes)).await
        };
        held.await.map_err(|error| TransferError { error, source_sends: true })?;
    };
    if copied.rows_in != copied.rows_out {
        let error = Error::new(Kind::Differs, format!("{} rows were read but {} were written", copied.rows_out, copied.rows_in))
            .hint("does a trigger or a rule of the target drop rows? Drop it on the target, then retry");
        return Err(error.into());
    }
    Ok(copied)
}

/// A table without columns gets as many rows as the source has: COPY cannot have an empty list of columns.
async fn no_columns(route: &PartRoute<'_>, source: &mut Wire, target: &mut Wire) -> Result<Copied> {
    let condition = route.part.condition.as_ref().map_or_else(String::new, |c| format!(" where {c}"));
    let count = format!("select count(*) from only {}{condition}", route.part.table.sql());
    let rows = source.simple(&count).await.map_err(|e| e.context("source"))?;
    let count: u64 = rows.first().and_then(|r| r[0].as_deref()).and_then(|n| n.parse().ok()).unwrap_or(0);
    let insert = format!("begin; insert into {} select from generate_series(1, {count}::bigint)", route.into.sql());
    let rows_in = target.execute(&insert).await.map_err(|e| e.context("target"))?;
    Ok(Copied { bytes: 0, rows_out: count, rows_in })
}

fn parameters(values: &[String]) -> Vec<Option<Cow<'_, [u8]>>> {
    values.iter().map(|v| Some(Cow::Borrowed(v.as_bytes()))).collect()
}

/// Records the relation as copied in the transaction that copied it whole, and commits.
pub async fn commit_whole(target: &mut Wire, oid: u32, spec: &CopySpec, copied: Copied) -> Result<()> {
    let values = [
        oid.to_string(),
        spec.attempt.to_string(),
        spec.snapshot.to_string(),
        spec.at.to_string(),
        copied.rows_in.to_string(),
        copied.bytes.to_string(),
    ];
    commit(target, ledger::RECORD_WHOLE, &values).await.map_err(|e| {
        // Another session has recorded it first: one of an earlier attempt, or our own whose answer was lost. The next attempt copies it again.
        if e.has_code(sqlstate::UNIQUE_VIOLATION) || e.has_code(sqlstate::NOT_NULL_VIOLATION) {
            Error::connection(format!("another session has copied it: {e}"))
        } else {
            e
        }
    })
}

/// Records a part in the transaction that copied it, and commits.
pub async fn commit_part(target: &mut Wire, oid: u32, spec: &CopySpec, part: &Part, copied: Copied) -> Result<()> {
    let values = [
        oid.to_string(),
        spec.attempt.to_string(),
        part.number.to_string(),
        spec.parts.to_string(),
        copied.rows_in.to_string(),
        copied.bytes.to_string(),
    ];
    commit(target, ledger::RECORD_PART, &values).await
}

async fn commit(target: &mut Wire, statement: &str, values: &[String]) -> Result<()> {
    let requests = vec![Request::Execute(statement.into(), parameters(values)), Request::Query("commit".into())];
    target.run(requests).await.map_err(|Failed { error, .. }| error.context("target"))?;
    Ok(())
}

/// The rows and bytes that the ledger has of a part in this attempt. The part may be committed although the answer was lost.
pub async fn recorded(target: &mut Wire, oid: u32, spec: &CopySpec, part: &Part) -> Result<Option<Copied>> {
    let rows = target.simple(&ledger::recorded_part(oid, spec.attempt, part.number)).await.map_err(|e| e.context("target"))?;
    let number = |value: &Option<String>| value.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    Ok(rows.first().map(|r| Copied { rows_in: number(&r[0]), rows_out: number(&r[0]), bytes: number(&r[1]) }))
}

/// Records a relation as copied if all its parts are recorded; returns whether they are. A target that crashes may lose parts that it
/// had not flushed yet.
pub async fn record_parts(target: &mut Wire, oid: u32, spec: &CopySpec) -> Result<bool> {
    let values = [oid.to_string(), spec.attempt.to_string(), spec.snapshot.to_string(), spec.at.to_string(), spec.parts.to_string()];
    let answers = target
        .run(vec![Request::Execute(ledger::RECORD_PARTS.into(), parameters(&values))])
        .await
        .map_err(|Failed { error, .. }| error.context("target"))?;
    Ok(answers.first().is_some_and(|a| a.count == 1))
}

/// Empties the table and begins a new attempt; returns its number.
pub async fn begin_attempt(target: &mut Wire, oid: u32, table: &TableName, kind: TableKind) -> Result<i32> {
    let sql = format!("begin; {}; {}", local_rows::truncate(table, kind), ledger::begin_attempt(oid));
    let rows = target.simple(&sql).await.map_err(|e| e.context("target"))?;
    let attempt = rows.last().and_then(|r| r.last()).and_then(|v| v.as_deref()).and_then(|v| v.parse().ok());
    let attempt = attempt.ok_or_else(|| Error::failed(format!("the ledger on the target does not know {table}")))?;
    target.simple("commit").await.map_err(|e| e.context("target"))?;
    Ok(attempt)
}

/// Whether the target has a table of this name among the partitions of the relation.
pub async fn has_leaf(target: &mut Wire, relation: &TableName, leaf: &TableName) -> Result<bool> {
    let sql = format!(
        "select exists (select from pg_class where oid = to_regclass({}) and relkind = 'r' and relispartition
                           and pg_partition_root(oid) = to_regclass({}))::text",
        literal(&leaf.sql()),
        literal(&relation.sql())
    );
    let rows = target.simple(&sql).await.map_err(|e| e.context("target"))?;
    Ok(rows.first().and_then(|r| r[0].as_deref()) == Some("true"))
}
