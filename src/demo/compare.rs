//! Whether two databases hold the same: every table by count and by a hash that does not depend on the order of rows, every sequence.
//!
//! For tests and the demo, on databases that nobody writes to. It only reads, and shares no code with the migration but the conditions that
//! say what is the application's.

use super::{connect, rows};
use crate::{
    error::{Error, Result},
    name::{TableName, ident},
    pg::own::{NOT_OF_EXTENSION, USER_SCHEMAS},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use tokio_postgres::Client;

/// Something that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    OnlyOnSource(TableName),
    OnlyOnTarget(TableName),
    /// Their columns, by name, in the order of the alphabet.
    Columns {
        table: TableName,
        source: Vec<String>,
        target: Vec<String>,
    },
    Count {
        table: TableName,
        source: u64,
        target: u64,
    },
    /// The same number of rows, but not the same rows.
    Values(TableName),
    /// A sequence that is missing on the target, or would give a value again: the next values of both.
    Sequence {
        name: TableName,
        source: i64,
        target: Option<i64>,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyOnSource(table) => write!(f, "{table}: only on the source"),
            Self::OnlyOnTarget(table) => write!(f, "{table}: only on the target"),
            Self::Columns { table, source, target } => {
                write!(f, "{table}: columns {} on the source, {} on the target", source.join(", "), target.join(", "))
            }
            Self::Count { table, source, target } => write!(f, "{table}: {source} rows on the source, {target} on the target"),
            Self::Values(table) => write!(f, "{table}: rows with other values"),
            Self::Sequence { name, source, target: Some(target) } => {
                write!(f, "{name}: continues with {source} on the source, with {target} on the target")
            }
            Self::Sequence { name, target: None, .. } => write!(f, "{name}: missing on the target"),
        }
    }
}

/// All differences between the user tables (partitioned ones as a whole) and sequences of two databases. With a list of tables, only
/// those are compared, and no sequences.
pub async fn compare(source_uri: &str, target_uri: &str, tables: Option<&[TableName]>) -> Result<Vec<Mismatch>> {
    let (source, target) = (connect(source_uri).await?, connect(target_uri).await?);
    let (mut on_source, mut on_target) = (tables_of(&source).await?, tables_of(&target).await?);
    if let Some(only) = tables {
        on_source.retain(|table, _| only.contains(table));
        on_target.retain(|table, _| only.contains(table));
    }
    let mut differences = Vec::new();
    for (name, table) in &on_source {
        let Some(other) = on_target.remove(name) else {
            differences.push(Mismatch::OnlyOnSource(name.clone()));
            continue;
        };
        if table.columns != other.columns {
            let (source, target) = (table.columns.iter().cloned().collect(), other.columns.into_iter().collect());
            differences.push(Mismatch::Columns { table: name.clone(), source, target });
            continue;
        }
        let (here, there) = (table.fingerprint(&source, name).await?, other.fingerprint(&target, name).await?);
        if here.rows != there.rows {
            differences.push(Mismatch::Count { table: name.clone(), source: here.rows, target: there.rows });
        } else if here != there {
            differences.push(Mismatch::Values(name.clone()));
        }
    }
    differences.extend(on_target.into_keys().map(Mismatch::OnlyOnTarget));
    if tables.is_none() {
        let there = sequences_of(&target).await?;
        for (name, here) in sequences_of(&source).await? {
            let target = there.get(&name).map(|sequence| sequence.next);
            let would_repeat = target.is_none_or(|next| if here.ascending { next < here.next } else { next > here.next });
            if would_repeat {
                differences.push(Mismatch::Sequence { name, source: here.next, target });
            }
        }
    }
    Ok(differences)
}

/// What has to be known of a table to read it.
struct ComparedTable {
    columns: BTreeSet<String>,
    /// It has children by inheritance that are tables of their own.
    is_parent: bool,
}

/// Count and hash of all rows of a table.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    rows: u64,
    /// The sum of the rows' hashes, a number beyond 64 bits.
    hash: String,
}

/// `set local` because all sessions of PGlite share their settings.
async fn read(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let settings = "begin read only; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres'; set local timezone = 'UTC';
        set local extra_float_digits = 3; set local bytea_output = 'hex'; set local lc_monetary = 'C'; set local search_path = pg_catalog;
        set local statement_timeout = 0; set local row_security = off";
    rows(client, &format!("{settings}; {sql}; commit")).await
}

async fn tables_of(client: &Client) -> Result<BTreeMap<TableName, ComparedTable>> {
    let sql = format!(
        "select n.nspname, c.relname, a.attname,
            c.relkind = 'r' and exists (
                select from pg_inherits i
                join pg_class child on child.oid = i.inhrelid
                join pg_namespace n on n.oid = child.relnamespace
                where i.inhparent = c.oid and {USER_SCHEMAS}
            ) as is_parent
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind in ('r', 'p') and not c.relispartition and {USER_SCHEMAS} and {NOT_OF_EXTENSION}"
    );
    let mut tables = BTreeMap::new();
    for row in read(client, &sql).await? {
        let [Some(schema), Some(name), column, is_parent] = &row[..] else { return Err(unexpected()) };
        let new = || ComparedTable { columns: BTreeSet::new(), is_parent: is_parent.as_deref() == Some("t") };
        tables.entry(TableName::new(schema.as_str(), name.as_str())).or_insert_with(new).columns.extend(column.clone());
    }
    Ok(tables)
}

impl ComparedTable {
    async fn fingerprint(&self, client: &Client, name: &TableName) -> Result<Fingerprint> {
        let columns: Vec<_> = self.columns.iter().map(|column| format!("t.{}", ident(column))).collect();
        // ONLY finds nothing in a hypertable
        let only = if self.is_parent { "only " } else { "" };
        let sql = format!("select count(*), coalesce(sum(hashtextextended(row({})::text, 0)), 0) from {only}{} t", columns.join(", "), name.sql());
        match &read(client, &sql).await.map_err(|e| e.context(name))?.concat()[..] {
            [Some(rows), Some(hash)] => Ok(Fingerprint { rows: rows.parse().map_err(|_| unexpected())?, hash: hash.clone() }),
            _ => Err(unexpected()),
        }
    }
}

/// With which value a sequence continues.
struct ComparedSequence {
    next: i64,
    ascending: bool,
}

async fn sequences_of(client: &Client) -> Result<BTreeMap<TableName, ComparedSequence>> {
    let list = format!(
        "select n.nspname, c.relname, s.seqincrement
        from pg_sequence s
        join pg_class c on c.oid = s.seqrelid
        join pg_namespace n on n.oid = c.relnamespace
        where {USER_SCHEMAS} and {NOT_OF_EXTENSION}"
    );
    let mut sequences = BTreeMap::new();
    for row in read(client, &list).await? {
        let [Some(schema), Some(name), Some(increment)] = &row[..] else { return Err(unexpected()) };
        let name = TableName::new(schema.as_str(), name.as_str());
        let increment: i64 = increment.parse().map_err(|_| unexpected())?;
        let sql = format!("select last_value::numeric + case when is_called then {increment} else 0 end from {}", name.sql());
        let next = read(client, &sql).await?.concat().into_iter().flatten().next().and_then(|next| next.parse().ok()).ok_or_else(unexpected)?;
        sequences.insert(name, ComparedSequence { next, ascending: increment > 0 });
    }
    Ok(sequences)
}

fn unexpected() -> Error {
    Error::failed("the catalog query returned an unexpected result")
}
